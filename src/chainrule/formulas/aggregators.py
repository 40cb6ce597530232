"""Aggregators φ: one number from the losses L (N,) of the samples, with its gradient ∂φ/∂L (N,) (`mathematics` §4).

`make(L, s, mean_weight, **parameters)` returns both. s (N,) are the sample weights; mean_weight is their mean
over the whole data set, of which L may be a mini-batch. L may be complex (complex step): it is compared by
its real part, and the gradient then belongs to that. The lines keep to what Numba compiles too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..arrays import Array
from ..errors import ParameterError
from .record import Limit, Record, default_parameters, find


@dataclass(frozen=True, repr=False)
class Aggregator(Record):
    """A function φ of the samples' losses.

    Attributes:
        over_epoch: how the mini-batches of an epoch make up φ of the data set: as their "mean" (by rows), their
            "sum", or not at all: "batchwise" (tilted, risk and maximum) acts on each batch as it is, so that an
            epoch minimises the mean of the batches' φ, which is another cost than that of the full batch.
        hessian: (L, s, mean_weight, v (N,), **parameters) → ∇²φ v (N,); None where it is not known.
    """

    over_epoch: Literal["mean", "sum", "batchwise"] = "batchwise"
    hessian: Callable[..., Array] | None = None

    @property
    def additive(self) -> bool:
        """Whether φ of a data set follows from its mini-batches."""
        return self.over_epoch != "batchwise"

    def hessian_times(self, L: Array, s: Array, mean_weight: float, R_L: Array) -> Array:
        """∇²φ R{L} (N,): how ∇φ changes where L changes by R{L}.

        Raises:
            ParameterError: a function of one's own without its `hessian`.
        """
        if self.hessian is None:
            raise ParameterError(
                f"{self}: expected an aggregator whose second derivative is known, got one without. "
                "Give @aggregator a hessian=; `aggregators.flat` where φ is linear almost everywhere."
            )
        return self.shaped("second derivative", self.hessian(L, s, mean_weight, R_L, **dict(self.parameters)), L.shape)

    def value_and_gradient(self, L: Array, s: Array, mean_weight: float) -> tuple[Any, Array]:
        """(φ, ∂φ/∂L (N,))."""
        both = self.make(L, s, mean_weight, **dict(self.parameters))
        if not isinstance(both, tuple) or len(both) != 2:
            raise ParameterError(f"{self}: expected the value and its gradient (φ, ∂φ/∂L), got {type(both).__name__}.")
        value, dC_dL = both
        return self.shaped("value", value, ()), self.shaped("gradient", dC_dL, L.shape)


def flat(L: Array, s: Array, mean_weight: float, v: Array, **parameters: float) -> Array:
    """∇²φ v = 0 (N,), of a φ that is linear almost everywhere."""
    return np.zeros_like(v)


def aggregator(
    formula: str = "",
    source: str = "",
    *,
    over_epoch: Literal["mean", "sum", "batchwise"] = "batchwise",
    hessian: Callable[..., Array] | None = None,
    limits: Mapping[str, Limit] | None = None,
) -> Callable[[Callable[..., Any]], Aggregator]:
    """Make an `Aggregator` of a function (L, s, mean_weight, **parameters) → (φ, ∂φ/∂L); its name is the function's.

    def hessian(L, s, mean_weight, v):
        phi, w = root_mean_square.make(L, s, mean_weight)
        return (s / s.sum() * v - w * (w @ v)) / phi

    @chainrule.aggregator("sqrt(Σ pᵢ Lᵢ²)", hessian=hessian)
    def root_mean_square(L, s, mean_weight):
        p = s / s.sum()
        phi = np.sqrt((p * L * L).sum())
        return phi, p * L / phi
    """

    def build(make: Callable[..., Any]) -> Aggregator:
        name, parameters = make.__name__.strip("_"), default_parameters(make, skip=3)
        return Aggregator(name, make, formula, source, parameters, over_epoch, hessian, limits=dict(limits or {}))

    return build


def _dot(weights: Array, L: Array) -> Any:
    """Σ wᵢ Lᵢ, where a row of weight 0 takes no part even if its loss is infinite."""
    return (weights * np.where(weights > 0, L, 0)).sum()


@aggregator("Σ sᵢ Lᵢ / (N mean(s))", "004 (8); mini-batches: mathematics §4", over_epoch="mean", hessian=flat)
def mean(L: Array, s: Array, mean_weight: float) -> tuple[Any, Array]:
    # The one place of the factor 1/N. The divisor is the weight expected of N rows, not the weight they have.
    dC_dL = s / (L.shape[0] * mean_weight)
    return _dot(dC_dL, L), dC_dL


@aggregator("Σ sᵢ Lᵢ", "000 §3; 003 (16)", over_epoch="sum", hessian=flat)
def sum_(L: Array, s: Array, mean_weight: float) -> tuple[Any, Array]:
    return _dot(s, L), s


def _of_tilted(L: Array, s: Array, mean_weight: float, v: Array, t: float) -> Array:
    w = tilted.make(L, s, mean_weight, t)[1]
    return t * w * (v - w @ v)


@aggregator(
    "ln(Σ pᵢ exp(t Lᵢ)) / t",
    "Li, Beirami, Sanjabi & Smith 2021",
    hessian=_of_tilted,
    limits={"t": ("other than 0", bool)},
)
def tilted(L: Array, s: Array, mean_weight: float, t: float = 1.0) -> tuple[Any, Array]:
    if not s.any():
        return L.sum() * 0, np.zeros_like(s)
    exponent = np.where(s > 0, t * L, -np.inf)
    top = exponent.real.max()
    share = s * np.exp(exponent - top)
    total = share.sum()
    return (top + np.log(total / s.sum())) / t, share.real / total.real


@aggregator(
    "mean of the worst share of the weight",
    "Rockafellar & Uryasev 2000",
    hessian=flat,
    limits={"share": ("above 0 and at most 1", lambda v: 0 < v <= 1)},
)
def cvar(L: Array, s: Array, mean_weight: float, share: float = 0.1) -> tuple[Any, Array]:
    if not s.any():
        return L.sum() * 0, np.zeros_like(s)
    p = s / s.sum()
    worst_first = np.argsort(-L.real, kind="mergesort")  # which is stable
    cumulative = np.cumsum(p[worst_first])
    last = min(int(np.searchsorted(cumulative, share * (1 - 1e-12))), len(p) - 1)
    quantile = L.real[worst_first[last]]
    above, at = L.real > quantile, L.real == quantile
    weight = np.where(above, p, 0.0) / share
    weight += np.where(at, p, 0.0) / p[at].sum() * (1.0 - weight.sum())
    return _dot(weight, L), weight


@aggregator("max Lᵢ over sᵢ > 0", "shared equally among ties", hessian=flat)
def max_(L: Array, s: Array, mean_weight: float) -> tuple[Any, Array]:
    if not s.any():
        return L.sum() * 0, np.zeros_like(s)
    ties = (L.real == L.real[s > 0].max()) & (s > 0)
    weight = ties / np.count_nonzero(ties)
    return _dot(weight, L), weight


CATALOGUE = {record.name: record for record in (mean, sum_, tilted, cvar, max_)}


def find_aggregator(where: str, given: Aggregator | str) -> Aggregator:
    """An aggregator from a record, a name, or a name with its parameter such as "cvar(0.1)".

    Raises:
        ParameterError: neither, or unknown.
    """
    return find(where, given, Aggregator, CATALOGUE)
