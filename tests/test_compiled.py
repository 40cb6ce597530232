"""The compiled engine against the array engine, over the grid of settings and in whole runs.

python tests/test_compiled.py --full    every combination of the grid; prints the worst errors, and what rounding does not
                                        explain (half an hour)
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ctypes import CFUNCTYPE, c_float, c_int64
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

import chainrule as cr
import grid
from chainrule.arrays import Namespace
from chainrule.core.backward import gradient
from chainrule.core.cost import make_cost
from chainrule.counter import Purpose
from chainrule.engine.choice import choose, cores, share
from chainrule.errors import DivergenceError
from chainrule.training import loop
from chainrule.training.loop import Data, Plan, Training, first_snapshot, run_training
from chainrule.training.optimizers import SGD, update
from chainrule.training.schedules import constant
from own import fourth_power

pytest.importorskip("numba")

from numba import njit

from chainrule.engine import amx, kernel, passes, products
from chainrule.engine.compiled import Predictor, Settings, Trainer
from chainrule.engine.memory import NO_SUBNORMALS, X86, float_modes, set_float_modes
from chainrule.engine.order import permutation, permutations
from chainrule.engine.threads import Team

LIMITS = {"gradient, float64": 1e-12, "gradient, float32": 1e-5, "cost, float64": 1e-12, "cost, float32": 1e-5}
TRAJECTORY, TRAJECTORY_STEPS = 1e-9, 50


# -- the grid ---------------------------------------------------------------------------------------------------------


def trainer_of(case: grid.Case, optimizer: Any, threads: int) -> Trainer:
    """A compiled training whose only batch is the case's, in the case's dtype."""
    rows = len(case.X)
    made = Trainer(
        case.architecture,
        case.cost,
        optimizer,
        (case.X, case.y, case.s),
        Settings(rows, rows, True, None, 0, 0, threads),
        None,
        case.mean_weight,
    )
    return made


def narrow(case: grid.Case) -> grid.Case:
    """The case in float32."""
    theta, X, y = (part.astype(np.float32) for part in (case.theta, case.X, case.y))
    masks = None if case.masks is None else [None if m is None else m.astype(np.float32) for m in case.masks]
    return replace(case, theta=theta, X=X, y=y, masks=masks)


def one_step(case: grid.Case, threads: int) -> tuple[np.ndarray, float]:
    """The compiled gradient and cost; the masks of step 3 are those of the case."""
    trainer = trainer_of(case, SGD(1e-3), threads)
    done, cost, _ = trainer.steps(
        case.theta.copy(), np.empty((0, 0), case.theta.dtype), 3, 0, np.arange(len(case.X)), np.ones(1)
    )
    assert done == 1
    return trainer.gradient, cost


def apart(found: Any, expected: Any, scale: float) -> float:
    """The largest difference as a share of the scale; infinite for NaN."""
    error = float(np.abs(np.asarray(found, float) - np.asarray(expected, float)).max(initial=0.0)) / scale
    return error if np.isfinite(error) else np.inf


def wide_erf(z: np.ndarray) -> np.ndarray:
    """The error function in z's type from mpmath; SciPy has none of long doubles."""
    from mpmath import erf, mpf, workprec

    def one(value: np.floating[Any]) -> np.floating[Any]:
        high = float(value)
        result = erf(mpf(high) + mpf(float(value - high)))
        return value.dtype.type(float(result)) + value.dtype.type(float(result - float(result)))

    with workprec(100):
        return np.array([one(value) for value in z.flat], z.dtype).reshape(z.shape)


def explained(case: grid.Case, g: np.ndarray, expected: np.ndarray) -> bool:
    """Whether rounding accounts for g: its error is at most twice that of the array engine, at θ and data as they are or
    moved in their last places, with elementary functions that are right to as many units as the engine's own may be.

    1 − a² of a saturated tanh, and a maximum that two samples almost share, cannot be had more exactly. The error is that
    against the array engine in the next wider type.
    """
    wide = np.longdouble if case.theta.dtype == np.float64 else np.float64
    given = (case.theta, case.X, case.y)
    rng = np.random.default_rng(0)

    def moved(part: np.ndarray) -> np.ndarray:
        unit = 4 * np.finfo(part.dtype).eps
        return part * (1 + unit * rng.uniform(-1, 1, part.shape)).astype(part.dtype)

    def at(theta: np.ndarray, X: np.ndarray, y: np.ndarray, **functions: Any) -> np.ndarray:
        masks = None if case.masks is None else [None if m is None else m.astype(theta.dtype) for m in case.masks]
        with np.errstate(all="ignore"), mock.patch.multiple(Namespace, **functions):
            return gradient(case.architecture, theta, X, y, case.cost, case.s, case.mean_weight, masks).theta

    inexact = {
        name: staticmethod(lambda z, f=getattr(Namespace, name): moved(f(z)))
        for name in ("exp", "expm1", "log", "log1p", "tanh", "erf")
    }
    truth = at(*(part.astype(wide) for part in given), erf=staticmethod(wide_erf))
    others = (at(*map(moved, given), **inexact) for _ in range(100))
    reach = max(np.abs(other - truth).max() for other in (expected, *others))
    return bool(np.abs(g - truth).max() <= 2 * reach)


def errors(row: Mapping[str, Any], unexplained: list[str] | None = None) -> dict[str, float]:
    """How far the engines are apart in gradient and cost, in both dtypes, with one thread or two.

    Those settings are added to `unexplained` whose gradient is beyond its limit, and not `explained`.
    """
    found = {}
    wide = grid.build(row)
    threads = 1 + len(str(row)) % 2
    for case in (wide, narrow(wide)):
        data = (case.X, case.y, case.cost, case.s, case.mean_weight, case.masks)
        with np.errstate(all="ignore"):
            expected = gradient(case.architecture, case.theta, *data)
        g, cost = one_step(case, threads)
        least = 1e-5 if case.theta.dtype == np.float64 else 1e-2  # of the cost, where the gradient all but vanishes
        length = max(float(np.linalg.norm(expected.theta)), least * max(1.0, abs(float(expected.cost))))
        name = f"gradient, {case.theta.dtype}"
        found[name] = apart(g, expected.theta, length)
        if unexplained is not None and found[name] > LIMITS[name] and not explained(case, g, expected.theta):
            unexplained.append(f"{name}: {found[name]:.2e} at {row}")
        found[f"cost, {case.theta.dtype}"] = apart(cost, expected.cost, max(1.0, abs(float(expected.cost))))
    return found


def check(
    rows: Iterable[Mapping[str, Any]], unexplained: list[str] | None = None
) -> dict[str, tuple[int, int, float, str]]:
    """Cases, how many are beyond the limit, the worst error and its settings, by what is compared; see `errors`."""
    worst = dict.fromkeys(LIMITS, (0, 0, 0.0, ""))
    for row in rows:
        for name, error in errors(row, unexplained).items():
            cases, beyond, most, where = worst[name]
            beyond += error > LIMITS[name]
            worst[name] = (cases + 1, beyond, *((error, str(row)) if error >= most else (most, where)))
    return worst


@pytest.mark.parametrize("part", range(8))
def test_pairwise_grid(part):
    rows = [row for number, row in enumerate(grid.all_pairs(grid.FACTORS, grid.allowed)) if number % 8 == part]
    for name, (cases, _, error, where) in check(rows).items():
        assert cases == len(rows) > 20
        assert error <= LIMITS[name], f"{name} at {where}"


def test_what_rounding_explains():
    rows = list(grid.all_pairs(grid.FACTORS, grid.allowed))
    with_erf = next(row for row in rows if row["hidden"] == "gelu")
    for row in [with_erf, *rows[::40]]:
        for case in (wide := grid.build(row), narrow(wide)):
            with np.errstate(all="ignore"):
                data = (case.X, case.y, case.cost, case.s, case.mean_weight, case.masks)
                expected = gradient(case.architecture, case.theta, *data).theta
            g, _ = one_step(case, 1)
            wrong = g + 1e3 * np.finfo(g.dtype).eps * max(1.0, np.abs(expected).max())
            assert explained(case, g, expected) and not explained(case, wrong, expected), row


def trajectory(row: Mapping[str, Any]) -> float:
    """How far θ is apart after 50 steps with momentum in float64, as a share of its length; both diverge or none."""
    case = grid.build(row)
    plan = Plan(case.cost, SGD(1e-3, 0.9, nesterov=True), constant, epochs=TRAJECTORY_STEPS, batch_size=None)
    ends: list[Any] = []
    for engine in ("array", "compiled"):
        snapshot = first_snapshot("", 0, case.theta, plan.optimizer)
        training = Training(case.architecture, Data(case.X, case.y, case.s), None, plan, snapshot, engine)
        try:
            run_training(training)
        except cr.DivergenceError:
            ends.append(training.snapshot.step)
        else:
            ends.append(training.snapshot.theta)
    expected, found = ends
    if isinstance(expected, int) or isinstance(found, int):
        return 0.0 if isinstance(expected, int) and isinstance(found, int) and expected == found else np.inf
    return apart(found, expected, float(np.linalg.norm(expected)))


@pytest.mark.parametrize("part", range(4))
def test_trajectories(part):
    rows = list(grid.all_pairs(grid.FACTORS, grid.allowed))[part::16]
    errors = [(trajectory(row), str(row)) for row in rows]
    assert len(rows) > 10 and max(errors)[0] <= TRAJECTORY, max(errors)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(20))
def test_layers_of_all_sizes(seed, dtype):
    """By loops and by tiles: single units, single inputs and single rows among them, on one thread and on several."""
    rng = np.random.default_rng(seed)
    sizes = [int(n) for n in rng.choice([1, 2, 7, 16, 33, 130], 4)]
    rows = int(rng.choice([1, 5, 64, 200]))
    layers = [cr.Dense(n, "tanh", ntk=bool(seed % 2)) for n in sizes[1:]]
    net = cr.Network(sizes[0], layers, seed=seed, dtype=dtype)
    X, y = (rng.normal(size=(rows, n)).astype(dtype) for n in (sizes[0], sizes[-1]))
    cost = make_cost("test", net.architecture.output_activation, loss="squared")
    case = grid.Case(net.architecture, np.array(net.theta), X, y, cost, np.ones(rows), 1.0, None)
    g, C = one_step(case, 1 + seed % 3)
    expected = gradient(case.architecture, case.theta, X, y, cost, case.s, 1.0)
    least = 1e-12 if dtype == "float64" else 2e-6
    assert apart(g, expected.theta, float(np.linalg.norm(expected.theta))) <= least
    assert pytest.approx(expected.cost, rel=least) == C
    at_once = Predictor(net.architecture, X.dtype, 2)(net.theta.copy(), X)[1]
    np.testing.assert_allclose(at_once, net.predict(X), rtol=0, atol=least)


# -- whole runs -------------------------------------------------------------------------------------------------------

OPTIMIZERS = [SGD(0.05), SGD(0.05, 0.9), SGD(0.05, 0.9, nesterov=True), cr.Adam(0.01), cr.AdamW(0.01, weight_decay=0.1)]


@pytest.mark.skipif(not amx.available(), reason="no matrix unit")
@pytest.mark.parametrize(("rows", "by_rows"), [(250, False), (600, True)])
def test_large_layers_on_the_matrix_unit(rows, by_rows):
    """The gradient in float32 is as near to float64's as the array engine's is, and the same for all numbers of threads."""
    layers = [cr.Dense(260, "tanh"), cr.Dense(270, "relu"), cr.Dense(160, "tanh"), cr.Dense(3, "softmax")]
    net = cr.Network(300, layers, seed=0)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((rows, 300)), np.eye(3)[rng.integers(0, 3, rows)]
    s, order = rng.uniform(0, 2, rows), rng.permutation(rows)
    cost = make_cost("large", net.architecture.output_activation)
    exact = gradient(net.architecture, net.theta, X, y, cost, s, 1.0, None).theta
    theta, X, y = (part.astype(np.float32) for part in (net.theta, X, y))
    usual = gradient(net.architecture, theta, X, y, cost, s, 1.0, None).theta

    def compiled(threads: int, third_back: int) -> np.ndarray:
        settings = Settings(rows, rows, True, None, 0, 0, threads)
        trainer = Trainer(net.architecture, cost, SGD(1e-3), (X, y, s), settings, None, 1.0)
        assert trainer.run[kernel.BY_ROWS] == by_rows
        table, unit = trainer.layers, amx.function().address
        assert list(table[:, kernel.FORWARD_PRODUCT] == unit) == [True, True, False, False]
        assert list(table[:, kernel.BACKWARD_PRODUCT] == unit) == [True, True, True, False]
        table[2, kernel.BACKWARD_PRODUCT] = third_back
        trainer.steps(theta.copy(), np.empty((0, 0), np.float32), 0, 0, order, np.ones(1))
        return trainer.gradient

    on_unit, in_registers = amx.function().address, products.function("float32").address
    found = compiled(1, on_unit)
    for threads in (2, 3):
        np.testing.assert_array_equal(compiled(threads, on_unit), found)
    first = net.architecture.places[0][0]  # reached by δ of the third layer's product
    assert (compiled(1, in_registers)[first] != found[first]).any()
    error = np.linalg.norm(usual - exact)
    assert np.linalg.norm(found - exact) <= error <= 1e-5 * np.linalg.norm(exact)


def network(dtype: str = "float64") -> cr.Network:
    layers = [cr.Scale(learning_rate_factor=6), cr.Dense(9, "mish", ntk=True, bias_learning_rate_factor=0.1)]
    return cr.Network(
        4, [*layers, cr.Dropout(0.2), cr.Dense(7, "softmax"), cr.Dense(3, "softmax")], seed=1, dtype=dtype
    )


def data(rows: int = 110) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 4)), rng.integers(0, 3, rows)


def fitted(engine: str, dtype: str = "float64", **options: Any) -> tuple[cr.Network, cr.Run]:
    X, y = data()
    net = network(dtype)
    options = {"epochs": 4, "batch_size": 16, "schedule": "cosine", "optimizer": cr.Adam(0.01)} | options
    return net, net.fit(X, y, engine=engine, **options)


def assert_same_runs(options: dict[str, Any], dtype: str = "float64", theta: float = 1e-9, costs: float = 1e-9) -> None:
    (a, run_a), (b, run_b) = (fitted(engine, dtype, **options) for engine in ("array", "compiled"))
    np.testing.assert_allclose(b.theta, a.theta, rtol=0, atol=theta)
    assert (run_b.reason, run_b.best_epoch, run_b.snapshot.step) == (
        run_a.reason,
        run_a.best_epoch,
        run_a.snapshot.step,
    )
    for row_a, row_b in zip(run_a.history, run_b.history, strict=True):
        for name in set(row_a) - {"seconds", "rows_per_second"}:
            assert row_b[name] == pytest.approx(row_a[name], rel=costs, abs=costs), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_optimizers(optimizer):
    assert_same_runs({"optimizer": optimizer, "threads": 2})


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_updates_in_float32_to_a_few_units_in_the_last_place(optimizer):
    """Though a division is an estimate there: for numbers of all sizes, and where all are zero."""
    rng = np.random.default_rng(0)
    count = 1003
    sizes = 10.0 ** rng.uniform(-15, 12, count)
    g, m = (rng.uniform(0.5, 2, count) * sizes for _ in range(2))  # of one sign, so that nothing cancels
    given = [np.zeros(count), g, *[m, g * m][: len(optimizer.slots)]]
    vectors = [vector.astype(np.float32) for vector in given]
    for vector in vectors:
        vector[:20] = 0
    coefficients = np.zeros(kernel.COEFFICIENTS)
    coefficients[: len(optimizer.coefficients(7))] = optimizer.coefficients(7)
    theta, g, *slots = (vector.astype(float) for vector in vectors)
    expected = update(optimizer, theta, g, 0.01, tuple(slots), 7)
    function = CFUNCTYPE(None, *[c_int64] * 7, c_float, c_float, c_int64)
    places = [vector.ctypes.data for vector in vectors] + [0] * (4 - len(slots))
    address = passes.compile(passes.update(optimizer), "float32").address
    function(address)(*places, coefficients.ctypes.data, 0.01, 1.0, count)
    for found, exact in zip((vectors[0], *vectors[2:]), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=8 * np.finfo(np.float32).eps, atol=0)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "sequential"},
        {"sampling": "replacement", "drop_last": True},
        {"batch_size": None, "clip_norm": 0.1},
        {"batch_size": 1, "epochs": 2},
        {"penalty": cr.Penalty(l1=1e-3, l2=1e-2, biases=True), "sample_weight": np.arange(110) % 3},
        {"validation": data(30), "monitor": "error_rate", "patience": 2, "label_smoothing": 0.1},
        {"aggregate": "cvar(0.3)", "starts": 2},
        {"aggregate": "sum", "max_steps": 17, "optimizer": SGD(1e-3)},
    ],
    ids=lambda options: ", ".join(options),
)
def test_options(options, threads):
    assert_same_runs(options | {"threads": threads})


def test_float32():
    assert_same_runs({"penalty": 1e-3, "clip_norm": 0.5}, "float32", theta=1e-4, costs=1e-3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 8, 9, 511, 512, 513, 1025, 70_001])
def test_rows_are_shuffled_as_numpy_does(count):
    for seed, *counters in ((0,), (1, 0, 0), (2**63 - 1, 5, 3), (7, 2**40, 1, 2)):
        drawn = permutation(count, seed, Purpose.ORDER, *counters)
        expected = np.random.Philox(key=[seed, int(Purpose.ORDER)], counter=[0, *counters, *[0] * (3 - len(counters))])
        assert drawn.dtype == np.int64
        np.testing.assert_array_equal(drawn, np.random.Generator(expected).permutation(count))


def test_orders_of_several_epochs_are_those_of_each():
    drawn = permutations(3, 40, 5, Purpose.ORDER, 7, 2)
    for k in range(3):
        np.testing.assert_array_equal(drawn[k], permutation(40, 5, Purpose.ORDER, 7 + k, 2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling": "sequential"},
        {"sampling": "replacement", "threads": 2},
        {"drop_last": True, "keep_every": 10},
        {"batch_size": None, "epochs": 30, "tolerance": 0.01},
        {"max_steps": 20, "aggregate": "sum"},
    ],
    ids=lambda options: ", ".join(options),
)
@pytest.mark.parametrize("ordered", [loop.ORDERED, 250])
def test_epochs_in_one_block_are_those_of_blocks_of_their_own(options, ordered, monkeypatch):
    """A callback is called after each epoch, so that each is a block of its own."""
    monkeypatch.setattr(loop, "ORDERED", ordered)  # of the 110 rows: two epochs at a time
    ends = []
    for callback in (None, lambda row: False):
        net, run = fitted("compiled", on_epoch=callback, **{"epochs": 7} | options)
        rest = [{k: v for k, v in row.items() if k not in ("seconds", "rows_per_second")} for row in run.history]
        times = [row["seconds"] for row in run.history]
        assert times == sorted(times) and all(row["rows_per_second"] > 0 for row in run.history)
        now = run.snapshot
        ends.append(
            (net.theta.tolist(), rest, now.step, now.cost_sum, now.reference, now.stale, now.history == run.history)
        )
    assert ends[0] == ends[1]
    whole, _ = fitted("compiled", **{"epochs": 7} | options | {"max_steps": None})
    net, X, y = network(), *data()
    free = {"schedule": "cosine", "optimizer": cr.Adam(0.01), "engine": "compiled", "batch_size": 16, "epochs": 7}
    first = net.fit(X, y, **free | options | {"max_steps": 5})
    net.fit(X, y, **free | options | {"max_steps": None}, resume=first.snapshot)
    np.testing.assert_array_equal(net.theta, whole.theta)


@pytest.mark.parametrize("bad", [14, 15, 17])
def test_a_block_of_epochs_ends_before_a_step_that_is_not_finite(bad):
    """Also where that step would have begun an epoch: the last one is scored before the error."""
    X, y = data()

    @cr.schedule("a rate too many")
    def broken(epoch, epochs):
        return 1e200 if round(7 * epoch) == bad - 1 else 1.0  # the next gradient overflows

    histories = []
    for callback in (None, lambda row: False):
        net = cr.Network(4, [cr.Dense(5, "square"), cr.Dense(1)], seed=1)
        with pytest.raises(DivergenceError, match=f"step {bad} ") as caught:
            net.fit(
                X, y / 9, loss="squared", optimizer=cr.SGD(1e-3), schedule=broken, epochs=4, batch_size=16,
                engine="compiled", on_epoch=callback,
            )  # fmt: skip
        run = caught.value.run
        assert run.snapshot.step == bad
        histories.append(([row["train_cost"] for row in run.history], run.snapshot.cost_sum))
    assert histories[0] == histories[1] and len(histories[0][0]) == bad // 7


def test_same_bits_twice_and_resumed():
    X, y = data()
    whole, run = fitted("compiled", epochs=6, threads=2)
    again, _ = fitted("compiled", epochs=6, threads=2)
    np.testing.assert_array_equal(whole.theta, again.theta)
    net = network()
    options = {"epochs": 6, "batch_size": 16, "schedule": "cosine", "optimizer": cr.Adam(0.01), "engine": "compiled"}
    first = net.fit(X, y, threads=2, max_steps=17, **options)
    assert first.snapshot.step == 17
    resumed = net.fit(X, y, threads=2, resume=first.snapshot, **options)
    np.testing.assert_array_equal(net.theta, whole.theta)
    assert resumed.history[-1]["train_cost"] == run.history[-1]["train_cost"]
    with pytest.raises(cr.ParameterError, match="engine=compiled on 2"):  # a sequel belongs to one engine
        net.fit(X, y, resume=first.snapshot, **options | {"engine": "array"})


def test_a_snapshot_is_continued_on_its_engine():
    """5 starts of 6 000 steps are long enough to be compiled, one is not."""
    X, y = data(64)
    options: dict[str, Any] = {"epochs": 1500, "batch_size": 16, "threads": 1}
    net = network()
    first = net.fit(X, y, starts=5, max_steps=20, **options)
    assert first.engine == "compiled" and choose("fit", "auto", net.architecture, 6_000, 16) == "array"
    assert net.fit(X, y, resume=first.snapshot, max_steps=40, **options).engine == "compiled"


def test_a_run_on_numpy_holds_nothing_compiled():
    X, y = data()
    net = network().compile()
    run = pickle.loads(pickle.dumps(net.fit(X, y, epochs=2, engine="array", keep_every=1)))
    assert run.trace(1).cost > 0


def test_a_callers_snapshot_and_best_epoch_stay_as_they_were():
    X, y = data()
    net, run = fitted("compiled", max_steps=5)
    before = run.snapshot.theta.copy()
    net.fit(
        X,
        y,
        epochs=4,
        batch_size=16,
        schedule="cosine",
        optimizer=cr.Adam(0.01),
        engine="compiled",
        resume=run.snapshot,
    )
    np.testing.assert_array_equal(run.snapshot.theta, before)


@pytest.mark.parametrize("engine", ["array", "compiled"])
@pytest.mark.parametrize("validated", [False, True])
def test_network_and_run_share_theta_and_neither_changes_the_other(engine, validated):
    X, y = data()
    net, run = fitted(engine, epochs=3, validation=(X[:30], y[:30]) if validated else None)
    kept = run.snapshot.best_theta if validated else run.snapshot.theta
    assert np.shares_memory(net.theta, kept)
    before = kept.copy()
    for vector in (run.snapshot.theta, *run.snapshot.slots.values(), kept):
        with pytest.raises(ValueError, match="read-only"):
            vector[0] = 1.0
    net.fit(X, y, epochs=2, engine=engine)
    net.set(2, b=np.ones_like(net.b(2)))
    np.testing.assert_array_equal(kept, before)


def test_past_steps_are_re_created():
    (_, a), (_, b) = (fitted(engine, keep_every=5, clip_norm=0.05) for engine in ("array", "compiled"))
    for step in (0, 7, 13, 27):
        np.testing.assert_allclose(b.trace(step).dC_dtheta, a.trace(step).dC_dtheta, rtol=0, atol=1e-11)
        update = b.update(step, "W", 2, (1, 2))
        assert update.total == pytest.approx(update.change, rel=0, abs=1e-12)
    np.testing.assert_array_equal(b.trace(13).theta, b.trace(13).theta)


def test_divergence_is_named_as_on_the_array_engine():
    X = np.abs(data()[0]) * 10
    messages = []
    for engine in ("array", "compiled"):
        net = cr.Network(4, [cr.Dense(5, "exp"), cr.Dense(1)], seed=0)
        with pytest.raises(cr.DivergenceError) as error:
            net.fit(X, X[:, 0], optimizer=SGD(0.5), epochs=3, engine=engine)
        messages.append(str(error.value))
        assert np.isfinite(net.theta).all()
    assert messages[0] == messages[1]


def test_a_large_gradient_is_no_divergence():
    """Squares that overflow in float32, of a gradient that does not: that step is the array engine's."""
    X, y = np.full((8, 1), 1e16, np.float32), np.full(8, 1e10, np.float32)
    ends = []
    for engine in ("array", "compiled"):
        net = cr.Network(1, [cr.Dense(1, bias=False)], seed=0, dtype="float32")
        net.fit(X, y, optimizer=SGD(1e-33), epochs=3, engine=engine)
        ends.append(net.theta.copy())
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-5)


def test_fits_at_the_same_time_do_not_wait_for_one_another():
    """More threads than cores, in several fits of one process."""
    with ThreadPoolExecutor(3) as pool:
        nets = list(pool.map(lambda _: fitted("compiled", threads=3)[0], range(3)))
    for net in nets:
        np.testing.assert_array_equal(net.theta, nets[0].theta)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("aggregate", ["mean", "sum", "tilted(2)"])
def test_per_sample_gradients(aggregate, dtype, threads):
    """As the array engine has them, into fresh memory and into rows that begin anywhere in a cache line."""
    layers = [cr.Scale(), cr.Dense(37, "softmax"), cr.Dropout(0.5), cr.Dense(9, "mish", ntk=True, bias=False)]
    net = cr.Network(50, [*layers, cr.Dense(3, "softmax")], dtype=dtype, seed=1)
    rng = np.random.default_rng(2)
    X, s = rng.normal(size=(23, 50)), rng.random(23)
    given: dict[str, Any] = {"sample_weight": s, "aggregate": aggregate, "label_smoothing": 0.2, "penalty": 0.1}
    y = rng.integers(0, 3, 23)
    expected = net.per_sample_gradients(X, y, **given)
    memory = np.full(23 * net.P + 1, np.nan, dtype)
    out = memory[1:].reshape(23, net.P)
    net.compile(threads)
    tolerance = (1e-13 if dtype == "float64" else 3e-6) * np.abs(expected).max()
    for into in (None, out):
        found = net.per_sample_gradients(X, y, out=into, **given)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert np.isnan(memory[0]) and found is out


def test_predictions_in_copies_and_other_processes():
    X, _ = data(600)
    net, _ = fitted("compiled", threads=2)
    expected = net.predict(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(net)).theta, net.theta)
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this process has several threads
        with context.Pool(1) as pool:
            np.testing.assert_allclose(pool.apply(net.predict, (X,)), expected, rtol=0, atol=1e-14)


def test_predictions_name_what_is_wrong_as_before():
    X, _ = data()
    net = network().compile()
    bad = X.copy()
    bad[7, 2] = np.nan
    with pytest.raises(cr.DataError, match="predict: expected finite numbers in X, got nan at row 7, column 2"):
        net.predict(bad)
    with pytest.raises(cr.ShapeError, match="predict: expected X with 4 columns, got 3"):
        net.predict(X[:, :3])
    plain = network()
    for rows in (X, X.astype(np.float32), X[::2], np.asfortranarray(X), X.tolist(), X[0]):
        rows = np.atleast_2d(rows)
        np.testing.assert_allclose(net.predict(rows), plain.predict(rows), rtol=0, atol=1e-14)
    readonly = X.copy()
    readonly.flags.writeable = False
    np.testing.assert_array_equal(net.predict(readonly), net.predict(X))
    np.testing.assert_array_equal(net.decide(X), plain.decide(X))


def test_a_network_that_cannot_be_compiled_says_why():
    with pytest.raises(cr.ParameterError, match="but the activation own_untraceable is no loop over numbers"):
        cr.Network(4, [cr.Dense(6, own_untraceable), cr.Dense(2)]).compile()


# -- records of one's own ---------------------------------------------------------------------------------------------


@cr.activation("z/(1 + Abs(z))", range=(-1, 1))
def own_softsign(xp, real):
    one = real(1)

    def g(z):
        return z / (one + xp.abs(z))

    def dg(z, a):
        return (1 - np.abs(a)) ** 2  # NumPy's own functions and plain numbers work too

    def d2g(z, a):
        return -real(2) * xp.sign(z) * (one - xp.abs(a)) ** 3

    return g, dg, d2g


@cr.activation("z", range=(-np.inf, np.inf))
def own_untraceable(xp, real):
    def g(z):
        return np.array(sorted(z.ravel())).reshape(z.shape) * 0 + z

    def dg(z, a):
        return np.ones(z.shape)

    return g, dg, dg


def test_own_records():
    X, _ = data()
    ends = []
    for engine in ("array", "compiled"):
        net = cr.Network(4, [cr.Dense(6, own_softsign), cr.Dense(2)], seed=2)
        run = net.fit(X, X[:, :2], loss=fourth_power, epochs=3, engine=engine)
        assert run.training is None and run.engine == engine
        ends.append(net.theta.copy())
    np.testing.assert_allclose(ends[1], ends[0], rtol=0, atol=1e-12)


def test_what_cannot_be_compiled_runs_on_the_array_engine_and_says_so(caplog):
    X, _ = data()
    ends = []
    for engine in ("array", "compiled"):
        net = cr.Network(4, [cr.Dense(6, own_untraceable), cr.Dense(2)], seed=2)
        run = net.fit(X, X[:, :2], epochs=2, engine=engine)
        assert run.engine == "array"
        ends.append(net.theta.copy())
    np.testing.assert_array_equal(ends[1], ends[0])
    assert "the activation own_untraceable is no loop over numbers" in caplog.text


@pytest.mark.parametrize("raises", [True, False])
def test_a_handler_of_ones_own_is_called_between_two_steps(raises):
    """Ctrl-C amid compiled steps: the state is that of a run which was told to stop there."""
    calls: list[int] = []

    def handler(number, frame):
        calls.append(number)
        if raises:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    X, y = data()
    try:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        begin = {1: timer.start}  # with the first epoch's end, as nothing is compiled any more
        settings = {"batch_size": 8, "sampling": "sequential", "engine": "compiled", "threads": 2, "epochs": 10**7}
        limit = {} if raises else {"time_limit": 1.0}
        run = network().fit(X, y, on_epoch=lambda row: begin.get(row["epoch"], bool)(), **settings, **limit)
        timer.join()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT] and run.reason == ("interrupted" if raises else "time")
    again = network().fit(X, y, **settings, max_steps=run.snapshot.step)
    np.testing.assert_array_equal(again.snapshot.theta, run.snapshot.theta)


def test_a_system_without_threads_to_give_says_so(monkeypatch):
    """And neither the fit nor the end of the process waits for a thread that never came."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def second_fails(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    team = Team(3)
    monkeypatch.setattr(threading.Thread, "start", second_fails)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        team(lambda me: me)
    monkeypatch.undo()
    started[0].join(10)
    assert not started[0].is_alive() and team(lambda me: me) == [0, 1, 2]


def test_the_threads_of_a_training_end_with_it():
    gc.collect()
    before = threading.active_count()
    X, y = data()
    for seed in range(3):
        cr.Network(4, [cr.Dense(3, "tanh"), cr.Dense(3, "softmax")], seed=seed).fit(X, y, engine="compiled", threads=3)
    gc.collect()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_an_edited_formula_never_runs_stale_code():
    """The same name and place in the file with other numbers: other code."""
    X, _ = data()
    ends = []
    for power in (2.0, 3.0):

        @cr.activation("z**power")
        def powered(xp, real, power=power):
            def g(z):
                return z * power

            def dg(z, a):
                return xp.ones_like(z) * power

            return g, dg, dg

        net = cr.Network(4, [cr.Dense(1, powered)], seed=2)
        net.fit(X, X[:, 0], epochs=1, engine="compiled", optimizer=SGD(1e-3))
        ends.append(net.theta.copy())
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


def test_subnormal_numbers_are_zero_in_training_only():
    X, y = data()
    tiny, tenth = np.float32(1e-38), np.float32(0.1)
    network().fit(X, y, epochs=2, engine="compiled", threads=2)
    assert tiny * tenth > 0

    @njit
    def product(x, y, modes):
        before = float_modes()
        set_float_modes(np.int32(before | modes))
        z = x * y
        set_float_modes(before)
        return z

    assert product(tiny, tenth, 0) > 0
    assert product(tiny, tenth, NO_SUBNORMALS) == 0 or not X86


@pytest.mark.parametrize("sizes", [(20, 5, 3), (4, 8, 2), (3, 10, 1), (30, 70, 40)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_prediction_has_the_same_digits_for_any_number_of_rows(sizes, dtype):
    net = cr.Network(sizes[0], [cr.Dense(n, "tanh") for n in sizes[1:]], dtype=dtype)
    X = np.random.default_rng(0).standard_normal((700, sizes[0])).astype(dtype)
    predict = Predictor(net.architecture, net.dtype, 1)
    _, whole, _ = predict(net.theta, X)
    for rows in (1, 3, 64, 501):
        parts = [predict(net.theta, X[at : at + rows])[1] for at in range(0, len(X), rows)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


# -- the choice -------------------------------------------------------------------------------------------------------


def test_auto_is_a_function_of_the_job_alone():
    A = cr.Network(20, [cr.Dense(64, "relu"), cr.Dense(2, "softmax")]).architecture
    assert choose("fit", "auto", A, 100, 32) == "array"
    assert choose("fit", "auto", A, 1_000_000, 32) == "compiled"
    assert share(None, A, 32) == 1 and share(3, A, 32) == 3 and share(None, A, 1_000_000) == cores()


def test_unknown_engine_and_threads():
    X, y = data()
    with pytest.raises(cr.ParameterError, match=r"fit, engine: unknown name 'fast'\. Known: auto, array, compiled"):
        network().fit(X, y, engine="fast")
    with pytest.raises(cr.ParameterError, match="expected threads to be a whole number of at least 1, got 0"):
        network().fit(X, y, threads=0)


def test_without_numba(monkeypatch):
    X, y = data()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(cr.ParameterError, match="got 'compiled', but numba is not installed"):
        network().fit(X, y, engine="compiled")
    assert network().fit(X, y, epochs=1, engine="auto").engine == "array"


def main() -> int:
    """Every combination of the grid, by output and loss; 1 where a cost passes its limit or a gradient is not explained."""
    parser = argparse.ArgumentParser(description="Compare the compiled engine with the array engine.")
    parser.add_argument("--full", action="store_true", help="every combination instead of the pairwise selection")
    if parser.parse_args().full:
        with multiprocessing.Pool(max(1, cores() // 2)) as pool:  # half of the cases take two threads
            parts = list(pool.imap_unordered(check_pair, sorted(grid.FITTING)))
    else:
        parts = [check_all(grid.all_pairs(grid.FACTORS, grid.allowed))]
    failed = False
    for name, limit in LIMITS.items():
        cases, over = (sum(found[name][k] for found, _ in parts) for k in (0, 1))
        *_, error, where = max((found[name] for found, _ in parts), key=lambda worst: worst[2])
        failed |= over > 0 and not name.startswith("gradient")
        print(f"{name}: {over} of {cases:,} cases beyond {limit:.0e}; worst relative difference {error:.2e} at {where}")
    unexplained = [line for _, lines in parts for line in lines]
    print(
        f"gradients beyond their limit for which rounding does not account: {len(unexplained)}",
        *unexplained,
        sep="\n",
    )
    return int(failed or bool(unexplained))


def check_all(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, tuple[int, int, float, str]], list[str]]:
    """`check`, and what is not explained."""
    unexplained: list[str] = []
    return check(rows, unexplained), unexplained


def check_pair(pair: tuple[str, str]) -> tuple[dict[str, tuple[int, int, float, str]], list[str]]:
    """Every combination for an output and a loss."""
    return check_all(grid.every_case(*pair))


if __name__ == "__main__":
    raise SystemExit(main())
