"""What each special case of the compiled engine is worth: the same work with it and without it, in turn.

python benchmarks/kernels.py        two minutes on an idle machine

products                    against OpenBLAS, one thread                  all products of a step of five networks
the matrix unit             against products in vector registers          training 784-512-512-10, one thread and two
small products by loops     against tiles for all                         1 000 steps of 2-3-2
small matrices in place     against panels for all                        predicting 10 000 rows of 20-64-64-2
few columns turned          against tiles as they are                     training 20-64-64-2, batch 32
rows read where they lie    against copies of the batch's rows            training 784-128-10, one thread
small weights transposed    against weights as they are                   predicting 10 000 rows of 20-64-64-2
sharing by units            against sharing by rows, on two threads       training 20-1024-1024-10, batch 32
sharing by rows             against sharing by units, on two threads      training 64-64-64-10
estimated divisions         against exact ones                            Adam's update of 5 700 parameters
loss and slope in one pass  against two passes                            the loss of 128 × 10 logits
few units, each its lines   against blocks of transposed samples          the loss of 32 × 2 logits
compiled shuffles           against NumPy's                               the order of 6 400 rows
activations over z          against z kept beside them                    training 64-256-…-256-10, 16 hidden layers
stores past the caches      against NumPy's products into the same array  per-sample gradients of 784-128-10, 128 rows
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import chainrule as cr
from chainrule import counter
from chainrule.bench.floor import floor, products
from chainrule.bench.problems import TRAINING, Problem
from chainrule.core.cost import make_cost
from chainrule.engine import amx, compiled, kernel, order, passes
from chainrule.engine import products as own
from chainrule.engine.compiled import Predictor, Settings, Trainer
from chainrule.formulas import losses

TURNS = 15
IN_PLACE = compiled.LARGE  # multiplications of a first layer from which the batch's rows are read where they lie
READS_Z = passes.reads_z  # whether an activation's z has to be kept
WORTH = amx.WORTH  # multiplications from which a layer's products are made on the matrix unit


def interleaved(forms: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each form, timed in turn."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(TURNS + 1):
        for name, form in forms.items():
            begun = time.perf_counter()
            form()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def steps(
    sizes: tuple[int, ...],
    batch: int,
    threads: int,
    batches: int,
    by_rows: bool | None = None,
    limit: int = IN_PLACE,
    worth: int = WORTH,
    keep_z: bool = False,
) -> Callable[[], None]:
    """An epoch of compiled steps in float32."""
    compiled.LARGE, amx.WORTH = limit, worth
    passes.reads_z = (lambda g: True) if keep_z else READS_Z
    rng = np.random.default_rng(0)
    hidden = [cr.Dense(n, "relu") for n in sizes[1:-1]]
    net = cr.Network(sizes[0], [*hidden, cr.Dense(sizes[-1], "softmax")], dtype="float32")
    N = batch * batches
    X = rng.standard_normal((N, sizes[0]), dtype=np.float32)
    y = np.eye(sizes[-1], dtype=np.float32)[rng.integers(0, sizes[-1], N)]
    cost = make_cost("benchmark", net.architecture.output_activation)
    settings = Settings(batch, N, True, None, 0, 0, threads)
    trainer = Trainer(net.architecture, cost, cr.Adam(), (X, y, np.ones(N)), settings, None, 1.0)
    if by_rows is not None:
        numbers = trainer.run[kernel.X_SIZE]
        trainer.run[kernel.BY_ROWS], trainer.run[kernel.X_SIZE] = by_rows, 0 if by_rows else numbers
    theta, slots = net.theta.copy(), [np.zeros(net.P, np.float32) for _ in range(2)]
    order, rates = rng.permutation(N), np.full(batches, 1e-3)
    return lambda: trainer.steps(theta, slots, 0, 0, order, rates) and None


def products_alone(problem: Problem, ours: bool) -> Callable[[], None]:
    """The products of a step on one thread, by the engine's code or by OpenBLAS."""
    table, matrices = products(problem)
    if not ours:
        run, set_threads = floor(table, 1)
        set_threads(1)
        return lambda: run() or (matrices and None)
    function = own.function("float32").address
    room = max(own.room(n, m, problem.batch, True, 4) for n, m in problem.layers)
    scratch = np.zeros(room + 64, np.uint8)
    at = scratch.ctypes.data + -scratch.ctypes.data % 64

    @kernel.entry
    def multiply(function, table, at):
        for row in range(len(table)):
            A_turned, B_turned, m, n, k, A, A_step, B, B_step, C, C_step = table[row]
            given = (A, 0, A_turned - 111, A_step, B, 0, B_turned - 111, B_step, C, C_step, at)
            kernel.call(function, (m, n, k, np.float32(1), *given))

    return lambda: multiply(function, table, at) or (matrices and len(scratch) and None)


def predictions(turned: bool) -> Callable[[], None]:
    """10 000 rows of 20-64-64-2 on one thread."""
    net = cr.Network(20, [cr.Dense(64, "relu"), cr.Dense(64, "relu"), cr.Dense(2, "softmax")], dtype="float32")
    predictor = Predictor(net.architecture, net.dtype, 1)
    if not turned:
        predictor.tables[2][kernel.AT_TURNED] = -1
    theta, X = net.theta.copy(), np.random.default_rng(0).standard_normal((10_000, 20), dtype=np.float32)
    return lambda: predictor(theta, X) and None


def loss_passes(fused: bool, N: int = 128, n: int = 10, units: int = 0) -> Callable[[], None]:
    """The loss and its slope on N × n logits, a thousand times."""
    kinds = (passes.loss_and_slope,) if fused else (passes.value, passes.slope)
    made = [passes.made(losses.categorical_cross_entropy_logits, kind, "float32", units) for kind in kinds]
    rng = np.random.default_rng(0)
    z, y, delta = (rng.random((N, n), dtype=np.float32) for _ in range(3))
    w, L = np.full(N, 1 / N, np.float32), np.zeros(N)
    scratch = np.zeros(max(part.scratch(n) for part in made) + 1, np.float32)
    at_z, at_y, at_w, at_L, at_d, at_s = (a.ctypes.data for a in (z, y, w, L, delta, scratch))

    @kernel.entry
    def both(first, second, fused):
        for _ in range(1000):
            if fused:
                kernel.call(first, (at_z, at_y, at_w, at_L, at_d, at_s, N, n))
            else:
                kernel.call(first, (at_z, at_y, at_L, at_s, N, n))
                kernel.call(second, (at_z, at_y, at_w, at_d, at_s, N, n))

    arrays = (z, y, w, L, delta, scratch)  # which the loop knows by address only
    return lambda: both(made[0].address, made[-1].address, fused) or (arrays and None)


def updates(estimated: bool) -> Callable[[], None]:
    """Adam's update of 5 700 parameters, a thousand times."""
    adam = cr.Adam()
    text = passes.text(passes.update(adam), "float32")
    address = passes.loaded(text if estimated else text.replace("'arcp', ", ""), "update").address
    rng = np.random.default_rng(0)
    theta, g, m, v = (rng.random(5700, dtype=np.float32) for _ in range(4))
    coefficients = np.zeros(kernel.COEFFICIENTS)
    coefficients[:2] = adam.coefficients(10)
    places = [vector.ctypes.data for vector in (theta, g, m, v)]
    at_theta, at_g, at_m, at_v, at = (*places, coefficients.ctypes.data)

    @kernel.entry
    def many(address, eta, scale):
        for _ in range(1000):
            kernel.call(address, (at_theta, at_g, at_m, at_v, 0, 0, at, eta, scale, 5700))

    arrays = (theta, g, m, v, coefficients)  # which the loop knows by address only
    return lambda: many(address, np.float32(1e-9), np.float32(1)) or (arrays and None)


def shuffles(permutation: Callable[..., Any]) -> Callable[[], None]:
    """The order of 6 400 rows."""
    return lambda: permutation(6400, 0, counter.Purpose.ORDER, 0, 0) is None or None


def per_sample(compiled: bool) -> Callable[[], None]:
    """Per-sample gradients of 784-128-10 into an array that is there, on one thread."""
    net = cr.Network(784, [cr.Dense(128, "relu"), cr.Dense(10, "softmax")], dtype="float32")
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((128, 784), dtype=np.float32), rng.integers(0, 10, 128)
    out = np.empty((128, net.P), np.float32)
    if compiled:
        net.compile(threads=1)
    return lambda: net.per_sample_gradients(X, y, out=out) is None or None


def report(what: str, unit: float, name: str, times: dict[str, float]) -> None:
    """A line: both times and their ratio."""
    (mine, with_it), (other, without) = times.items()
    print(
        f"{what:<28} {unit * with_it:10.2f} {name}  {mine}; {unit * without:10.2f} {other}: {without / with_it:.2f} ×"
    )


# name → what is compiled in: module, constant, its value without the special case; and what is run
CONSTANTS: dict[str, tuple[Any, str, int, Callable[[], Callable[[], None]]]] = {
    "small products": (kernel, "SMALL", 0, lambda: steps((2, 3, 2), 4, 1, 1000)),
    "matrices in place": (own, "NEAR", 0, lambda: predictions(True)),
    "few columns turned": (own, "SHALLOW", own.DEPTH, lambda: steps((20, 64, 64, 2), 32, 1, 200)),
}


def with_constant(name: str, changed: bool) -> None:
    """Print the seconds of a run; in a process of its own, as constants are compiled in."""
    module, constant, value, run = CONSTANTS[name]
    if changed:
        setattr(module, constant, value)
    print(interleaved({"": run()})[""])


def constants() -> None:
    """Each constant as it is and changed, in processes that take turns."""
    with tempfile.TemporaryDirectory() as cache:
        for name in CONSTANTS:
            times: dict[str, list[float]] = {"with": [], "without": []}
            for _ in range(5):
                for form, found in times.items():
                    command = [sys.executable, __file__, form, name]
                    env = os.environ | {"NUMBA_CACHE_DIR": os.path.join(cache, name, form)}
                    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
                    found.append(float(done.stdout))
            report(name, 1e6, "µs", {form: statistics.median(found) for form, found in times.items()})


def main() -> None:
    """All comparisons."""
    if len(sys.argv) == 3:
        return with_constant(sys.argv[2], sys.argv[1] == "without")
    for problem in TRAINING:
        forms = {"ours": products_alone(problem, True), "OpenBLAS": products_alone(problem, False)}
        report(f"products of {problem}", 1e6, "µs", interleaved(forms))
    if amx.available():
        for threads in (1, 2):
            forms = {
                name: steps((784, 512, 512, 10), 256, threads, 20, worth=worth)
                for name, worth in (("on the matrix unit", WORTH), ("in vector registers", 2**60))
            }
            report(f"784-512-512-10, threads: {threads}", 1e6 / 20, "µs a step", interleaved(forms))
    constants()
    forms = {
        name: steps((784, 128, 10), 128, 1, 40, limit=limit)
        for name, limit in (("in place", IN_PLACE), ("copies", 2**60))
    }
    report("784-128-10, the batch's rows", 1e6 / 40, "µs a step", interleaved(forms))
    forms = {"transposed": predictions(True), "as they are": predictions(False)}
    report("small weights", 1e6, "µs", interleaved(forms))
    wide = (20, 1024, 1024, 10)
    forms = {f"by {'rows' if rows else 'units'}": steps(wide, 32, 2, 40, rows) for rows in (False, True)}
    report("20-1024-1024-10, two threads", 1e6 / 40, "µs a step", interleaved(forms))
    forms = {f"by {'rows' if rows else 'units'}": steps((64, 64, 64, 10), 256, 2, 40, rows) for rows in (True, False)}
    report("64-64-64-10, two threads", 1e6 / 40, "µs a step", interleaved(forms))
    report("update", 1e3, "µs", interleaved({"estimated divisions": updates(True), "exact": updates(False)}))
    report("loss and slope", 1e3, "µs", interleaved({"one pass": loss_passes(True), "two": loss_passes(False)}))
    forms = {"own lines": loss_passes(True, 32, 2, units=2), "blocks": loss_passes(True, 32, 2)}
    report("few units", 1e3, "µs", interleaved(forms))
    deep = (64, *[256] * 16, 10)
    forms = {name: steps(deep, 128, 1, 10, keep_z=keep_z) for name, keep_z in (("over z", False), ("beside z", True))}
    report("64-256-…-256-10", 1e6 / 10, "µs a step", interleaved(forms))
    forms = {"compiled": shuffles(order.permutation), "NumPy": shuffles(counter.permutation)}
    report("order of rows", 1e6, "µs", interleaved(forms))
    forms = {"past the caches": per_sample(True), "NumPy": per_sample(False)}
    report("per-sample gradients", 1e6, "µs", interleaved(forms))


if __name__ == "__main__":
    main()
