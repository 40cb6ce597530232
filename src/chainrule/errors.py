"""Every error that chainrule raises on purpose, and how its sentence is built.

    ChainRuleError
    ├── ParameterError     (ValueError)       a setting or a name that cannot be used
    ├── ShapeError         (ValueError)       arrays whose sizes do not fit
    ├── DataError          (ValueError)       the content of arrays, columns or files
    ├── ModelFileError     (ValueError)       a file that is no model of this library
    ├── OutputError        (OSError)          something could not be written
    ├── DivergenceError    (ArithmeticError and ValueError, as in scikit-learn)  training produced a number that is not finite
    ├── NotTrainedError    (RuntimeError)     a question that only a trained model can answer
    └── MissingExtraError  (ImportError)      an optional dependency is not installed

Each class is also the built-in that a caller would catch. Messages follow one pattern:
"Where: expected X, got Y. Fix."
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any


class ChainRuleError(Exception):
    """Base of every error that chainrule raises on purpose."""


class ParameterError(ChainRuleError, ValueError):
    """A setting or a name that cannot be used."""


class ShapeError(ChainRuleError, ValueError):
    """Arrays whose sizes do not fit each other or the network."""


class DataError(ChainRuleError, ValueError):
    """The content of arrays, columns or files cannot be used."""


class ModelFileError(ChainRuleError, ValueError):
    """A file that is not a model written by this library, or is damaged."""


class OutputError(ChainRuleError, OSError):
    """Something could not be written; what was there before is untouched."""


class DivergenceError(ChainRuleError, ArithmeticError, ValueError):
    """Training produced a number that is not finite.

    `run` holds everything up to the last finite step (a `chainrule.Run`), where there is one.
    """

    run: Any = None


class NotTrainedError(ChainRuleError, RuntimeError):
    """A question that only a trained model can answer."""


class MissingExtraError(ChainRuleError, ImportError):
    """An optional dependency is not installed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The part of a message that helps with an unknown name: the nearest one, then all."""
    names = list(known)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    nearest = [n for n in names if near and n.lower() == near[0]]
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    shown = ", ".join(names[:25]) + (f" and {len(names) - 25} more" if len(names) > 25 else "")
    return f"{hint} Known: {shown}."


def unknown_name(where: str, name: object, known: Iterable[str]) -> ParameterError:
    """The error for a name that is in no catalogue."""
    return ParameterError(f"{where}: unknown name {name!r}.{did_you_mean(str(name), known)}")


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(
            f'{purpose}: needs {package}, which is not installed. Install it with: pip install "chainrule[{extra}]".'
        ) from error
