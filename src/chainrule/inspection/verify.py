"""Verification: every factor of the gradient against independent witnesses, so that the wrong formula is named.

A gradient is a product of factors: the layers' maps, g′, ℒ′, ∇φ, the penalty. Each is checked by itself, at the
network's own values and at a few points beside them, before the whole is. The witnesses:

- complex step: Im f(x + ih)/h with h = 1e-30, exact to rounding (Squire & Trapp 1998);
- central differences with Richardson's extrapolation, which ask nothing of f and say how far they can be trusted;
- the record's formula text, differentiated by SymPy and evaluated with 50 digits, where SymPy is installed;
- plain sums written again, for what has no derivative: the maps, φ, the penalty, label smoothing;
- PyTorch's automatic differentiation of the whole cost, where it is installed and all records are the catalogue's.

A check says on which other factors it rests. `Report.blame` names the failing factors that rest on no failing one.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arrays import Array, check_matrix
from ..core.architecture import Architecture, Masks, Values, forward
from ..core.backward import gradient
from ..core.cost import Cost
from ..core.layers import Dense, Dropout, Layer, Parameters, Scale
from ..counter import check_seed
from ..errors import ShapeError
from ..formulas import activations, aggregators, losses
from ..formulas.activations import Activation
from ..formulas.losses import Loss, on_logits
from ..formulas.record import Record

COMPLEX, CENTRAL, EXACT = 1e-9, 1e-6, 1e-10  # limits of relative errors, by witness
FLOOR = 1e-3  # numbers below this share of the typical size are compared by their difference
ROWS, COORDINATES, COLUMNS, POINTS = 128, 400, 24, 8  # how many are looked at where there are more
NEAR = 1e-5  # nearer than this to a kink a row takes no part
TINY = 1e-30
MANY = 20_000  # parameters; from here on fewer of them are looked at one by one
SPREAD = np.array([-2.9, -1.7, -0.9, -0.35, 0.15, 0.55, 1.3, 2.3])
WHOLE, LOOP = "whole gradient", "the backward loop"

Function = Callable[[Array], Array]
Label = Callable[[tuple[int, ...]], str]


# -- results ----------------------------------------------------------------------------------------------------------


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
    *,
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
    difference = np.abs(a - n)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(n)), floor)
    error = np.where(np.isinf(floor) | (a == n), 0.0, difference / np.maximum(scale, np.finfo(float).tiny))
    error = np.where(np.isnan(error), np.inf, error)
    worst = np.unravel_index(int(np.argmax(error)), a.shape)
    place = tuple(int(i) for i in worst)
    ok = bool(error[place] <= limit)
    ratio = None if ok else common_factor(a, n, scale * np.ones_like(error))
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


def row_column(name: str = "") -> Label:
    """Labels such as "row 3, unit 2"."""

    def label(place: tuple[int, ...]) -> str:
        parts = [f"{what} {i}" for what, i in zip(("row", "unit", "by unit"), place, strict=False)]
        return ", ".join([*([name] if name else []), *parts])

    return label


# -- derivatives by number --------------------------------------------------------------------------------------------


class Numeric(NamedTuple):
    """A derivative by number: the complex step (None where f does not take one), differences, and their error."""

    complex_step: Array | None
    central: Array
    error: Array


def differentiate(f: Function, x: Array, step: Array, size: Any = 1.0) -> Numeric:
    """The derivative of f at x along step/size; `size` has the shape of f's values or broadcasts to it.

    The complex step is dropped where the differences contradict it: then f is not analytic as it is written.
    """
    central, error = richardson(f, x, step, size)
    try:
        with warnings.catch_warnings():  # a cast to real is noticed below
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            value = np.asarray(f(x + 1j * TINY * step))
    except Exception:  # whatever a function of one's own does with complex numbers, it takes none
        return Numeric(None, central, error)
    if value.dtype.kind != "c":
        return Numeric(None, central, error)
    exact = value.imag / TINY / size
    off = np.abs(exact - central) > 1e-4 * np.maximum(np.abs(exact), np.abs(central)) + 100 * error
    trusted = np.isfinite(exact).all() and not (off & np.isfinite(error)).any()
    return Numeric(exact if trusted else None, central, error)


def richardson(f: Function, x: Array, step: Array, size: Any) -> tuple[Array, Array]:
    """Central differences with h, h/2, h/4 extrapolated to the order h⁶, from the best of three h, and their error."""
    best = np.full_like(np.asarray(f(x), dtype=np.float64), np.nan)
    error = np.full_like(best, np.inf)
    for h in (4e-3, 1e-4, 4e-6):
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


def both(
    factor: str,
    analytic: Array,
    numeric: Numeric,
    label: Label,
    *,
    floor: Any = 0.0,
    rests_on: Sequence[str] = (),
) -> Iterator[Check]:
    """An analytic derivative against the complex step, where there is one, and against differences."""
    if numeric.complex_step is not None:
        yield compare(
            factor, "complex step", analytic, numeric.complex_step, COMPLEX, label, floor=floor, rests_on=rests_on
        )
    doubt = np.maximum(floor, 10 * numeric.error / CENTRAL)
    yield compare(
        factor, "central differences", analytic, numeric.central, CENTRAL, label, floor=doubt, rests_on=rests_on
    )


def columnwise(f: Function, x: Array, columns: Sequence[int]) -> Numeric:
    """∂f/∂x_k for some columns k of x (M, n), whose rows do not touch each other; f (M, …) → (…, columns)."""
    parts = []
    for k in columns:
        step = np.zeros_like(x)
        step[:, k] = np.maximum(1.0, np.abs(x[:, k]))
        out = np.ndim(f(x))
        parts.append(differentiate(f, x, step, step[:, k].reshape(-1, *[1] * (out - 1))))
    exact = [p.complex_step for p in parts if p.complex_step is not None]
    return Numeric(
        np.stack(exact, axis=-1) if len(exact) == len(parts) else None,
        np.stack([p.central for p in parts], axis=-1),
        np.stack([p.error for p in parts], axis=-1),
    )


# -- formula text -----------------------------------------------------------------------------------------------------


def optional(name: str) -> Any:
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


@lru_cache(maxsize=256)
def parsed(formula: str, parameters: tuple[tuple[str, float], ...], variable: str, order: int) -> Any:
    """A formula text and its derivative by a variable as a SymPy expression; None where SymPy cannot read it."""
    sympy = optional("sympy")
    if sympy is None or not formula:
        return None
    names = {name: sympy.Symbol(name, real=True) for name in ("z", "y_hat", "y")}
    given = {name: sympy.Symbol(name) for name, _ in parameters}
    try:
        text = sympy.sympify(formula, locals=names | given)
        text = text.subs({given[name]: sympy.Float(value, 60) for name, value in parameters})
        free = {str(symbol) for symbol in text.free_symbols}
        return sympy.diff(text, names[variable], order) if order and free <= set(names) else text
    except Exception:  # a text that is no formula is no witness
        return None


def evaluate(expression: Any, largest: float, **values: float) -> float:
    """An expression with 50 digits, rounded; NaN where it is no number, or far out, where cancellation costs minutes."""
    sympy = optional("sympy")
    if max((abs(value) for value in values.values()), default=0.0) > largest:
        return float("nan")
    at = {s: sympy.Float(values[s.name], 60) for s in expression.free_symbols if s.name in values}
    try:
        return float(sympy.re(expression.subs(at).evalf(50)))
    except (TypeError, ValueError):
        return float("nan")


@lru_cache(maxsize=64)
def parsed_rowwise(formula: str, parameters: tuple[tuple[str, float], ...], n: int) -> Any:
    """A formula over a row, z[1] … z[n], as SymPy expressions of k = 1 … n and their Jacobian; None if it is none."""
    sympy = optional("sympy")
    if sympy is None or "[" not in formula:
        return None
    symbols, targets = sympy.symbols(f"z1:{n + 1}", real=True), sympy.symbols(f"y1:{n + 1}", real=True)
    row, y = sympy.IndexedBase("z"), sympy.Symbol("y")
    j, k = sympy.Symbol("j", integer=True), sympy.Symbol("k", integer=True)
    given = {name: sympy.Float(value, 60) for name, value in parameters}
    try:
        text = sympy.sympify(formula, locals={"z": row, "j": j, "k": k, "n": n, "y": y} | given).doit()
        at = {row[m + 1]: symbols[m] for m in range(n)}
        values = [text.subs(k, i + 1).subs(at).subs(y, targets[i]) for i in range(n)]
        return values, [[value.diff(symbol) for symbol in symbols] for value in values]
    except Exception:
        return None


def by_formula(record: Record, z: Array, y: Array | None = None) -> tuple[Array, Array] | None:
    """Values (M, n) and Jacobians (M, n, n) of a formula over rows z (M, n), with targets y, to 50 digits."""
    text = parsed_rowwise(record.formula, record.parameters, z.shape[1])
    if text is None:
        return None
    values, slopes = [], []
    for i, row in enumerate(z):
        at = {f"z{m + 1}": float(v) for m, v in enumerate(row)}
        at |= {} if y is None else {f"y{m + 1}": float(v) for m, v in enumerate(y[i])}
        values.append([evaluate(e, 100, **at) for e in text[0]])
        slopes.append([[evaluate(e, 100, **at) for e in of_one] for of_one in text[1]])
    return np.array(values), np.array(slopes)


# -- the problem ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A network, a batch and a cost, in float64."""

    architecture: Architecture
    theta: Array
    X: Array
    y: Array
    cost: Cost
    s: Array
    mean_weight: float
    masks: Masks | None

    def value(self, theta: Array) -> Any:
        """C at other parameters, real or complex."""
        values = forward(self.architecture, theta, self.X, self.masks)
        found = self.cost.losses(self.architecture.output_activation, values, self.y, self.s, self.mean_weight)
        return found.aggregated + self.cost.penalty.value(self.architecture, theta)

    def gradient(self) -> Array:
        """The gradient under test, (P,)."""
        data = (self.X, self.y, self.cost, self.s, self.mean_weight, self.masks)
        return gradient(self.architecture, self.theta, *data).theta

    def rows(self, chosen: Array) -> Problem:
        """The same with some of the rows; the mean weight stays that of all."""
        masks = None if self.masks is None else [None if m is None else m[chosen] for m in self.masks]
        return replace(self, X=self.X[chosen], y=self.y[chosen], s=self.s[chosen], masks=masks)

    @property
    def values(self) -> Values:
        """The forward pass, with everything kept."""
        return forward(self.architecture, self.theta, self.X, self.masks, keep="all")


def z_and_a(values: Values, number: int) -> tuple[Array, Array]:
    """z and a of a layer."""
    z, a = values.z[number], values.a[number]
    assert z is not None and a is not None
    return z, a


def pick(rng: np.random.Generator, n: int, most: int) -> Array:
    """At most so many of the numbers 0 … n − 1, in order."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def fewer(most: int, size: int) -> int:
    """How many places are looked at: an eighth of `most` where each costs a pass over many parameters."""
    return most if size <= MANY else max(4, most // 8)


def smooth_rows(problem: Problem) -> Array:
    """Which rows lie away from the kinks of activations and loss, and from ties where φ has kinks."""
    values, cost = problem.values, problem.cost
    good = np.ones(len(problem.X), bool)
    for number, layer in enumerate(problem.architecture.layers, 1):
        z, _ = z_and_a(values, number)
        for kink in layer.g.kinks:
            good &= (np.abs(z - kink) > NEAR * np.maximum(1, np.abs(z))).all(axis=1)
    good &= away_from_kinks(cost.loss, values.y_hat, cost.smooth(problem.y)).all(axis=1)
    if cost.aggregate.over_epoch == "batchwise":
        L = cost.losses(
            problem.architecture.output_activation, values, problem.y, problem.s, problem.mean_weight
        ).per_sample
        order = np.argsort(L, kind="stable")
        close = np.diff(L[order]) <= NEAR * np.maximum(1, np.abs(L[order][1:]))
        good[order[1:][close]] = False
    return good


def away_from_kinks(loss: Loss, y_hat: Array, y: Array) -> Array:
    """Where the loss has no kink nearby, shaped like ŷ; kinks are values of ŷ − y, or of yŷ for labels ±1."""
    u = y * y_hat if loss.targets == "sign" else y_hat - y
    good = np.ones(u.shape, bool)
    for kink in loss.kinks:
        good &= np.abs(u - kink) > NEAR * np.maximum(1, np.maximum(np.abs(y_hat), np.abs(y)))
    return good


# -- activations ------------------------------------------------------------------------------------------------------


def check_activation(g: Activation, layers: Sequence[tuple[int, Array]], rng: np.random.Generator) -> Iterator[Check]:
    """A record at the z (N, n) of its layers, and at spread points beside them."""
    for number, own in layers:
        picked = own[pick(rng, len(own), 16)]
        n = own.shape[1]
        spread = np.resize(SPREAD, (len(SPREAD) if n > 1 else 1, n)) if n > 1 else SPREAD[:, None]
        spread = spread + 0.01 * rng.standard_normal(spread.shape)
        z = np.vstack([picked, spread])
        label = row_column(f"layer {number}")
        if g.rowwise:
            yield from check_rowwise(g, z, label, rng)
        else:
            yield from check_elementwise(g, z, len(picked), label, rng)
    if g.kinks and not g.rowwise:
        z = np.array([g.kinks])
        a = g.value(z)
        finite = [np.isfinite(part).all() for part in (a, g.derivative(z, a))]
        error, limit = 0.0 if all(finite) else np.inf, 0.0
        yield Check(f"activation {g}, derivative", "finite at its kinks", error, limit, "at a kink", all(finite))


def check_elementwise(g: Activation, z: Array, own: int, label: Label, rng: np.random.Generator) -> Iterator[Check]:
    """g, g′ and g″ of an elementwise record at z (M, n), whose rows from `own` on are spread points."""
    value, first, second = (f"activation {g}, {part}" for part in ("value", "derivative", "second derivative"))
    for kink in g.kinks:
        z = np.where(np.abs(z - kink) < 10 * NEAR * np.maximum(1, np.abs(z)), kink + 0.5, z)
    a = g.value(z)
    gamma = g.derivative(z, a)
    size = np.maximum(1.0, np.abs(z))
    by_number = differentiate(g.value, z, size, size)
    yield from both(first, gamma, by_number, label, floor=typical(by_number.central, own), rests_on=[value])
    try:
        curved = np.asarray(g.second_derivative(z, a))
    except (IndexError, TypeError, NotImplementedError):
        curved = None
    if curved is not None:
        twice = differentiate(lambda x: g.derivative(x, g.value(x)), z, size, size)
        floor = np.maximum(typical(twice.central, own), typical(by_number.central, own))
        yield from both(second, curved, twice, label, floor=floor, rests_on=[value, first])
    places = [(i, int(rng.integers(z.shape[1]))) for i in pick(rng, len(z), 2 * POINTS)]
    at = tuple(np.array(places).T)
    for order, (name, found) in enumerate(((value, a), (first, gamma), (second, curved))):
        expression = parsed(g.formula, g.parameters, "z", order)
        if expression is None or found is None:
            continue
        wanted = np.array([evaluate(expression, 30, z=float(z[p])) for p in places])
        scale = typical(wanted, 0) + np.abs(z[at]) * 1e-5 * (order == 0)
        scale = np.where(np.isfinite(wanted), scale, np.inf)
        yield compare(
            name,
            "formula, 50 digits",
            found[at],
            wanted,
            EXACT,
            lambda i: f"{label(places[i[0]])}, z = {z[places[i[0]]]:.6g}",
            floor=scale,
            rests_on=[value, first][:order],
        )


def typical(numbers: Array, own: int) -> Array:
    """The size below which numbers are compared by their difference: a share of the largest spread one, at least."""
    spread = np.abs(numbers[own:])
    spread = spread[np.isfinite(spread)]
    return np.asarray(FLOOR * max(1e-3, float(spread.max(initial=0.0))))


def check_rowwise(g: Activation, z: Array, label: Label, rng: np.random.Generator) -> Iterator[Check]:
    """Value, matrix, contraction and its tangent of a record that works on rows, at z (M, n)."""
    value, matrix, contract, tangent = (
        f"activation {g}, {part}" for part in ("value", "matrix", "contraction", "tangent")
    )
    a = g.value(z)
    columns = [int(k) for k in pick(rng, z.shape[1], COLUMNS)]
    by_number = columnwise(g.value, z, columns)
    yield from both(matrix, g.derivative(z, a)[..., columns], by_number, label, floor=FLOOR, rests_on=[value])

    arriving = rng.standard_normal(z.shape)
    by_number = columnwise(lambda x: (arriving * g.value(x)).sum(axis=-1), z, columns)
    found = g.backward(arriving, z, a)
    yield from both(contract, found[:, columns], by_number, label, floor=FLOOR, rests_on=[value])

    R_z = rng.standard_normal(z.shape)
    along = differentiate(lambda x: g.backward(arriving, x, g.value(x)), z, R_z)
    try:
        changed = g.backward_tangent(arriving, z, a, R_z)
        yield from both(tangent, changed, along, label, floor=FLOOR, rests_on=[value, contract, matrix])
    except (IndexError, TypeError, NotImplementedError):
        pass

    n = min(z.shape[1], 4)  # the formula works on rows of any length: a part of one will do
    rows, part = pick(rng, len(z), POINTS // 2), z[:, :n]
    wanted = by_formula(g, part[rows])
    if wanted is not None:
        own = g.value(part)
        parts = (value, own), (matrix, g.derivative(part, own))
        for (name, found), exact in zip(parts, wanted, strict=True):
            where: Label = lambda i: label((int(rows[i[0]]), *i[1:]))  # noqa: E731
            rest = [value] if name == matrix else []
            floor = np.where(np.isfinite(exact), FLOOR, np.inf)
            yield compare(name, "formula, 50 digits", found[rows], exact, EXACT, where, floor=floor, rests_on=rest)


# -- layers -----------------------------------------------------------------------------------------------------------


def check_layer(
    name: str, number: int, layer: Layer, p: Parameters, a_prev: Array, rng: np.random.Generator
) -> Iterator[Check]:
    """A layer's map, backward, gradients, per-sample gradients and norms, for random cotangents at its own a_prev."""
    rows = pick(rng, len(a_prev), 16)
    a_prev = a_prev[rows]
    mask = None
    if isinstance(layer, Dropout):
        mask = layer.mask(rng.random(a_prev.shape), np.dtype(np.float64))
    named, by_W, by_b, by_a, apart, norms = (
        f"{name}, {part}" for part in ("map", "∂C/∂W", "∂C/∂b", "∂C/∂a_prev", "per-sample gradients", "norms")
    )
    z = layer.forward(a_prev, p, mask)
    expected, size = independent_map(layer, a_prev, p, mask)
    if expected is not None:
        label = row_column(f"layer {number}, z")
        yield compare(named, "sums written again", z, expected, EXACT, label, floor=FLOOR * size + TINY)

    R = rng.standard_normal(z.shape)
    columns = [int(k) for k in pick(rng, a_prev.shape[1], fewer(COLUMNS, 0 if p.W is None else p.W.size))]
    by_number = columnwise(lambda x: (R * layer.forward(x, p, mask)).sum(axis=-1), a_prev, columns)
    found = layer.backward(R, p, mask)[:, columns]
    floor = FLOOR * np.maximum(TINY, np.abs(by_number.central).max(initial=0.0))
    label = row_column(f"layer {number}, ∂C/∂a_prev")
    yield from both(by_a, found, by_number, label, floor=floor, rests_on=[named])

    into = Parameters(*(None if part is None else np.full_like(part, np.nan) for part in p))
    layer.gradients(R, a_prev, into)
    for which, (factor, part) in enumerate(((by_W, p[0]), (by_b, p[1]))):
        written = into[which]
        if part is None or written is None:
            continue
        places = [np.unravel_index(int(j), part.shape) for j in pick(rng, part.size, fewer(64, part.size))]
        signs = rng.choice([-1.0, 1.0], part.shape)

        def scored(change: Array, which: int = which, shape: tuple[int, ...] = part.shape) -> Array:
            moved = [q if j != which or q is None else q + change.reshape(shape) for j, q in enumerate(p)]
            return np.asarray((R * layer.forward(a_prev.astype(change.dtype), Parameters(*moved), mask)).sum())

        steps = [one_hot(part.shape, place) for place in places] + [signs]
        numeric = [differentiate(scored, np.zeros(part.shape), step) for step in steps]
        analytic = np.array([(step * written).sum() for step in steps])
        letter = "Wb"[which]

        def label_of(i: tuple[int, ...], places: Any = places, letter: str = letter) -> str:
            at = "" if i[0] == len(places) else f"[{', '.join(str(int(k)) for k in places[i[0]])}]"
            return f"layer {number}, {letter}{at or ', all along random signs'}"

        top = FLOOR * np.maximum(TINY, (np.abs(R).sum(axis=0).max() * max(1e-6, np.abs(a_prev).max(initial=0.0))))
        yield from both(factor, analytic, gathered(numeric), label_of, floor=top, rests_on=[named])

    single = layer.per_sample(R, a_prev)
    square = np.zeros(len(a_prev))
    for which, part in enumerate(p):
        if part is None:
            continue
        rows_of_one = []
        for i in range(len(a_prev)):
            one = Parameters(*(None if q is None else np.zeros_like(q) for q in p))
            layer.gradients(R[i : i + 1], a_prev[i : i + 1], one)
            rows_of_one.append(one[which])
        wanted = np.array(rows_of_one)
        factor, label = (by_W, by_b)[which], row_column(f"layer {number}, {'Wb'[which]}")
        floor = FLOOR * np.abs(wanted).sum(axis=0).max(initial=TINY)
        total: Label = lambda i, name=f"layer {number}, {'Wb'[which]}": f"{name}{list(i)}"  # type: ignore[misc] # noqa: E731
        yield compare(
            factor, "sum over rows", into[which], wanted.sum(axis=0), EXACT, total, floor=floor, rests_on=[named]
        )
        square += (wanted.reshape(len(wanted), -1) ** 2).sum(axis=1)
        floor = FLOOR * np.abs(wanted).max() + TINY
        yield compare(
            apart,
            "gradients of one row",
            single[which],
            wanted,
            EXACT,
            label,
            floor=floor,
            rests_on=[named, by_W, by_b],
        )
    floor = FLOOR * square.max(initial=0.0) + TINY
    yield compare(
        norms,
        "gradients of one row",
        layer.squared_norms(R, a_prev),
        square,
        EXACT,
        row_column(f"layer {number}"),
        floor=floor,
        rests_on=[named, by_W, by_b],
    )


def independent_map(layer: Layer, a_prev: Array, p: Parameters, mask: Array | None) -> tuple[Array | None, Any]:
    """z by plain sums and the size of their terms; None for a layer class that this module does not know."""
    W, b = p
    if type(layer) is Dense and W is not None:
        c = 1 / np.sqrt(layer.inputs or 1) if layer.ntk else 1.0
        shift = np.zeros(layer.units) if b is None else b
        z = c * np.einsum("ij,kj->ik", a_prev, W) + shift
        return z, c * np.einsum("ij,kj->ik", np.abs(a_prev), np.abs(W)) + np.abs(shift)
    if type(layer) is Scale and W is not None:
        z = np.einsum("ij,j->ij", a_prev, W)
        return z, np.abs(z)
    if type(layer) is Dropout:
        z = a_prev if mask is None else np.where(mask == 0, 0.0, a_prev / (1 - layer.rate))
        return z, np.abs(z)
    return None, 0.0


def one_hot(shape: tuple[int, ...], place: Any) -> Array:
    """Zeros with a one."""
    step = np.zeros(shape)
    step[place] = 1.0
    return step


def gathered(parts: Sequence[Numeric]) -> Numeric:
    """Derivatives along several directions as arrays over the directions."""
    exact = [p.complex_step for p in parts if p.complex_step is not None]
    return Numeric(
        np.array(exact) if len(exact) == len(parts) else None,
        np.array([p.central for p in parts]),
        np.array([p.error for p in parts]),
    )


# -- loss and cost ----------------------------------------------------------------------------------------------------


def check_loss(loss: Loss, y_hat: Array, y: Array, rng: np.random.Generator) -> Iterator[Check]:
    """ℒ, ℒ′ and ℒ″ at ŷ, y (N, n_L), and at spread ŷ for some of the same y."""
    value, first, second = loss_factors(loss)
    rows = pick(rng, len(y), 16)
    below, above = loss.prediction
    n, own = y.shape[1], len(rows)
    extra = rng.permutation(len(y))[: len(SPREAD)]
    spread = np.resize(rng.permutation(np.resize(SPREAD, len(extra) * n)), (len(extra), n))
    spread = 1 / (1 + np.exp(-spread)) if above == 1 else np.exp(0.5 * spread) if below == 0 else spread
    x, t = np.vstack([y_hat[rows], spread]), np.vstack([y[rows], y[extra]])
    inside = np.isfinite(loss.value(x, t)).all(axis=1) & np.isfinite(loss.derivative(x, t)).all(axis=1)
    good = np.asarray(inside & away_from_kinks(loss, x, t).all(axis=1))
    own = int(good[:own].sum())
    x, t = x[good], t[good]
    if not len(x):
        return
    label = row_column("ŷ")
    columns = [int(k) for k in pick(rng, n, COLUMNS)]
    by_number = columnwise(lambda p: loss.value(p, t).sum(axis=1), x, columns)
    found = loss.derivative(x, t)
    floor = typical(by_number.central, own) + 1e-5 * (np.abs(x) + np.abs(t))[:, columns]
    yield from both(first, found[:, columns], by_number, label, floor=floor, rests_on=[value])
    try:
        curved = np.asarray(loss.second_derivative(x, t))
    except (IndexError, TypeError, NotImplementedError):
        curved = None
    if curved is not None:
        twice = columnwise(lambda p: loss.derivative(p, t), x, columns)
        full = curved if curved.ndim == 3 else curved[..., None] * np.eye(n)
        limit = np.maximum(typical(twice.central, own), typical(by_number.central, own))
        yield from both(second, full[..., columns], twice, label, floor=limit, rests_on=[value, first])
    yield from check_loss_formula(loss, x, t, rng)


def loss_factors(loss: Loss) -> tuple[str, str, str]:
    """How the three formulas of a loss are named."""
    return f"loss {loss}, value", f"loss {loss}, derivative", f"loss {loss}, second derivative"


def check_loss_formula(loss: Loss, x: Array, t: Array, rng: np.random.Generator) -> Iterator[Check]:
    """The loss against its formula text, at some of the points."""
    value, first, second = loss_factors(loss)
    if "[" in loss.formula:
        n = min(x.shape[1], 4)
        row, y = x[:, :n], t[:, :n]
        if n < x.shape[1] and loss.categorical:
            y = (y + 0.1) / (y + 0.1).sum(axis=1, keepdims=True)
        rows = pick(rng, len(x), POINTS // 2)
        wanted = by_formula(loss, row[rows], y[rows])
        if wanted is None:
            return
        found = (value, loss.value(row, y), wanted[0]), (first, loss.derivative(row, y), wanted[1].sum(axis=1))
        where: Label = lambda i: row_column("ŷ")((int(rows[i[0]]), *i[1:]))  # noqa: E731
        for name, own, exact in found:
            rest = [value] if name == first else []
            floor = np.where(np.isfinite(exact), FLOOR + 1e-5 * np.abs(row[rows]), np.inf)
            yield compare(name, "formula, 50 digits", own[rows], exact, EXACT, where, floor=floor, rests_on=rest)
        return
    places = [(int(i), int(rng.integers(x.shape[1]))) for i in pick(rng, len(x), 2 * POINTS)]
    at_places = tuple(np.array(places).T)
    try:
        curved = loss.second_derivative(x, t)
    except (IndexError, TypeError, NotImplementedError):
        curved = None
    parts = ((value, loss.value(x, t)), (first, loss.derivative(x, t)), (second, curved))
    for order, (factor, part) in enumerate(parts):
        expression = parsed(loss.formula, loss.parameters, "y_hat", order)
        if expression is None or part is None or part.ndim != 2:
            continue
        exact = np.array([evaluate(expression, 1e6, y_hat=float(x[p]), y=float(t[p])) for p in places])
        floor = typical(exact, 0) + 1e-5 * (np.abs(x) + np.abs(t))[at_places] * (order < 2)
        floor = np.where(np.isfinite(exact), floor, np.inf)
        yield compare(
            factor,
            "formula, 50 digits",
            part[at_places],
            exact,
            EXACT,
            lambda i: f"{row_column('ŷ')(places[i[0]])}",
            floor=floor,
            rests_on=[value, first][:order],
        )


def check_pair(g: Activation, loss: Loss, pair: Loss, z: Array, y: Array, rng: np.random.Generator) -> Iterator[Check]:
    """The loss on logits against the loss on ŷ = g(z), where neither overflows."""
    rows = pick(rng, len(z), 16)
    near = z[rows] - z[rows].max(axis=1, keepdims=True) if g.rowwise else z[rows]
    z = np.clip(near, -6, 6)
    y, a = y[rows], g.value(z)
    label = row_column("output")
    names = [f"activation {g}, {part}" for part in ("value", "derivative", "matrix", "contraction")]
    rests = [*names, *loss_factors(loss)[:2], *loss_factors(pair)[:2]]
    factor = f"fused pair of {g} and {loss}"
    general = (loss.value(a, y), g.backward(loss.derivative(a, y), z, a))
    for fused, wanted in zip((pair.value(z, y), pair.derivative(z, y)), general, strict=True):
        floor = np.where(np.isfinite(wanted), FLOOR + 1e-5 * np.abs(z), np.inf)
        yield compare(factor, "the general path", fused, wanted, COMPLEX, label, floor=floor, rests_on=rests)


def check_aggregate(problem: Problem, L: Array, rng: np.random.Generator) -> Iterator[Check]:
    """φ and ∇φ at the losses L (N,) of the network; ties are broken where φ has kinks."""
    phi, s, mean_weight = problem.cost.aggregate, problem.s, problem.mean_weight
    value, first = f"aggregate {phi}, value", f"aggregate {phi}, gradient"
    size = float(np.abs(L).max(initial=0.0)) or 1.0
    if phi.over_epoch == "batchwise":
        L = L + size * 1e-2 * rng.permutation(np.linspace(0, 1, len(L)))
    found, slope = phi.value_and_gradient(L, s, mean_weight)
    expected = independent_aggregate(phi, L, s, mean_weight)
    if expected is not None:
        label: Label = lambda _: f"φ of {len(L)} losses"  # noqa: E731
        yield compare(value, "sums written again", found, expected, EXACT, label, floor=1e-5 * size)
    unit = differentiate_each(lambda x: np.asarray(phi.value_and_gradient(x, s, mean_weight)[0]), L, rng, size)
    places, numeric = unit
    floor = FLOOR * float(np.abs(numeric.central).max(initial=0.0))
    where: Label = lambda i: f"sample {places[i[0]]}"  # noqa: E731
    yield from both(first, np.asarray(slope)[places], numeric, where, floor=floor, rests_on=[value])
    if expected is not None:
        weight = float(np.asarray(slope).sum())
        known = {"mean": float(s.sum()) / (len(s) * mean_weight), "sum": float(s.sum())}.get(phi.name.strip("_"), 1.0)
        name: Label = lambda _: "Σ ∂φ/∂Lᵢ, which holds the factor 1/N"  # noqa: E731
        yield compare(first, "its sum", weight, known, EXACT, name, rests_on=[value])


def differentiate_each(f: Function, x: Array, rng: np.random.Generator, size: float) -> tuple[Array, Numeric]:
    """∂f/∂x_i for at most COLUMNS places i of a vector."""
    places = pick(rng, len(x), COLUMNS)
    step = 0.1 * size
    return places, gathered([differentiate(f, x, step * one_hot(x.shape, i), step) for i in places])


def independent_aggregate(phi: aggregators.Aggregator, L: Array, s: Array, mean_weight: float) -> float | None:
    """φ(L) by its definition; None for an aggregator that is not in the catalogue."""
    if not of_catalogue(phi, aggregators.CATALOGUE):
        return None
    p, share = dict(phi.parameters), s / s.sum()
    if phi.name == "mean":
        return float(sum(w * x for w, x in zip(s, L, strict=True) if w) / len(L) / mean_weight)
    if phi.name == "sum":
        return float(sum(w * x for w, x in zip(s, L, strict=True) if w))
    if phi.name == "tilted":
        top = float(L[s > 0].max() if p["t"] > 0 else L[s > 0].min())
        return top + float(np.log(share[s > 0] @ np.exp(p["t"] * (L[s > 0] - top)))) / p["t"]
    if phi.name == "cvar":  # Rockafellar & Uryasev: the least of t + mean of (L − t)⁺ / share, found at some L
        excess = np.maximum(0, L[s > 0][None] - L[s > 0][:, None])
        return float((L[s > 0] + excess @ share[s > 0] / p["share"]).min())
    return float(L[s > 0].max()) if phi.name == "max" else None


def smoothed(cost: Cost, y: Array) -> Array:
    """The targets with label smoothing, written again."""
    eps = cost.label_smoothing
    return (1 - eps) * y + eps / (y.shape[1] if cost.loss.categorical else 2) if eps else y


SMOOTHING, SAMPLES, SEED = "label smoothing", "losses of the samples", "seed of the backward pass, ∂C/∂ℒ"
BY_PREDICTION, BY_LOGITS = "∂C/∂ŷ", "δ of the output layer, ∂C/∂z"


def check_cost(problem: Problem, values: Values, rng: np.random.Generator) -> Iterator[Check]:
    """Smoothing, the sum or mean over outputs, the seed, ∂C/∂ŷ and δ of the output layer, for a random ∇φ."""
    cost, y, g = problem.cost, problem.y, problem.architecture.output_activation
    pair = on_logits(g, cost.loss)
    n = y.shape[1]
    used = pair or cost.loss
    smooth = smoothed(cost, y)
    yield compare(SMOOTHING, "written again", cost.smooth(y), smooth, EXACT, row_column("y"), floor=FLOOR)

    found = cost.losses(g, values, y, problem.s, problem.mean_weight)
    per_output = used.value(values.y_hat if pair is None else values.logits, smooth)
    wanted = np.array([row.sum() for row in per_output]) / (n if cost.average_outputs else 1)
    finite = np.isfinite(wanted)
    floor = FLOOR * float(np.abs(per_output[finite]).max(initial=TINY))
    rests = [SMOOTHING, loss_factors(used)[0]]
    label = row_column("loss")
    yield compare(
        SAMPLES,
        "sums written again",
        found.per_sample[finite],
        wanted[finite],
        EXACT,
        label,
        floor=floor,
        rests_on=rests,
    )
    v = rng.uniform(0.2, 1.0, len(y)) * rng.choice([-1.0, 1.0], len(y))
    expected = (v / n if cost.average_outputs else v)[:, None]
    yield compare(SEED, "written again", cost.seed(v, y), expected, EXACT, label)

    rows = np.flatnonzero(smooth_rows(problem) & finite & np.isfinite(values.y_hat).all(axis=1))[:16]
    if not len(rows):
        return
    t, weight = y[rows], v[rows]
    columns = [int(k) for k in pick(rng, n, COLUMNS)]
    z, a = values.logits[rows], values.y_hat[rows]
    share = n if cost.average_outputs else 1
    activation = [f"activation {g}, {part}" for part in ("value", "derivative", "contraction")]

    def by_prediction(p: Array) -> Array:
        return weight * cost.loss.value(p, smooth[rows]).sum(axis=1) / share

    def by_logits(p: Array) -> Array:
        at = Values([p], [g.value(p)])
        ones = np.ones(len(rows))
        return weight * cost.losses(g, at, t, ones, 1.0).per_sample

    inside = np.isfinite(cost.loss.value(a, smooth[rows])).all() and np.isfinite(cost.dC_da(a, t, weight)).all()
    rests = [SMOOTHING, SEED, *loss_factors(cost.loss)[:2]]
    if inside:
        numeric = columnwise(by_prediction, a, columns)
        floor = FLOOR * np.abs(numeric.central).max() + 1e-5 * (1 + np.abs(a[:, columns]))
        yield from both(
            BY_PREDICTION, cost.dC_da(a, t, weight)[:, columns], numeric, row_column("ŷ"), floor=floor, rests_on=rests
        )
    numeric = columnwise(by_logits, z, columns)
    reached = Values([z], [a])
    floor = FLOOR * np.abs(numeric.central).max() + 1e-4 * (1 + np.abs(z[:, columns]) + np.abs(t[:, columns]))
    rests = [*rests, SAMPLES, *loss_factors(used)[:2], *activation, *([] if pair else [BY_PREDICTION])]
    found_z = cost.dC_dz(g, reached, t, weight)[:, columns]
    yield from both(BY_LOGITS, found_z, numeric, row_column("output z"), floor=floor, rests_on=rests)


PENALTY, PENALTY_GRADIENT = "penalty, value", "penalty, gradient"


def check_penalty(problem: Problem, label: Label, rng: np.random.Generator) -> Iterator[Check]:
    """R and ∂R/∂θ, away from zeros."""
    A, penalty = problem.architecture, problem.cost.penalty
    theta = np.where(np.abs(problem.theta) < 0.05, 0.1 * rng.choice([-1.0, 1.0], A.P), problem.theta)
    total = 0.0
    for p in A.views(theta):
        for part in (p.W, p.b if penalty.biases else None):
            if part is not None:
                total += penalty.l1 * float(np.abs(part).sum()) + penalty.l2 / 2 * float((part**2).sum())
    name: Label = lambda _: "R(θ)"  # noqa: E731
    yield compare(PENALTY, "sums written again", penalty.value(A, theta), total, EXACT, name, floor=TINY)
    slope = np.ones(A.P)
    penalty.add_gradient(A, theta, slope)
    places = sampled_coordinates(A, rng, fewer(64, A.P))
    numeric = gathered(
        [
            differentiate(lambda x: np.asarray(penalty.value(A, x)), theta, 1e-2 * one_hot((A.P,), j), 1e-2)
            for j in places
        ]
    )
    where: Label = lambda i: label((int(places[i[0]]),))  # noqa: E731
    floor = FLOOR * (penalty.l1 + penalty.l2) + 1e-5
    yield from both(PENALTY_GRADIENT, slope[places] - 1, numeric, where, floor=floor, rests_on=[PENALTY])


# -- the whole gradient -----------------------------------------------------------------------------------------------


def address(architecture: Architecture) -> Label:
    """Labels of places in θ, such as "layer 1, W[3, 2]"."""

    def label(place: tuple[int, ...]) -> str:
        j = place[0]
        for number, (layer, pair) in enumerate(zip(architecture.layers, architecture.places, strict=True), 1):
            for letter, at, shape in zip("Wb", pair, (layer.W_shape, layer.b_shape), strict=True):
                if at is not None and shape is not None and at.start <= j < at.stop:
                    inner = np.unravel_index(j - at.start, shape)
                    return f"layer {number}, {letter}[{', '.join(str(int(i)) for i in inner)}]"
        return f"θ[{j}]"

    return label


def sampled_coordinates(architecture: Architecture, rng: np.random.Generator, most: int) -> Array:
    """At most so many places in θ, from every W and b."""
    if most >= architecture.P:
        return np.arange(architecture.P)
    blocks = [at for pair in architecture.places for at in pair if at is not None]
    share = max(1, most // len(blocks))
    return np.concatenate([at.start + pick(rng, at.stop - at.start, share) for at in blocks])


def magnitudes(problem: Problem) -> Array:
    """The size (P,) of the terms that each ∂C/∂θ is a sum of: rounding is a share of it, whatever cancels.

    The backward loop with absolute values in the place of all factors, each with what its own rounding adds.
    """
    A, cost, values = problem.architecture, problem.cost, problem.values
    g, y = A.output_activation, cost.smooth(problem.y)
    pair = on_logits(g, cost.loss)
    loss, at = (cost.loss, values.y_hat) if pair is None else (pair, values.logits)
    dC_dL = cost.losses(g, values, problem.y, problem.s, problem.mean_weight).dC_dL
    reach = np.abs(at) + np.abs(y) + FLOOR
    try:
        curved = np.abs(np.asarray(loss.second_derivative(at, y)))
        bent = (curved @ reach[..., None])[..., 0] if curved.ndim == 3 else curved * reach
    except (IndexError, TypeError, NotImplementedError):
        bent = reach
    S = np.abs(cost.seed(dC_dL, problem.y)) * (np.abs(loss.derivative(at, y)) + bent)
    result = np.zeros(A.P)
    slots, views = A.views(result), A.views(np.abs(problem.theta))
    for number in range(len(A.layers), 0, -1):
        layer, p = A.layers[number - 1], views[number - 1]
        z, a = z_and_a(values, number)
        mask = problem.masks[number - 1] if problem.masks else None
        a_prev = values.a[number - 1]
        assert a_prev is not None
        if number < len(A.layers) or pair is None:
            S = through(layer.g, S, z, a, np.abs(layer.forward(np.abs(a_prev), p, mask)))
        S = np.nan_to_num(S, posinf=1e300)
        layer.gradients(S, np.abs(a_prev) + FLOOR, slots[number - 1])
        S = np.abs(layer.backward(S, p, mask))
    penalty = cost.penalty
    return np.abs(result) + penalty.l1 + penalty.l2 * np.abs(problem.theta)


def through(g: Activation, S: Array, z: Array, a: Array, reach: Array) -> Array:
    """Sizes through an activation: |γ|, what g″ makes of the rounding of z, and a share that 1 − a² and its like lose."""
    if g.rowwise:
        return np.einsum("ij,ijk->ik", S, np.abs(g.derivative(z, a))) * (1 + reach) + FLOOR * S
    try:
        curved = np.abs(np.asarray(g.second_derivative(z, a)))
    except (IndexError, TypeError, NotImplementedError):
        curved = np.abs(g.derivative(z, a))
    return S * (np.abs(g.derivative(z, a)) + curved * (reach + np.abs(z)) + FLOOR)


def check_whole(
    problem: Problem, rests_on: Sequence[str], rng: np.random.Generator, notes: list[str]
) -> Iterator[Check]:
    """∂C/∂θ against complex steps and differences of C: every coordinate, or a sample and random directions."""
    A = problem.architecture
    g, S = problem.gradient(), magnitudes(problem)
    label = address(A)
    places = sampled_coordinates(A, rng, COORDINATES if A.P <= COORDINATES else fewer(COORDINATES // 4, A.P))
    blocks = [at for pair in A.places for at in pair if at is not None]
    steps = [(label((int(j),)), one_hot((A.P,), j)) for j in places]
    for at in blocks:
        d = np.zeros(A.P)
        d[at] = rng.choice([-1.0, 1.0], at.stop - at.start)
        steps.append((label((at.start,)).partition("[")[0] + ", all along random signs", d))
    steps += [("θ, all along random signs", rng.choice([-1.0, 1.0], A.P)) for _ in range(2)]

    analytic = np.array([d @ g for _, d in steps])
    floor = FLOOR * np.array([np.abs(d) @ S for _, d in steps])
    where: Label = lambda i: steps[i[0]][0]  # noqa: E731
    value: Function = lambda theta: np.asarray(problem.value(theta))  # noqa: E731
    few = pick(rng, len(places), POINTS)
    differenced = np.concatenate([few, np.arange(len(places), len(steps))])
    numeric = gathered([differentiate(value, problem.theta, steps[i][1]) for i in differenced])
    if numeric.complex_step is not None:
        exact = np.array([np.imag(problem.value(problem.theta + 1j * TINY * d)) / TINY for _, d in steps])
        yield compare(WHOLE, "complex step", analytic, exact, COMPLEX, where, floor=floor, rests_on=rests_on)
    else:
        notes.append("the cost takes no complex step: central differences only")
    doubt = np.maximum(floor[differenced], 10 * numeric.error / CENTRAL)
    some: Label = lambda i: where((int(differenced[i[0]]),))  # noqa: E731
    yield compare(
        WHOLE,
        "central differences",
        analytic[differenced],
        numeric.central,
        CENTRAL,
        some,
        floor=doubt,
        rests_on=rests_on,
    )
    automatic = torch_gradient(problem)
    if automatic is not None:  # where a prediction is exactly 0 or 1, autograd divides zero by zero
        sizes = np.where(np.isfinite(automatic), FLOOR * S, np.inf)
        yield compare(WHOLE, "PyTorch autograd", g, automatic, COMPLEX, label, floor=sizes, rests_on=rests_on)
    elif optional("torch") is None:
        notes.append("torch is not installed: no automatic differentiation")
    else:
        notes.append("records beyond the catalogue: not repeated in torch")


# -- the network in PyTorch -------------------------------------------------------------------------------------------


def torch_activations(torch: Any) -> dict[str, Callable[..., Any]]:
    """The catalogue in PyTorch; softmax and all others over (N, n)."""
    F = torch.nn.functional
    return {
        "identity": lambda z: z,
        "step": lambda z: (z >= 0).to(z.dtype),
        "relu": lambda z, at_zero: F.relu(z),
        "leaky_relu": lambda z, slope: F.leaky_relu(z, slope),
        "elu": lambda z, alpha: F.elu(z, alpha),
        "selu": F.selu,
        "gelu": F.gelu,
        "silu": F.silu,
        "mish": lambda z: z * torch.tanh(torch.logaddexp(z, torch.zeros_like(z))),
        "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "exp": torch.exp,
        "square": torch.square,
        "softmax": lambda z: torch.softmax(z, -1),
    }


def torch_losses(torch: Any) -> dict[str, Callable[..., Any]]:
    """The catalogue in PyTorch, per output."""
    F = torch.nn.functional

    def softplus(z: Any) -> Any:
        return torch.logaddexp(z, torch.zeros_like(z))

    return {
        "squared": lambda p, y: (p - y) ** 2,
        "absolute": lambda p, y: (p - y).abs(),
        "huber": lambda p, y, delta: F.huber_loss(p, y, reduction="none", delta=delta),
        "log_cosh": lambda p, y: softplus(2 * (p - y)) - (p - y) - np.log(2),
        "quantile": lambda p, y, tau: torch.maximum(tau * (y - p), (tau - 1) * (y - p)),
        "binary_cross_entropy": lambda p, y: -torch.xlogy(y, p) - torch.xlogy(1 - y, 1 - p),
        "binary_cross_entropy_logits": lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none"),
        "categorical_cross_entropy": lambda p, y: -torch.xlogy(y, p),
        "categorical_cross_entropy_logits": lambda z, y: -y * torch.log_softmax(z, -1),
        "hinge": lambda p, y: F.relu(1 - y * p),
        "poisson": lambda p, y: p - torch.xlogy(y, p),
        "poisson_log": lambda z, y: torch.exp(z) - y * z,
        "gamma": lambda p, y: y / p + torch.log(p),
        "gamma_log": lambda z, y: y * torch.exp(-z) + z,
    }


def of_catalogue(record: Record, catalogue: Any) -> bool:
    """Whether a record is the catalogue's, not one's own with its name."""
    return record.name in catalogue and catalogue[record.name].make is record.make


def torch_gradient(problem: Problem) -> Array | None:
    """∂C/∂θ (P,) by automatic differentiation of the same cost; None without torch or beyond the catalogue."""
    A, cost = problem.architecture, problem.cost
    known = all(type(layer) in (Dense, Scale, Dropout) for layer in A.layers)
    known &= all(of_catalogue(layer.g, activations.CATALOGUE) for layer in A.layers)
    known &= of_catalogue(cost.loss, losses.CATALOGUE) and of_catalogue(cost.aggregate, aggregators.CATALOGUE)
    torch = optional("torch") if known else None
    if torch is None:
        return None
    kinds, loss_of = torch_activations(torch), torch_losses(torch)
    theta = torch.tensor(problem.theta, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(problem.X, dtype=torch.float64)
    z = a
    penalised = []
    for number, (layer, (at_W, at_b)) in enumerate(zip(A.layers, A.places, strict=True)):
        if at_W is not None and layer.W_shape is not None:
            W = theta[at_W].reshape(layer.W_shape)
            factor = layer.factor if isinstance(layer, Dense) else 1.0
            z = a * W if isinstance(layer, Scale) else factor * (a @ W.T)
            penalised.append(theta[at_W])
        elif problem.masks and problem.masks[number] is not None:
            z = a * torch.tensor(problem.masks[number])
        else:
            z = a
        if at_b is not None:
            z = z + theta[at_b]
            penalised += [theta[at_b]] if cost.penalty.biases else []
        a = kinds[layer.g.name](z, **dict(layer.g.parameters))
    y = torch.tensor(problem.y, dtype=torch.float64)
    if cost.label_smoothing:
        y = (1 - cost.label_smoothing) * y + cost.label_smoothing / (y.shape[1] if cost.loss.categorical else 2)
    pair = on_logits(A.output_activation, cost.loss)
    used = pair or cost.loss
    L = loss_of[used.name](a if pair is None else z, y, **dict(used.parameters)).sum(1)
    L = L / y.shape[1] if cost.average_outputs else L
    C = torch_aggregate(torch, cost.aggregate, L, torch.tensor(problem.s), problem.mean_weight)
    R = sum(cost.penalty.l1 * part.abs().sum() + cost.penalty.l2 / 2 * part.square().sum() for part in penalised)
    (C + R).backward()
    return np.zeros(A.P) if theta.grad is None else np.asarray(theta.grad.numpy())


def torch_aggregate(torch: Any, phi: aggregators.Aggregator, L: Any, s: Any, mean_weight: float) -> Any:
    """φ(L) of the catalogue in PyTorch."""
    p, N = dict(phi.parameters), len(L)
    L, s = L[s > 0], s[s > 0]
    if phi.name == "mean":
        return s @ L / (N * mean_weight)
    share = s / s.sum()
    if phi.name == "sum":
        return s @ L
    if phi.name == "tilted":
        return (torch.logsumexp(p["t"] * L + torch.log(share), 0)) / p["t"]
    if phi.name == "cvar":
        order = torch.argsort(L, descending=True)
        before = torch.cumsum(share[order], 0) - share[order]
        return torch.clamp(torch.minimum(share[order], p["share"] - before), min=0) @ L[order] / p["share"]
    return L.max()


# -- the two entrances ------------------------------------------------------------------------------------------------


def verify(
    architecture: Architecture,
    theta: Array,
    X: Array,
    y: Array,
    cost: Cost,
    s: Array,
    mean_weight: float,
    seed: int = 0,
) -> Report:
    """Check every factor of ∂C/∂θ, and the whole, at θ (P,) on X (N, n_0), y (N, n_L), s (N,).

    Where there are more than 128 rows, some of them are drawn; a last check takes all. Formulas are compared in
    float64, and the gradient in θ's own dtype with that in float64. Dropout layers act, with one fixed mask.
    """
    check_seed("verify", seed)
    rng, notes = np.random.default_rng(seed), list[str]()
    with np.errstate(all="ignore"):
        wide = in_float64(architecture, theta, X, y, cost, s, mean_weight, seed)
        C = wide.value(wide.theta)
        if not np.isfinite(C):
            return Report((Check("cost", "finite", np.inf, 0.0, f"C is {C}", False),))
        some = drawn(wide, rng, notes)
        checks = list(check_factors(some, rng, notes))
        rests_on = list(dict.fromkeys(check.factor for check in checks if on_the_way(check.factor)))
        whole, kept = moved_off_kinks(some, rng, notes)
        if kept:
            checks += check_whole(whole, rests_on, rng, notes)
        if len(some.X) < len(X) and wide.cost.aggregate.over_epoch != "batchwise":
            checks.append(check_all_rows(wide, rests_on, rng))
        if theta.dtype == np.float32:
            checks.append(check_dtype_of(some, theta.dtype, [*rests_on, WHOLE]))
    if optional("sympy") is None:
        notes.append("sympy is not installed: formula texts were not read")
    return Report(tuple(checks), tuple(notes))


def in_float64(
    architecture: Architecture, theta: Array, X: Array, y: Array, cost: Cost, s: Array, mean_weight: float, seed: int
) -> Problem:
    """The problem in float64; the targets of a row of probabilities sum to 1 exactly."""
    theta, X, y = (np.array(part, np.float64) for part in (theta, X, y))
    if cost.loss.categorical:
        y /= y.sum(axis=1, keepdims=True)
    masks = drawn_masks(architecture, len(X), np.random.default_rng([seed, 1]))
    return Problem(architecture, theta, X, y, cost, s, mean_weight, masks)


def drawn_masks(architecture: Architecture, rows: int, rng: np.random.Generator) -> Masks | None:
    """Dropout masks as training would draw them; None without a dropout layer."""
    if not any(isinstance(layer, Dropout) for layer in architecture.layers):
        return None
    return [
        layer.mask(rng.random((rows, layer.outputs)), np.dtype(np.float64)) if isinstance(layer, Dropout) else None
        for layer in architecture.layers
    ]


def drawn(problem: Problem, rng: np.random.Generator, notes: list[str]) -> Problem:
    """At most ROWS of the rows, those with a weight first."""
    N = len(problem.X)
    if N <= ROWS:
        return problem
    order = rng.permutation(N)
    first = order[np.argsort(problem.s[order] == 0, kind="stable")]
    notes.append(f"{ROWS} of {N} rows drawn")
    return problem.rows(np.sort(first[:ROWS]))


def check_factors(problem: Problem, rng: np.random.Generator, notes: list[str]) -> Iterator[Check]:
    """Every factor by itself: activations, layers, loss, φ, cost, penalty."""
    A, cost, values = problem.architecture, problem.cost, problem.values
    by_record: dict[Activation, list[tuple[int, Array]]] = {}
    for number, layer in enumerate(A.layers, 1):
        by_record.setdefault(layer.g, []).append((number, z_and_a(values, number)[0]))
    for g, layers in by_record.items():
        yield from check_activation(g, layers, rng)
    for number, (layer, p) in enumerate(zip(A.layers, A.views(problem.theta), strict=True), 1):
        a_prev = values.a[number - 1]
        assert a_prev is not None
        yield from check_layer(A.describe(number), number, layer, p, a_prev, rng)
    g, y = A.output_activation, smoothed(cost, problem.y)
    yield from check_loss(cost.loss, values.y_hat, y, rng)
    pair = on_logits(g, cost.loss)
    if pair is not None and pair is not cost.loss:
        yield from check_loss(pair, values.logits, y, rng)
        yield from check_pair(g, cost.loss, pair, values.logits, y, rng)
    L = cost.losses(g, values, problem.y, problem.s, problem.mean_weight).per_sample
    yield from check_aggregate(problem, L, rng)
    yield from check_cost(problem, values, rng)
    yield from check_penalty(problem, address(A), rng)


def on_the_way(factor: str) -> bool:
    """Whether the gradient of a cost is made of this factor; second derivatives and norms are for other uses."""
    aside = ("second derivative", "matrix", "tangent", "per-sample gradients", "norms")
    return not factor.endswith(aside)


def moved_off_kinks(problem: Problem, rng: np.random.Generator, notes: list[str]) -> tuple[Problem, int]:
    """The problem without the rows at a kink, and how many are left; where none is, θ moves a little first.

    Zeros of θ move away from the kink of an L1 penalty.
    """
    if problem.cost.penalty.l1:
        at_zero = np.abs(problem.theta) < 10 * NEAR
        problem = replace(problem, theta=np.where(at_zero, 1e-3 * rng.choice([-1, 1], at_zero.shape), problem.theta))
    for attempt in range(3):
        good = smooth_rows(problem) if np.isfinite(problem.value(problem.theta)) else np.zeros(len(problem.X), bool)
        if (good & (problem.s > 0)).any():
            if not good.all():
                notes.append(f"whole gradient: {int((~good).sum())} of {len(good)} rows at a kink or a tie left out")
            return problem.rows(np.flatnonzero(good)), int(good.sum())
        if attempt == 0:
            notes.append("whole gradient: all rows lie at a kink, so it was taken at slightly other parameters")
        problem = replace(problem, theta=problem.theta + 1e-3 * rng.standard_normal(problem.theta.shape))
    notes.append("whole gradient: not checked, all rows lie at a kink")
    return problem, 0


def check_all_rows(problem: Problem, rests_on: Sequence[str], rng: np.random.Generator) -> Check:
    """∂C/∂θ of all rows along one direction of random signs, by a complex step; rows at kinks are left out."""
    problem = problem.rows(np.flatnonzero(smooth_rows(problem)))
    d = rng.choice([-1.0, 1.0], len(problem.theta))
    numeric = np.imag(problem.value(problem.theta + 1j * TINY * d)) / TINY
    label: Label = lambda _: f"{len(problem.X)} rows, θ along random signs"  # noqa: E731
    floor = FLOOR * magnitudes(problem).sum()
    analytic = d @ problem.gradient()
    return compare(WHOLE, "complex step, all rows", analytic, numeric, COMPLEX, label, floor=floor, rests_on=rests_on)


def check_dtype_of(problem: Problem, dtype: np.dtype[Any], rests_on: Sequence[str]) -> Check:
    """The gradient in the network's own dtype against that in float64, as a share of the sizes of its terms."""
    cast = [part.astype(dtype) for part in (problem.theta, problem.X, problem.y)]
    masks = None if problem.masks is None else [None if m is None else m.astype(dtype) for m in problem.masks]
    narrow = replace(problem, theta=cast[0], X=cast[1], y=cast[2], masks=masks)
    wide = replace(problem, theta=cast[0].astype(float), X=cast[1].astype(float))
    found, expected = narrow.gradient(), wide.gradient()
    limit = float(32 * np.finfo(dtype).eps * len(problem.architecture.layers))
    S = magnitudes(wide)
    label = address(problem.architecture)
    factor, rest = f"arithmetic in {dtype}", rests_on
    if found.dtype != dtype:
        return Check(factor, "dtype", np.inf, 0.0, f"expected {dtype}, got {found.dtype}", False, None, frozenset(rest))
    floor = np.maximum(S, FLOOR * S.max(initial=0.0))
    return compare(
        factor, "the same in float64", found.astype(float), expected, limit, label, floor=floor, rests_on=rest
    )


def verify_pair(
    value: Callable[[Array], Any], gradient: Callable[[Array], npt.ArrayLike], theta: npt.ArrayLike, *, seed: int = 0
) -> Report:
    """Check a gradient θ → (P,) of any function θ → number, such as another library's loss, at θ (P,).

    By complex step where the function takes complex numbers, and by central differences. One factor common to all
    coordinates is reported, as `report.checks[0].ratio` and in the message.

    Raises:
        ShapeError, DataError: θ is not a finite vector, or the gradient is not shaped like it.
    """
    check_seed("verify_pair", seed)
    at = check_matrix("verify_pair", "theta", theta, 1, np.dtype(np.float64))[:, 0]
    rng = np.random.default_rng(seed)
    g = np.array(gradient(at.copy()), dtype=np.float64)
    if g.shape != at.shape:
        raise ShapeError(f"verify_pair: expected a gradient of shape {at.shape} as theta, got {g.shape}.")
    places = pick(rng, len(at), COORDINATES)
    steps = [one_hot(at.shape, j) * max(1.0, abs(at[j])) for j in places]
    steps += [rng.choice([-1.0, 1.0], at.shape) for _ in range(3)]
    f: Function = lambda x: np.asarray(value(x))  # noqa: E731
    with np.errstate(all="ignore"):
        numeric = gathered([differentiate(f, at, step) for step in steps])
    analytic = np.array([step @ g for step in steps])
    sizes = np.array([np.abs(step) @ np.abs(g) for step in steps])
    floor = 1e-6 * np.maximum(sizes, np.abs(numeric.central).max(initial=0.0)) + TINY

    def label(place: tuple[int, ...]) -> str:
        return f"θ[{places[place[0]]}]" if place[0] < len(places) else "θ along random signs"

    return Report(tuple(both("gradient", analytic, numeric, label, floor=floor)))
