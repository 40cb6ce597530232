"""Jacobians between any two layers in closed form (`mathematics` §3; 001 §3).

    ∂a^m/∂b^l = D^m D^{m-1} … D^{l+1} diag(γ^l)      (N, n_m, n_l)
    ∂a^m/∂W^l = (∂a^m/∂b^l) ⊗ a^{l-1}                the compact pair, or the tensor (N, n_m, n_l, n_{l-1})
    ∂a^m/∂a^l = D^m … D^{l+1}                        (N, n_m, n_l); l = 0 is the input

They are the backward pass with a row for every output in the place of one: each layer's own `backward` and each
activation's own rule, softmax included, so no formula is written again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..arrays import Array
from ..core.architecture import Architecture, Masks, Values
from ..errors import ParameterError
from ..formulas.activations import step

Of = Literal["a", "z"]
Wrt = Literal["W", "b", "a", "z", "x"]
Layout = Literal["numerator", "denominator"]
LIMIT = 2**30  # bytes of a tensor that is built without being asked twice


def jacobian(
    architecture: Architecture,
    theta: Array,
    values: Values,
    of: Of = "a",
    wrt: Wrt = "x",
    layer: int | None = None,
    of_layer: int | None = None,
    *,
    full: bool = False,
    layout: Layout = "numerator",
    limit: int = LIMIT,
    masks: Masks | None = None,
) -> Array | CompactJacobian:
    """∂of/∂wrt of every sample, in closed form: the `of` ("a" or "z") of `of_layer`, by default the last one, by the
    "W", "b", "a" or "z" of `layer`, or by the input "x", from a forward pass that kept all its values.

    Shapes in numerator layout: by W the compact pair, or with `full` the tensor (N, n_m, n_l, n_{l-1}); by all
    others (N, n_m, n_l). Denominator layout has the axis of the outputs last.

    Raises:
        ParameterError: a layer that does not exist or comes after `of_layer`, a layer without W or b, a step
            function on the way, or a tensor larger than `limit` bytes.
    """
    check_layout(layout)
    if wrt not in ("W", "b", "a", "z", "x") or of not in ("a", "z"):
        raise ParameterError(f"Jacobian: expected 'a' or 'z' by 'W', 'b', 'a', 'z' or 'x', got {of!r} by {wrt!r}.")
    upper = len(architecture.layers) if of_layer is None else architecture.check_layer("Jacobian", of_layer)
    if wrt == "x" and layer is not None:
        raise ParameterError(
            f"Jacobian: expected no layer for 'x', the input, got {layer!r}. By a layer's values it is 'a'."
        )
    if wrt == "x" or (wrt == "a" and layer == 0):
        lower, kind = 0, "a"
    else:
        if layer is None:
            raise ParameterError(f"Jacobian: expected the layer of {wrt}, got none. Pass layer=1, for instance.")
        lower, kind = architecture.check_layer("Jacobian", layer), "a" if wrt == "a" else "z"
    check_passable(architecture, lower + (kind == "a"), upper if of == "a" else upper - 1)
    by = between(architecture, theta, values, of, upper, kind, lower, masks)  # type: ignore[arg-type]
    if wrt not in ("W", "b"):
        return transposed(by, layout)
    here, a_prev = architecture.layers[lower - 1], values.a[lower - 1]
    assert a_prev is not None
    shape = here.W_shape if wrt == "W" else here.b_shape
    if shape is None:
        raise ParameterError(f"Jacobian: expected a layer with {wrt}, got {architecture.describe(lower)}.")
    if wrt == "b":
        return transposed(by, layout)
    if len(shape) == 1:  # one factor for each unit: z_p depends on W_p alone
        W = here.per_sample(by, a_prev[:, None, :]).W
        assert W is not None
        return transposed(W, layout)
    pair = CompactJacobian(by, getattr(here, "factor", 1.0) * a_prev)
    return transposed(pair.full(limit), layout) if full or layout == "denominator" else pair


def check_passable(architecture: Architecture, first: int, last: int) -> None:
    """Raise ParameterError where a step function lies in the layers `first` … `last`."""
    for number in range(max(first, 1), last + 1):
        if architecture.layers[number - 1].g.same(step):
            raise ParameterError(
                f"Derivative through {architecture.describe(number)}: step is flat, its derivative is 0 "
                "wherever it exists, so training cannot pass it. Use sigmoid or another activation there."
            )


def between(
    architecture: Architecture,
    theta: Array,
    values: Values,
    of: Of,
    upper: int,
    wrt: Of,
    lower: int,
    masks: Masks | None = None,
) -> Array:
    """∂of^upper/∂wrt^lower of every sample, (N, n_upper, n_lower), for upper ≥ lower ≥ 0; a^0 is the input.

    Where both are the same value it is the identity; z^l does not depend on a^l, so that pair is refused.

    Raises:
        ParameterError: layers out of order or out of range.
    """
    L = len(architecture.layers)
    if not (0 <= lower <= upper <= L) or (wrt == "z" and lower == 0) or (of == "z" and upper == 0):
        raise ParameterError(
            f"Jacobian: expected layers 0 ≤ lower ≤ upper ≤ {L} (z from layer 1 on), "
            f"got {of} of layer {upper} by {wrt} of layer {lower}."
        )
    if (of, wrt) == ("z", "a") and upper == lower:
        raise ParameterError(f"Jacobian: expected z of a layer above {lower}, got its own a, which comes after z.")
    assert values.a[0] is not None
    N, n = len(values.a[0]), architecture.sizes[upper]
    M = np.broadcast_to(np.eye(n, dtype=theta.dtype), (N, n, n))
    views = architecture.views(theta)
    if of == "a" and (upper, wrt) != (lower, "a"):
        M = _through_activation(architecture, values, M, upper)
    for number in range(upper, lower, -1):
        mask = masks[number - 1] if masks else None
        rows = None if mask is None else np.repeat(mask, n, axis=0)
        flat = architecture.layers[number - 1].backward(
            np.ascontiguousarray(M).reshape(N * n, -1), views[number - 1], rows
        )
        M = flat.reshape(N, n, -1)
        if number - 1 > lower or wrt == "z":
            M = _through_activation(architecture, values, M, number - 1)
    return np.array(M)


def _through_activation(architecture: Architecture, values: Values, M: Array, number: int) -> Array:
    """M ∂a/∂z of one layer, (N, m, n_l); M (N, m, n_l)."""
    z, a = values.z[number], values.a[number]
    assert z is not None and a is not None
    return architecture.layers[number - 1].g.backward(M, z[:, None, :], a[:, None, :])


@dataclass(frozen=True)
class CompactJacobian:
    """∂a^m/∂W^l as the pair (∂a^m/∂z^l, ∂z^l/∂W^l): by_z (N, n_m, n_l) and a_prev (N, n_{l-1}).

    Element (i, v, p, q) of the tensor is by_z[i, v, p] · a_prev[i, q]. NTK scaling is inside `a_prev`.
    """

    by_z: Array
    a_prev: Array

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The tensor's (N, n_m, n_l, n_{l-1})."""
        return (*self.by_z.shape, self.a_prev.shape[1])

    @property
    def nbytes(self) -> int:
        """What the tensor would take."""
        return int(np.prod(self.shape)) * self.by_z.itemsize

    def full(self, limit: int = LIMIT) -> Array:
        """The tensor (N, n_m, n_l, n_{l-1}).

        Raises:
            ParameterError: it would take more than `limit` bytes.
        """
        refuse_large("Jacobian", self.nbytes, self.shape, limit)
        return self.by_z[..., None] * self.a_prev[:, None, None, :]


def refuse_large(where: str, nbytes: int, shape: tuple[int, ...], limit: int) -> None:
    """Raise ParameterError where an array would be larger than the limit."""
    if nbytes > limit:
        raise ParameterError(
            f"{where}: expected a tensor of at most {limit / 2**30:.3g} GiB, got {' × '.join(map(str, shape))} numbers, "
            f"{nbytes / 2**30:.3g} GiB. Keep the compact pair, take fewer rows, or raise `limit`."
        )


def check_layout(layout: object) -> None:
    """Raise ParameterError for an unknown layout."""
    if layout not in ("numerator", "denominator"):
        raise ParameterError(f"Jacobian: expected layout 'numerator' or 'denominator', got {layout!r}.")


def transposed(jacobian: Array, layout: Layout) -> Array:
    """A Jacobian (N, outputs, …) in numerator layout (row = output; 000) or in denominator layout (002): the axis
    of the outputs last."""
    return jacobian if layout == "numerator" else np.moveaxis(jacobian, 1, -1)
