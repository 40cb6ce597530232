"""scikit-learn's words in the core's: layers, losses, update rules, starting weights, and its rule for stopping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from ..arrays import Array
from ..core.architecture import Architecture
from ..core.layers import Dense, Dropout, Layer
from ..errors import ParameterError
from ..formulas.activations import Activation, exp, find_activation, identity, relu, sigmoid, softmax, tanh
from ..formulas.initializers import uniform
from ..formulas.losses import CATALOGUE, Loss, binary_cross_entropy, categorical_cross_entropy, find_loss, loss, squared
from ..formulas.record import Function
from ..network import Network
from ..training.optimizers import Adam, Optimizer, StepSGD
from ..training.schedules import Schedule, constant, inverse_power

Kind = Literal["binary", "multiclass", "multilabel-indicator"]
THEIRS = {"logistic": "sigmoid"}  # activations that have another name there
LEAST_RATE, FALL = 1e-6, 5.0  # of learning_rate="adaptive"


@loss("(y_hat - y)**2/2", "scikit-learn's squared_error: half of squared")
def half_squared(xp: Any, real: Any) -> tuple[Function, ...]:
    half = real(0.5)

    def halved(function: Function) -> Function:
        return lambda y_hat, y: half * function(y_hat, y)

    return tuple(halved(function) for function in squared.make(xp, real))


class Goal(NamedTuple):
    """The output activation and the loss; `average_outputs` as in `Cost`."""

    output: Activation
    loss: Loss
    average_outputs: bool = False


def regression(given: Loss | str) -> Goal:
    """The goal of a regression: "squared_error", "poisson" (with its exponential), or a loss by name or record."""
    if given == "squared_error":
        return Goal(identity, half_squared, average_outputs=True)
    found = find_loss("loss", given)
    return Goal(softmax if found.categorical else _fitting(found), found)


def classification(given: Loss | str, kind: Kind) -> Goal:
    """The goal of a classification: "log_loss", or a loss by name or record.

    Raises:
        ParameterError: an unknown loss, one of numbers that no class has, or a softmax for several labels at once.
    """
    one = kind == "multiclass"  # one class out of several, and not a yes or no for each output
    if given == "log_loss":
        given = categorical_cross_entropy if one else binary_cross_entropy
    if given == "squared_error":
        given = half_squared
    found = find_loss("loss", given)
    found = CATALOGUE.get(found.name.removesuffix("_logits"), found) if found is CATALOGUE.get(found.name) else found
    if found.categorical and kind == "binary":  # the same function of one output
        found = binary_cross_entropy if found is categorical_cross_entropy else found
    if found.categorical and not one:
        raise ParameterError(f"loss: expected a loss for each output on its own with {kind} targets, got {found}.")
    if found.targets not in ("one_hot", "probability", "sign", "real"):
        raise ParameterError(f"loss: expected a loss of classes, got {found} for {found.targets} targets.")
    if found.targets == "sign":
        return Goal(_fitting(found), found)
    return Goal(softmax if one and found.targets != "probability" else sigmoid, found)


def _fitting(found: Loss) -> Activation:
    """The first output activation that stays where the loss takes predictions."""
    low, high = found.prediction
    return next((g for g in (identity, exp) if g.range[0] >= low and g.range[1] <= high), sigmoid)


def constant_part(goal: Goal, y: Array, s: Array) -> float:
    """The least that the mean loss of targets y (N, n_L) can be, which scikit-learn subtracts from a Poisson loss."""
    with np.errstate(all="ignore"):
        return float(np.average(goal.loss.value(y, y).sum(axis=1, dtype=np.float64), weights=s))


def out_activation(goal: Goal) -> str:
    """The output activation by scikit-learn's name."""
    return next((theirs for theirs, ours in THEIRS.items() if ours == goal.output.name), goal.output.name)


def hidden_layers(sizes: Any, activation: Any, dropout: Any) -> list[Layer]:
    """Dense layers, each with its dropout; `activation` and `dropout` are one for all or a list of one for each.

    Raises:
        ParameterError: sizes that are no whole numbers of at least 1, an unknown activation, a rate outside [0, 1), or
            a list of another length.
    """
    widths = list(np.atleast_1d(np.asarray(sizes, dtype=object))) if np.size(sizes) else []
    if not all(isinstance(n, int | np.integer) and n > 0 for n in widths):
        raise ParameterError(
            f"hidden_layer_sizes must be > 0: expected whole numbers of at least 1, got {widths}. "
            "Give the number of units of each hidden layer."
        )
    layers: list[Layer] = []
    rates = _each("dropout", dropout, len(widths))
    for n, given, rate in zip(widths, _each("activation", activation, len(widths)), rates, strict=True):
        name = THEIRS.get(given, given) if isinstance(given, str) else given
        layers.append(Dense(int(n), find_activation("activation", name)))
        if rate:
            layers.append(Dropout(float(rate)))
    return layers


def _each(name: str, value: Any, count: int) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        return [value] * count
    if len(value) != count:
        raise ParameterError(f"{name}: expected one for all or {count}, one for each hidden layer, got {len(value)}.")
    return list(value)


def started(inputs: int, layers: Sequence[Layer], random: np.random.RandomState, dtype: Any) -> Network:
    """A network with starting weights; those that scikit-learn would draw, if it has all the hidden activations."""
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    hidden = [layer.g for layer in dense[:-1]]
    if not all(any(g == known for known in (identity, sigmoid, tanh, relu)) for g in hidden):
        return Network(inputs, layers, seed=int(random.randint(2**31 - 1)), dtype=dtype)
    network = Network(inputs, layers, dtype=dtype)
    draw: Any = random  # has the methods of a Generator that an initializer calls
    for number, layer in dense_layers(network.architecture):
        fans = network.W(number).shape[::-1]
        limit = np.sqrt((2.0 if hidden and all(g == sigmoid for g in hidden) else 6.0) / sum(fans))
        W = uniform(limit=limit).draw(draw, fans).T
        network.set(number, W=W, b=uniform(limit=limit).draw(draw, (layer.units,)))
    return network


def dense_layers(architecture: Architecture) -> list[tuple[int, Dense]]:
    """The layers with weights, each with its number in the network."""
    return [(number, layer) for number, layer in enumerate(architecture.layers, 1) if isinstance(layer, Dense)]


def adopt(network: Network, architecture: Architecture, theta: Array) -> Network:
    """Give a network the parameters θ of an architecture whose dense layers have the same sizes; returns it.

    Raises:
        ParameterError: other sizes.
    """
    old = [p for p in architecture.views(theta) if p.W is not None]
    new = dense_layers(network.architecture)
    sizes, others = [p.W.shape for p in old if p.W is not None], [layer.W_shape for _, layer in new]
    if sizes != others:
        raise ParameterError(
            f"fit: expected weights of the shapes {sizes}, which the fitted network has, got {others}. "
            "Set warm_start=False to begin anew."
        )
    for (number, _), p in zip(new, old, strict=True):
        network.set(number, W=p.W, b=p.b)
    return network


def optimizer(settings: Any) -> Optimizer:
    """The update rule of solver="sgd" or "adam"."""
    if settings.solver == "adam":
        return Adam(settings.learning_rate_init, settings.beta_1, settings.beta_2, settings.epsilon)
    nesterov = bool(settings.nesterovs_momentum and settings.momentum > 0)
    return StepSGD(settings.learning_rate_init, settings.momentum, nesterov)


def schedule(settings: Any, rows: int, before: int, drops: list[int]) -> Schedule:
    """η(t) of `learning_rate`; `before` rows were seen in earlier runs, `drops` are the epochs before which η fell.

    The list of drops grows in training and never changes behind the present epoch, so η of a past step stays.
    """
    if settings.solver != "sgd" or settings.learning_rate == "constant":
        return constant
    if settings.learning_rate == "invscaling":
        found: Schedule = inverse_power(rows=rows, power=settings.power_t, before=before)
        return found
    return Schedule(
        "adaptive", lambda epoch, epochs: FALL ** -sum(drop <= epoch for drop in drops), "5**-drops", planned=False
    )


@contextmanager
def whole(estimator: Any) -> Iterator[None]:
    """A fit as a whole or not at all: where it raises, the estimator has the attributes that it had before.

    What they refer to must not be changed in place meanwhile.
    """
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def weights_of_classes(given: Any, classes: Array, y: Any) -> Callable[[Any], Array]:
    """What gives rows the weights (N,) of their classes, learned from the training's y: (N,), or (N, k) of 0 and 1.

    `given` is "balanced" or {class: weight}, where a class not named has 1; with (N, k) "balanced" or a list of k such.

    Raises:
        ValueError: `given` is none of these, or names an unknown class.
    """
    if y.ndim == 1:
        factors = compute_class_weight(given, classes=classes, y=y)
        return lambda others: factors[np.searchsorted(classes, others).clip(max=len(classes) - 1)]
    if isinstance(given, str):
        return lambda others: compute_sample_weight(given, others)
    if not isinstance(given, list | tuple) or len(given) != y.shape[1]:
        raise ParameterError(
            f"class_weight: expected 'balanced' or a list of {y.shape[1]}, one for each label, got {given!r}."
        )
    truths = np.arange(2)
    pairs = [
        compute_class_weight(one, classes=truths, y=column) for one, column in zip(given, _labels(y).T, strict=True)
    ]
    return lambda others: np.prod([pair[label] for pair, label in zip(pairs, _labels(others).T, strict=True)], axis=0)


def _labels(y: Any) -> Array:
    """Labels (N, k), sparse or dense, as the integers 0 and 1."""
    return np.asarray(y.toarray() if sparse.issparse(y) else y).astype(int)


@dataclass
class Stopping:
    """scikit-learn's rule: training stalls where the score was not `tolerance` above the best one for more than
    `patience` epochs. More is better.
    """

    tolerance: float
    patience: float
    best: float = -np.inf
    stale: int = 0

    def stalls(self, score: float) -> bool:
        """Take the score of one more epoch, and say whether training stalls."""
        self.stale = self.stale + 1 if score < self.best + self.tolerance else 0
        self.best = max(self.best, score)
        return self.stale > self.patience


@dataclass(frozen=True)
class Continuation:
    """What the next call goes on from: the optimizer's slots, its updates, and the drops of an adaptive η so far."""

    slots: Mapping[str, Array]
    updates: int
    drops: int

    def fits(self, rule: Optimizer, P: int) -> bool:
        """Whether the slots are those of a rule for P parameters."""
        return set(self.slots) == set(rule.slots) and all(slot.shape == (P,) for slot in self.slots.values())

    def lowered(self, rule: Optimizer) -> Optimizer:
        """The rule with the learning rate that an adaptive one has come down to."""
        rate = rule.learning_rate / FALL**self.drops
        return replace(rule, learning_rate=rate) if self.drops else rule  # type: ignore[type-var]
