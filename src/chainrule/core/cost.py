"""The cost C = φ(L₁ … L_N) + R(θ) as a frozen record: loss, aggregator φ, penalty R (`mathematics` §4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np

from ..arrays import Array, check_number, namespace
from ..errors import ParameterError, unknown_name
from ..formulas.activations import Activation
from ..formulas.aggregators import Aggregator, find_aggregator, mean
from ..formulas.losses import Loss, check_fit, check_targets, default_loss, find_loss, on_logits
from .architecture import Architecture, Values


@dataclass(frozen=True)
class Penalty:
    """R(θ) = l1 Σ|w| + (l2/2) Σ w², over the weights, or over the biases too.

    Its strength depends neither on the batch size nor on the scale of the sample weights.
    """

    l1: float = 0.0
    l2: float = 0.0
    biases: bool = False

    def __post_init__(self) -> None:
        check_number("Penalty", "l1", self.l1)
        check_number("Penalty", "l2", self.l2)

    def chosen(self, architecture: Architecture) -> Array | slice:
        """Which parameters the penalty acts on."""
        return slice(None) if self.biases else architecture.weights

    def value(self, architecture: Architecture, theta: Array) -> Any:
        """R(θ), a number."""
        if not (self.l1 or self.l2):
            return theta.dtype.type(0)
        xp, _ = namespace(theta)
        chosen = theta[self.chosen(architecture)]
        return self.l1 * xp.abs(chosen).sum() + 0.5 * self.l2 * (chosen @ chosen)

    def add_gradient(self, architecture: Architecture, theta: Array, gradient: Array) -> None:
        """Add ∂R/∂θ to a gradient (P,); the subgradient of |w| at 0 is 0."""
        if self.l1 or self.l2:
            at = self.chosen(architecture)
            gradient[at] += self.l1 * np.sign(theta[at]) + self.l2 * theta[at]


class Losses(NamedTuple):
    """The losses of one pass, with the seed of the backward pass."""

    per_output: Array  # ℒ (N, n_L)
    per_sample: Array  # L (N,), in float64 whatever the network's dtype
    aggregated: Any  # φ(L)
    dC_dL: Array  # ∇φ (N,)


@dataclass(frozen=True)
class Cost:
    """C = φ(L₁ … L_N) + R(θ).

    Attributes:
        loss: ℒ.
        aggregate: φ.
        penalty: R.
        average_outputs: L is the mean over a sample's outputs instead of their sum.
        label_smoothing: ε; probabilities y become (1 − ε) y + ε/K, with K = 2 for a single unit.
    """

    loss: Loss
    aggregate: Aggregator = mean
    penalty: Penalty = Penalty()
    average_outputs: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_number("Cost", "label_smoothing", self.label_smoothing, high=1)
        for name, kind in (("loss", Loss), ("aggregate", Aggregator), ("penalty", Penalty), ("average_outputs", bool)):
            if not isinstance(getattr(self, name), kind):
                raise ParameterError(f"Cost: expected {name} of type {kind.__name__}, got {getattr(self, name)!r}.")
        if self.average_outputs and self.loss.categorical:
            raise ParameterError(
                f"Cost: expected the outputs' losses to be added for {self.loss}, got average_outputs=True. "
                "A categorical cross-entropy belongs to all outputs of a sample together."
            )
        if self.label_smoothing and self.loss.targets not in ("one_hot", "probability"):
            raise ParameterError(
                f"Cost: expected a cross-entropy with label_smoothing, got the loss {self.loss}. Leave it 0."
            )

    @property
    def options(self) -> CostOptions:
        """The choices of `make_cost` that make this cost."""
        return {
            "loss": self.loss,
            "aggregate": self.aggregate,
            "penalty": self.penalty,
            "average_outputs": self.average_outputs,
            "label_smoothing": self.label_smoothing,
        }

    def targets(self, where: str, y: Any, outputs: int, dtype: np.dtype[np.floating]) -> Array:
        """y as the matrix (N, n_L) that the loss takes; see `losses.check_targets` for the errors."""
        return check_targets(where, self.loss, y, outputs, dtype)

    def smooth(self, y: Array) -> Array:
        """The targets with label smoothing, (N, n_L)."""
        if not self.label_smoothing:
            return y
        classes = y.shape[1] if self.loss.categorical else 2
        return y * y.dtype.type(1 - self.label_smoothing) + y.dtype.type(self.label_smoothing / classes)

    def losses(self, g: Activation, values: Values, y: Array, s: Array, mean_weight: float) -> Losses:
        """ℒ, L, φ and ∇φ of a forward pass; of a fused pair from the logits, never from a log of ŷ."""
        pair = on_logits(g, self.loss)
        y = self.smooth(y)
        per_output = self.loss.value(values.y_hat, y) if pair is None else pair.value(values.logits, y)
        wide = np.complex128 if per_output.dtype.kind == "c" else np.float64
        per_sample = per_output.sum(axis=1, dtype=wide)
        if self.average_outputs:
            per_sample = per_sample / per_output.shape[1]
        value, dC_dL = self.aggregate.value_and_gradient(per_sample, s, mean_weight)
        return Losses(per_output, per_sample, value, dC_dL)

    def seed(self, dC_dL: Array, y: Array) -> Array:
        """∂C/∂ℒ (N, 1): ∇φ, times 1/n_L where outputs are averaged."""
        seed = (dC_dL / y.shape[1] if self.average_outputs else dC_dL).astype(y.dtype)
        return seed[:, None]

    def seeded(self, dC_dL: Array, slope: Array) -> Array:
        """∂C/∂ℒ times a slope of ℒ (N, n_L); a sample of weight 0 takes no part, even where its slope is infinite."""
        result = self.seed(dC_dL, slope) * slope
        if not dC_dL.all():
            result[dC_dL == 0] = 0
        return result

    def dC_da(self, y_hat: Array, y: Array, dC_dL: Array) -> Array:
        """∂C/∂ŷ (N, n_L), the general path."""
        return self.seeded(dC_dL, self.loss.derivative(y_hat, self.smooth(y)))

    def dC_dz(self, g: Activation, values: Values, y: Array, dC_dL: Array) -> Array:
        """δ of the output layer (N, n_L): from the fused pair where there is one, else ∂C/∂ŷ through g′."""
        pair = on_logits(g, self.loss)
        if pair is not None:
            return self.seeded(dC_dL, pair.derivative(values.logits, self.smooth(y)))
        return g.backward(self.dC_da(values.y_hat, y, dC_dL), values.logits, values.y_hat)

    def tangent_of_dC_dz(
        self,
        g: Activation,
        values: Values,
        y: Array,
        s: Array,
        mean_weight: float,
        R_z: Array,
        R_y_hat: Array,
        exact: bool,
    ) -> Array:
        """R{δ} of the output layer (N, n_L), where z and ŷ change by R{z} and R{ŷ}; without `exact` as if g were affine.

        Of a fused pair the loss is one of z, so Gauss-Newton (`exact=False`) splits at the logits.
        """
        pair, z, a = on_logits(g, self.loss), values.logits, values.y_hat
        loss, at, R_at = (self.loss, a, R_y_hat) if pair is None else (pair, z, R_z)
        slope = loss.derivative(at, self.smooth(y))
        curved = loss.second_derivative(at, self.smooth(y))
        bent = (curved @ R_at[..., None])[..., 0] if curved.ndim == 3 else curved * R_at
        outputs = y.shape[1] if self.average_outputs else 1
        _, L, _, dC_dL = self.losses(g, values, y, s, mean_weight)
        R_dC_dL = self.aggregate.hessian_times(L, s, mean_weight, (slope * R_at).sum(axis=1) / outputs)
        R_dC_dat = self.seeded(R_dC_dL, slope) + self.seeded(dC_dL, bent)
        if pair is not None:
            return R_dC_dat
        R_delta = g.backward(R_dC_dat, z, a)
        return R_delta + g.backward_tangent(self.dC_da(a, y, dC_dL), z, a, R_z) if exact else R_delta


class CostOptions(TypedDict, total=False):
    """The choices of `make_cost`, all of them optional."""

    loss: Loss | str | None
    aggregate: Aggregator | str
    penalty: Penalty | float | None
    average_outputs: bool
    label_smoothing: float


def make_cost(where: str, output: Activation, **options: Unpack[CostOptions]) -> Cost:
    """A cost from names or records, checked against the output activation.

    Without a loss it follows from the output activation; a number as penalty is an l2.

    Raises:
        ParameterError: unknown names or options, or an output activation that the loss cannot take.
    """
    known = CostOptions.__annotations__
    for name in options:
        if name not in known:
            raise unknown_name(f"{where}: option", name, known)
    loss = find_loss(f"{where}, loss", options.get("loss") or default_loss(output))
    check_fit(where, output, loss)
    penalty = options.get("penalty")
    if not isinstance(penalty, Penalty | None):
        check_number(where, "penalty", penalty)
    return Cost(
        loss,
        find_aggregator(f"{where}, aggregate", options.get("aggregate", mean)),
        penalty if isinstance(penalty, Penalty) else Penalty(l2=penalty or 0.0),
        options.get("average_outputs", False),
        options.get("label_smoothing", 0.0),
    )
