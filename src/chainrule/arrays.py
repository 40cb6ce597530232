"""Arrays: what formulas may call, and the checks at the border of the library.

A formula is written once, over a namespace `xp` and a number type `real`, and bound to the array that it
meets: NumPy reals, or NumPy complex numbers for complex-step differentiation, where |z| and sign must be
the analytic continuations and not the modulus.
"""

from __future__ import annotations

import datetime
import math
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError, ParameterError, ShapeError

Array = npt.NDArray[Any]
DTYPES = ("float64", "float32")


class Names(type):
    """A namespace that says what it holds to whoever asks for something else."""

    def __getattr__(cls, name: str) -> Any:
        known = sorted(name for name in dir(Namespace) if not name.startswith("_"))
        raise AttributeError(f"Formula: expected one of xp's {', '.join(known)}, got {name!r}. np.{name} may do too.")


class Namespace(metaclass=Names):
    """What a formula may call: elementwise functions, and reductions over the last axis."""

    exp = np.exp
    expm1 = np.expm1
    log = np.log
    log1p = np.log1p
    sqrt = np.sqrt
    tanh = np.tanh
    abs = np.abs
    sign = np.sign
    where = np.where
    maximum = np.maximum
    minimum = np.minimum
    zeros_like = np.zeros_like
    ones_like = np.ones_like

    @staticmethod
    def erf(z: Array) -> Array:
        """The error function; SciPy's, loaded when a formula first asks for it."""
        from scipy.special import erf

        return erf(z)

    @staticmethod
    def eye(n: int, real: type) -> Array:
        """The n × n identity matrix."""
        return np.eye(n, dtype=real)

    @staticmethod
    def row_max(z: Array) -> Array:
        """Maximum over the last axis, kept as an axis of length 1."""
        return z.max(axis=-1, keepdims=True)

    @staticmethod
    def row_sum(z: Array) -> Array:
        """Sum over the last axis, kept as an axis of length 1."""
        return z.sum(axis=-1, keepdims=True)


class ComplexNamespace(Namespace):
    """The same names, analytic in the complex step: |z| is −z left of zero.

    NumPy's comparisons, maximum and minimum order complex numbers by their real parts, and equal ones by the imaginary:
    at z = 0 a step of 1e-30 along the imaginary axis takes the side to which it leads. So do |z| and sign.
    """

    @staticmethod
    def abs(z: Array) -> Array:  # type: ignore[override]
        return np.where(z < 0, -z, z)

    @staticmethod
    def log1p(z: Array) -> Array:  # type: ignore[override]
        """To first order in the imaginary part, where NumPy's complex log1p loses the digits of small values."""
        return np.log1p(np.real(z)) + 1j * (np.imag(z) / (1 + np.real(z)))

    @staticmethod
    def sign(z: Array) -> Array:  # type: ignore[override]
        return np.where(z > 0, 1.0, np.where(z < 0, -1.0, 0.0))


def namespace(z: Array) -> tuple[type[Namespace], type]:
    """The pair (xp, real) for an array: its functions and the type of its literals."""
    dtype = z.dtype
    if dtype.kind == "c":
        return ComplexNamespace, np.float64
    return Namespace, dtype.type


LINE = 64  # bytes of a cache line


def aligned(shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Zeros that begin at a cache line, so that vector instructions take whole ones."""
    size, dtype = math.prod(shape) if isinstance(shape, tuple) else shape, np.dtype(dtype)
    memory = np.zeros(size + LINE // dtype.itemsize, dtype)
    first = -memory.ctypes.data % LINE // dtype.itemsize
    return memory[first : first + size].reshape(shape)


def frozen(array: Array) -> Array:
    """The same memory, in which nobody can write."""
    view = array.view()
    view.flags.writeable = False
    return view


def check_dtype(where: str, dtype: npt.DTypeLike) -> np.dtype[Any]:
    """float64 or float32 as a NumPy dtype.

    Raises:
        ParameterError: any other type.
    """
    try:
        resolved = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        resolved = None
    if resolved is None or resolved.name not in DTYPES:
        raise ParameterError(f"{where}: expected dtype 'float64' or 'float32', got {dtype!r}.")
    return resolved


def check_number(
    where: str, name: str, value: object, low: float = 0.0, high: float = np.inf, *, above: bool = False
) -> None:
    """Check a setting: a finite number from `low` (with `above`, greater than it) to below `high`.

    Raises:
        ParameterError: anything else.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if number and (low < value < high if above else low <= value < high):  # type: ignore[operator]
        return
    interval = (
        f"above {low:g}" if above else f"from {low:g} to below {high:g}" if high < np.inf else f"of at least {low:g}"
    )
    raise ParameterError(f"{where}: expected {name} {interval}, got {value!r}.")


def check_count(where: str, name: str, value: object, least: int = 1) -> None:
    """Check a setting: a whole number of at least `least`.

    Raises:
        ParameterError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ParameterError(f"{where}: expected {name} to be a whole number of at least {least}, got {value!r}.")


def read_array(where: str, name: str, value: npt.ArrayLike) -> Array:
    """What NumPy makes of a value, where that loses nothing.

    Raises:
        DataError: complex numbers, dates, masked or sparse ones, or rows of different lengths.
    """
    sparse = hasattr(value, "toarray")
    try:
        if sparse or (isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value)):
            raise TypeError("masked numbers. Remove or fill such rows first")
        array = np.asarray(value)
        if array.dtype.kind == "c":
            raise TypeError("complex numbers")
        times = np.datetime64 | np.timedelta64 | datetime.date | datetime.timedelta
        if array.dtype.kind in "mM" or (array.dtype.kind == "O" and any(isinstance(v, times) for v in array.flat)):
            raise TypeError("dates or durations")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # PyTorch refuses by a RuntimeError
        what = "a sparse matrix. Pass .toarray()" if sparse else f"something else ({error})"
        raise DataError(f"{where}: expected {name} to be a matrix of numbers, got {what}.") from None
    return array


def check_matrix(where: str, name: str, value: npt.ArrayLike, columns: int | None, dtype: np.dtype[Any]) -> Array:
    """A finite C-ordered (N, columns) matrix of `dtype`; one dimension counts as one column.

    Raises:
        ShapeError: not a matrix, no rows, or another number of columns.
        DataError: not numbers, or not finite (the first bad row and column are named).
    """
    given = read_array(where, name, value)
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is named below
            matrix = np.ascontiguousarray(given, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: expected {name} to be a matrix of numbers, got something else ({error}).") from None
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2:
        raise ShapeError(
            f"{where}: expected {name} with 2 axes (rows, columns), got {matrix.ndim} axes of sizes {matrix.shape}."
        )
    if matrix.shape[0] == 0:
        raise ShapeError(f"{where}: expected {name} with at least one row, got none.")
    if columns is not None and matrix.shape[1] != columns:
        raise ShapeError(
            f"{where}: expected {name} with {columns} columns, got {matrix.shape[1]} (shape {matrix.shape})."
        )
    with np.errstate(all="ignore"):
        total = matrix.sum()  # finite only if every element is; this needs no memory
    if not (np.isfinite(total) or np.isfinite(matrix).all()):
        row, column = (int(i) for i in np.argwhere(~np.isfinite(matrix))[0])
        got, fix = f"{matrix[row, column]}", "Remove or fill such rows first."
        element = np.float64(np.asarray(given).reshape(matrix.shape)[row, column])
        if np.isfinite(element):
            got, fix = f"{element:g}, which {dtype.name} cannot hold,", "Scale the numbers first."
        raise DataError(f"{where}: expected finite numbers in {name}, got {got} at row {row}, column {column}. {fix}")
    return matrix


def check_weights(where: str, value: npt.ArrayLike | None, rows: int) -> Array:
    """Sample weights (N,) in float64: finite, none negative, not all zero; all ones if none are given.

    Raises:
        ShapeError: not one weight per row.
        DataError: negative, not finite, or all zero.
    """
    if value is None:
        return np.ones(rows)
    given = read_array(where, "sample weights", value)
    try:
        weights = np.ascontiguousarray(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: expected sample weights to be numbers, got something else.") from None
    if weights.shape != (rows,):
        raise ShapeError(f"{where}: expected {rows} sample weights, one per row, got shape {weights.shape}.")
    bad = ~np.isfinite(weights) | (weights < 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{where}: expected finite sample weights of at least 0, got {weights[row]} at row {row}.")
    if not weights.any():
        raise DataError(f"{where}: expected some sample weight above 0, got all zero.")
    with np.errstate(over="ignore"):
        if not np.isfinite(weights.sum()):
            raise DataError(
                f"{where}: expected sample weights with a finite sum, got up to {weights.max():g}. Scale them."
            )
    return weights


def all_finite(vector: Array) -> bool:
    """Whether every element is finite; one pass in the common case.

    A sum of squares is finite only if every element is. It may overflow although every element is finite,
    so only then each element is looked at.
    """
    if np.isfinite(np.dot(vector, vector)):
        return True
    return bool(np.isfinite(vector).all())
