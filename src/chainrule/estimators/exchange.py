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
    """scikit-learn's model of the same class name; a fitted one has the activations that it was fitted with."""
    kind = _kind(type(estimator).__name__)
    settings = {name: value for name, value in estimator.get_params(deep=False).items() if name in kind().get_params()}
    network = getattr(estimator, "network_", None)
    hidden = (
        hidden_layers(estimator.hidden_layer_sizes, estimator.activation, 0.0)
        if network is None
        else [layer for _, layer in dense_layers(network.architecture)[:-1]]
    )
    theirs = {ours: name for name, ours in THEIRS.items()}
    names = {theirs.get(str(layer.g), str(layer.g)) for layer in hidden if isinstance(layer, Dense)} or {"relu"}
    if len(names) > 1 or not names <= {"identity", "logistic", "tanh", "relu"}:
        raise ParameterError(
            f"to_sklearn: expected one of identity, logistic, tanh and relu in all hidden layers, got {sorted(names)}."
        )
    settings["activation"] = names.pop()
    if "loss" in settings and settings["loss"] not in ("squared_error", "poisson"):
        settings["loss"] = "squared_error"  # which predicts in the same way
    model = kind(**settings)
    if network is None:
        return model
    _check_output(estimator)
    _copy(estimator, model)
    numbers = [number for number, _ in dense_layers(network.architecture)]
    model.coefs_ = [network.W(number).T.copy() for number in numbers]
    model.intercepts_ = [network.b(number).copy() for number in numbers]
    if estimator.early_stopping:  # what a warm start of it goes back to
        model._best_coefs = [W.copy() for W in model.coefs_]
        model._best_intercepts = [b.copy() for b in model.intercepts_]
    model._no_improvement_count = 0
    model._random_state = np.random.RandomState(0)
    return model


def _check_output(estimator: Any) -> None:
    """Raise ParameterError where scikit-learn's model would make something else of the same outputs."""
    output, loss = estimator.out_activation_, estimator.cost_.loss
    classes = hasattr(estimator, "classes_")
    apart = classes and output == "logistic" and estimator._label_binarizer.y_type_ == "multiclass"
    known = ("logistic", "softmax") if classes else ("identity", "exp", "logistic", "softmax")
    if output not in known or apart:
        got = f"{output} for one of several classes" if apart else output
        raise ParameterError(
            f"to_sklearn: expected an output that scikit-learn has, {' or '.join(known)}, got {got} (the loss {loss})."
        )


def _copy(one: Any, other: Any) -> None:
    """The attributes of a fitted model that both kinds have."""
    for name in FITTED:
        if hasattr(one, name):
            value = getattr(one, name)
            setattr(other, name, list(value) if isinstance(value, list) else value)
