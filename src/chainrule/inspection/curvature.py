"""Hessian-vector and Gauss-Newton-vector products in closed form (`mathematics` §3; Pearlmutter 1994).

R{·} is the directional derivative along (V, v) in the place of (W, b):

    R{z} = R{a_prev} Wᵀ + a_prev Vᵀ + v          R{a} = γ ⊙ R{z}
    R{δ} = g″ ⊙ R{z} ⊙ ∂C/∂a + γ ⊙ R{∂C/∂a}      R{∂C/∂a_prev} = R{δ} W + δ V
    R{∂C/∂W} = R{δ}ᵀ a_prev + δᵀ R{a_prev}       R{∂C/∂b} = Σ R{δ}

Gauss-Newton keeps the forward part and drops the terms with g″, V and R{a_prev} on the way back.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..arrays import Array
from ..core.architecture import Architecture, Masks, forward
from ..core.cost import Cost
from ..core.layers import Parameters

Kind = Literal["hessian", "gauss_newton"]


def product(
    architecture: Architecture,
    theta: Array,
    direction: Array,
    X: Array,
    y: Array,
    cost: Cost,
    s: Array,
    mean_weight: float,
    masks: Masks | None = None,
    kind: Kind = "hessian",
) -> Array:
    """H v (P,) of the cost's Hessian, or of its Gauss-Newton matrix, with a direction v (P,)."""
    exact = kind == "hessian"
    layers, L = architecture.layers, len(architecture.layers)
    values = forward(architecture, theta, X, masks, keep="all")
    views, along = architecture.views(theta), architecture.views(direction)
    mask = [None, *(masks or [None] * L)]

    R_z: list[Array | None] = [None]
    R_a = [np.zeros_like(X)]
    for number, layer in enumerate(layers, 1):
        a_prev, z, a = values.a[number - 1], values.z[number], values.a[number]
        assert a_prev is not None and z is not None and a is not None
        p, v = views[number - 1], along[number - 1]
        change = layer.forward(R_a[-1], Parameters(p.W, None), mask[number])
        if v.W is not None:
            change = change + layer.forward(a_prev, v, mask[number])
        R_z.append(change)
        R_a.append(layer.g.tangent(change, z, a))

    g = architecture.output_activation
    dC_dL = cost.losses(g, values, y, s, mean_weight).dC_dL
    R_last = R_z[L]
    assert R_last is not None
    delta = cost.dC_dz(g, values, y, dC_dL)
    R_delta = cost.tangent_of_dC_dz(g, values, y, s, mean_weight, R_last, R_a[L], exact)
    result = np.zeros_like(theta)
    parts, extra = architecture.views(result), architecture.views(np.zeros_like(theta))
    for number in range(L, 0, -1):
        layer, a_prev = layers[number - 1], values.a[number - 1]
        assert a_prev is not None
        layer.gradients(R_delta, a_prev, parts[number - 1])
        if exact:
            layer.gradients(delta, R_a[number - 1], extra[number - 1])
            W, more = parts[number - 1].W, extra[number - 1].W
            if W is not None and more is not None:
                W += more
        if number == 1:
            break
        p, v = views[number - 1], along[number - 1]
        R_dC_da = layer.backward(R_delta, p, mask[number])
        g, z, tangent = layers[number - 2].g, values.z[number - 1], R_z[number - 1]
        assert z is not None and tangent is not None
        if exact:
            dC_da = layer.backward(delta, p, mask[number])
            if v.W is not None:
                R_dC_da = R_dC_da + layer.backward(delta, v, mask[number])
            delta = g.backward(dC_da, z, a_prev)
            R_delta = g.backward(R_dC_da, z, a_prev) + g.backward_tangent(dC_da, z, a_prev, tangent)
        else:
            R_delta = g.backward(R_dC_da, z, a_prev)
    at = cost.penalty.chosen(architecture)
    result[at] += cost.penalty.l2 * direction[at]
    return result
