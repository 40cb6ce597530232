"""The training loop: batches, gradient, clipping, update; stopping rules; snapshots (`mathematics` §6).

Every number of step t is a function of (data, plan, snapshot before t), and random numbers come from counters,
so a run that is continued from a snapshot gives the same bits as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays import Array, aligned, all_finite, check_count, check_number, frozen
from ..core.architecture import Architecture, Masks, Values, forward, predict
from ..core.backward import Gradient, gradient
from ..core.cost import Cost
from ..counter import Purpose, checksum, generator, permutation
from ..errors import DivergenceError, NotTrainedError, ParameterError, ShapeError, unknown_name
from ..formulas.losses import CATALOGUE as LOSSES
from ..formulas.record import Record
from .metrics import Metric, find_metric
from .optimizers import Optimizer, update
from .schedules import Schedule, constant

SAMPLINGS = ("shuffle", "sequential", "replacement")
ORDERED = 2**17  # rows whose order is drawn at a time, where one block of compiled steps has several epochs
BLOCK_SECONDS = 0.1  # about so long compiled steps run before Ctrl-C, limits and the progress bar have their turn

Row = dict[str, float]


class Data(NamedTuple):
    """Checked arrays: X (N, n_0), y (N, n_L) in the network's dtype, weights s (N,) in float64."""

    X: Array
    y: Array
    s: Array


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a training run does, besides network and data.

    Attributes:
        cost, optimizer, schedule: the records.
        epochs: passes over the rows.
        batch_size: rows in one step; None is all of them.
        sampling: "shuffle" (a new order every epoch), "sequential" (fixed order), "replacement" (each row drawn
            at random, with replacement; 002's pseudo-code with batch_size=1).
        drop_last: leave out the short batch at the end of an epoch.
        clip_norm: scale the gradient down to this Euclidean norm where it is larger.
        monitor: what decides the best epoch on the validation set: "cost", "error_rate", "brier", "rmse", "mae", or
            a function (loss, ŷ, y, s) → number, of which less is better.
        patience, tolerance: stop when the score has not fallen by more than `tolerance` for `patience` epochs.
            The score is the monitored one, or the training cost without a validation set.
        time_limit: seconds, of all starts together; max_steps: updates, of each start. Both may end inside an epoch.
        seed, start: of shuffles and dropout masks; `start` counts the random starts of a fit.
        engine: "array" (NumPy), "compiled", or "auto": compiled where training would take seconds. threads: how many
            share a step of the compiled engine; None: as many as there are cores, where steps are long enough.
    """

    cost: Cost
    optimizer: Optimizer
    schedule: Schedule
    epochs: int = 100
    batch_size: int | None = 32
    sampling: str = "shuffle"
    drop_last: bool = False
    clip_norm: float | None = None
    monitor: str | Metric = "cost"
    patience: int | None = None
    tolerance: float = 0.0
    time_limit: float | None = None
    max_steps: int | None = None
    seed: int = 0
    start: int = 0
    engine: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "max_steps", "threads"):
            value = getattr(self, name)
            if value is not None or name == "epochs":
                check_count("fit", name, value)
        for name in ("clip_norm", "time_limit"):
            if getattr(self, name) is not None:
                check_number("fit", name, getattr(self, name), above=True)
        check_number("fit", "tolerance", self.tolerance)
        if self.sampling not in SAMPLINGS:
            raise unknown_name("fit, sampling", self.sampling, SAMPLINGS)
        find_metric("fit, monitor", self.monitor, self.cost.loss)

    @property
    def monitored(self) -> str:
        """The name of what is monitored; a function called cost is a metric, and not the cost."""
        if isinstance(self.monitor, str):
            return self.monitor
        name: str = getattr(self.monitor, "__name__", "metric")
        return "metric" if name == "cost" else name

    def judge(self, validation: Data | None) -> str:
        """By what epochs are compared, as text: the monitor and the validation rows."""
        if validation is None:
            return "train_cost"
        function = getattr(self.monitor, "__qualname__", "")
        return f"{self.monitored} {function}, validation={checksum(validation):08x}"

    def rows_per_step(self, rows: int) -> int:
        """B, at most N."""
        return min(self.batch_size or rows, rows)

    def steps_per_epoch(self, rows: int) -> int:
        """Updates in one epoch of `rows` rows."""
        B = self.rows_per_step(rows)
        return rows // B if self.drop_last else -(-rows // B)

    def steps(self, rows: int) -> int:
        """Updates in all epochs of `rows` rows."""
        return self.epochs * self.steps_per_epoch(rows)

    def identity(self, rows: int) -> str:
        """Whatever decides the bits of a step, as text; stopping rules may differ between a run and its sequel."""
        free = {"monitor", "patience", "tolerance", "time_limit", "max_steps", "engine", "threads"}
        if not self.schedule.planned:
            free.add("epochs")
        decisive = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}
        return ", ".join(f"{name}={_text(value)}" for name, value in decisive.items()) + f", rows={rows}"

    def order(self, epoch: int, rows: int, permutation: Callable[..., Array] = permutation) -> Array:
        """The row numbers (N,) of an epoch (0, 1 …), in the order in which batches take them."""
        if self.sampling == "sequential":
            return np.arange(rows)
        key = (self.seed, Purpose.ORDER, epoch, self.start)
        return generator(*key).integers(0, rows, rows) if self.sampling == "replacement" else permutation(rows, *key)


def _text(value: object) -> str:
    """A setting as text, the same for 1, 1.0 and np.float64(1)."""
    if isinstance(value, Record):
        return value.spec
    if is_dataclass(value):
        inner = ", ".join(f"{f.name}={_text(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, Real) and not isinstance(value, bool):
        return repr(float(value)).removesuffix(".0")
    if type(value).__repr__ is object.__repr__:  # it has an address in it, which changes from process to process
        return f"{type(value).__qualname__}({', '.join(f'{k}={_text(v)}' for k, v in sorted(vars(value).items()))})"
    return repr(value)


@dataclass(frozen=True)
class Snapshot:
    """The whole state of a run between two steps; a run continues from it with the same bits.

    Attributes:
        identity: of the run that it belongs to: plan, network and data. start: the number of its random start.
        theta: θ (P,). slots: the optimizer's state, vectors (P,) by name. That of a run that has ended is read-only.
        step: updates made so far.
        cost_sum: of the steps of the epoch that is under way, each with its share.
        history: one row of numbers for every finished epoch.
        best_theta, best_epoch, best_score: of the best epoch so far; epoch 0 where there is none yet.
        reference, stale: the score to beat by more than the tolerance, and the epochs since it was set.
        judge: by what these epochs were compared; a run that is continued with another monitor or other validation
            rows begins to compare anew.
        seconds: spent in training so far.
    """

    identity: str
    start: int
    theta: Array
    slots: Mapping[str, Array]
    step: int = 0
    cost_sum: float = 0.0
    history: tuple[Row, ...] = ()
    best_theta: Array | None = None
    best_epoch: int = 0
    best_score: float = float("inf")
    reference: float = float("inf")
    stale: int = 0
    judge: str = ""
    seconds: float = 0.0

    @property
    def engine(self) -> Literal["array", "compiled"]:
        """What its run is on."""
        return "compiled" if ", engine=compiled" in self.identity else "array"


def first_snapshot(
    identity: str, start: int, theta: Array, optimizer: Optimizer, state: Mapping[str, Array] | None = None
) -> Snapshot:
    """The state before the first step; `state` are the optimizer's slots where it goes on from an earlier run.

    Raises:
        ParameterError, ShapeError: `state` is not of this optimizer, or of another number of parameters.
    """
    snapshot = Snapshot(identity, start, theta, {})
    if state is None:
        slots = {name: aligned(theta.shape, theta.dtype) for name in optimizer.slots}
        return replace(own(snapshot), slots=slots)
    if set(state) != set(optimizer.slots):
        raise ParameterError(
            f"fit: expected the optimizer's state {list(optimizer.slots)}, got {list(state)}. "
            "It belongs to another optimizer; leave it out."
        )
    for slot in state.values():
        if slot.shape != theta.shape:
            raise ShapeError(f"fit: expected state of {theta.size} parameters, got shape {slot.shape}.")
    return own(replace(snapshot, slots={name: state[name].astype(theta.dtype, copy=False) for name in optimizer.slots}))


def own(snapshot: Snapshot) -> Snapshot:
    """A snapshot whose arrays nobody else has."""

    def copy(vector: Array) -> Array:
        result = aligned(vector.shape, vector.dtype)
        result[...] = vector
        return result

    slots = {name: copy(slot) for name, slot in snapshot.slots.items()}
    return replace(snapshot, theta=copy(snapshot.theta), slots=slots)


def read_only(snapshot: Snapshot) -> Snapshot:
    """A snapshot of the same memory in which nobody can write, so that others can have it too."""
    return replace(
        snapshot,
        theta=frozen(snapshot.theta),
        slots={name: frozen(slot) for name, slot in snapshot.slots.items()},
        best_theta=None if snapshot.best_theta is None else frozen(snapshot.best_theta),
    )


class Step(NamedTuple):
    """One step, re-created from its number: which rows with which dropout masks, and the learning rate."""

    rows: Array
    masks: Masks | None
    learning_rate: float


@dataclass
class Training:
    """A run under way. `snapshot` is replaced as a whole after every step, so an interrupt never tears it.

    The arrays of the first snapshot are the training's own: compiled steps change them in place. `begun` is θ before it, to
    which a run goes back whose compiled update overflows.
    """

    architecture: Architecture
    data: Data
    validation: Data | None
    plan: Plan
    snapshot: Snapshot
    engine: Literal["array", "compiled"] = "array"
    threads: int = 1
    predictor: Any = None  # of an earlier training of this network on the compiled engine, with as many threads
    keep_every: int | None = None  # keep the snapshot before every so many steps
    kept: list[Snapshot] = field(default_factory=list)
    begun: Array | None = None

    def __post_init__(self) -> None:
        self.begun = self.snapshot.theta.copy() if self.begun is None else self.begun
        if self.validation is not None:  # a monitor gets them, and they may be the caller's own
            self.validation = Data(*map(frozen, self.validation))
        self.N = len(self.data.X)
        self.steps_per_epoch = self.plan.steps_per_epoch(self.N)
        self.rows_per_epoch = min(self.N, self.steps_per_epoch * self.plan.rows_per_step(self.N))
        self.mean_weight = float(self.data.s.mean())
        factors = [layer.learning_rate_factors for layer in self.architecture.layers]
        plain = all(factor == 1.0 for pair in factors for factor in pair)
        self.factors = None if plain else self.architecture.spread(factors, self.snapshot.theta.dtype)
        self.metric = find_metric("fit, monitor", self.plan.monitor, self.plan.cost.loss)
        self._order: tuple[int, Array] | None = None
        self.undisturbed = False  # whether nothing happens between two epochs, so that compiled steps go on
        self.origin = self.since = 0.0  # when the run would have begun without a break, and what it is at, by the clock
        self.compiled = CompiledSteps(self) if self.engine == "compiled" else None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but compiled code, which belongs to one process and is made again where a step is."""
        return self.__dict__ | {"compiled": None, "predictor": None}

    @property
    def unscored(self) -> bool:
        """Whether an epoch has ended whose row is not yet in the history."""
        return self.snapshot.step // self.steps_per_epoch > len(self.snapshot.history)

    def step(self, number: int) -> Step:
        """What step `number` (0, 1 …) works on."""
        epoch, k = divmod(number, self.steps_per_epoch)
        B = self.plan.rows_per_step(self.N)
        rows = self.order(epoch)[k * B : (k + 1) * B]
        dtype = self.snapshot.theta.dtype
        masks = self.architecture.masks(len(rows), self.plan.seed, number, dtype, self.plan.start)
        return Step(rows, masks, self.learning_rate(number))

    def order(self, epoch: int) -> Array:
        """The row numbers of an epoch in their order, (N,)."""
        if self._order is None or self._order[0] != epoch:
            self._order = (
                epoch,
                self.plan.order(epoch, self.N, self.compiled.permutation if self.compiled else permutation),
            )
        return self._order[1]

    def learning_rate(self, number: int) -> float:
        """η of step `number` (0, 1 …), before the layers' own factors."""
        factor = self.plan.schedule.factor(number / self.steps_per_epoch, self.plan.epochs)
        return self.plan.optimizer.learning_rate * factor

    def gradient(self, step: Step) -> Gradient:
        """C and ∂C/∂θ of a step at the present θ, before clipping."""
        X, y, s = (part[step.rows] for part in self.data)
        return gradient(self.architecture, self.snapshot.theta, X, y, self.plan.cost, s, self.mean_weight, step.masks)

    def learning_rates(self, step: Step) -> Any:
        """η of a step: a number, or (P,) where layers have factors of their own."""
        if self.factors is None:
            return step.learning_rate
        return self.factors * self.factors.dtype.type(step.learning_rate)

    def before(self, number: int) -> Training:
        """This training as it was before step `number`, re-created from the nearest snapshot that was kept.

        Raises:
            NotTrainedError: no snapshot was kept before that step.
            ParameterError: the run has no such step.
        """
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < self.snapshot.step:
            raise ParameterError(f"Run: expected a step from 0 to {self.snapshot.step - 1}, got {number!r}.")
        earlier = [snapshot for snapshot in self.kept if snapshot.step <= number]
        if not earlier and self.kept:
            raise NotTrainedError(
                f"Run: expected a step that this run made, from step {self.kept[0].step} on, got {number}. "
                "It was continued; the steps before it belong to the run that it continues."
            )
        if not earlier:
            raise NotTrainedError(
                "Run: expected a run that kept snapshots, got one without. Train with fit(..., keep_every=100)."
            )
        past = replace(self, snapshot=own(earlier[-1]), keep_every=None, kept=[])
        with np.errstate(all="ignore"):
            while past.snapshot.step < number:
                past.advance(number)
        return past

    def advance(self, stop: int) -> None:
        """Make one update, or on the compiled engine as many as take about a tenth of a second, up to step `stop`.

        Raises:
            DivergenceError: a number is not finite; θ is as before the step.
        """
        now = self.snapshot
        if self.keep_every and (not self.kept or now.step % self.keep_every == 0):
            self.kept.append(own(now) if self.compiled else now)
        if self.compiled is None or not self.compiled.advance(self, self._next_pause(stop)):
            self._update()

    def _next_pause(self, stop: int) -> int:
        """The next step before which something else is to be done."""
        step = self.snapshot.step
        pauses = [self.keep_every or stop, stop if self.undisturbed else self.steps_per_epoch]
        return min(stop, *(step - step % every + every for every in pauses))

    def _update(self) -> None:
        """One update on the array engine."""
        now, plan = self.snapshot, self.plan
        step = self.step(now.step)
        G = self.gradient(step)
        if not (np.isfinite(G.cost) and all_finite(G.theta)):
            raise DivergenceError(self._first_non_finite(step))
        g = clip(G.theta, plan.clip_norm)
        eta = self.learning_rates(step)
        state = tuple(map(frozen, now.slots.values()))
        theta, *slots = update(plan.optimizer, frozen(now.theta), g, eta, state, now.step + 1)
        if not (all_finite(theta) and all(all_finite(slot) for slot in slots)):
            raise DivergenceError(self._where(now.step, "the update of the parameters overflows"))
        share = len(step.rows) / self.rows_per_epoch
        phi = float(G.losses.aggregated) * (1.0 if plan.cost.aggregate.over_epoch == "sum" else share)
        self.snapshot = replace(
            now,
            theta=theta,
            slots=dict(zip(now.slots, slots, strict=True)),
            step=now.step + 1,
            cost_sum=now.cost_sum + phi + float(G.penalty) * share,
        )

    def finish_epoch(self) -> Row:
        """Score the epoch that has just ended; returns its row of the history."""
        now, plan = self.snapshot, self.plan
        epoch, score = now.step // self.steps_per_epoch, now.cost_sum
        row = self._row(epoch, score)
        moment = time.perf_counter()
        if self.validation is not None:
            y_hat, row["valid_cost"] = self.evaluate(self.validation)
            score = row["valid_cost"]
            if self.metric is not None:
                found: Any = self.metric(plan.cost.loss, y_hat, self.validation.y, self.validation.s)
                if np.ndim(found) or np.asarray(found).dtype.kind not in "biuf":
                    raise ParameterError(f"fit, monitor: expected a number from {plan.monitored}, got {found!r:.40}.")
                score = row[f"valid_{plan.monitored}"] = float(found)
        row |= self._times(moment - self.since, moment)
        if not np.isfinite(score):
            what = f"the training cost of epoch {epoch} is {score}"
            if self.validation is not None:
                where = self._non_finite_value(self.validation, None, "the validation rows")
                what = where or f"the {plan.monitored} on the validation rows is {score}"
            raise DivergenceError(self._where(now.step - 1, what))
        best = {}
        if self.validation is not None and score <= now.best_score:  # of equal epochs the last, as RealMLP does
            kept = now.theta.copy() if self.compiled else now.theta  # which compiled steps change in place
            best = {"best_theta": kept, "best_epoch": epoch, "best_score": score}
        fell = score < now.reference - plan.tolerance
        self.snapshot = replace(
            now,
            cost_sum=0.0,
            history=(*now.history, row),
            reference=score if fell else now.reference,
            stale=0 if fell else now.stale + 1,
            **best,  # type: ignore[arg-type]
        )
        self.since = time.perf_counter()
        return row

    def with_earlier_epochs(self, after: Snapshot, costs: Array) -> Snapshot:
        """A snapshot in which all epochs but the last are scored that ended, with these costs, in a block of steps."""
        done, steps = len(after.history), self.steps_per_epoch
        seconds = (time.perf_counter() - self.since) * steps / (after.step - done * steps)  # of each, as it seems
        rows, reference, stale = [], after.reference, after.stale
        for epoch, cost in enumerate(costs.tolist(), done + 1):
            self.since += seconds
            rows.append(self._row(epoch, cost) | self._times(seconds, self.since))
            fell = cost < reference - self.plan.tolerance
            reference, stale = (cost, 0) if fell else (reference, stale + 1)
        return replace(after, history=(*after.history, *rows), reference=reference, stale=stale)

    def _row(self, epoch: int, cost: float) -> Row:
        """The beginning of an epoch's row of the history."""
        step = epoch * self.steps_per_epoch
        return {"epoch": epoch, "step": step, "train_cost": cost, "learning_rate": self.learning_rate(step - 1)}

    def _times(self, seconds: float, moment: float) -> Row:
        """The end of the row of an epoch that took so many seconds until this moment."""
        return {"seconds": moment - self.origin, "rows_per_second": self.rows_per_epoch / max(seconds, 1e-9)}

    def evaluate(self, data: Data) -> tuple[Array, float]:
        """ŷ (N, n_L) and the cost of the present θ on a data set, without label smoothing and dropout."""
        cost = replace(self.plan.cost, label_smoothing=0.0)
        forward = self.compiled.predict if self.compiled else predict
        return evaluate(self.architecture, self.snapshot.theta, data, cost, forward)

    def _where(self, step: int, what: str, begins: bool = False) -> str:
        epoch = step // self.steps_per_epoch + 1
        fix = f"Lower learning_rate (now {self.plan.optimizer.learning_rate:g})"
        if not self.plan.clip_norm:
            fix += ", or clip the gradient (clip_norm=1.0)"
        if begins:  # no learning rate had a part in it
            fix = "Scale X and y to numbers of about 1, or begin with smaller weights"
        return f"fit, step {step} (epoch {epoch}): expected finite numbers, but {what}. {fix}."

    def _first_non_finite(self, step: Step) -> str:
        """Run the bad step again and name the first tensor, layer and row that is not finite."""
        batch = Data(*(part[step.rows] for part in self.data))
        what = self._non_finite_value(batch, step, "X")
        if what is None:
            what = "the cost is not finite"
            for number, p in enumerate(self.architecture.views(self.gradient(step).theta), 1):
                for name, part in (("∂C/∂W", p.W), ("∂C/∂b", p.b)):
                    if part is not None and not np.isfinite(part).all():
                        what = f"{name} of {self.architecture.describe(number)} is not finite"
        return self._where(self.snapshot.step, what, begins=self.snapshot.step == 0)

    def _non_finite_value(self, data: Data, step: Step | None, rows: str) -> str | None:
        """The first z, a or loss of a forward pass that is not finite, in words; None if all are."""
        A, cost = self.architecture, self.plan.cost
        values = forward(A, self.snapshot.theta, data.X, step.masks if step else None, keep="all")
        tensors = [
            (f"{name} of {A.describe(number)}", tensor)
            for number in range(1, len(A.layers) + 1)
            for name, tensor in (("z", values.z[number]), ("a", values.a[number]))
        ]
        losses = cost.losses(A.output_activation, values, data.y, data.s, self.mean_weight)
        tensors.append((f"the loss {cost.loss}", losses.per_output))
        for name, tensor in tensors:
            if tensor is None or np.isfinite(tensor).all():
                continue
            bad = int(np.argmax(~np.isfinite(tensor).all(axis=1)))
            number = tensor[bad][~np.isfinite(tensor[bad])][0]
            hint = ""
            forms = [form for form in (f"{cost.loss.name}_logits", f"{cost.loss.name}_log") if form in LOSSES]
            if name.startswith("the loss") and forms:
                hint = f" (the logarithm of a zero; the loss {forms[0]!r} with an identity output cannot reach it)"
            return f"{name} is {number} in row {int(step.rows[bad]) if step else bad} of {rows}{hint}"
        return None


class CompiledSteps:
    """A training's steps on the compiled engine, which change θ and the slots in place between two snapshots.

    The training has them, and hands itself to them: in a circle of references the memory of both would stay after the fit.

    Raises:
        NotCompiledError: something in the plan is no loop over numbers.
    """

    def __init__(self, training: Training) -> None:
        from ..engine.choice import operations
        from ..engine.compiled import Predictor, Settings, Trainer
        from ..engine.order import permutation, permutations

        plan, N, theta = training.plan, training.N, training.snapshot.theta
        gathered = plan.sampling != "sequential"
        settings = Settings(
            plan.rows_per_step(N),
            training.rows_per_epoch,
            gathered,
            plan.clip_norm,
            plan.seed,
            plan.start,
            training.threads,
        )
        self.trainer = Trainer(
            training.architecture,
            plan.cost,
            plan.optimizer,
            training.data,
            settings,
            training.factors,
            training.mean_weight,
        )
        self.theta, self.slots = np.empty(0), list[Array]()
        self.predictor = training.predictor or Predictor(training.architecture, theta.dtype, training.threads)
        self.permutation, self.permutations = permutation, permutations
        if plan.sampling == "shuffle":
            permutation(0, plan.seed, Purpose.ORDER)  # compiled or loaded now
        self.pace = (
            1e-5 + operations(training.architecture, settings.batch) / 2e9
        )  # seconds of a step, at first a guess

    def advance(self, training: Training, stop: int) -> bool:
        """Steps up to `stop` or for about a tenth of a second; False where the next one is for the array engine."""
        now, plan = training.snapshot, training.plan
        if now.theta is not self.theta:
            self.theta, self.slots = now.theta, list(now.slots.values())
        epoch, place = divmod(now.step, training.steps_per_epoch)
        most = max(1, ORDERED // training.N) * training.steps_per_epoch - place
        count = min(stop - now.step, most, max(1, int(BLOCK_SECONDS / self.pace)))
        if plan.schedule.same(constant):
            rates = np.full(count, training.learning_rate(now.step))
        else:
            rates = np.array([training.learning_rate(now.step + k) for k in range(count)])
        begun = time.perf_counter()
        order = self.orders(training, epoch, 1 + (place + count - 1) // training.steps_per_epoch)
        given = (self.theta, self.slots, now.step, place, order, rates, now.cost_sum)
        done, cost_sum, costs = self.trainer.steps(*given)
        if done:
            self.pace = (time.perf_counter() - begun) / done
            if not (all_finite(self.theta) and all(map(all_finite, self.slots))):
                self._go_back(training, now, done)
            slots = dict(zip(now.slots, self.slots, strict=True))
            after = replace(now, theta=self.theta, slots=slots, step=now.step + done, cost_sum=cost_sum)
            training.snapshot = training.with_earlier_epochs(after, costs) if len(costs) else after
        return done > 0

    def orders(self, training: Training, epoch: int, count: int) -> Array:
        """The orders of so many epochs from this one on, one after the other, (count · N,)."""
        plan = training.plan
        if count == 1:
            return training.order(epoch)
        if plan.sampling == "shuffle":
            drawn: Array = self.permutations(count, training.N, plan.seed, Purpose.ORDER, epoch, plan.start)
            return drawn.reshape(-1)
        return np.concatenate([plan.order(number, training.N) for number in range(epoch, epoch + count)])

    def _go_back(self, training: Training, now: Snapshot, done: int) -> None:
        """After an update that overflowed: θ as it was before the run, in a snapshot that no run continues.

        Raises:
            DivergenceError: always.
        """
        slots = {name: np.zeros_like(slot) for name, slot in now.slots.items()}
        identity = now.identity + ", overflown"
        theta = np.array(training.begun)
        training.snapshot = replace(now, theta=theta, slots=slots, identity=identity)
        which = "the update" if done == 1 else f"one of {done} updates up to this one"
        raise DivergenceError(training._where(now.step + done - 1, f"{which} of the parameters overflows"))

    def predict(self, architecture: Architecture, theta: Array, X: Array) -> Values:
        """The last z and ŷ of X."""
        logits, y_hat, _ = self.predictor(theta, X, logits=True)
        return Values([logits], [y_hat])


def evaluate(
    architecture: Architecture, theta: Array, data: Data, cost: Cost, predict: Callable[..., Values] = predict
) -> tuple[Array, float]:
    """ŷ (N, n_L) and the cost C of θ on a data set."""
    values = predict(architecture, theta, data.X)
    losses = cost.losses(architecture.output_activation, values, data.y, data.s, float(data.s.mean()))
    return values.y_hat, float(losses.aggregated + cost.penalty.value(architecture, theta))


def clip(g: Array, norm: float | None) -> Array:
    """g scaled down to the Euclidean norm `norm` where it is longer (Pascanu, Mikolov & Bengio 2013)."""
    if norm is None:
        return g
    length = float(np.linalg.norm(g.astype(np.float64)))
    if not np.isfinite(length):  # the squares overflow, the direction does not
        g = g / np.abs(g).max()
        length = float(np.linalg.norm(g))
        return g * g.dtype.type(norm / length)
    return g * g.dtype.type(norm / length) if length > norm else g


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C has been pressed, so that a training ends between two steps.

    A handler of the program's own is called by that function, and ends the training if it raises KeyboardInterrupt.
    A second Ctrl-C before the step has ended interrupts at once. Outside the main thread nothing changes.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield lambda: False
        return
    noted: list[Any] = []

    def note(number: int, frame: Any) -> None:
        if noted:
            usual(number, frame)
        else:
            noted.append(frame)

    def asked() -> bool:
        if noted:
            if usual is signal.default_int_handler:
                return True
            usual(signal.SIGINT, noted.pop())
        return False

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, usual)


STOPPED = ("interrupted", "callback", "time")  # ways to end after which nothing else is to be trained either

OnEpoch = Callable[[Row], bool | None]
OnProgress = Callable[[float], None]


def run_training(training: Training, on_epoch: OnEpoch | None = None, on_progress: OnProgress | None = None) -> str:
    """Run until a stopping rule holds, and return which: "epochs", "patience", "time", "steps", "callback" or
    "interrupted" (Ctrl-C).

    `on_epoch(row)` is called after every epoch and stops the run by returning True. `on_progress(epoch)` is
    called about ten times a second with the fractional epoch.

    Raises:
        DivergenceError: a number is not finite; `training.snapshot` is the last finite state, or θ as it was before the
            run where a compiled update overflows.
    """
    plan = training.plan
    last_step = plan.steps(training.N)
    begun = told = training.since = time.perf_counter()
    spent = training.snapshot.seconds
    training.origin = begun - spent
    training.undisturbed = on_epoch is None and plan.patience is None and training.validation is None
    try:
        with np.errstate(all="ignore"), interrupts() as asked:  # finiteness is checked explicitly at every step
            while True:
                if training.unscored:
                    row = training.finish_epoch()
                    if on_epoch is not None and on_epoch(dict(row)):
                        return "callback"
                if plan.patience is not None and training.snapshot.stale >= plan.patience:
                    return "patience"
                if training.snapshot.step >= last_step:
                    return "epochs"
                if asked():
                    return "interrupted"
                now = time.perf_counter()
                if plan.time_limit is not None and spent + now - begun > plan.time_limit:
                    return "time"
                if plan.max_steps is not None and training.snapshot.step >= plan.max_steps:
                    return "steps"
                training.advance(last_step if plan.max_steps is None else min(last_step, plan.max_steps))
                if on_progress is not None and now - told > 0.1:
                    told = now
                    on_progress(training.snapshot.step / training.steps_per_epoch)
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        training.snapshot = replace(training.snapshot, seconds=spent + time.perf_counter() - begun)
