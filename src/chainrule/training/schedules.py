"""Schedules: η(t) as a factor of the learning rate, a function of the progress (epoch, epochs) (002 §7.6).

`epoch` counts from 0 and has a fraction: step / steps per epoch. `epochs` is the planned number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..errors import ParameterError
from ..formulas.record import ABOVE_0, AT_LEAST_0, Limit, Record, default_parameters, find


@dataclass(frozen=True, repr=False)
class Schedule(Record):
    """A learning-rate schedule; `make(epoch, epochs, **parameters)` returns the factor.

    Attributes:
        planned: whether the factor depends on the planned number of epochs.
    """

    planned: bool = True

    def factor(self, epoch: float, epochs: int) -> float:
        """The factor of the learning rate at a moment of the training."""
        factor = self.make(epoch, epochs, **dict(self.parameters))
        if not isinstance(factor, Real):
            raise ParameterError(f"{self}: expected a number as factor of the learning rate, got {factor!r:.40}.")
        return float(factor)


def schedule(
    formula: str = "", source: str = "", *, planned: bool = True, limits: Mapping[str, Limit] | None = None
) -> Callable[[Callable[..., float]], Schedule]:
    """Make a `Schedule` of a function (epoch, epochs, **parameters) → factor; its name is the function's."""

    def build(make: Callable[..., Any]) -> Schedule:
        parameters = default_parameters(make)
        return Schedule(make.__name__, make, formula, source, parameters, planned, limits=dict(limits or {}))

    return build


@schedule("1", planned=False)
def constant(epoch: float, epochs: int) -> float:
    return 1.0


@schedule("factor**floor(epoch / every)", planned=False, limits={"every": ABOVE_0, "factor": AT_LEAST_0})
def step(epoch: float, epochs: int, every: float = 10.0, factor: float = 0.5) -> float:
    return factor ** math.floor(epoch / every)


@schedule("1 / (1 + rate·epoch)", "Robbins & Monro 1951", planned=False, limits={"rate": AT_LEAST_0})
def inverse_time(epoch: float, epochs: int, rate: float = 1.0) -> float:
    return 1 / (1 + rate * epoch)


@schedule(
    "(1 + before + rows·floor(epoch))**-power",
    "scikit-learn's invscaling",
    planned=False,
    limits=dict.fromkeys(("rows", "power", "before"), AT_LEAST_0),
)
def inverse_power(epoch: float, epochs: int, rows: float = 1.0, power: float = 0.5, before: float = 0.0) -> float:
    return (1 + before + rows * math.floor(epoch)) ** -power


def _half_wave(t: float) -> float:
    """From 1 at t = 0 to 0 at t = 1 along a cosine."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, t))))


@schedule("½ (1 + cos(π epoch/epochs))", "Loshchilov & Hutter 2017")
def cosine(epoch: float, epochs: int) -> float:
    return _half_wave(epoch / epochs)


@schedule("min(1, epoch / length)", "Goyal et al. 2017", planned=False, limits={"length": ABOVE_0})
def warmup(epoch: float, epochs: int, length: float = 5.0) -> float:
    return min(1.0, epoch / length)


@schedule(
    "epoch / length, then ½ (1 + cos(π (epoch − length)/(epochs − length)))",
    "Goyal et al. 2017",
    limits={"length": ABOVE_0},
)
def warmup_cosine(epoch: float, epochs: int, length: float = 5.0) -> float:
    if epoch < length:
        return epoch / length
    return _half_wave((epoch - length) / max(epochs - length, 1e-9))


@schedule("½ (1 − cos(2π log₂(1 + 15 epoch/epochs)))", "RealMLP, Holzmüller et al. 2024")
def coslog4(epoch: float, epochs: int) -> float:
    return 0.5 * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * min(1.0, epoch / epochs))))


@schedule("1 for the first half, then cosine to 0", "RealMLP, Holzmüller et al. 2024")
def flat_cos(epoch: float, epochs: int) -> float:
    return _half_wave(2 * epoch / epochs - 1)


CATALOGUE = {
    record.name: record
    for record in (
        constant,
        step,
        inverse_time,
        inverse_power,
        cosine,
        warmup,
        warmup_cosine,
        coslog4,
        flat_cos,
    )
}


def find_schedule(where: str, given: Schedule | str) -> Schedule:
    """A schedule from a record, a name, or a name with parameters such as "step(every=20)".

    Raises:
        ParameterError: neither, or unknown.
    """
    return find(where, given, Schedule, CATALOGUE)
