"""`MLPRegressor`."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from ..arrays import Array
from ..formulas.losses import Loss
from .base import MLP
from .vocabulary import Goal, regression, whole


class MLPRegressor(RegressorMixin, MLP):  # type: ignore[misc]
    """scikit-learn's MLPRegressor, with more to choose and everything visible.

    The parameters, attributes and methods of scikit-learn's have its names, defaults and meanings.

    Args:
        loss: "squared_error" (half of it, averaged over outputs), "poisson", or any loss by name or record, added over
            outputs; the output activation follows from it.
        activation: identity, logistic, tanh, relu, any other by name or record, or a list with one for each layer.
        dropout: the rate after hidden layers, or a list with one for each.
        scoring: what early stopping watches: None (R²), "loss", a scorer's name, or a scorer.
        clip_norm: scale gradients down to this norm. time_limit: seconds of a fit.
        callbacks: called after every epoch with its row (epoch, train_cost, valid_cost …); True ends the fit.
        engine, threads: as in `Network.fit`.

    Attributes:
        network_: the `chainrule.Network`. cost_: its loss and penalty, λ = alpha / Σ sample_weight.
        validation_loss_curve_: the cost on the validation rows after every epoch, or None.
        stalled_: whether calls of `partial_fit` ceased to improve.
    """

    def __init__(
        self,
        loss: Loss | str = "squared_error",
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
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, validation: Any = None) -> Self:
        """One epoch over these rows, which goes on from the last call; see `fit`.

        With `early_stopping`, a part of the rows or `validation` is scored after every call; `stalled_` becomes True
        where the score no longer rises, and the weights are those of the best call then.
        """
        self._validate_params()
        with whole(self):
            return self._fit(X, y, sample_weight, validation, one_epoch=True)

    def _goal(self) -> Goal:
        return regression(self.loss)

    def _targets(self, y: Array, loss: Loss) -> Array:
        return y.reshape(len(y), -1)

    def _answer(self, y_hat: Array) -> Array:
        return y_hat.ravel() if y_hat.shape[1] == 1 else y_hat

    def _own_score(self, y: Array, answer: Array, s: Array | None) -> float:
        return float(r2_score(y, answer, sample_weight=s)) if np.isfinite(answer).all() else np.nan

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
