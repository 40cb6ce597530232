"""Pictures with matplotlib, as files or as figures; no global state, no display needed."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import check_count
from .disk import replacing
from .errors import NotTrainedError, ShapeError, require
from .network import Network, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, BLUE, ORANGE, GREY = "#1f2933", "#1f6feb", "#d9480f", "#9aa5b1"


def _figure(width: float, height: float) -> Figure:
    figure: Figure = require("matplotlib.figure", "plot", "Pictures").Figure(
        figsize=(width, height), layout="constrained"
    )
    return figure


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=144)
    return stream.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, as a whole or not at all.

    Raises:
        OutputError: it could not be written.
    """
    with replacing(path) as stream:
        stream.write(png(figure))


def learning_curve(run: Run, title: str = "Learning curve") -> Figure:
    """Training and validation cost by epoch, with the best epoch marked; a logarithmic axis over more than a decade.

    Raises:
        NotTrainedError: the run ended before its first epoch did.
    """
    if not run.history:
        raise NotTrainedError("Learning curve: expected a run of at least one epoch, got none.")
    figure = _figure(7, 4)
    axes = figure.subplots()
    epochs = [row["epoch"] for row in run.history]
    smoothed = ", labels smoothed" if run.plan.cost.label_smoothing else ""
    curves = [("training" + smoothed, "train_cost", BLUE), ("validation", "valid_cost", ORANGE)]
    for label, key, color in curves:
        if key in run.history[0]:
            cost = [row[key] for row in run.history]
            axes.plot(epochs, cost, color=color, linewidth=1.8, marker="o" if len(cost) == 1 else "", label=label)
    if run.best_epoch:
        by = run.plan.monitored.replace("_", " ")
        axes.axvline(
            run.best_epoch, color=GREY, linewidth=1, linestyle="--", label=f"best epoch by {by}, {run.best_epoch}"
        )
    costs = [row[key] for _, key, _ in curves for row in run.history if key in row]
    lowest, highest = min(costs), max(costs)
    if lowest > 0 and highest > 10 * lowest:
        ticks = require("matplotlib.ticker", "plot", "Pictures")
        axes.set_yscale("log")
        subs = (1, 2, 5) if highest < 1e4 * lowest else (1,)
        axes.yaxis.set_major_locator(ticks.LogLocator(subs=subs, numticks=12))
        axes.yaxis.set_major_formatter(lambda cost, _: f"{cost:g}")
        axes.yaxis.set_minor_formatter(ticks.NullFormatter())
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel("cost", color=INK)
    axes.set_title(title, color=INK, loc="left", parse_math=False)  # the name of a file may hold a $
    _plain(axes)
    axes.legend(frameon=False)
    return figure


def surface(network: Network, title: str = "", grid: int = 20) -> Figure:
    """004's two pictures of a network of two inputs and one output on [0, 1]²: 3-D scatter, and contours of 20 levels.

    Raises:
        ShapeError: the network has another number of inputs or outputs.
        ParameterError: a grid of fewer than 2 points a side.
    """
    check_count("Surface", "grid", grid, 2)
    if network.architecture.outputs != 1:
        raise ShapeError(f"Surface: expected a network of one output, got {network.architecture.outputs}.")
    ticks = np.linspace(0, 1, grid)
    x1, x2 = np.meshgrid(ticks, ticks)
    y_hat = network.predict(np.column_stack([x1.ravel(), x2.ravel()]))[:, 0]
    figure = _figure(10, 4.4)
    scatter = figure.add_subplot(1, 2, 1, projection="3d")
    scatter.scatter(x1.ravel(), x2.ravel(), y_hat, c=y_hat, cmap="winter", s=14, depthshade=False)
    scatter.set_title("prediction on a grid", color=INK)
    scatter.set_zlabel("ŷ", color=INK)
    contour = figure.add_subplot(1, 2, 2)
    levels = contour.contourf(x1, x2, y_hat.reshape(grid, grid), levels=20, cmap="winter")
    contour.contour(x1, x2, y_hat.reshape(grid, grid), levels=[0.5], colors="white", linewidths=1.5)
    contour.set_title("contours, white where ŷ = ½", color=INK)
    for axes in (scatter, contour):
        axes.set_xlabel("x₁", color=INK)
        axes.set_ylabel("x₂", color=INK)
    figure.colorbar(levels, ax=contour, label="ŷ")
    if title:
        figure.suptitle(title, color=INK, parse_math=False)
    return figure
