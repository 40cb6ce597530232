"""Two models of the same networks, written from the formulas and not with this library: what inspection is held against.

`TorchModel` is a function of the flat θ in torch's float64, with a perturbation at every z and every a, from which
torch's reverse mode gives every derivative. `exact` is the forward pass in mpmath's 50 digits on dual numbers: each
number carries its derivatives by all parameters and inputs, and only the rules of + · / exp log tanh erf are written.

θ is layer by layer, W before b, rows of W one after another; samples are rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

DIGITS = 50
ELEMENTWISE = (
    "identity", "relu", "leaky_relu", "elu", "selu", "gelu", "silu",
    "mish", "softplus", "sigmoid", "tanh", "exp", "square",
)  # fmt: skip
SELU = (1.6732632423543772, 1.0507009873554805)  # α, scale
FUSED = {("sigmoid", "binary_cross_entropy"), ("softmax", "categorical_cross_entropy"), ("exp", "poisson")}


@dataclass(frozen=True)
class LayerSpec:
    """A layer: "dense", "scale" or "dropout"."""

    kind: str
    units: int
    activation: str = "identity"
    bias: bool = True
    ntk: bool = False
    rate: float = 0.0


@dataclass(frozen=True)
class Spec:
    """A network and its cost."""

    inputs: int
    layers: tuple[LayerSpec, ...]
    loss: str = "squared"
    aggregate: str = "mean"
    t: float = 1.0
    l2: float = 0.0
    penalise_biases: bool = False
    average_outputs: bool = False
    smoothing: float = 0.0

    @property
    def sizes(self) -> list[int]:
        """n_0 … n_L."""
        return [self.inputs, *(layer.units for layer in self.layers)]

    @property
    def output(self) -> str:
        """The last activation's name."""
        return self.layers[-1].activation

    @property
    def fused(self) -> bool:
        """Whether output and loss are one function of the logits."""
        return self.output == "identity" or (self.output, self.loss) in FUSED

    @property
    def shapes(self) -> list[tuple[tuple[int, ...] | None, tuple[int, ...] | None]]:
        """The shapes of W and b of each layer."""
        return [
            ((n, m), (n,) if layer.bias else None)
            if layer.kind == "dense"
            else ((n,), None)
            if layer.kind == "scale"
            else (None, None)
            for layer, m, n in zip(self.layers, self.sizes, self.sizes[1:], strict=False)
        ]

    @property
    def places(self) -> list[tuple[slice | None, slice | None]]:
        """Where W and b of each layer lie in θ."""
        places, start = [], 0
        for pair in self.shapes:
            row: list[slice | None] = []
            for shape in pair:
                size = 0 if shape is None else math.prod(shape)
                row.append(slice(start, start + size) if shape else None)
                start += size
            places.append((row[0], row[1]))
        return places

    @property
    def P(self) -> int:
        """The number of parameters."""
        return sum(math.prod(shape) for pair in self.shapes for shape in pair if shape)

    @property
    def marks(self) -> dict[tuple[str, int], slice]:
        """Where a⁰, z¹, a¹ … zᴸ, aᴸ lie when they are put one after another."""
        marks, start = {("a", 0): slice(0, self.inputs)}, self.inputs
        for number, n in enumerate(self.sizes[1:], 1):
            for name in ("z", "a"):
                marks[name, number] = slice(start, start + n)
                start += n
        return marks

    def penalised(self) -> np.ndarray:
        """1 for the parameters that the penalty acts on, (P,)."""
        chosen = np.zeros(self.P)
        for at_W, at_b in self.places:
            for place, counts in ((at_W, True), (at_b, self.penalise_biases)):
                if place is not None and counts:
                    chosen[place] = 1
        return chosen

    def smooth(self, y: np.ndarray) -> np.ndarray:
        """The targets with label smoothing."""
        classes = y.shape[1] if self.loss == "categorical_cross_entropy" else 2
        return (1 - self.smoothing) * y + self.smoothing / classes if self.smoothing else y


# -- torch ----------------------------------------------------------------------------------------------------------


def torch_activation(name: str, z: Any) -> Any:
    """a = g(z), in torch."""
    import torch

    zero = torch.zeros((), dtype=z.dtype)
    negative = torch.where(z > 0, zero, z)
    return {
        "identity": lambda: z * 1,
        "relu": lambda: torch.where(z > 0, z, zero),
        "leaky_relu": lambda: torch.where(z > 0, z, 0.01 * z),
        "elu": lambda: torch.where(z > 0, z, torch.expm1(negative)),
        "selu": lambda: SELU[1] * torch.where(z > 0, z, SELU[0] * torch.expm1(negative)),
        "gelu": lambda: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
        "silu": lambda: z / (1 + torch.exp(-z)),
        "mish": lambda: z * torch.tanh(torch.logaddexp(z, zero)),
        "softplus": lambda: torch.logaddexp(z, zero),
        "sigmoid": lambda: 1 / (1 + torch.exp(-z)),
        "tanh": lambda: torch.tanh(z),
        "exp": lambda: torch.exp(z),
        "square": lambda: z**2,
        "softmax": lambda: torch.exp(z - torch.logsumexp(z, -1, keepdim=True)),
    }[name]()


def torch_loss(name: str, v: Any, y: Any, logits: bool) -> Any:
    """ℒ (N, n_L) from ŷ, or of a cross-entropy and Poisson from the logits."""
    import torch

    zero = torch.zeros((), dtype=v.dtype)
    if name == "squared":
        return (v - y) ** 2
    if name == "log_cosh":
        return torch.logaddexp(v - y, y - v) - math.log(2)
    if name == "poisson":
        return torch.exp(v) - y * v if logits else v - y * torch.log(v)
    if name == "binary_cross_entropy":
        return torch.logaddexp(v, zero) - y * v if logits else -(y * torch.log(v) + (1 - y) * torch.log(1 - v))
    assert name == "categorical_cross_entropy"
    return y * (torch.logsumexp(v, -1, keepdim=True) - v) if logits else -y * torch.log(v)


class TorchModel:
    """The derivatives of a network and its cost at one θ, from torch's reverse mode."""

    def __init__(
        self,
        spec: Spec,
        theta: np.ndarray,
        X: np.ndarray,
        y: np.ndarray,
        s: np.ndarray,
        masks: Sequence[np.ndarray | None] | None,
    ) -> None:
        import torch

        self.torch, self.spec = torch, spec
        self.theta, self.X, self.s = (torch.tensor(v, dtype=torch.float64) for v in (theta, X, s))
        self.y = torch.tensor(spec.smooth(y), dtype=torch.float64)
        self.masks = [torch.tensor(m) for m in masks or [] if m is not None]
        self.marks = spec.marks
        self.T = sum(2 * n for n in spec.sizes) - spec.inputs

    def values(self, theta: Any, X: Any, e: Any, masks: Sequence[Any]) -> Any:
        """a⁰, z¹, a¹ … one after another on the last axis, each with its part of the perturbation e added."""
        masks = list(masks)
        a = X + e[..., self.marks["a", 0]]
        found = [a]
        for number, (layer, (at_W, at_b), (W_shape, _)) in enumerate(
            zip(self.spec.layers, self.spec.places, self.spec.shapes, strict=True), 1
        ):
            if layer.kind == "dense":
                z = a @ theta[at_W].reshape(W_shape).T
                if layer.ntk:
                    z = z / math.sqrt(self.spec.sizes[number - 1])
                if at_b is not None:
                    z = z + theta[at_b]
            elif layer.kind == "scale":
                z = a * theta[at_W]
            else:
                z = a * masks.pop(0) if masks else a
            z = z + e[..., self.marks["z", number]]
            a = torch_activation(layer.activation, z) + e[..., self.marks["a", number]]
            found += [z, a]
        return self.torch.cat(found, -1)

    def nothing(self) -> Any:
        """A perturbation of zeros, (N, T)."""
        return self.torch.zeros(len(self.X), self.T, dtype=self.torch.float64)

    def jacobians(self) -> tuple[np.ndarray, np.ndarray]:
        """Every z and a of each sample by θ (N, T, P), and by every z and a (N, T, T)."""
        func = self.torch.func

        def single(theta: Any, e: Any, x: Any, masks: Any) -> Any:
            return self.values(theta, x, e, masks)

        each = func.vmap(func.jacrev(single, argnums=(0, 1)), in_dims=(None, 0, 0, 0))
        by_theta, by_e = each(self.theta, self.nothing(), self.X, self.masks)
        return by_theta.numpy(), by_e.numpy()

    def losses(self, out: Any, logits: bool) -> Any:
        """L (N,) of the outputs ŷ, or of the logits."""
        per_output = torch_loss(self.spec.loss, out, self.y, logits)
        return per_output.mean(1) if self.spec.average_outputs else per_output.sum(1)

    def phi(self, L: Any) -> Any:
        """φ(L)."""
        torch, s, t = self.torch, self.s, self.spec.t
        if self.spec.aggregate == "sum":
            return (s * L).sum()
        if self.spec.aggregate == "mean":
            return (s * L).sum() / s.sum()
        return torch.logsumexp(torch.log(s[s > 0] / s.sum()) + t * L[s > 0], 0) / t

    def R(self, theta: Any) -> Any:
        """The penalty."""
        return self.spec.l2 / 2 * (self.torch.tensor(self.spec.penalised()) * theta**2).sum()

    def out(self, theta: Any, e: Any, logits: bool) -> Any:
        """ŷ or zᴸ (N, n_L)."""
        L = len(self.spec.layers)
        return self.values(theta, self.X, e, self.masks)[:, self.marks["z" if logits else "a", L]]

    def cost(self, theta: Any, e: Any) -> Any:
        """C, from the predictions."""
        return self.phi(self.losses(self.out(theta, e, False), False)) + self.R(theta)

    def stable_cost(self, theta: Any) -> Any:
        """C, from the logits where the output and the loss are one function of them."""
        logits = self.spec.fused and self.spec.output != "identity"
        return self.phi(self.losses(self.out(theta, self.nothing(), logits), logits)) + self.R(theta)

    def gradients(self) -> SimpleNamespace:
        """C, L, ∇φ, ∂C/∂θ, ∂C by every z and a (N, T), and each sample's part (N, P), without the penalty's."""
        func = self.torch.func
        nothing = self.nothing()
        L = self.losses(self.out(self.theta, nothing, False), False)
        dC_dL = func.grad(self.phi)(L)
        by_theta, by_e = func.grad(self.cost, argnums=(0, 1))(self.theta, nothing)
        by_sample = func.jacrev(lambda t: self.losses(self.out(t, nothing, False), False))(self.theta)
        return SimpleNamespace(
            cost=float(self.cost(self.theta, nothing)),
            loss=L.numpy(),
            dC_dL=dC_dL.numpy(),
            theta=by_theta.numpy(),
            marks=by_e.numpy(),
            samples=(dC_dL[:, None] * by_sample).numpy(),
        )

    def hessian_product(self, v: np.ndarray) -> np.ndarray:
        """H v (P,): the gradient of the gradient's product with v."""
        func, along = self.torch.func, self.torch.tensor(v)
        return func.grad(lambda t: func.grad(self.stable_cost)(t) @ along)(self.theta).numpy()

    def gauss_newton_product(self, v: np.ndarray) -> np.ndarray:
        """Jᵀ H_out J v + l2 v (P,), with the full J and H_out; split at the logits of a fused pair."""
        torch, func = self.torch, self.torch.func
        logits = self.spec.fused and self.spec.output != "identity"
        out = self.out(self.theta, self.nothing(), logits)
        J = func.jacrev(lambda t: self.out(t, self.nothing(), logits).reshape(-1))(self.theta)
        H = func.jacrev(func.grad(lambda o: self.phi(self.losses(o.reshape(out.shape), logits))))(out.reshape(-1))
        penalty = self.spec.l2 * torch.tensor(self.spec.penalised()) * torch.tensor(v)
        return (J.T @ (H @ (J @ torch.tensor(v))) + penalty).numpy()


# -- fifty digits ---------------------------------------------------------------------------------------------------


class Dual:
    """A number with its derivatives by K variables, both in mpmath."""

    def __init__(self, value: Any, d: np.ndarray) -> None:
        self.value, self.d = value, d

    def of(self, value: Any, slope: Any) -> Dual:
        """f of it, from f's value and slope."""
        return Dual(value, slope * self.d)

    def __add__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value + other.value, self.d + other.d)
        return Dual(self.value + other, self.d)

    def __mul__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value * other.value, other.value * self.d + self.value * other.d)
        return Dual(self.value * other, other * self.d)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Dual:
        return self * -1

    def __sub__(self, other: Any) -> Dual:
        return self + -other

    def __rsub__(self, other: Any) -> Dual:
        return -self + other

    def __truediv__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return self * other.of(1 / other.value, -1 / other.value**2)
        return Dual(self.value / other, self.d / other)


def _exp(u: Dual) -> Dual:
    from mpmath import mp

    return u.of(mp.exp(u.value), mp.exp(u.value))


def _log(u: Dual) -> Dual:
    from mpmath import mp

    return u.of(mp.log(u.value), 1 / u.value)


def _tanh(u: Dual) -> Dual:
    from mpmath import mp

    return u.of(mp.tanh(u.value), mp.sech(u.value) ** 2)


def _erf(u: Dual) -> Dual:
    from mpmath import mp

    return u.of(mp.erf(u.value), 2 / mp.sqrt(mp.pi) * mp.exp(-(u.value**2)))


def _constant(value: float) -> Any:
    from mpmath import mp

    return mp.mpf(value)


def dual_activation(name: str, z: list[Dual]) -> list[Dual]:
    """a = g(z) of one row."""
    from mpmath import mp

    if name == "softmax":
        e = [_exp(u) for u in z]
        total = sum(e[1:], e[0])
        return [u / total for u in e]

    def g(u: Dual) -> Dual:
        above = u.value > 0
        return {
            "identity": lambda: u,
            "relu": lambda: u if above else u * 0,
            "leaky_relu": lambda: u if above else u * _constant(0.01),
            "elu": lambda: u if above else _exp(u) - 1,
            "selu": lambda: (u if above else (_exp(u) - 1) * _constant(SELU[0])) * _constant(SELU[1]),
            "gelu": lambda: u * (_erf(u / mp.sqrt(2)) + 1) / 2,
            "silu": lambda: u / (_exp(-u) + 1),
            "mish": lambda: u * _tanh(_log(_exp(u) + 1)),
            "softplus": lambda: _log(_exp(u) + 1),
            "sigmoid": lambda: (u * 0 + 1) / (_exp(-u) + 1),
            "tanh": lambda: _tanh(u),
            "exp": lambda: _exp(u),
            "square": lambda: u * u,
        }[name]()

    return [g(u) for u in z]


def dual_loss(name: str, v: Dual, y: Any) -> Dual:
    """ℒ of one output, from the prediction."""
    if name == "squared":
        return (v - y) * (v - y)
    if name == "log_cosh":
        return _log((_exp(v - y) + _exp(y - v)) / 2)
    if name == "poisson":
        return v - _log(v) * y
    if name == "binary_cross_entropy":
        return -(_log(v) * y + _log(1 - v) * (1 - y))
    assert name == "categorical_cross_entropy"
    return _log(v) * -y


def exact(spec: Spec, theta: np.ndarray, X: np.ndarray, y: np.ndarray, s: np.ndarray) -> SimpleNamespace:
    """ŷ (N, n_L), ∂ŷ/∂θ (N, n_L, P), ∂ŷ/∂x (N, n_L, n_0), L (N,), C and ∂C/∂θ (P,), rounded once, at the end.

    Dropout layers pass their input on.
    """
    from mpmath import mp

    with mp.workdps(DIGITS):
        P, n = spec.P, spec.inputs

        def variable(value: float, k: int | None) -> Dual:
            d = np.array([mp.mpf(0)] * (P + n), dtype=object)
            if k is not None:
                d[k] = mp.mpf(1)
            return Dual(mp.mpf(float(value)), d)

        parameters = [variable(value, k) for k, value in enumerate(theta)]
        rows, Ls = [], []
        for x, target in zip(X, spec.smooth(y), strict=True):
            a = [variable(value, P + k) for k, value in enumerate(x)]
            for layer, (at_W, at_b) in zip(spec.layers, spec.places, strict=True):
                if layer.kind == "dense":
                    W, m = parameters[at_W], len(a)
                    z = []
                    for p in range(layer.units):
                        parts = [W[p * m + q] * a[q] for q in range(m)]
                        u = sum(parts[1:], parts[0])
                        u = u / mp.sqrt(m) if layer.ntk else u
                        z.append(u + parameters[at_b][p] if at_b is not None else u)
                    a = dual_activation(layer.activation, z)
                elif layer.kind == "scale":
                    a = [w * u for w, u in zip(parameters[at_W], a, strict=True)]
            rows.append(a)
            per_output = [dual_loss(spec.loss, v, mp.mpf(float(t))) for v, t in zip(a, target, strict=True)]
            L = sum(per_output[1:], per_output[0])
            Ls.append(L / len(per_output) if spec.average_outputs else L)
        weights = [mp.mpf(float(w)) for w in s]
        if spec.aggregate == "tilted":
            t = _constant(spec.t)
            parts = [_exp(L * t) * (w / sum(weights)) for L, w in zip(Ls, weights, strict=True)]
            C = _log(sum(parts[1:], parts[0])) / t
        else:
            parts = [L * w for L, w in zip(Ls, weights, strict=True)]
            C = sum(parts[1:], parts[0])
            C = C / sum(weights) if spec.aggregate == "mean" else C
        for parameter, counts in zip(parameters, spec.penalised(), strict=True):
            if counts and spec.l2:
                C = C + parameter * parameter * (_constant(spec.l2) / 2)

        def rounded(values: Any) -> np.ndarray:
            return np.array(values, dtype=object).astype(float)

        J = rounded([[v.d for v in row] for row in rows])
        return SimpleNamespace(
            y_hat=rounded([[v.value for v in row] for row in rows]),
            by_theta=J[:, :, :P],
            by_x=J[:, :, P:],
            loss=rounded([L.value for L in Ls]),
            cost=float(C.value),
            gradient=rounded(C.d[:P]),
        )
