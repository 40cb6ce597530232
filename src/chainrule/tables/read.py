"""Tables in and out: CSV, Parquet and scikit-learn's bundled data sets; predictions as CSV, Parquet or JSON lines."""

from __future__ import annotations

import collections
import contextlib
import csv
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

from ..disk import replacing
from ..errors import DataError, OutputError, did_you_mean, require, unknown_name
from .columns import ISO

if TYPE_CHECKING:
    import pyarrow as pa

BUNDLED = ("digits", "breast_cancer", "diabetes", "wine", "iris")
TEXT_ENDINGS = (".csv", ".tsv", ".txt")
PACKED = ".gz"  # after the ending of a text file
PARQUET_ENDINGS = (".parquet", ".pq")
GAPS = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None", "?")
DELIMITERS = ",;\t|"
NOT_THOUSANDS = r"^\s*[+-]?(\d*,(\d{1,2}|\d{4,})|\d{4,},\d+|0\d*,\d+)([eE][+-]?\d+)?\s*$"  # 1,5 but not 1,203
DECIMAL_COMMA = r"^\s*[+-]?\d+(,\d+)?([eE][+-]?\d+)?\s*$"

Format = Literal["csv", "parquet", "jsonl"]


def read_table(source: str | os.PathLike[str], text: Collection[str] = ()) -> pa.Table:
    """The table in a .csv, .tsv, .txt (also .csv.gz …), .parquet or .pq file, or a data set that scikit-learn bundles.

    The delimiter of a text file (comma, semicolon, tab or |) is found from its header. 1,5 is one and a half, if a whole
    column reads like that; so is 1,203 between semicolons, or beside such numbers. The values in `GAPS` are gaps, in text columns too. Columns named in `text` are not
    interpreted, so that 007 stays 007. Spaces around column names are dropped.

    Raises:
        DataError: no such file, an unknown ending, no rows, unusable column names, or damaged content.
        MissingExtraError: pyarrow (or, for a bundled data set, scikit-learn) is not installed.
    """
    if str(source) in BUNDLED:
        return _read_bundled(str(source))
    path = Path(source)
    if path.is_dir():
        raise DataError(f"Reading {path}: expected a file, got a directory. Name one file in it.")
    if not path.exists():
        raise DataError(f"Reading {path}: there is no such file or bundled data set.{_alternatives(path)}")
    if not _is_table(path.name):
        known = ", ".join(TEXT_ENDINGS + PARQUET_ENDINGS)
        raise DataError(
            f"Reading {path}: expected a name ending in {known}, got {path.suffix!r}. Save the table as CSV or Parquet."
        )
    try:
        if path.stat().st_size == 0:
            raise DataError(f"Reading {path}: expected a table, got an empty file.")
        return _read_parquet(path) if path.suffix.lower() in PARQUET_ENDINGS else _read_text(path, text)
    except OSError as error:
        raise DataError(f"Reading {path}: it cannot be read ({error.strerror or error}).") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"Reading {path}: expected a file packed by gzip, got a damaged one ({error}).") from error


def _is_table(name: str) -> bool:
    """Whether a file of this name is read as a table."""
    return name.lower().endswith(PARQUET_ENDINGS) or name.lower().removesuffix(PACKED).endswith(TEXT_ENDINGS)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a file is packed by gzip, by its name."""
    return os.fspath(path).lower().endswith(PACKED)


def opened(path: str | os.PathLike[str]) -> gzip.GzipFile | io.BufferedReader:
    """The bytes of a text file, unpacked."""
    return gzip.open(path) if is_packed(path) else open(path, "rb")


def text_of(path: str | os.PathLike[str]) -> io.TextIOWrapper:
    """A text file for the csv module."""
    return io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="")


def bundled_target(source: str | os.PathLike[str]) -> str | None:
    """The name of the target column if `source` is a bundled data set, else None."""
    return "target" if str(source) in BUNDLED else None


def write_table(table: pa.Table, destination: str | os.PathLike[str] | IO[bytes], format: Format) -> None:
    """Write a table to a file or a binary stream.

    A file appears complete or not at all: a temporary file beside it is written, synced and renamed. In JSON
    lines a number that is not finite is null, and what JSON has no type for (a date) is text. A text file whose
    name ends in .gz is packed.

    Raises:
        ParameterError: unknown format.
        DataError: a column that the format cannot hold.
        OutputError: the file could not be written; what was there before is untouched.
    """
    if format not in get_args(Format):
        raise unknown_name("Table format", format, get_args(Format))
    if not isinstance(destination, str | os.PathLike):
        return _write(table, destination, format)
    path = Path(destination)
    if not path.exists() or path.is_file():
        with replacing(path) as file:
            if format == "parquet" or not is_packed(path):
                return _write(table, file, format)
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
                return _write(table, stream, format)
    try:  # a device or a pipe must not be replaced by a file
        with path.open("wb") as stream:
            _write(table, stream, format)
    except OSError as error:
        raise OutputError(f"{path}: could not be written ({error.strerror or error}).") from error


def _write(table: pa.Table, stream: IO[bytes] | gzip.GzipFile, format: Format) -> None:
    pa = require("pyarrow", "table", "Writing tables")
    try:
        if format == "csv":
            require("pyarrow.csv", "table", "Writing tables").write_csv(table, stream)
        elif format == "parquet":
            require("pyarrow.parquet", "table", "Writing tables").write_table(table, stream)
        else:
            for batch in table.to_batches(max_chunksize=4096):
                for row in batch.to_pylist():
                    plain = {key: _plain(value) for key, value in row.items()}
                    stream.write(json.dumps(plain, ensure_ascii=False, default=str).encode() + b"\n")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"Writing a table: its columns do not fit the format {format} ({error}).") from error


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _alternatives(path: Path) -> str:
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    files = sorted(p.name for p in siblings if _is_table(p.name))
    return did_you_mean(path.name, [*BUNDLED, *files])


def _read_bundled(name: str) -> pa.Table:
    pa = require("pyarrow", "table", "Reading tables")
    bunch = getattr(require("sklearn.datasets", "table", "Reading a bundled data set"), f"load_{name}")()
    columns = {str(feature): bunch.data[:, j] for j, feature in enumerate(bunch.feature_names)}
    named = name in ("breast_cancer", "wine", "iris")
    target = [str(bunch.target_names[k]) for k in bunch.target] if named else bunch.target
    return pa.table({**columns, "target": target})


def _read_parquet(path: Path) -> pa.Table:
    pa = require("pyarrow", "table", "Reading tables")
    parquet = require("pyarrow.parquet", "table", "Reading tables")
    with path.open("rb") as file:
        try:
            table = parquet.ParquetFile(file).read()
            table.validate(full=True)
            for place, field in enumerate(table.schema):
                if str(field.type) == "string_view":  # few of pyarrow's functions take it
                    table = table.set_column(place, field.name, table.column(place).cast(pa.large_string()))
            kept = [name for name in table.column_names if not name.startswith("__index_level_")]  # written by pandas
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"Reading {path}: expected a Parquet file, got something else or a damaged one.") from error
    if table.num_rows == 0:
        raise DataError(f"Reading {path}: expected rows of data, got only the column names.")
    check_names(path, kept)
    return table.select(kept)


def _read_text(path: Path, text: Collection[str]) -> pa.Table:
    pa = require("pyarrow", "table", "Reading tables")
    arrow = require("pyarrow.csv", "table", "Reading tables")
    try:
        with text_of(path) as file:
            first = next((line for line in file if line.strip("\r\n")), "")
            delimiter = max(DELIMITERS, key=re.sub('"[^"]*"', "", first).count)
            file.seek(0)
            records = (row for row in csv.reader(file, delimiter=delimiter) if row)
            header, rows = next(records, []), next(records, None) is not None
            if len(header) == 1:
                file.seek(0)
                _check_lines(path, file)
        if not header:
            raise DataError(f"Reading {path}: expected a table, got only empty lines.")
        names = [name.strip() for name in header]
        check_names(path, names)
        if not rows:
            raise DataError(f"Reading {path}: expected rows of data, got only the column names.")

        uninterpreted = [raw for raw, name in zip(header, names, strict=True) if name in text]

        def parsed(decimal_point: str, more_text: Sequence[str] = ()) -> Any:
            with pa.input_stream(path, compression="gzip" if is_packed(path) else None) as file:
                return arrow.read_csv(
                    file,
                    parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                    convert_options=arrow.ConvertOptions(
                        null_values=[*GAPS, *(" " + gap for gap in GAPS)],
                        strings_can_be_null=True,
                        decimal_point=decimal_point,
                        column_types=dict.fromkeys([*uninterpreted, *more_text], pa.string()),
                    ),
                )

        table = parsed(".")
        zoned = [field.name for field in table.schema if pa.types.is_timestamp(field.type) and field.type.tz]
        table = _in_local_time(table, parsed(".", zoned) if zoned else table, uninterpreted)
        table = _with_commas(path, table, parsed, uninterpreted, delimiter == ";")
    except (UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        _check_encoding(path)
        if isinstance(error, pa.ArrowInvalid):
            _check_records(path, delimiter)
        raise DataError(f"Reading {path}: expected a table of text, got a damaged file ({error}).") from error
    if any(pa.types.is_binary(kind) for kind in table.schema.types):  # what pyarrow makes of text that is not UTF-8
        _check_encoding(path)
    last = table.column(-1)[-1].as_py()
    if isinstance(last, str) and "\n" in last:  # an open quote may have swallowed the rest of the file
        _check_records(path, delimiter)
    return table.rename_columns(names)


def _check_lines(path: Path, lines: Iterable[str]) -> None:
    """Raises DataError at an empty line between others of a file of one column: it may be a gap, and is read as none."""
    empty, begun = 0, False
    for number, line in enumerate(lines, 1):
        if not line.strip("\r\n"):
            empty = empty or number * begun
        elif empty:
            raise DataError(
                f"Reading {path}: expected a value in every line of a file of one column, got an empty line {empty}. "
                "Write NA where there is a gap, or remove the line."
            )
        begun = True


def _in_local_time(table: pa.Table, as_text: pa.Table, text: Collection[str]) -> pa.Table:
    """The table with times as their texts have them, without the offsets, by which pyarrow makes them universal.

    Where only some have an offset pyarrow leaves texts.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, field in enumerate(table.schema):
        mixed = (
            pa.types.is_string(field.type) and field.name not in text and table.column(place).null_count < len(table)
        )
        if mixed and not pc.all(pc.match_substring_regex(table.column(place), ISO)).as_py():
            continue
        if mixed or (pa.types.is_timestamp(field.type) and field.type.tz):
            local = pc.replace_substring_regex(as_text.column(place), ISO, r"\1")
            with contextlib.suppress(pa.ArrowInvalid):  # 2021-02-30 stays a text, and is named later
                kind = pa.timestamp("us" if mixed else field.type.unit)
                table = table.set_column(place, field.name, local.cast(kind))
    return table


def _with_commas(
    path: Path, table: pa.Table, parsed: Callable[[str], pa.Table], text: Collection[str], sure: bool
) -> pa.Table:
    """A table whose numbers were read with points; where a column has numbers with commas, as read with commas.

    `sure`: 1,203 has a decimal comma; else only beside numbers such as 1,5 whose comma cannot stand for thousands.

    Raises:
        DataError: beside such a column there is one of numbers like 1.234, which may be with points or thousands.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    def commas(column: pa.ChunkedArray) -> bool:
        return bool(pc.all(pc.match_substring_regex(column, DECIMAL_COMMA)).as_py())

    texts = [n for n in table.column_names if pa.types.is_string(table.schema.field(n).type) and n not in text]
    found = [table.column(name) for name in texts if commas(table.column(name))]
    if not found or not (sure or any(pc.any(pc.match_substring_regex(c, NOT_THOUSANDS)).as_py() for c in found)):
        return table
    found = parsed(",")
    for place, name in enumerate(found.column_names):
        if pa.types.is_string(found.schema.field(name).type) and pa.types.is_floating(table.schema.field(name).type):
            if pc.any(pc.match_substring_regex(found.column(name), r"^\s*[+-]?\d{1,3}\.\d{3}\s*$")).as_py():
                raise DataError(
                    f"Reading {path}: expected decimal commas in all columns, got points in the column {name.strip()!r}, "
                    "which may stand for thousands. Write its numbers without them, or with a comma."
                )
            found = found.set_column(place, name, table.column(name))
    return found


def check_names(path: Any, names: Sequence[str]) -> None:
    """Raise DataError for column names that are empty or occur twice."""
    empty = [str(i) for i, name in enumerate(names, 1) if not name]
    if empty:
        raise DataError(
            f"Reading {path}: expected a name for every column, got none for column {', '.join(empty)}. "
            "Name it in the first line, or remove it (pandas: to_csv(..., index=False))."
        )
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"Reading {path}: expected different column names, got {', '.join(map(repr, twice))} more than once. "
            "Rename or remove the repeated ones."
        )


def _check_encoding(path: Path) -> None:
    """Raises DataError at the first line that is not UTF-8, if there is one."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"Reading {path}: expected UTF-8 text, got the byte 0x{line[error.start]:02x} "
                    f"(line {number}, byte {error.start + 1}). Save the file again with the encoding UTF-8."
                ) from None


def _check_records(path: Path, delimiter: str) -> None:
    """Raises DataError at the first row with a faulty quote or not as many fields as the header, if there is one."""
    with text_of(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        expected, start = 0, 1
        try:
            for row in reader:
                expected = expected or len(row)
                if row and len(row) != expected:
                    raise DataError(
                        f"Reading {path}: expected {expected} fields in line {start}, got {len(row)}. "
                        "Correct the line; text that contains the delimiter must be quoted."
                    )
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"Reading {path}: expected quotes to be closed, got a faulty one in the row starting in line {start} "
                f"({error}). Close it, or double a quote that is part of the text."
            ) from None
