"""Losses ℒ(ŷ, y): value, derivative by ŷ and second derivative by ŷ (`mathematics` §5).

Every value is per sample and per output, (N, n_L); `cost` sums or averages the outputs and aggregates the
samples. No factor 1/N and no hidden ½ lives here. A loss "on logits" takes z in the place of ŷ; where an
output activation and a loss are a pair, `on_logits` gives that form, exact where the two factors overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, check_matrix, read_array
from ..errors import DataError, ParameterError, ShapeError
from .activations import INFINITY, Activation, exp, identity, sigmoid, softmax
from .functions import log_sum_exp_of, sigmoid_of, softmax_of
from .record import ABOVE_0, Function, Limit, Record, default_parameters, find


@dataclass(frozen=True, repr=False)
class Loss(Record):
    """A loss ℒ.

    Attributes:
        prediction: the interval in which ŷ must lie; an output activation fits if its range is inside.
        targets: which y it takes: "real", "probability" (0 to 1), "one_hot" (rows sum to 1, or labels),
            "sign" (−1 or 1), "nonnegative" or "positive".
        kinks: values of u = ŷ − y, or of yŷ for the hinge, at which the derivative jumps.
    """

    prediction: tuple[float, float] = (-INFINITY, INFINITY)
    targets: str = "real"
    kinks: tuple[float, ...] = ()

    def value(self, y_hat: Array, y: Array) -> Array:
        """ℒ for every sample and output, (N, n_L)."""
        return self.shaped("value", self.part(y_hat, 0, "value")(y_hat, y), y_hat.shape)

    def derivative(self, y_hat: Array, y: Array) -> Array:
        """∂L/∂ŷ with L = Σ_d ℒ_d, (N, n_L)."""
        return self.shaped("derivative", self.part(y_hat, 1, "derivative")(y_hat, y), y_hat.shape)

    def second_derivative(self, y_hat: Array, y: Array) -> Array:
        """∂²ℒ/∂ŷ², elementwise (N, n_L); for categorical cross-entropy on logits the matrices (N, n_L, n_L).

        Raises:
            ParameterError: the loss has none.
        """
        return self.part(y_hat, 2, "second derivative")(y_hat, y)

    @property
    def categorical(self) -> bool:
        """Whether one sample's outputs share one target: their losses add up and are never averaged."""
        return self.targets == "one_hot"


def loss(
    formula: str = "",
    source: str = "",
    *,
    prediction: tuple[float, float] = (-INFINITY, INFINITY),
    targets: str = "real",
    kinks: tuple[float, ...] = (),
    limits: Mapping[str, Limit] | None = None,
) -> Callable[[Callable[..., Any]], Loss]:
    """Make a `Loss` of a function (xp, real, **parameters) → (ℒ, ∂ℒ/∂ŷ, ∂²ℒ/∂ŷ²); its name is the function's.

    @chainrule.loss("(y_hat - y)**4")
    def fourth_power(xp, real):
        def value(y_hat, y): return (y_hat - y) ** 4
        def derivative(y_hat, y): return real(4) * (y_hat - y) ** 3
        def second(y_hat, y): return real(12) * (y_hat - y) ** 2
        return value, derivative, second
    """

    def build(make: Callable[..., Any]) -> Loss:
        parameters = default_parameters(make)
        return Loss(
            make.__name__, make, formula, source, parameters, prediction, targets, kinks, limits=dict(limits or {})
        )

    return build


@loss("(y_hat - y)**2", "002 (7.41); 003 (20); 004 (8), without a factor ½")
def squared(xp: Any, real: Any) -> tuple[Function, ...]:
    two = real(2)

    def value(y_hat, y):
        u = y_hat - y
        return u * u

    def derivative(y_hat, y):
        return two * (y_hat - y)

    def second(y_hat, y):
        return two * xp.ones_like(y_hat)

    return value, derivative, second


@loss("Abs(y_hat - y)", "002 (7.42); 004 (9); derivative 0 at u = 0", kinks=(0.0,))
def absolute(xp: Any, real: Any) -> tuple[Function, ...]:
    def value(y_hat, y):
        return xp.abs(y_hat - y)

    def derivative(y_hat, y):
        return xp.sign(y_hat - y)

    def second(y_hat, y):
        return xp.zeros_like(y_hat)

    return value, derivative, second


@loss(
    "Piecewise(((y_hat - y)**2/2, Abs(y_hat - y) <= delta), (delta*(Abs(y_hat - y) - delta/2), True))",
    "Huber 1964",
    limits={"delta": ABOVE_0},
)
def huber(xp: Any, real: Any, delta: float = 1.0) -> tuple[Function, ...]:
    zero, half, one = real(0), real(0.5), real(1)

    def value(y_hat, y):
        u = y_hat - y
        size = xp.abs(u)
        return xp.where(size <= delta, half * u * u, delta * (size - half * delta))

    def derivative(y_hat, y):
        return xp.maximum(-delta, xp.minimum(delta, y_hat - y))

    def second(y_hat, y):
        return xp.where(xp.abs(y_hat - y) <= delta, one, zero)

    return value, derivative, second


@loss("log(cosh(y_hat - y))", "")
def log_cosh(xp: Any, real: Any) -> tuple[Function, ...]:
    one, two, log_two = real(1), real(2), real(0.6931471805599453)

    def value(y_hat, y):
        size = xp.abs(y_hat - y)
        return size + xp.log1p(xp.exp(-two * size)) - log_two

    def derivative(y_hat, y):
        return xp.tanh(y_hat - y)

    def second(y_hat, y):
        t = xp.tanh(y_hat - y)
        return one - t * t

    return value, derivative, second


@loss(
    "Max(tau*(y - y_hat), (tau - 1)*(y - y_hat))",
    "Koenker & Bassett 1978; derivative 0 at u = 0",
    kinks=(0.0,),
    limits={"tau": ("between 0 and 1", lambda v: 0 < v < 1)},
)
def quantile(xp: Any, real: Any, tau: float = 0.5) -> tuple[Function, ...]:
    zero, one = real(0), real(1)

    def value(y_hat, y):
        u = y_hat - y
        return xp.where(u > zero, (one - tau) * u, -tau * u)

    def derivative(y_hat, y):
        u = y_hat - y
        return xp.where(u > zero, one - tau, xp.where(u < zero, -tau, zero))

    def second(y_hat, y):
        return xp.zeros_like(y_hat)

    return value, derivative, second


@loss("-(y*log(y_hat) + (1 - y)*log(1 - y_hat))", "002 (7.45); 004 (11)", prediction=(0, 1), targets="probability")
def binary_cross_entropy(xp: Any, real: Any) -> tuple[Function, ...]:
    # The guards drop the term whose factor y or 1 − y is zero; 0·log 0 would be NaN.
    zero, one = real(0), real(1)

    def value(y_hat, y):
        positive = xp.where(y > zero, y * xp.log(y_hat), zero)
        negative = xp.where(y < one, (one - y) * xp.log1p(-y_hat), zero)
        return -(positive + negative)

    def derivative(y_hat, y):
        positive = xp.where(y > zero, y / y_hat, zero)
        negative = xp.where(y < one, (one - y) / (one - y_hat), zero)
        return negative - positive

    def second(y_hat, y):
        positive = xp.where(y > zero, y / (y_hat * y_hat), zero)
        negative = xp.where(y < one, (one - y) / ((one - y_hat) * (one - y_hat)), zero)
        return positive + negative

    return value, derivative, second


@loss("log(1 + exp(y_hat)) - y*y_hat", "003 (17), on logits", targets="probability")
def binary_cross_entropy_logits(xp: Any, real: Any) -> tuple[Function, ...]:
    zero, one = real(0), real(1)
    sigma = sigmoid_of(xp, real)

    def value(z, y):  # with softplus written out, max(0, z) − yz is exactly 0 where the label is sure
        return xp.maximum(z, zero) - y * z + xp.log1p(xp.exp(-xp.abs(z)))

    def derivative(z, y):
        return sigma(z) - y

    def second(z, y):
        s = sigma(z)
        return s * (one - s)

    return value, derivative, second


@loss("-y*log(y_hat)", "002 NLLM; 004 (12)", prediction=(0, 1), targets="one_hot")
def categorical_cross_entropy(xp: Any, real: Any) -> tuple[Function, ...]:
    zero = real(0)

    def value(y_hat, y):
        return xp.where(y > zero, -y * xp.log(y_hat), zero)

    def derivative(y_hat, y):
        return xp.where(y > zero, -y / y_hat, zero)

    def second(y_hat, y):
        return xp.where(y > zero, y / (y_hat * y_hat), zero)

    return value, derivative, second


@loss("y*(log(Sum(exp(z[j]), (j, 1, n))) - z[k])", "003 (18), on logits", targets="one_hot")
def categorical_cross_entropy_logits(xp: Any, real: Any) -> tuple[Function, ...]:
    p_of, log_sum_exp = softmax_of(xp, real), log_sum_exp_of(xp, real)

    def value(z, y):
        return y * (log_sum_exp(z) - z)

    def derivative(z, y):  # p Σy − y, and the targets of a row sum to 1
        return p_of(z) - y

    def second(z, y):
        p = p_of(z)
        return p[..., :, None] * (xp.eye(p.shape[-1], real) - p[..., None, :])

    return value, derivative, second


@loss("Max(0, 1 - y*y_hat)", "004 (13); derivative 0 at y·ŷ = 1", targets="sign", kinks=(1.0,))
def hinge(xp: Any, real: Any) -> tuple[Function, ...]:
    zero, one = real(0), real(1)

    def value(y_hat, y):
        return xp.maximum(zero, one - y * y_hat)

    def derivative(y_hat, y):
        return xp.where(y * y_hat < one, -y, zero)

    def second(y_hat, y):
        return xp.zeros_like(y_hat)

    return value, derivative, second


@loss("y_hat - y*log(y_hat)", "negative log-likelihood without ln y!", prediction=(0, INFINITY), targets="nonnegative")
def poisson(xp: Any, real: Any) -> tuple[Function, ...]:
    zero, one = real(0), real(1)

    def value(y_hat, y):
        return y_hat - xp.where(y > zero, y * xp.log(y_hat), zero)

    def derivative(y_hat, y):
        return one - xp.where(y > zero, y / y_hat, zero)

    def second(y_hat, y):
        return xp.where(y > zero, y / (y_hat * y_hat), zero)

    return value, derivative, second


@loss("exp(y_hat) - y*y_hat", "Poisson on z = ln ŷ", targets="nonnegative")
def poisson_log(xp: Any, real: Any) -> tuple[Function, ...]:
    def value(z, y):
        return xp.exp(z) - y * z

    def derivative(z, y):
        return xp.exp(z) - y

    def second(z, y):
        return xp.exp(z)

    return value, derivative, second


@loss("y/y_hat + log(y_hat)", "negative log-likelihood, shape 1", prediction=(0, INFINITY), targets="positive")
def gamma(xp: Any, real: Any) -> tuple[Function, ...]:
    one, two = real(1), real(2)

    def value(y_hat, y):
        return y / y_hat + xp.log(y_hat)

    def derivative(y_hat, y):
        return (one - y / y_hat) / y_hat

    def second(y_hat, y):
        return (two * y / y_hat - one) / (y_hat * y_hat)

    return value, derivative, second


@loss("y*exp(-y_hat) + y_hat", "gamma on z = ln ŷ", targets="positive")
def gamma_log(xp: Any, real: Any) -> tuple[Function, ...]:
    one = real(1)

    def value(z, y):
        return y * xp.exp(-z) + z

    def derivative(z, y):
        return one - y * xp.exp(-z)

    def second(z, y):
        return y * xp.exp(-z)

    return value, derivative, second


CATALOGUE = {
    record.name: record
    for record in (
        squared,
        absolute,
        huber,
        log_cosh,
        quantile,
        binary_cross_entropy,
        binary_cross_entropy_logits,
        categorical_cross_entropy,
        categorical_cross_entropy_logits,
        hinge,
        poisson,
        poisson_log,
        gamma,
        gamma_log,
    )
}

# By their code: a record of one's own that is called sigmoid is not the library's.
_PAIRS = {
    (sigmoid.make, binary_cross_entropy.make): binary_cross_entropy_logits,
    (softmax.make, categorical_cross_entropy.make): categorical_cross_entropy_logits,
    (exp.make, poisson.make): poisson_log,
    (exp.make, gamma.make): gamma_log,
}

_BY_OUTPUT = {sigmoid.make: binary_cross_entropy, softmax.make: categorical_cross_entropy, exp.make: poisson}


def find_loss(where: str, given: Loss | str) -> Loss:
    """A loss from a record, a name, or a name with parameters such as "huber(delta=2)".

    Raises:
        ParameterError: neither, or unknown.
    """
    return find(where, given, Loss, CATALOGUE)


def default_loss(output: Activation) -> Loss:
    """The loss that goes with an output activation: cross-entropies, Poisson for exp, squared error otherwise."""
    return _BY_OUTPUT.get(output.make, squared)


def on_logits(output: Activation, loss: Loss) -> Loss | None:
    """The loss as a function of z where output and loss are a fused pair (mathematics §2), else None.

    With an identity output ŷ is z, so every loss is already one of z.
    """
    if output.same(identity):
        return loss
    return _PAIRS.get((output.make, loss.make))


def check_fit(where: str, output: Activation, loss: Loss) -> None:
    """Raise ParameterError where the output activation can leave the interval that the loss needs."""
    (low, high), (least, most) = output.range, loss.prediction
    if low >= least and high <= most:
        return
    logits = f"{loss.name}_logits"
    other = f", or the loss {logits!r} with an identity output" if logits in CATALOGUE else ""
    fitting = [g.name for g in (sigmoid, softmax, exp) if (g.make, loss.make) in _PAIRS]
    use = f"Use the output activation {fitting[0]!r}{other}." if fitting else "Use another output activation or loss."
    raise ParameterError(
        f"{where}: expected predictions from {least:g} to {most:g} for the loss {loss}, "
        f"got the output activation {output} with values from {low:g} to {high:g}. {use}"
    )


def check_targets(where: str, loss: Loss, y: Any, outputs: int, dtype: np.dtype[Any]) -> Array:
    """Targets as a finite (N, n_L) matrix that the loss can take; labels 0 … n_L − 1 become one-hot rows (003 (19)).

    Raises:
        ShapeError: not n_L columns.
        DataError: not numbers, not finite, or outside what the loss takes (row and column are named).
    """
    given = read_array(where, "y", y)
    if loss.categorical and given.ndim == 1 and outputs > 1:
        return _one_hot(where, given, outputs, dtype)
    matrix = check_matrix(where, "y", given, None, dtype)
    if matrix.shape[1] != outputs:
        raise ShapeError(
            f"{where}: expected y with {outputs} columns, one per output, got {matrix.shape[1]} (shape {given.shape})."
        )
    kind = loss.targets
    if kind == "one_hot":
        off = np.abs(matrix.sum(axis=1) - 1) > 1e-5
        if off.any():
            row = int(np.argmax(off))
            raise DataError(
                f"{where}: expected every row of y to sum to 1 for {loss}, got {matrix[row].sum():g} in row {row}. "
                "Pass labels, or one-hot rows."
            )
    bad = {
        "real": lambda: np.zeros(matrix.shape, bool),
        "probability": lambda: (matrix < 0) | (matrix > 1),
        "one_hot": lambda: (matrix < 0) | (matrix > 1),
        "sign": lambda: np.abs(matrix) != 1,
        "nonnegative": lambda: matrix < 0,
        "positive": lambda: matrix <= 0,
    }[kind]()
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        expected = {
            "probability": "targets from 0 to 1",
            "one_hot": "targets from 0 to 1",
            "sign": "labels -1 or 1",
            "nonnegative": "targets of at least 0",
            "positive": "targets above 0",
        }[kind]
        raise DataError(
            f"{where}: expected {expected} for the loss {loss}, got {matrix[row, column]:g} "
            f"at row {row}, column {column}."
        )
    return matrix


def _one_hot(where: str, labels: Array, outputs: int, dtype: np.dtype[Any]) -> Array:
    if labels.dtype.kind == "O":
        labels = np.asarray(labels.tolist())
    if labels.dtype.kind not in "iub":
        whole = labels.dtype.kind == "f" and bool((np.isfinite(labels) & (labels == np.round(labels))).all())
        if not whole:
            raise DataError(f"{where}: expected labels 0 to {outputs - 1} in y, got {labels[:3].tolist()} …")
    if labels.size == 0:
        raise ShapeError(f"{where}: expected y with at least one row, got none.")
    wrong = (labels < 0) | (labels >= outputs)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{where}: expected labels 0 to {outputs - 1} in y, got {labels[row]} at row {row}.")
    return np.eye(outputs, dtype=dtype)[labels.astype(np.int64)]
