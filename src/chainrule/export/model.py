"""What is exported of a model: its networks, what stands before them, and how their outputs become answers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array
from ..core.architecture import Architecture
from ..disk import replacing
from ..engine.lowering import ELEMENT, Symbol, Untraceable, trace
from ..ensemble import Ensemble
from ..errors import NotTrainedError, ParameterError
from ..formulas.activations import Activation
from ..network import Network
from ..table_model import TableModel
from ..tables.columns import Encoder
from ..tables.targets import Target


@dataclass(frozen=True)
class Classes:
    """How the outputs of a classifier of arrays become its answers.

    Attributes:
        values: the classes (K,), or the names of the labels. several: every output is a label by itself.
        margins: the outputs are margins, decided at 0, and no probabilities. normalised: a sigmoid for each of
            several classes, so that the probabilities are the outputs divided by their sum.
    """

    values: Array
    several: bool
    margins: bool
    normalised: bool

    def labels(self, y_hat: Array) -> Array:
        """What `predict` answers: classes (N,), or 0 and 1 of each label (N, k)."""
        above = (y_hat > (0 if self.margins else 0.5)).astype(np.int64)
        if self.several:
            return above
        return np.asarray(self.values[above[:, 0] if y_hat.shape[1] == 1 else y_hat.argmax(axis=1)])

    def scores(self, y_hat: Array) -> Array:
        """What `predict_proba` or `decision_function` answers."""
        if self.margins:
            return y_hat[:, 0] if y_hat.shape[1] == 1 else y_hat
        if y_hat.shape[1] == 1:
            return np.hstack([1 - y_hat, y_hat])
        return y_hat / y_hat.sum(axis=1, keepdims=True) if self.normalised else y_hat


@dataclass(frozen=True)
class Exported:
    """The parts of a model. Without `target` and `classes` the answer is ŷ, called `answer`, (N,) if `flat`.

    `averaged`: the answer follows from the mean of the networks' ŷ, as in an `Ensemble`; else there is one network.
    """

    networks: tuple[Network, ...]
    encoder: Encoder | None = None
    target: Target | None = None
    classes: Classes | None = None
    answer: str = "y_hat"
    flat: bool = False
    averaged: bool = False

    @property
    def architecture(self) -> Architecture:
        """The layers that all networks have."""
        return self.networks[0].architecture

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The dtype that all networks have."""
        return self.networks[0].dtype


def exported(where: str, model: Any) -> Exported:
    """The parts of a `Network`, a `TableModel`, an `Ensemble` or one of the four estimators, fitted.

    Raises:
        ParameterError: another kind of model, classes that are neither text nor numbers, or members of an ensemble
            that have not all the same layers and preprocessing.
        NotTrainedError: an estimator that is not fitted.
    """
    modules = {cls.__module__ for cls in type(model).__mro__}  # the estimators are not loaded if not used
    tabular = "chainrule.estimators.tabular" in modules
    if (tabular or "chainrule.estimators.base" in modules) and not hasattr(model, "network_"):
        raise NotTrainedError(f"{where}: expected a fitted {type(model).__name__}, got one without weights. Call fit.")
    if tabular:
        model = model.model_
    if isinstance(model, Network):
        return Exported((model,))
    if isinstance(model, TableModel):
        return Exported((model.network,), model.encoder, model.target)
    if isinstance(model, Ensemble):
        return _averaged(where, model)
    if "chainrule.estimators.base" not in modules:
        known = "a Network, a TableModel, an Ensemble or one of chainrule's estimators"
        raise ParameterError(f"{where}: expected {known}, got {type(model).__name__}.")
    if not hasattr(model, "classes_"):
        return Exported((model.network_,), answer="prediction", flat=model.n_outputs_ == 1)
    values = np.asarray(model.classes_.tolist())
    if values.dtype.kind not in "Uifb" or len(values) < 2:
        raise ParameterError(f"{where}: expected at least two classes of text or numbers, got {model.classes_!r:.60}.")
    kind = model._label_binarizer.y_type_
    normalised = kind == "multiclass" and model.out_activation_ == "logistic"
    return Exported(
        (model.network_,), classes=Classes(values, kind.startswith("multilabel"), model._has_margins(), normalised)
    )


def _averaged(where: str, model: Ensemble) -> Exported:
    """The parts of an ensemble: what its members share, and their networks."""
    shared = {(each.encoder, each.target, each.network.architecture, each.network.dtype) for each in model.members}
    if len(shared) != 1:
        raise ParameterError(
            f"{where}: expected an ensemble of models with the same preprocessing, target and layers, "
            f"got {len(shared)} different ones."
        )
    networks = tuple(member.network for member in model.members)
    return Exported(networks, model.encoder, model.target, averaged=True)


def formula(where: str, g: Activation) -> Symbol:
    """What an activation computes, as symbols of its input "z".

    Raises:
        ParameterError: it does what only arrays can.
    """

    def value(graph: Any, xp: Any) -> dict[str, Any]:
        return {"a": g.make(xp, float, **dict(g.parameters))[0](graph.input("z", ELEMENT))}

    try:
        return trace(value)["a"]
    except Untraceable as refusal:
        raise ParameterError(
            f"{where}: expected activations of arithmetic and the functions of xp, got {g} ({refusal})."
        ) from None


def write(path: str | os.PathLike[str] | None, content: bytes) -> None:
    """Write a file, if there is a path, as a whole or not at all.

    Raises:
        OutputError: it could not be written; what was there before is untouched.
    """
    if path is not None:
        with replacing(path) as stream:
            stream.write(content)
