"""Per-sample gradients, and their norms without building them (`mathematics` §3): gᵢ of Wˡ is δᵢˡ ⊗ aᵢˡ⁻¹."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays import Array
from ..core.architecture import Architecture
from ..core.layers import Parameters
from .jacobians import LIMIT, refuse_large


def gradients(
    architecture: Architecture, deltas: Sequence[Array], inputs: Sequence[Array], limit: int = LIMIT
) -> Array:
    """Each sample's part of the cost's gradient (N, P), without the penalty, from δ and a_prev of the layers 1 … L.

    Raises:
        ParameterError: it would take more than `limit` bytes.
    """
    shape = (len(inputs[0]), architecture.P)
    refuse_large("Per-sample gradients", shape[0] * shape[1] * inputs[0].itemsize, shape, limit)
    result = np.empty(shape, inputs[0].dtype)
    for layer, places, delta, a_prev in zip(architecture.layers, architecture.places, deltas, inputs, strict=True):
        views = [
            None if place is None or part is None else result[:, place].reshape(shape[0], *part)
            for place, part in zip(places, (layer.W_shape, layer.b_shape), strict=True)
        ]
        layer.per_sample(delta, a_prev, Parameters(*views))
    return result


def norms(architecture: Architecture, deltas: Sequence[Array], inputs: Sequence[Array]) -> Array:
    """The Euclidean norms (N,) of the rows of `gradients`: ‖gᵢ‖² = Σ_l ‖δᵢˡ‖² (‖aᵢˡ⁻¹‖² + 1 with a bias)."""
    layers = zip(architecture.layers, deltas, inputs, strict=True)
    return np.sqrt(np.sum([layer.squared_norms(delta, a_prev) for layer, delta, a_prev in layers], axis=0))
