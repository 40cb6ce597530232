"""The one backward loop: from ∇φ to the flat gradient ∂C/∂θ, layer by layer (`mathematics` §2).

δ_L = seed ⊙ ∂ℒ/∂z_L                      (fused pair), or ∂C/∂ŷ through g_L′
∂C/∂W_l = δ_lᵀ a_{l-1}    ∂C/∂b_l = Σ_i δ_l    ∂C/∂a_{l-1} = δ_l W_l    δ_{l-1} = ∂C/∂a_{l-1} ⊙ g_{l-1}′
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..arrays import Array
from .architecture import Architecture, Masks, Values, forward
from .cost import Cost, Losses


@dataclass(frozen=True)
class Gradient:
    """The result of a backward pass.

    Attributes:
        cost: C, a number (float64). penalty: R, its second part.
        theta: ∂C/∂θ (P,), with the penalty's part.
        losses: ℒ, L, φ and ∇φ.
        dC_dz: δ by layer number 1 … L, (N, n_l); kept only on request, else None.
        dC_da: ∂C/∂a by layer number 0 … L; kept only on request, else None. That of the last layer is the
            general path's, also where a fused pair gave δ.
    """

    cost: Any
    penalty: Any
    theta: Array
    losses: Losses
    dC_dz: list[Array | None]
    dC_da: list[Array | None]


def backward(
    architecture: Architecture,
    theta: Array,
    values: Values,
    y: Array,
    cost: Cost,
    s: Array,
    mean_weight: float,
    masks: Masks | None = None,
    keep: Literal["gradient", "deltas", "all"] = "gradient",
) -> Gradient:
    """∂C/∂θ from a forward pass that kept all its values.

    `keep="all"` keeps every δ and ∂C/∂a too, "deltas" keeps the δ and leaves the gradient zero.
    y (N, n_L) are the targets, s (N,) the sample weights, mean_weight their mean over the whole data set.
    """
    g = architecture.output_activation
    losses = cost.losses(g, values, y, s, mean_weight)
    gradient = np.zeros_like(theta)
    L = len(architecture.layers)
    deltas: list[Array | None] = [None] * (L + 1)
    arriving: list[Array | None] = [None] * (L + 1)

    parameters, slots = architecture.views(theta), architecture.views(gradient)
    delta = cost.dC_dz(g, values, y, losses.dC_dL)
    if keep == "all":
        arriving[L] = cost.dC_da(values.y_hat, y, losses.dC_dL)
    for number in range(L, 0, -1):
        layer, a_prev = architecture.layers[number - 1], values.a[number - 1]
        assert a_prev is not None
        if keep != "deltas":
            layer.gradients(delta, a_prev, slots[number - 1])
        if keep != "gradient":
            deltas[number] = delta
        if number == 1 and keep != "all":
            break  # nobody asked for ∂C/∂X
        dC_da = layer.backward(delta, parameters[number - 1], masks[number - 1] if masks else None)
        if keep == "all":
            arriving[number - 1] = dC_da
        if number > 1:
            z = values.z[number - 1]
            assert z is not None
            delta = architecture.layers[number - 2].g.backward(dC_da, z, a_prev)
    cost.penalty.add_gradient(architecture, theta, gradient)
    R = cost.penalty.value(architecture, theta)
    return Gradient(losses.aggregated + R, R, gradient, losses, deltas, arriving)


def gradient(
    architecture: Architecture,
    theta: Array,
    X: Array,
    y: Array,
    cost: Cost,
    s: Array,
    mean_weight: float,
    masks: Masks | None = None,
) -> Gradient:
    """C and ∂C/∂θ of a batch X (N, n_0): one forward and one backward pass."""
    values = forward(architecture, theta, X, masks, keep="all")
    return backward(architecture, theta, values, y, cost, s, mean_weight, masks)


def cost_value(
    architecture: Architecture, theta: Array, X: Array, y: Array, cost: Cost, s: Array, mean_weight: float | None = None
) -> Any:
    """C alone: one forward pass. θ or X may be complex (complex step)."""
    values = forward(architecture, theta, X)
    mean_weight = float(s.mean()) if mean_weight is None else mean_weight
    losses = cost.losses(architecture.output_activation, values, y, s, mean_weight)
    return losses.aggregated + cost.penalty.value(architecture, theta)
