"""Layers: z = (an affine map of a_prev), then a = g(z). Forward and backward stand side by side, and are pure.

Shapes: a_prev (N, n_{l-1}), z and ∂C/∂z (N, n_l). Samples are rows (`mathematics` §2). The activation is applied
by the loops in `architecture` and `backward`; a layer knows only its map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import numpy as np

from ..arrays import Array, check_count, check_number
from ..errors import ParameterError, ShapeError
from ..formulas.activations import Activation, find_activation, identity
from ..formulas.initializers import Initializer, default_initializer, find_initializer


class Parameters(NamedTuple):
    """Views of one layer's part of a flat vector: of θ, or of a gradient. None where the layer has none."""

    W: Array | None
    b: Array | None


NOWHERE = Parameters(None, None)


class Layer(Protocol):
    """What the loops ask of a layer. A layer is frozen: it holds settings and sizes, never numbers that change."""

    @property
    def inputs(self) -> int | None: ...
    @property
    def outputs(self) -> int: ...
    @property
    def g(self) -> Activation: ...
    @property
    def W_shape(self) -> tuple[int, ...] | None: ...
    @property
    def b_shape(self) -> tuple[int, ...] | None: ...
    @property
    def learning_rate_factors(self) -> tuple[float, float]: ...

    def after(self, where: str, inputs: int) -> Self:
        """The same layer with its number of inputs known and every name resolved."""
        ...

    def start(self, generator: np.random.Generator) -> Parameters:
        """Starting parameters in float64."""
        ...

    def forward(self, a_prev: Array, p: Parameters, mask: Array | None) -> Array:
        """z (N, n_l)."""
        ...

    def backward(self, dC_dz: Array, p: Parameters, mask: Array | None) -> Array:
        """∂C/∂a_prev (N, n_{l-1})."""
        ...

    def gradients(self, dC_dz: Array, a_prev: Array, into: Parameters) -> None:
        """Write ∂C/∂W and ∂C/∂b, summed over the samples, into `into`."""
        ...

    def per_sample(self, dC_dz: Array, a_prev: Array, into: Parameters = NOWHERE) -> Parameters:
        """Each sample's part of ∂C/∂W and ∂C/∂b, (…, shape of W) and (…, n_l), before the sum; any leading axes.

        They are written into the arrays of `into`, or into new ones where it has none.
        """
        ...

    def squared_norms(self, dC_dz: Array, a_prev: Array) -> Array:
        """‖∂Cᵢ/∂W‖² + ‖∂Cᵢ/∂b‖² of each sample (N,), without building them."""
        ...


@dataclass(frozen=True)
class Dense:
    """z = c · a_prev Wᵀ + b, with W (units, inputs) and b (units,); a = g(z).

    Args:
        units: n_l, the number of outputs.
        activation: a name, a name with parameters ("leaky_relu(0.2)"), or a record.
        inputs: n_{l-1}; normally found from the layer before, given here it is checked.
        bias: whether there is a b.
        init, bias_init: starting distributions; by default He, LeCun or Glorot by activation, and zeros.
        ntk: neural tangent parametrisation (Jacot et al. 2018): c = 1/√inputs with W from N(0, 1); otherwise c = 1.
        learning_rate_factor, bias_learning_rate_factor: multiply η for W and for b.
    """

    units: int
    activation: Activation | str = "identity"
    inputs: int | None = None
    bias: bool = True
    init: Initializer | str | None = None
    bias_init: Initializer | str = "zeros"
    ntk: bool = False
    learning_rate_factor: float = 1.0
    bias_learning_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        check_count("Dense", "units", self.units)
        for name in ("bias", "ntk"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"Dense: expected {name} to be True or False, got {getattr(self, name)!r}.")
        if self.inputs is not None:
            check_count("Dense", "inputs", self.inputs)
        for factor in (self.learning_rate_factor, self.bias_learning_rate_factor):
            check_number("Dense", "learning-rate factors", factor)

    def after(self, where: str, inputs: int) -> Dense:
        if self.inputs not in (None, inputs):
            raise ShapeError(
                f"{where}: expected {self.inputs} inputs as the layer says, got {inputs} from the layer before. "
                "Leave `inputs` out, or change it."
            )
        g = find_activation(f"{where}, activation", self.activation)
        init = self.init if self.init is not None else "normal" if self.ntk else default_initializer(g.name)
        return replace(
            self,
            inputs=inputs,
            activation=g,
            init=find_initializer(f"{where}, init", init),
            bias_init=find_initializer(f"{where}, bias_init", self.bias_init),
        )

    @property
    def outputs(self) -> int:
        return self.units

    @property
    def g(self) -> Activation:
        return find_activation("Dense, activation", self.activation)

    @property
    def factor(self) -> float:
        """c: 1, or 1/√inputs with `ntk`."""
        return float(self.inputs) ** -0.5 if self.ntk and self.inputs else 1.0

    @property
    def W_shape(self) -> tuple[int, ...]:
        return (self.units, self.inputs or 0)

    @property
    def b_shape(self) -> tuple[int, ...] | None:
        return (self.units,) if self.bias else None

    @property
    def learning_rate_factors(self) -> tuple[float, float]:
        return self.learning_rate_factor, self.bias_learning_rate_factor

    def start(self, generator: np.random.Generator) -> Parameters:
        init = find_initializer("Dense, init", self.init or default_initializer(self.g.name))
        bias_init = find_initializer("Dense, bias_init", self.bias_init)
        W = init.draw(generator, self.W_shape)
        return Parameters(W, bias_init.draw(generator, (self.units,)) if self.bias else None)

    def forward(self, a_prev: Array, p: Parameters, mask: Array | None) -> Array:
        assert p.W is not None
        z = a_prev @ p.W.T
        if self.ntk:
            z *= self.factor
        if p.b is not None:
            z += p.b
        return z

    def backward(self, dC_dz: Array, p: Parameters, mask: Array | None) -> Array:
        assert p.W is not None
        dC_da_prev = dC_dz @ p.W
        if self.ntk:
            dC_da_prev *= self.factor
        return dC_da_prev

    def gradients(self, dC_dz: Array, a_prev: Array, into: Parameters) -> None:
        W, b = into
        assert W is not None
        np.matmul(dC_dz.T, a_prev, out=W)
        if self.ntk:
            W *= self.factor
        if b is not None:
            dC_dz.sum(axis=0, out=b)

    def per_sample(self, dC_dz: Array, a_prev: Array, into: Parameters = NOWHERE) -> Parameters:
        W = np.multiply(dC_dz[..., :, None], (self.factor * a_prev)[..., None, :], out=into.W)
        return Parameters(W, np.positive(dC_dz, out=into.b) if self.bias else None)

    def squared_norms(self, dC_dz: Array, a_prev: Array) -> Array:
        squares = self.factor**2 * np.einsum("ij,ij->i", a_prev, a_prev) + (1 if self.bias else 0)
        return np.einsum("ij,ij->i", dC_dz, dC_dz) * squares

    def __str__(self) -> str:
        return f"Dense {self.inputs or '?'} → {self.units}, {self.activation}"


@dataclass(frozen=True)
class Scale:
    """z = a_prev ⊙ W, with one factor W (inputs,) per column: the diagonal layer of RealMLP.

    Args:
        init: starting distribution, ones by default.
        learning_rate_factor: multiplies η for W.
    """

    init: Initializer | str = "ones"
    learning_rate_factor: float = 1.0
    inputs: int | None = None

    def __post_init__(self) -> None:
        check_number("Scale", "a learning-rate factor", self.learning_rate_factor)

    def after(self, where: str, inputs: int) -> Scale:
        return replace(self, inputs=inputs, init=find_initializer(f"{where}, init", self.init))

    @property
    def outputs(self) -> int:
        return self.inputs or 0

    @property
    def g(self) -> Activation:
        return identity

    @property
    def W_shape(self) -> tuple[int, ...]:
        return (self.inputs or 0,)

    @property
    def b_shape(self) -> tuple[int, ...] | None:
        return None

    @property
    def learning_rate_factors(self) -> tuple[float, float]:
        return self.learning_rate_factor, 1.0

    def start(self, generator: np.random.Generator) -> Parameters:
        return Parameters(find_initializer("Scale, init", self.init).draw(generator, self.W_shape), None)

    def forward(self, a_prev: Array, p: Parameters, mask: Array | None) -> Array:
        assert p.W is not None
        return a_prev * p.W

    def backward(self, dC_dz: Array, p: Parameters, mask: Array | None) -> Array:
        assert p.W is not None
        return dC_dz * p.W

    def gradients(self, dC_dz: Array, a_prev: Array, into: Parameters) -> None:
        assert into.W is not None
        (dC_dz * a_prev).sum(axis=0, out=into.W)

    def per_sample(self, dC_dz: Array, a_prev: Array, into: Parameters = NOWHERE) -> Parameters:
        return Parameters(np.multiply(dC_dz, a_prev, out=into.W), None)

    def squared_norms(self, dC_dz: Array, a_prev: Array) -> Array:
        return ((dC_dz * a_prev) ** 2).sum(axis=1)

    def __str__(self) -> str:
        return f"Scale {self.inputs or '?'}"


@dataclass(frozen=True)
class Dropout:
    """z = a_prev ⊙ mask in training, where mask is 0 with probability `rate` and 1/(1 − rate) otherwise; else z = a_prev.

    The mask is an argument, drawn by the training loop from the step's counter (Srivastava et al. 2014, inverted).
    """

    rate: float
    inputs: int | None = None

    def __post_init__(self) -> None:
        check_number("Dropout", "a rate", self.rate, high=1)

    def after(self, where: str, inputs: int) -> Dropout:
        return replace(self, inputs=inputs)

    @property
    def outputs(self) -> int:
        return self.inputs or 0

    @property
    def g(self) -> Activation:
        return identity

    W_shape = None
    b_shape = None
    learning_rate_factors = (1.0, 1.0)

    def start(self, generator: np.random.Generator) -> Parameters:
        return Parameters(None, None)

    def mask(self, uniform: Array, dtype: np.dtype[np.floating]) -> Array:
        """The mask from uniform numbers in [0, 1), shaped like them."""
        return (uniform >= self.rate).astype(dtype) * dtype.type(1 / (1 - self.rate))

    def forward(self, a_prev: Array, p: Parameters, mask: Array | None) -> Array:
        return a_prev if mask is None else a_prev * mask

    def backward(self, dC_dz: Array, p: Parameters, mask: Array | None) -> Array:
        return dC_dz if mask is None else dC_dz * mask

    def gradients(self, dC_dz: Array, a_prev: Array, into: Parameters) -> None:
        pass

    def per_sample(self, dC_dz: Array, a_prev: Array, into: Parameters = NOWHERE) -> Parameters:
        return NOWHERE

    def squared_norms(self, dC_dz: Array, a_prev: Array) -> Array:
        return np.zeros(len(dC_dz), dC_dz.dtype)

    def __str__(self) -> str:
        return f"Dropout {self.rate:g}"
