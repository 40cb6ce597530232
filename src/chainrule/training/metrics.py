"""Decisions from predictions (003 (4), (6)), and the metrics that training can watch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..arrays import Array
from ..errors import ParameterError, unknown_name
from ..formulas.losses import Loss


def decide(loss: Loss, y_hat: Array) -> Array:
    """Hard decisions in the coding of the targets, shaped like ŷ (N, n_L).

    One-hot rows of the largest output; 1 where a probability is at least ½ (a logit at least 0), else 0; the
    sign ±1. Sound for the losses of classification only.
    """
    return _sides(loss, y_hat, 0.5 if loss.prediction == (0, 1) else 0.0)


def _sides(loss: Loss, values: Array, threshold: float) -> Array:
    if loss.targets == "one_hot":
        return np.eye(values.shape[1])[values.argmax(axis=1)]
    if loss.targets == "sign":
        return np.where(values >= 0, 1.0, -1.0)
    return (values >= threshold).astype(np.float64)


def error_rate(loss: Loss, y_hat: Array, y: Array, s: Array) -> float:
    """The weighted share of wrong decisions: of samples with one-hot targets, else of all outputs.

    A target that is a probability counts as its more likely side.
    """
    wrong = decide(loss, y_hat) != _sides(loss, y, 0.5)
    per_sample = wrong.any(axis=1) if loss.categorical else wrong.mean(axis=1)
    return float(np.average(per_sample, weights=s))


def brier(loss: Loss, y_hat: Array, y: Array, s: Array) -> float:
    """The weighted mean squared distance of probabilities from the truth (Brier 1950): over a sample's classes added
    up where one of them is right, else averaged over outputs.

    Unlike the error rate it tells probabilities apart that decide alike; unlike the log loss one bold mistake counts
    at most 2.
    """
    squares = (y_hat - y) ** 2
    return float(np.average(squares.sum(axis=1) if loss.categorical else squares.mean(axis=1), weights=s))


def rmse(loss: Loss, y_hat: Array, y: Array, s: Array) -> float:
    """The root of the weighted mean squared error over samples and outputs."""
    return float(np.sqrt(np.average(((y_hat - y) ** 2).mean(axis=1), weights=s)))


def mae(loss: Loss, y_hat: Array, y: Array, s: Array) -> float:
    """The weighted mean absolute error over samples and outputs."""
    return float(np.average(np.abs(y_hat - y).mean(axis=1), weights=s))


Metric = Callable[[Loss, Array, Array, Array], float]
CATALOGUE: dict[str, Metric] = {"error_rate": error_rate, "brier": brier, "rmse": rmse, "mae": mae}


def find_metric(where: str, name: str | Metric, loss: Loss) -> Metric | None:
    """The metric of that name, or None for "cost"; a function (loss, ŷ, y, s) → number is its own metric.

    Raises:
        ParameterError: unknown, or decisions asked of a loss that is not of classification.
    """
    if callable(name):
        return name
    if name == "cost":
        return None
    if name not in CATALOGUE:
        raise unknown_name(where, name, ["cost", *CATALOGUE])
    if name == "error_rate" and loss.targets not in ("one_hot", "probability", "sign"):
        raise ParameterError(f"{where}: expected a classification loss with 'error_rate', got {loss}. Use 'rmse'.")
    if name == "brier" and loss.prediction != (0, 1):
        raise ParameterError(f"{where}: expected a loss of probabilities with 'brier', got {loss}. Use 'cost'.")
    return CATALOGUE[name]
