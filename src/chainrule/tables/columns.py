"""How feature columns become a matrix of numbers: one frozen record per column, fitted once, saved with the model.

Numbers are scaled as in RealMLP-TD-S (Holzmüller, Grinsztajn & Steinwart 2024): centred at the median, divided by
the interquartile range, smoothly clipped to (−3, 3). Two rules are added. The clip hides how far away a far value is; where
far values are more than rare, as of incomes and areas, they are told apart by their logarithm instead. And where most rows have
one value the range is that of the others, so that a single 9999 among zeros does not make all others equal. Rows in
messages count from 1, the first row of data.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..arrays import Array
from ..errors import DataError, ModelFileError, ParameterError, did_you_mean, unknown_name
from ..plain import from_plain

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["number", "category", "boolean", "date"]
Scaling = Literal["robust", "standard", "none"]
Tails = Literal["clip", "log", "linear"]

MAX_LEVELS = 256
FAR, MANY_FAR = 6.0, 0.01  # interquartile ranges from the median, and the share of the values from which on they count
MOSTLY_NUMBERS = 0.8  # from this share of numbers on, text in a column is taken for a mistake
IDENTIFIER_ROWS = 20  # from this many rows on, text with under two rows per value is taken for an identifier
LARGEST = 1e150  # the square of a larger number may be infinite
WHOLE = 2.0**63  # below it whole numbers are written without an exponent
NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
WHOLE_TEXT = r"^(-?(?:0|[1-9]\d*))\.0+$"
GROUPED = r"^\s*[+-]?\d{1,3}((,\d{3})+(\.\d*)?|(\.\d{3})+,\d*)\s*$"  # 1,234.5 and 1.234,5

ISO = r"^(\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?)(Z|[+-]\d\d(:?\d\d)?)?$"  # local time, and its offset
DATED = r"\s*\d{1,4}([-./])\d{1,2}\1\d{1,4}(?=[ T]|$)"  # the beginning of a text that looks like a date

AS_DATES = "write 2024-12-31 in a file (all with an offset or none), use pandas.to_datetime in a frame"

_NOUNS = {"number": "a number", "category": "text", "boolean": "true or false", "date": "a date"}
DAY = 86_400_000  # milliseconds


def kind_of(column: pa.ChunkedArray, name: str) -> Kind:
    """What a column holds, by its type; times of day and durations are numbers (of seconds).

    Raises:
        DataError: a type that no column of a table of numbers and text has (lists, bytes …).
    """
    from pyarrow import types

    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_time(kind) or types.is_duration(kind):
        return "number"
    if types.is_boolean(kind):
        return "boolean"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "date"
    if types.is_dictionary(kind) or str(kind) in ("string", "large_string", "string_view"):
        return "category"
    raise DataError(
        f"Column {name!r}: expected numbers, text, dates or true/false, got values of the type {kind}. "
        f"Convert it, or leave it out (--ignore {shlex.quote(name)})."
    )


def as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """(N,) strings: text as it is, 3 and 3.0 as "3", booleans as "true" and "false"; gaps (and NaN) are null.

    The same values give the same text whatever type a file or a frame has for them: a gap turns whole numbers into
    floats, and times come in seconds or in nanoseconds.

    Raises:
        DataError: a type that has no text (lists, bytes …).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    kind_of(column, name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_decimal(column.type) and column.type.scale > 0:
        column = column.cast(pa.float64())
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if not pa.types.is_floating(column.type):
        return column.cast(pa.string())
    x = column.cast(pa.float32()) if pa.types.is_float16(column.type) else column
    text = pc.if_else(pc.is_nan(x), None, x.cast(pa.string()))
    whole = pc.and_(pc.equal(x, pc.floor(x)), pc.less(pc.abs(x), WHOLE))
    return pc.if_else(whole, pc.if_else(whole, x, 0).cast(pa.int64()).cast(pa.string()), text)


def as_levels(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """`as_text` for categories, of which 4.0 is 4 in text too: a gap in a file's column of codes turns 4 into 4.0."""
    import pyarrow.compute as pc

    return pc.replace_substring_regex(as_text(column, name), WHOLE_TEXT, r"\1")


def numbers(column: pa.ChunkedArray, name: str) -> Array:
    """(N,) float64 with NaN for gaps; text that reads as numbers throughout is accepted.

    Raises:
        DataError: other text, dates or booleans (the first row is named), or a number beyond ±LARGEST.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    if kind_of(column, name) == "category":
        column = as_text(column, name)
        wrong = pc.invert(pc.match_substring_regex(column, NUMBER))
        if pc.any(wrong).as_py():
            raise _text_in_numbers(column, wrong, name, "Correct it, or treat the column as text throughout.")
        column = pc.utf8_trim_whitespace(column)
    else:
        _expect(column, name, "number")
    seconds = 1.0
    if pa.types.is_time(column.type) or pa.types.is_duration(column.type):
        seconds = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[column.type.unit]
        column = column.cast(pa.int32() if pa.types.is_time32(column.type) else pa.int64())
    return check_size(np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64) * seconds, name)


def check_size(values: Array, name: str) -> Array:
    """The numbers (N,) of a column as they are; NaN is a gap.

    Raises:
        DataError: one is beyond ±LARGEST (the first row is named).
    """
    huge = np.abs(values) > LARGEST
    if huge.any():
        row = int(np.argmax(huge))
        raise DataError(
            f"Column {name!r}: expected finite numbers (up to {LARGEST:g}), got {values[row]} at row {row + 1}. "
            "Correct it, or leave it empty."
        )
    return values


def first_row(mask: pa.ChunkedArray) -> int:
    """The index of the first true element of a Boolean column; −1 if there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return int(pc.index(mask, pa.scalar(True)).as_py())


def mostly_numbers(column: pa.ChunkedArray, name: str, remedy: str) -> None:
    """Check that text is not a column of numbers with a few mistakes in it, or with thousands separators.

    Raises:
        DataError: at least 80 % of the texts are numbers, those with separators among them, but not all.
    """
    import pyarrow.compute as pc

    wrong = pc.invert(pc.match_substring_regex(column, NUMBER))
    grouped = pc.match_substring_regex(column, GROUPED)
    texts, count, apart = len(column) - column.null_count, pc.sum(wrong).as_py() or 0, pc.sum(grouped).as_py() or 0
    if count and texts - count + apart >= MOSTLY_NUMBERS * texts:
        raise _text_in_numbers(column, wrong, name, f"{'Remove thousands separators. ' if apart else ''}{remedy}")


def _text_in_numbers(column: pa.ChunkedArray, wrong: pa.ChunkedArray, name: str, remedy: str) -> DataError:
    import pyarrow.compute as pc

    row, others = first_row(wrong), pc.sum(wrong).as_py() - 1
    more = f" (and {others} more)" if others else ""
    text = f"{column[row].as_py()!r:.40}"
    return DataError(f"Column {name!r}: expected numbers, got the text {text} at row {row + 1}{more}. {remedy}")


def _expect(column: pa.ChunkedArray, name: str, kind: Kind) -> None:
    """Raises DataError, with the first value and its row, if a column with values in it is not of `kind`."""
    got = kind_of(column, name)
    if got != kind:
        text = as_text(column, name).to_pylist()
        known = [row for row, value in enumerate(text) if value is not None]
        row = next((row for row in known if got != "category" or not _reads_as(kind, text[row])), known[0])
        value = f"{text[row]!r:.40}"
        raise DataError(
            f"Column {name!r}: expected {_NOUNS[kind]} in every row, got {_NOUNS[got]}, {value}, "
            f"at row {row + 1}. Give the column the type that it had in training."
        )


def _reads_as(kind: Kind, text: str) -> bool:
    """Whether a text is what a file has for true or false, or for a date; other texts may have made a column of it text."""
    if kind == "boolean":
        return text in ("true", "True", "TRUE", "false", "False", "FALSE")
    found = re.match(ISO, text)
    try:
        return bool(found and np.isfinite(np.datetime64(found[1])))
    except ValueError:
        return False


def scaled(x: Any, center: Any, factor: Any, tails: Tails) -> Any:
    """z = (x − center)·factor of a number x; with tails "clip" z / √(1 + (z/3)²), with "log" 3 arsinh(z/3).

    Both are nearly z below 1; the first ends at ±3, the second grows as a logarithm. `export` runs it on symbols too.
    """
    z = (x - center) * factor
    if tails == "linear":
        return z
    z = np.minimum(np.maximum(z, -1e9), 1e9)  # the clip is 3 to the last bit there; keeps the square finite
    root = np.sqrt(1 + (z / 3) ** 2)
    return z / root if tails == "clip" else 3 * np.sign(z) * np.log(np.abs(z) / 3 + root)


def waves(when: Array, day: Array, hours: bool) -> Array:
    """Sine and cosine of the place in the year (month), the week (day) and, if `hours`, the day, (N, 4) or (N, 6).

    `when` (N,) datetime64, where gaps give zeros; `day` (N,) are its days since 1970-01-01.
    """
    month = when.astype("datetime64[M]").astype(np.int64) % 12 / 12
    weekday = (np.floor(day) + 3) % 7 / 7  # 1970-01-01 was a Thursday; Monday is 0
    turns = (month, weekday, day % 1) if hours else (month, weekday)
    both = np.column_stack([wave(2 * np.pi * turn) for turn in turns for wave in (np.sin, np.cos)])
    return np.where(np.isnat(when)[:, None], 0.0, both)


@dataclass(frozen=True)
class NumberColumn:
    """A number x as `scaled`; a gap as the median.

    If there were gaps in training, a second feature is 1 where there is a gap and 0 elsewhere.
    """

    name: str
    median: float
    center: float
    factor: float
    tails: Tails
    gaps: bool

    @property
    def features(self) -> tuple[str, ...]:
        return (self.name, f"{self.name} is missing") if self.gaps else (self.name,)

    def encode(self, column: pa.ChunkedArray) -> Array:
        """(N, 1) or (N, 2) float64. Raises DataError: not a number in some row, or infinite."""
        return self.encode_numbers(numbers(column, self.name))

    def encode_numbers(self, x: Array) -> Array:
        """The same from (N,) float64 with NaN for gaps."""
        gap = np.isnan(x)
        z = scaled(np.where(gap, self.median, x), self.center, self.factor, self.tails)
        return np.column_stack((z, gap) if self.gaps else (z,))


@dataclass(frozen=True)
class CategoryColumn:
    """One feature per level, 1 where the row has it; gaps and unknown levels are zeros.

    `signed`: two levels in training; then one feature, +1 for the first and −1 for the second.
    """

    name: str
    levels: tuple[str, ...]
    signed: bool

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(f"{self.name}={level}" for level in (self.levels[:1] if self.signed else self.levels))

    def encode(self, column: pa.ChunkedArray) -> Array:
        """(N, k) float64; values of other types count as their text."""
        return np.asarray(self.codes[_places(as_levels(column, self.name), self.levels)])

    @property
    def codes(self) -> Array:
        """The features of each level, then those of a gap or an unknown level, (levels + 1, k)."""
        return np.array([[1.0], [-1.0], [0.0]]) if self.signed else np.eye(len(self.levels) + 1)[:, :-1]


@dataclass(frozen=True)
class BooleanColumn:
    """+1 for true, −1 for false, 0 for a gap."""

    name: str

    @property
    def features(self) -> tuple[str, ...]:
        return (self.name,)

    def encode(self, column: pa.ChunkedArray) -> Array:
        """(N, 1) float64. Raises DataError: something else than true and false."""
        return np.asarray(np.nan_to_num(_truths(column, self.name) * 2 - 1)[:, None])


@dataclass(frozen=True)
class DateColumn:
    """The day since 1970-01-01 scaled like a number, then sine and cosine of the place in the year (month), the
    week (day) and, if `hours`, the day; zeros for a gap. A time with a zone counts as its local time."""

    name: str
    day: NumberColumn
    hours: bool

    @property
    def features(self) -> tuple[str, ...]:
        cycles = ("month", "weekday", "hour") if self.hours else ("month", "weekday")
        return self.day.features + tuple(f"{self.name}: {c} {f}" for c in cycles for f in ("sin", "cos"))

    def encode(self, column: pa.ChunkedArray) -> Array:
        """(N, k) float64. Raises DataError: something else than dates."""
        when = _dates(column, self.name)
        day = _days(when)
        return np.column_stack((self.day.encode_numbers(day), waves(when, day, self.hours)))


Column = NumberColumn | CategoryColumn | BooleanColumn | DateColumn
_COLUMNS: dict[Kind, type[Column]] = {
    "number": NumberColumn,
    "category": CategoryColumn,
    "boolean": BooleanColumn,
    "date": DateColumn,
}


def _places(text: pa.ChunkedArray, levels: tuple[str, ...]) -> Array:
    """(N,) where each text stands in `levels`; their number for gaps and others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.index_in(text, value_set=pa.array(levels, pa.string())).fill_null(len(levels)).to_numpy())


def _truths(column: pa.ChunkedArray, name: str) -> Array:
    """(N,) float64: 1 for true, 0 for false, NaN for gaps."""
    import pyarrow as pa

    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    _expect(column, name, "boolean")
    return np.asarray(column.cast(pa.float64()).to_numpy())


def _dates(column: pa.ChunkedArray, name: str) -> Array:
    """(N,) datetime64[ms], NaT for gaps."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count == len(column):
        return np.full(len(column), "NaT", "datetime64[ms]")
    _expect(column, name, "date")
    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = pc.local_timestamp(column)
    return np.asarray(column.cast(pa.timestamp("ms"), safe=False).to_numpy())


def _days(when: Array) -> Array:
    """(N,) float64 days since 1970-01-01 with their fractions, NaN for NaT."""
    return np.where(np.isnat(when), np.nan, when.astype(np.int64) / DAY)


@dataclass(frozen=True)
class Encoder:
    """The feature columns of a table as a matrix; what training fitted, and all that prediction needs."""

    columns: tuple[Column, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the n₀ columns of the matrix."""
        return tuple(feature for column in self.columns for feature in column.features)

    @property
    def text_names(self) -> tuple[str, ...]:
        """The columns that `read_table` must not interpret (its argument `text`)."""
        return tuple(column.name for column in self.columns if isinstance(column, CategoryColumn))

    def encode(self, table: pa.Table) -> Array:
        """(N, n₀) float64, C-ordered. Further columns of the table are ignored.

        Raises:
            DataError: a missing column, or a value of the wrong kind (column, row and value are named).
        """
        given = set(table.column_names)
        for column in self.columns:
            if column.name not in given:
                hint = did_you_mean(column.name, given)
                raise DataError(f"Encoding features: expected a column {column.name!r}, got none.{hint}")
        X = np.empty((table.num_rows, len(self.feature_names)))
        start = 0
        for column in self.columns:
            stop = start + len(column.features)
            X[:, start:stop] = column.encode(table.column(column.name))
            start = stop
        return X

    @property
    def linear(self) -> Encoder:
        """The same without clips and logarithms, as a linear model needs the numbers."""

        def plain(column: Column) -> Column:
            if isinstance(column, DateColumn):
                return dataclasses.replace(column, day=dataclasses.replace(column.day, tails="linear"))
            return dataclasses.replace(column, tails="linear") if isinstance(column, NumberColumn) else column

        return Encoder(tuple(map(plain, self.columns)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; floats are exact."""
        kinds = {record: kind for kind, record in _COLUMNS.items()}
        return {"columns": [{"kind": kinds[type(c)], **_lists(dataclasses.asdict(c))} for c in self.columns]}

    @staticmethod
    def from_json(value: object) -> Encoder:
        """The encoder that `to_json` described.

        Raises:
            ModelFileError: missing or unknown entries, wrong types, numbers that are not finite.
        """
        if not isinstance(value, dict) or value.keys() != {"columns"} or not isinstance(value["columns"], list):
            raise ModelFileError("encoder: expected one entry, a list of columns, got something else.")
        columns = []
        for i, record in enumerate(value["columns"]):
            where = f"encoder.columns[{i}]"
            kind = record.get("kind") if isinstance(record, dict) else None
            if kind not in _COLUMNS:
                raise ModelFileError(f"{where}.kind: expected one of {', '.join(_COLUMNS)}, got {kind!r}.")
            fields = {key: field for key, field in record.items() if key != "kind"}
            columns.append(from_plain(_COLUMNS[kind], fields, where))
        for column in columns:
            if isinstance(column, CategoryColumn):
                distinct = len(set(column.levels))
                if distinct != len(column.levels) or (column.signed and distinct != 2):
                    raise ModelFileError(f"encoder: the levels of column {column.name!r} do not fit together.")
        if len({column.name for column in columns}) != len(columns):
            raise ModelFileError("encoder: expected different column names, got one twice.")
        return Encoder(tuple(columns))


def _lists(record: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}


def fit_encoder(
    table: pa.Table,
    names: Sequence[str],
    scaling: Scaling = "robust",
    max_levels: int = MAX_LEVELS,
    categories: Collection[str] = (),
) -> tuple[Encoder, tuple[str, ...]]:
    """Learn from the training rows how the columns `names` become numbers.

    `scaling` of numbers: "robust" (the module's text), "standard" ((x − mean) / standard deviation), "none".
    `categories` are columns to be taken as text whatever they hold, as are those of a categorical type. Returns the encoder and notes, one sentence
    on each column or level that was left out.

    Raises:
        ParameterError: an unknown or repeated name, an unknown scaling, max_levels below 1.
        DataError: a column with text among numbers, or with infinite numbers; no usable column.
    """
    given = set(table.column_names)
    for name in (*names, *categories):
        if name not in given:
            raise unknown_name("Feature column", name, table.column_names)
    if len(set(names)) != len(names):
        raise ParameterError("Feature columns: expected each name once, got one twice.")
    if scaling not in get_args(Scaling):
        raise unknown_name("Scaling", scaling, get_args(Scaling))
    if max_levels < 1:
        raise ParameterError(f"Feature columns: expected max_levels of at least 1, got {max_levels}.")
    if not table.num_rows:
        raise DataError("Feature columns: expected rows of data, got none.")
    fitted = [_fit_column(table.column(name), name, scaling, max_levels, name in categories) for name in names]
    columns = tuple(column for column, _ in fitted if column)
    notes = tuple(note for _, note in fitted if note)
    if not columns:
        raise DataError(" ".join(("Features: expected at least one usable column, got none.", *notes)))
    return Encoder(columns), notes


def _fit_column(
    column: pa.ChunkedArray, name: str, scaling: Scaling, max_levels: int, forced: bool
) -> tuple[Column | None, str]:
    from pyarrow import types

    if column.null_count == len(column):
        return None, _only_gaps(name)
    forced = forced or types.is_dictionary(column.type)  # its owner said that it holds categories
    kind = "category" if forced else kind_of(column, name)
    if kind == "number":
        x = numbers(column, name)
        return (None, _only_gaps(name)) if np.isnan(x).all() else (_fit_number(x, name, scaling), "")
    if kind == "date":
        return _fit_date(column, name, scaling), ""
    if kind == "category":
        return _fit_category(column, name, max_levels, forced)
    constant = column.null_count == 0 and len(column.unique()) == 1
    return (None, _constant(name)) if constant else (BooleanColumn(name), "")


def _fit_number(x: Array, name: str, scaling: Scaling) -> NumberColumn:
    known = x[~np.isnan(x)]
    low, q25, median, q75, high = (float(q) for q in np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
    center, scale = 0.0, 1.0
    if scaling == "robust":
        if q25 == q75 and high > low:  # most rows have one value: the others alone say what is near
            q25, q75 = (float(q) for q in np.quantile(known[known != median], [0.25, 0.75]))
        center, scale = median, (q75 - q25) or 0.5 * (high - low)
    elif scaling == "standard":
        center, scale = float(known.mean()), float(known.std()) if high > low else 0.0
    factor = 1 / scale if scale > np.finfo(np.float64).tiny else 0.0
    far = float(np.mean(np.abs(known - center) > FAR * scale))
    tails: Tails = "linear" if scaling != "robust" else "log" if far > MANY_FAR else "clip"
    return NumberColumn(name, median, center, factor, tails, len(known) < len(x))


def _fit_category(
    column: pa.ChunkedArray, name: str, max_levels: int, forced: bool
) -> tuple[CategoryColumn | None, str]:
    import pyarrow.compute as pc

    text = as_levels(column, name)
    rows = len(text) - text.null_count
    if not forced:
        mostly_numbers(text, name, f"Correct it, or take it as a category (--category {shlex.quote(name)}).")
    distinct, frequency = pc.value_counts(text.drop_null()).flatten()
    if len(distinct) == 1 and rows == len(text):
        return None, _constant(name)
    some = distinct.slice(0, 100).to_pylist()
    dated = not forced and bool(some) and all(re.match(DATED, text) for text in some)
    if not forced and rows >= IDENTIFIER_ROWS and 2 * len(distinct) > rows:
        fix = f"Taken as a category (--category {shlex.quote(name)}) it is kept."
        if dated:
            fix = f"Dates are kept: {AS_DATES}."
        elif all(re.match(NUMBER, text) for text in some):
            fix = "Numbers are kept: give it a type of numbers (pandas.to_numeric)."
        return None, (
            f"Column {name!r} is left out: most rows have a text of their own, as in an identifier or free text. {fix}"
        )
    counts = dict(zip(distinct.to_pylist(), frequency.to_pylist(), strict=True))
    levels = sorted(counts, key=lambda level: (-counts[level], level))
    others = sum(counts[level] for level in levels[max_levels:])
    note = (
        f"Column {name!r}: only the {max_levels} most frequent of {len(levels)} levels are told apart, {others / rows:.0%} of "
        f"its values have others. More are with --max-levels {len(levels)}."
    )
    notes = [note] if len(levels) > max_levels else []
    if dated:
        notes.append(
            f"Column {name!r}: its {len(levels)} dates are taken as categories. To have them as dates {AS_DATES}."
        )
    signed = len(levels) == 2 <= max_levels
    return CategoryColumn(name, tuple(levels[:max_levels]), signed), " ".join(notes)


def _fit_date(column: pa.ChunkedArray, name: str, scaling: Scaling) -> DateColumn:
    when = _dates(column, name)
    days = _days(when)
    return DateColumn(name, _fit_number(days, f"{name}: day", scaling), bool((days[~np.isnat(when)] % 1 != 0).any()))


def _only_gaps(name: str) -> str:
    return f"Column {name!r} is left out: it has only gaps in the training rows."


def _constant(name: str) -> str:
    return f"Column {name!r} is left out: it has the same value in every row."
