"""`TabularClassifier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from ..arrays import Array
from ..ensemble import Ensemble
from ..errors import DataError
from ..tables.columns import MAX_LEVELS
from ..tables.targets import Target
from .tabular import Tabular
from .vocabulary import weights_of_classes


class TabularClassifier(ClassifierMixin, Tabular):  # type: ignore[misc]
    """A network that classifies the rows of a table: any data frame in, with categories, dates, booleans and gaps.

    y is a column of labels (text, numbers or booleans), or 0 and 1 in several columns (labels that may come together).
    Preprocessing, network and training are those of `chainrule train`. The parameters are those of
    `TabularRegressor` and these.

    Args:
        class_weight: a weight for each class as {class: weight}, "balanced" (so that every class weighs the same),
            or None; they multiply `sample_weight`. For labels that may come together a list of such.
        label_smoothing: ε of the targets; None is 0.1 for cross-entropies, which helps decisions and makes
            probabilities cautious.

    Attributes:
        classes_: the classes; where labels may come together, the numbers of their columns.
        out_of_fold_: with `folds`, the probabilities of each row by the network that did not learn from it.
    """

    class_weight: Any
    classes_: Array

    _task = "classification"

    def __init__(
        self,
        *,
        hidden: Any = (256, 256, 256),
        activation: Any = None,
        dropout: float = 0.0,
        scale_layer: bool = True,
        ntk: bool = True,
        init: str | None = None,
        loss: str | None = None,
        class_weight: Any = None,
        label_smoothing: float | None = None,
        aggregate: str = "mean",
        average_outputs: bool = False,
        l1: float = 0.0,
        l2: float = 0.0,
        optimizer: str = "adam",
        learning_rate: float | None = None,
        momentum: float = 0.9,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        schedule: str = "coslog4",
        batch_size: int = 256,
        epochs: int | None = None,
        sampling: str = "shuffle",
        drop_last: bool = True,
        clip_norm: float | None = None,
        monitor: str | None = None,
        patience: int | None = None,
        tolerance: float = 0.0,
        time_limit: float | None = None,
        starts: int = 1,
        valid_fraction: float = 0.15,
        folds: int | None = None,
        scaling: str = "robust",
        max_levels: int = MAX_LEVELS,
        categories: Any = (),
        dtype: str = "float32",
        engine: str = "auto",
        threads: int | None = None,
        random_state: Any = None,
    ) -> None:
        self._keep(locals())

    def predict(self, X: Any) -> Array:
        """Classes (N,), or 0 and 1 (N, k) of labels that may come together; decided on the logits of a single network."""
        encoded = self._encoded(X)
        chosen = self.model_.decisions(encoded)
        assert chosen is not None
        if self.target_.task == "multilabel":
            return chosen.astype(self._kind)
        return self.classes_[chosen.ravel()]

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (N, K) in the order of `classes_`, or (N, k) of each label by itself."""
        encoded = self._encoded(X)
        return self._values(self.model_.outputs(encoded))

    def predict_log_proba(self, X: Any) -> Array:
        """The natural logarithm of `predict_proba`, (N, K); −inf where a probability is 0."""
        with np.errstate(divide="ignore"):
            logarithms: Array = np.log(self.predict_proba(X))
        return logarithms

    def _has_logits(self) -> bool:
        """Whether there is one network; the mean of several has probabilities and no logits."""
        return not isinstance(self.model_, Ensemble) if "model_" in vars(self) else self.folds is None

    @available_if(_has_logits)  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Array:
        """The logits of the network: (N,) of two classes, else (N, K); not with `folds`."""
        encoded = self._encoded(X)
        z = self.network_.logits(encoded)
        return z.ravel() if self.target_.task == "binary" else z

    def _values(self, y_hat: Array) -> Array:
        task = self.target_.task
        if task == "binary":
            return np.hstack([1 - y_hat, y_hat])
        return y_hat / y_hat.sum(axis=1, keepdims=True) if task == "multiclass" else y_hat  # float32 sums to 1 ± 1e-7

    def _note_classes(self, y: Array) -> None:
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise DataError(
                "y: expected one column of classes or several of 0 and 1, got several of more than two classes. "
                "Use sklearn.multioutput.MultiOutputClassifier."
            )
        self.classes_, self._kind = np.unique(y) if y.ndim == 1 else np.arange(y.shape[1]), y.dtype
        if y.ndim == 1 and len(self.classes_) == 1:
            raise DataError(
                f"y: expected at least two classes, got one class, {self.classes_.tolist()[0]!r:.40}. Add rows of another one."
            )

    def _as_column(self, y: Array) -> Array:
        if y.dtype.kind == "f" and (y == np.round(y)).all():  # classes are counted off, whatever their type
            return y.astype(np.int64)
        return y.astype(object) if y.dtype.kind == "U" else y

    def _class_weights(self, y: Array) -> Callable[[Array], Array] | None:
        given = self.class_weight
        return None if given is None else weights_of_classes(given, self.classes_, y)

    def _restore(self, target: Target) -> None:
        several = target.task == "multilabel"
        self.classes_ = np.arange(target.units) if several else np.array(target.values)
        self._kind = np.array(target.values).dtype

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
