"""`MLPClassifier`."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from ..arrays import Array
from ..errors import ParameterError
from ..formulas.losses import Loss
from .base import MLP
from .vocabulary import Goal, classification, weights_of_classes, whole


class MLPClassifier(ClassifierMixin, MLP):  # type: ignore[misc]
    """scikit-learn's MLPClassifier, with more to choose and everything visible.

    The parameters, attributes and methods of scikit-learn's have its names, defaults and meanings; the others are
    those of `MLPRegressor` and these.

    Args:
        loss: "log_loss" (cross-entropy), or any loss that takes classes, such as "hinge", by name or record.
        class_weight: a weight for each class as {class: weight}, "balanced" (so that every class weighs the same),
            or None; they multiply `sample_weight`. For several labels a list of such.
        label_smoothing: ε of the targets, for cross-entropies.
        scoring: what early stopping watches: None (accuracy), "loss", a scorer's name, or a scorer.
    """

    class_weight: Any
    label_smoothing: float
    classes_: Array

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MLP._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }
    _stratified = True

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: Loss | str = "log_loss",
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        dropout: Any = 0.0,
        scoring: Any = None,
        clip_norm: float | None = None,
        time_limit: float | None = None,
        callbacks: Any = None,
        engine: str = "auto",
        threads: int | None = None,
    ) -> None:
        self._keep(locals())

    @available_if(MLP._check_solver)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, validation: Any = None
    ) -> Self:
        """One epoch over these rows, which goes on from the last call; see `fit`.

        With `early_stopping`, a part of the rows or `validation` is scored after every call; `stalled_` becomes True
        where the score no longer rises, and the weights are those of the best call then.

        Args:
            classes: all that will ever come; needed in the first call, unless y has a column for each label.
        """
        self._validate_params()
        with whole(self):
            if not hasattr(self, "network_"):
                several = type_of_target(y).startswith("multilabel")
                if classes is None and not several:
                    raise ParameterError("classes must be passed on the first call to partial_fit.")
                self._note_classes(y if several else unique_labels(classes))
            elif classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
                raise ParameterError(
                    f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {self.classes_!r}"
                )
            return self._fit(X, y, sample_weight, validation, one_epoch=True)

    def _has_margins(self) -> bool:
        """Whether the loss is one of margins, such as hinge, and not of probabilities."""
        loss = self.cost_.loss if hasattr(self, "cost_") else classification(self.loss, "binary").loss
        return loss.targets == "sign"

    def _has_probabilities(self) -> bool:
        if self._has_margins():
            raise AttributeError("predict_proba is only available for losses of probabilities, and not of margins.")
        return True

    @available_if(_has_margins)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Array:
        """The margins (N,) of two classes, or (N, K); only with a loss of margins, such as hinge."""
        y_hat = self._outputs(X)
        return y_hat.ravel() if self.n_outputs_ == 1 else y_hat

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Probabilities (N, K) in the order of `classes_`, or (N, k) of each label by itself."""
        y_hat = self._outputs(X)
        if self.n_outputs_ == 1:
            return np.hstack([1 - y_hat, y_hat])
        if self._label_binarizer.y_type_ == "multiclass" and self.out_activation_ == "logistic":
            return y_hat / y_hat.sum(axis=1, keepdims=True)
        return y_hat

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """The natural logarithm of `predict_proba`, (N, K); −inf where a probability is 0."""
        with np.errstate(divide="ignore"):
            logarithms: Array = np.log(self.predict_proba(X))
        return logarithms

    def _read(self, y: Array, goes_on: bool, one_epoch: bool) -> None:
        check_classification_targets(y)
        if not (goes_on or one_epoch):
            self._note_classes(y)
        elif not one_epoch and set(unique_labels(y)) != set(self.classes_):
            raise ParameterError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {unique_labels(y)}"
            )
        elif not one_epoch:
            self._seen = np.zeros(len(self.classes_))

    def _note_classes(self, y: Array) -> None:
        self._label_binarizer = LabelBinarizer().fit(y)
        self.classes_ = self._label_binarizer.classes_
        self._seen = np.zeros(len(self.classes_))  # the weight of the rows of each class, over all calls of partial_fit

    def _goal(self) -> Goal:
        return classification(self.loss, self._label_binarizer.y_type_)

    def _targets(self, y: Array, loss: Loss) -> Array:
        classes = unique_labels(y)
        if len(np.setdiff1d(classes, self.classes_)):
            raise ParameterError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )
        codes = self._label_binarizer.transform(y).astype(np.float32)
        return 2 * codes - 1 if loss.targets == "sign" else codes

    def _answer(self, y_hat: Array) -> Array:
        shares = (y_hat + 1) / 2 if self.cost_.loss.targets == "sign" else y_hat
        answer: Array = self._label_binarizer.inverse_transform(shares.ravel() if shares.shape[1] == 1 else shares)
        return answer

    def _own_score(self, y: Array, answer: Array, s: Array | None) -> float:
        return float(accuracy_score(y, answer, sample_weight=s))

    def _weights(self, y: Array, s: Array | None, count: bool = False) -> Array | None:
        if self.class_weight is None:
            return s
        if self.class_weight == "balanced" and y.ndim == 1:
            places = np.searchsorted(self.classes_, y)
            if count:
                self._seen = self._seen + np.bincount(places, s, minlength=len(self.classes_))
            seen = self._seen > 0
            factors = np.zeros(len(seen))  # a class that no row was seen of has only rows of weight 0
            factors[seen] = self._seen.sum() / (seen.sum() * self._seen[seen])
            by_class = factors[places]
        else:
            by_class = weights_of_classes(self.class_weight, self.classes_, y)(y)
        return by_class if s is None else by_class * s

    @property
    def _label_smoothing(self) -> float:  # type: ignore[override]
        return self.label_smoothing

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
