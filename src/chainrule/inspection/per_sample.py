"""Per-sample gradients, and their norms without building them (`mathematics` §3): gᵢ of Wˡ is δᵢˡ ⊗ aᵢˡ⁻¹."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import Array
from ..core.architecture import Architecture
from ..core.layers import Parameters
from ..errors import ShapeError
from .jacobians import LIMIT, refuse_large


def room(
    architecture: Architecture, rows: int, dtype: np.dtype[Any], limit: int = LIMIT, out: Array | None = None
) -> Array:
    """An array (rows, P) for per-sample gradients: `out` if it is given and fits, which spares fresh memory.

    Raises:
        ParameterError: it would take more than `limit` bytes.
        ShapeError: `out` has another shape or dtype, or cannot be written row by row.
    """
    shape = (rows, architecture.P)
    if out is None:
        refuse_large("Per-sample gradients", shape[0] * shape[1] * dtype.itemsize, shape, limit)
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise ShapeError(f"Per-sample gradients: expected out to be an array, got {type(out).__name__}.")
    if out.shape != shape or out.dtype != dtype or not (out.flags.writeable and out.flags.c_contiguous):
        raise ShapeError(
            f"Per-sample gradients: expected out of shape {shape} in {dtype}, C-ordered and writable, "
            f"got {out.shape} in {out.dtype}. Make it with np.empty({shape}, {dtype.name!r})."
        )
    return out


def gradients(architecture: Architecture, deltas: Sequence[Array], inputs: Sequence[Array], into: Array) -> Array:
    """Each sample's part of the cost's gradient (N, P), without the penalty, from δ and a_prev of the layers 1 … L.

    They are written into `into`, see `room`.
    """
    for layer, places, delta, a_prev in zip(architecture.layers, architecture.places, deltas, inputs, strict=True):
        views = [
            None if place is None or part is None else into[:, place].reshape(len(into), *part)
            for place, part in zip(places, (layer.W_shape, layer.b_shape), strict=True)
        ]
        layer.per_sample(delta, a_prev, Parameters(*views))
    return into


def norms(architecture: Architecture, deltas: Sequence[Array], inputs: Sequence[Array]) -> Array:
    """The Euclidean norms (N,) of the rows of `gradients`: ‖gᵢ‖² = Σ_l ‖δᵢˡ‖² (‖aᵢˡ⁻¹‖² + 1 with a bias)."""
    layers = zip(architecture.layers, deltas, inputs, strict=True)
    return np.sqrt(np.sum([layer.squared_norms(delta, a_prev) for layer, delta, a_prev in layers], axis=0))
