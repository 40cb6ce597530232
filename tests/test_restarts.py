"""A run that the preset's learning rate throws out is made again with a lower one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import chainrule as cr
from chainrule.table_model import RESTARTS, Settings, fit, prepare, thrown_out
from chainrule.tables.read import read_table

# SGD steps on sums over batches: far too fast at the preset's 0.03, sound at half of it.
FAST = Settings(
    optimizer="nesterov", aggregate="sum", epochs=12, hidden=(64, 64), batch_size=128, test_fraction=0.0, engine="array"
)


def problem(settings):
    return prepare(read_table("diabetes"), ["target"], settings)


def test_a_diverging_run_starts_again_with_half_the_rate():
    """And is then, bit for bit, the run that this rate would have given."""
    safe, told = problem(FAST), problem(replace(FAST, learning_rate=0.015))
    run, same = fit(safe), fit(told)
    assert len(run.notes) == 1 and "learning_rate (now 0.03)" in run.notes[0] and "0.015" in run.notes[0]
    assert run.plan.optimizer.learning_rate == 0.015 and same.notes == ()
    assert run.best_score == same.best_score
    np.testing.assert_array_equal(safe.model.network.theta, told.model.network.theta)
    np.testing.assert_array_equal(safe.model.network.theta, run.snapshot.best_theta)


def test_a_rate_of_the_users_own_stays():
    with pytest.raises(cr.DivergenceError, match=r"now 0\.03"):
        fit(problem(replace(FAST, learning_rate=0.03)))


def test_a_rate_that_stays_too_high_is_an_error():
    hopeless = problem(FAST)
    steep = replace(hopeless.plan, optimizer=replace(hopeless.plan.optimizer, learning_rate=1e6))
    with pytest.raises(cr.DivergenceError, match=rf"now {1e6 / 2**RESTARTS:g}"):
        fit(replace(hopeless, plan=steep))


def test_a_sound_run_is_left_as_it_is():
    settings = Settings(epochs=8, hidden=(32, 32), test_fraction=0.0, engine="array")
    safe, plain = problem(settings), problem(settings)
    run = fit(safe)
    plain.model.network.train(
        plain.plan,
        plain.train.X,
        plain.train.y,
        sample_weight=plain.train.s,
        validation=(plain.valid.X, plain.valid.y, plain.valid.s),
    )
    assert run.notes == ()
    np.testing.assert_array_equal(safe.model.network.theta, plain.model.network.theta)


def test_a_stop_in_the_second_run_is_not_forgotten(monkeypatch):
    """The first run's epoch is kept, as it is the better one; that the user stopped is said all the same."""
    settings = Settings(epochs=8, hidden=(32, 32), test_fraction=0.0, engine="array")
    stopped, plain = problem(settings), problem(settings)
    troubles = iter(["It went wrong."])
    monkeypatch.setattr("chainrule.table_model.thrown_out", lambda run: next(troubles, None))
    rows = []
    run = fit(stopped, lambda row: rows.append(row) or len(rows) == 9)
    monkeypatch.undo()
    first = fit(plain)
    assert run.reason == "callback" and len(rows) == 9 and len(run.notes) == 1
    assert run.best_score == first.best_score < rows[8]["valid_rmse"]
    np.testing.assert_array_equal(stopped.model.network.theta, plain.model.network.theta)


@pytest.mark.parametrize(
    ("costs", "rate", "reason", "lost"),
    [
        ([1.0, 0.1, 0.5, 0.1], 0.0, "epochs", False),  # it came back
        ([1.0, 0.1, 0.5, 0.18], 0.0, "epochs", False),
        ([1.0, 0.1, 0.5, 0.2], 0.0, "epochs", True),
        ([1.0, 1e-6, 1e-4, 1e-3], 0.0, "epochs", False),  # rows that are known by heart, or just not
        ([1.0, 1.2, 1.1, 1.3], 0.0, "epochs", True),
        ([1.0], 0.0, "epochs", False),
        ([1.0, 0.1, 0.5, 0.4], 0.01, "epochs", False),  # the rate is still high
        ([1.0, 0.1, 0.5, 0.4], 0.0, "time", False),
    ],
)
def test_what_counts_as_thrown_out(costs, rate, reason, lost):
    plan = replace(problem(FAST).plan, optimizer=cr.Adam(0.03))
    history = [{"train_cost": cost, "learning_rate": rate} for cost in costs]
    found = thrown_out(cr.Run(history, reason, 0, costs[-1], None, plan))
    assert (found is not None) == lost
    assert found is None or f"ended at {costs[-1]:g}" in found
