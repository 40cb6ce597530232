"""Activations g: value a = g(z), derivative γ = g′(z, a), second derivative g″(z, a) (`mathematics` §5).

Elementwise records give arrays shaped like z. Softmax works on rows: its derivative is the matrix
diag(p) − p pᵀ of every sample, and `contract` applies it to ∂C/∂a without building it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..arrays import Array
from ..errors import ParameterError
from .functions import sigmoid_of, softmax_of, softplus_of
from .record import Function, Limit, Record, default_parameters, find

INFINITY = float("inf")


@dataclass(frozen=True, repr=False)
class Activation(Record):
    """An activation g.

    Attributes:
        range: the open interval in which the values lie (limits may be reached by rounding).
        kinks: where g′ jumps; there the record's convention holds.
        rowwise: False: elementwise, `make` returns (g, g′, g″). True: over rows of n units, `make` returns
            (g, matrix, contract, contract_tangent): matrix(z, a) → γ (N, n, n), contract(dC_da, z, a) → dC_dz (N, n),
            contract_tangent(dC_da, z, a, R_a) → the part of R{dC_dz} that the change R_a of a brings (N, n).
    """

    range: tuple[float, float] = (-INFINITY, INFINITY)
    kinks: tuple[float, ...] = ()
    rowwise: bool = False

    def value(self, z: Array) -> Array:
        """a = g(z), shaped like z (N, n)."""
        return self.shaped("value", self.part(z, 0, "value")(z), z.shape)

    def derivative(self, z: Array, a: Array) -> Array:
        """γ = g′: (N, n), or the matrices (N, n, n) where the activation works on rows."""
        rows = (z.shape[-1],) if self.rowwise else ()
        return self.shaped("derivative", self.part(z, 1, "derivative")(z, a), (*z.shape, *rows))

    def second_derivative(self, z: Array, a: Array) -> Array:
        """g″, shaped like z.

        Raises:
            ParameterError: the activation has none, or works on rows.
        """
        if self.rowwise:
            raise ParameterError(f"{self}: expected an elementwise activation, got one that works on rows.")
        return self.shaped("second derivative", self.part(z, 2, "second derivative")(z, a), z.shape)

    def backward(self, dC_da: Array, z: Array, a: Array) -> Array:
        """∂C/∂z from ∂C/∂a, both (N, n): ∂C/∂a ⊙ γ, or the contraction with γ's matrices."""
        if self.rowwise:
            return self.shaped("contraction", self.part(z, 2, "contraction")(dC_da, z, a), dC_da.shape)
        return dC_da * self.derivative(z, a)

    def tangent(self, R_z: Array, z: Array, a: Array) -> Array:
        """R{a} = γ R{z}, (N, n): how a changes where z changes by R{z}."""
        if self.rowwise:
            return (self.derivative(z, a) @ R_z[..., None])[..., 0]
        return R_z * self.derivative(z, a)

    def backward_tangent(self, dC_da: Array, z: Array, a: Array, R_z: Array) -> Array:
        """What `backward` changes by, for the same ∂C/∂a, where z changes by R{z}: g″ ⊙ R{z} ⊙ ∂C/∂a, (N, n)."""
        if self.rowwise:
            return self.part(z, 3, "tangent of its contraction")(dC_da, z, a, self.tangent(R_z, z, a))
        return dC_da * self.second_derivative(z, a) * R_z


def activation(
    formula: str = "",
    source: str = "",
    *,
    range: tuple[float, float] = (-INFINITY, INFINITY),
    kinks: tuple[float, ...] = (),
    rowwise: bool = False,
    limits: Mapping[str, Limit] | None = None,
) -> Callable[[Callable[..., Any]], Activation]:
    """Make an `Activation` of a function (xp, real, **parameters) → (g, g′, g″); its name is the function's.

    xp has exp, expm1, log, log1p, sqrt, tanh, erf, abs, sign, where, maximum, minimum, zeros_like and ones_like, and for rows
    row_max, row_sum and eye; real makes numbers of the array's type. g″ may be left out where nobody asks for curvature.

    @chainrule.activation("z / (1 + Abs(z))", range=(-1, 1))
    def softsign(xp, real):
        one = real(1)
        def g(z): return z / (one + xp.abs(z))
        def dg(z, a): return (one - xp.abs(a)) ** 2
        def d2g(z, a): return -real(2) * xp.sign(z) * (one - xp.abs(a)) ** 3
        return g, dg, d2g
    """

    def build(make: Callable[..., Any]) -> Activation:
        name, parameters = make.__name__.strip("_"), default_parameters(make)
        return Activation(name, make, formula, source, parameters, range, kinks, rowwise, limits=dict(limits or {}))

    return build


@activation("z", "000 §1.3; 003 (7)")
def identity(xp: Any, real: Any) -> tuple[Function, ...]:
    def g(z):
        return z

    def dg(z, a):
        return xp.ones_like(z)

    def d2g(z, a):
        return xp.zeros_like(z)

    return g, dg, d2g


@activation("Heaviside(z, 1)", "003 (2)", range=(0, 1), kinks=(0.0,))
def step(xp: Any, real: Any) -> tuple[Function, ...]:
    zero, one = real(0), real(1)

    def g(z):
        return xp.where(z >= zero, one, zero)

    def dg(z, a):
        return xp.zeros_like(z)

    def d2g(z, a):
        return xp.zeros_like(z)

    return g, dg, d2g


@activation(
    "Max(0, z)",
    "000 §1.3; 004 (4); 002 (7.34) writes step(z) for the derivative: relu(1)",
    range=(0, INFINITY),
    kinks=(0.0,),
)
def relu(xp: Any, real: Any, at_zero: float = 0.0) -> tuple[Function, ...]:
    zero, one = real(0), real(1)

    def g(z):
        return xp.maximum(z, zero)

    def dg(z, a):
        if at_zero == 0:  # a is positive exactly where z is, so that nobody has to keep z
            return xp.sign(a)
        return xp.where(z > zero, one, xp.where(z < zero, zero, at_zero))

    def d2g(z, a):
        return xp.zeros_like(z)

    return g, dg, d2g


@activation("Max(0, z) + slope*Min(0, z)", "Maas, Hannun & Ng 2013", kinks=(0.0,))
def leaky_relu(xp: Any, real: Any, slope: float = 0.01) -> tuple[Function, ...]:
    zero, one = real(0), real(1)

    def g(z):
        return xp.maximum(z, zero) + slope * xp.minimum(z, zero)

    def dg(z, a):
        return xp.where(z > zero, one, slope)

    def d2g(z, a):
        return xp.zeros_like(z)

    return g, dg, d2g


def _scaled_elu(xp: Any, real: Any, alpha: Any, scale: Any) -> tuple[Function, ...]:
    zero = real(0)

    def g(z):
        return scale * (xp.maximum(z, zero) + alpha * xp.expm1(xp.minimum(z, zero)))  # one of the two terms is 0

    def dg(z, a):
        return xp.where(z > zero, scale, scale * alpha * xp.exp(xp.minimum(z, zero)))

    def d2g(z, a):
        return xp.where(z > zero, zero, scale * alpha * xp.exp(xp.minimum(z, zero)))

    return g, dg, d2g


@activation("Piecewise((z, z > 0), (alpha*(exp(z) - 1), True))", "Clevert, Unterthiner & Hochreiter 2016", kinks=(0.0,))
def elu(xp: Any, real: Any, alpha: float = 1.0) -> tuple[Function, ...]:
    return _scaled_elu(xp, real, alpha, real(1))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@activation(
    f"{SELU_SCALE!r}*Piecewise((z, z > 0), ({SELU_ALPHA!r}*(exp(z) - 1), True))", "Klambauer et al. 2017", kinks=(0.0,)
)
def selu(xp: Any, real: Any) -> tuple[Function, ...]:
    return _scaled_elu(xp, real, real(SELU_ALPHA), real(SELU_SCALE))


@activation("z*(1 + erf(z/sqrt(2)))/2", "Hendrycks & Gimpel 2016, exact form")
def gelu(xp: Any, real: Any) -> tuple[Function, ...]:
    half, one, two, limit = real(0.5), real(1), real(2), real(40)
    root_half, density = real(0.7071067811865476), real(0.3989422804014327)  # 1/√2, 1/√(2π)

    def g(z):
        return half * z * (one + xp.erf(z * root_half))

    def clipped(z):  # from |z| = 40 on the density is 0, and z² must not overflow
        return xp.maximum(-limit, xp.minimum(limit, z))

    def dg(z, a):
        c = clipped(z)
        return half * (one + xp.erf(z * root_half)) + c * density * xp.exp(-half * c * c)

    def d2g(z, a):
        c = clipped(z)
        return (two - c * c) * density * xp.exp(-half * c * c)

    return g, dg, d2g


@activation("z/(1 + exp(-z))", "Elfwing, Uchibe & Doya 2018")
def silu(xp: Any, real: Any) -> tuple[Function, ...]:
    one, two = real(1), real(2)
    sigma = sigmoid_of(xp, real)

    def g(z):
        return z * sigma(z)

    def dg(z, a):
        s = sigma(z)
        return s + z * s * (one - s)

    def d2g(z, a):
        s = sigma(z)
        return s * (one - s) * (two + z * (one - two * s))

    return g, dg, d2g


@activation("z*tanh(log(1 + exp(z)))", "Misra 2020")
def mish(xp: Any, real: Any) -> tuple[Function, ...]:
    # With e = eᶻ and m = e(e + 2): tanh(ln(1 + e)) = m/(m + 2), its derivative 4e(e + 1)/(m + 2)². From z = 20
    # on the first rounds to 1 and the second to 0, so c = min(z, 20) stands for z where they decide: nothing overflows.
    one, two, four, limit = real(1), real(2), real(4), real(20)

    def g(z):
        e = xp.exp(xp.minimum(z, limit))
        m = e * (e + two)
        return z * (m / (m + two))

    def dg(z, a):
        c = xp.minimum(z, limit)
        e = xp.exp(c)
        m = e * (e + two)
        return m / (m + two) + c * (four * e / (m + two) * ((e + one) / (m + two)))

    def d2g(z, a):
        c = xp.minimum(z, limit)
        e = xp.exp(c)
        m = e * (e + two)
        first = four * e / (m + two) * ((e + one) / (m + two))
        second = first * ((two * e + one) / (e + one) - four * e * ((e + one) / (m + two)))
        return two * first + c * second

    return g, dg, d2g


@activation("log(1 + exp(z))", "Dugas et al. 2001", range=(0, INFINITY))
def softplus(xp: Any, real: Any) -> tuple[Function, ...]:
    one = real(1)
    value, sigma = softplus_of(xp, real), sigmoid_of(xp, real)

    def g(z):
        return value(z)

    def dg(z, a):
        return sigma(z)

    def d2g(z, a):
        s = sigma(z)
        return s * (one - s)

    return g, dg, d2g


@activation("1/(1 + exp(-z))", "000 §1.3; 002 (7.2); 003 (3); 004 (5)", range=(0, 1))
def sigmoid(xp: Any, real: Any) -> tuple[Function, ...]:
    one, two = real(1), real(2)
    sigma = sigmoid_of(xp, real)

    def g(z):
        return sigma(z)

    def dg(z, a):
        return a * (one - a)

    def d2g(z, a):
        return a * (one - a) * (one - two * a)

    return g, dg, d2g


@activation("tanh(z)", "004 (6)", range=(-1, 1))
def tanh(xp: Any, real: Any) -> tuple[Function, ...]:
    one, two = real(1), real(2)

    def g(z):
        return xp.tanh(z)

    def dg(z, a):
        return one - a * a

    def d2g(z, a):
        return -two * a * (one - a * a)

    return g, dg, d2g


@activation("exp(z)", "003 §3 problem 2", range=(0, INFINITY))
def exp(xp: Any, real: Any) -> tuple[Function, ...]:
    def g(z):
        return xp.exp(z)

    def dg(z, a):
        return a

    def d2g(z, a):
        return a

    return g, dg, d2g


@activation("z**2", "002 (7.47)-(7.49)", range=(0, INFINITY))
def square(xp: Any, real: Any) -> tuple[Function, ...]:
    two = real(2)

    def g(z):
        return z * z

    def dg(z, a):
        return two * z

    def d2g(z, a):
        return two * xp.ones_like(z)

    return g, dg, d2g


@activation("exp(z[k])/Sum(exp(z[j]), (j, 1, n))", "003 (5); 004 (7)", range=(0, 1), rowwise=True)
def softmax(xp: Any, real: Any) -> tuple[Function, ...]:
    value = softmax_of(xp, real)

    def g(z):
        return value(z)

    def matrix(z, a):
        return a[..., :, None] * (xp.eye(a.shape[-1], real) - a[..., None, :])

    def contract(dC_da, z, a):
        return a * (dC_da - xp.row_sum(dC_da * a))

    def contract_tangent(dC_da, z, a, R_a):
        return R_a * (dC_da - xp.row_sum(dC_da * a)) - a * xp.row_sum(dC_da * R_a)

    return g, matrix, contract, contract_tangent


CATALOGUE = {
    record.name: record
    for record in (
        identity,
        step,
        relu,
        leaky_relu,
        elu,
        selu,
        gelu,
        silu,
        mish,
        softplus,
        sigmoid,
        tanh,
        exp,
        square,
        softmax,
    )
}


def find_activation(where: str, given: Activation | str) -> Activation:
    """An activation from a record, a name, or a name with parameters such as "leaky_relu(0.2)".

    Raises:
        ParameterError: neither, or unknown.
    """
    return find(where, given, Activation, CATALOGUE)
