"""Starting weights: one function each of (generator, shape (n_l, n_{l-1})), with its source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import ParameterError
from .record import Record, default_parameters, find


@dataclass(frozen=True, repr=False)
class Initializer(Record):
    """A distribution of starting weights; `make(generator, shape, **parameters)` draws them in float64."""

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Weights of `shape`, where the last axis counts the inputs of a unit.

        Raises:
            ShapeError, ParameterError: a function of one's own gave another shape, or something else than numbers.
        """
        given = self.make(generator, shape, **dict(self.parameters))
        drawn = np.asarray(self.shaped("draw", given, shape), dtype=np.float64)
        if not np.isfinite(drawn).all():
            raise ParameterError(f"{self}: expected finite starting weights, got {drawn[~np.isfinite(drawn)][0]}.")
        return drawn


def initializer(formula: str = "", source: str = "") -> Callable[[Callable[..., Any]], Initializer]:
    """Make an `Initializer` of a function (generator, shape, **parameters) → weights."""

    def build(make: Callable[..., Any]) -> Initializer:
        return Initializer(make.__name__, make, formula, source, default_parameters(make))

    return build


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[-1], shape[0]  # inputs, outputs of the layer


@initializer("0", "for output layers; refused everywhere at once, as units would stay equal (002 concept 20)")
def zeros(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.zeros(shape)


@initializer("1", "the diagonal scale layer of RealMLP (Holzmüller et al. 2024)")
def ones(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.ones(shape)


@initializer("N(0, sigma**2)", "002 concept 20; 004 §4.2 with sigma = 1")
def normal(generator: np.random.Generator, shape: tuple[int, ...], sigma: float = 1.0) -> Array:
    return sigma * generator.standard_normal(shape)


@initializer("U(-limit, limit)", "")
def uniform(generator: np.random.Generator, shape: tuple[int, ...], limit: float = 0.05) -> Array:
    return generator.uniform(-limit, limit, shape)


@initializer("U(-r, r), r = sqrt(6/(inputs + outputs))", "Glorot & Bengio 2010")
def glorot_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    limit = np.sqrt(6.0 / sum(_fans(shape)))
    return generator.uniform(-limit, limit, shape)


@initializer("N(0, 2/(inputs + outputs))", "Glorot & Bengio 2010")
def glorot_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.sqrt(2.0 / sum(_fans(shape))) * generator.standard_normal(shape)


@initializer("N(0, 2/inputs)", "He et al. 2015")
def he_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.sqrt(2.0 / _fans(shape)[0]) * generator.standard_normal(shape)


@initializer("U(-r, r), r = sqrt(6/inputs)", "He et al. 2015")
def he_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    limit = np.sqrt(6.0 / _fans(shape)[0])
    return generator.uniform(-limit, limit, shape)


@initializer("N(0, 1/inputs)", "LeCun et al. 1998")
def lecun_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.sqrt(1.0 / _fans(shape)[0]) * generator.standard_normal(shape)


CATALOGUE = {
    record.name: record
    for record in (zeros, ones, normal, uniform, glorot_uniform, glorot_normal, he_normal, he_uniform, lecun_normal)
}

_BY_ACTIVATION = dict.fromkeys(("relu", "leaky_relu", "elu", "gelu", "silu", "mish"), he_normal) | {
    "selu": lecun_normal
}


def default_initializer(activation: str) -> Initializer:
    """He for the rectifier family, LeCun for SELU (which needs it), Glorot for all others."""
    return _BY_ACTIVATION.get(activation, glorot_uniform)


def find_initializer(where: str, given: Initializer | str) -> Initializer:
    """An initializer from a record, a name, or a name with parameters such as "normal(0.1)".

    Raises:
        ParameterError: neither, or unknown.
    """
    return find(where, given, Initializer, CATALOGUE)
