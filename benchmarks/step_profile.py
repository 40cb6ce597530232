"""Where the time of a compiled step goes: the step as it is, and without one of its parts, in turn.

python benchmarks/step_profile.py > docs/profile.md        two minutes on an idle machine

A part is left out by the address of a function that does nothing in its place. What a part costs is the difference; parts
that overlap with waiting for memory cost less than they take alone, so the differences do not add up to the whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numba
import numpy as np
from kernels import interleaved

import chainrule as cr
from chainrule.bench.floor import floor, products
from chainrule.bench.page import digits
from chainrule.bench.peers import quiet
from chainrule.bench.problems import TRAINING, Problem, network, work
from chainrule.core.cost import make_cost
from chainrule.engine import kernel
from chainrule.engine.compiled import Settings, Trainer

TITLE = """# Where the time of a compiled step goes

Written by `python benchmarks/step_profile.py`: median µs of a training step (float32, Adam, ReLU, softmax cross-entropy), and how
much less it is without one of its parts. What overlaps with waiting for memory or for the other thread costs less than it takes
alone, so these parts need not add up. “OpenBLAS” are the same matrix products in OpenBLAS with nothing between them, on as many threads
of its own, and what share of the whole step that is; the engine's own products are faster for many shapes, and for large layers by half
again where the processor has a matrix unit (AMX). Products of at most 300 multiplications are loops of the kernel, which are not
counted as products. The matrix unit is faster on zeros, and slower where other work is left out beside it and its data are no longer
those of a training: hence parts below 0.
"""
PARTS = ("products", "activations", "loss", "update")
STEPS = [4000, 1000, 80, 20, 2]  # of each network, a part of an epoch or some epochs


@numba.cfunc("void()")
def nothing() -> None:
    """In the place of a part."""


def without(problem: Problem, part: str, steps: int) -> Callable[[], None]:
    """Steps without one part: "products", "activations", "loss", "update" or "" for none."""
    given, net = work(problem), network(problem)
    y = np.eye(problem.sizes[-1], dtype=np.float32)[given.y]
    cost = make_cost("profile", net.architecture.output_activation)
    settings = Settings(problem.batch, len(y), True, None, 0, 0, problem.threads)
    data = (given.X, y, np.ones(len(y)))
    trainer = Trainer(net.architecture, cost, cr.Adam(), data, settings, None, 1.0)
    if part == "activations":
        for column in (kernel.FORWARD, kernel.BACKWARD):
            of_part = trainer.layers[:, column]
            of_part[of_part != 0] = nothing.address
    elif part == "products":
        trainer.layers[:, [kernel.FORWARD_PRODUCT, kernel.BACKWARD_PRODUCT]] = nothing.address
        trainer.run[kernel.BIAS_PRODUCT] = nothing.address
    elif part:
        places = {"loss": kernel.LOSS_AND_SLOPE, "update": kernel.UPDATE}
        trainer.run[places[part]] = nothing.address
    theta, slots = net.theta.copy(), [np.zeros(net.P, np.float32) for _ in range(2)]
    rates = np.full(min(steps, problem.batches), 1e-3)
    rounds = steps // len(rates)
    assert rounds * len(rates) == steps

    def run() -> None:
        for _ in range(rounds):
            made, *_ = trainer.steps(theta, slots, 0, 0, given.order, rates)
            assert made == len(rates)

    return run


def alone(problem: Problem, steps: int) -> float:
    """Seconds that the products of so many steps take with nothing between them."""
    table, matrices = products(problem)
    run, set_threads = floor(table, steps)
    set_threads(problem.threads)
    seconds = interleaved({"": run})[""]
    set_threads(1)
    quiet()  # OpenBLAS's threads spin on
    assert matrices  # which the table only points to
    return seconds


def main() -> None:
    """The page: a row for each network and number of threads."""
    print(TITLE)
    head = ["µs a step", "threads", "whole", *PARTS, "OpenBLAS", "of the whole"]
    print(f"| {' | '.join(head)} |\n| --- |{' --: |' * (len(head) - 1)}")
    for base, steps in zip(TRAINING, STEPS, strict=True):
        for threads in sorted({1, min(2, os.cpu_count() or 1)}):
            problem = replace(base, threads=threads)
            least = alone(problem, steps)
            times = interleaved({part: without(problem, part, steps) for part in ("", *PARTS)})
            seconds = [times[""], *(times[""] - times[part] for part in PARTS), least]
            cells = [f"{problem}, batch {problem.batch}", threads, *(digits(1e6 * s / steps) for s in seconds)]
            print(f"| {' | '.join(map(str, cells))} | {least / times['']:.0%} |", flush=True)


if __name__ == "__main__":
    main()
