"""The public objects: `Network`, which holds an architecture and θ, and `Run`, what a training left behind."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import numpy.typing as npt

from . import files
from .arrays import Array, check_count, check_dtype, check_matrix, check_weights, frozen, read_array
from .core.architecture import Architecture, Values, chain, forward, predict
from .core.backward import backward, cost_value, gradient
from .core.cost import Cost, CostOptions, Penalty, make_cost
from .core.layers import Dense, Layer
from .counter import check_seed, checksum
from .engine.choice import EngineName, NotCompiledError, announced, choose, cores, missing, share
from .errors import DivergenceError, NotTrainedError, ParameterError, ShapeError
from .formulas.activations import Activation, sigmoid, softmax, step
from .formulas.aggregators import Aggregator
from .formulas.losses import Loss, check_fit
from .inspection import curvature, derivation, per_sample
from .inspection.collapse import collapse
from .inspection.graph import Graph, computation_graph
from .inspection.jacobians import LIMIT, CompactJacobian, Layout, Of, Wrt, jacobian
from .inspection.trace import Trace, trace
from .training.loop import (
    STOPPED,
    Data,
    OnEpoch,
    OnProgress,
    Plan,
    Row,
    Snapshot,
    Training,
    clip,
    first_snapshot,
    own,
    read_only,
    run_training,
)
from .training.metrics import Metric
from .training.optimizers import Optimizer, find_optimizer
from .training.schedules import Schedule, find_schedule

if TYPE_CHECKING:
    from .engine.compiled import Predictor
    from .inspection.verify import Report

Pair = tuple[npt.ArrayLike, npt.ArrayLike]
Triple = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]


@dataclass(frozen=True)
class Gradients:
    """The cost and its gradient at the present parameters.

    Attributes:
        cost: C.
        dC_dtheta: the flat gradient (P,).
        dC_dW, dC_db: by layer number, from 1; None where a layer has no W or no b.
    """

    cost: float
    dC_dtheta: Array
    dC_dW: dict[int, Array | None]
    dC_db: dict[int, Array | None]


@dataclass(frozen=True)
class Update:
    """The change of one parameter in one step, in parts that add up to it.

    Attributes:
        before, after: the parameter. rows (B,): the rows of X in the batch.
        samples (B,): each row's share. penalty, clipping, momentum, decay: the others.
    """

    before: float
    after: float
    rows: Array
    samples: Array
    penalty: float
    clipping: float
    momentum: float
    decay: float

    @property
    def change(self) -> float:
        """after − before."""
        return self.after - self.before

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return float(self.samples.sum()) + self.penalty + self.clipping + self.momentum + self.decay


@dataclass(frozen=True)
class Run:
    """What a training left behind.

    Attributes:
        history: one row for each epoch: epoch, step, train_cost, valid_cost, the monitored metric,
            learning_rate, seconds, rows_per_second.
        reason: why it ended: "epochs", "patience", "time", "steps", "callback", "interrupted", "diverged".
        best_epoch: the epoch whose parameters the network now has; 0 where it has those of the last step.
        best_score: the monitored score of that epoch, or the last training cost.
        snapshot: the state after the last step, from which `fit(..., resume=run.snapshot)` continues.
        plan: every setting of the run.
        starts: the best score of every random start; the best one was kept.
        engine: "array" or "compiled", what it ran on.
        notes: what happened on the way that its user should know, in sentences.
        training: the run's data and kept snapshots, with which `trace` re-creates its steps.
    """

    history: list[Row]
    reason: str
    best_epoch: int
    best_score: float
    snapshot: Snapshot
    plan: Plan
    starts: list[float] = field(default_factory=list)
    engine: str = "array"
    notes: tuple[str, ...] = ()
    training: Training | None = field(default=None, repr=False)

    def trace(self, step: int) -> Trace:
        """The trace of step 0, 1 …: its mini-batch with its dropout masks, at the parameters before its update.

        Raises:
            NotTrainedError: the run kept no snapshots (`fit(..., keep_every=…)`).
            ParameterError: the run has no such step.
        """
        return self._trace(self._before(step))

    def update(self, step: int, what: Literal["W", "b"], layer: int, index: tuple[int, ...] | int) -> Update:
        """How one parameter changed in a step, split into exact additive parts.

        Raises:
            NotTrainedError, ParameterError: see `trace`; or no such parameter.
        """
        past = self._before(step)
        t = self._trace(past)
        if what not in ("W", "b"):
            raise ParameterError(f"Run.update: expected 'W' or 'b', got {what!r}.")
        here = t[t.architecture.check_layer("Run.update", layer)]
        parameter = here.W if what == "W" else here.b
        place = index if isinstance(index, tuple) else (index,)
        if parameter is None:
            raise ParameterError(f"Run.update: expected a layer with {what}, got {t.architecture.describe(layer)}.")
        inside = len(place) == parameter.ndim and all(
            isinstance(k, int | np.integer) and not isinstance(k, bool) and 0 <= k < n
            for k, n in zip(place, parameter.shape, strict=True)
        )
        if not inside:
            raise ParameterError(
                f"Run.update: expected an index inside {what} of shape {parameter.shape}, got {index}."
            )
        at = past.architecture.places[layer - 1][what == "b"]
        assert at is not None
        flat = at.start + int(np.ravel_multi_index(place, parameter.shape))

        before = own(past.snapshot)  # which the step may change
        now = past.step(before.step)
        slots = tuple(before.slots.values())
        clipped = clip(t.dC_dtheta, past.plan.clip_norm)
        if not hasattr(past.plan.optimizer, "parts"):
            raise ParameterError(
                f"Run.update: expected an optimizer with a method `parts`, as Adam has, got {past.plan.optimizer!r}."
            )
        parts = past.plan.optimizer.parts(before.theta, clipped, past.learning_rates(now), slots, before.step + 1)
        with np.errstate(all="ignore"):
            past.advance(before.step + 1)
        shares = getattr(here.layer.per_sample(here.dC_dz, here.a_prev), what)[(slice(None), *place)]
        rate = float(parts.per_gradient[flat])
        gradient = float(t.dC_dtheta[flat])
        slope = np.zeros_like(t.theta)
        past.plan.cost.penalty.add_gradient(past.architecture, t.theta, slope)
        return Update(
            before=float(before.theta[flat]),
            after=float(past.snapshot.theta[flat]),
            rows=now.rows,
            samples=rate * shares,
            penalty=rate * float(slope[flat]),
            clipping=rate * (float(clipped[flat]) - gradient),
            momentum=float(parts.momentum[flat]),
            decay=float(parts.decay[flat]),
        )

    def _trace(self, past: Training) -> Trace:
        """The trace of the step that a re-created training stands before."""
        now = past.step(past.snapshot.step)
        X, y, s = (part[now.rows] for part in past.data)
        with np.errstate(all="ignore"):
            return trace(past.architecture, past.snapshot.theta, X, y, past.plan.cost, s, past.mean_weight, now.masks)

    def _before(self, step: int) -> Training:
        if self.training is None:
            raise NotTrainedError(
                "Run: expected a run that kept snapshots, got one without. Train with fit(..., keep_every=100)."
            )
        return self.training.before(step)

    def __repr__(self) -> str:
        kept = f", best epoch {self.best_epoch}" if self.best_epoch else ""
        return f"Run({len(self.history)} epochs, ended by {self.reason}{kept}, score {self.best_score:.6g})"


class Network:
    """A dense network: an architecture with its parameters.

    Args:
        inputs: n_0, the number of input columns.
        layers: the layers 1 … L, such as [Dense(3, "tanh"), Dense(1)].
        seed: of the starting parameters, and by default of everything random in training.
        dtype: "float64" or "float32".

    Raises:
        ParameterError, ShapeError: unknown names, wrong settings, or sizes that do not chain.
    """

    def __init__(
        self, inputs: int, layers: Sequence[Layer], *, seed: int = 0, dtype: npt.DTypeLike = "float64"
    ) -> None:
        self.dtype = check_dtype("Network", dtype)
        self.seed = check_seed("Network", seed)
        self.architecture: Architecture = chain("Network", inputs, layers)
        self._theta: Array = self.architecture.start(self.seed, self.dtype)
        self._predictor: Predictor | None = None

    # -- parameters ---------------------------------------------------------------------------------------------

    @property
    def theta(self) -> Array:
        """All parameters θ (P,), layer by layer, W before b; a read-only view. `set` changes them."""
        return frozen(self._theta)

    @property
    def P(self) -> int:
        """The number of parameters."""
        return self.architecture.P

    def W(self, layer: int) -> Array:
        """W of a layer (1 … L): (n_l, n_{l-1}) of a dense layer; a read-only view.

        Raises:
            ParameterError: no such layer, or it has no W.
        """
        return self._part(layer, "W")

    def b(self, layer: int) -> Array:
        """b (n_l,) of a layer (1 … L); a read-only view.

        Raises:
            ParameterError: no such layer, or it has no b.
        """
        return self._part(layer, "b")

    def _part(self, layer: int, name: Literal["W", "b"]) -> Array:
        number = self.architecture.check_layer("Network", layer)
        part: Array | None = getattr(self.architecture.views(self.theta)[number - 1], name)
        if part is None:
            raise ParameterError(f"Network: expected a layer with a {name}, got {self.architecture.describe(layer)}.")
        return part

    def set(self, layer: int, W: npt.ArrayLike | None = None, b: npt.ArrayLike | None = None) -> Network:
        """Give a layer (1 … L) other parameters; returns the network itself.

        Raises:
            ShapeError, DataError: another shape, or not finite numbers; nothing is changed then.
        """
        new = self._theta.copy()
        for name, value in (("W", W), ("b", b)):
            if value is None:
                continue
            shape = self._part(layer, name).shape  # type: ignore[arg-type]
            given = read_array("Network.set", name, value)
            if given.shape != shape:
                raise ShapeError(
                    f"Network.set, {self.architecture.describe(layer)}: expected {name} of shape {shape}, "
                    f"got {given.shape}."
                )
            checked = check_matrix("Network.set", name, given.reshape(shape[0], -1), None, self.dtype)
            getattr(self.architecture.views(new)[layer - 1], name)[...] = checked.reshape(shape)
        self._theta = new
        return self

    # -- values -------------------------------------------------------------------------------------------------

    def predict(self, X: npt.ArrayLike) -> Array:
        """ŷ (N, n_L) for X (N, n_0).

        Raises:
            ShapeError, DataError: another number of columns, or not finite numbers.
        """
        if self._predictor is not None and self._predictor.takes(X):
            _, y_hat, finite = self._predictor(self._theta, X)
            if finite:
                return y_hat
        return self._forward("predict", X).y_hat

    def _forward(self, where: str, X: npt.ArrayLike) -> Values:
        """The last z and ŷ of checked rows."""
        rows = check_matrix(where, "X", X, self.architecture.inputs, self.dtype)
        if self._predictor is not None:
            logits, y_hat, _ = self._predictor(self._theta, rows, logits=True)
            return Values([logits], [y_hat])
        with np.errstate(all="ignore"):
            return predict(self.architecture, self._theta, rows)

    def compile(self, threads: int | None = None) -> Network:
        """From now on, run `predict`, `decide` and `per_sample_gradients` on the compiled engine, as after a `fit` on it.

        A loss or an aggregator of one's own that is no loop over numbers still has its gradients on the array engine.

        Args:
            threads: how many share the rows of a large call; by default as many as there are cores.

        Returns:
            the network.

        Raises:
            ParameterError: the compiled engine cannot be had here, or the network cannot be compiled.
        """
        if lacking := missing():
            raise ParameterError(f"compile: expected the compiled engine, but {lacking}. Install it.")
        from .engine.compiled import Predictor

        try:
            with self._announced("predict"):
                self._predictor = Predictor(self.architecture, self.dtype, threads or cores())
        except NotCompiledError as refusal:
            raise ParameterError(f"compile: expected a network of loops over numbers, but {refusal}.") from None
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Everything but compiled code, which belongs to one process."""
        return self.__dict__ | {"_predictor": None}

    def decide(self, X: npt.ArrayLike) -> Array:
        """Hard decisions from a classifying output (003 (4), (6)): labels (N,) of a softmax, else 0 or 1 (N, n_L).

        Raises:
            ParameterError: the output is neither softmax, sigmoid nor step.
        """
        g = self.architecture.output_activation
        if not any(g.same(known) for known in (softmax, sigmoid, step)):
            raise ParameterError(f"decide: expected a softmax, sigmoid or step output, got {g}. Use predict.")
        z = self._forward("decide", X).logits
        return z.argmax(axis=1) if g.same(softmax) else (z >= 0).astype(np.int64)

    def logits(self, X: npt.ArrayLike) -> Array:
        """z (N, n_L) of the last layer, before its activation; errors are those of `predict`."""
        return self._forward("logits", X).logits

    def _data(self, where: str, cost: Cost, X: Any, y: Any, s: Any) -> Data:
        X = check_matrix(where, "X", X, self.architecture.inputs, self.dtype)
        y = cost.targets(where, y, self.architecture.outputs, self.dtype)
        if len(y) != len(X):
            raise ShapeError(f"{where}: expected X and y with as many rows, got {len(X)} and {len(y)}.")
        return Data(X, y, check_weights(where, s, len(X)))

    def _costed(self, where: str, X: Any, y: Any, s: Any, options: CostOptions) -> tuple[Cost, Data]:
        cost = make_cost(where, self.architecture.output_activation, **options)
        return cost, self._data(where, cost, X, y, s)

    def cost(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        **options: Unpack[CostOptions],
    ) -> float:
        """C = φ(L₁ … L_N) + R(θ) at the present parameters; arguments and errors are those of `fit`."""
        cost, data = self._costed("cost", X, y, sample_weight, options)
        with np.errstate(all="ignore"):
            return float(cost_value(self.architecture, self._theta, data.X, data.y, cost, data.s))

    def gradient(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        **options: Unpack[CostOptions],
    ) -> Gradients:
        """C and ∂C/∂θ at the present parameters; arguments and errors are those of `fit`."""
        cost, data = self._costed("gradient", X, y, sample_weight, options)
        with np.errstate(all="ignore"):
            G = gradient(self.architecture, self._theta, *data[:2], cost, data.s, float(data.s.mean()))
        parts = dict(enumerate(self.architecture.views(G.theta), 1))
        return Gradients(float(G.cost), G.theta, {n: p.W for n, p in parts.items()}, {n: p.b for n, p in parts.items()})

    # -- inspection ---------------------------------------------------------------------------------------------

    def trace(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        **options: Unpack[CostOptions],
    ) -> Trace:
        """Everything that one forward and one backward pass compute; arguments and errors are those of `fit`."""
        cost, data = self._costed("trace", X, y, sample_weight, options)
        with np.errstate(all="ignore"):
            return trace(self.architecture, self._theta.copy(), *data[:2], cost, data.s, float(data.s.mean()))

    def jacobian(
        self,
        X: npt.ArrayLike,
        of: Of = "a",
        wrt: Wrt = "x",
        layer: int | None = None,
        of_layer: int | None = None,
        *,
        full: bool = False,
        layout: Layout = "numerator",
        limit: int = LIMIT,
    ) -> Array | CompactJacobian:
        """∂ŷ/∂x (N, n_L, n_0), or the Jacobian of any layer by any other or by its parameters.

        Shapes and errors are those of `inspection.jacobians.jacobian`.
        """
        X = check_matrix("jacobian", "X", X, self.architecture.inputs, self.dtype)
        with np.errstate(all="ignore"):
            values = forward(self.architecture, self._theta, X, keep="all")
            return jacobian(
                self.architecture, self._theta, values, of, wrt, layer, of_layer, full=full, layout=layout, limit=limit
            )

    def per_sample_gradients(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        out: Array | None = None,
        **options: Unpack[CostOptions],
    ) -> Array:
        """Each sample's part of ∂C/∂θ (N, P), without the penalty; with aggregate="sum" those of the losses themselves.

        They are written into `out` (N, P) if it is given, which spares fresh memory. See `compile` for speed.

        Raises:
            ParameterError: it would take more than 1 GiB.
            ShapeError: `out` does not fit. Else as `fit`.
        """
        cost, data = self._costed("per-sample gradients", X, y, sample_weight, options)
        into = per_sample.room(self.architecture, len(data.X), self.dtype, out=out)
        if self._predictor is not None:
            with contextlib.suppress(NotCompiledError), self._announced("per sample", cost.loss, cost.aggregate):
                return self._predictor.per_sample_gradients(self._theta, cost, data, into, fresh=out is None)
        return per_sample.gradients(self.architecture, *self._deltas(cost, data), into)

    def per_sample_norms(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        **options: Unpack[CostOptions],
    ) -> Array:
        """The Euclidean norms (N,) of the rows of `per_sample_gradients`, without building them."""
        given = self._costed("per-sample norms", X, y, sample_weight, options)
        return per_sample.norms(self.architecture, *self._deltas(*given))

    def _deltas(self, cost: Cost, data: Data) -> tuple[list[Array], list[Array]]:
        """δ and a_prev of the layers 1 … L."""
        with np.errstate(all="ignore"):
            values = forward(self.architecture, self._theta, data.X, keep="all")
            mean_weight = float(data.s.mean())
            G = backward(self.architecture, self._theta, values, data.y, cost, data.s, mean_weight, keep="deltas")
        return [d for d in G.dC_dz[1:] if d is not None], [a for a in values.a[:-1] if a is not None]

    def explain(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        what: derivation.What,
        layer: int | None = None,
        index: tuple[int, ...] | int | None = None,
        *,
        sample: int | None = None,
        form: derivation.Form = "row",
        layout: Layout = "denominator",
        digits: int = 6,
        sample_weight: npt.ArrayLike | None = None,
        **options: Unpack[CostOptions],
    ) -> derivation.Derivation:
        """The derivation of one number, with this network's numbers; see `inspection.derivation.explain`.

        Raises:
            ParameterError: an index outside its layer, or a derivative that does not exist. Else as `fit`.
        """
        t = self.trace(X, y, sample_weight=sample_weight, **options)
        return derivation.explain(t, what, layer, index, sample=sample, form=form, layout=layout, digits=digits)

    def collapse(self) -> Network:
        """The same function with every stack of affine layers written as one dense layer (004, appendix A)."""
        merged = collapse(self.architecture, self._theta)
        network = Network(self.architecture.inputs, [dense for dense, _, _ in merged], seed=self.seed, dtype=self.dtype)
        for number, (_, W, b) in enumerate(merged, 1):
            network.set(number, W=W, b=b)
        return network

    def graph(self, loss: Loss | str | None = None) -> Graph:
        """The computation graph of the network and a loss, as data with `dot()` and `svg()` (003 §3, figure 1).

        Raises:
            ParameterError: an unknown loss, or one that does not fit the output.
        """
        cost = make_cost("graph", self.architecture.output_activation, loss=loss)
        return computation_graph(self.architecture, cost.loss)

    def curvature_product(
        self,
        direction: npt.ArrayLike,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        kind: curvature.Kind = "hessian",
        sample_weight: npt.ArrayLike | None = None,
        **options: Unpack[CostOptions],
    ) -> Array:
        """H v (P,) with the cost's Hessian, or its Gauss-Newton matrix (`kind="gauss_newton"`), for a v (P,).

        Raises:
            ShapeError: the direction is not of length P.
            ParameterError: another kind. Else as `fit`.
        """
        if kind not in ("hessian", "gauss_newton"):
            raise ParameterError(f"curvature_product: expected kind 'hessian' or 'gauss_newton', got {kind!r}.")
        v = check_matrix("curvature_product", "direction", direction, 1, self.dtype)[:, 0]
        if len(v) != self.P:
            raise ShapeError(f"curvature_product: expected a direction of length {self.P}, got {len(v)}.")
        cost, data = self._costed("curvature_product", X, y, sample_weight, options)
        with np.errstate(all="ignore"):
            return curvature.product(
                self.architecture, self._theta, v, *data[:2], cost, data.s, float(data.s.mean()), kind=kind
            )

    def verify(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        seed: int = 0,
        **options: Unpack[CostOptions],
    ) -> Report:
        """Every factor of the gradient against independent witnesses; arguments and errors are those of `fit`."""
        cost, data = self._costed("verify", X, y, sample_weight, options)
        from .inspection.verify import verify  # large, and seldom needed

        return verify(self.architecture, self._theta, *data[:2], cost, data.s, float(data.s.mean()), seed)

    # -- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        loss: Loss | str | None = None,
        aggregate: Aggregator | str = "mean",
        penalty: Penalty | float | None = None,
        average_outputs: bool = False,
        label_smoothing: float = 0.0,
        sample_weight: npt.ArrayLike | None = None,
        validation: Pair | Triple | None = None,
        optimizer: Optimizer | str = "adam",
        schedule: Schedule | str = "constant",
        epochs: int = 100,
        batch_size: int | None = 32,
        sampling: str = "shuffle",
        drop_last: bool = False,
        clip_norm: float | None = None,
        monitor: str | Metric = "cost",
        patience: int | None = None,
        tolerance: float = 0.0,
        time_limit: float | None = None,
        max_steps: int | None = None,
        starts: int = 1,
        seed: int | None = None,
        resume: Snapshot | None = None,
        keep_every: int | None = None,
        engine: str = "auto",
        threads: int | None = None,
        on_epoch: OnEpoch | None = None,
        on_progress: OnProgress | None = None,
    ) -> Run:
        """Train, and keep the best epoch where there is a validation set, else the last.

        Args:
            X, y: (N, n_0) and targets (N, n_L), (N,) for one output, or labels 0 … K − 1 for a categorical loss.
            loss: a name or record; by default it follows from the output activation.
            aggregate: φ: "mean", "sum", "tilted(t)", "cvar(share)" or "max".
            penalty: a `Penalty`, or a number λ for (λ/2)‖W‖².
            average_outputs: a sample's loss is the mean over its outputs instead of their sum.
            label_smoothing: ε in [0, 1), for cross-entropies.
            sample_weight: (N,), at least 0.
            validation: (X, y) or (X, y, weights).
            optimizer, schedule: records or names; `schedule` multiplies the optimizer's learning rate.
            epochs … max_steps: see `Plan`.
            starts: random starts, of which the best is kept: the present parameters, and `starts` − 1 new ones.
            seed: of shuffles and dropout; that of the network by default.
            resume: continue from this snapshot; data and settings must be those of its run. With another monitor or other
                validation rows epochs are compared anew.
            keep_every: keep a snapshot before every so many steps, for `Run.trace` and `Run.update`.
            engine: "array", "compiled", or "auto", which compiles where training would take seconds; what cannot be
                compiled runs on the array engine, and a message says so.
            threads: how many share a compiled step; by default as many as there are cores where steps are long enough.
            on_epoch, on_progress: see `training.loop.run_training`.

        Raises:
            ParameterError, ShapeError, DataError: something does not fit; nothing has been changed.
            DivergenceError: a number is not finite. The network keeps the best epoch so far, or the last finite
                step (or what it had before, where an update of the compiled engine overflows), and `error.run` holds the run.
        """
        plan = Plan(
            cost=make_cost(
                "fit",
                self.architecture.output_activation,
                loss=loss,
                aggregate=aggregate,
                penalty=penalty,
                average_outputs=average_outputs,
                label_smoothing=label_smoothing,
            ),
            optimizer=find_optimizer("fit, optimizer", optimizer),
            schedule=find_schedule("fit, schedule", schedule),
            epochs=epochs,
            batch_size=batch_size,
            sampling=sampling,
            drop_last=drop_last,
            clip_norm=clip_norm,
            monitor=monitor,
            patience=patience,
            tolerance=tolerance,
            time_limit=time_limit,
            max_steps=max_steps,
            seed=self.seed if seed is None else check_seed("fit", seed),
            engine=engine,
            threads=threads,
        )
        return self.train(
            plan,
            X,
            y,
            sample_weight=sample_weight,
            validation=validation,
            starts=starts,
            resume=resume,
            keep_every=keep_every,
            on_epoch=on_epoch,
            on_progress=on_progress,
        )

    def train(
        self,
        plan: Plan,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        validation: Pair | Triple | None = None,
        starts: int = 1,
        resume: Snapshot | None = None,
        state: Mapping[str, Array] | None = None,
        keep_every: int | None = None,
        on_epoch: OnEpoch | None = None,
        on_progress: OnProgress | None = None,
    ) -> Run:
        """What `fit` does, with its settings gathered in a plan, such as that of an earlier run (`run.plan`).

        Arguments and errors are those of `fit`. `state` is the optimizer's state with which a new run begins, such as
        `run.snapshot.slots` of one on other rows; `training.optimizers.Continued` counts the updates on.
        """
        check_fit("fit", self.architecture.output_activation, plan.cost.loss)
        data = self._data("fit", plan.cost, X, y, sample_weight)
        held_out = None
        if validation is not None:
            if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
                raise ParameterError("fit: expected validation as (X, y) or (X, y, weights), got something else.")
            held_out = self._data("fit, validation", plan.cost, *validation, *([None] * (3 - len(validation))))
        if plan.monitor != "cost" and held_out is None:
            raise ParameterError(f"fit: expected a validation set with monitor={plan.monitor!r}, got none.")
        check_count("fit", "starts", starts)
        if resume is not None and not isinstance(resume, Snapshot):
            raise ParameterError(f"fit, resume: expected a snapshot such as run.snapshot, got {resume!r}.")
        if state is not None and (resume is not None or starts > 1):
            raise ParameterError("fit: expected neither resume nor starts with the optimizer's state, got one of them.")
        if resume is not None and starts > 1:
            raise ParameterError("fit: expected starts=1 with resume, got more. A snapshot belongs to one start.")
        for name, function in (("on_epoch", on_epoch), ("on_progress", on_progress)):
            if function is not None and not callable(function):
                raise ParameterError(f"fit, {name}: expected a function, got {function!r:.40}.")
        if keep_every is not None:
            check_count("fit", "keep_every", keep_every)
            # A step is re-created from the data, which the caller may change later.
            data = Data(*(np.array(part) for part in data))
        B, steps = plan.rows_per_step(len(data.X)), plan.steps(len(data.X))
        wanted = resume.engine if resume is not None and plan.engine == "auto" else plan.engine
        engine: EngineName = choose("fit", wanted, self.architecture, starts * steps, B)
        threads = share(plan.threads, self.architecture, B)
        given = (plan, data, held_out, starts, resume, state, keep_every)
        try:
            trainings = self._trainings(engine, threads, *given)
        except NotCompiledError as refusal:
            if plan.engine == "compiled":
                logging.getLogger("chainrule").warning("fit: training on the array engine, as %s.", refusal)
            engine = "array"
            trainings = self._trainings(engine, threads, *given)

        runs: list[Run] = []
        diverged: DivergenceError | None = None
        for training in trainings:
            if runs:  # the time limit holds for all starts together
                training.snapshot = replace(training.snapshot, seconds=runs[-1].snapshot.seconds)
            try:
                reason = run_training(training, on_epoch, on_progress)
            except DivergenceError as error:
                diverged, reason = error, "diverged"
            runs.append(_finished(training, reason))
            if reason in STOPPED:
                break
        sound = [run for run in runs if run.reason != "diverged"] or runs
        best = min(sound, key=lambda run: run.best_score)
        reason = runs[-1].reason if runs[-1].reason in STOPPED else best.reason
        kept = best.snapshot.best_theta if best.best_epoch else best.snapshot.theta
        assert kept is not None
        self._theta = kept  # which the run shares, read-only; a copy would be a thirtieth of a short fit
        starts_made = [run.best_score for run in runs]
        best = replace(best, starts=starts_made, reason=reason, snapshot=read_only(best.snapshot))
        if (compiled := trainings[0].compiled) is not None:
            self._predictor = compiled.predictor
        if best.reason == "diverged" and diverged is not None:
            diverged.run = best
            raise diverged
        return best

    def _check_start(self, theta: Array) -> None:
        weights = [
            p.W
            for layer, p in zip(self.architecture.layers, self.architecture.views(theta), strict=True)
            if isinstance(layer, Dense) and p.W is not None
        ]
        if len(weights) > 1 and not any(W.any() for W in weights):
            raise ParameterError(
                "fit: expected some weight other than 0 in a network with a hidden layer, got all zero. All units of "
                "a layer would get the same gradient and stay equal (symmetry). Start from random weights."
            )

    def _trainings(
        self,
        engine: EngineName,
        threads: int,
        plan: Plan,
        data: Data,
        held_out: Data | None,
        starts: int,
        resume: Snapshot | None,
        state: Mapping[str, Array] | None,
        keep_every: int | None,
    ) -> list[Training]:
        """The trainings of all starts, ready to run.

        Raises:
            NotCompiledError: the compiled engine cannot run them.
        """
        trainings = []
        judge = plan.judge(held_out)
        earlier = self._predictor if engine == "compiled" else None
        predictor = earlier if earlier is not None and earlier.threads == threads and earlier.lasting else None
        records = plan.cost.loss, plan.cost.aggregate, type(plan.optimizer)
        with contextlib.nullcontext() if engine == "array" else self._announced("fit", *records):
            for k in range(starts):
                own_plan = replace(plan, start=k if resume is None else resume.start)
                identity = self._identity(own_plan, data, engine, threads)
                theta = self._theta if k == 0 else self.architecture.start(self.seed, self.dtype, start=k)
                if resume is None:
                    self._check_start(theta)
                    snapshot = first_snapshot(identity, k, theta, own_plan.optimizer, state)
                else:
                    theta = resume.theta
                    snapshot = own(self._checked(resume, own_plan, identity))
                    if snapshot.judge != judge:
                        snapshot = replace(
                            snapshot, best_theta=None, best_epoch=0, best_score=np.inf, reference=np.inf, stale=0
                        )
                snapshot = replace(snapshot, judge=judge)
                parts = (self.architecture, data, held_out, own_plan, snapshot, engine, threads)
                training = Training(*parts, predictor=predictor, keep_every=keep_every, begun=theta)
                if training.compiled is not None:
                    predictor = training.compiled.predictor
                trainings.append(training)
        return trainings

    def _announced(self, *kind: Hashable) -> contextlib.AbstractContextManager[None]:
        """`announced` for the compilation of some kind for this network."""
        return announced(
            *kind, self.dtype.name, self.architecture.outputs, *(layer.g for layer in self.architecture.layers)
        )

    def _identity(self, plan: Plan, data: Data, engine: str, threads: int) -> str:
        """Whatever decides the bits of a run, as text: plan, network, data and engine."""
        network = "; ".join(map(repr, self.architecture.layers))
        computed = "" if engine == "array" else f", engine=compiled on {threads}"
        return f"{plan.identity(len(data.X))}, network=[{network}], data={checksum(data):08x}{computed}"

    def _checked(self, snapshot: Snapshot, plan: Plan, identity: str) -> Snapshot:
        if snapshot.theta.shape != (self.P,) or snapshot.theta.dtype != self.dtype:
            raise ShapeError(
                f"fit, resume: expected a snapshot of {self.P} parameters in {self.dtype}, "
                f"got {snapshot.theta.size} in {snapshot.theta.dtype}."
            )
        if snapshot.identity != identity:
            raise ParameterError(
                f"fit, resume: expected the settings, network and data of the run, {snapshot.identity}; got {identity}. "
                "Continue with the same ones."
            )
        slots = [snapshot.slots.get(name, np.empty(0)) for name in plan.optimizer.slots]
        keys = {"epoch", "step", "train_cost", "learning_rate"}
        if (
            set(snapshot.slots) != set(plan.optimizer.slots)
            or not all(slot.shape == (self.P,) and slot.dtype == self.dtype for slot in slots)
            or not all(keys <= row.keys() for row in snapshot.history)
            or snapshot.step < 0
        ):
            raise ParameterError("fit, resume: expected a snapshot as a run left it, got one that was changed.")
        return snapshot

    # -- files and text -----------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to one safetensors file, as a whole or not at all.

        Raises:
            OutputError: it could not be written; what was there before is untouched.
        """
        document = {"network": files.describe_architecture(self.architecture), "seed": self.seed}
        files.write_model(path, "network", {"theta": self._theta}, document)

    @staticmethod
    def load(path: str | os.PathLike[str], activations: Iterable[Activation] = ()) -> Network:
        """Read a network; activations of one's own are passed in again, as files hold no code.

        Raises:
            ModelFileError: missing, damaged, or not a network.
        """
        arrays, document = files.read_model(path, "network")
        return files.strictly(path, lambda: Network.rebuild(document, arrays["theta"], activations))

    @staticmethod
    def rebuild(document: Any, theta: Array, activations: Iterable[Activation] = ()) -> Network:
        """A network from its description in a model file, and θ (P,)."""
        network = object.__new__(Network)
        network.dtype = check_dtype("model file", theta.dtype)
        network.seed = check_seed("model file", document["seed"])
        network.architecture = files.build_architecture(document["network"], activations)
        if theta.shape != (network.P,):
            raise ShapeError(f"expected {network.P} parameters, got {theta.shape}.")
        network._predictor = None
        network._theta = check_matrix("model file", "theta", theta, 1, network.dtype).reshape(-1)
        return network

    def summary(self) -> list[dict[str, Any]]:
        """One row for each layer: number, layer, output shape, shapes of W and b, parameter count."""
        rows = []
        for number, layer in enumerate(self.architecture.layers, 1):
            shapes = [s for s in (layer.W_shape, layer.b_shape) if s is not None]
            rows.append(
                {
                    "number": number,
                    "layer": str(layer),
                    "output": f"(N, {layer.outputs})",
                    "W": layer.W_shape,
                    "b": layer.b_shape,
                    "parameters": int(sum(np.prod(shape) for shape in shapes)),
                }
            )
        return rows

    def _lines(self) -> Iterator[str]:
        yield f"Network: {self.architecture.inputs} inputs, {self.P:,} parameters, {self.dtype}"
        for row in self.summary():
            shapes = ", ".join(f"{name} {row[name]}" for name in ("W", "b") if row[name] is not None)
            yield f"  {row['number']}  {row['layer']:<32} {shapes:<28} {row['parameters']:>10,}"

    def __repr__(self) -> str:
        return "\n".join(self._lines())


def _finished(training: Training, reason: str) -> Run:
    """The run that a training left behind."""
    last = training.snapshot
    costs = [row["train_cost"] for row in last.history] or [float("inf")]
    best_epoch = last.best_epoch if training.validation is not None else 0
    score = last.best_score if best_epoch else costs[-1]
    return Run(
        list(last.history),
        reason,
        best_epoch,
        score,
        last,
        training.plan,
        engine=training.engine,
        training=training if training.kept else None,
    )
