"""Collapse of affine stacks (004 appendix A): W = W_k … W_1 and b = Σ_j W_k … W_{j+1} b_j."""

from __future__ import annotations

import numpy as np

from ..arrays import Array
from ..core.architecture import Architecture
from ..core.layers import Dense, Parameters
from ..formulas.activations import Activation, identity


def collapse(architecture: Architecture, theta: Array) -> list[tuple[Dense, Array, Array]]:
    """The same function with every run of layers that only the last one bends written as one dense layer.

    Returns the dense layers with their W (n_l, n_{l-1}) and b (n_l,). Dropout is inactive, as in prediction.
    """
    merged: list[tuple[Dense, Array, Array]] = []
    n = architecture.inputs
    M, c = np.eye(n, dtype=theta.dtype), np.zeros((1, n), theta.dtype)  # the run so far: x ↦ x M + c
    pending = False
    for layer, p in zip(architecture.layers, architecture.views(theta), strict=True):
        M, c = layer.forward(M, Parameters(p.W, None), None), layer.forward(c, p, None)
        pending = True
        if not layer.g.same(identity):
            merged.append(_dense(M, c, layer.g))
            n = layer.outputs
            M, c = np.eye(n, dtype=theta.dtype), np.zeros((1, n), theta.dtype)
            pending = False
    if pending:
        merged.append(_dense(M, c, architecture.output_activation))
    return merged


def _dense(M: Array, c: Array, g: Activation) -> tuple[Dense, Array, Array]:
    return Dense(M.shape[1], g, inputs=M.shape[0]), np.ascontiguousarray(M.T), c[0]
