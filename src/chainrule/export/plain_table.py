"""A table of plain Python values, and what the columns ask of it: in pyarrow's place, under the same names.

`to_python` copies these functions into the file that it writes, where `tables.columns` finds them instead of its own.
"""

from __future__ import annotations

import csv
import datetime
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import DataError
from ..tables.columns import ISO, NUMBER, WHOLE, WHOLE_TEXT, check_size
from ..tables.read import DELIMITERS, GAPS, check_names, text_of


class Table:
    """Columns by name: a dict of lists or NumPy arrays, a pandas or a polars DataFrame."""

    def __init__(self, columns: Any) -> None:
        names = list(getattr(columns, "columns", columns))  # a DataFrame has the attribute
        for name in names:
            if not isinstance(name, str):
                raise DataError(
                    "Encoding features: expected a dict or a DataFrame with column names that are text, "
                    f"got the name {name!r:.40} in values of the type {type(columns).__name__}."
                )
        self._columns = {name: columns[name] for name in names}
        for name, values in self._columns.items():
            if isinstance(values, str) or not hasattr(values, "__len__"):
                raise DataError(
                    f"Column {name!r}: expected a list of values, got {values!r:.40}. Write [{values!r:.40}]."
                )
        self.column_names = list(self._columns)
        sizes = {len(values) for values in self._columns.values()}
        if sizes == {0} or len(sizes) != 1:
            raise DataError(f"Encoding features: expected columns of equally many rows, got {sorted(sizes)}.")
        (self.num_rows,) = sizes

    def column(self, name: str) -> Sequence[Any]:
        """The values (N,) of a column."""
        return self._columns[name]


def is_gap(value: Any) -> bool:
    """Whether a value is None, NaN, or pandas' NaT or NA."""
    return value is None or (not isinstance(value, str) and str(value) in ("nan", "NaT", "<NA>"))


def wrong(value: Any, name: str, row: int, expected: str) -> DataError:
    """The error for a value that its column cannot have; rows count from 1."""
    return DataError(
        f"Column {name!r}: expected {expected} in every row, got {str(value)!r:.40} at row {row}. "
        "Give the column the type that it had in training."
    )


def numbers(values: Any, name: str) -> Array:
    """(N,) float64 with NaN for gaps; text that reads as a number counts."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return check_size(values.astype(np.float64), name)
    return check_size(np.array([_number(value, name, row) for row, value in enumerate(values, 1)]), name)


def _number(value: Any, name: str, row: int) -> float:
    if is_gap(value):
        return math.nan
    text = isinstance(value, str) and not re.match(NUMBER, value, re.ASCII)
    if text or isinstance(value, bool | np.bool_ | np.datetime64 | np.timedelta64):
        raise wrong(value, name, row, "a number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise wrong(value, name, row, "a number") from None


def as_text(values: Iterable[Any], name: str) -> list[str | None]:
    """Text as it is, 3 and 3.0 as "3", booleans as "true" and "false"; None for gaps."""
    return [None if is_gap(value) else value if isinstance(value, str) else _plain_text(value) for value in values]


def as_levels(values: Iterable[Any], name: str) -> list[str | None]:
    """`as_text` for categories, of which 4.0 is 4 in text too."""
    return [None if text is None else re.sub(WHOLE_TEXT, r"\1", text) for text in as_text(values, name)]


def _plain_text(value: Any) -> str:
    """Numbers with the fewest digits, and, unless they are whole, an exponent below 1e-6 and from 1e10 on."""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    days = isinstance(value, np.datetime64) and np.datetime_data(value)[0] == "D"
    if isinstance(value, datetime.datetime | np.datetime64) and not days and getattr(value, "tzinfo", None) is None:
        return str(np.datetime64(value).astype("datetime64[us]")).replace("T", " ")
    if not isinstance(value, float | np.floating) or math.isinf(value):
        return str(value)
    value = np.float32(value) if isinstance(value, np.float16) else value
    if float(value).is_integer() and abs(float(value)) < WHOLE:
        return str(int(value))
    text = np.format_float_scientific(value, trim="-", exp_digits=1)
    small = -6 <= int(text.partition("e")[2]) < 10
    return np.format_float_positional(value, trim="-") if small else text


def _places(text: Iterable[str | None], levels: tuple[str, ...]) -> Array:
    """(N,) where each text stands in `levels`; their number for gaps and others."""
    known = {level: k for k, level in enumerate(levels)}
    return np.array([len(levels) if t is None else known.get(t, len(levels)) for t in text], np.int64)


def _truths(values: Iterable[Any], name: str) -> Array:
    """(N,) float64: 1 for true, 0 for false, NaN for gaps; the texts true and false count."""
    result = []
    for row, value in enumerate(values, 1):
        text = value.strip().lower() if isinstance(value, str) else ""
        if is_gap(value):
            result.append(math.nan)
        elif isinstance(value, bool | np.bool_) or text in ("true", "false"):
            result.append(float(text == "true" if text else value))
        else:
            raise wrong(value, name, row, "true or false")
    return np.array(result)


def _dates(values: Iterable[Any], name: str) -> Array:
    """(N,) datetime64[ms], NaT for gaps, from dates, datetimes and ISO text (both in local time), or datetime64."""
    result = []
    for row, value in enumerate(values, 1):
        local = value.replace(tzinfo=None) if isinstance(value, datetime.datetime) else value
        try:
            if isinstance(value, str) and not is_gap(value):
                found = re.match(ISO, value, re.ASCII)
                local = found[1].replace(" ", "T") if found else 0
            if not isinstance(local, str | datetime.date | np.datetime64 | None) and not is_gap(local):
                raise ValueError
            result.append(np.datetime64("NaT") if is_gap(local) else np.datetime64(local))
        except ValueError:
            raise wrong(value, name, row, "a date") from None
    return np.array([when.astype("datetime64[ms]") for when in result])


def read_csv(path: str) -> Table:
    """The texts of a .csv or .csv.gz file in UTF-8, None for gaps; the delimiter is found from the header. 1,5 is no number."""
    try:
        with text_of(path) as file:
            first = next((line for line in file if line.strip("\r\n")), "")
            delimiter = max(DELIMITERS, key=re.sub('"[^"]*"', "", first).count)
            file.seek(0)
            lines = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
        raise DataError(f"Reading {path}: expected a table of text in UTF-8, got something else ({error}).") from None
    if len(lines) < 2:
        raise DataError(f"Reading {path}: expected column names and rows of data, got no rows.")
    header, *rows = lines
    names = [name.strip() for name in header]
    check_names(path, names)
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"Reading {path}: expected {len(header)} fields at row {number}, got {len(row)}.")
    columns = [
        [None if field.removeprefix(" ") in GAPS else field for field in part] for part in zip(*rows, strict=True)
    ]
    return Table(dict(zip(names, columns, strict=True)))
