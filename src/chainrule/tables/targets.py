"""The target columns: which problem they pose, and how they become the output layer's targets and back.

Two classes are one unit (a probability), K classes are K units, numbers are one unit each (Rangan, Neural Network
Notes, problem 4). Rows in messages count from 1, the first row of data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..arrays import Array
from ..errors import DataError, ModelFileError, ParameterError, did_you_mean, unknown_name
from ..plain import from_plain
from .columns import as_text, first_row, kind_of, mostly_numbers, numbers

if TYPE_CHECKING:
    import pyarrow as pa

Task = Literal["binary", "multiclass", "multilabel", "regression"]
ClassKind = Literal["text", "integer", "number", "boolean"]
Class = str | int | float | bool

MAX_NUMBER_CLASSES = 20  # whole numbers with more distinct values than this are measured, not counted off
MIN_ROWS_PER_CLASS = 5


@dataclass(frozen=True)
class Target:
    """The target columns `names` of one task.

    `classes` are texts, of which `kind` says what they were in the table; for "multilabel" the two that every
    column has, (no, yes). `mean` and `scale` standardise each column of a regression. What a task has no use for
    is empty, and the kind of a regression is "number".
    """

    task: Task
    names: tuple[str, ...]
    kind: ClassKind
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def units(self) -> int:
        """How many units the output layer has."""
        return {"binary": 1, "multiclass": len(self.classes)}.get(self.task, len(self.names))

    @property
    def values(self) -> tuple[Class, ...]:
        """The classes as they are in the table: text, whole numbers, numbers or booleans."""
        return tuple(_restore(text, self.kind) for text in self.classes)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that `decode` gives."""
        return tuple(column for name in self.names for column in (name, *(f"{name}={label}" for label in self.classes)))

    def encode(self, table: pa.Table) -> Array:
        """What the loss compares with the output: binary (N, 1) and multilabel (N, k) float64 0/1, multiclass (N,)
        int64 labels 0..K-1, regression (N, k) float64 standardised.

        Raises:
            DataError: as `truth`.
        """
        truth = self.truth(table)
        if self.task == "regression":
            return np.asarray((truth - np.array(self.mean)) / np.array(self.scale))
        if self.task == "multiclass":
            return truth
        return truth.reshape(len(truth), self.units).astype(np.float64)

    def truth(self, table: pa.Table) -> Array:
        """In the table's own units: binary and multiclass (N,), multilabel (N, k) int64 indices of `classes`;
        regression (N, k) float64 numbers.

        Raises:
            DataError: a missing column, gaps, text or infinite numbers in a regression, a class not seen in training.
        """
        columns = []
        for name in self.names:
            if name not in table.column_names:
                hint = did_you_mean(name, table.column_names)
                raise DataError(f"Target: expected a column {name!r}, got none.{hint}")
            column = table.column(name)
            columns.append(_numbers(column, name) if self.task == "regression" else self._labels(column, name))
        return columns[0] if self.task in ("binary", "multiclass") else np.column_stack(columns)

    def decisions(self, y_hat: Array) -> Array:
        """Indices of `classes` from probabilities: the largest of several (N,), else 1 from ½ on (N, units)."""
        return y_hat.argmax(axis=1) if self.task == "multiclass" else (y_hat >= 0.5).astype(np.int64)

    def decode(self, y_hat: Array, decisions: Array | None = None) -> dict[str, Array | list[Class]]:
        """The columns of a table of predictions, from the output (N, units).

        Regression: each target in its own units. Otherwise each target's class and its probabilities, named
        `target=class`. `decisions` are indices of `classes`, (N,) or for multilabel (N, k); without them it is
        the most probable class.
        """
        if self.task == "regression":
            y = y_hat * np.array(self.scale) + np.array(self.mean)
            return {name: y[:, j] for j, name in enumerate(self.names)}
        if decisions is None:
            decisions = self.decisions(y_hat)
        values, chosen = self.values, decisions.reshape(len(y_hat), -1)
        result: dict[str, Array | list[Class]] = {}
        for j, name in enumerate(self.names):
            result[name] = [values[int(k)] for k in chosen[:, j]]
            p = y_hat if self.task == "multiclass" else np.column_stack((1 - y_hat[:, j], y_hat[:, j]))
            result |= {f"{name}={label}": p[:, k] for k, label in enumerate(self.classes)}
        return result

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; floats are exact."""
        record = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}

    @staticmethod
    def from_json(value: object) -> Target:
        """The target that `to_json` described.

        Raises:
            ModelFileError: missing or unknown entries, wrong types, numbers that are not finite, sizes that do
                not fit the task.
        """
        target: Target = from_plain(Target, value, "target")
        columns, classes = len(target.names), len(target.classes)
        fits = {
            "binary": columns == 1 and classes == 2,
            "multiclass": columns == 1 and classes > 2,
            "multilabel": columns > 1 and classes == 2,
            "regression": columns >= 1 and classes == 0 and min(target.scale, default=0.0) > 0,
        }[target.task]
        standardised = columns if target.task == "regression" else 0
        distinct = len(set(target.names)) == columns and len(set(target.classes)) == classes
        if not (fits and distinct and len(target.mean) == len(target.scale) == standardised):
            raise ModelFileError(f"target: expected names, classes and scales that fit the task {target.task}.")
        try:
            _ = target.values
        except ValueError:
            raise ModelFileError(f"target.classes: expected texts of the kind {target.kind}.") from None
        return target

    def _labels(self, column: pa.ChunkedArray, name: str) -> Array:
        """(N,) int64 indices of `classes`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        text = as_text(column, name)
        _check_gaps(text.is_null().to_numpy(), name)
        index = pc.index_in(text, value_set=pa.array(self.classes, pa.string()))
        if index.null_count:
            row = first_row(index.is_null())
            known = ", ".join(map(repr, self.classes[:25])) + (" …" if len(self.classes) > 25 else "")
            raise DataError(
                f"Target {name!r}: expected one of the classes seen in training ({known}), got "
                f"{text[row].as_py()!r:.40} at row {row + 1}. Correct or remove such rows, or train again with them."
            )
        return np.asarray(index.to_numpy(), dtype=np.int64)


def infer_target(
    table: pa.Table,
    names: Sequence[str],
    task: Literal["classification", "regression"] | None = None,
    standardise: bool = True,
    weights: Array | None = None,
) -> Target:
    """Learn from the training rows what the columns `names` ask for.

    One column of text or booleans is a classification; so is one of whole numbers with two distinct values, or
    with at most 20 and at least 5 rows for each; other numbers are a regression. Several columns of booleans or
    0 and 1 are multilabel, several of other numbers a regression. `task` overrules. `standardise` makes the targets
    of a regression have mean 0 and standard deviation 1; without it they are divided by their mean if it is positive.
    `weights` (N,) count in these means.

    Raises:
        ParameterError: no name, an unknown or a repeated one, an unknown task.
        DataError: gaps, dates, text or infinite numbers in a regression, a constant target, too many classes,
            or columns that do not go together.
    """
    if not names:
        raise ParameterError("Target: expected at least one column, got none.")
    for name in names:
        if name not in table.column_names:
            raise unknown_name("Target", name, table.column_names)
    if len(set(names)) != len(names):
        raise ParameterError(f"Target: expected each column once, got {', '.join(map(repr, names))}.")
    if task not in (None, "classification", "regression"):
        raise unknown_name("Task", task, ("classification", "regression"))
    if not table.num_rows:
        raise DataError("Target: expected rows of data, got none.")
    columns = {name: table.column(name) for name in names}
    for name, column in columns.items():
        _check_gaps(as_text(column, name).is_null().to_numpy(), name)
        if kind_of(column, name) == "date":
            raise DataError(
                f"Target {name!r}: expected numbers or classes, got dates. Turn them into a number, such as days."
            )
    if task is None:
        task = _guess(columns)
    if task == "regression":
        return _fit_regression(columns, standardise, weights)
    if len(columns) > 1:
        return _fit_multilabel(columns)
    return _fit_classes(*columns.popitem())


def _guess(columns: dict[str, pa.ChunkedArray]) -> Literal["classification", "regression"]:
    """The task, from the kinds of the columns and their distinct values."""

    kinds = {name: kind_of(column, name) for name, column in columns.items()}
    distinct = {name: len(column.unique()) for name, column in columns.items()}
    if len(columns) > 1:
        if all(_is_label(column) for column in columns.values()):
            return "classification"
        if set(kinds.values()) == {"number"} and max(distinct.values()) > 2:
            return "regression"
        raise DataError(
            f"Targets {', '.join(map(repr, columns))}: expected several columns to be all numbers, or all true/false "
            f"or 0/1, got {', '.join(kinds.values())}. Train one model for each."
        )
    ((name, column),) = columns.items()
    if kinds[name] == "category":
        mostly_numbers(as_text(column, name), name, "Correct it, or ask for classes (--task classification).")
    if kinds[name] != "number":
        return "classification"
    few = distinct[name] <= 2 or distinct[name] <= min(MAX_NUMBER_CLASSES, len(column) / MIN_ROWS_PER_CLASS)
    return "classification" if few and _whole(column) else "regression"


def _whole(column: pa.ChunkedArray) -> bool:
    """Whether a column of numbers holds whole numbers only."""
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        values = np.asarray(column.to_numpy())
        return bool((values == np.round(values)).all())
    return bool(pa.types.is_integer(column.type))


def _is_label(column: pa.ChunkedArray) -> bool:
    """Whether a column holds only true and false, or only the whole numbers 0 and 1."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        return True
    return bool(pa.types.is_integer(column.type)) and set(column.unique().to_pylist()) <= {0, 1}


def _fit_regression(columns: dict[str, pa.ChunkedArray], standardise: bool, weights: Array | None) -> Target:
    values = np.column_stack([_numbers(column, name) for name, column in columns.items()])
    for name, y in zip(columns, values.T, strict=True):
        if y.min() == y.max():
            raise _constant(name, float(y[0]))
    means = np.average(values, axis=0, weights=weights)
    spread = np.sqrt(np.average((values - means) ** 2, axis=0, weights=weights))
    spread = np.where(spread > 0, spread, values.std(axis=0))  # 0 where the rows of any weight have one value
    mean = tuple(map(float, means if standardise else np.zeros(len(columns))))
    scale = tuple(map(float, spread if standardise else np.where(means > 0, means, 1.0)))
    return Target("regression", tuple(columns), "number", (), mean, scale)


def _fit_multilabel(columns: dict[str, pa.ChunkedArray]) -> Target:
    import pyarrow as pa

    for name, column in columns.items():
        if not _is_label(column):
            raise DataError(
                f"Target {name!r}: expected only true/false or 0/1, as classification with several targets needs, "
                f"got values of the type {column.type}. Train one model for each target."
            )
        if len(column.unique()) == 1:
            raise _constant(name, column[0].as_py())
    boolean = [bool(pa.types.is_boolean(column.type)) for column in columns.values()]
    if any(boolean) and not all(boolean):
        raise DataError(
            f"Targets {', '.join(map(repr, columns))}: expected all to be true/false or all 0/1, got both. "
            "Write them in one way."
        )
    classes = ("false", "true") if boolean[0] else ("0", "1")
    return Target("multilabel", tuple(columns), "boolean" if boolean[0] else "integer", classes, (), ())


def _fit_classes(name: str, column: pa.ChunkedArray) -> Target:
    text = as_text(column, name)
    kind = _class_kind(column)
    classes = sorted(text.unique().to_pylist(), key=lambda label: _restore(label, kind))
    if len(classes) == 1:
        raise _constant(name, classes[0])
    if len(classes) > max(2, len(text) / 2) or (kind == "number" and len(classes) > MAX_NUMBER_CLASSES):
        remedy = (
            "Name another column." if kind == "text" else "Name another column, or ask for numbers (--task regression)."
        )
        raise DataError(
            f"Target {name!r}: expected a few classes, got {len(classes)} distinct values in {len(text)} rows, which "
            f"looks like {'an identifier' if kind == 'text' else 'a measured number or an identifier'}. {remedy}"
        )
    return Target("binary" if len(classes) == 2 else "multiclass", (name,), kind, tuple(classes), (), ())


def _class_kind(column: pa.ChunkedArray) -> ClassKind:
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind):
        return "integer"
    return "number" if types.is_floating(kind) or types.is_decimal(kind) else "text"


def _restore(text: str, kind: ClassKind) -> Any:
    """A class from its text. Raises ValueError: a text that is none of this kind."""
    if kind == "boolean":
        return bool(("false", "true").index(text))
    return {"text": str, "integer": int, "number": float}[kind](text)


def _numbers(column: pa.ChunkedArray, name: str) -> Array:
    """(N,) float64 without gaps."""
    values = numbers(column, name)
    _check_gaps(np.isnan(values), name)
    return values


def _check_gaps(gap: Array, name: str) -> None:
    if gap.any():
        rows = [str(i + 1) for i in np.flatnonzero(gap)]
        shown = ", ".join(rows[:5]) + (" …" if len(rows) > 5 else "")
        raise DataError(
            f"Target {name!r}: expected a value in every row, got {len(rows)} gap{'s' * (len(rows) > 1)} "
            f"(row {shown}). Fill them, or remove these rows."
        )


def _constant(name: str, value: object) -> DataError:
    return DataError(
        f"Target {name!r}: expected at least two different values, got {value!r:.40} in every row to learn from. "
        "Name another column, or give more rows."
    )
