"""Derivatives by number: the complex step, and central differences with Richardson's extrapolation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array

TINY = 1e-30
STEPS = (4e-3, 1e-4, 4e-6)  # of central differences

Function = Callable[[Array], Array]


class Numeric(NamedTuple):
    """A derivative by number: the complex step (None where f does not take one), differences, and their error."""

    complex_step: Array | None
    central: Array
    error: Array


class Direction(NamedTuple):
    """A way to go from a vector: `by` at the places `at` and 0 elsewhere, in steps of about `size`."""

    name: str
    at: slice
    by: Any = 1.0
    size: float = 1.0

    def step(self, n: int) -> tuple[Array, float]:
        """The vector (n,) of a step, and its size."""
        d = np.zeros(n)
        d[self.at] = self.size * self.by
        return d, self.size

    def dot(self, v: Array) -> Any:
        """Its product with a vector."""
        return np.sum(self.by * v[self.at])

    def reach(self, v: Array) -> Any:
        """The same without cancellation: the product of the absolute values."""
        return np.sum(np.abs(self.by * v[self.at]))


def complex_step(f: Function, x: Array, step: Array, size: Any = 1.0) -> Array | None:
    """Im f(x + ih step)/(h size), h = 1e-30, exact to rounding (Squire & Trapp 1998); None where f takes no complex."""
    try:
        with warnings.catch_warnings():  # a cast to real is noticed below
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            value = np.asarray(f(x + 1j * TINY * step))
    except Exception:  # whatever a function of one's own does with complex numbers, it takes none
        return None
    return value.imag / TINY / size if value.dtype.kind == "c" else None


def richardson(f: Function, x: Array, step: Array, size: Any = 1.0) -> tuple[Array, Array]:
    """Central differences with h, h/2, h/4 extrapolated to the order h⁶, from the best of three h, and their error."""
    best = np.full_like(np.asarray(f(x), dtype=np.float64), np.nan)
    error = np.full_like(best, np.inf)
    for h in STEPS:
        rows, largest = [], np.zeros_like(best)
        for d in (h, h / 2, h / 4):
            up, down = np.asarray(f(x + d * step)), np.asarray(f(x - d * step))
            largest = np.maximum(largest, np.maximum(np.abs(up), np.abs(down)))
            rows.append((up - down) / (2 * d * size))
        first = [(4 * rows[1] - rows[0]) / 3, (4 * rows[2] - rows[1]) / 3]
        found = (16 * first[1] - first[0]) / 15
        doubt = np.abs(found - first[1]) + 8 * np.finfo(float).eps * largest / (h / 4 * np.abs(size))
        better = np.isfinite(found) & (doubt < error)
        best, error = np.where(better, found, best), np.where(better, doubt, error)
    return np.nan_to_num(best), error


def differentiate(f: Function, x: Array, step: Array, size: Any = 1.0) -> Numeric:
    """The derivative of f at x along step/size; `size` has the shape of f's values or broadcasts to it.

    The complex step is dropped where the differences contradict it: then f is not analytic as it is written.
    """
    central, error = richardson(f, x, step, size)
    exact = complex_step(f, x, step, size)
    if exact is None or not np.isfinite(exact).all():
        return Numeric(None, central, error)
    off = np.abs(exact - central) > 1e-4 * np.maximum(np.abs(exact), np.abs(central)) + 100 * error
    return Numeric(None if (off & np.isfinite(error)).any() else exact, central, error)


def along(f: Function, x: Array, steps: Iterable[tuple[Array, Any]]) -> Numeric:
    """The derivatives of f at x along steps, each with its size, side by side on a new last axis."""
    parts = [differentiate(f, x, *step) for step in steps]
    exact = [p.complex_step for p in parts if p.complex_step is not None]
    return Numeric(
        np.stack(exact, axis=-1) if len(exact) == len(parts) else None,
        np.stack([p.central for p in parts], axis=-1),
        np.stack([p.error for p in parts], axis=-1),
    )
