"""What is verified: a network, a batch and a cost, in float64, and which of its rows lie where derivatives exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import Array
from ..core.architecture import Architecture, Masks, Values, forward
from ..core.backward import gradient
from ..core.cost import Cost, Losses
from ..errors import ParameterError
from ..formulas.losses import Loss

NEAR = 1e-5  # nearer than this to a kink a row takes no part
ROWS = 128  # how many rows are looked at where there are more


@dataclass(frozen=True)
class Problem:
    """A network, a batch and a cost."""

    architecture: Architecture
    theta: Array
    X: Array
    y: Array
    cost: Cost
    s: Array
    mean_weight: float
    masks: Masks | None

    @property
    def values(self) -> Values:
        """The forward pass, with everything kept."""
        return forward(self.architecture, self.theta, self.X, self.masks, keep="all")

    def losses(self, values: Values) -> Losses:
        """ℒ, L, φ and ∇φ of a forward pass."""
        return self.cost.losses(self.architecture.output_activation, values, self.y, self.s, self.mean_weight)

    def value(self, theta: Array) -> Any:
        """C at other parameters, real or complex."""
        values = forward(self.architecture, theta, self.X, self.masks)
        return self.losses(values).aggregated + self.cost.penalty.value(self.architecture, theta)

    def gradient(self) -> Array:
        """The gradient under test, (P,)."""
        data = (self.X, self.y, self.cost, self.s, self.mean_weight, self.masks)
        return gradient(self.architecture, self.theta, *data).theta

    def rows(self, chosen: Array) -> Problem:
        """The same with some of the rows; the mean weight stays that of all."""
        masks = None if self.masks is None else [None if m is None else m[chosen] for m in self.masks]
        return replace(self, X=self.X[chosen], y=self.y[chosen], s=self.s[chosen], masks=masks)


def in_float64(
    architecture: Architecture, theta: Array, X: Array, y: Array, cost: Cost, s: Array, mean_weight: float, seed: int
) -> Problem:
    """The problem in float64; the targets of a row of probabilities sum to 1 exactly."""
    theta, X, y = (np.array(part, np.float64) for part in (theta, X, y))
    if cost.loss.categorical:
        y /= y.sum(axis=1, keepdims=True)
    masks = architecture.masks(len(X), seed, 0, np.dtype(np.float64))
    return Problem(architecture, theta, X, y, cost, s, mean_weight, masks)


def drawn(problem: Problem, rng: np.random.Generator, notes: list[str]) -> Problem:
    """At most ROWS of the rows, those with a weight first."""
    N = len(problem.X)
    if N <= ROWS:
        return problem
    order = rng.permutation(N)
    first = order[np.argsort(problem.s[order] == 0, kind="stable")]
    notes.append(f"{ROWS} of {N} rows drawn")
    return problem.rows(np.sort(first[:ROWS]))


def pick(rng: np.random.Generator, n: int, most: int) -> Array:
    """At most so many of the numbers 0 … n − 1, in order."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def attempt(function: Callable[..., Array], *at: Array) -> Array | None:
    """What a record's function gives; None where a record of one's own leaves it out, as it may second derivatives."""
    try:
        return np.asarray(function(*at))
    except (ParameterError, NotImplementedError):
        return None


def z_and_a(values: Values) -> tuple[list[Array], list[Array]]:
    """z of the layers 1 … L and a of the layers 0 … L, of a forward pass that kept them."""
    return [z for z in values.z if z is not None], [a for a in values.a if a is not None]


def smooth_rows(problem: Problem) -> Array:
    """Which rows lie away from the kinks of activations and loss, and from ties where φ has kinks, (N,)."""
    values, cost = problem.values, problem.cost
    good = np.ones(len(problem.X), bool)
    for layer, z in zip(problem.architecture.layers, z_and_a(values)[0], strict=True):
        for kink in layer.g.kinks:
            good &= (np.abs(z - kink) > NEAR * np.maximum(1, np.abs(z))).all(axis=1)
    good &= away_from_kinks(cost.loss, values.y_hat, cost.smooth(problem.y)).all(axis=1)
    if not cost.aggregate.additive:
        L = problem.losses(values).per_sample
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


def moved_off_kinks(problem: Problem, rng: np.random.Generator, notes: list[str]) -> Problem | None:
    """The problem without the rows at a kink; where all are, θ moves a little first, and None if that does not help.

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
            return problem.rows(np.flatnonzero(good))
        if attempt == 0:
            notes.append("whole gradient: all rows lie at a kink, so it was taken at slightly other parameters")
        problem = replace(problem, theta=problem.theta + 1e-3 * rng.standard_normal(problem.theta.shape))
    notes.append("whole gradient: not checked, all rows lie at a kink")
    return None
