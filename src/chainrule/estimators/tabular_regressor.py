"""`TabularRegressor`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin

from ..arrays import Array
from ..tables.columns import MAX_LEVELS
from .tabular import Tabular


class TabularRegressor(RegressorMixin, Tabular):  # type: ignore[misc]
    """A network that predicts numbers from the rows of a table: any data frame in, with categories, dates and gaps.

    y is one column of numbers or several. Preprocessing, network and training are those of `chainrule train`, by
    default RealMLP-TD-S (Holzmüller, Grinsztajn & Steinwart 2024) with fewer epochs for many rows. X may come from
    pandas, polars or Arrow, or be an array, dense or sparse; its columns get the names x0, x1 … then.

    Args:
        hidden: the sizes of the hidden layers; () for a linear model.
        activation: one for all hidden layers or one for each, by name; None: mish for numbers, selu for classes.
        dropout: the rate after each hidden layer.
        scale_layer: a trainable factor for each input. ntk: neural tangent parametrisation.
        init: starting weights, by name; None: normal with ntk, else by activation.
        loss: by name, such as "absolute", "huber(delta=2)", "quantile(0.9)", "poisson"; None: squared error for
            numbers, cross-entropy for classes.
        aggregate: of the samples' losses: "mean", "sum", "tilted(1)", "cvar(0.1)" or "max".
        average_outputs: a row's loss is the mean over its targets, not their sum.
        l1, l2: the penalties l1·Σ|w| and l2/2·Σw².
        optimizer: "sgd", "momentum", "nesterov", "adam" or "adamw".
        learning_rate: η; None: 0.03 for numbers and 0.04 for classes, 0.002 without ntk, and half of it for a
            network that it throws out.
        momentum: of momentum and nesterov. beta1, beta2, eps: of adam and adamw. weight_decay: of adamw.
        schedule: η(t) as a factor, by name, such as "constant", "cosine", "coslog4".
        batch_size: rows in one step. drop_last: leave out the short batch at the end of an epoch.
        epochs: passes over the rows; None: 256, and from 10 000 training rows on 64 in a regression, 96 for classes.
        sampling: "shuffle", "sequential" or "replacement".
        clip_norm: the largest norm of the gradient.
        monitor: what decides the best epoch on the validation rows: "cost", "rmse", "mae", "error_rate" or "brier";
            None: rmse for numbers, brier for classes, and the cost with another loss than the usual one.
        patience: stop after so many epochs without a better one; tolerance: how much better counts as better.
        time_limit: stop after so many seconds, of all starts and folds together.
        starts: random starts, of which the best is kept.
        valid_fraction: share of the rows for validation; 0 for none, then the last epoch is kept.
        folds: train so many networks, each validated on another part of the rows; predictions are averaged.
        scaling: of numbers: "robust" (median and quartiles, with a smooth clip), "standard" or "none".
        max_levels: the most frequent categories kept in a column; the others are zeros, like those never seen.
        categories: columns of numbers to be taken as categories, by name or position.
        dtype: "float32" or "float64". engine, threads: as in `Network.fit`.
        random_state: of split, start, order and dropout.

    Attributes:
        network_, networks_: the `chainrule.Network`; with `folds` the first one, and all.
        encoder_, target_: how X and y become numbers, and back. model_: all of these, as in a model file.
        runs_: the `Run` of each network, with its history. notes_: what was left out and why, and what happened in training.
        out_of_fold_: with `folds`, predictions of each row by the network that did not learn from it.
        n_features_in_, feature_names_in_: the columns of X, the latter if they had names.
    """

    _task = "regression"

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
        """Numbers for X (N, n): (N,), or (N, k) of several targets."""
        encoded = self._encoded(X)
        return self._values(self.model_.outputs(encoded))

    def _values(self, y_hat: Array) -> Array:
        y = np.column_stack(list(self.target_.decode(y_hat).values()))
        return y.ravel() if y.shape[1] == 1 else y

    def _as_column(self, y: Array) -> Array:
        return y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
