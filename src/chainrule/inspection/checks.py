"""What a verification found: a check compares numbers, a report names the wrong formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from .numeric import Direction, Function, Numeric, along, complex_step

COMPLEX, CENTRAL, EXACT = 1e-9, 1e-6, 1e-10  # limits of relative errors, by witness
FLOOR = 1e-3  # numbers below this share of the typical size are compared by their difference
POINTS = 4  # single places at which differences are taken too
WHOLE, LOOP = "whole gradient", "the backward loop"

Label = Callable[[tuple[int, ...]], str]


@dataclass(frozen=True)
class Check:
    """One factor against one witness.

    Attributes:
        factor: what is checked, such as "activation tanh, derivative" or "layer 1 (Dense 2 → 3, tanh), ∂C/∂W".
        witness: what it is compared with.
        error: the largest relative error. limit: what it may be.
        where: the worst place, such as "layer 1, W[3, 2]: analytic 0.1182, numeric 0.1190".
        ok: whether the error is within the limit.
        ratio: analytic over numeric, where it is not 1 but the same at all places; else None.
        rests_on: other factors which, if they fail, explain that this one does.
    """

    factor: str
    witness: str
    error: float
    limit: float
    where: str
    ok: bool
    ratio: float | None = None
    rests_on: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.where}, relative error {self.error:.1e} (limit {self.limit:.0e})"


@dataclass(frozen=True, repr=False)
class Report:
    """What a verification found.

    Attributes:
        checks: every check that was made. notes: what was left out, and why.
    """

    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check is within its limit."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks beyond their limits."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def blame(self) -> tuple[str, ...]:
        """The failing factors that no other failing factor explains, and nothing if all is well.

        Where every factor is right and yet the whole gradient is wrong, it is "the backward loop".
        """
        return tuple(LOOP if factor == WHOLE else factor for factor in self._blamed())

    def _blamed(self) -> list[str]:
        wrong = {check.factor for check in self.failed}
        return list(dict.fromkeys(check.factor for check in self.failed if not check.rests_on & wrong))

    @property
    def message(self) -> str:
        """The worst check of each blamed factor, a line each, or that all is well."""
        if self.ok:
            return f"All {len(self.checks)} checks passed."
        worst = [max((c for c in self.failed if c.factor == factor), key=_excess) for factor in self._blamed()]
        return "\n".join(f"{check.factor}, by {check.witness}: {check}" for check in worst)

    def __repr__(self) -> str:
        factors: dict[str, list[Check]] = {}
        for check in self.checks:
            factors.setdefault(check.factor, []).append(check)
        width = max((len(factor) for factor in factors), default=0)
        lines = [f"Report: {len(self.checks)} checks of {len(factors)} factors, {len(self.failed)} beyond their limits"]
        for factor, checks in factors.items():
            worst = max(checks, key=_excess)
            mark, tail = ("ok  ", "") if worst.ok else ("FAIL", f": {worst.where}")
            by = ", ".join(dict.fromkeys(check.witness for check in checks))
            lines.append(f"  {mark} {factor:<{width}}  {worst.error:7.1e} (limit {worst.limit:.0e})  {by}{tail}")
        lines += [f"  note: {note}" for note in self.notes]
        if not self.ok:
            lines += [f"Wrong: {', '.join(self.blame)}", self.message]
        return "\n".join(lines)


def _excess(check: Check) -> float:
    """How far a check is towards its limit or beyond."""
    return check.error / check.limit if check.limit else check.error


def compare(
    factor: str,
    witness: str,
    analytic: Any,
    numeric: Any,
    limit: float,
    label: Label,
    floor: Any = 0.0,
    rests_on: Sequence[str] = (),
) -> Check:
    """|analytic − numeric| / max(|analytic|, |numeric|, floor) at its worst place; an infinite floor excuses a place."""
    a, n = np.asarray(analytic), np.asarray(numeric)
    rest = frozenset(rests_on) - {factor}
    if a.shape != n.shape:
        return Check(factor, witness, np.inf, limit, f"expected shape {n.shape}, got {a.shape}", False, None, rest)
    if a.size == 0:
        return Check(factor, witness, 0.0, limit, "nothing to compare", True, None, rest)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(n)), floor)
    error = np.where(np.isinf(floor) | (a == n), 0.0, np.abs(a - n) / np.maximum(scale, np.finfo(float).tiny))
    error = np.where(np.isnan(error), np.inf, error)
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), a.shape))
    ok = bool(error[place] <= limit)
    ratio = None if ok else common_factor(a, n, scale)
    where = f"{label(place)}: analytic {a[place]:.6g}, numeric {n[place]:.6g}"
    if ratio is not None:
        where += f"; analytic is {ratio:.3f} times numeric"
    return Check(factor, witness, float(error[place]), limit, where, ok, ratio, rest)


def common_factor(analytic: Array, numeric: Array, scale: Array) -> float | None:
    """The one number that analytic is of numeric, where there is one: at all places that count, to 4 digits."""
    size = np.abs(numeric)
    counts = np.isfinite(analytic) & np.isfinite(scale) & (size > 0) & (size >= FLOOR * size.max(initial=0.0))
    if not counts.any():
        return None
    ratios = analytic[counts] / numeric[counts]
    k = float(np.median(ratios))
    slack = 1e-4 * max(abs(k), 1e-4)
    return k if np.abs(ratios - k).max() <= slack and abs(k - 1) > 10 * slack else None


def both(
    factor: str, analytic: Array, numeric: Numeric, label: Label, floor: Any = 0.0, rests_on: Sequence[str] = ()
) -> Iterator[Check]:
    """An analytic derivative against the complex step, where there is one, and against differences."""
    if numeric.complex_step is not None:
        yield compare(factor, "complex step", analytic, numeric.complex_step, COMPLEX, label, floor, rests_on)
    # Where a second derivative jumps, what extrapolation leaves is 14 times the error that it shows.
    doubt = np.maximum(floor, 20 * numeric.error / CENTRAL)
    yield compare(factor, "central differences", analytic, numeric.central, CENTRAL, label, doubt, rests_on)


def both_along(
    factor: str,
    f: Function,
    x: Array,
    analytic: Array,
    step: Callable[[int], tuple[Array, Any]],
    few: Sequence[int],
    label: Label,
    floor: Callable[[Array, Sequence[int]], Any],
    rests_on: Sequence[str],
) -> Iterator[Check]:
    """The derivatives (…, K) of f at x along `step(k)`: by complex steps along all, by differences along a `few`.

    Differences cost twenty times as much, so they are taken along all only where there is no complex step. `floor` gets
    the numeric derivatives along some of the steps, and which.
    """
    every = range(analytic.shape[-1])
    numeric = along(f, x, (step(k) for k in few))
    if numeric.complex_step is not None:
        exact = np.stack([np.asarray(complex_step(f, x, *step(k))) for k in every], axis=-1)
        yield compare(factor, "complex step", analytic, exact, COMPLEX, label, floor(exact, every), rests_on)
    elif len(few) < len(every):
        few, numeric = every, along(f, x, (step(k) for k in every))
    there: Label = lambda i: label((*i[:-1], few[i[-1]]))  # noqa: E731
    numeric = numeric._replace(complex_step=None)
    yield from both(factor, analytic[..., list(few)], numeric, there, floor(numeric.central, few), rests_on)


def both_in(
    factor: str,
    f: Function,
    x: Array,
    gradient: Array,
    ways: Sequence[Direction],
    floors: Array,
    rests_on: Sequence[str],
) -> Iterator[Check]:
    """The gradient (n,) of a number f at x (n,) along directions, by differences along some of them and the last."""
    last = len(ways) - 1
    few = [*range(0, last, max(1, last // POINTS)), last]
    analytic, label = np.array([d.dot(gradient) for d in ways]), lambda i: ways[i[0]].name
    floor = lambda _, which: floors[list(which)]  # noqa: E731
    yield from both_along(factor, f, x, analytic, lambda k: ways[k].step(x.size), few, label, floor, rests_on)
