"""Training: the same bits from the same seed and from any snapshot, stopping rules, refusals, model files.

The independent sources are the uninterrupted run, the history, counted draws, and the safetensors package.
"""

import copy
import dataclasses
import errno
import gc
import json
import math
import os
import pickle
import weakref
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy import sparse

import chainrule as cr
import chainrule.training.loop as loop
from chainrule.core.architecture import chain
from chainrule.core.layers import Dense, Dropout
from chainrule.counter import Purpose, _mix, checksum, generator, uniform
from chainrule.errors import (
    DataError,
    DivergenceError,
    ModelFileError,
    OutputError,
    ParameterError,
    ShapeError,
)
from chainrule.training.metrics import brier, error_rate, mae, rmse
from chainrule.training.schedules import Schedule, constant
from own import softsign

OPTIMIZERS = {
    "sgd": cr.SGD(0.1),
    "momentum": cr.SGD(0.05, momentum=0.9),
    "nesterov": cr.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": cr.Adam(0.01),
    "adamw": cr.AdamW(0.01),
}
CLOCKS = ("seconds", "rows_per_second")


def data(rows=23, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, 3))
    return X, (X[:, 0] - X[:, 1] + 0.5 * rng.standard_normal(rows) > 0).astype(int) + (X[:, 2] > 0.8)


def network(dropout=0.3, dtype="float64", seed=4):
    layers = [cr.Dense(6, "tanh"), *([cr.Dropout(dropout)] if dropout else []), cr.Dense(3, "softmax")]
    return cr.Network(3, layers, seed=seed, dtype=dtype)


def regression(seed=4):
    X, _ = data()
    return cr.Network(3, [cr.Dense(5, "tanh"), cr.Dense(1)], seed=seed), X, X[:, 0] * X[:, 1]


def without_clocks(history):
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in history]


def assert_same_run(one, other):
    """Every number of two runs but the clocks', to the last bit."""
    assert without_clocks(one.history) == without_clocks(other.history)
    assert (one.reason, one.best_epoch, one.best_score) == (other.reason, other.best_epoch, other.best_score)
    a, b = one.snapshot, other.snapshot
    np.testing.assert_array_equal(a.theta, b.theta)
    assert list(a.slots) == list(b.slots)
    for name in a.slots:
        np.testing.assert_array_equal(a.slots[name], b.slots[name])
    names = ("step", "cost_sum", "best_epoch", "best_score", "reference", "stale")
    assert [getattr(a, name) for name in names] == [getattr(b, name) for name in names]
    assert (a.best_theta is None) == (b.best_theta is None)
    if a.best_theta is not None:
        np.testing.assert_array_equal(a.best_theta, b.best_theta)


# -- the same seed, the same bits -------------------------------------------------------------------------------------


def test_same_seed_same_bits():
    X, y = data()
    runs = [network().fit(X, y, epochs=4, batch_size=5) for _ in range(2)]
    assert_same_run(*runs)
    other = network().fit(X, y, epochs=4, batch_size=5, seed=5)
    assert (other.snapshot.theta != runs[0].snapshot.theta).any()


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sampling", ["shuffle", "sequential", "replacement"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_stopped_and_resumed_gives_the_same_bits(optimizer, sampling, drop_last, tmp_path):
    """Stopped twice at random steps, carried on through a file by another network, with dropout and a schedule."""
    X, y = data()
    settings = {
        "optimizer": OPTIMIZERS[optimizer],
        "sampling": sampling,
        "drop_last": drop_last,
        "schedule": "cosine",
        "epochs": 6,
        "batch_size": 5,
        "clip_norm": 0.5,
        "validation": data(9, seed=1),
        "penalty": 0.01,
        "label_smoothing": 0.1,
        "sample_weight": np.arange(23) % 4,
    }
    whole = network()
    expected = whole.fit(X, y, **settings)
    per_epoch = 4 if drop_last else 5
    assert expected.snapshot.step == 6 * per_epoch and expected.reason == "epochs"

    stops = np.random.default_rng(list(f"{optimizer}{sampling}{drop_last}".encode()))
    first, second = sorted(stops.choice(np.arange(1, 6 * per_epoch), 2, replace=False).tolist())
    run = network().fit(X, y, max_steps=first, **settings)
    assert (run.reason, run.snapshot.step) == ("steps", first)
    assert len(run.history) == first // per_epoch
    cr.save_snapshot(tmp_path / "run", run.snapshot)
    run = network().fit(X, y, max_steps=second, resume=cr.load_snapshot(tmp_path / "run"), **settings)
    carried_on = network(seed=4)
    run = carried_on.fit(X, y, resume=run.snapshot, **settings)
    assert_same_run(run, expected)
    np.testing.assert_array_equal(carried_on.theta, whole.theta)


@pytest.mark.parametrize("stop", [1, 5, 12, 20, 23])
@pytest.mark.parametrize("with_validation", [False, True])
def test_early_stopping_is_the_same_after_a_stop(stop, with_validation):
    X, y = data()
    settings = {"optimizer": cr.SGD(1.0), "epochs": 40, "batch_size": 5, "patience": 2}
    if with_validation:
        settings |= {"validation": data(9, seed=1), "monitor": "error_rate"}
    expected = network().fit(X, y, **settings)
    assert expected.reason == "patience" and len(expected.history) < 40
    run = network().fit(X, y, max_steps=stop, **settings)
    if run.reason == "steps":
        run = network().fit(X, y, resume=run.snapshot, **settings)
    assert_same_run(run, expected)


def test_a_run_that_ended_by_patience_has_nothing_left_to_do():
    X, y = data()
    settings = {"optimizer": cr.SGD(1.0), "epochs": 40, "batch_size": 5, "patience": 2}
    ended = network().fit(X, y, **settings)
    again = network().fit(X, y, resume=ended.snapshot, **settings)
    assert_same_run(again, ended)


def test_every_step_can_be_recreated():
    X, y = data()
    run = network().fit(X, y, epochs=3, batch_size=5, max_steps=7)
    net = network()
    checked = loop.Data(X, np.eye(3)[y], np.ones(23))
    training = loop.Training(
        net.architecture, checked, None, run.plan, loop.first_snapshot("", 0, net.theta, run.plan.optimizer)
    )
    late, early = training.step(6), training.step(2)
    again = training.step(6)
    np.testing.assert_array_equal(late.rows, again.rows)
    np.testing.assert_array_equal(late.masks[1], again.masks[1])
    assert not np.array_equal(late.rows, early.rows)
    for _ in range(7):
        training.advance(training.snapshot.step + 1)
    np.testing.assert_array_equal(training.snapshot.theta, run.snapshot.theta)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"optimizer": cr.Adam(0.02)}, ParameterError),
        ({"optimizer": "sgd"}, ParameterError),
        ({"batch_size": 4}, ParameterError),
        ({"seed": 9}, ParameterError),
        ({"sampling": "sequential"}, ParameterError),
        ({"penalty": 0.1}, ParameterError),
        ({"schedule": "constant"}, ParameterError),
        ({"starts": 2}, ParameterError),
        ({"epochs": 30}, ParameterError),  # the cosine depends on it: the next step would be another one
    ],
)
def test_resume_with_other_settings_is_refused(change, error):
    X, y = data()
    settings = {"optimizer": cr.Adam(0.01), "schedule": "cosine", "epochs": 6, "batch_size": 5}
    snapshot = network().fit(X, y, max_steps=7, **settings).snapshot
    net = network()
    before = net.theta.copy()
    with pytest.raises(error):
        net.fit(X, y, resume=snapshot, **(settings | change))
    np.testing.assert_array_equal(net.theta, before)


def test_resume_with_other_data_or_another_network_is_refused():
    X, y = data()
    snapshot = network().fit(X, y, epochs=2, max_steps=1).snapshot
    with pytest.raises(ParameterError, match="resume"):
        network().fit(X[:20], y[:20], epochs=2, resume=snapshot)
    with pytest.raises(ShapeError, match="resume: expected a snapshot of 66 parameters in float64, got 45"):
        cr.Network(3, [cr.Dense(9, "tanh"), cr.Dense(3, "softmax")]).fit(X, y, epochs=2, resume=snapshot)
    with pytest.raises(ShapeError, match="float32"):
        network(dtype="float32").fit(X, y, epochs=2, resume=snapshot)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"clip_norm": 1}, {"clip_norm": 1.0}),
        ({"batch_size": np.int64(5)}, {"batch_size": 5}),
        ({"optimizer": cr.Adam(np.float64(0.01))}, {"optimizer": cr.Adam(0.01)}),
        ({"optimizer": cr.SGD(1)}, {"optimizer": cr.SGD(1.0)}),
        ({"penalty": 1}, {"penalty": 1.0}),
    ],
)
def test_resume_with_equal_settings_written_otherwise(settings, same):
    X, y = data()
    snapshot = network().fit(X, y, epochs=2, max_steps=1, **settings).snapshot
    assert network().fit(X, y, epochs=2, resume=snapshot, **same).reason == "epochs"


def test_resume_needs_no_starting_weights():
    """The network that carries on may be one that could not be trained from its own parameters."""
    X, y = data()
    net = cr.Network(3, [cr.Dense(4, "tanh", init="zeros"), cr.Dense(3, "softmax", init="zeros")])
    net.set(1, W=np.arange(12).reshape(4, 3) / 10)
    snapshot = net.fit(X, y, epochs=2, max_steps=1).snapshot
    blank = cr.Network(3, [cr.Dense(4, "tanh", init="zeros"), cr.Dense(3, "softmax", init="zeros")])
    assert blank.fit(X, y, epochs=2, resume=snapshot).reason == "epochs"


# -- what ends a run, and what is kept --------------------------------------------------------------------------------


def by_hand(history, patience, tolerance, name):
    """The number of epochs after which the rule of patience ends a run with these scores."""
    reference, stale = math.inf, 0
    for row in history:
        if row[name] < reference - tolerance:
            reference, stale = row[name], 0
        else:
            stale += 1
        if stale >= patience:
            return row["epoch"]
    return None


@pytest.mark.parametrize("tolerance", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("patience", [1, 3])
def test_patience_on_the_training_cost(patience, tolerance):
    X, y = data()
    settings = {"optimizer": cr.SGD(0.8), "epochs": 60, "batch_size": 5}
    free = network().fit(X, y, **settings)
    run = network().fit(X, y, patience=patience, tolerance=tolerance, **settings)
    assert run.reason == "patience"
    assert len(run.history) == by_hand(free.history, patience, tolerance, "train_cost")
    assert without_clocks(run.history) == without_clocks(free.history[: len(run.history)])
    assert run.best_epoch == 0 and run.best_score == run.history[-1]["train_cost"]


@pytest.mark.parametrize("monitor", ["cost", "error_rate", "brier", "rmse", "mae"])
def test_best_epoch_is_the_last_of_the_smallest_scores(monitor):
    X, y = data()
    net = network()
    thetas = []
    run = net.fit(X, y, optimizer=cr.SGD(1.0), epochs=25, batch_size=5, validation=data(9, seed=1), monitor=monitor)
    scores = [row[f"valid_{monitor}"] for row in run.history]
    assert run.best_score == min(scores)
    assert run.best_epoch == max(row["epoch"] for row in run.history if row[f"valid_{monitor}"] == min(scores))
    np.testing.assert_array_equal(net.theta, run.snapshot.best_theta)
    for epochs in (run.best_epoch, 25):  # θ after that epoch, by a run without validation
        other = network()
        other.fit(X, y, optimizer=cr.SGD(1.0), epochs=epochs, batch_size=5)
        thetas.append(other.theta)
    np.testing.assert_array_equal(net.theta, thetas[0])
    np.testing.assert_array_equal(run.snapshot.theta, thetas[1])


def test_scores_are_those_of_the_network():
    X, y = data()
    Xv, yv = data(9, seed=1)
    weights = np.arange(1.0, 10.0)
    net = network()
    run = net.fit(X, y, epochs=3, validation=(Xv, yv, weights), monitor="error_rate", penalty=0.1, label_smoothing=0.2)
    net = network()
    net._theta = run.snapshot.theta
    y_hat = net.predict(Xv)
    last = run.history[-1]
    assert last["valid_cost"] == pytest.approx(net.cost(Xv, yv, penalty=0.1, sample_weight=weights), rel=1e-14)
    assert last["valid_error_rate"] == pytest.approx(np.average(y_hat.argmax(1) != yv, weights=weights), rel=1e-14)


def test_metrics_by_hand():
    s, y_hat, y = np.array([1.0, 3.0]), np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, 2.0], [3.0, 1.0]])
    assert rmse(cr.losses.squared, y_hat, y, s) == pytest.approx(math.sqrt((1 * 0.5 + 3 * 8) / 4))
    assert mae(cr.losses.squared, y_hat, y, s) == pytest.approx((1 * 0.5 + 3 * 2) / 4)
    p = np.array([[0.5], [0.4999]])
    assert error_rate(cr.losses.binary_cross_entropy, p, np.array([[1.0], [1.0]]), s) == 0.75
    assert (
        error_rate(cr.losses.binary_cross_entropy_logits, np.array([[0.0], [-1e-9]]), np.array([[1.0], [0.0]]), s) == 0
    )
    assert error_rate(cr.losses.hinge, np.array([[-0.1], [2.0]]), np.array([[-1.0], [-1.0]]), s) == 0.75


def test_brier_scores_of_scikit_learn():
    score = pytest.importorskip("sklearn.metrics").brier_score_loss
    rng = np.random.default_rng(0)
    s, p = rng.uniform(0, 2, 50), rng.dirichlet(np.ones(3), 50)
    labels = rng.integers(0, 3, 50)
    three = brier(cr.losses.categorical_cross_entropy, p, np.eye(3)[labels], s)
    parts = [score(labels == k, p[:, k], sample_weight=s) for k in range(3)]  # its score of many classes is younger
    assert three == pytest.approx(sum(parts), rel=1e-12)
    two = brier(cr.losses.binary_cross_entropy, p[:, :1], (labels == 1)[:, None], s)
    assert two == pytest.approx(score(labels == 1, p[:, 0], sample_weight=s), rel=1e-12)


def fake_clock(monkeypatch, seconds):
    """A clock that moves by so many seconds every time it is read."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: seconds * next(ticks)))


def test_time_limit_ends_a_run_inside_an_epoch(monkeypatch):
    X, y = data()
    fake_clock(monkeypatch, 1.0)
    net = network()
    run = net.fit(X, y, epochs=50, batch_size=5, time_limit=30.0)
    assert run.reason == "time" and 0 < run.snapshot.step < 40
    assert run.snapshot.seconds > 30
    np.testing.assert_array_equal(net.theta, run.snapshot.theta)
    # the time that a run took counts when it is continued
    again = network().fit(X, y, epochs=50, batch_size=5, time_limit=30.0, resume=run.snapshot)
    assert again.reason == "time" and again.snapshot.step == run.snapshot.step


def test_time_that_is_up_before_the_first_step(monkeypatch):
    X, y = data()
    fake_clock(monkeypatch, 1.0)
    net = network()
    before = net.theta.copy()
    run = net.fit(X, y, time_limit=0.5, validation=data(9, seed=1))
    assert run.reason == "time" and run.history == [] and run.best_epoch == 0
    np.testing.assert_array_equal(net.theta, before)
    assert "0 epochs" in repr(run)


def test_progress_is_told_about_ten_times_a_second(monkeypatch):
    X, y = data()
    fake_clock(monkeypatch, 0.03)
    told = []
    network().fit(X, y, epochs=4, batch_size=5, on_progress=told.append)
    assert told == sorted(told) and 3 <= len(told) <= 10 and all(0 < t <= 4 for t in told)


def test_max_steps_and_callback():
    X, y = data()
    assert network().fit(X, y, epochs=5, batch_size=5, max_steps=3).history == []
    run = network().fit(X, y, epochs=5, batch_size=5, max_steps=10)
    assert run.reason == "steps" and [row["step"] for row in run.history] == [5, 10]
    seen = []
    run = network().fit(X, y, epochs=9, on_epoch=lambda row: seen.append(row) or row["epoch"] == 3)
    assert run.reason == "callback" and seen == run.history and len(seen) == 3


def test_a_callback_that_fails_leaves_the_network_as_it_was():
    X, y = data()
    net = network()
    before = net.theta.copy()

    def fail(row):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        net.fit(X, y, on_epoch=fail)
    np.testing.assert_array_equal(net.theta, before)


def interrupt(row=None):
    raise KeyboardInterrupt


def test_interrupt_in_a_callback_keeps_the_best_epoch():
    X, y = data()
    net = network()
    run = net.fit(
        X,
        y,
        optimizer=cr.SGD(1.0),
        epochs=30,
        batch_size=5,
        validation=data(9, seed=1),
        on_epoch=lambda row: interrupt() if row["epoch"] == 12 else None,
    )
    scores = [row["valid_cost"] for row in run.history]
    assert run.reason == "interrupted" and len(scores) == 12 and run.best_score == min(scores)
    np.testing.assert_array_equal(net.theta, run.snapshot.best_theta)


def failing(monkeypatch, name, at):
    """Let a function that the loop calls be interrupted on its `at`-th call."""
    calls, real = [], getattr(loop, name)

    def wrapped(*arguments, **named):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(loop, name, wrapped)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("gradient", 1),
        ("gradient", 13),
        ("update", 13),
        ("update", 15),
        ("clip", 10),
        ("forward", 0),
        ("evaluate", 2),
        ("evaluate", 6),
    ],
)
def test_interrupted_anywhere_and_resumed_gives_the_same_bits(monkeypatch, name, at):
    """In the middle of a step, or while the epoch is scored on the validation rows."""
    X, y = data()
    settings = {"epochs": 6, "batch_size": 5, "validation": data(9, seed=1), "clip_norm": 1.0}
    expected = network().fit(X, y, **settings)
    with monkeypatch.context() as patch:
        failing(patch, name, at)
        net = network()
        run = net.fit(X, y, **settings)
    if at:
        assert run.reason == "interrupted"
        best = run.snapshot.best_theta if run.best_epoch else run.snapshot.theta
        np.testing.assert_array_equal(net.theta, best)
        run = net.fit(X, y, resume=run.snapshot, **settings)
    assert_same_run(run, expected)


def test_interrupted_by_the_callback_of_the_epoch_that_patience_would_end():
    X, y = data()
    settings = {"optimizer": cr.SGD(1.0), "epochs": 40, "batch_size": 5, "patience": 2}
    expected = network().fit(X, y, **settings)
    last = len(expected.history)
    run = network().fit(X, y, on_epoch=lambda row: interrupt() if row["epoch"] == last else None, **settings)
    assert run.reason == "interrupted"
    assert_same_run(network().fit(X, y, resume=run.snapshot, **settings), expected)


# -- several starts ---------------------------------------------------------------------------------------------------


def test_best_start_is_kept():
    X, y = data()
    net = network()
    run = net.fit(X, y, epochs=4, batch_size=5, starts=5, validation=data(9, seed=1))
    assert len(run.starts) == 5 and run.best_score == min(run.starts) and len(set(run.starts)) == 5
    np.testing.assert_array_equal(net.theta, run.snapshot.best_theta)
    first = network().fit(X, y, epochs=4, batch_size=5, validation=data(9, seed=1))
    assert run.starts[0] == first.best_score
    again = network().fit(X, y, epochs=4, batch_size=5, starts=5, validation=data(9, seed=1))
    assert_same_run(run, again)
    assert run.starts == again.starts


def test_a_start_that_diverges_does_not_win():
    net, X, y = regression()
    net.set(1, W=net.W(1) * 1e160).set(2, W=net.W(2) * 1e200)
    run = net.fit(X, y, loss="squared", epochs=2, starts=3)
    assert run.reason == "epochs" and math.isfinite(run.best_score) and run.best_score == min(run.starts)
    assert np.isfinite(net.theta).all()


# -- the order of the rows --------------------------------------------------------------------------------------------


def plan(**settings):
    return loop.Plan(cr.Cost(cr.losses.squared), cr.SGD(), constant, **settings)


def test_sequential_order():
    for epoch in (0, 3):
        np.testing.assert_array_equal(plan(sampling="sequential").order(epoch, 7), np.arange(7))


def test_shuffles_hold_every_row_once_and_differ():
    orders = [plan(seed=3).order(epoch, 50) for epoch in range(5)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({tuple(order) for order in orders}) == 5
    assert not np.array_equal(orders[0], plan(seed=4).order(0, 50))
    firsts = np.array([plan(seed=3).order(epoch, 5)[0] for epoch in range(2000)])
    assert (np.abs(np.bincount(firsts, minlength=5) - 400) < 6 * math.sqrt(2000 * 0.2 * 0.8)).all()


def test_replacement_draws_each_row_independently():
    draws = np.concatenate([plan(sampling="replacement").order(epoch, 20) for epoch in range(500)])
    counts = np.bincount(draws, minlength=20)
    assert (np.abs(counts - 500) < 6 * math.sqrt(10000 * 0.05 * 0.95)).all()
    one = plan(sampling="replacement").order(0, 1000)
    assert 580 < len(np.unique(one)) < 690  # 1000 (1 − 1/e) = 632


@pytest.mark.parametrize(
    ("rows", "batch_size", "drop_last", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (10, None, False, [10]),
        (3, 8, True, [3]),
        (8, 4, True, [4, 4]),
    ],
)
def test_batches_of_an_epoch(rows, batch_size, drop_last, sizes):
    net, X, y = regression()
    own = plan(batch_size=batch_size, drop_last=drop_last)
    training = loop.Training(
        net.architecture,
        loop.Data(X[:rows], y[:rows, None], np.ones(rows)),
        None,
        own,
        loop.first_snapshot("", 0, net.theta, own.optimizer),
    )
    steps = [training.step(k).rows for k in range(own.steps_per_epoch(rows))]
    assert [len(step) for step in steps] == sizes
    assert len(set(np.concatenate(steps))) == sum(sizes)


# -- divergence -------------------------------------------------------------------------------------------------------


def test_divergence_names_layer_row_and_step():
    X, y = data()
    X[7] = 1e200
    net = cr.Network(3, [cr.Dense(4, "square"), cr.Dense(1)], seed=1)
    before = net.theta.copy()
    with pytest.raises(DivergenceError) as caught:
        net.fit(X, y, epochs=3, batch_size=None, sampling="sequential")
    message = str(caught.value)
    for part in (
        "fit, step 0 (epoch 1)",
        "a of layer 1 (Dense 3 → 4, square) is inf in row 7 of X",
        "Scale X and y",  # before the first update no learning rate has a part in it
    ):
        assert part in message
    run = caught.value.run
    assert run.reason == "diverged" and run.history == [] and run.snapshot.step == 0
    np.testing.assert_array_equal(net.theta, before)


def test_divergence_names_the_row_of_the_data_not_of_the_batch():
    X, y = data()
    X[7] = 1e200
    net = cr.Network(3, [cr.Dense(4, "square"), cr.Dense(1)], seed=1)
    with pytest.raises(DivergenceError, match="in row 7 of X"):
        net.fit(X, y, epochs=1, batch_size=3)


def growing():
    """A network and settings with which training is unstable, and overflows after a few epochs."""
    X, y = data()
    net = cr.Network(3, [cr.Dense(4, "square"), cr.Dense(1)], seed=1)
    return net, {
        "X": X,
        "y": y,
        "optimizer": cr.SGD(1e-3, momentum=0.9),
        "schedule": rising,
        "epochs": 500,
        "batch_size": 5,
    }


@cr.schedule("2**epoch")
def rising(epoch, epochs):
    return 2.0**epoch


def test_divergence_by_a_learning_rate_keeps_what_was_finite():
    net, settings = growing()
    with pytest.raises(DivergenceError, match=r"step \d+ \(epoch \d+\).* is -?(inf|nan) in row \d+ of X") as caught:
        net.fit(**settings)
    run = caught.value.run
    assert len(run.history) == run.snapshot.step // 5 > 2 and run.reason == "diverged"
    assert np.isfinite(net.theta).all()
    np.testing.assert_array_equal(net.theta, run.snapshot.theta)


def test_divergence_keeps_the_best_epoch():
    net, settings = growing()
    with pytest.raises(DivergenceError) as caught:
        net.fit(validation=data(9, seed=1), **settings)
    run = caught.value.run
    scores = [row["valid_cost"] for row in run.history]
    assert run.best_epoch == 1 + scores.index(min(scores)) < len(scores)
    np.testing.assert_array_equal(net.theta, run.snapshot.best_theta)


def test_divergence_on_the_validation_rows_says_so():
    X, y = data()
    Xv, yv = data(9, seed=1)
    Xv[4] = 1e200
    with pytest.raises(DivergenceError, match=r"layer 1 .* row 4 of the validation rows"):
        cr.Network(3, [cr.Dense(4, "square"), cr.Dense(1)]).fit(X, y, epochs=1, validation=(Xv, yv))


def test_logarithm_of_a_zero_points_to_logits():
    net = cr.Network(1, [cr.Dense(1, "step")])
    net.set(1, W=[[1.0]])
    with pytest.raises(DivergenceError, match="binary_cross_entropy_logits"):
        net.fit([[1.0], [2.0]], [0.0, 1.0], loss="binary_cross_entropy")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_huge_gradient_that_is_clipped_still_moves_the_parameters(dtype):
    """Its squares overflow, its direction does not: one step of length η · clip_norm, and not a standstill."""
    size = 1e25 if dtype == "float32" else 1e200
    net = cr.Network(1, [cr.Dense(1, bias=False)], dtype=dtype).set(1, W=[[0.5]])
    net.fit([[size]], [0.0], loss="absolute", optimizer=cr.SGD(0.1), epochs=1, clip_norm=1.0)
    assert net.W(1)[0, 0] == pytest.approx(0.4, rel=1e-6)


# -- refusals: nothing is changed -------------------------------------------------------------------------------------


def test_all_zero_start_is_refused_with_a_hidden_layer():
    X, y = data()
    zero = [cr.Dense(4, "tanh", init="zeros"), cr.Dense(3, "softmax", init="zeros")]
    with pytest.raises(ParameterError, match=r"all zero.*symmetry"):
        cr.Network(3, zero).fit(X, y)
    with pytest.raises(ParameterError, match="symmetry"):
        cr.Network(3, [cr.Scale(), cr.Dense(4, "tanh", init="zeros", bias_init="normal"), zero[1]]).fit(X, y)


def test_zeros_are_fine_without_a_hidden_layer_or_in_the_output_layer_alone():
    X, y = data()
    for layers in (
        [cr.Dense(3, "softmax", init="zeros")],
        [cr.Scale(), cr.Dense(3, "softmax", init="zeros")],
        [cr.Dense(4, "tanh"), cr.Dense(3, "softmax", init="zeros")],
    ):
        net = cr.Network(3, layers)
        run = net.fit(X, y, epochs=5)
        assert run.history[-1]["train_cost"] < run.history[0]["train_cost"] and net.theta.any()


# -- what a review found ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["array", "compiled"])
@pytest.mark.parametrize("epochs", [1, 4])
def test_an_update_that_overflows_leaves_finite_parameters(engine, epochs):
    X, y = np.ones((4, 1)), np.full((4, 1), 1e10)
    for settings in ({"optimizer": cr.SGD(1e300)}, {"schedule": Schedule("gone", lambda epoch, epochs: np.nan, "nan")}):
        net = cr.Network(1, [Dense(1)], seed=1)
        before = net.theta.copy()
        with pytest.raises(DivergenceError, match="of the parameters overflows") as caught:
            net.fit(X, y, epochs=epochs, batch_size=None, engine=engine, **settings)
        np.testing.assert_array_equal(net.theta, before)
        assert np.isfinite(caught.value.run.snapshot.theta).all()
        if engine == "compiled":
            with pytest.raises(ParameterError, match="fit, resume: expected the settings"):
                net.fit(X, y, epochs=9, batch_size=None, engine=engine, resume=caught.value.run.snapshot, **settings)


@pytest.mark.parametrize("engine", ["array", "compiled"])
def test_costs_do_not_depend_on_where_a_run_pauses(engine, monkeypatch):
    X, y = data(37)
    settings = {"epochs": 3, "batch_size": 5, "sample_weight": np.arange(37) % 3 + 0.1, "engine": engine, "threads": 1}
    costs = []
    for seconds in (0.1, 1e-9):
        monkeypatch.setattr(loop, "BLOCK_SECONDS", seconds)
        costs.append([row["train_cost"] for row in network().fit(X, y, **settings).history])
    assert costs[0] == costs[1]
    part = network().fit(X, y, **settings, max_steps=11)
    whole = network().fit(X, y, **settings, resume=part.snapshot)
    assert [row["train_cost"] for row in whole.history] == costs[0]


def test_a_run_that_goes_on_with_another_judge_compares_anew():
    X, y = data(40)
    Xv, yv = data(15, seed=3)
    first = network().fit(X, y, epochs=3, validation=(Xv, yv), monitor=lambda loss, y_hat, y, s: -100.0)
    assert first.best_epoch == 3 and first.best_score == -100
    for other in ({"monitor": "cost", "validation": (Xv, yv)}, {"monitor": "error_rate", "validation": (X, y)}):
        run = network().fit(X, y, epochs=20, resume=first.snapshot, **other)
        key = f"valid_{other['monitor']}"
        scores = [row[key] for row in run.history[3:]]
        assert run.best_score == min(scores) and run.best_epoch > 3
    same = network().fit(X, y, epochs=3, validation=(Xv, yv))
    whole = network().fit(X, y, epochs=6, validation=(Xv, yv))
    assert network().fit(X, y, epochs=6, validation=(Xv, yv), resume=same.snapshot).best_score == whole.best_score


def test_nobody_writes_into_what_is_not_theirs():
    X, y = data(20)
    one_hot, weights = np.eye(3)[y], np.ones(20)

    @dataclass(frozen=True)
    class InPlace:
        learning_rate: float = 0.1
        slots: tuple[str, ...] = ()

        def coefficients(self, t):
            return ()

        def rule(self, xp, real):
            def rule(theta, g, eta):
                theta -= eta * g
                return (theta,)

            return rule

    with pytest.raises(ValueError, match="read-only"):
        network().fit(X, y, epochs=1, optimizer=InPlace(), engine="array")

    def clears(loss, y_hat, y, s):
        y[:] = 0
        return 1.0

    with pytest.raises(ValueError, match="read-only"):
        network().fit(X, y, epochs=1, validation=(X, one_hot, weights), monitor=clears)
    assert one_hot.sum() == 20

    def cost(loss, y_hat, y, s):
        return -5.0

    row = network().fit(X, y, epochs=1, validation=(X, y), monitor=cost).history[0]
    assert row["valid_metric"] == -5 and row["valid_cost"] > 0
    run = network().fit(X, y, epochs=2, on_epoch=lambda row: row.clear())
    assert len(run.history) == 2 and run.history[0]["train_cost"] > 0


def test_rules_whose_coefficients_take_one_count():
    @dataclass(frozen=True)
    class Slower:
        learning_rate: float = 0.1
        slots: tuple[str, ...] = ()

        def coefficients(self, t):
            return (1 / math.sqrt(max(t, 3)),)

        def rule(self, xp, real):
            return lambda theta, g, eta, factor: (theta - eta * factor * g,)

    X, y = data(20)
    nets = [network() for _ in range(2)]
    for net, engine in zip(nets, ("array", "compiled"), strict=True):
        net.fit(X, y, epochs=3, batch_size=5, optimizer=Slower(), engine=engine)
    np.testing.assert_allclose(nets[0].theta, nets[1].theta, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", ["array", "compiled"])
def test_a_run_with_snapshots_can_be_copied(engine):
    X, y = data(20)
    run = network().fit(X, y, epochs=2, batch_size=5, engine=engine, keep_every=3)
    for copied in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        np.testing.assert_array_equal(copied.trace(4).dC_dtheta, run.trace(4).dC_dtheta)


@pytest.mark.parametrize("engine", ["array", "compiled"])
def test_the_memory_of_a_fit_is_free_when_it_ends(engine, monkeypatch):
    """Without the collector of circular references: gradient, workspace and what the optimizer keeps may be large."""
    trainings = []
    usual = loop.Training.__post_init__
    monkeypatch.setattr(loop.Training, "__post_init__", lambda self: (trainings.append(weakref.ref(self)), usual(self)))
    X, y = data(20)
    gc.disable()
    try:
        network().fit(X, y, epochs=2, batch_size=5, engine=engine, validation=(X, y))
        assert [training() for training in trainings] == [None]
    finally:
        gc.enable()


def test_a_compiled_network_wants_rows_too():
    net = network()
    for _ in range(2):
        with pytest.raises(ShapeError, match="predict: expected X with at least one row"):
            net.predict(np.empty((0, 3)))
        net.compile()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"slots": {}}, "was changed"), ({"history": ({"epoch": 1.0},)}, "was changed"), ({"step": -1}, "was changed")],
)
def test_snapshots_that_were_changed(change, message):
    X, y = data(20)
    snapshot = network().fit(X, y, epochs=2).snapshot
    with pytest.raises(ParameterError, match=message):
        network().fit(X, y, epochs=3, resume=dataclasses.replace(snapshot, **change))


def test_layers_and_records_that_no_file_could_hold():
    for make in (
        lambda: Dense(2, bias=1),
        lambda: Dense(2, ntk="yes"),
        lambda: cr.Network(2, [Dense(2, "leaky_relu(1e400)")]),
    ):
        with pytest.raises(ParameterError, match="expected"):
            make()
    big = cr.Network(2, [Dense(2)], dtype=">f8")
    assert big.dtype == np.float64 and big.dtype.isnative


X0, Y0 = data()
BAD = [
    ({"X": X0[:, :2]}, ShapeError, "fit: expected X with 3 columns, got 2 (shape (23, 2))"),
    ({"X": X0[:5]}, ShapeError, "fit: expected X and y with as many rows, got 5 and 23"),
    ({"X": X0[:0], "y": Y0[:0]}, ShapeError, "fit: expected X with at least one row, got none"),
    ({"X": X0[None]}, ShapeError, "fit: expected X with 2 axes (rows, columns), got 3"),
    (
        {"X": np.where(np.arange(69).reshape(23, 3) == 14, np.nan, X0)},
        DataError,
        "fit: expected finite numbers in X, got nan at row 4, column 2",
    ),
    ({"X": np.where(np.arange(69).reshape(23, 3) == 3, -np.inf, X0)}, DataError, "got -inf at row 1, column 0"),
    ({"X": [["a"] * 3] * 23}, DataError, "fit: expected X to be a matrix of numbers"),
    ({"X": [[1, 2, 3], [1, 2]]}, DataError, "fit: expected X to be a matrix of numbers"),
    ({"X": X0 + 1j}, DataError, "complex"),
    ({"X": np.zeros((23, 3), "M8[s]")}, DataError, "got something else (dates or durations)"),
    (
        {"X": np.array([[np.datetime64("2020-01-01")] * 3] * 23, object)},
        DataError,
        "got something else (dates or durations)",
    ),
    ({"X": np.ma.masked_where(X0 > 1, X0)}, DataError, "masked numbers. Remove or fill such rows first"),
    (
        {"X": sparse.csr_array(X0)},
        DataError,
        "expected X to be a matrix of numbers, got a sparse matrix. Pass .toarray()",
    ),
    ({"y": np.ma.masked_equal(Y0, 2)}, DataError, "expected y to be a matrix of numbers, got something else (masked"),
    ({"sample_weight": np.ma.masked_less(np.ones(23), 2)}, DataError, "masked numbers"),
    ({"sample_weight": np.ones(23) * 1j}, DataError, "complex numbers"),
    ({"X": [[10**400, 1, 2]] * 23}, DataError, "expected X to be a matrix of numbers"),
    ({"keep_every": True}, ParameterError, "expected keep_every to be a whole number"),
    ({"on_epoch": 3}, ParameterError, "fit, on_epoch: expected a function, got 3"),
    (
        {"validation": (X0, Y0), "monitor": lambda *given: "low"},
        ParameterError,
        "fit, monitor: expected a number from <lambda>, got 'low'",
    ),
    ({"y": np.where(Y0 == 2, 3, Y0)}, DataError, "expected labels 0 to 2 in y, got 3"),
    ({"sample_weight": np.zeros(23)}, DataError, "some sample weight above 0"),
    ({"validation": X0}, ParameterError, "expected validation as (X, y) or (X, y, weights)"),
    ({"validation": (X0[:, :2], Y0)}, ShapeError, "fit, validation: expected X with 3 columns, got 2"),
    ({"validation": (X0, Y0[:3])}, ShapeError, "fit, validation: expected X and y with as many rows"),
    ({"loss": "hubber"}, ParameterError, "fit, loss: unknown name 'hubber'. Did you mean 'huber'?"),
    ({"loss": "binary_cross_entropy", "y": Y0}, ShapeError, "expected y with 3 columns, one per output, got 1"),
    ({"aggregate": "median"}, ParameterError, "fit, aggregate: unknown name 'median'"),
    ({"optimizer": "adma"}, ParameterError, "fit, optimizer: unknown name 'adma'. Did you mean 'adam'?"),
    ({"schedule": "cosin"}, ParameterError, "fit, schedule: unknown name 'cosin'. Did you mean 'cosine'?"),
    ({"sampling": "shufle"}, ParameterError, "fit, sampling: unknown name 'shufle'. Did you mean 'shuffle'?"),
    ({"epochs": 0}, ParameterError, "expected epochs to be a whole number of at least 1, got 0"),
    ({"epochs": 2.5}, ParameterError, "expected epochs to be a whole number of at least 1, got 2.5"),
    ({"epochs": True}, ParameterError, "expected epochs"),
    ({"epochs": None}, ParameterError, "expected epochs"),
    ({"batch_size": 0}, ParameterError, "expected batch_size to be a whole number of at least 1, got 0"),
    ({"batch_size": "32"}, ParameterError, "expected batch_size"),
    ({"patience": 0}, ParameterError, "expected patience"),
    ({"max_steps": 0}, ParameterError, "expected max_steps"),
    ({"starts": 0}, ParameterError, "expected starts to be a whole number of at least 1, got 0"),
    ({"tolerance": -1.0}, ParameterError, "expected tolerance of at least 0, got -1.0"),
    ({"tolerance": math.nan}, ParameterError, "expected tolerance of at least 0, got nan"),
    ({"clip_norm": 0.0}, ParameterError, "expected clip_norm above 0, got 0.0"),
    ({"time_limit": -1}, ParameterError, "expected time_limit above 0, got -1"),
    ({"monitor": "rmse"}, ParameterError, "expected a validation set with monitor='rmse', got none"),
    ({"monitor": "rsme", "validation": (X0, Y0)}, ParameterError, "fit, monitor: unknown name 'rsme'"),
    (
        {"monitor": "error_rate", "loss": "squared", "y": np.eye(3)[Y0]},
        ParameterError,
        "expected a classification loss",
    ),
    (
        {"monitor": "brier", "loss": "squared", "y": np.eye(3)[Y0], "validation": (X0, np.eye(3)[Y0])},
        ParameterError,
        "expected a loss of probabilities with 'brier', got squared",
    ),
    ({"seed": -1}, ParameterError, "expected a seed, a whole number from 0 to 2**63 - 1, got -1"),
    ({"seed": 1.5}, ParameterError, "expected a seed"),
    ({"average_outputs": True}, ParameterError, "average_outputs"),
    ({"penalty": -1.0}, ParameterError, "expected penalty of at least 0, got -1.0"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[f"{'-'.join(b[0])}-{i}" for i, b in enumerate(BAD)])
def test_bad_input_is_refused_and_changes_nothing(change, error, message):
    net = network()
    before = net.theta.copy()
    with pytest.raises(error) as caught:
        net.fit(**({"X": X0, "y": Y0, "epochs": 1} | change))
    assert message in str(caught.value)
    np.testing.assert_array_equal(net.theta, before)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: cr.Network(0, [cr.Dense(1)]),
            ParameterError,
            "Network: expected inputs to be a whole number of at least 1",
        ),
        (lambda: cr.Network(2, []), ParameterError, "expected at least one layer with weights, got 0"),
        (lambda: cr.Network(2, [cr.Dropout(0.5)]), ParameterError, "expected at least one layer with weights, got 1"),
        (
            lambda: cr.Network(2, [3]),
            ParameterError,
            "Network, layer 1: expected a layer such as Dense(3, 'tanh'), got 3",
        ),
        (
            lambda: cr.Network(2, [cr.Dense(3, "rely")]),
            ParameterError,
            "layer 1, activation: unknown name 'rely'. Did you",
        ),
        (
            lambda: cr.Network(2, [cr.Dense(3), cr.Dense(1, inputs=4)]),
            ShapeError,
            "layer 2: expected 4 inputs as the layer",
        ),
        (lambda: cr.Network(2, [cr.Dense(3)], dtype="int32"), ParameterError, "expected dtype 'float64' or 'float32'"),
        (
            lambda: cr.Network(2, [cr.Dense(3)], dtype="nothing"),
            ParameterError,
            "expected dtype 'float64' or 'float32'",
        ),
        (lambda: cr.Network(2, [cr.Dense(3)], seed=2**63), ParameterError, "expected a seed"),
        (lambda: cr.Dense(0), ParameterError, "Dense: expected units to be a whole number of at least 1, got 0"),
        (lambda: cr.Dense(2.0), ParameterError, "Dense: expected units"),
        (lambda: cr.Dense(2, learning_rate_factor=-1), ParameterError, "learning-rate factors of at least 0, got -1"),
        (lambda: cr.Dense(2, learning_rate_factor=math.inf), ParameterError, "learning-rate factors"),
        (lambda: cr.Scale(learning_rate_factor=math.nan), ParameterError, "learning-rate factor"),
        (lambda: cr.Dropout(1.0), ParameterError, "Dropout: expected a rate from 0 to below 1, got 1.0"),
        (lambda: cr.Dropout(-0.1), ParameterError, "Dropout: expected a rate from 0 to below 1"),
        (lambda: cr.Dropout(math.nan), ParameterError, "Dropout: expected a rate"),
    ],
)
def test_bad_networks_are_refused(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


def test_set_predict_and_decide_refuse_what_does_not_fit():
    net = network()
    before = net.theta.copy()
    cases = [
        (lambda: net.set(1, W=np.zeros((3, 6))), ShapeError, "layer 1 (Dense 3 → 6, tanh): expected W of shape (6, 3)"),
        (lambda: net.set(1, W=np.ones((6, 3)), b=[math.nan] * 6), DataError, "finite numbers in b"),
        (lambda: net.set(4, W=[[1]]), ParameterError, "expected a layer from 1 to 3, got 4"),
        (lambda: net.set(2, W=[[1]]), ParameterError, "expected a layer with a W, got layer 2 (Dropout 0.3)"),
        (lambda: net.W(0), ParameterError, "expected a layer from 1 to 3, got 0"),
        (lambda: net.predict(X0[:, :2]), ShapeError, "predict: expected X with 3 columns, got 2"),
        (lambda: net.predict([[1, 2, math.nan]]), DataError, "predict: expected finite numbers in X"),
        (
            lambda: regression()[0].decide(X0),
            ParameterError,
            "expected a softmax, sigmoid or step output, got identity",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)
        np.testing.assert_array_equal(net.theta, before)
    with pytest.raises(ValueError, match="read-only"):
        net.theta[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        net.W(1)[0, 0] = 1


def test_objects_are_numbers_and_labels_or_refused():
    X, _ = data()
    for rows in ([[0, None, 0]], np.array([[0, None, 0]])):
        with pytest.raises(DataError, match="got nan at row 0, column 1"):
            network().predict(rows)
    net = cr.Network(3, [cr.Dense(2, "softmax")])
    labels = (X[:, 0] > 0).astype(int)
    assert net.cost(X, labels.astype(object)) == net.cost(X, labels)


def test_numbers_too_large_for_float32_are_refused_without_a_warning():
    with pytest.raises(DataError, match=r"got 1e\+300, which float32 cannot hold, at row 0, column 1"):
        network(dtype="float32").predict([[0, 1e300, 0]])


def test_decisions():
    net = cr.Network(1, [cr.Dense(1, "sigmoid")]).set(1, W=[[1.0]], b=[0.0])
    np.testing.assert_array_equal(net.decide([-1.0, -1e-3, -0.0, 0.0, 1e-300, 5.0])[:, 0], [0, 0, 1, 1, 1, 1])
    net = cr.Network(2, [cr.Dense(2, "softmax", bias=False)]).set(1, W=np.eye(2))
    np.testing.assert_array_equal(net.decide([[1, 2], [2, 1], [1e4, -1e4]]), [1, 0, 0])


def test_decisions_are_those_of_the_logits_where_probabilities_round():
    """ŷ = 1{z ≥ 0}: σ(−1e-17) rounds to ½, and softmax of logits that differ by less than a rounding is a tie."""
    net = cr.Network(1, [cr.Dense(1, "sigmoid", bias=False)]).set(1, W=[[1.0]])
    np.testing.assert_array_equal(net.decide([-1e-17, 1e-17])[:, 0], [0, 1])
    net = cr.Network(2, [cr.Dense(2, "softmax", bias=False)]).set(1, W=np.eye(2))
    np.testing.assert_array_equal(net.decide([[0, 1e-17], [1e-17, 0]]), [1, 0])


# -- random numbers ---------------------------------------------------------------------------------------------------


def test_splitmix64_against_its_published_numbers():
    """The first outputs for the seed 1234567, as published with the reference code in C."""
    golden = 0x9E3779B97F4A7C15
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [_mix((1234567 + (i + 1) * golden) % 2**64) for i in range(4)] == published


def test_uniform_numbers_are_uniform():
    u = uniform((1000, 200), 7, Purpose.DROPOUT, 3, 1)
    assert u.shape == (1000, 200) and u.min() >= 0 and u.max() < 1
    n = u.size
    assert abs(u.mean() - 0.5) < 6 / math.sqrt(12 * n)
    assert abs(u.var() - 1 / 12) < 6 * math.sqrt(1 / 180 / n)
    counts = np.bincount((u.ravel() * 100).astype(int), minlength=100)
    chi2 = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert abs(chi2 - 99) < 6 * math.sqrt(2 * 99)
    flat = u.ravel()
    for lag in (1, 2, 200, 1000):  # neighbours in a row and in a column
        assert abs(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) < 6 / math.sqrt(n)


def test_streams_are_independent():
    keys = [
        (seed, purpose, *counters)
        for seed in (0, 1, 2**63 - 1)
        for purpose in (Purpose.DROPOUT, Purpose.SPLIT)
        for counters in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    ]
    streams = np.array([uniform((1, 4000), *key)[0] for key in keys])
    correlation = np.corrcoef(streams) - np.eye(len(keys))
    assert np.abs(correlation).max() < 6 / math.sqrt(4000)
    assert len(np.unique(streams)) == streams.size
    drawn = np.array([generator(*key).random(4000) for key in keys])
    assert np.abs(np.corrcoef(drawn) - np.eye(len(keys))).max() < 6 / math.sqrt(4000)


def test_a_part_of_the_rows_draws_the_same_numbers():
    whole = uniform((10, 3), 1, Purpose.DROPOUT, 5)
    np.testing.assert_array_equal(uniform((4, 3), 1, Purpose.DROPOUT, 5), whole[:4])
    np.testing.assert_array_equal(generator(1, Purpose.ORDER, 5).random(9), generator(1, Purpose.ORDER, 5).random(9))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_masks(rate, dtype):
    A = chain("test", 50, [Dropout(rate), Dense(40, "relu"), Dropout(rate), Dense(1)])
    masks = A.masks(2000, 3, 17, np.dtype(dtype))
    assert masks[1] is None and masks[3] is None
    for mask, units in ((masks[0], 50), (masks[2], 40)):
        assert mask.shape == (2000, units) and mask.dtype == dtype
        np.testing.assert_array_equal(np.unique(mask), np.array([0, 1 / (1 - rate)], dtype))
        n = mask.size
        assert abs((mask == 0).mean() - rate) < 6 * math.sqrt(rate * (1 - rate) / n)
    assert (masks[0][:, :40] != masks[2]).any()
    assert (A.masks(2000, 3, 18, np.dtype(dtype))[0] != masks[0]).any()
    np.testing.assert_array_equal(A.masks(2000, 3, 17, np.dtype(dtype))[0], masks[0])
    assert chain("test", 2, [Dense(1)]).masks(5, 0, 0, np.dtype(dtype)) is None


def test_prediction_uses_no_dropout():
    net = network(dropout=0.5)
    plain = network(dropout=0)
    for number, same in ((1, 1), (3, 2)):
        plain.set(same, W=net.W(number), b=net.b(number))
    np.testing.assert_array_equal(net.predict(X0), plain.predict(X0))
    np.testing.assert_array_equal(network(dropout=0.0).predict(X0), network(dropout=0).predict(X0))


# -- float32 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_float32_stays_float32(optimizer):
    X, y = data()
    net = cr.Network(
        3,
        [cr.Scale(), cr.Dense(6, "gelu", ntk=True, learning_rate_factor=0.5), cr.Dropout(0.2), cr.Dense(3, "softmax")],
        dtype="float32",
    )
    run = net.fit(
        X,
        y,
        epochs=3,
        batch_size=5,
        optimizer=OPTIMIZERS[optimizer],
        clip_norm=0.3,
        penalty=0.01,
        schedule="cosine",
        validation=data(9, seed=1),
        sample_weight=np.arange(1, 24),
    )
    arrays = [net.theta, run.snapshot.theta, run.snapshot.best_theta, net.predict(X), *run.snapshot.slots.values()]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    assert all(type(value) in (int, float) for row in run.history for value in row.values())


def test_many_rows_are_predicted_in_parts_with_the_same_result():
    X = np.random.default_rng(0).standard_normal((10_000, 3))
    net = network()
    together = net.predict(X)
    np.testing.assert_allclose(together, np.concatenate([net.predict(X[:5000]), net.predict(X[5000:])]), rtol=1e-14)
    y = np.random.default_rng(1).integers(0, 3, 10_000)
    run = net.fit(X[:50], y[:50], epochs=1, validation=(X, y))
    assert run.history[0]["valid_cost"] == pytest.approx(net.cost(X, y), rel=1e-13)


# -- files ------------------------------------------------------------------------------------------------------------


def rich_network(dtype="float64"):
    return cr.Network(
        3,
        [
            cr.Scale(),
            cr.Dense(6, "leaky_relu(0.123456789)", ntk=True, bias_init="normal(0.3)", learning_rate_factor=0.5),
            cr.Dropout(0.25),
            cr.Dense(4, "elu", bias=False, init="uniform(limit=0.2)"),
            cr.Dense(3, "softmax"),
        ],
        seed=11,
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_saved_and_loaded_is_the_same_network(tmp_path, dtype):
    net = rich_network(dtype)
    net.fit(X0, Y0, epochs=2)
    net.save(tmp_path / "net.model")
    again = cr.Network.load(tmp_path / "net.model")
    np.testing.assert_array_equal(again.theta, net.theta)
    assert again.dtype == net.dtype and again.seed == net.seed and again.architecture == net.architecture
    np.testing.assert_array_equal(again.predict(X0), net.predict(X0))
    one, other = (n.fit(X0, Y0, epochs=2, batch_size=5) for n in (net, again))
    assert_same_run(one, other)
    again.save(tmp_path / "again.model")
    assert os.listdir(tmp_path) and sorted(os.listdir(tmp_path)) == ["again.model", "net.model"]


def test_file_is_valid_safetensors_with_a_json_document(tmp_path):
    net = rich_network()
    net.save(tmp_path / "net.model")
    arrays = load_file(tmp_path / "net.model")
    np.testing.assert_array_equal(arrays["theta"], net.theta)
    raw = (tmp_path / "net.model").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    document = json.loads(header["__metadata__"]["chainrule"])
    assert (document["format"], document["kind"], document["seed"]) == (1, "network", 11)
    assert [layer["layer"] for layer in document["network"]["layers"]] == [
        "scale",
        "dense",
        "dropout",
        "dense",
        "dense",
    ]
    assert document["network"]["layers"][1]["activation"] == "leaky_relu(slope=0.123456789)"


def test_numpy_numbers_as_sizes_can_be_saved(tmp_path):
    net = cr.Network(np.int64(3), [cr.Dropout(np.float32(0.25)), cr.Dense(np.int64(3), "softmax")], seed=np.int64(1))
    net.save(tmp_path / "net.model")
    np.testing.assert_array_equal(cr.Network.load(tmp_path / "net.model").theta, net.theta)


def test_own_activation_is_passed_in_again(tmp_path):
    net = cr.Network(3, [cr.Dense(4, softsign), cr.Dense(1)])
    net.save(tmp_path / "net.model")
    with pytest.raises(ModelFileError, match=r"net\.model.*unknown name 'softsign'"):
        cr.Network.load(tmp_path / "net.model")
    again = cr.Network.load(tmp_path / "net.model", activations=[softsign])
    np.testing.assert_array_equal(again.predict(X0), net.predict(X0))


def test_own_activation_with_the_name_of_another_is_not_taken_for_it(tmp_path):
    def tanh(xp, real):
        return softsign.make(xp, real)

    net = cr.Network(3, [cr.Dense(4, cr.activation(range=(-1, 1))(tanh)), cr.Dense(1)])
    try:
        net.save(tmp_path / "net.model")
        again = cr.Network.load(tmp_path / "net.model")
    except cr.ChainRuleError:
        return  # refused when saved or when loaded
    np.testing.assert_array_equal(again.predict(X0), net.predict(X0))


def test_own_initializer_gives_a_file_that_can_be_read_or_none(tmp_path):
    @cr.initializers.initializer("0.5", "")
    def halves(generator, shape):
        return np.full(shape, 0.5)

    net = cr.Network(3, [cr.Dense(4, "tanh", init=halves), cr.Dense(1)])
    try:
        net.save(tmp_path / "net.model")
    except cr.ChainRuleError:
        assert os.listdir(tmp_path) == []
        return
    np.testing.assert_array_equal(cr.Network.load(tmp_path / "net.model").predict(X0), net.predict(X0))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.model"
    rich_network().save(path)
    return path


def test_missing_and_foreign_files_are_refused(tmp_path):
    for name, content in (
        ("empty", b""),
        ("text", b"hello, world"),
        ("pickle", b"\x80\x04]q\x00."),
        ("zeros", bytes(99)),
    ):
        (tmp_path / name).write_bytes(content)
    save_file({"theta": np.zeros(3)}, tmp_path / "foreign")
    save_file({"theta": np.zeros(3)}, tmp_path / "list", metadata={"chainrule": "[1, 2]"})
    save_file({"theta": np.zeros(3)}, tmp_path / "not json", metadata={"chainrule": "{"})
    save_file({"theta": np.zeros(3)}, tmp_path / "deep", metadata={"chainrule": "[" * 100_000})
    for name in ("missing", "empty", "text", "pickle", "zeros", "foreign", "list", "not json", "deep", "."):
        with pytest.raises(ModelFileError) as caught:
            cr.Network.load(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_truncated_and_damaged_files_are_refused(saved):
    raw = saved.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, *range(200, len(raw), 97), len(raw) - 1]:
        saved.write_bytes(raw[:size])
        with pytest.raises(ModelFileError):
            cr.Network.load(saved)
    saved.write_bytes(raw + b"x")
    with pytest.raises(ModelFileError):
        cr.Network.load(saved)


def test_a_damaged_byte_never_raises_anything_else(saved):
    """Either the file is refused, or a number in it differs (then it loads), but no other error comes out."""
    raw, refused = saved.read_bytes(), 0
    header = 8 + int.from_bytes(raw[:8], "little")
    for place in range(0, header, 3):
        for value in (0, 0x22, 0x39, 0xFF):
            saved.write_bytes(raw[:place] + bytes([value]) + raw[place + 1 :])
            try:
                cr.Network.load(saved)
            except ModelFileError:
                refused += 1
    assert refused > 500


def document_of(path):
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return load_file(path), json.loads(header["__metadata__"]["chainrule"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "expected model format 1, got 2"),
        (lambda d: d.update(kind="table"), "expected a model of kind 'network', got 'table'"),
        (lambda d: d.pop("seed"), "seed"),
        (lambda d: d.update(seed=-1), "seed"),
        (lambda d: d.pop("network"), "network"),
        (lambda d: d.update(network=5), "fit together"),
        (lambda d: d["network"].update(inputs=4), "expected"),
        (lambda d: d["network"].update(inputs="3"), "inputs"),
        (lambda d: d["network"].update(layers=[]), "at least one layer"),
        (lambda d: d["network"].update(layers=[5]), "fit together"),
        (lambda d: d["network"]["layers"][1].update(layer="conv"), "fit together"),
        (lambda d: d["network"]["layers"][1].update(layer=["dense"]), "fit together"),
        (lambda d: d["network"]["layers"][1].pop("units"), "expected the settings"),
        (lambda d: d["network"]["layers"][1].update(more=1), "expected the settings"),
        (lambda d: d["network"]["layers"][1].update(units=7), "expected 6 inputs as the layer says, got 7"),
        (lambda d: d["network"]["layers"][4].update(units=4), "expected 71 parameters"),
        (lambda d: d["network"]["layers"][1].update(units=10**18), ""),
        (lambda d: d["network"]["layers"][1].update(units="6"), "units"),
        (lambda d: d["network"]["layers"][1].update(bias=1), "expected bias to be true or false, got 1"),
        (lambda d: d["network"]["layers"][1].update(activation="tanhh"), "unknown name 'tanhh'"),
        (lambda d: d["network"]["layers"][1].update(activation=3), "expected a name"),
        (lambda d: d["network"]["layers"][1].update(activation="relu(" + "(" * 10**5), "relu"),
        (lambda d: d["network"]["layers"][1].update(learning_rate_factor="fast"), "fit together"),
        (lambda d: d["network"]["layers"][1].update(learning_rate_factor=-1), "at least 0"),
        (lambda d: d["network"]["layers"][2].update(rate=1.5), "from 0 to below 1"),
    ],
)
def test_documents_that_do_not_describe_the_network_are_refused(saved, change, message):
    arrays, document = document_of(saved)
    change(document)
    save_file(arrays, saved, metadata={"chainrule": json.dumps(document)})
    with pytest.raises(ModelFileError) as caught:
        cr.Network.load(saved)
    assert message in str(caught.value) and str(saved) in str(caught.value)


@pytest.mark.parametrize(
    "theta", [np.zeros(3), np.zeros((2, 31)), np.zeros(10**5), "int", "half", "nan", "missing", "bfloat16"], ids=str
)
def test_parameters_that_do_not_fit_are_refused(saved, theta):
    arrays, document = document_of(saved)
    P = arrays["theta"].size
    content = {"int": np.zeros(P, np.int64), "half": np.zeros(P, np.float16), "nan": np.full(P, np.nan)}
    value = content.get(theta, arrays["theta"]) if isinstance(theta, str) else theta
    save_file(
        {"other" if isinstance(theta, str) and theta == "missing" else "theta": value},
        saved,
        metadata={"chainrule": json.dumps(document)},
    )
    if isinstance(theta, str) and theta == "bfloat16":  # which NumPy does not have
        raw = saved.read_bytes()
        saved.write_bytes(
            raw.replace(b'"dtype":"F64"', b'"dtype":"BF16"').replace(
                f'"shape":[{P}]'.encode(), f'"shape":[{4 * P}]'.encode()
            )
        )
        length = int.from_bytes(raw[:8], "little") + len(saved.read_bytes()) - len(raw)
        saved.write_bytes(length.to_bytes(8, "little") + saved.read_bytes()[8:])
    with pytest.raises(ModelFileError):
        cr.Network.load(saved)


def no_space(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_old_file_survives(saved, message):
    before = saved.read_bytes()
    other = network()
    with pytest.raises(OutputError, match=message) as caught:
        other.save(saved)
    assert "Nothing was changed" in str(caught.value) and str(saved) in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_full_disk_leaves_the_old_file(saved, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_space)
    check_old_file_survives(saved, "No space left on device")


def test_failed_move_leaves_the_old_file(saved, monkeypatch):
    monkeypatch.setattr(os, "replace", no_space)
    check_old_file_survives(saved, "No space left on device")


def test_file_size_limit_leaves_the_old_file(saved):
    """A write that the system itself cuts short, as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        with pytest.raises(OutputError, match="Nothing was changed"):
            cr.Network(100, [cr.Dense(100)]).save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(saved.parent) == [saved.name]
    np.testing.assert_array_equal(cr.Network.load(saved).theta, rich_network().theta)


def test_interrupt_while_saving_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        network().save(saved)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


def test_folders_that_cannot_be_written(tmp_path, saved):
    for path in (tmp_path / "no such folder" / "net.model", saved / "net.model"):
        with pytest.raises(OutputError, match="could not be written"):
            network().save(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="could not be written"):
        network().save(tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["folder", "net.model"]
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(saved):
    os.chmod(saved.parent, 0o500)
    try:
        check_old_file_survives(saved, "Permission denied")
    finally:
        os.chmod(saved.parent, 0o700)


# -- snapshot files ---------------------------------------------------------------------------------------------------


def test_snapshot_file_keeps_every_bit(tmp_path):
    run = network(dtype="float32").fit(X0, Y0, epochs=3, batch_size=5, validation=data(9, seed=1), max_steps=12)
    cr.save_snapshot(tmp_path / "run", run.snapshot)
    again = cr.load_snapshot(tmp_path / "run")
    for name in (
        "identity",
        "step",
        "cost_sum",
        "history",
        "best_epoch",
        "best_score",
        "reference",
        "stale",
        "seconds",
    ):
        assert getattr(again, name) == getattr(run.snapshot, name), name
    np.testing.assert_array_equal(again.theta, run.snapshot.theta)
    np.testing.assert_array_equal(again.best_theta, run.snapshot.best_theta)
    assert again.theta.dtype == np.float32 and list(again.slots) == ["m", "v"]
    with pytest.raises(ModelFileError, match="expected a model of kind 'network', got 'snapshot'"):
        cr.Network.load(tmp_path / "run")


def test_snapshot_before_the_first_epoch_has_infinite_scores(tmp_path):
    run = network().fit(X0, Y0, epochs=3, batch_size=5, max_steps=2)
    cr.save_snapshot(tmp_path / "run", run.snapshot)
    again = cr.load_snapshot(tmp_path / "run")
    assert again.best_score == math.inf and again.reference == math.inf and again.best_theta is None


def test_snapshot_with_an_infinite_cost_in_its_history(tmp_path):
    """The error rate is watched, and a probability of 0 gives the validation set an infinite cost."""
    net = cr.Network(1, [cr.Dense(2, "sigmoid", bias=False)]).set(1, W=[[1.0], [-1.0]])
    run = net.fit(
        [[0.1], [-0.1]],
        [0, 1],
        loss="categorical_cross_entropy",
        epochs=2,
        validation=([[2000.0], [1.0]], [1, 0]),
        monitor="error_rate",
    )
    assert run.history[0]["valid_cost"] == math.inf and run.best_score == 0.5
    cr.save_snapshot(tmp_path / "run", run.snapshot)
    assert cr.load_snapshot(tmp_path / "run").history == run.snapshot.history


def test_damaged_snapshots_are_refused(tmp_path):
    path = tmp_path / "run"
    run = network().fit(X0, Y0, epochs=3, batch_size=5, max_steps=7)
    cr.save_snapshot(path, run.snapshot)
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    with pytest.raises(ModelFileError):
        cr.load_snapshot(path)
    path.write_bytes(raw)
    arrays, document = document_of(path)
    for change in ({"step": "7"}, {"step": -1}, {"history": [5]}, {"best_score": "low"}, {"more": 1}):
        changed = document | {"snapshot": document["snapshot"] | change}
        save_file(arrays, path, metadata={"chainrule": json.dumps(changed)})
        with pytest.raises(ModelFileError):
            cr.load_snapshot(path)
    for name, array in (
        ("theta", np.full(63, np.nan)),
        ("slot m", np.zeros(5)),
        ("slot m", np.full(63, np.inf)),
        ("slot v", np.zeros(63, np.float32)),
    ):
        save_file(arrays | {name: array}, path, metadata={"chainrule": json.dumps(document)})
        with pytest.raises(cr.ChainRuleError):
            network().fit(X0, Y0, epochs=3, batch_size=5, resume=cr.load_snapshot(path))


# -- text -------------------------------------------------------------------------------------------------------------


def test_summary_counts_parameters():
    net = rich_network()
    rows = net.summary()
    assert [row["parameters"] for row in rows] == [3, 6 * 3 + 6, 0, 4 * 6, 3 * 4 + 3]
    assert sum(row["parameters"] for row in rows) == net.P == net.theta.size
    assert [row["output"] for row in rows] == ["(N, 3)", "(N, 6)", "(N, 6)", "(N, 4)", "(N, 3)"]
    text = repr(net)
    assert "66 parameters" in text and "Dense 3 → 6, leaky_relu(slope=0.123456789)" in text and "Dropout 0.25" in text


def test_run_prints_what_ended_it():
    run = network().fit(X0, Y0, epochs=3, validation=data(9, seed=1))
    assert repr(run) == f"Run(3 epochs, ended by epochs, best epoch {run.best_epoch}, score {run.best_score:.6g})"
    run = network().fit(X0, Y0, epochs=3)
    assert repr(run) == f"Run(3 epochs, ended by epochs, score {run.best_score:.6g})"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_checksum_tells_data_apart(dtype):
    """Any element, the order of rows, and what belongs to which array; not how the data lie in memory."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20_001, 3)).astype(dtype), np.zeros(7, dtype)
    seen = {checksum([X, y]), checksum([y, X]), checksum([X]), checksum([X, y[:-1]]), checksum([X[::-1], y])}
    for place in [(0, 0), (8191, 1), (20_000, 2)]:
        changed = X.copy()
        changed[place] = np.nextafter(changed[place], np.inf)
        seen.add(checksum([changed, y]))
    swapped = X.copy()
    swapped[[5, 6]] = swapped[[6, 5]]
    seen.add(checksum([swapped, y]))
    seen |= {checksum([X * signs, y]) for signs in ([-1, 1, 1], [1, 1, -1], [-1, -1, -1])}
    assert len(seen) == 12
    labels = np.repeat([0, 1], 2500).astype(dtype)
    assert len({checksum([rng.permutation(labels)]) for _ in range(2000)}) == 2000
    assert checksum([np.asfortranarray(X), y.copy()]) == checksum([X, y])
