"""What both estimators share: settings, training, prediction and inspection. Every number comes from the core."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from ..arrays import Array, check_weights
from ..core.architecture import PREDICT_ROWS, forward
from ..core.cost import Cost, Penalty
from ..core.layers import Dense
from ..errors import ParameterError
from ..formulas.activations import Activation
from ..formulas.losses import Loss
from ..inspection.derivation import Derivation
from ..inspection.trace import Trace
from ..network import Network
from ..training.lbfgs import lbfgs
from ..training.loop import Data, OnEpoch, Plan, Row
from ..training.metrics import Metric
from ..training.optimizers import Continued
from . import exchange
from .frames import dense
from .vocabulary import (
    FALL,
    LEAST_RATE,
    Continuation,
    Goal,
    Stopping,
    adopt,
    constant_part,
    dense_layers,
    hidden_layers,
    optimizer,
    out_activation,
    schedule,
    started,
    whole,
)

SPARSE = ("csr", "csc")


class HeldOut(NamedTuple):
    """Validation rows: X, the targets as the network has them and as the caller has them, and weights or None."""

    X: Array
    targets: Array
    y: Array
    s: Array | None


class Parts(list[Array]):
    """The weights or the biases of every layer; to set an item is to set the network's."""

    def __init__(self, parts: Iterable[Array], put: Callable[[int, Any], object]) -> None:
        super().__init__(parts)
        self._put = put

    def __setitem__(self, place: Any, value: Any) -> None:
        self._put(range(len(self))[place], value)
        super().__setitem__(place, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class MLP(BaseEstimator):  # type: ignore[misc]
    """The common part of `MLPClassifier` and `MLPRegressor`."""

    loss: Loss | str
    hidden_layer_sizes: Any
    activation: Any
    solver: str
    alpha: float
    batch_size: int | str
    learning_rate: str
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: Any
    tol: float
    verbose: bool | int
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    dropout: Any
    scoring: Any
    clip_norm: float | None
    time_limit: float | None
    callbacks: Any
    engine: str
    threads: int | None

    network_: Network
    cost_: Cost
    n_outputs_: int
    n_iter_: int
    t_: int
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None
    _continuation: Continuation | None
    _stopping: Stopping | None
    _best: tuple[float, Array] | None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "loss": [str, Loss],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [str, Activation, "array-like"],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "scoring": [str, callable, None],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "time_limit": [Interval(Real, 0, None, closed="neither"), None],
        "callbacks": [callable, list, tuple, None],
        "engine": [StrOptions({"auto", "array", "compiled"})],
        "threads": [Interval(Integral, 1, None, closed="left"), None],
    }

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Store what `__init__` got, each argument under its name and as it is."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    # -- what a classifier and a regressor do differently --------------------------------------------------------

    def _read(self, y: Array, goes_on: bool, one_epoch: bool) -> None:
        """Take note of the classes; those of `partial_fit` are known."""

    def _goal(self) -> Goal:
        raise NotImplementedError

    def _targets(self, y: Array, loss: Loss) -> Array:
        """y (N,) or (N, k) as a network with this loss has it, (N, n_L)."""
        raise NotImplementedError

    def _answer(self, y_hat: Array) -> Array:
        """ŷ (N, n_L) as `predict` returns it."""
        raise NotImplementedError

    def _own_score(self, y: Array, answer: Array, s: Array | None) -> float:
        """What early stopping watches by default: accuracy or R²."""
        raise NotImplementedError

    def _weights(self, y: Array, s: Array | None, count: bool = False) -> Array | None:
        """The weights of samples, times those of their classes; training rows are counted."""
        return s

    _stratified = False  # whether the validation split keeps the shares of the classes
    _label_smoothing = 0.0

    # -- training ------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None, validation: Any = None) -> Self:
        """Train on X (N, n_0), dense or sparse, and y (N,) or (N, k); returns the estimator.

        Args:
            sample_weight: (N,), at least 0.
            validation: (X, y) or (X, y, weights), on which the score and the cost of every epoch are recorded. With
                `early_stopping` they are used in the place of a part of X; without it they decide nothing.

        Raises:
            ValueError: a parameter, X or y does not fit. DivergenceError (ArithmeticError): training produced a
                number that is not finite; the message names the first one. The estimator is as before then.

        Warns:
            ConvergenceWarning: `max_iter` was reached, or L-BFGS did not converge.
        """
        self._validate_params()
        with whole(self):
            return self._fit(X, y, sample_weight, validation)

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
        return True

    def _fit(self, X: Any, y: Any, sample_weight: Any, validation: Any, one_epoch: bool = False) -> Self:
        goes_on = hasattr(self, "network_") and (self.warm_start or one_epoch)
        X, y = self._checked(X, y, reset=not goes_on)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        self._read(y, goes_on, one_epoch)
        goal = self._goal()
        targets = self._targets(y, goal.loss)
        s = self._weights(y, sample_weight, count=True)
        random = check_random_state(self.random_state)
        output = Dense(targets.shape[1], goal.output)
        layers = [*hidden_layers(self.hidden_layer_sizes, self.activation, self.dropout), output]
        if goes_on:
            network = Network(X.shape[1], layers, dtype=self.network_.dtype)
            adopt(network, self.network_.architecture, self.network_.theta)
        else:
            network = started(X.shape[1], layers, random, X.dtype)

        held_out = self._held_out(validation, goal.loss)
        if held_out is None and self.early_stopping and self.solver != "lbfgs":
            rows, rest = self._split(y, targets.shape[1], random)
            held_out = HeldOut(_dense(X[rest]), targets[rest], y[rest], None if s is None else s[rest])
            X, targets, s = X[rows], targets[rows], None if s is None else s[rows]
        X = _dense(X)
        weights = check_weights("fit", s, len(X))
        penalty = Penalty(l2=self.alpha / float(weights.sum()))
        cost = Cost(
            goal.loss, penalty=penalty, average_outputs=goal.average_outputs, label_smoothing=self._label_smoothing
        )

        if goes_on:  # with curves of its own
            for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_", "_stopping"):
                setattr(self, name, copy(getattr(self, name)))
        else:
            self.t_, self.loss_curve_ = 0, []
            self.validation_scores_ = self.validation_loss_curve_ = None
            self._continuation = self._stopping = self._best = None
        self.cost_ = cost
        self.n_outputs_, self.out_activation_ = targets.shape[1], out_activation(goal)
        self.n_layers_ = len(dense_layers(network.architecture)) + 1
        floor = constant_part(goal, targets, weights) if self.loss == "poisson" else 0.0
        if self.solver == "lbfgs":
            if validation is not None:
                raise ParameterError("fit: expected solver 'sgd' or 'adam' with a validation set, got 'lbfgs'.")
            self._minimise(network, X, targets, weights, cost, floor)
        else:
            self._descend(network, X, targets, s, cost, floor, held_out, random, one_epoch)
        self.network_ = network
        return self

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[Any, Array]:
        """X and y as arrays, X maybe sparse."""
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=SPARSE,
            multi_output=True,
            y_numeric=is_regressor(self),
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _held_out(self, validation: Any, loss: Loss) -> HeldOut | None:
        if validation is None:
            return None
        if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
            raise ParameterError("fit: expected validation as (X, y) or (X, y, weights), got something else.")
        X, y = self._checked(validation[0], validation[1], reset=False)
        s = None
        if len(validation) == 3 and validation[2] is not None:
            s = _check_sample_weight(validation[2], X, dtype=np.float64)
        return HeldOut(_dense(X), self._targets(y, loss), y, self._weights(y, s))

    def _split(self, y: Array, outputs: int, random: np.random.RandomState) -> tuple[Array, Array]:
        """The numbers of the rows for training and of those for validation, as scikit-learn draws them."""
        stratify = y if self._stratified and outputs == 1 else None
        rows, rest = train_test_split(
            np.arange(y.shape[0]), random_state=random, test_size=self.validation_fraction, stratify=stratify
        )
        if len(rest) < 2:
            raise ParameterError(
                f"The validation set is too small: expected at least 2 rows, got {len(rest)}. "
                "Increase 'validation_fraction' or the size of your dataset."
            )
        return rows, rest

    def _metric(self, network: Network, held_out: HeldOut) -> Metric | str:
        """The score of an epoch as the core's metric, of which less is better."""
        if self.scoring == "loss":
            return "cost"
        scorer = None if self.scoring is None else get_scorer(self.scoring)
        judge = copy(self)
        judge.network_ = network
        weights = {} if held_out.s is None else {"sample_weight": held_out.s}

        def negative_score(loss: Loss, y_hat: Array, y: Array, s: Array) -> float:
            if not np.isfinite(y_hat).all():
                return np.nan
            if scorer is None:
                return -self._own_score(held_out.y, self._answer(y_hat), held_out.s)
            judge._known = held_out.X, y_hat
            return -float(scorer(judge, held_out.X, held_out.y, **weights))

        return negative_score

    def _rows_per_step(self, rows: int) -> int:
        if self.batch_size == "auto":
            return min(200, rows)
        if int(self.batch_size) > rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
            )
        return min(int(self.batch_size), rows)

    def _descend(
        self,
        network: Network,
        X: Array,
        targets: Array,
        s: Array | None,
        cost: Cost,
        floor: float,
        held_out: HeldOut | None,
        random: np.random.RandomState,
        one_epoch: bool,
    ) -> None:
        """Train with solver="sgd" or "adam"."""
        rule, state, before = optimizer(self), None, 0
        earlier = self._continuation
        if earlier is not None and earlier.fits(rule, network.P):
            rule, state, before = earlier.lowered(rule), earlier.slots, earlier.updates
        drops: list[int] = []
        drawn = int(random.randint(2**31 - 1))
        plan = Plan(
            cost,
            Continued(rule, before) if before else rule,
            schedule(self, len(X), self.t_, drops),
            epochs=1 if one_epoch else self.max_iter,
            batch_size=self._rows_per_step(len(X)),
            sampling="shuffle" if self.shuffle else "sequential",
            clip_norm=self.clip_norm,
            monitor="cost" if held_out is None else self._metric(network, held_out),
            time_limit=self.time_limit,
            seed=int(np.random.SeedSequence([drawn, self.t_]).generate_state(1, np.uint64)[0] >> 1),
            engine=self.engine,
            threads=self.threads,
        )
        stopping = self._stopping if one_epoch else None
        stopping = stopping or Stopping(self.tol, self.n_iter_no_change)
        on_epoch = self._each_epoch(len(X), floor, stopping, rule.learning_rate, drops)
        if held_out is not None and self.validation_scores_ is None:
            self.validation_scores_, self.validation_loss_curve_ = [], []
        self.n_iter_ = 0
        given = None
        if held_out is not None:
            given = held_out.X, held_out.targets, np.ones(len(held_out.X)) if held_out.s is None else held_out.s
        run = network.train(plan, X, targets, sample_weight=s, validation=given, state=state, on_epoch=on_epoch)

        fallen = len(drops) + (earlier.drops if earlier is not None and state is not None else 0)
        self._continuation = Continuation(run.snapshot.slots, before + run.snapshot.step, fallen)
        self._stopping = stopping
        self.loss_ = self.loss_curve_[-1] if self.loss_curve_ else np.nan
        self.best_loss_ = None if self.early_stopping else min(self.loss_curve_, default=np.inf)
        self.best_validation_score_ = max(self.validation_scores_) if self.validation_scores_ else None
        if held_out is not None and not (self.early_stopping and not one_epoch):
            adopt(network, network.architecture, run.snapshot.theta)
        if one_epoch:
            self._watch_calls(network, stopping)
        if run.reason == "interrupted":
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if run.reason == "epochs" and not one_epoch:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _each_epoch(self, rows: int, floor: float, stopping: Stopping, rate: float, drops: list[int]) -> OnEpoch:
        """What happens after every epoch: curves, messages, callbacks, and scikit-learn's rules."""
        adaptive = self.solver == "sgd" and self.learning_rate == "adaptive"

        def on_epoch(row: Row) -> bool:
            self.n_iter_ += 1
            self.t_ += rows
            self.loss_curve_.append(row["train_cost"] - floor)
            score = -self.loss_curve_[-1]
            if self.verbose:
                print(f"Iteration {self.n_iter_}, loss = {self.loss_curve_[-1]:.8f}")
            if "valid_cost" in row and self.validation_scores_ is not None and self.validation_loss_curve_ is not None:
                self.validation_loss_curve_.append(row["valid_cost"] - floor)
                self.validation_scores_.append(-row.get("valid_negative_score", row["valid_cost"] - floor))
                score = self.validation_scores_[-1] if self.early_stopping else score
                if self.verbose:
                    print(f"Validation score: {self.validation_scores_[-1]:f}")
            done = self._call(row)
            if not stopping.stalls(score):
                return done
            what = "Validation score" if self.early_stopping else "Training loss"
            message = (
                f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
            )
            if adaptive and rate / FALL ** len(drops) > LEAST_RATE:
                drops.append(int(row["epoch"]))
                stopping.stale = 0
                message += f" Setting learning rate to {rate / FALL ** len(drops):f}"
            else:
                done = True
                message += " Learning rate too small. Stopping." if adaptive else " Stopping."
            if self.verbose:
                print(message)
            return done

        return on_epoch

    def _call(self, row: Row) -> bool:
        """Call every callback, and say whether one of them ends the training."""
        callbacks = [self.callbacks] if callable(self.callbacks) else list(self.callbacks or [])
        return True in [bool(callback(row)) for callback in callbacks]

    def _watch_calls(self, network: Network, stopping: Stopping) -> None:
        """Early stopping over calls of `partial_fit`: note the best one, and go back to it where they stall."""
        self.stalled_ = stopping.stale > self.n_iter_no_change
        if not (self.early_stopping and self.validation_scores_):
            return
        if self._best is None or self.validation_scores_[-1] > self._best[0]:
            self._best = self.validation_scores_[-1], network.theta.copy()
        if self.stalled_:
            adopt(network, network.architecture, self._best[1])

    def _minimise(self, network: Network, X: Array, targets: Array, s: Array, cost: Cost, floor: float) -> None:
        """Train with solver="lbfgs", which sees all rows at every step."""
        begun = time.perf_counter()

        def on_iteration(number: int, value: float) -> bool:
            self.loss_curve_.append(value - floor)
            if self.verbose:
                print(f"Iteration {number}, loss = {value - floor:.8f}")
            done = self._call({"epoch": number, "train_cost": value})
            return done or (self.time_limit is not None and time.perf_counter() - begun > self.time_limit)

        y = cost.targets("fit", targets, network.architecture.outputs, network.dtype)
        found = lbfgs(
            network.architecture,
            network.theta,
            Data(X, y, s),
            cost,
            max_iterations=self.max_iter,
            max_evaluations=self.max_fun,
            tolerance=self.tol,
            on_iteration=on_iteration,
        )
        adopt(network, network.architecture, found.theta)
        self.n_iter_, self.loss_, self._continuation = found.iterations, found.cost - floor, None
        if found.reason == "interrupted":
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if found.reason in ("iterations", "evaluations", "stuck"):
            more = f"\nIncrease the number of iterations (max_iter={self.max_iter}), or scale the data."
            warnings.warn(
                f"lbfgs failed to converge after {found.iterations} iteration(s): {found.message}{more}",
                ConvergenceWarning,
                stacklevel=4,
            )

    # -- prediction ----------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> Array:
        """Classes or numbers for X (N, n_0): (N,), or (N, k) of several labels or outputs."""
        return self._answer(self._outputs(X))

    def _outputs(self, X: Any) -> Array:
        """ŷ (N, n_L) of checked rows; sparse ones are made dense a block at a time."""
        check_is_fitted(self)
        if (known := getattr(self, "_known", None)) is not None:  # in an epoch's score
            rows, y_hat = known
            if X is not rows and not (np.shape(X) == rows.shape and np.array_equal(X, rows)):
                raise ParameterError(
                    f"scoring: expected predictions of the {len(rows)} validation rows as they are, "
                    f"got asked for other rows, of shape {np.shape(X)}. Choose among y and predictions instead."
                )
            return np.asarray(y_hat)
        X = validate_data(self, X, accept_sparse=SPARSE, reset=False)
        if not sparse.issparse(X):
            return self.network_.predict(X)
        rows = X.tocsr()
        blocks = range(0, rows.shape[0], PREDICT_ROWS)
        return np.concatenate([self.network_.predict(rows[k : k + PREDICT_ROWS].toarray()) for k in blocks])

    # -- weights -------------------------------------------------------------------------------------------------

    @property
    def coefs_(self) -> list[Array]:
        """The weights of every layer, (n_{l-1}, n_l) each: read-only views of those in `network_`, transposed.

        To assign the list, or one of its items, is to set the network's weights.
        """
        return Parts((self._fitted().W(n).T for n, _ in self._dense()), lambda k, W: self._put(k, W=np.transpose(W)))

    @coefs_.setter
    def coefs_(self, parts: Iterable[Any]) -> None:
        self._put_all("coefs_", [{"W": np.transpose(W)} for W in parts])

    @property
    def intercepts_(self) -> list[Array]:
        """The biases of every layer, (n_l,) each: read-only views of those in `network_`; see `coefs_`."""
        return Parts((self._fitted().b(n) for n, _ in self._dense()), lambda k, b: self._put(k, b=b))

    @intercepts_.setter
    def intercepts_(self, parts: Iterable[Any]) -> None:
        self._put_all("intercepts_", [{"b": b} for b in parts])

    def _fitted(self) -> Network:
        if "network_" not in vars(self):
            raise AttributeError(f"This {type(self).__name__} is not fitted yet; call fit first.")
        return self.network_

    def _dense(self) -> list[tuple[int, Dense]]:
        return dense_layers(self._fitted().architecture)

    def _put(self, place: int, **part: Any) -> None:
        self._fitted().set(self._dense()[place][0], **part)

    def _put_all(self, name: str, parts: Sequence[dict[str, Any]]) -> None:
        """Set a part of every layer, or, where one of them does not fit, of none."""
        network, dense = copy(self._fitted()), self._dense()
        if len(parts) != len(dense):
            raise ParameterError(f"{name}: expected {len(dense)} arrays, one for each layer, got {len(parts)}.")
        for (number, _), part in zip(dense, parts, strict=True):
            network.set(number, **part)
        self.network_ = network

    # -- inspection ----------------------------------------------------------------------------------------------

    def hidden(self, X: Any, layer: int | None = None) -> Any:
        """The values a of hidden layer 1, 2 … for X (N, n_0), (N, n_l); without a number those of all, in a list."""
        network, rows = self._inspected(X)
        with np.errstate(all="ignore"):
            a = forward(network.architecture, network.theta, rows, keep="all").a
        values = [a[number] for number, _ in dense_layers(network.architecture)[:-1]]
        if layer is None:
            return values
        if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 1 <= layer <= len(values):
            raise ParameterError(f"hidden: expected a hidden layer from 1 to {len(values)}, got {layer!r}.")
        return values[layer - 1]

    def input_gradients(self, X: Any) -> Array:
        """∂ŷ/∂x (N, n_L, n_0) of the network's outputs: how each would change with each feature of each row."""
        network, rows = self._inspected(X)
        gradients = network.jacobian(rows)
        assert isinstance(gradients, np.ndarray)
        return gradients

    def trace(self, X: Any, y: Any, sample_weight: Any = None) -> Trace:
        """`Network.trace` of these rows, with the loss and the penalty of the last fit."""
        return self.network_.trace(*self._problem(X, y), sample_weight=sample_weight, **self.cost_.options)

    def explain(self, X: Any, y: Any, what: Any, *place: Any, sample_weight: Any = None, **choices: Any) -> Derivation:
        """`Network.explain` of one number (what, layer, index), with the loss and the penalty of the last fit."""
        rows, targets = self._problem(X, y)
        options: dict[str, Any] = {**self.cost_.options, **choices}
        return self.network_.explain(rows, targets, what, *place, sample_weight=sample_weight, **options)

    def verify(self, X: Any, y: Any, sample_weight: Any = None, seed: int = 0) -> Any:
        """`Network.verify`: every formula of this network against independent witnesses, on these rows."""
        options: dict[str, Any] = dict(self.cost_.options)
        return self.network_.verify(*self._problem(X, y), sample_weight=sample_weight, seed=seed, **options)

    def _inspected(self, X: Any) -> tuple[Network, Array]:
        check_is_fitted(self)
        X = _dense(validate_data(self, X, accept_sparse=SPARSE, reset=False))
        return self.network_, X.astype(self.network_.dtype, copy=False)

    def _problem(self, X: Any, y: Any) -> tuple[Array, Array]:
        """Checked rows, and their targets as the network has them."""
        check_is_fitted(self)
        X, y = self._checked(X, y, reset=False)
        return _dense(X), self._targets(y, self.cost_.loss)

    # -- scikit-learn --------------------------------------------------------------------------------------------

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """An estimator with the settings of scikit-learn's own, and its weights if it is fitted.

        The optimizer's state does not come along, nor the penalty in `cost_`: scikit-learn keeps no number of rows.

        Raises:
            ParameterError: another kind of model.
        """
        return exchange.from_sklearn(cls, model)

    def to_sklearn(self) -> Any:
        """scikit-learn's own estimator with these settings, as far as it has them, and these weights.

        Raises:
            ParameterError: activations that it lacks, or different ones in different layers.
        """
        return exchange.to_sklearn(self)

    def __sklearn_is_fitted__(self) -> bool:
        return "network_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _dense(X: Any) -> Array:
    """X as a dense array, if it is not too large for one."""
    return dense(X, "Pass parts of its rows to partial_fit.")
