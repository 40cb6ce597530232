"""A network on a table: what columns become numbers, what the target asks of the output layer, and the training.

`TableModel` is what `chainrule train` saves: a network with its preprocessing, one file, nothing pickled.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import files
from .arrays import Array, check_count, check_weights
from .core.cost import Cost, Penalty, make_cost
from .core.layers import Dense, Dropout, Layer, Scale
from .disk import replacing
from .errors import DataError, DivergenceError, ModelFileError, ParameterError, unknown_name
from .formulas.activations import find_activation
from .formulas.losses import Loss, check_fit, default_loss, find_loss, squared
from .inspection.derivation import SHOWN, Derivation, Step
from .inspection.derivation import explain as derive
from .inspection.expression import Number, Product, Sum, Symbol, Words, equals
from .network import Network, Run
from .plain import from_plain
from .tables.columns import MAX_LEVELS, Encoder, Scaling, fit_encoder, numbers
from .tables.split import split_rows
from .tables.targets import Target, infer_target
from .training.loop import STOPPED, OnEpoch, OnProgress, Plan
from .training.optimizers import SGD, Adam, AdamW, Optimizer
from .training.schedules import find_schedule

if TYPE_CHECKING:
    import pyarrow as pa

    from .inspection.verify import Report

MANY_ROWS = 10_000
RESTARTS = 3  # of a run that its learning rate threw out


@dataclass(frozen=True)
class Settings:
    """Every choice that `chainrule train` offers, with its default. None: it follows from the task.

    The defaults are those of RealMLP-TD-S (Holzmüller, Grinsztajn & Steinwart 2024), with fewer epochs and, in a
    regression, a lower learning rate.
    """

    task: Literal["classification", "regression"] | None = None
    hidden: tuple[int, ...] = (256, 256, 256)
    activation: tuple[str, ...] = ()  # one for all hidden layers or one for each; () by task: selu, mish
    dropout: float = 0.0
    scale_layer: bool = True
    ntk: bool = True
    init: str | None = None  # normal with ntk, else by activation
    loss: str | None = None
    aggregate: str = "mean"
    average_outputs: bool = False
    label_smoothing: float | None = None
    l1: float = 0.0
    l2: float = 0.0
    optimizer: str = "adam"
    learning_rate: float | None = None
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    schedule: str = "coslog4"
    batch_size: int = 256
    epochs: int | None = None  # by training rows: 256 below 10 000, else 96, in a regression 64
    sampling: str = "shuffle"
    drop_last: bool = True  # of shuffled rows the short batch at the end is left out, others each time
    clip_norm: float | None = None
    monitor: str | None = None
    patience: int | None = None
    tolerance: float = 0.0
    time_limit: float | None = None
    starts: int = 1
    seed: int = 0
    valid_fraction: float = 0.15
    test_fraction: float = 0.2
    folds: int | None = None  # so many networks, each with another part of the rows held out for validation
    scaling: Scaling = "robust"
    max_levels: int = MAX_LEVELS
    dtype: str = "float32"
    engine: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Part:
    """Rows as arrays: X (N, n_0), y as the loss takes it (N, units), the truth in the table's own units, weights s (N,);
    and the table that they come from."""

    X: Array
    y: Array
    truth: Array
    s: Array
    table: pa.Table


@dataclass(frozen=True)
class TableModel:
    """A network with its preprocessing.

    Attributes:
        network: the network. encoder: feature columns → X. target: target columns ↔ y.
        loss: the loss that it was trained with, by name.
        weight: the column of sample weights, if there was one.
        settings: how it was trained.
        features: the columns that training could choose from, in their order; the encoder has those of any use.
    """

    network: Network
    encoder: Encoder
    target: Target
    loss: str
    weight: str | None
    settings: Settings
    features: tuple[str, ...]

    @property
    def text_names(self) -> tuple[str, ...]:
        """The columns that `read_table` must not interpret, such as categories that look like numbers."""
        return self.encoder.text_names + (self.target.names if self.target.kind == "text" else ())

    def predict(self, table: pa.Table) -> dict[str, Any]:
        """Columns of predictions: the target columns, and the probability of each class as "target=class".

        Raises:
            DataError: a column is missing or holds something else than in training.
        """
        X = self.encoder.encode(table)
        return self.target.decode(self.outputs(X), self.decisions(X))

    def outputs(self, X: Array) -> Array:
        """ŷ (N, units) in float64, in the network's own units."""
        return self.network.predict(X).astype(np.float64)

    def decisions(self, X: Array) -> Array | None:
        """Indices of the target's classes, decided on the logits; None in a regression."""
        return None if self.target.task == "regression" else self.network.decide(X)

    def part(self, table: pa.Table, what: str = "the table") -> Part:
        """The rows of a table with its targets as arrays; weights are ones where it has no weight column.

        Raises:
            DataError: a column is missing or holds something else than in training.
        """
        truth, y = self.target.truth(table), self.target.encode(table)
        if self.target.task == "multiclass":
            y = np.eye(self.target.units)[y]
        weight = self.weight if self.weight in table.column_names else None
        return Part(self.encoder.encode(table), y, truth, weights_of(table, weight, what), table)

    def to_bytes(self) -> bytes:
        """The content of the model's file."""
        return files.model_bytes("table", {"theta": self.network.theta}, self.document())

    def document(self) -> dict[str, Any]:
        """Everything but θ, as JSON values."""
        return {
            "network": files.describe_architecture(self.network.architecture),
            "seed": self.network.seed,
            "encoder": self.encoder.to_json(),
            "target": self.target.to_json(),
            "loss": self.loss,
            "weight": self.weight,
            "settings": dataclasses.asdict(self.settings),
            "features": list(self.features),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one safetensors file, as a whole or not at all.

        Raises:
            OutputError: it could not be written; what was there before is untouched.
        """
        with replacing(path) as stream:
            stream.write(self.to_bytes())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> TableModel:
        """Read a model that `save` wrote.

        Raises:
            ModelFileError: missing, damaged, not a table model, or an ensemble of several.
        """
        arrays, document = files.read_model(path, "table")
        return files.strictly(path, lambda: rebuild(arrays["theta"], document))


def rebuild(theta: Array, document: dict[str, Any]) -> TableModel:
    """A model from its θ (P,) and what `TableModel.document` described.

    Raises:
        ModelFileError, ChainRuleError, KeyError, TypeError: something is missing or does not fit.
    """
    if theta.ndim == 2:
        raise ModelFileError(f"expected one network, got an ensemble of {len(theta)}. Read it with ensemble.load.")
    encoder, target = Encoder.from_json(document["encoder"]), Target.from_json(document["target"])
    network = Network.rebuild(document, theta)
    sizes = (network.architecture.inputs, network.architecture.outputs)
    if sizes != (len(encoder.feature_names), target.units):
        raise ModelFileError(
            f"expected a network of {len(encoder.feature_names)} inputs and {target.units} outputs, got {sizes}."
        )
    settings: Settings = from_plain(Settings, document["settings"], "settings")
    weight: str | None = from_plain(str | None, document["weight"], "weight")
    features: tuple[str, ...] = from_plain(tuple[str, ...], document["features"], "features")
    if not {column.name for column in encoder.columns} <= set(features):
        raise ModelFileError("features: expected all columns of the encoder.")
    loss = find_loss("model file", document["loss"]).spec
    return TableModel(network, encoder, target, loss, weight, settings, features)


def weights_of(table: pa.Table, column: str | None, what: str = "the table") -> Array:
    """Sample weights (N,) from a column; ones without one.

    Raises:
        ParameterError: no such column.
        DataError: gaps, text, negative numbers, or all zero.
    """
    if column is None:
        return np.ones(table.num_rows)
    if column not in table.column_names:
        raise unknown_name("Sample weights", column, table.column_names)
    values = numbers(table.column(column), column)
    bad = np.isnan(values) | (values < 0)
    if bad.any():
        row = int(np.argmax(bad))
        got = "a gap" if np.isnan(values[row]) else f"{values[row]:g}"
        raise DataError(f"Column {column!r}: expected weights of at least 0 in every row, got {got} at row {row + 1}.")
    return check_weights(f"Column {column!r}, {what}", values, len(values))


def output_of(target: Target, loss: str | None) -> tuple[str, Loss]:
    """The output activation and the loss that a target asks for (003, problem 4).

    Raises:
        ParameterError: an unknown loss, or one that does not fit the task.
    """
    if target.task != "regression":
        output = "softmax" if target.task == "multiclass" else "sigmoid"
        found = default_loss(find_activation("train", output)) if loss is None else find_loss("train, loss", loss)
        if found.targets not in ("real", "probability", "one_hot") or found.name.endswith("_logits"):
            numbers_too = (
                " If the target is a number, ask for it (--task regression)."
                if target.kind in ("integer", "number")
                else ""
            )
            raise ParameterError(
                f"train, loss: expected a loss of probabilities for a {target.task} target, got {found}. "
                f"Use {default_loss(find_activation('train', output)).name!r} (it is computed on the logits).{numbers_too}"
            )
        check_fit("train, loss", find_activation("train", output), found)
        return output, found
    found = find_loss("train, loss", loss or "squared")
    if found.targets not in ("real", "nonnegative", "positive") or found.name.endswith("_log"):
        raise ParameterError(
            f"train, loss: expected a loss of numbers for a regression, got {found}. "
            "Use squared, absolute, huber, log_cosh, quantile, poisson or gamma, or ask for classes (--task classification)."
        )
    return ("exp" if found.prediction[0] == 0 else "identity"), found


def layers_of(settings: Settings, target: Target, output: str) -> list[Layer]:
    """The layers that the settings ask for, before an output layer that starts at zero.

    Raises:
        ParameterError: not one activation for each hidden layer.
    """
    names = settings.activation or ("mish" if target.task == "regression" else "selu",)
    if len(names) == 1:
        names = names * len(settings.hidden)
    if len(names) != len(settings.hidden):
        raise ParameterError(
            f"train, activation: expected 1 or {len(settings.hidden)} names, one per hidden layer, got {len(names)}."
        )
    slow = 0.1 if settings.ntk else 1.0
    layers: list[Layer] = [Scale(learning_rate_factor=6.0)] if settings.scale_layer else []
    for units, name in zip(settings.hidden, names, strict=True):
        bias = "normal" if settings.ntk else "zeros"
        layers.append(
            Dense(units, name, ntk=settings.ntk, init=settings.init, bias_init=bias, bias_learning_rate_factor=slow)
        )
        if settings.dropout:
            layers.append(Dropout(settings.dropout))
    start = "zeros" if settings.hidden else settings.init
    layers.append(Dense(target.units, output, ntk=settings.ntk, init=start, bias_learning_rate_factor=slow))
    return layers


def optimizer_of(settings: Settings, target: Target) -> Optimizer:
    """The update rule that the settings ask for.

    Raises:
        ParameterError: an unknown name, or a setting outside its range.
    """
    name = settings.optimizer
    rate = settings.learning_rate
    if rate is None:
        adam = 0.03 if target.task == "regression" else 0.04  # RealMLP-TD-S has 0.07: see docs/accuracy.md
        rate = adam if settings.ntk else 0.002
    if name in ("sgd", "momentum", "nesterov"):
        return SGD(rate, 0.0 if name == "sgd" else settings.momentum, name == "nesterov")
    if name == "adam":
        return Adam(rate, settings.beta1, settings.beta2, settings.eps)
    if name == "adamw":
        return AdamW(rate, settings.beta1, settings.beta2, settings.eps, settings.weight_decay)
    raise unknown_name("train, optimizer", name, ("sgd", "momentum", "nesterov", "adam", "adamw"))


def epochs_of(settings: Settings, target: Target, rows: int) -> int:
    """How many epochs the settings mean for so many training rows."""
    if settings.epochs is not None:
        return settings.epochs
    many = 64 if target.task == "regression" else 96  # RealMLP-TD-S has 256: see docs/accuracy.md
    return 256 if rows < MANY_ROWS else many


@dataclass(frozen=True)
class Problem:
    """A table prepared for training: everything is checked, nothing is trained yet."""

    model: TableModel  # its network has starting parameters
    train: Part
    valid: Part | None
    test: Part | None
    plan: Plan
    notes: tuple[str, ...]


def prepare(
    table: pa.Table,
    targets: Sequence[str],
    settings: Settings = Settings(),
    *,
    valid: pa.Table | None = None,
    test: pa.Table | None = None,
    ignore: Sequence[str] = (),
    categories: Sequence[str] = (),
    weight: str | None = None,
) -> Problem:
    """Infer the task, split the rows, fit the preprocessing on the training rows, and build the network.

    Raises:
        DataError, ParameterError: the table or the settings cannot be used.
    """
    if settings.folds is not None:
        raise ParameterError(f"prepare: expected no folds, got {settings.folds}. Use ensemble.prepare_folds.")
    features, whole = check_table(table, targets, settings, ignore, categories, weight)
    fractions = (
        0.0 if valid is not None else settings.valid_fraction,
        0.0 if test is not None else settings.test_fraction,
    )
    rows = split_rows(table.num_rows, settings.seed, *fractions, class_numbers(whole, table))
    parts = [table.take(part) if len(part) else None for part in rows]
    training = parts[0]
    assert training is not None
    model, notes = learn(training, features, whole, settings, categories, weight)
    held_out = [given if given is not None else part for given, part in zip((valid, test), parts[1:], strict=True)]
    train = model.part(training, "the training rows")
    valid_part, test_part = (
        None if part is None else _held_out_part(model, part, name, given is not None)
        for name, part, given in zip(("validation", "test"), held_out, (valid, test), strict=True)
    )
    return pose(model, train, valid_part, test_part, notes)


def _held_out_part(model: TableModel, table: pa.Table, name: str, own: bool) -> Part:
    """Rows for validation or test; where they are a table of their own, an error says that its rows are meant."""
    try:
        return model.part(table, f"the {name} rows")
    except DataError as error:
        raise DataError(f"The {name} table: {error}" if own else str(error)) from None


def check_table(
    table: pa.Table,
    targets: Sequence[str],
    settings: Settings,
    ignore: Sequence[str],
    categories: Sequence[str],
    weight: str | None,
) -> tuple[list[str], Target]:
    """The feature columns and the task, checked on the whole table, so that rows in messages are those of the file.

    Raises:
        DataError, ParameterError: as `prepare`.
    """
    for name in ignore:
        if name not in table.column_names:
            raise unknown_name("Ignored column", name, table.column_names)
    used = {*targets, *ignore, *([weight] if weight else [])}
    if len(used) < len(targets) + len(ignore) + bool(weight):
        raise ParameterError("train: expected targets, ignored columns and weights to be different columns.")
    features = [name for name in table.column_names if name not in used]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float) and not np.isfinite(value):
            raise ParameterError(f"train: expected a finite {field.name}, got {value!r}.")
    check_count("train", "starts", settings.starts)
    whole = infer_target(table, targets, settings.task)
    fit_encoder(table, features, settings.scaling, settings.max_levels, categories)
    weights_of(table, weight)
    if whole.task == "regression":
        _check_signs(whole, output_of(whole, settings.loss)[1], whole.truth(table))
    return features, whole


def class_numbers(target: Target, table: pa.Table) -> Array | None:
    """The class of every row (N,), by which splits keep shares; None without a single class for each row."""
    return target.truth(table) if target.task in ("binary", "multiclass") else None


def learn(
    training: pa.Table,
    features: Sequence[str],
    whole: Target,
    settings: Settings,
    categories: Sequence[str],
    weight: str | None,
) -> tuple[TableModel, tuple[str, ...]]:
    """The preprocessing that training rows ask for, with a network that is not trained yet; and notes.

    Raises:
        DataError, ParameterError: as `prepare`.
    """
    target = whole
    if whole.task == "regression":
        _, loss = output_of(whole, settings.loss)
        free = loss.prediction[0] != 0
        target = infer_target(training, whole.names, "regression", free, weights_of(training, weight))
    output, loss = output_of(target, settings.loss)
    encoder, notes = fit_encoder(training, features, settings.scaling, settings.max_levels, categories)
    network = Network(
        len(encoder.feature_names), layers_of(settings, target, output), seed=settings.seed, dtype=settings.dtype
    )
    return TableModel(network, encoder, target, loss.spec, weight, settings, tuple(features)), notes


def pose(model: TableModel, train: Part, valid: Part | None, test: Part | None, notes: tuple[str, ...]) -> Problem:
    """The problem of training a model's network on these rows."""
    settings = model.settings
    plan = plan_of(model, len(train.X), valid is not None)
    if not plan.cost.aggregate.additive and len(train.X) > settings.batch_size:
        notes += (f"The aggregator {plan.cost.aggregate} acts on each batch of {settings.batch_size} rows as it is.",)
    return Problem(model, train, valid, test, plan, notes)


def _check_signs(target: Target, loss: Loss, truth: Array) -> None:
    """Raise DataError, with the row of the file, for a number that the loss cannot take as a target."""
    bad = {"nonnegative": truth < 0, "positive": truth <= 0}.get(loss.targets, np.zeros(truth.shape, bool))
    if bad.any():
        row, column = (int(k) for k in np.argwhere(bad)[0])
        least = "at least 0" if loss.targets == "nonnegative" else "above 0"
        raise DataError(
            f"Target {target.names[column]!r}: expected numbers of {least} for the loss {loss}, "
            f"got {truth[row, column]:g} at row {row + 1}. Choose another loss."
        )


def cost_of(model: TableModel) -> Cost:
    """The cost that a model's settings mean.

    Raises:
        ParameterError: an unknown name, or a setting outside its range.
    """
    settings, loss = model.settings, find_loss("train, loss", model.loss)
    smoothing = settings.label_smoothing
    if smoothing is None:
        smoothing = 0.1 if loss.targets in ("probability", "one_hot") else 0.0
    return make_cost(
        "train",
        model.network.architecture.output_activation,
        loss=loss,
        aggregate=settings.aggregate,
        penalty=Penalty(settings.l1, settings.l2),
        label_smoothing=smoothing,
        average_outputs=settings.average_outputs,
    )


def plan_of(model: TableModel, rows: int, validated: bool) -> Plan:
    """The plan that a model's settings mean for so many training rows.

    Raises:
        ParameterError: an unknown name, or a setting outside its range.
    """
    settings, target, cost = model.settings, model.target, cost_of(model)
    usual = "cost"  # for what somebody chose to minimise
    if cost.loss.targets in ("probability", "one_hot"):
        usual = "brier"  # RealMLP-TD-S has the error rate: see docs/accuracy.md
    elif target.task == "regression" and cost.loss.same(squared) and cost.aggregate.over_epoch == "mean":
        usual = "rmse"
    monitor = settings.monitor or usual
    return Plan(
        cost=cost,
        optimizer=optimizer_of(settings, target),
        schedule=find_schedule("train, schedule", settings.schedule),
        epochs=epochs_of(settings, target, rows),
        batch_size=settings.batch_size,
        sampling=settings.sampling,
        drop_last=settings.drop_last and settings.sampling == "shuffle" and rows > settings.batch_size,
        clip_norm=settings.clip_norm,
        monitor=monitor if validated else "cost",
        patience=settings.patience,
        tolerance=settings.tolerance,
        time_limit=settings.time_limit,
        seed=settings.seed,
        engine=settings.engine,
        threads=settings.threads,
    )


def thrown_out(run: Run) -> str | None:
    """In words, that a run lost what it had learned: it ends with a tenth of its gain in training cost given back.

    The gain is from the first epoch's cost to the lowest one. Where the schedule ends near zero a sound run ends near
    its lowest cost; runs that ended at a higher rate are not judged. A cost that rises and comes back is no harm.
    """
    if run.reason != "epochs" or run.history[-1]["learning_rate"] > 0.01 * run.plan.optimizer.learning_rate:
        return None
    costs = [row["train_cost"] for row in run.history]
    lowest = min(costs)
    if costs[-1] - lowest <= 0.1 * (costs[0] - lowest):
        return None
    return (
        f"The training cost fell from {costs[0]:.4g} to {lowest:.4g} in epoch {costs.index(lowest) + 1}, but ended at "
        f"{costs[-1]:.4g} (learning rate {run.plan.optimizer.learning_rate:g})."
    )


def fit(problem: Problem, on_epoch: OnEpoch | None = None, on_progress: OnProgress | None = None) -> Run:
    """Train the problem's network in place; the best epoch on the validation rows is kept.

    A run that the preset's own learning rate threw out (see `thrown_out`, or a number was not finite) is made again
    from the same parameters with half the rate, at most RESTARTS times. The best of these runs is returned, and its
    `notes` say what happened. A learning rate of the user's own stays as it is.

    Raises:
        DataError: values that the preprocessing cannot take.
        DivergenceError: see `Network.fit`; no run was sound.
    """
    network, train, valid, plan = problem.model.network, problem.train, problem.valid, problem.plan
    restarts = RESTARTS if problem.model.settings.learning_rate is None else 0
    start, sound, notes = network.theta.copy(), list[Run](), list[str]()
    diverged: DivergenceError | None = None
    while True:
        try:
            run = network.train(
                plan,
                train.X,
                train.y,
                sample_weight=train.s,
                validation=None if valid is None else (valid.X, valid.y, valid.s),
                starts=problem.model.settings.starts,
                on_epoch=on_epoch,
                on_progress=on_progress,
            )
            sound.append(run)
            trouble = thrown_out(run)
        except DivergenceError as error:
            diverged, run, trouble = error, error.run, str(error)
        left = None if plan.time_limit is None else plan.time_limit - run.snapshot.seconds
        if trouble is None or len(notes) == restarts or (left is not None and left <= 0):
            break
        rate = plan.optimizer.learning_rate / 2
        notes.append(f"{trouble} Started again with the learning rate {rate:g}.")
        slower: Any = dataclasses.replace(plan.optimizer, learning_rate=rate)  # type: ignore[type-var]
        plan = dataclasses.replace(plan, optimizer=slower, time_limit=left)
        _put(network, start)
    if not sound:
        assert diverged is not None
        raise diverged
    best = min(sound, key=lambda run: run.best_score)
    theta = best.snapshot.best_theta if best.best_epoch else best.snapshot.theta
    assert theta is not None
    _put(network, theta)
    reason = run.reason if run.reason in STOPPED else best.reason
    return dataclasses.replace(best, notes=tuple(notes), reason=reason)


def _put(network: Network, theta: Array) -> None:
    """Give a network all its parameters."""
    for number, part in enumerate(network.architecture.views(theta), 1):
        network.set(number, part.W, part.b)


def explain(
    model: TableModel,
    row: pa.Table,
    what: str | None,
    layer: int | None,
    index: tuple[int, ...] | None,
    form: str,
    layout: str,
    digits: int,
) -> tuple[Derivation, list[tuple[str, float, float]]]:
    """The derivation of a number of one row, and the ten features that move its first output most.

    With several classes "the output" is the unit of the likeliest class. Without a target in the row only "output"
    can be derived; by default it is the cost where there is a target. The last step of an output or a cost leads
    back to the table's units, or says which class an output is the probability of.

    Raises:
        DataError, ParameterError: the row, or what is asked of it, cannot be used.
    """
    known = all(name in row.column_names for name in model.target.names)
    if what is None:
        what = "cost" if known else "output"
    X = model.encoder.encode(row)
    unit = int(model.network.predict(X)[0].argmax()) if model.target.task == "multiclass" else 0
    if known:
        y = model.target.encode(row)
        y = np.eye(model.target.units)[y] if model.target.task == "multiclass" else y
    elif what == "output":
        loss = find_loss("explain", model.loss)
        y = np.eye(1, model.target.units) if loss.categorical else np.ones((1, model.target.units))
    else:
        raise DataError(f"explain: expected the target {', '.join(model.target.names)} in the table, got none.")
    place: Any = unit if what == "output" and index is None else index
    place = place[0] if isinstance(place, tuple) and len(place) == 1 and what != "W" else place
    t = model.network.trace(X, y, **cost_of(model).options)
    derivation = derive(t, what, layer, place, form=form, layout=layout, digits=digits)  # type: ignore[arg-type]
    if what in ("output", "cost"):
        meaning = _in_units if model.target.task == "regression" else _by_class
        derivation = dataclasses.replace(
            derivation, steps=(*derivation.steps, meaning(model.target, t.y_hat[0], digits))
        )
    slopes = np.asarray(t.jacobian("a", wrt="x"))[0, unit]
    names = model.encoder.feature_names
    top = np.argsort(-np.abs(slopes))[:10]
    return derivation, [(names[j], float(t.X[0, j]), float(slopes[j])) for j in top]


def _in_units(target: Target, y_hat: Array, digits: int) -> Step:
    """ŷ (units,) ↦ the targets."""
    several = len(target.names) > 1
    relations = []
    for j, (name, mean, scale) in enumerate(zip(target.names, target.mean, target.scale, strict=True)):
        y = Symbol("y", below=str(j) if several else "", hat=True)
        scaled = Product((Number(scale, digits), y))
        value = Number(mean + scale * float(y_hat[j]), digits)
        relations.append(equals(Words(name), Sum((scaled, Number(mean, digits))), value))
    return Step("The output in the table's units", tuple(relations))


def _by_class(target: Target, y_hat: Array, digits: int) -> Step:
    """Which class each ŷ (units,) is the probability of, the likeliest first."""
    names = [(target.names[0], label) for label in target.classes[-target.units :]]
    if target.task == "multilabel":
        names = [(name, target.classes[1]) for name in target.names]
    relations = [
        equals(
            Words(f"P({names[j][0]} = {names[j][1]})"),
            Symbol("y", below=str(j), hat=True),
            Number(float(y_hat[j]), digits),
        )
        for j in np.argsort(-y_hat, kind="stable")[:SHOWN]
    ]
    return Step("The output as probabilities", tuple(relations))


def verify(model: TableModel, table: pa.Table) -> Report:
    """Check a model's formulas on rows of a table, see `inspection.verify`.

    Raises:
        DataError: the target or a feature is missing, or holds something else than in training.
    """
    part = model.part(table)
    return model.network.verify(part.X, part.y, sample_weight=part.s, **cost_of(model).options)
