"""Frozen records from plain JSON values, strictly: nothing missing, nothing unknown, nothing of another type."""

from __future__ import annotations

import dataclasses
import json
import math
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import ModelFileError

_NOUNS = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number"}


def json_text(value: object, indent: int | None = None) -> str:
    """Strict JSON: numbers that are not finite become null."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(kind: Any, value: object, where: str, infinite: bool = False) -> Any:
    """`value` as a `kind`: a dataclass, a Literal, tuple[X, ...], dict[str, X], X | None, str, bool, int or float.

    Floats are finite, unless `infinite`, with which "inf", "-inf" and "nan" stand for what JSON lacks.

    Raises:
        ModelFileError: another type, a missing or unknown entry, a number that is not finite.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            got = sorted(map(str, value)) if isinstance(value, dict) else value
            raise ModelFileError(f"{where}: expected the entries {sorted(hints)}, got {got!r}.")
        return kind(**{key: from_plain(hint, value[key], f"{where}.{key}", infinite) for key, hint in hints.items()})
    if get_origin(kind) is UnionType or get_origin(kind) is Union:
        (some,) = (part for part in get_args(kind) if part is not NoneType)
        return None if value is None else from_plain(some, value, where, infinite)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ModelFileError(f"{where}: expected a list, got {value!r}.")
        return tuple(from_plain(get_args(kind)[0], item, f"{where}[{i}]", infinite) for i, item in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ModelFileError(f"{where}: expected named values, got {value!r}.")
        return {key: from_plain(get_args(kind)[1], item, f"{where}.{key}", infinite) for key, item in value.items()}
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            raise ModelFileError(f"{where}: expected one of {', '.join(get_args(kind))}, got {value!r}.")
    elif kind is float and type(value) is int:
        return value
    elif kind is float and infinite and value in ("inf", "-inf", "nan"):
        return float(str(value))
    elif type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ModelFileError(f"{where}: expected {_NOUNS[kind]}, got {value!r}.")
    return value
