"""Verification: every factor of the gradient against independent witnesses, so that the wrong formula is named.

A gradient is a product of factors: the layers' maps, g′, ℒ′, ∇φ, the penalty. Each is checked by itself (`factors`), at
the network's own values and at a few points beside them, before the whole is. The witnesses:

- complex step and central differences, which say how far they can be trusted (`numeric`);
- the record's formula text, differentiated by SymPy and evaluated with 50 digits, where SymPy is installed (`formula_text`);
- plain sums written again, for what has no derivative: the maps, φ, the penalty, label smoothing (`rewritten`);
- PyTorch's automatic differentiation of the whole cost, where it is installed (`torch_witness`).

A check says on which other factors it rests. `Report.blame` names the failing factors that rest on no failing one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import Array, check_matrix
from ..core.architecture import Architecture
from ..core.cost import Cost
from ..counter import check_seed
from ..errors import ShapeError
from ..formulas.activations import Activation
from ..formulas.losses import on_logits
from .checks import COMPLEX, FLOOR, WHOLE, both, both_in, compare
from .checks import Check as Check
from .checks import Report as Report
from .factors import address, check_factors, check_shapes, directions, fewer, on_the_way
from .formula_text import unread
from .numeric import STEPS, TINY, Direction, Function, along, complex_step
from .problem import NEAR, Problem, attempt, drawn, in_float64, moved_off_kinks, pick, smooth_rows, z_and_a
from .torch_witness import torch_gradient

COORDINATES = 400  # up to so many parameters every one of them is looked at


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
        everything = in_float64(architecture, theta, X, y, cost, s, mean_weight, seed)
        shapes = tuple(check_shapes(everything))
        if shapes:
            return Report(shapes)
        C = everything.value(everything.theta)
        if not np.isfinite(C):
            return Report((Check("cost", "finite", np.inf, 0.0, f"C is {C}", False),))
        some = drawn(everything, rng, notes)
        checks = list(check_factors(some, rng))
        rests_on = list(dict.fromkeys(check.factor for check in checks if on_the_way(check.factor)))
        whole = moved_off_kinks(some, rng, notes)
        if whole is not None:
            checks += check_whole(whole, rests_on, rng, notes)
            if len(some.X) < len(X) and cost.aggregate.additive:
                checks.append(check_all_rows(replace(everything, theta=whole.theta), rests_on, rng))
        if theta.dtype == np.float32:
            checks.append(check_dtype(some, theta.dtype, [*rests_on, WHOLE]))
    if find_spec("sympy") is None:
        notes.append("sympy is not installed: formula texts were not read")
    else:
        records = [*(layer.g for layer in architecture.layers), cost.loss]
        notes += [f"the formula text of {record} cannot be read: {record.formula}" for record in unread(records)]
    return Report(tuple(checks), tuple(notes))


def check_whole(
    problem: Problem, rests_on: Sequence[str], rng: np.random.Generator, notes: list[str]
) -> Iterator[Check]:
    """∂C/∂θ against complex steps and differences of C, along coordinates and random signs, and against PyTorch."""
    A = problem.architecture
    gradient, S = problem.gradient(), magnitudes(problem)
    blocks = [at for pair in A.places for at in pair if at is not None]
    most = A.P if A.P <= COORDINATES else fewer(COORDINATES // 4, A.P) // len(blocks) + 1
    ways = [d for at in blocks for d in directions(A, at, most, rng)]
    signs = rng.choice([-1.0, 1.0], (2, A.P))
    ways += [Direction("θ, all along random signs", slice(0, A.P), d) for d in signs]
    ways = limited(problem, ways)
    floor = FLOOR * np.array([d.reach(S) for d in ways])
    f: Function = lambda theta: np.asarray(problem.value(theta))  # noqa: E731
    found = list(both_in(WHOLE, f, problem.theta, gradient, ways, floor, rests_on))
    yield from found
    if len(found) == 1:
        notes.append("the cost takes no complex step: central differences only")
    automatic = torch_gradient(problem)
    if isinstance(automatic, str):
        notes.append(automatic)
    else:  # where a prediction is exactly 0 or 1, autograd divides zero by zero
        floor = np.where(np.isfinite(automatic), FLOOR * S, np.inf)
        label = lambda i: address(A, i[0])  # noqa: E731
        yield compare(WHOLE, "PyTorch autograd", gradient, automatic, COMPLEX, label, floor, rests_on)


def limited(problem: Problem, ways: list[Direction]) -> list[Direction]:
    """Directions in θ with steps so small, where there are kinks, that no z, ŷ or L gets from `NEAR` to one."""
    A, cost = problem.architecture, problem.cost
    kinks = [*cost.loss.kinks, *(kink for layer in A.layers for kink in layer.g.kinks)]
    if not (kinks or cost.penalty.l1 or not cost.aggregate.additive):
        return ways

    def moving(theta: Array) -> list[Array]:
        there = replace(problem, theta=theta)
        values = there.values
        return [*z_and_a(values)[0], values.y_hat, there.losses(values).per_sample]

    h, here = 1e-7, moving(problem.theta)
    size = [np.maximum(1, np.abs(v)) for v in here]
    for k, d in enumerate(ways):
        moved = zip(moving(problem.theta + h * d.step(A.P)[0]), here, size, strict=True)
        speed = max(float(np.nan_to_num(np.abs(b - a) / c).max()) for b, a, c in moved) / h
        ways[k] = d._replace(size=NEAR / 2 / max(STEPS) / max(1.0, speed))
    return ways


def magnitudes(problem: Problem) -> Array:
    """The size (P,) of the terms that each ∂C/∂θ is a sum of: rounding is a share of it, whatever cancels.

    The forward and backward loops with absolute values in the place of all factors, each with what its own rounding adds.
    """
    A, cost, values = problem.architecture, problem.cost, problem.values
    g, y, views = A.output_activation, cost.smooth(problem.y), A.views(np.abs(problem.theta))
    masks, reach, size = problem.masks or [None] * len(A.layers), [np.empty(0)], [np.abs(problem.X) + FLOOR]
    z, a = z_and_a(values)
    for number, (layer, p, mask) in enumerate(zip(A.layers, views, masks, strict=True), 1):
        reach.append(np.abs(layer.forward(np.abs(a[number - 1]), p, mask)))
        moved = np.abs(layer.g.tangent(reach[-1], z[number - 1], a[number]))
        size.append(np.nan_to_num(np.abs(a[number]) + moved, posinf=1e300) + FLOOR)

    pair = on_logits(g, cost.loss)
    loss, at = (cost.loss, values.y_hat) if pair is None else (pair, values.logits)
    slope, about = np.abs(loss.derivative(at, y)), np.abs(at) + np.abs(y) + FLOOR
    curved = np.abs(np.ones_like(at) if (found := attempt(loss.second_derivative, at, y)) is None else found)
    bent = (curved @ about[..., None])[..., 0] if curved.ndim == 3 else curved * about
    S = np.abs(cost.seed(problem.losses(values).dC_dL, y)) * (slope + bent)

    result = np.zeros(A.P)
    slots = A.views(result)
    for number in range(len(A.layers), 0, -1):
        layer = A.layers[number - 1]
        if number < len(A.layers) or pair is None:
            S = through(layer.g, S, z[number - 1], a[number], reach[number])
        S = np.nan_to_num(S, posinf=1e300)
        layer.gradients(S, size[number - 1], slots[number - 1])
        S = np.abs(layer.backward(S, views[number - 1], masks[number - 1]))
    return np.abs(result) + cost.penalty.l1 + cost.penalty.l2 * np.abs(problem.theta)


def through(g: Activation, S: Array, z: Array, a: Array, reach: Array) -> Array:
    """Sizes through an activation: |γ|, what g″ makes of the rounding of z, and a share that 1 − a² and its like lose."""
    gamma = np.abs(g.derivative(z, a))
    if g.rowwise:
        return np.einsum("ij,ijk->ik", S, gamma) * (1 + reach) + FLOOR * S
    curved = attempt(g.second_derivative, z, a)
    return S * (gamma + (gamma if curved is None else np.abs(curved)) * (reach + np.abs(z)) + FLOOR)


def check_all_rows(problem: Problem, rests_on: Sequence[str], rng: np.random.Generator) -> Check:
    """∂C/∂θ of all rows along one direction of random signs, by a complex step; rows at kinks are left out."""
    problem = problem.rows(np.flatnonzero(smooth_rows(problem)))
    d = rng.choice([-1.0, 1.0], len(problem.theta))
    numeric = complex_step(problem.value, problem.theta, d)
    floor = FLOOR * magnitudes(problem).sum()
    label = lambda _: f"{len(problem.X)} rows, θ along random signs"  # noqa: E731
    analytic = d @ problem.gradient()
    return compare(WHOLE, "complex step, all rows", analytic, numeric, COMPLEX, label, floor, rests_on)


def check_dtype(problem: Problem, dtype: np.dtype[Any], rests_on: Sequence[str]) -> Check:
    """The gradient in the network's own dtype against that in float64, as a share of the sizes of its terms."""
    theta, X, y = (part.astype(dtype) for part in (problem.theta, problem.X, problem.y))
    masks = None if problem.masks is None else [None if m is None else m.astype(dtype) for m in problem.masks]
    wide = replace(problem, theta=theta.astype(float), X=X.astype(float))
    found, expected, S = (
        replace(problem, theta=theta, X=X, y=y, masks=masks).gradient(),
        wide.gradient(),
        magnitudes(wide),
    )
    factor = f"arithmetic in {dtype}"
    if found.dtype != dtype:
        where = f"expected {dtype}, got {found.dtype}"
        return Check(factor, "dtype", np.inf, 0.0, where, False, None, frozenset(rests_on))
    limit = float(32 * np.finfo(dtype).eps * len(problem.architecture.layers))
    floor = np.maximum(S, FLOOR * S.max(initial=0.0))
    label = lambda i: address(problem.architecture, i[0])  # noqa: E731
    return compare(factor, "the same in float64", found.astype(float), expected, limit, label, floor, rests_on)


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
    rng, P = np.random.default_rng(seed), len(at)
    g = np.array(gradient(at.copy()), dtype=np.float64)
    if g.shape != at.shape:
        raise ShapeError(f"verify_pair: expected a gradient of shape {at.shape} as theta, got {g.shape}.")
    ways = [Direction(f"θ[{j}]", slice(j, j + 1), size=max(1.0, abs(at[j]))) for j in pick(rng, P, COORDINATES)]
    ways += [Direction("θ along random signs", slice(0, P), rng.choice([-1.0, 1.0], P)) for _ in range(3)]
    with np.errstate(all="ignore"):
        numeric = along(lambda x: np.asarray(value(x)), at, (d.step(P) for d in ways))
    analytic = np.array([d.dot(g) for d in ways])
    sizes = np.array([d.reach(g) for d in ways])
    floor = 1e-6 * np.maximum(sizes, np.abs(numeric.central).max(initial=0.0)) + TINY
    return Report(tuple(both("gradient", analytic, numeric, lambda i: ways[i[0]].name, floor)))
