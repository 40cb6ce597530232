"""The architecture: a frozen stack of layers over one flat parameter vector θ, and the one forward loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from ..arrays import Array, check_count
from ..counter import Purpose, generator, uniform
from ..errors import ParameterError
from ..formulas.activations import Activation
from .layers import Dropout, Layer, Parameters

Masks = Sequence[Array | None]
PREDICT_ROWS = 4096  # rows in one pass of `predict`


@dataclass(frozen=True)
class Values:
    """What a forward pass kept, by layer number: z[1] … z[L] and a[0] = X … a[L]; None where it was let go."""

    z: list[Array | None]
    a: list[Array | None]

    @property
    def y_hat(self) -> Array:
        """ŷ = aᴸ (N, n_L)."""
        assert self.a[-1] is not None
        return self.a[-1]

    @property
    def logits(self) -> Array:
        """zᴸ (N, n_L)."""
        assert self.z[-1] is not None
        return self.z[-1]


@dataclass(frozen=True)
class Architecture:
    """`inputs` = n_0 and the layers 1 … L, each of which knows its sizes. Build it with `chain`."""

    inputs: int
    layers: tuple[Layer, ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """n_0, n_1 … n_L."""
        return (self.inputs, *(layer.outputs for layer in self.layers))

    @property
    def outputs(self) -> int:
        """n_L."""
        return self.sizes[-1]

    @property
    def output_activation(self) -> Activation:
        """gᴸ."""
        return self.layers[-1].g

    @cached_property
    def places(self) -> tuple[tuple[slice | None, slice | None], ...]:
        """Where each layer's W and b lie in θ: layer by layer, W before b, rows of W one after another."""
        places, start = [], 0
        for layer in self.layers:
            pair: list[slice | None] = []
            for shape in (layer.W_shape, layer.b_shape):
                size = 0 if shape is None else int(np.prod(shape))
                pair.append(None if shape is None else slice(start, start + size))
                start += size
            places.append((pair[0], pair[1]))
        return tuple(places)

    @cached_property
    def weights(self) -> Array:
        """Which parameters are weights and not biases, (P,) of True and False."""
        return self.spread([(1.0, 0.0)] * len(self.layers), np.dtype(np.float64)) > 0

    @cached_property
    def P(self) -> int:
        """The number of parameters, Σ n_l (n_{l-1} + 1) for dense layers with biases (004 (2))."""
        return max((s.stop for pair in self.places for s in pair if s is not None), default=0)

    def views(self, theta: Array) -> list[Parameters]:
        """W and b of every layer as views of the flat vector θ (P,), or of a gradient."""
        views = []
        for layer, (at_W, at_b) in zip(self.layers, self.places, strict=True):
            W = None if at_W is None or layer.W_shape is None else theta[at_W].reshape(layer.W_shape)
            views.append(Parameters(W, None if at_b is None else theta[at_b]))
        return views

    def start(self, seed: int, dtype: np.dtype[np.floating], start: int = 0) -> Array:
        """Starting parameters θ (P,): a function of the seed and of the number of the start."""
        theta = np.zeros(self.P, dtype)
        for number, (layer, p) in enumerate(zip(self.layers, self.views(theta), strict=True), 1):
            drawn = layer.start(generator(seed, Purpose.START, start, number))
            for view, values in zip(p, drawn, strict=True):
                if view is not None:
                    view[...] = values
        return theta

    def spread(self, values: Sequence[tuple[float, float]], dtype: np.dtype[np.floating]) -> Array:
        """A vector (P,) with one number for each layer's weights and one for its biases."""
        vector = np.empty(self.P, dtype)
        for (at_W, at_b), (for_W, for_b) in zip(self.places, values, strict=True):
            if at_W is not None:
                vector[at_W] = for_W
            if at_b is not None:
                vector[at_b] = for_b
        return vector

    def masks(self, rows: int, seed: int, step: int, dtype: np.dtype[np.floating], start: int = 0) -> Masks | None:
        """The dropout masks (rows, n_l) of one step of a start, by layer; None without a dropout layer."""
        if not any(isinstance(layer, Dropout) for layer in self.layers):
            return None
        return [
            layer.mask(uniform((rows, layer.outputs), seed, Purpose.DROPOUT, start, step, number), dtype)
            if isinstance(layer, Dropout)
            else None
            for number, layer in enumerate(self.layers, 1)
        ]

    def check_layer(self, where: str, number: object) -> int:
        """The number of a layer, 1 … L.

        Raises:
            ParameterError: anything else.
        """
        L = len(self.layers)
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 1 <= number <= L:
            raise ParameterError(f"{where}: expected a layer from 1 to {L}, got {number!r}.")
        return int(number)

    def describe(self, number: int) -> str:
        """A layer as messages name it, such as "layer 2 (Dense 64 → 10, softmax)"."""
        return f"layer {number} ({self.layers[number - 1]})"


def chain(where: str, inputs: int, layers: Sequence[Layer]) -> Architecture:
    """Resolve the layers' names and sizes, one after the other.

    Raises:
        ParameterError: no layer, something that is not a layer, or an unknown name.
        ShapeError: sizes that do not chain.
    """
    check_count(where, "inputs", inputs)
    resolved: list[Layer] = []
    if not isinstance(layers, Sequence):
        raise ParameterError(f"{where}: expected a list of layers, got {layers!r}.")
    for number, layer in enumerate(layers, 1):
        if isinstance(layer, type) or not hasattr(layer, "after"):
            raise ParameterError(f"{where}, layer {number}: expected a layer such as Dense(3, 'tanh'), got {layer!r}.")
        resolved.append(layer.after(f"{where}, layer {number}", resolved[-1].outputs if resolved else int(inputs)))
    if not any(layer.W_shape for layer in resolved):
        raise ParameterError(f"{where}: expected at least one layer with weights, got {len(resolved)} without any.")
    return Architecture(int(inputs), tuple(resolved))


def forward(
    architecture: Architecture,
    theta: Array,
    X: Array,
    masks: Masks | None = None,
    keep: Literal["output", "all"] = "output",
) -> Values:
    """z_l = map_l(a_{l-1}), a_l = g_l(z_l), from a_0 = X (N, n_0) to ŷ = a_L.

    `keep="all"` keeps every z and a, which the backward pass reads; "output" keeps the last layer's only.
    """
    z: list[Array | None] = [None]
    a: list[Array | None] = [X]
    a_prev = X
    for number, (layer, p) in enumerate(zip(architecture.layers, architecture.views(theta), strict=True), 1):
        z_l = layer.forward(a_prev, p, masks[number - 1] if masks else None)
        a_prev = layer.g.value(z_l)
        if keep == "output":
            z[-1] = a[-1] = None
        z.append(z_l)
        a.append(a_prev)
    return Values(z, a)


def predict(architecture: Architecture, theta: Array, X: Array) -> Values:
    """ŷ and the last z of many rows X (N, n_0), in passes of so few rows that the memory stays bounded."""
    passes = [forward(architecture, theta, X[i : i + PREDICT_ROWS]) for i in range(0, len(X), PREDICT_ROWS)]
    if len(passes) == 1:
        return passes[0]
    return Values([np.concatenate([p.logits for p in passes])], [np.concatenate([p.y_hat for p in passes])])
