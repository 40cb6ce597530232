"""Settings of `chainrule train` as a TOML file: the flags by their names, in and out."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from ..errors import DataError, ModelFileError, ParameterError, unknown_name
from ..plain import from_plain
from ..table_model import Settings

DATA: dict[str, Any] = {
    "target": tuple[str, ...],
    "valid": str,
    "test": str,
    "weight": str,
    "ignore": tuple[str, ...],
    "category": tuple[str, ...],
}
KINDS: dict[str, Any] = DATA | get_type_hints(Settings)


def read_settings(path: Path) -> dict[str, Any]:
    """The values of a settings file, by the names of the flags, as the command line takes them.

    Keys may have - or _ between words. Several values are an array; where one is enough, text will do.

    Raises:
        DataError: no such file, or not TOML.
        ParameterError: an unknown key, or a value of another type than the flag's.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: expected a settings file, but it cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected settings in TOML, got something else ({error}).") from None
    values: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in KINDS:
            raise unknown_name(f"{path}", key, KINDS)
        if name in values:
            raise ParameterError(f"{path}: expected each setting once, got {key!r} twice.")
        several = get_origin(KINDS[name]) is tuple
        try:
            found = from_plain(KINDS[name], [value] if several and not isinstance(value, list) else value, key)
        except ModelFileError as error:
            raise ParameterError(f"{path}: {error}") from None
        if several and name not in DATA:
            found = ",".join(map(str, found)) or ("none" if name == "hidden" else None)
        values[name] = list(found) if isinstance(found, tuple) else found
    return values


def settings_text(settings: Settings, data: Mapping[str, Any]) -> str:
    """A settings file with which the same command trains the same model again.

    What was left to the task is left out.
    """
    given = dict(data) | {field.name: getattr(settings, field.name) for field in fields(settings)}
    lines = [f"{name} = {_toml(value)}" for name, value in given.items() if value is not None and value != []]
    lines = [line for line in lines if line != "activation = []"]
    return "\n".join(["# Of chainrule train; pass it with --settings. Flags on the command line win.", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
