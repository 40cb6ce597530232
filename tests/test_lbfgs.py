"""L-BFGS against closed forms, and what a later run takes from an earlier one's optimizer.

The independent sources are the normal equations, and one long run in the place of two short ones.
"""

from __future__ import annotations

import numpy as np
import pytest

import chainrule as cr
from chainrule.arrays import check_weights
from chainrule.core.cost import make_cost
from chainrule.errors import DivergenceError, ParameterError, ShapeError
from chainrule.training.lbfgs import lbfgs
from chainrule.training.loop import Data
from chainrule.training.optimizers import Adam, Continued, find_optimizer
from chainrule.training.schedules import constant

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = X @ RNG.normal(size=(3, 2)) + 0.1 * RNG.normal(size=(40, 2)) + 1


def problem(layers, y=Y, weights=None, dtype="float64", **options):
    """The first arguments of `lbfgs`."""
    net = cr.Network(3, layers, seed=4, dtype=dtype)
    cost = make_cost("test", net.architecture.output_activation, **options)
    data = Data(X.astype(dtype), cost.targets("test", y, net.architecture.outputs, net.dtype), weights)
    return net.architecture, net.theta, data._replace(s=check_weights("test", weights, 40)), cost


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_minimum_of_a_linear_model_solves_the_normal_equations(dtype):
    weights = RNG.uniform(0.5, 2, 40)
    found = lbfgs(*problem([cr.Dense(2)], weights=weights, dtype=dtype), tolerance=1e-9, least_decrease=0)
    A = np.column_stack([X, np.ones(40)])
    expected = np.linalg.solve(A.T @ (weights[:, None] * A), A.T @ (weights[:, None] * Y))
    W, b = found.theta[:6].reshape(2, 3), found.theta[6:]
    np.testing.assert_allclose(np.column_stack([W, b]).T, expected, rtol=1e-8 if dtype == "float64" else 2e-6)
    assert found.theta.dtype == dtype and found.reason in ("converged", "stuck")
    assert found.costs == sorted(found.costs, reverse=True) and found.cost == found.costs[-1]


def test_limits_callbacks_and_interrupts():
    network = [cr.Dense(5, "tanh"), cr.Dense(2)]
    assert (lbfgs(*problem(network), max_iterations=3)).reason == "iterations"
    few = lbfgs(*problem(network), max_evaluations=2, tolerance=0.0)
    assert few.reason == "evaluations" and few.evaluations < 30
    seen = []
    stopped = lbfgs(*problem(network), on_iteration=lambda k, c: bool(seen.append((k, c))) or k == 2)
    assert stopped.reason == "callback" and [k for k, _ in seen] == [1, 2] and stopped.cost == seen[-1][1]

    def interrupt(k, c):
        if k == 2:
            raise KeyboardInterrupt

    whole = lbfgs(*problem(network), max_iterations=2)
    halted = lbfgs(*problem(network), on_iteration=interrupt)
    assert halted.reason == "interrupted" and halted.iterations == 2
    np.testing.assert_array_equal(halted.theta, whole.theta)


def test_what_lbfgs_cannot_do():
    with pytest.raises(ParameterError, match="without dropout"):
        lbfgs(*problem([cr.Dense(4, "tanh"), cr.Dropout(0.1), cr.Dense(2)]))
    architecture, theta, data, cost = problem([cr.Dense(2)])
    with pytest.raises(DivergenceError, match="at the start"):
        lbfgs(architecture, np.full_like(theta, 1e200), data, cost)
    with pytest.raises(ParameterError, match="max_iterations"):
        lbfgs(architecture, theta, data, cost, max_iterations=0)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_new_run_goes_on_with_the_optimizers_state(optimizer):
    def network():
        return cr.Network(3, [cr.Dense(5, "tanh"), cr.Dense(2)], seed=1)

    rule, cost = find_optimizer("test", optimizer), make_cost("test", cr.activations.identity)

    def plan(rule, epochs):
        return cr.Plan(cost, rule, constant, epochs=epochs, batch_size=16, sampling="sequential")

    whole, parts = network(), network()
    whole.train(plan(rule, 5), X, Y)
    first = parts.train(plan(rule, 2), X, Y)
    parts.train(plan(Continued(rule, first.snapshot.step), 3), X, Y, state=first.snapshot.slots)
    np.testing.assert_array_equal(parts.theta, whole.theta)
    for wrong, error in (({"speed": parts.theta}, ParameterError), (dict.fromkeys(rule.slots, X[0]), ShapeError)):
        with pytest.raises(error, match="state"):
            parts.train(plan(rule, 1), X, Y, state=wrong)


def test_a_continued_update_has_the_same_parts():
    rule, rng = Adam(0.1), np.random.default_rng(2)
    theta, g, m = rng.normal(size=(3, 5))
    expected = rule.parts(theta, g, 0.1, (m, m * m), 7)
    for part, same in zip(expected, Continued(rule, 4).parts(theta, g, 0.1, (m, m * m), 3), strict=True):
        np.testing.assert_array_equal(part, same)


def test_the_best_epoch_by_ones_own_metric():
    def worst_error(loss, y_hat, y, s):
        return float(np.abs(y_hat - y).max())

    net = cr.Network(3, [cr.Dense(5, "tanh"), cr.Dense(2)], seed=1)
    run = net.fit(X, Y, validation=(X, Y), monitor=worst_error, epochs=30)
    scores = [row["valid_worst_error"] for row in run.history]
    assert run.best_score == min(scores) == np.abs(net.predict(X) - Y).max()
