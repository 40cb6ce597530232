"""The trace: one forward and one backward pass that keep everything, as values with addresses.

It is the loops of training with nothing let go. Making it twice gives the same; it changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ..arrays import Array, check_count, frozen
from ..core.architecture import Architecture, Masks, Values, forward
from ..core.backward import Gradient, backward
from ..core.cost import Cost, Penalty
from ..core.layers import Layer, Parameters
from ..errors import ParameterError
from . import per_sample
from .jacobians import (
    LIMIT,
    CompactJacobian,
    Layout,
    Of,
    Wrt,
    check_layout,
    check_passable,
    jacobian,
    refuse_large,
    transposed,
)
from .paths import Path, largest


@dataclass(frozen=True, repr=False)
class LayerTrace:
    """Everything about one layer, read-only arrays. Shapes: N samples, n_l units, n_{l-1} inputs.

    Attributes:
        number, layer: l, and the layer's record.
        W, b: its parameters (None where it has none).
        a_prev (N, n_{l-1}), z (N, n_l), a (N, n_l): the forward pass.
        dC_da, dC_dz (N, n_l): ∂C/∂a, and δ = ∂C/∂z. They contain ∇φ.
        dC_da_prev (N, n_{l-1}): what the layer hands on.
        dC_dW, dC_db: the gradients without the penalty's part, summed over the samples.
        mask: of a dropout layer, where one was given.
    """

    number: int
    layer: Layer
    W: Array | None
    b: Array | None
    a_prev: Array
    z: Array
    a: Array
    dC_da: Array
    dC_dz: Array
    dC_da_prev: Array
    dC_dW: Array | None
    dC_db: Array | None
    mask: Array | None

    @cached_property
    def da_dz(self) -> Array:
        """γ (N, n_l), or the matrices (N, n_l, n_l) of an activation that works on rows.

        Raises:
            ParameterError: matrices of more than 1 GiB.
        """
        if self.layer.g.rowwise:
            self._refuse_large("da_dz", self.layer.outputs)
        return frozen(self.layer.g.derivative(self.z, self.a))

    @cached_property
    def D(self) -> Array:
        """D = ∂a/∂a_prev (N, n_l, n_{l-1}): diag(γ) W for elementwise activations (001 §3.1).

        Raises:
            ParameterError: matrices of more than 1 GiB.
        """
        n = self.layer.outputs
        self._refuse_large("D", max(n, self.a_prev.shape[1]))
        rows = np.broadcast_to(np.eye(n, dtype=self.z.dtype), (len(self.z), n, n))
        by_z = self.layer.g.backward(rows, self.z[:, None, :], self.a[:, None, :])
        mask = None if self.mask is None else np.repeat(self.mask, n, axis=0)
        flat = self.layer.backward(by_z.reshape(-1, n), Parameters(self.W, self.b), mask)
        return frozen(flat.reshape(len(self.z), n, -1))

    def _refuse_large(self, name: str, columns: int) -> None:
        shape = (*self.z.shape, columns)
        refuse_large(f"{name} of layer {self.number}", int(np.prod(shape)) * self.z.itemsize, shape, LIMIT)

    def per_sample(self, limit: int = LIMIT) -> Parameters:
        """Each sample's part of ∂C/∂W (N, …shape of W) and ∂C/∂b (N, n_l): δᵢ ⊗ a_prevᵢ. They sum to dC_dW, dC_db.

        Raises:
            ParameterError: it would take more than `limit` bytes.
        """
        shape = (len(self.z), *(self.layer.W_shape or ()))
        refuse_large(
            f"Per-sample gradients of layer {self.number}", int(np.prod(shape)) * self.z.itemsize, shape, limit
        )
        return self.layer.per_sample(self.dC_dz, self.a_prev)

    def __repr__(self) -> str:
        return f"layer {self.number} ({self.layer})\n" + "\n".join(f"  {line}" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        for name in ("a_prev", "W", "b", "z", "da_dz", "a", "dC_da", "dC_dz", "dC_dW", "dC_db", "dC_da_prev"):
            if name == "da_dz" and self.layer.g.rowwise:
                n = self.layer.outputs
                yield f"{name:<11}{f'{len(self.z)} × {n} × {n}':<14}matrices, built when asked for"
                continue
            value = getattr(self, name)
            if value is not None:
                yield f"{name:<11}{' × '.join(map(str, value.shape)):<14}{_short(value)}"


def _short(value: Array) -> str:
    """A small array whole, a large one by its range."""
    if value.size <= 6:
        return np.array2string(value, precision=4, suppress_small=False, separator=", ").replace("\n", "")
    return f"from {value.min():.4g} to {value.max():.4g}, mean {value.mean():.4g}"


@dataclass(frozen=True, repr=False)
class Trace:
    """Everything that one forward and one backward pass compute.

    Attributes:
        X (N, n_0), y (N, n_L), s (N,): inputs, targets and sample weights.
        layers: the layers' traces; `trace.layers[l - 1]` is layer l, and so is `trace[l]`.
        loss_per_output (N, n_L): ℒ. loss (N,): L. dC_dL (N,): ∇φ. penalty: R. cost: C.
        dC_dtheta (P,): the whole gradient, with the penalty's part.
        architecture, theta, cost_record, values, masks: what it was made of.
    """

    X: Array
    y: Array
    s: Array
    layers: tuple[LayerTrace, ...]
    loss_per_output: Array
    loss: Array
    dC_dL: Array
    penalty: float
    cost: float
    dC_dtheta: Array
    architecture: Architecture
    theta: Array
    cost_record: Cost
    values: Values
    masks: Masks | None

    @property
    def y_hat(self) -> Array:
        """ŷ (N, n_L)."""
        return self.layers[-1].a

    def __getitem__(self, address: int | str) -> Any:
        """A layer by its number, or an array by its address, such as "layers[1].dC_dW" or "loss".

        Raises:
            ParameterError: there is no such layer or array.
        """
        if isinstance(address, str):
            found = re.fullmatch(r"(?:layers\[(\d+)\]\.)?(\w+)", address)
            owner = self[int(found[1])] if found and found[1] else self
            if found is None or found[2].startswith("_") or not hasattr(owner, found[2]):
                raise ParameterError(f"Trace: expected an address such as 'layers[1].dC_dW', got {address!r}.")
            return getattr(owner, found[2])
        return self.layers[self.architecture.check_layer("Trace", address) - 1]

    # -- derivatives of outputs -----------------------------------------------------------------------------------

    def jacobian(
        self,
        of: Of | Literal["loss"] = "a",
        wrt: Wrt = "x",
        layer: int | None = None,
        of_layer: int | None = None,
        *,
        full: bool = False,
        layout: Layout = "numerator",
        limit: int = LIMIT,
    ) -> Array | CompactJacobian:
        """∂of/∂wrt of every sample; see `jacobians.jacobian`. Of the "loss" it is that of the vector ℒ, a row for
        each output: diag(∂ℒ/∂ŷ) ∂ŷ/∂wrt (000 §2.2).

        Raises:
            ParameterError: as there; or a layer given for the loss.
        """
        if of == "loss" and of_layer is not None:
            raise ParameterError(f"Jacobian: expected no of_layer for the loss, got {of_layer!r}. Leave it out.")
        pass_through = (self.architecture, self.theta, self.values)
        if of != "loss":
            return jacobian(
                *pass_through, of, wrt, layer, of_layer, full=full, layout=layout, limit=limit, masks=self.masks
            )
        check_layout(layout)
        by = jacobian(*pass_through, "a", wrt, layer, full=full, limit=limit, masks=self.masks)
        slope = self.cost_record.loss.derivative(self.y_hat, self.cost_record.smooth(self.y))
        if not isinstance(by, CompactJacobian):
            return transposed(slope.reshape(*slope.shape, *[1] * (by.ndim - 2)) * by, layout)
        pair = replace(by, by_z=slope[:, :, None] * by.by_z)
        return pair if layout == "numerator" else transposed(pair.full(limit), layout)

    def paths(self, layer: int, index: tuple[int, int], output: int = 0, sample: int = 0, k: int = 5) -> list[Path]:
        """The k largest paths from the weight `index` = (p, q) of a dense layer to an output, for one sample.

        Their values are parts of the Jacobian's entry ∂aᴸ_v/∂Wˡ_pq.

        Raises:
            ParameterError: an index outside its layer, or a layer without a matrix W.
        """
        here: LayerTrace = self[layer]
        if here.W is None or here.W.ndim != 2:
            raise ParameterError(f"Paths: expected a dense layer, got {self.architecture.describe(layer)}.")
        if np.ndim(index) != 1 or len(index) != 2:
            raise ParameterError(f"Paths: expected an index (row, column) of W, got {index!r}.")
        for name, value, size in (
            ("a row of W", index[0], here.W.shape[0]),
            ("a column of W", index[1], here.W.shape[1]),
            ("an output", output, self.architecture.outputs),
            ("a sample", sample, len(self.X)),
        ):
            if not isinstance(value, int | np.integer) or not 0 <= value < size:
                raise ParameterError(f"Paths: expected {name} from 0 to {size - 1}, got {value}.")
        check_count("Paths", "k", k)
        if here.layer.g.rowwise:
            raise ParameterError(f"Paths: expected an elementwise activation in layer {layer}, got {here.layer.g}.")
        check_passable(self.architecture, layer, len(self.layers))
        p, q = index
        start = float(here.da_dz[sample, p] * getattr(here.layer, "factor", 1.0) * here.a_prev[sample, q])
        return largest(start, p, [above.D[sample] for above in self.layers[layer:]], output, k)

    # -- gradients of single samples ------------------------------------------------------------------------------

    def per_sample_gradients(self, limit: int = LIMIT, out: Array | None = None) -> Array:
        """Each sample's part of the cost's gradient, (N, P), without the penalty; the rows sum to the rest.

        See `per_sample.room` for `limit` and `out`.
        """
        into = per_sample.room(self.architecture, len(self.X), self.X.dtype, limit, out)
        deltas, inputs = [here.dC_dz for here in self.layers], [here.a_prev for here in self.layers]
        return per_sample.gradients(self.architecture, deltas, inputs, into)

    def per_sample_norms(self) -> Array:
        """The Euclidean norms (N,) of the rows of `per_sample_gradients`, without building them:
        ‖gᵢ‖² = Σ_l ‖δᵢˡ‖² (‖aᵢˡ⁻¹‖² + 1 with a bias)."""
        return per_sample.norms(
            self.architecture, [here.dC_dz for here in self.layers], [here.a_prev for here in self.layers]
        )

    def __repr__(self) -> str:
        head = f"Trace of {len(self.X)} samples, loss {self.cost_record.loss}, φ {self.cost_record.aggregate}"
        lines = [f"{head}: cost {self.cost:.6g}" + (f", of which penalty {self.penalty:.6g}" if self.penalty else "")]
        lines += [repr(layer) for layer in self.layers]
        for name in ("loss_per_output", "loss", "dC_dL"):
            value = getattr(self, name)
            lines.append(f"{name:<16}{' × '.join(map(str, value.shape)):<12}{_short(value)}")
        return "\n".join(lines)


def trace(
    architecture: Architecture,
    theta: Array,
    X: Array,
    y: Array,
    cost: Cost,
    s: Array,
    mean_weight: float,
    masks: Masks | None = None,
) -> Trace:
    """The trace of a batch: X (N, n_0), y (N, n_L), s (N,), with the mean weight of the data set that it is from."""
    X, y, s, theta = (frozen(np.array(given)) for given in (X, y, s, theta))  # the caller's may change later
    values = forward(architecture, theta, X, masks, keep="all")
    of_data = replace(cost, penalty=Penalty())
    G: Gradient = backward(architecture, theta, values, y, of_data, s, mean_weight, masks, keep="all")
    R = cost.penalty.value(architecture, theta)
    with_penalty = G.theta.copy()
    cost.penalty.add_gradient(architecture, theta, with_penalty)
    layers = []
    for number, layer in enumerate(architecture.layers, 1):
        p, g = architecture.views(theta)[number - 1], architecture.views(G.theta)[number - 1]
        a_prev, z, a = values.a[number - 1], values.z[number], values.a[number]
        dC_da, dC_dz, dC_da_prev = G.dC_da[number], G.dC_dz[number], G.dC_da[number - 1]
        assert a_prev is not None and z is not None and a is not None
        assert dC_da is not None and dC_dz is not None and dC_da_prev is not None
        mask = masks[number - 1] if masks else None
        arrays = (*p, a_prev, z, a, dC_da, dC_dz, dC_da_prev, *g, mask)
        layers.append(LayerTrace(number, layer, *(None if array is None else frozen(array) for array in arrays)))  # type: ignore[arg-type]
    return Trace(
        X=X,
        y=y,
        s=s,
        layers=tuple(layers),
        loss_per_output=frozen(G.losses.per_output),
        loss=frozen(G.losses.per_sample),
        dC_dL=frozen(G.losses.dC_dL),
        penalty=float(R),
        cost=float(G.cost + R),
        dC_dtheta=frozen(with_penalty),
        architecture=architecture,
        theta=theta,
        cost_record=cost,
        values=values,
        masks=masks,
    )
