"""What is measured: networks, their data and starting parameters, and the series in which they grow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

import chainrule as cr

from ..arrays import Array
from ..counter import Purpose, permutation

LEARNING_RATE, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Problem:
    """One thing to measure: a network, the shape of its data, and the threads that everybody may use.

    Attributes:
        sizes: n_0 … n_L. batch: rows of one step. batches: steps of one epoch; the data have batch · batches rows.
        epochs: passes over the data in one timing.
        activation: of the hidden layers; the output is softmax with the categorical cross-entropy.
    """

    sizes: tuple[int, ...]
    batch: int
    batches: int
    epochs: int = 1
    activation: str = "relu"
    threads: int = 1

    @property
    def rows(self) -> int:
        """Rows of the data."""
        return self.batch * self.batches

    @property
    def steps(self) -> int:
        """Updates in one timing."""
        return self.batches * self.epochs

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every layer."""
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    def __str__(self) -> str:
        return "-".join(map(str, self.sizes))


class Work(NamedTuple):
    """What every contender is given.

    Attributes:
        X (N, n_0) float32, y (N,) labels. order (N,): the row numbers in the order in which batches take them.
        start: W (n_l, n_{l-1}) and b (n_l,) of every layer, in float32.
    """

    X: Array
    y: Array
    order: Array
    start: list[tuple[Array, Array]]


def network(problem: Problem) -> cr.Network:
    """The network of a problem, at its starting parameters."""
    hidden = [cr.Dense(n, problem.activation) for n in problem.sizes[1:-1]]
    return cr.Network(problem.sizes[0], [*hidden, cr.Dense(problem.sizes[-1], "softmax")], seed=0, dtype="float32")


def work(problem: Problem) -> Work:
    """Normal rows, random labels of which each occurs, the order of chainrule's first epoch, and θ₀."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((problem.rows, problem.sizes[0]), dtype=np.float32)
    y = rng.permutation(np.arange(problem.rows) % problem.sizes[-1])
    order = permutation(problem.rows, 0, Purpose.ORDER, 0, 0)
    net = network(problem)
    return Work(X, y, order, [(net.W(l).copy(), net.b(l).copy()) for l in range(1, len(problem.sizes))])


TRAINING = [
    Problem((2, 3, 2), 4, batches=1000, epochs=10),
    Problem((20, 64, 64, 2), 32, batches=200, epochs=20),
    Problem((784, 128, 10), 128, batches=80, epochs=16),
    Problem((784, 512, 512, 10), 256, batches=40, epochs=6),
    Problem((1024, 2048, 2048, 10), 1024, batches=4, epochs=6),
]
ACTIVATIONS = [replace(p, activation=g) for p in TRAINING[1:4] for g in ("relu", "tanh", "gelu", "silu", "mish")]

_MIDDLE = Problem((64, 256, 256, 10), 128, batches=80)
GROWTH = {
    "rows": [replace(_MIDDLE, batches=n) for n in (8, 80, 800, 8000)],
    "width": [replace(_MIDDLE, sizes=(64, n, n, 10)) for n in (16, 64, 256, 1024)],
    "depth": [replace(_MIDDLE, sizes=(64, *[256] * n, 10)) for n in (1, 2, 4, 8, 16)],
    "batch": [replace(_MIDDLE, batch=n, batches=max(10, 10240 // n)) for n in (1, 8, 64, 512, 4096)],
}
INFERENCE = [Problem((20, 64, 64, 2), n, batches=1) for n in (1, 10_000)]
PER_SAMPLE = Problem((784, 128, 10), 128, batches=1)
JACOBIANS = replace(PER_SAMPLE, batch=32)
