"""Update rules as frozen records; their state is a tuple of flat vectors like θ, one for each name in `slots`.

A rule is written once, elementwise, over (xp, real) like the formulas:
(θ, g, η, *slots, *coefficients) → (θ_new, *slots_new). η may be a number or a vector (P,) of learning rates.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..arrays import Array, check_number, namespace
from ..errors import ParameterError
from ..formulas.record import Function, looked_up


class Optimizer(Protocol):
    """What the loop asks of an update rule."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def slots(self) -> tuple[str, ...]: ...
    def coefficients(self, t: int) -> tuple[float, ...]:
        """Numbers that depend on the count t = 1, 2 … of the update."""
        ...

    def rule(self, xp: Any, real: Any) -> Function:
        """The elementwise update."""
        ...

    def parts(self, theta: Array, g: Array, eta: Any, slots: tuple[Array, ...], t: int) -> Parts:
        """The t-th update as exact additive parts, from the values before it."""
        ...


class Parts(NamedTuple):
    """θ_new − θ = per_gradient ⊙ g + momentum + decay, each (P,)."""

    per_gradient: Array
    momentum: Array
    decay: Array


@dataclass(frozen=True)
class SGD:
    """θ ← θ − η g; with momentum μ: v ← μ v + g, θ ← θ − η v; Nesterov: θ ← θ − η (g + μ v).

    Source: 002 §7.6, 003 (21), 004 (19); Polyak 1964; Sutskever et al. 2013, in torch.optim's form.
    """

    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_number("SGD", "learning_rate", self.learning_rate, above=True)
        check_number("SGD", "momentum", self.momentum, high=1)
        if self.nesterov and not self.momentum:
            raise ParameterError("SGD: expected momentum above 0 with nesterov=True, got 0. Set momentum=0.9.")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def coefficients(self, t: int) -> tuple[float, ...]:
        return ()

    def rule(self, xp: Any, real: Any) -> Function:
        mu = real(self.momentum)

        def plain(theta, g, eta):
            return (theta - eta * g,)

        def heavy_ball(theta, g, eta, velocity):
            velocity = mu * velocity + g
            return theta - eta * velocity, velocity

        def nesterov(theta, g, eta, velocity):
            velocity = mu * velocity + g
            return theta - eta * (g + mu * velocity), velocity

        return (nesterov if self.nesterov else heavy_ball) if self.momentum else plain

    def parts(self, theta: Array, g: Array, eta: Any, slots: tuple[Array, ...], t: int) -> Parts:
        none = np.zeros_like(theta)
        if not slots:
            return Parts(none - eta, none, none)
        mu = self.momentum
        per_g, per_velocity = (1 + mu, mu * mu) if self.nesterov else (1.0, mu)
        return Parts(none - eta * per_g, -eta * per_velocity * slots[0], none)


@dataclass(frozen=True)
class StepSGD(SGD):
    """SGD whose velocity is made of steps: v ← μ v − η g, θ ← θ + v; Nesterov: θ ← θ + μ v − η g.

    The same as `SGD` while η stays; where η falls, the steps made before keep their size. Source: Sutskever et al. 2013.
    """

    def rule(self, xp: Any, real: Any) -> Function:
        mu = real(self.momentum)

        def heavy_ball(theta, g, eta, velocity):
            velocity = mu * velocity - eta * g
            return theta + velocity, velocity

        def nesterov(theta, g, eta, velocity):
            velocity = mu * velocity - eta * g
            return theta + (mu * velocity - eta * g), velocity

        return (nesterov if self.nesterov else heavy_ball) if self.momentum else super().rule(xp, real)

    def parts(self, theta: Array, g: Array, eta: Any, slots: tuple[Array, ...], t: int) -> Parts:
        if not slots:
            return super().parts(theta, g, eta, slots, t)
        none, mu = np.zeros_like(theta), self.momentum
        per_g, per_velocity = (1 + mu, mu * mu) if self.nesterov else (1.0, mu)
        return Parts(none - eta * per_g, per_velocity * slots[0], none)


def _share(beta: float, t: Any) -> Any:
    """1 − βᵗ, the share of t updates in a mean that begins at 0; t may be an array."""
    return -np.expm1(t * (math.log(beta) if beta else -math.inf))  # faster than the power, and right for small t too


@dataclass(frozen=True)
class Adam:
    """m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², θ ← θ − η m̂ / (√v̂ + ε), bias-corrected (Kingma & Ba 2015)."""

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_number(name, "learning_rate", self.learning_rate, above=True)
        check_number(name, "eps", self.eps, above=True)
        check_number(name, "beta1", self.beta1, high=1)
        check_number(name, "beta2", self.beta2, high=1)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m", "v")

    def coefficients(self, t: int) -> tuple[float, ...]:
        """1 − β₁ᵗ and √(1 − β₂ᵗ)."""
        return _share(self.beta1, t), np.sqrt(_share(self.beta2, t))

    def rule(self, xp: Any, real: Any) -> Function:
        one, beta1, beta2, eps = real(1), real(self.beta1), real(self.beta2), real(self.eps)
        rest1, rest2 = real(1 - self.beta1), real(1 - self.beta2)

        def adam(theta, g, eta, m, v, correction1, correction2):
            m = beta1 * m + rest1 * g
            v = beta2 * v + rest2 * (g * g)
            return theta - (eta / correction1) * (m / (xp.sqrt(v) * (one / correction2) + eps)), m, v

        return adam

    def parts(self, theta: Array, g: Array, eta: Any, slots: tuple[Array, ...], t: int) -> Parts:
        (m, v), (correction1, correction2) = slots, self.coefficients(t)
        v = self.beta2 * v + (1 - self.beta2) * (g * g)
        rate = -(eta / correction1) / (np.sqrt(v) / correction2 + self.eps)
        return Parts(rate * (1 - self.beta1), rate * self.beta1 * m, np.zeros_like(theta))


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam after θ ← (1 − η λ) θ, on every parameter (Loshchilov & Hutter 2019)."""

    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("AdamW", "weight_decay", self.weight_decay)

    def rule(self, xp: Any, real: Any) -> Function:
        one, decay = real(1), real(self.weight_decay)
        adam = super().rule(xp, real)

        def adamw(theta, g, eta, m, v, correction1, correction2):
            return adam((one - eta * decay) * theta, g, eta, m, v, correction1, correction2)

        return adamw

    def parts(self, theta: Array, g: Array, eta: Any, slots: tuple[Array, ...], t: int) -> Parts:
        return super().parts(theta, g, eta, slots, t)._replace(decay=-eta * self.weight_decay * theta)


@dataclass(frozen=True)
class Continued:
    """An update rule that has made `updates` updates in earlier runs: what depends on the count goes on from there."""

    optimizer: Optimizer
    updates: int

    @property
    def learning_rate(self) -> float:
        return self.optimizer.learning_rate

    @property
    def slots(self) -> tuple[str, ...]:
        return self.optimizer.slots

    def coefficients(self, t: int) -> tuple[float, ...]:
        return self.optimizer.coefficients(t + self.updates)

    def rule(self, xp: Any, real: Any) -> Function:
        return self.optimizer.rule(xp, real)

    def parts(self, theta: Array, g: Array, eta: Any, slots: tuple[Array, ...], t: int) -> Parts:
        return self.optimizer.parts(theta, g, eta, slots, t + self.updates)


CATALOGUE: dict[str, SGD | Adam] = {
    "sgd": SGD(),
    "momentum": SGD(momentum=0.9),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    "adam": Adam(),
    "adamw": AdamW(),
}


def find_optimizer(where: str, given: Optimizer | str) -> Optimizer:
    """An optimizer from a record or a name: "sgd", "momentum", "nesterov", "adam", "adamw", or "adam(0.01, beta1=0.8)".

    Raises:
        ParameterError: neither, or unknown; parameters that it does not have, or outside their range.
    """
    if isinstance(given, str):
        record, values, named = looked_up(where, given, CATALOGUE)
        try:
            return replace(record, **inspect.signature(type(record)).bind_partial(*values, **named).arguments)
        except TypeError as error:
            form = ", ".join(field.name for field in fields(record))
            raise ParameterError(f"{where}: expected parameters among {form}, got {given!r} ({error}).") from None
    if isinstance(given, type) or not all(
        hasattr(given, name) for name in ("learning_rate", "slots", "coefficients", "rule")
    ):
        raise ParameterError(f"{where}: expected an optimizer such as Adam(0.01), or a name, got {given!r}.")
    return given


def update(
    optimizer: Optimizer, theta: Array, g: Array, eta: Array | float, slots: tuple[Array, ...], t: int
) -> tuple[Array, ...]:
    """The t-th update (t = 1, 2 …): (θ_new, *slots_new), all (P,); nothing is changed in place."""
    xp, real = namespace(theta)
    eta = eta if isinstance(eta, np.ndarray) else real(eta)
    result = optimizer.rule(xp, real)(theta, g, eta, *slots, *(real(c) for c in optimizer.coefficients(t)))
    return tuple(result)
