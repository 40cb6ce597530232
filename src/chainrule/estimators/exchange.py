"""To scikit-learn's own models and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.cost import Cost
from ..core.layers import Dense
from ..errors import ParameterError
from ..network import Network
from .vocabulary import THEIRS, dense_layers, hidden_layers

FITTED = ["n_features_in_", "feature_names_in_", "classes_", "_label_binarizer", "n_outputs_", "n_layers_"]
FITTED += ["out_activation_", "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_"]
FITTED += ["best_validation_score_"]


def _kind(name: str) -> Any:
    from sklearn import neural_network

    return getattr(neural_network, name)


def from_sklearn(cls: Any, model: Any) -> Any:
    """An estimator of class `cls` like a model of scikit-learn's class of that name."""
    if not isinstance(model, _kind(cls.__name__)):
        raise ParameterError(f"from_sklearn: expected scikit-learn's {cls.__name__}, got {type(model).__name__}.")
    estimator = cls(**model.get_params(deep=False))
    if not hasattr(model, "coefs_"):
        return estimator
    _copy(model, estimator)
    if hasattr(model, "classes_"):
        estimator._seen = np.zeros(len(model.classes_))
    goal = estimator._goal()
    sizes = [b.size for b in model.intercepts_[:-1]]
    layers = [*hidden_layers(sizes, model.activation, 0.0), Dense(model.n_outputs_, goal.output)]
    network = Network(model.n_features_in_, layers, dtype=model.coefs_[0].dtype)
    for number, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True), 1):
        network.set(number, W=W.T, b=b)
    estimator.network_ = network
    estimator.cost_ = Cost(goal.loss, average_outputs=goal.average_outputs)
    estimator._continuation = estimator._stopping = estimator._best = None
    estimator.loss_curve_ = getattr(estimator, "loss_curve_", [])
    estimator.validation_scores_ = getattr(estimator, "validation_scores_", None)
    estimator.validation_loss_curve_ = None if estimator.validation_scores_ is None else []
    return estimator


def to_sklearn(estimator: Any) -> Any:
    """scikit-learn's model of the same class name."""
    kind = _kind(type(estimator).__name__)
    settings = {name: value for name, value in estimator.get_params(deep=False).items() if name in kind().get_params()}
    theirs = {ours: name for name, ours in THEIRS.items()}
    layers = hidden_layers(estimator.hidden_layer_sizes, estimator.activation, 0.0)
    names = {theirs.get(str(layer.g), str(layer.g)) for layer in layers} or {"relu"}
    if len(names) > 1 or not names <= {"identity", "logistic", "tanh", "relu"}:
        raise ParameterError(
            f"to_sklearn: expected one of identity, logistic, tanh and relu in all hidden layers, got {sorted(names)}."
        )
    settings["activation"] = names.pop()
    if "loss" in settings and settings["loss"] not in ("squared_error", "poisson"):
        settings["loss"] = "squared_error"  # which predicts in the same way
    model = kind(**settings)
    if not hasattr(estimator, "network_"):
        return model
    if estimator.out_activation_ not in ("identity", "logistic", "softmax", "exp"):
        raise ParameterError(f"to_sklearn: expected an output that scikit-learn has, got {estimator.out_activation_}.")
    _copy(estimator, model)
    network = estimator.network_
    numbers = [number for number, _ in dense_layers(network.architecture)]
    model.coefs_ = [network.W(number).T.copy() for number in numbers]
    model.intercepts_ = [network.b(number).copy() for number in numbers]
    model._no_improvement_count = 0
    model._random_state = np.random.RandomState(0)
    return model


def _copy(one: Any, other: Any) -> None:
    """The attributes of a fitted model that both kinds have."""
    for name in FITTED:
        if hasattr(one, name):
            value = getattr(one, name)
            setattr(other, name, list(value) if isinstance(value, list) else value)
