"""What the commands print: tables and a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..ensemble import notes_of
from ..network import Network, Run
from ..plain import json_text
from ..table_model import Problem
from ..training.loop import OnEpoch, OnProgress, Row

console = Console(highlight=False, soft_wrap=True)
status = Console(stderr=True, highlight=False)

FEW_ROWS = 1_000  # below which several networks usually predict better than one: docs/accuracy.md


def row_counts(problem: Problem) -> dict[str, int]:
    """Rows by part."""
    parts = {"train": problem.train, "validation": problem.valid, "test": problem.test}
    return {name: 0 if part is None else len(part.X) for name, part in parts.items()}


def before(problems: Sequence[Problem], source: str) -> None:
    """The data, the task and the networks, before training."""
    problem = problems[0]
    model = problem.model
    target, counts = model.target, row_counts(problem)
    what = f"{target.task} of {', '.join(target.names)}"
    if target.classes and target.task != "multilabel":
        shown = ", ".join(target.classes[:6]) + (" …" if len(target.classes) > 6 else "")
        what += f", {len(target.classes)} classes ({shown})"
    console.print(f"[bold]{escape(source)}[/]: {escape(what)}")
    rows = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    columns, features = len(model.encoder.columns), len(model.encoder.feature_names)
    plural = "s" if columns > 1 else ""
    console.print(f"{rows} rows; {columns} column{plural} as {features} features; loss {model.loss}")
    if model.settings.folds is not None:
        console.print(f"{len(problems)} folds: each is held out from one network, whose validation rows it is")
    for note in problem.notes:
        console.print(f"[yellow]Note: {escape(note)}[/]")
    console.print(_network(model.network))


def _network(network: Network) -> Table:
    table = Table(title=f"Network, {network.P:,} parameters, {network.dtype}", title_justify="left", title_style="bold")
    for name, side in (("l", "right"), ("layer", "left"), ("W", "right"), ("b", "right"), ("parameters", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in network.summary():
        shapes = ["" if row[k] is None else " × ".join(map(str, row[k])) for k in ("W", "b")]
        table.add_row(str(row["number"]), escape(row["layer"]), *shapes, f"{row['parameters']:,}")
    return table


@contextlib.contextmanager
def progress(
    problem: Problem, as_json: bool, fold: Mapping[str, int] = {}
) -> Iterator[tuple[OnEpoch | None, OnProgress | None]]:
    """Callbacks for the training: a bar on a terminal, JSON lines on request, else nothing.

    `fold` is {"fold": k} in the training of fold k.
    """
    if as_json:
        yield lambda row: print_json({**fold, **row}), None
        return
    if not status.is_terminal or not sys.stdout.isatty():
        yield None, None
        return
    bar = Progress(
        TextColumn("".join(f"fold {k}, " for k in fold.values()) + "epoch {task.fields[epoch]}/{task.total:.0f}"),
        BarColumn(bar_width=24),
        TextColumn("cost {task.fields[train]} train, {task.fields[valid]} valid"),
        TextColumn("{task.fields[speed]} rows/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=status,
        transient=True,
    )
    task = bar.add_task("", total=problem.plan.epochs, epoch=0, train="–", valid="–", speed="–")

    def on_epoch(row: Row) -> None:
        bar.update(
            task,
            completed=row["epoch"],
            epoch=int(row["epoch"]),
            train=f"{row['train_cost']:.4g}",
            valid=f"{row['valid_cost']:.4g}" if "valid_cost" in row else "–",
            speed=f"{row['rows_per_second']:,.0f}",
        )

    with bar:
        yield on_epoch, lambda epoch: bar.update(task, completed=epoch)


def metrics(columns: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Metrics as a table, one column for each model."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("metric")
    for name in columns:
        table.add_column(escape(name), justify="right")
    for metric in next(iter(columns.values())):
        table.add_row(escape(metric), *(_number(values.get(metric, math.nan)) for values in columns.values()))
    console.print(table)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


ENDINGS = {
    "epochs": "all epochs done",
    "patience": "no better epoch for a while",
    "time": "the time limit was reached",
    "interrupted": "interrupted",
}


def print_json(value: Mapping[str, Any]) -> None:
    """A line of strict JSON; a reader that has gone away does not stop a training, and Ctrl-C tears no line."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json_text(value) + "\n")
        sys.stdout.flush()


def after(runs: Sequence[Run], result: Mapping[str, Any], folder: Path, split: bool) -> None:
    """The metrics beside the baselines, the time, and where the files are; `split`: validation rows were drawn once."""
    in_folds, seconds = "folds" in result, f"{result['training_seconds']:.1f} s"
    if in_folds and result["validation"] is not None:
        metrics({"network": result["validation"]}, "Each row by the network that did not learn from it")
    if result["test"] is not None:
        metrics({"network": result["test"], **(result["baselines"] or {})}, f"Test, {result['rows']['test']:,} rows")
    elif result["validation"] is not None and not in_folds:
        metrics({"network": result["validation"]}, f"Validation, {result['rows']['validation']:,} rows (no test rows)")
    for fold, run in enumerate(runs, 1):
        which = f"Fold {fold}: " if in_folds else ""
        if run.reason == "interrupted":
            kept = (
                f"epoch {run.best_epoch}, the best so far" if run.best_epoch else f"epoch {len(run.history)}, the last"
            )
            console.print(f"[yellow]{which}Interrupted: {kept}, was kept.[/]")
        best = f", best epoch {run.best_epoch}" if run.best_epoch else ""
        ended = ENDINGS.get(run.reason, run.reason)
        took = "" if in_folds else f" in {seconds}"
        rest = "" if in_folds else f"; {result['seconds']:.1f} s in all"
        console.print(f"{which}{len(run.history)} epochs{took} ({ended}{best}){rest}")
        if len(run.starts) > 1:
            console.print(f"{which}{len(run.starts)} starts, scores " + ", ".join(f"{s:.4g}" for s in run.starts))
    for note in notes_of(runs):
        console.print(f"[yellow]Note: {escape(note)}[/]")
    if in_folds:
        console.print(f"{len(runs)} networks in {seconds}; {result['seconds']:.1f} s in all")
    if split and 10 <= result["rows"]["train"] + result["rows"]["validation"] < FEW_ROWS:
        console.print("With so few rows --folds 5 usually predicts better: five networks in about five times the time.")
    console.print(f"Model, settings, metrics, history and learning curve in [bold]{escape(str(folder))}[/]")


def moves(rows: Sequence[tuple[str, float, float]]) -> None:
    """The inputs that move the output most: name, value in the network, derivative of the output."""
    title = "What moves the output most (x and ŷ as the network has them, scaled)"
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("feature", "x", "∂ŷ/∂x"):
        table.add_column(name, justify="left" if name == "feature" else "right")
    for name, value, slope in rows:
        table.add_row(escape(name), f"{value:.4g}", f"{slope:+.4g}")
    console.print(table)


def demo(network: Network, X: Any, y: Any, run: Run, folder: Path) -> None:
    """What the AND network learned: its predictions, its parameters, and the surface in characters."""
    y_hat = network.predict(X)[:, 0]
    table = Table(title="AND after training", title_justify="left", title_style="bold")
    for name in ("x₁", "x₂", "y", "ŷ", "decision"):
        table.add_column(name, justify="right")
    for (x1, x2), truth, value in zip(X, y, y_hat, strict=True):
        table.add_row(str(x1), str(x2), str(truth), f"{value:+.4f}", str(int(value >= 0.5)))
    console.print(table)
    error = float(((y_hat - y) ** 2).mean())
    console.print(f"{len(run.history)} epochs, mean squared error {error:.2e}")
    for number in range(1, len(network.architecture.layers) + 1):
        console.print(f"layer {number}: W = {_matrix(network.W(number))}, b = {_matrix(network.b(number))}")
    console.print("ŷ on [0, 1]², x₂ upwards:")
    for x2 in (1.0, 0.75, 0.5, 0.25, 0.0):
        row = network.predict([[x1 / 20, x2] for x1 in range(21)])[:, 0]
        console.print("  " + "".join(" .:-=+*#%@"[min(9, max(0, int(value * 10)))] * 2 for value in row))
    console.print(f"Pictures in [bold]{escape(str(folder))}[/]")


def _matrix(values: Any) -> str:
    if values.ndim == 1:
        return "\\[" + ", ".join(f"{v:+.3f}" for v in values) + "]"
    return "\\[" + ", ".join(_matrix(row) for row in values) + "]"
