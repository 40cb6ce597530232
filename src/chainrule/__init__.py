"""chainrule: dense neural networks with nothing hidden."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from .core.cost import Cost as Cost
from .core.cost import Penalty as Penalty
from .core.layers import Dense as Dense
from .core.layers import Dropout as Dropout
from .core.layers import Scale as Scale
from .errors import ChainRuleError as ChainRuleError
from .errors import DataError as DataError
from .errors import DivergenceError as DivergenceError
from .errors import MissingExtraError as MissingExtraError
from .errors import ModelFileError as ModelFileError
from .errors import NotTrainedError as NotTrainedError
from .errors import OutputError as OutputError
from .errors import ParameterError as ParameterError
from .errors import ShapeError as ShapeError
from .errors import require as _require
from .files import load_snapshot as load_snapshot
from .files import save_snapshot as save_snapshot
from .formulas import activations as activations
from .formulas import aggregators as aggregators
from .formulas import initializers as initializers
from .formulas import losses as losses
from .formulas.activations import Activation as Activation
from .formulas.activations import activation as activation
from .formulas.aggregators import Aggregator as Aggregator
from .formulas.aggregators import aggregator as aggregator
from .formulas.initializers import Initializer as Initializer
from .formulas.initializers import initializer as initializer
from .formulas.losses import Loss as Loss
from .formulas.losses import loss as loss
from .network import Gradients as Gradients
from .network import Network as Network
from .network import Run as Run
from .training.loop import Plan as Plan
from .training.loop import Snapshot as Snapshot
from .training.optimizers import SGD as SGD
from .training.optimizers import Adam as Adam
from .training.optimizers import AdamW as AdamW
from .training.schedules import Schedule as Schedule
from .training.schedules import schedule as schedule

__version__ = "0.1.0"

_LATER = {  # what is large, or needs scikit-learn, is loaded when it is first asked for
    **dict.fromkeys(("Check", "Report", "verify_pair"), ".inspection.verify"),
    **dict.fromkeys(("MLPClassifier", "MLPRegressor", "TabularClassifier", "TabularRegressor"), ".estimators"),
}

if _TYPE_CHECKING:
    from .estimators import MLPClassifier as MLPClassifier
    from .estimators import MLPRegressor as MLPRegressor
    from .estimators import TabularClassifier as TabularClassifier
    from .estimators import TabularRegressor as TabularRegressor
    from .inspection.verify import Check as Check
    from .inspection.verify import Report as Report
    from .inspection.verify import verify_pair as verify_pair


def __getattr__(name: str) -> _Any:
    """What is loaded when it is first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module 'chainrule' has no attribute {name!r}")
    if _LATER[name] == ".estimators":
        for package in ("sklearn", "pyarrow")[: 2 if name.startswith("Tabular") else 1]:
            _require(package, "table", name)
    return getattr(_import_module(_LATER[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
