"""Every factor of the gradient by itself: activations, layers, loss, φ, cost and penalty against their witnesses.

Each is checked at the network's own values and at a few points beside them, by derivatives by number, by the
record's formula text, and, where there is no derivative, by plain sums written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..arrays import Array
from ..core.architecture import Architecture, Values
from ..core.layers import Dropout
from ..errors import ShapeError
from ..formulas.activations import Activation
from ..formulas.losses import Loss, on_logits
from ..formulas.record import Record
from . import per_sample, rewritten
from .checks import COMPLEX, EXACT, FLOOR, POINTS, Check, Label, both, both_along, both_in, compare
from .formula_text import by_formula
from .numeric import TINY, Direction, Function, Numeric, along, differentiate, richardson
from .problem import NEAR, Problem, attempt, away_from_kinks, pick, smooth_rows, z_and_a

COLUMNS, SAMPLES, COORDINATES = 24, 16, 64  # how many are looked at where there are more
MANY = 20_000  # parameters; from here on fewer of them are looked at one by one
SPREAD = np.array([-2.9, -1.7, -0.9, -0.35, 0.15, 0.55, 1.3, 2.3])

SMOOTHING, OF_SAMPLES, SEED = "label smoothing", "losses of the samples", "seed of the backward pass, ∂C/∂ℒ"
BY_PREDICTION, BY_LOGITS = "∂C/∂ŷ", "δ of the output layer, ∂C/∂z"
PENALTY, PENALTY_GRADIENT = "penalty, value", "penalty, gradient"


def check_shapes(problem: Problem) -> Iterator[Check]:
    """A failed check of each record with a function that gives an array of another shape than it should."""
    cost, A, one = problem.cost, problem.architecture, np.ones(3)

    def use_activation(g: Activation, z: Array) -> None:
        a = g.value(z)
        g.derivative(z, a)
        g.backward(z, z, a)
        attempt(g.second_derivative, z, a)

    def use_loss(y_hat: Array, y: Array) -> None:
        cost.loss.value(y_hat, y)
        cost.loss.derivative(y_hat, y)

    uses: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
        (f"activation {layer.g}", use_activation, (layer.g, np.resize(SPREAD, (3, n))))
        for layer, n in zip(A.layers, A.sizes[1:], strict=True)
    ]
    uses.append((f"loss {cost.loss}", use_loss, (np.full((3, A.outputs), 0.5), problem.y[[0, 0, 0]])))
    uses.append((f"aggregate {cost.aggregate}", cost.aggregate.value_and_gradient, (one, one, 1.0)))
    for factor, use, arguments in uses:
        try:
            use(*arguments)
        except ShapeError as error:
            yield Check(factor, "shape", np.inf, 0.0, str(error), False)


def check_factors(problem: Problem, rng: np.random.Generator) -> Iterator[Check]:
    """All of them."""
    A, cost, values = problem.architecture, problem.cost, problem.values
    zs, inputs = z_and_a(values)
    for number, (layer, z) in enumerate(zip(A.layers, zs, strict=True), 1):
        yield from check_activation(layer.g, number, z, rng)
    for number, a_prev in enumerate(inputs[:-1], 1):
        yield from check_layer(A, number, problem.theta, a_prev, rng)
    g, y = A.output_activation, rewritten.smoothed(cost, problem.y)
    yield from check_loss(cost.loss, values.y_hat, y, rng)
    pair = on_logits(g, cost.loss)
    if pair is not None and pair is not cost.loss:
        yield from check_loss(pair, values.logits, y, rng)
        yield check_pair(g, cost.loss, pair, values.logits, y, rng)
    yield from check_aggregate(problem, problem.losses(values).per_sample, rng)
    yield from check_cost(problem, values, rng)
    yield from check_penalty(problem, rng)


def on_the_way(factor: str) -> bool:
    """Whether the gradient of a cost is made of this factor; second derivatives and norms are for other uses."""
    aside = ("second derivative", "matrix", "tangent", "per-sample gradients", "norms")
    return not factor.endswith(aside)


# -- places -----------------------------------------------------------------------------------------------------------


def fewer(most: int, size: int) -> int:
    """How many places are looked at: an eighth of `most` where each costs a pass over many parameters."""
    return most if size <= MANY else max(4, most // 8)


def row_column(name: str) -> Label:
    """Labels such as "loss, row 3, unit 2"."""

    def label(place: tuple[int, ...]) -> str:
        return ", ".join([name, *(f"{what} {i}" for what, i in zip(("row", "unit"), place, strict=False))])

    return label


def address(architecture: Architecture, j: int) -> str:
    """Where a place in θ is, such as "layer 1, W[3, 2]"."""
    for number, (layer, pair) in enumerate(zip(architecture.layers, architecture.places, strict=True), 1):
        for letter, at, shape in zip("Wb", pair, (layer.W_shape, layer.b_shape), strict=True):
            if at is not None and shape is not None and at.start <= j < at.stop:
                inner = np.unravel_index(j - at.start, shape)
                return f"layer {number}, {letter}[{', '.join(str(int(i)) for i in inner)}]"
    return f"θ[{j}]"


def directions(
    architecture: Architecture, block: slice, most: int, rng: np.random.Generator, start: int = 0
) -> list[Direction]:
    """Through a W or b of a θ that begins at `start`: some single coordinates, and all of it along random signs."""
    n, first = block.stop - block.start, block.start - start
    places = [int(j) for j in pick(rng, n, most)]
    single = [Direction(address(architecture, block.start + j), slice(first + j, first + j + 1)) for j in places]
    name = address(architecture, block.start).partition("[")[0] + ", all along random signs"
    return [*single, Direction(name, slice(first, first + n), rng.choice([-1.0, 1.0], n))]


def diagonal(elementwise: Array) -> Array:
    """Matrices (M, n, n) with the rows of an array (M, n) on their diagonals."""
    return np.where(np.eye(elementwise.shape[1], dtype=bool), elementwise[..., None], 0.0)


# -- records ----------------------------------------------------------------------------------------------------------


def check_columns(
    factor: str,
    f: Function,
    analytic: Array,
    x: Array,
    label: Label,
    rests_on: Sequence[str],
    rng: np.random.Generator,
    *,
    slack: Array | None = None,
    spread: int = 0,
    least: float = 1e-3,
) -> Iterator[Check]:
    """∂f/∂x (M, …, n) in some columns of x (M, n), whose rows do not touch each other, and in all along random signs.

    Numbers are compared by their difference where they are below a share of the largest one of the rows from `spread`
    on, or of `least`, or, of columns with a rounding of their own, below `slack` (M, n).
    """
    columns, (M, n) = pick(rng, x.shape[1], COLUMNS), x.shape
    last, signs = len(columns), rng.choice([-1.0, 1.0], x.shape)
    between = (1,) * (analytic.ndim - 2)
    wide = (analytic * signs.reshape(M, *between, n)).sum(axis=-1, keepdims=True)
    analytic = np.concatenate([analytic[..., columns], wide], axis=-1)
    if slack is not None:
        slack = np.column_stack([slack[:, columns], slack.sum(axis=1)])

    def step(k: int) -> tuple[Array, Array]:
        chosen = np.arange(n) == columns[k] if k < last else np.ones(n)
        size = np.maximum(1.0, np.abs(x @ chosen)) if k < last else np.ones(M)
        return size[:, None] * chosen * (signs if k == last else 1.0), size.reshape(M, *between)

    def floor(numeric: Array, which: Sequence[int]) -> Any:
        sizes = np.abs(numeric[spread:])
        top = FLOOR * max(least, float(sizes[np.isfinite(sizes)].max(initial=0.0)))
        return top if slack is None else top + slack[:, list(which)]

    def there(i: tuple[int, ...]) -> str:
        return label((*i[:-1], int(columns[i[-1]]))) if i[-1] < last else "all columns along random signs"

    few = [*range(0, last, max(1, last // POINTS)), last]
    yield from both_along(factor, f, x, analytic, step, few, there, floor, rests_on)


def check_text(
    record: Record,
    names: Sequence[str],
    functions: Sequence[Callable[..., Array | None]],
    at: dict[str, Array],
    rng: np.random.Generator,
) -> Iterator[Check]:
    """A record's value and derivatives against its formula text, at some of the points `at`, (M, n) by name."""
    M, n = next(iter(at.values())).shape
    where: Any = pick(rng, M, 4 * POINTS)
    if "[" in record.formula:  # such a formula takes rows of any length: a part of one will do
        at = {name: v[:, :4] for name, v in at.items()}
        where = where[:POINTS]
        if n > 4 and "y" in at:  # probabilities still sum to 1
            at["y"] = (at["y"] + 0.1) / (at["y"] + 0.1).sum(axis=1, keepdims=True)
    else:
        where = (where[:, None], rng.integers(n, size=(len(where), 1)))
    part = {name: v[where] for name, v in at.items()}
    reach = 1e-5 * sum(float(np.abs(v).max(initial=0.0)) for v in part.values())
    for order, (name, function, exact) in enumerate(zip(names, functions, by_formula(record, part), strict=False)):
        found = function(*at.values())
        if found is None:
            continue
        size = max(1e-3, float(np.abs(exact[np.isfinite(exact)]).max(initial=0.0)))
        floor = np.where(np.isfinite(exact), FLOOR * size + reach, np.inf)
        label: Label = lambda i: ", ".join(f"{k} = {v[i[0], i[-1]]:.6g}" for k, v in part.items())  # noqa: E731
        yield compare(name, "formula, 50 digits", found[where], exact, EXACT, label, floor, names[:order])


def check_activation(g: Activation, number: int, z: Array, rng: np.random.Generator) -> Iterator[Check]:
    """g at the z (N, n) of its layer, at spread points beside them, and at its kinks."""
    parts = ["value", "derivative", "second derivative"]
    if g.rowwise:
        parts = ["value", "matrix", "contraction", "tangent"]
    names = [f"activation {g}, {part}" for part in parts]
    own = z[pick(rng, len(z), SAMPLES)][:, pick(rng, z.shape[1], COLUMNS)]
    spread = SPREAD[np.add.outer(range(len(SPREAD)), range(own.shape[1])) % len(SPREAD)]
    z = np.vstack([own, spread + 0.01 * rng.standard_normal(spread.shape)])
    for kink in g.kinks:
        z = np.where(np.abs(z - kink) < 10 * NEAR * np.maximum(1, np.abs(z)), kink + 0.5, z)
    a = g.value(z)
    label: Label = lambda i: f"layer {number}, z = {z[i[0], i[-1]]:.6g}"  # noqa: E731
    yield compare(names[0], f"its range, {g.range[0]:g} to {g.range[1]:g}", a, np.clip(a, *g.range), EXACT, label)

    def slope(x: Array) -> Array:
        return g.derivative(x, g.value(x))

    def second(x: Array) -> Array | None:
        return attempt(g.second_derivative, x, g.value(x))

    matrix = slope(z) if g.rowwise else diagonal(slope(z))
    yield from check_columns(names[1], g.value, matrix, z, label, names[:1], rng, spread=len(own))
    if g.rowwise:
        arriving, R_z = rng.standard_normal((2, *z.shape))
        f: Function = lambda x: (arriving * g.value(x)).sum(axis=-1)  # noqa: E731
        yield from check_columns(names[2], f, g.backward(arriving, z, a), z, label, names[:1], rng)
        tangent = attempt(g.backward_tangent, arriving, z, a, R_z)
        if tangent is not None:
            numeric = differentiate(lambda x: g.backward(arriving, x, g.value(x)), z, R_z)
            yield from both(names[3], tangent, numeric, label, FLOOR, names[:3])
    elif (curved := second(z)) is not None:
        yield from check_columns(names[2], slope, diagonal(curved), z, label, names[:2], rng, spread=len(own))
    yield from check_text(g, names, (g.value, slope) if g.rowwise else (g.value, slope, second), {"z": z}, rng)
    if g.kinks and not g.rowwise:
        z = np.array([g.kinks])
        finite = bool(np.isfinite([g.value(z), slope(z)]).all())
        yield Check(names[1], "finite at its kinks", 0.0 if finite else np.inf, 0.0, "at a kink", finite)


def loss_factors(loss: Loss) -> list[str]:
    """How the three formulas of a loss are named."""
    return [f"loss {loss}, {part}" for part in ("value", "derivative", "second derivative")]


def check_loss(loss: Loss, y_hat: Array, y: Array, rng: np.random.Generator) -> Iterator[Check]:
    """ℒ, ℒ′ and ℒ″ at ŷ, y (N, n_L), and at spread ŷ for some of the same y."""
    names = loss_factors(loss)
    rows, extra = pick(rng, len(y), SAMPLES), rng.permutation(len(y))[: len(SPREAD)]
    spread = rng.permutation(np.resize(SPREAD, len(extra) * y.shape[1])).reshape(len(extra), -1)
    below, above = loss.prediction
    spread = 1 / (1 + np.exp(-spread)) if above == 1 else np.exp(0.5 * spread) if below == 0 else spread
    x, t = np.vstack([y_hat[rows], spread]), np.vstack([y[rows], y[extra]])
    finite = np.isfinite([loss.value(x, t), loss.derivative(x, t)]).all(axis=0)
    good = np.array((finite & away_from_kinks(loss, x, t)).all(axis=1))
    own, x, t = int(good[: len(rows)].sum()), x[good], t[good]
    if not len(x):
        return
    label: Label = lambda i: f"ŷ = {x[i[0], i[-1]]:.6g}, y = {t[i[0], i[-1]]:.6g}"  # noqa: E731

    def second(p: Array, y: Array) -> Array | None:
        return attempt(loss.second_derivative, p, y)

    f: Function = lambda p: loss.value(p, t).sum(axis=1)  # noqa: E731
    slack = 1e-5 * (np.abs(x) + np.abs(t))
    yield from check_columns(names[1], f, loss.derivative(x, t), x, label, names[:1], rng, slack=slack, spread=own)
    if (curved := second(x, t)) is not None:
        curved = curved if curved.ndim == 3 else diagonal(curved)
        f = lambda p: loss.derivative(p, t)  # noqa: E731
        yield from check_columns(names[2], f, curved, x, label, names[:2], rng, spread=own)
    functions = [loss.value, loss.derivative, second]
    yield from check_text(loss, names, functions, {"y_hat": x, "y": t}, rng)


def check_pair(g: Activation, loss: Loss, pair: Loss, z: Array, y: Array, rng: np.random.Generator) -> Check:
    """The loss on logits and its derivative against the loss on ŷ = g(z), where neither overflows."""
    rows = pick(rng, len(z), SAMPLES)
    z, y = z[rows] - z[rows].max(axis=1, keepdims=True) * g.rowwise, y[rows]
    z = np.clip(z, -6, 6)
    a = g.value(z)
    names = [f"activation {g}, {part}" for part in ("value", "derivative", "matrix", "contraction")]
    rests = [*names, *loss_factors(loss)[:2], *loss_factors(pair)[:2]]
    wanted = np.array([loss.value(a, y), g.backward(loss.derivative(a, y), z, a)])
    found = np.array([pair.value(z, y), pair.derivative(z, y)])
    floor = np.where(np.isfinite(wanted), FLOOR + 1e-5 * np.abs(z), np.inf)
    label: Label = lambda i: f"{('value', 'derivative')[i[0]]} at z = {z[i[1:]]:.6g}"  # noqa: E731
    factor = f"fused pair of {g} and {loss}"
    return compare(factor, "the general path", found, wanted, COMPLEX, label, floor, rests)


# -- layers -----------------------------------------------------------------------------------------------------------


def check_layer(A: Architecture, number: int, theta: Array, a_prev: Array, rng: np.random.Generator) -> Iterator[Check]:
    """A layer's map, backward, gradients, per-sample gradients and norms, for random ∂C/∂z at its own a_prev."""
    layer = A.layers[number - 1]
    alone = Architecture(a_prev.shape[1], (layer,))  # a network of this layer only, whose θ begins at `start`
    start = next((at.start for at in A.places[number - 1] if at is not None), 0)
    own = theta[start : start + alone.P]
    own = np.where(own == 0, 0.1 * rng.choice([-1.0, 1.0], own.shape), own)  # a bias of 0 hides that it was forgotten
    p = alone.views(own)[0]
    a_prev = a_prev[pick(rng, len(a_prev), fewer(SAMPLES, own.size))]
    mask = layer.mask(rng.random(a_prev.shape), np.dtype(np.float64)) if isinstance(layer, Dropout) else None
    named, by_W, by_b, by_a, apart, norms = (
        f"{A.describe(number)}, {part}"
        for part in ("map", "∂C/∂W", "∂C/∂b", "∂C/∂a_prev", "per-sample gradients", "norms")
    )

    z = layer.forward(a_prev, p, mask)
    expected = rewritten.layer_map(np, layer, a_prev, p, mask)
    if expected is not None:
        size = rewritten.layer_map(np, layer, np.abs(a_prev), alone.views(np.abs(own))[0], mask)  # of the terms
        label = row_column(f"layer {number}, z")
        yield compare(named, "sums written again", z, expected, EXACT, label, FLOOR * size + TINY)

    R = rng.standard_normal(z.shape)
    f: Function = lambda x: (R * layer.forward(x, p, mask)).sum(axis=-1)  # noqa: E731
    label = row_column(f"layer {number}, ∂C/∂a_prev")
    yield from check_columns(by_a, f, layer.backward(R, p, mask), a_prev, label, [named], rng, least=TINY)

    found, rows = np.full(own.size, np.nan), np.full((len(a_prev), own.size), np.nan)
    layer.gradients(R, a_prev, alone.views(found)[0])
    for i, row in enumerate(rows):
        layer.gradients(R[i : i + 1], a_prev[i : i + 1], alone.views(row)[0])
    single = per_sample.gradients(alone, [R], [a_prev], np.empty((len(R), alone.P), R.dtype))
    score: Function = lambda moved: np.asarray((R * layer.forward(a_prev, alone.views(moved)[0], mask)).sum())  # noqa: E731
    top = FLOOR * max(TINY, np.abs(R).sum(axis=0).max() * max(1e-6, np.abs(a_prev).max(initial=0.0)))
    for factor, block in zip((by_W, by_b), A.places[number - 1], strict=True):
        if block is None:
            continue
        ways = directions(A, block, fewer(COORDINATES, own.size), rng, start)
        yield from both_in(factor, score, own, found, ways, np.full(len(ways), top), [named])
        at = ways[-1].at
        total, first = rows[:, at].sum(axis=0), block.start
        label = lambda i, first=first: address(A, first + i[-1])  # type: ignore[misc] # noqa: E731
        floor = FLOOR * np.abs(rows[:, at]).sum(axis=0).max(initial=TINY)
        yield compare(factor, "sum over rows", found[at], total, EXACT, label, floor, [named])
        floor = FLOOR * np.abs(rows[:, at]).max() + TINY
        rests = [named, by_W, by_b]
        yield compare(apart, "gradients of one row", single[:, at], rows[:, at], EXACT, label, floor, rests)
    square = (rows**2).sum(axis=1)
    label, floor = row_column(f"layer {number}"), FLOOR * square.max(initial=0.0) + TINY
    found = layer.squared_norms(R, a_prev)
    yield compare(norms, "gradients of one row", found, square, EXACT, label, floor, [named, by_W, by_b])


# -- cost -------------------------------------------------------------------------------------------------------------


def check_aggregate(problem: Problem, L: Array, rng: np.random.Generator) -> Iterator[Check]:
    """φ and ∇φ at the losses L (N,) of the network; ties are broken where φ has kinks."""
    phi, s, mean_weight = problem.cost.aggregate, problem.s, problem.mean_weight
    value, first, second = (f"aggregate {phi}, {part}" for part in ("value", "gradient", "second derivative"))
    size = float(np.abs(L).max(initial=0.0)) or 1.0
    if not phi.additive:
        L = L + size * 1e-2 * rng.permutation(np.linspace(0, 1, len(L)))
    found, slope = phi.value_and_gradient(L, s, mean_weight)
    expected = rewritten.aggregate(np, phi, L, s, mean_weight)
    if expected is not None:
        label: Label = lambda _: f"φ of {len(L)} losses"  # noqa: E731
        yield compare(value, "sums written again", found, expected, EXACT, label, 1e-5 * size)
        known = {"mean": float(s.sum()) / (len(s) * mean_weight), "sum": float(s.sum())}.get(phi.name, 1.0)
        label = lambda _: "Σ ∂φ/∂Lᵢ, which holds the factor 1/N"  # noqa: E731
        yield compare(first, "its sum", np.sum(slope), known, EXACT, label, rests_on=[value])
    places = pick(rng, len(L), COLUMNS)
    f: Function = lambda x: np.asarray(phi.value_and_gradient(x, s, mean_weight)[0])  # noqa: E731
    numeric = along(f, L, [Direction("", slice(i, i + 1), size=0.1 * size).step(len(L)) for i in places])
    floor = FLOOR * float(np.abs(numeric.central).max(initial=0.0))
    label = lambda i: f"sample {places[i[0]]}"  # noqa: E731
    yield from both(first, slope[places], numeric, label, floor, [value])
    if phi.hessian is not None:
        R_L = size * rng.choice([-1.0, 1.0], len(L))
        central, error = richardson(lambda x: phi.value_and_gradient(x, s, mean_weight)[1], L, 0.1 * R_L, 0.1)
        floor = FLOOR * np.abs(slope).max(initial=0.0)
        numeric = Numeric(None, central, error)
        yield from both(
            second, phi.hessian_times(L, s, mean_weight, R_L), numeric, row_column("loss"), floor, [value, first]
        )


def check_cost(problem: Problem, values: Values, rng: np.random.Generator) -> Iterator[Check]:
    """Smoothing, the sum or mean over outputs, the seed, ∂C/∂ŷ and δ of the output layer, for a random ∇φ."""
    cost, y, g = problem.cost, problem.y, problem.architecture.output_activation
    pair = on_logits(g, cost.loss)
    used, share = pair or cost.loss, y.shape[1] if cost.average_outputs else 1
    smooth = rewritten.smoothed(cost, y)
    yield compare(SMOOTHING, "written again", cost.smooth(y), smooth, EXACT, row_column("y"), FLOOR)

    per_output = used.value(values.y_hat if pair is None else values.logits, smooth)
    wanted = np.array([row.sum() for row in per_output]) / share
    finite = np.isfinite(wanted)
    floor = FLOOR * float(np.abs(per_output[finite]).max(initial=TINY))
    found, label = problem.losses(values).per_sample[finite], row_column("loss")
    rests = [SMOOTHING, loss_factors(used)[0]]
    yield compare(OF_SAMPLES, "sums written again", found, wanted[finite], EXACT, label, floor, rests)

    v = rng.uniform(0.2, 1.0, len(y)) * rng.choice([-1.0, 1.0], len(y))
    yield compare(SEED, "written again", cost.seed(v, y), (v / share)[:, None], EXACT, label)

    rows = np.flatnonzero(smooth_rows(problem) & finite & np.isfinite(values.y_hat).all(axis=1))[:SAMPLES]
    if not len(rows):
        return
    t, weight, smooth = y[rows], v[rows], smooth[rows]
    z, a = values.logits[rows], values.y_hat[rows]
    found, rests = cost.dC_da(a, t, weight), [SMOOTHING, SEED, *loss_factors(cost.loss)[:2]]
    if np.isfinite(cost.loss.value(a, smooth)).all() and np.isfinite(found).all():
        f: Function = lambda p: weight * cost.loss.value(p, smooth).sum(axis=1) / share  # noqa: E731
        slack = 1e-5 * (1 + np.abs(a))
        yield from check_columns(BY_PREDICTION, f, found, a, row_column("ŷ"), rests, rng, slack=slack, least=0.0)

    def by_logits(p: Array) -> Array:
        return weight * cost.losses(g, Values([p], [g.value(p)]), t, np.ones(len(t)), 1.0).per_sample

    rests = [*rests, OF_SAMPLES, *loss_factors(used)[:2], *([] if pair else [BY_PREDICTION])]
    rests += [f"activation {g}, {part}" for part in ("value", "derivative", "contraction")]
    found, slack = cost.dC_dz(g, Values([z], [a]), t, weight), 1e-4 * (1 + np.abs(z) + np.abs(t))
    label = row_column("output z")
    yield from check_columns(BY_LOGITS, by_logits, found, z, label, rests, rng, slack=slack, least=0.0)


def check_penalty(problem: Problem, rng: np.random.Generator) -> Iterator[Check]:
    """R and ∂R/∂θ, away from zeros."""
    A, R = problem.architecture, problem.cost.penalty
    theta = np.where(np.abs(problem.theta) < 0.05, 0.1 * rng.choice([-1.0, 1.0], A.P), problem.theta)
    total = rewritten.penalty(R, A.views(theta))
    yield compare(PENALTY, "sums written again", R.value(A, theta), total, EXACT, lambda _: "R(θ)", TINY)
    slope = np.ones(A.P)  # to which the penalty's is added
    R.add_gradient(A, theta, slope)
    blocks = [at for pair in A.places for at in pair if at is not None]
    ways = [d for at in blocks for d in directions(A, at, fewer(COORDINATES, A.P) // len(blocks) + 1, rng)]
    f: Function = lambda x: np.asarray(R.value(A, x))  # noqa: E731
    floor = np.array([d.reach(np.ones(A.P)) for d in ways]) * (FLOOR * (R.l1 + R.l2) + 1e-5)
    yield from both_in(PENALTY_GRADIENT, f, theta, slope - 1, ways, floor, [PENALTY])
