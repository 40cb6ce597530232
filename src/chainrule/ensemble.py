"""Several networks on one table, each with another fold of the rows held out; their predictions are averaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import files
from .arrays import Array, check_count, check_weights
from .disk import replacing
from .engine.choice import choose
from .errors import ModelFileError, ParameterError
from .network import Network, Run
from .table_model import (
    Part,
    Problem,
    Settings,
    TableModel,
    check_table,
    class_numbers,
    fit,
    learn,
    pose,
    rebuild,
)
from .tables.columns import Encoder
from .tables.split import fold_rows, split_rows
from .tables.targets import Target

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Ensemble:
    """Models that share preprocessing and target, and whose outputs are averaged: probabilities, or numbers.

    Attributes:
        members: one model for each fold; each is a `TableModel` of its own.
    """

    members: tuple[TableModel, ...]

    @property
    def encoder(self) -> Encoder:
        """Feature columns → X, the same for all members."""
        return self.members[0].encoder

    @property
    def target(self) -> Target:
        """Target columns ↔ y, the same for all members."""
        return self.members[0].target

    @property
    def loss(self) -> str:
        """As of `TableModel`."""
        return self.members[0].loss

    @property
    def text_names(self) -> tuple[str, ...]:
        """As `TableModel.text_names`."""
        return self.members[0].text_names

    def predict(self, table: pa.Table) -> dict[str, Any]:
        """As `TableModel.predict`, from the averaged outputs."""
        y_hat = self.outputs(self.encoder.encode(table))
        return self.target.decode(y_hat)

    def outputs(self, X: Array) -> Array:
        """The members' mean ŷ (N, units) in float64."""
        return np.mean([member.outputs(X) for member in self.members], axis=0)

    def decisions(self, X: Array) -> Array | None:
        """Indices of the target's classes by the mean probabilities; None in a regression."""
        return None if self.target.task == "regression" else self.target.decisions(self.outputs(X))

    def part(self, table: pa.Table, what: str = "the table") -> Part:
        """As `TableModel.part`."""
        return self.members[0].part(table, what)

    def to_bytes(self) -> bytes:
        """The content of the model's file: what the members share once, and θ (members, P)."""
        theta = np.stack([member.network.theta for member in self.members])
        return files.model_bytes("table", {"theta": theta}, self.members[0].document())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ensemble to one safetensors file, as a whole or not at all.

        Raises:
            OutputError: it could not be written; what was there before is untouched.
        """
        with replacing(path) as stream:
            stream.write(self.to_bytes())


def load(path: str | os.PathLike[str]) -> TableModel | Ensemble:
    """Read what `TableModel.save` or `Ensemble.save` wrote.

    Raises:
        ModelFileError: missing, damaged, or neither of them.
    """
    arrays, document = files.read_model(path, "table")

    def build() -> TableModel | Ensemble:
        theta = arrays["theta"]
        if theta.ndim != 2:
            return rebuild(theta, document)
        if not len(theta):
            raise ModelFileError("expected at least one member of the ensemble, got none.")
        first = rebuild(theta[0], document)
        others = (
            Network.rebuild(document | {"seed": first.network.seed + k}, row) for k, row in enumerate(theta[1:], 1)
        )
        return Ensemble((first, *(_member(first, network) for network in others)))

    return files.strictly(path, build)


def member_of(model: TableModel | Ensemble, number: int) -> TableModel:
    """Member 0, 1 … of an ensemble; a single model is its own member 0.

    Raises:
        ParameterError: it has no such member.
    """
    members = model.members if isinstance(model, Ensemble) else (model,)
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < len(members):
        raise ParameterError(f"Member: expected a number from 0 to {len(members) - 1}, got {number!r}.")
    return members[number]


def _member(first: TableModel, network: Network) -> TableModel:
    return replace(first, network=network, settings=replace(first.settings, seed=network.seed))


@dataclass(frozen=True)
class Folds:
    """A table prepared for training on folds: everything is checked, nothing is trained yet.

    Attributes:
        problems: one for each fold, whose rows are its validation rows.
        rows: all rows that are not for the test. held_out: for each fold, the numbers of its rows among them.
    """

    problems: tuple[Problem, ...]
    rows: Part
    held_out: tuple[Array, ...]

    def ensemble(self, trained: int) -> Ensemble:
        """The models of the first folds, so many as are trained."""
        return Ensemble(tuple(problem.model for problem in self.problems[:trained]))

    def out_of_fold(self, trained: int) -> tuple[Array, Array]:
        """Rows, and ŷ (rows, units) of each by the network that did not learn from it; of the folds that are trained.

        They chose that network's best epoch, so that they flatter it a little.
        """
        rows = np.concatenate(self.held_out[:trained])
        outputs = [self.problems[k].model.outputs(self.rows.X[self.held_out[k]]) for k in range(trained)]
        order = np.argsort(rows)
        return rows[order], np.concatenate(outputs)[order]


def prepare_folds(
    table: pa.Table,
    targets: Sequence[str],
    settings: Settings,
    *,
    test: pa.Table | None = None,
    ignore: Sequence[str] = (),
    categories: Sequence[str] = (),
    weight: str | None = None,
) -> Folds:
    """Like `table_model.prepare`, with `settings.folds` networks, each validated on another part of the rows.

    Preprocessing is learned once, from all rows that are not for the test; a network's start and batches have the
    seed of the settings plus its number, and each may take its share of the time limit. The engine is chosen for all of
    them together: what is compiled for the first serves the others.

    Raises:
        DataError, ParameterError: the table or the settings cannot be used.
    """
    check_count("train", "folds", settings.folds)
    assert settings.folds is not None
    features, whole = check_table(table, targets, settings, ignore, categories, weight)
    share = 0.0 if test is not None else settings.test_fraction
    rest, _, tested = split_rows(table.num_rows, settings.seed, 0.0, share, class_numbers(whole, table))
    training = table.take(rest)
    held_out = fold_rows(len(rest), settings.seed, settings.folds, class_numbers(whole, training))
    first, notes = learn(training, features, whole, settings, categories, weight)
    rows = first.part(training, "the training rows")
    test = test if test is not None else table.take(tested) if len(tested) else None
    test_part = None if test is None else first.part(test, "the test rows")
    limit = None if settings.time_limit is None else settings.time_limit / settings.folds
    architecture = first.network.architecture
    problems = []
    for k, out in enumerate(held_out):
        network = Network(architecture.inputs, architecture.layers, seed=settings.seed + k, dtype=settings.dtype)
        within = np.delete(np.arange(len(rest)), out)
        train, valid = _some(rows, within, f"all but fold {k + 1}"), _some(rows, out, f"fold {k + 1}")
        problems.append(pose(_member(first, network), train, valid, test_part, notes))
    steps = settings.starts * sum(problem.plan.steps(len(problem.train.X)) for problem in problems)
    B = max(problem.plan.rows_per_step(len(problem.train.X)) for problem in problems)
    engine = choose("train", settings.engine, architecture, steps, B)
    plans = [replace(problem.plan, time_limit=limit, engine=engine) for problem in problems]
    return Folds(tuple(replace(p, plan=plan) for p, plan in zip(problems, plans, strict=True)), rows, held_out)


def fit_each(
    problems: Sequence[Problem], train: Callable[[int, Problem], Run] = lambda _, problem: fit(problem)
) -> list[Run]:
    """Train one network after the other with `train(number, problem)`; Ctrl-C keeps those that have an epoch.

    Raises:
        KeyboardInterrupt: none of them has.
    """
    runs: list[Run] = []
    for number, problem in enumerate(problems):
        run = train(number, problem)
        if run.reason == "interrupted" and not run.history:
            if not runs:
                raise KeyboardInterrupt
            runs[-1] = replace(runs[-1], reason="interrupted")
            break
        runs.append(run)
        if run.reason == "interrupted":
            break
    return runs


def notes_of(runs: Sequence[Run]) -> list[str]:
    """What the runs have to say, each after the number of its fold if there are several."""
    return [
        f"Fold {number}: {note}" if len(runs) > 1 else note for number, run in enumerate(runs, 1) for note in run.notes
    ]


def _some(part: Part, rows: Array, what: str) -> Part:
    """Some rows of a part. Raises DataError: all their weights are zero."""
    check_weights(f"Sample weights, {what}", part.s[rows], len(rows))
    return Part(part.X[rows], part.y[rows], part.truth[rows], part.s[rows], part.table.take(rows))
