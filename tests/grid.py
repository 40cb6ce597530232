"""The grid of settings on which gradients are checked, and the check itself.

The independent source is the cost: complex-step differentiation of the forward pass, and central differences where
an activation, a loss, an aggregator or a penalty has a kink (there a complex step would trust the same branch).

    python tests/grid.py           the pairwise selection that the tests run, every parameter perturbed
    python tests/grid.py --full    every combination, along random directions; prints the worst errors (minutes)
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainrule.core.architecture import Architecture, Masks, chain, forward
from chainrule.core.backward import gradient
from chainrule.core.cost import Cost, Penalty
from chainrule.core.layers import Dense, Dropout, Scale
from chainrule.errors import ParameterError
from chainrule.formulas import activations, aggregators, losses

COMPLEX_LIMIT, CENTRAL_LIMIT = 1e-10, 1e-6
LIMITS = {"complex step": COMPLEX_LIMIT, "central differences": CENTRAL_LIMIT}
ROWS, INPUTS, WIDTH = 5, 3, 3
STEP = 1e-30
LARGEST, SMALLEST = 12.0, 1e-9

PENALTIES = {
    "none": Penalty(),
    "l1": Penalty(l1=0.03),
    "l2": Penalty(l2=0.2),
    "elastic": Penalty(l1=0.02, l2=0.1),
    "elastic with biases": Penalty(l1=0.02, l2=0.1, biases=True),
}

FACTORS: dict[str, Sequence[Any]] = {
    "output": list(activations.CATALOGUE),
    "loss": list(losses.CATALOGUE),
    "hidden": ["none", *activations.CATALOGUE],
    "aggregate": ["mean", "sum", "tilted(2)", "tilted(-1.5)", "cvar(0.3)", "max"],
    "penalty": list(PENALTIES),
    "layers": ["dense", "no bias", "ntk", "scale first", "dropout"],
    "depth": [0, 1, 2, 3],
    "outputs": [1, 2, 3],
    "weights": ["none", "random", "with zeros"],
    "average_outputs": [False, True],
    "label_smoothing": [0.0, 0.2],
    "mean_weight": ["of the batch", "of the data set"],
}

KINKED_LOSSES = {"absolute", "huber", "quantile", "hinge"}  # huber's second derivative jumps


def fits(output: str, loss: str) -> bool:
    """Whether `losses.check_fit` lets the output activation go with the loss."""
    try:
        losses.check_fit("grid", activations.CATALOGUE[output], losses.CATALOGUE[loss])
    except ParameterError:
        return False
    return True


FITTING = {(output, loss) for output in FACTORS["output"] for loss in FACTORS["loss"] if fits(output, loss)}


def allowed(row: Mapping[str, Any]) -> bool:
    """Whether the settings chosen so far can go together."""
    if "hidden" in row and "depth" in row and (row["hidden"] == "none") != (row["depth"] == 0):
        return False
    if "loss" not in row:
        return True
    loss = losses.CATALOGUE[row["loss"]]
    if "output" in row and (row["output"], row["loss"]) not in FITTING:
        return False
    if row.get("average_outputs") and loss.categorical:
        return False
    if row.get("label_smoothing"):
        # where a prediction is exactly 1, a smoothed target has an infinite loss
        return loss.targets in ("one_hot", "probability") and not (
            loss.name == "binary_cross_entropy" and exactly_one(row)
        )
    return True


def exactly_one(row: Mapping[str, Any]) -> bool:
    """Whether the predictions are 1: a step with a positive z, a softmax over one unit."""
    return row.get("output") == "step" or (row.get("output"), row.get("outputs")) == ("softmax", 1)


def all_pairs(
    factors: Mapping[str, Sequence[Any]], allowed: Callable[[Mapping[str, Any]], bool]
) -> Iterator[dict[str, Any]]:
    """Rows that hold every allowed pair of values of two factors at least once; greedy and deterministic.

    Where several values cover as many new pairs, one of them is drawn, which mixes the settings further.
    """
    draw = random.Random(0)
    missing = {
        frozenset(pair)
        for f, g in itertools.combinations(factors, 2)
        for pair in itertools.product([(f, a) for a in factors[f]], [(g, b) for b in factors[g]])
        if allowed(dict(pair))
    }
    for pair in sorted(missing, key=str_of_pair):
        if pair not in missing:
            continue
        row = dict(sorted(pair))
        for factor in factors:
            if factor in row:
                continue
            candidates = [value for value in factors[factor] if allowed({**row, factor: value})]
            draw.shuffle(candidates)
            row[factor] = max(
                candidates, key=lambda value: sum(frozenset({item, (factor, value)}) in missing for item in row.items())
            )
        missing -= {frozenset(two) for two in itertools.combinations(row.items(), 2)}
        yield {factor: row[factor] for factor in factors}


def str_of_pair(pair: frozenset[Any]) -> str:
    """A sorting key that does not depend on the hash seed."""
    return str(sorted(map(str, pair)))


def every_case(output: str, loss: str) -> Iterator[dict[str, Any]]:
    """All combinations of the main factors for an output and a loss; the other four are drawn, from what is allowed."""
    main = ["aggregate", "depth", "outputs", "weights", "penalty", "layers"]
    draw = random.Random(f"{output} {loss}")
    for values in itertools.product(*(FACTORS[name] for name in main)):
        row = {"output": output, "loss": loss, **dict(zip(main, values, strict=True))}
        for option in ("hidden", "mean_weight", "average_outputs", "label_smoothing"):
            row[option] = draw.choice([v for v in FACTORS[option] if allowed({**row, option: v})])
        yield row


def kinked(row: Mapping[str, Any]) -> bool:
    """Whether the cost has a kink somewhere."""
    kinks = any(activations.CATALOGUE[name].kinks for name in (row["output"], row["hidden"]) if name != "none")
    return (
        kinks
        or row["loss"] in KINKED_LOSSES
        or row["aggregate"] in ("max", "cvar(0.3)")
        or PENALTIES[row["penalty"]].l1 > 0
    )


@dataclass(frozen=True)
class Case:
    """A network, a batch and a cost."""

    architecture: Architecture
    theta: np.ndarray
    X: np.ndarray
    y: np.ndarray
    cost: Cost
    s: np.ndarray
    mean_weight: float
    masks: Masks | None

    def value(self, theta: np.ndarray) -> Any:
        """C at other parameters, real or complex."""
        values = forward(self.architecture, theta, self.X, self.masks)
        with np.errstate(all="ignore"):  # what is not finite fails the check, and a log 0 that is not used does not
            found = self.cost.losses(self.architecture.output_activation, values, self.y, self.s, self.mean_weight)
        return found.aggregated + self.cost.penalty.value(self.architecture, theta)

    def gradient(self) -> np.ndarray:
        """The gradient under test."""
        data = (self.X, self.y, self.cost, self.s, self.mean_weight, self.masks)
        with np.errstate(all="ignore"):
            return gradient(self.architecture, self.theta, *data).theta


def build(row: Mapping[str, Any], seed: int = 0) -> Case:
    """The case of a row of settings, with random numbers of a seed.

    Parameters are drawn until every |z| and |ŷ| is moderate (exp and square, stacked, overflow) and no z lies on a
    kink (without biases, units that are all dead give z = 0). ReLU, step and square reach the end of their range,
    where a loss on probabilities or counts is infinite: there parameters are drawn until every prediction lies
    inside, and the output layer keeps its bias. Likewise predictions stay away from 1 where a loss takes ln(1 − ŷ),
    of which few digits are left there.
    """
    output, loss = row["output"], losses.CATALOGUE[row["loss"]]
    at_the_edge = output in ("relu", "step", "square") and loss.prediction[0] == 0
    near_one = loss.name == "binary_cross_entropy" and not exactly_one(row)
    kind = row["layers"]
    options = {"bias": kind != "no bias", "ntk": kind == "ntk"}
    layers: list[Any] = [Scale()] if kind == "scale first" else [Dropout(0.4)] if kind == "dropout" else []
    layers += [Dense(WIDTH, row["hidden"], **options) for _ in range(row["depth"])]
    layers += [Dropout(0.3)] if kind == "dropout" and row["depth"] else []
    layers += [Dense(row["outputs"], output, **(options | ({"bias": True} if at_the_edge else {})))]
    A = chain("grid", INPUTS, layers)

    rng = np.random.default_rng([seed, zlib.crc32(repr(sorted(row.items())).encode())])
    X = rng.standard_normal((ROWS, INPUTS))
    y = targets(rng, loss.targets, row["outputs"])
    if loss.name == "binary_cross_entropy" and exactly_one(row):
        y = np.ones_like(y)
    s = np.ones(ROWS) if row["weights"] == "none" else rng.uniform(0.2, 3.0, ROWS)
    if row["weights"] == "with zeros":
        s[[1, 3]] = 0.0
    own = float(s.mean())
    mean_weight = own if row["mean_weight"] == "of the batch" else 1.7 * own + 0.1
    cost = Cost(
        loss,
        aggregators.find_aggregator("grid", row["aggregate"]),
        PENALTIES[row["penalty"]],
        row["average_outputs"],
        row["label_smoothing"],
    )
    masks = A.masks(ROWS, seed, 3, np.dtype(np.float64))
    for _ in range(1000):
        theta = 0.5 * rng.standard_normal(A.P)
        last = A.views(theta)[-1]
        if at_the_edge and last.b is not None:
            last.b[...] += 2.0
        with np.errstate(over="ignore", invalid="ignore"):
            values = forward(A, theta, X, masks, keep="all")
        moderate = all(np.abs(z).max() < LARGEST for z in [*values.z[1:], values.y_hat] if z is not None)
        smooth = all(
            np.abs(z).min() > SMALLEST
            for layer, z in zip(A.layers, values.z[1:], strict=True)
            if layer.g.kinks and z is not None
        )
        inside = not (at_the_edge and values.y_hat.min() < 0.05) and not (near_one and values.y_hat.max() > 0.99)
        if moderate and smooth and inside:
            return Case(A, theta, X, y, cost, s, mean_weight, masks)
    raise RuntimeError(f"no suitable parameters found for {row}")


def targets(rng: np.random.Generator, kind: str, outputs: int) -> np.ndarray:
    """Targets that a loss takes, with the limits of the interval among them."""
    shape = (ROWS, outputs)
    if kind == "real":
        return 2.0 * rng.standard_normal(shape)
    if kind == "sign":
        return rng.choice([-1.0, 1.0], shape)
    if kind == "nonnegative":
        return rng.poisson(1.5, shape).astype(float)
    if kind == "positive":
        return rng.uniform(0.1, 4.0, shape)
    if kind == "probability":
        return np.where(rng.random(shape) < 0.5, rng.integers(0, 2, shape), rng.random(shape))
    if outputs == 1:
        return np.ones(shape)
    soft = rng.dirichlet(np.ones(outputs), ROWS)
    soft[:3] = np.eye(outputs)[rng.integers(0, outputs, 3)]
    return soft


def relative(numeric: np.ndarray, analytic: np.ndarray, scale: float) -> float:
    """The largest difference over the length of the gradient, or over what is given; inf for NaN."""
    with np.errstate(invalid="ignore"):
        error = float(np.abs(numeric - analytic).max()) / scale
    return error if math.isfinite(error) else math.inf


def scale(case: Case, g: np.ndarray, least: float) -> float:
    """The length of the gradient, and where that vanishes a small part of the cost, which rounding blurs."""
    return max(float(np.linalg.norm(g)), least * max(1.0, abs(float(case.value(case.theta)))))


def complex_error(case: Case, directions: np.ndarray) -> float:
    """The relative error of the gradient along the rows of `directions`, by complex step."""
    g = case.gradient()
    numeric = np.array([np.imag(case.value(case.theta + 1j * STEP * d)) / STEP for d in directions])
    return relative(numeric, directions @ g, scale(case, g, 1e-5))


def central_error(case: Case, directions: np.ndarray) -> float:
    """The same by central differences. A step that crosses a kink is taken again, smaller: a wrong gradient stays."""
    g = case.gradient()
    best = math.inf
    for h in (1e-6, 1e-7, 1e-5, 3e-8):
        with np.errstate(invalid="ignore"):  # a step to the other side may leave the loss's interval
            numeric = np.array(
                [(case.value(case.theta + h * d) - case.value(case.theta - h * d)) / (2 * h) for d in directions]
            )
        best = min(best, relative(numeric, directions @ g, scale(case, g, 1e-3)))
        if best <= CENTRAL_LIMIT / 10:
            break
    return best


def errors(row: Mapping[str, Any], every_parameter: bool = True) -> tuple[float, float | None]:
    """The errors by complex step and, where the cost has a kink, by central differences.

    Either every parameter is perturbed by itself, or all at once along three directions of random signs, for which
    the mean squared difference is the squared length of the gradient's error.
    """
    case = build(row)
    if every_parameter:
        directions = np.eye(case.architecture.P)
    else:
        directions = np.random.default_rng(1).choice([-1.0, 1.0], (3, case.architecture.P))
    return complex_error(case, directions), central_error(case, directions) if kinked(row) else None


Found = list[tuple[str, float, str]]  # method, relative error, settings


def check(rows: Iterable[Mapping[str, Any]], every_parameter: bool) -> tuple[dict[str, int], Found]:
    """How many cases each method checked, and what to print of them: the worst, and all beyond a limit."""
    counts: dict[str, int] = dict.fromkeys(LIMITS, 0)
    kept: dict[str, Found] = {name: [] for name in LIMITS}
    with np.errstate(all="ignore"):  # what is not finite counts as an infinite error
        for row in rows:
            for name, error in zip(LIMITS, errors(row, every_parameter), strict=True):
                if error is None:
                    continue
                counts[name] += 1
                beyond = [found for found in kept[name] if found[1] > LIMITS[name]]
                if error > LIMITS[name]:
                    kept[name] = [*beyond, (name, error, str(row))]
                elif not beyond and (not kept[name] or error > kept[name][0][1]):
                    kept[name] = [(name, error, str(row))]
    return counts, [found for name in LIMITS for found in kept[name]]


def check_pair(pair: tuple[str, str]) -> tuple[dict[str, int], Found]:
    """Every combination for an output and a loss, along random directions."""
    return check(every_case(*pair), every_parameter=False)


def main() -> int:
    """Check the grid and print what was found; 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description="Check gradients on the grid of settings.")
    parser.add_argument("--full", action="store_true", help="every combination instead of the pairwise selection")
    if parser.parse_args().full:
        with multiprocessing.Pool() as pool:
            parts = list(pool.imap_unordered(check_pair, sorted(FITTING)))
    else:
        parts = [check(all_pairs(FACTORS, allowed), every_parameter=True)]
    found = sorted((item for part in parts for item in part[1]), key=lambda item: -item[1])
    beyond = [item for item in found if item[1] > LIMITS[item[0]]]
    for name, error, row in beyond[:50]:
        print(f"beyond the limit, {name}: {error:.2e} at {row}")
    for name, limit in LIMITS.items():
        cases = sum(counts[name] for counts, _ in parts)
        worst = next(item for item in found if item[0] == name)
        print(f"{name}: {cases:,} cases, worst relative error {worst[1]:.2e} (limit {limit:.0e}) at {worst[2]}")
    print(f"{len(beyond)} beyond a limit")
    return int(bool(beyond))


if __name__ == "__main__":
    raise SystemExit(main())
