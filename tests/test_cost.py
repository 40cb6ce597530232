"""The cost: aggregators against independent formulas, sample weights and mini-batches against their defining properties.

Independent sources: exact sums (`math.fsum`, mpmath), Rockafellar and Uryasev's minimisation for the risk, central
differences, the subgradient inequality at ties, and repeated rows in the place of weights.
"""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.architecture import chain
from chainrule.core.backward import gradient
from chainrule.core.cost import Cost, Penalty
from chainrule.core.layers import Dense
from chainrule.errors import DataError, ParameterError, ShapeError
from chainrule.formulas import aggregators, losses
from chainrule.training.loop import Data, Plan, Training, first_snapshot
from chainrule.training.optimizers import SGD
from chainrule.training.schedules import constant

F64 = np.dtype(np.float64)
PHIS = ["mean", "sum", "tilted", "tilted(3)", "tilted(-2)", "cvar", "cvar(0.35)", "cvar(1)", "max"]


def phi(name, L, s, mean_weight=None):
    L, s = np.asarray(L, float), np.asarray(s, float)
    aggregator = aggregators.find_aggregator("test", name)
    return aggregator.value_and_gradient(L, s, float(s.mean()) if mean_weight is None else mean_weight)


def losses_and_weights(seed, zeros=False):
    rng = np.random.default_rng(seed)
    L, s = rng.gamma(1.0, 2.0, 12), rng.uniform(0.1, 4, 12)
    if zeros:
        s[[0, 5, int(L.argmax())]] = 0
    return L, s


def by_definition(name, L, s):
    """φ in exact sums, from the table of the mathematics."""
    total = math.fsum(s)
    record = aggregators.find_aggregator("test", name)
    parameters = dict(record.parameters)
    if record.name == "mean":
        return math.fsum(s * L) / total
    if record.name == "sum":
        return math.fsum(s * L)
    if record.name == "max":
        return max(v for v, w in zip(L, s, strict=True) if w > 0)
    if record.name == "tilted":
        t = mpmath.mpf(parameters["t"])
        terms = [mpmath.mpf(w) * mpmath.exp(t * mpmath.mpf(v)) for v, w in zip(L, s, strict=True)]
        return float(mpmath.log(sum(terms) / mpmath.mpf(total)) / t)
    # Rockafellar & Uryasev: the least over q of q + Σ pᵢ max(0, Lᵢ − q) / share, reached at one of the losses
    return min(q + math.fsum(s * np.maximum(0, L - q)) / total / parameters["share"] for q in L)


# -- aggregators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("name", PHIS)
def test_value_follows_its_definition(name, zeros):
    for seed in range(5):
        L, s = losses_and_weights(seed, zeros)
        assert phi(name, L, s)[0] == pytest.approx(by_definition(name, L, s), rel=1e-13)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("name", PHIS)
def test_gradient_by_central_differences_of_the_definition(name, zeros):
    for seed in range(5):
        L, s = losses_and_weights(seed, zeros)
        found, h = phi(name, L, s)[1], 1e-6
        numeric = [
            (by_definition(name, L + h * e, s) - by_definition(name, L - h * e, s)) / (2 * h) for e in np.eye(12)
        ]
        np.testing.assert_allclose(found, numeric, atol=2e-9 * max(1.0, s.max()))
        assert (found >= 0).all() and not found[s == 0].any()
        if name != "sum":
            assert found.sum() == pytest.approx(1, rel=1e-13)


@pytest.mark.parametrize("name", PHIS)
def test_gradient_by_complex_step_of_the_value(name):
    """The complex form of φ serves the checks of whole networks; rows of weight 0 with huge losses take no part."""
    L, s = losses_and_weights(3, zeros=True)
    L[0] = 1000.0
    found = phi(name, L, s)[1]
    aggregator, mean_weight = aggregators.find_aggregator("test", name), float(s.mean())
    numeric = [aggregator.value_and_gradient(L + 1e-30j * e, s, mean_weight)[0].imag / 1e-30 for e in np.eye(12)]
    np.testing.assert_allclose(numeric, found, rtol=1e-12, atol=1e-16)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
    st.lists(st.floats(-4, 4), min_size=8, max_size=8),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_subgradient_inequality_at_ties(L, s, other):
    """A convex φ lies above its tangent, also where integer losses tie."""
    L, s, other = np.array(L, float), np.array(s[: len(L)], float), np.array(other[: len(L)])
    if not s.any():
        s = np.ones_like(L)
    for name in ("mean", "sum", "tilted(1.5)", "cvar(0.3)", "cvar(0.5)", "max"):
        value, slope = phi(name, L, s)
        assert phi(name, other, s)[0] >= value + slope @ (other - L) - 1e-9, name


@pytest.mark.parametrize(
    ("name", "L", "s", "value", "slope"),
    [
        ("max", [2, 5, 5, 1], [1, 1, 1, 1], 5, [0, 0.5, 0.5, 0]),
        ("max", [2, 5, 5, 1], [1, 1, 3, 1], 5, [0, 0.5, 0.5, 0]),  # shared equally, whatever the weights
        ("max", [9, 5, 5, 1], [0, 1, 3, 1], 5, [0, 0.5, 0.5, 0]),
        ("max", [5, 5, 5, 1], [0, 1, 3, 1], 5, [0, 0.5, 0.5, 0]),
        # half the weight of 4 rows is 2 rows: 5, and one row's worth of the two that are 3
        ("cvar(0.5)", [3, 5, 3, 1], [1, 1, 1, 1], 4, [0.25, 0.5, 0.25, 0]),
        ("cvar(0.5)", [3, 5, 3, 1], [1, 2, 3, 2], 4, [0.125, 0.5, 0.375, 0]),  # the rest in proportion to the weight
        ("cvar(0.25)", [3, 5, 3, 1], [1, 1, 1, 1], 5, [0, 1, 0, 0]),
        ("cvar(0.1)", [3, 5, 3, 1], [1, 1, 1, 1], 5, [0, 1, 0, 0]),
        ("cvar(0.5)", [7, 5, 3, 1], [0, 1, 1, 0], 5, [0, 1, 0, 0]),
        ("cvar(1)", [3, 5, 3, 1], [1, 1, 1, 1], 3, [0.25] * 4),
        ("cvar(0.6)", [2, 2, 2, 2], [1, 2, 3, 4], 2, [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_ties(name, L, s, value, slope):
    found = phi(name, L, s)
    assert found[0] == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(found[1], slope, atol=1e-15)


@pytest.mark.parametrize(("share", "rows"), [(0.1, 1), (0.2, 2), (0.3, 3), (0.6, 6), (0.7, 7), (0.9, 9)])
def test_risk_of_whole_rows_is_their_mean(share, rows):
    """Shares such as 0.3 of ten rows, which are not whole in binary, take whole rows and nothing of the next."""
    L = np.arange(10.0)
    value, slope = phi(f"cvar({share})", L, np.ones(10))
    assert value == pytest.approx(L[-rows:].mean(), rel=1e-14)
    np.testing.assert_allclose(slope, [0] * (10 - rows) + [1 / rows] * rows, atol=1e-12)


def test_tilted_limits():
    L, s = losses_and_weights(1)
    assert phi("tilted(1e-9)", L, s)[0] == pytest.approx(phi("mean", L, s)[0], rel=1e-6)
    assert phi("tilted(1e5)", L, s)[0] == pytest.approx(L.max(), rel=1e-4)
    assert phi("tilted(-1e5)", L, s)[0] == pytest.approx(L.min(), abs=1e-3)
    value, slope = phi("tilted(2)", [1e4, 1e4 - 1, -1e4], [1, 1, 1])
    assert value == pytest.approx(1e4 + math.log((1 + math.exp(-2)) / 3) / 2, rel=1e-15)
    np.testing.assert_allclose(slope, [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 0], rtol=1e-14)


def test_a_batch_without_weight_has_cost_and_gradient_zero():
    for name in PHIS:
        value, slope = phi(name, [1.0, 2.0], [0.0, 0.0], mean_weight=1.0)
        assert value == 0 and not slope.any()


# -- sample weights and mini-batches ----------------------------------------------------------------------------------


def problem(outputs=2, rows=12, seed=0):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((rows, 3)), rng.standard_normal((rows, outputs))
    net = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dense(outputs)], seed=seed)
    return net, X, y, rng.uniform(0.1, 3, rows)


@pytest.mark.parametrize("k", [-40, -3, 1, 9, 60])
def test_scaling_all_weights_leaves_the_same_bits(k):
    net, X, y, s = problem()
    one, other = (net.gradient(X, y, sample_weight=w, penalty=0.1) for w in (s, s * 2.0**k))
    assert one.cost == other.cost
    np.testing.assert_array_equal(one.dC_dtheta, other.dC_dtheta)


@pytest.mark.parametrize("aggregate", ["mean", "sum", "tilted(2)", "tilted(-1)", "cvar(0.4)"])
def test_weight_two_equals_the_row_twice(aggregate):
    net, X, y, _ = problem()
    s = np.array([1, 2, 0, 3, 1, 1, 2, 0, 1, 4, 1, 1])
    weighted = net.gradient(X, y, aggregate=aggregate, sample_weight=s)
    repeated = net.gradient(np.repeat(X, s, axis=0), np.repeat(y, s, axis=0), aggregate=aggregate)
    assert weighted.cost == pytest.approx(repeated.cost, rel=1e-13)
    np.testing.assert_allclose(weighted.dC_dtheta, repeated.dC_dtheta, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sampling", ["shuffle", "sequential"])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 12])
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_batch_gradients_of_an_epoch_make_up_the_full_gradient(aggregate, batch_size, sampling):
    net, X, y, s = problem()
    cost = Cost(losses.squared, aggregators.find_aggregator("test", aggregate))
    plan = Plan(cost, SGD(), constant, batch_size=batch_size, sampling=sampling, seed=3)
    training = Training(net.architecture, Data(X, y, s), None, plan, first_snapshot("", 0, net.theta, plan.optimizer))
    steps = [training.step(k) for k in range(training.steps_per_epoch)]
    parts = [training.gradient(step) for step in steps]
    full = net.gradient(X, y, aggregate=aggregate, sample_weight=s)
    share = [len(step.rows) / 12 if aggregate == "mean" else 1.0 for step in steps]  # a short batch counts for less
    total = sum(w * part.theta for w, part in zip(share, parts, strict=True))
    np.testing.assert_allclose(total, full.dC_dtheta, rtol=0, atol=1e-12 * np.linalg.norm(full.dC_dtheta))
    assert sum(w * part.cost for w, part in zip(share, parts, strict=True)) == pytest.approx(full.cost, rel=1e-13)


def test_mean_of_a_batch_divides_by_the_expected_weight():
    value, slope = phi("mean", [3.0, 5.0], [1.0, 4.0], mean_weight=2.0)
    assert value == 23 / 4
    np.testing.assert_array_equal(slope, [0.25, 1.0])


def test_per_output_losses_add_up_or_average():
    net, X, y, s = problem(outputs=3)
    u = net.predict(X) - y
    assert net.cost(X, y, sample_weight=s) == pytest.approx(np.average((u**2).sum(1), weights=s), rel=1e-14)
    assert net.cost(X, y, sample_weight=s, average_outputs=True) == pytest.approx(
        np.average((u**2).mean(1), weights=s), rel=1e-14
    )


def test_label_smoothing():
    rng = np.random.default_rng(5)
    X, labels = rng.standard_normal((9, 3)), rng.integers(0, 3, 9)
    net = cr.Network(3, [cr.Dense(3, "softmax")], seed=2)
    smooth = 0.7 * np.eye(3)[labels] + 0.1
    expected = -(smooth * np.log(net.predict(X))).sum(1).mean()
    assert net.cost(X, labels, label_smoothing=0.3) == pytest.approx(expected, rel=1e-13)
    assert net.cost(X, smooth) == pytest.approx(expected, rel=1e-13)
    net, y = cr.Network(3, [cr.Dense(1, "sigmoid")], seed=2), rng.integers(0, 2, 9)
    p = net.predict(X)[:, 0]
    expected = -np.mean((0.7 * y + 0.15) * np.log(p) + (1 - 0.7 * y - 0.15) * np.log(1 - p))
    assert net.cost(X, y, label_smoothing=0.3) == pytest.approx(expected, rel=1e-13)


# -- the reported cost is the one that is differentiated --------------------------------------------------------------


@pytest.mark.parametrize("average_outputs", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_gradient_is_that_of_the_reported_cost_for_k_outputs(k, average_outputs):
    """scikit-learn 1.9.1's regression gradient is k times that of the loss it reports: here the ratio is 1."""
    net, X, y, s = problem(outputs=k, seed=k)
    options = {"average_outputs": average_outputs, "sample_weight": s}
    found, theta, h = net.gradient(X, y, **options), net.theta.copy(), 1e-6
    A = net.architecture

    def reported(theta):
        other = cr.Network(3, A.layers)
        for number, p in enumerate(A.views(theta), 1):
            other.set(number, W=p.W, b=p.b)
        run = other.fit(X, y, loss="squared", epochs=1, batch_size=None, optimizer=cr.SGD(1e-300), **options)
        assert run.history[0]["train_cost"] == pytest.approx(other.cost(X, y, **options), rel=1e-15)
        return run.history[0]["train_cost"]

    numeric = np.array([(reported(theta + h * e) - reported(theta - h * e)) / (2 * h) for e in np.eye(net.P)])
    assert found.dC_dtheta @ numeric / (numeric @ numeric) == pytest.approx(1.0, abs=1e-8)
    np.testing.assert_allclose(found.dC_dtheta, numeric, atol=1e-8)
    assert found.cost == pytest.approx(reported(theta), rel=1e-14)


@pytest.mark.parametrize("penalty", [None, 0.3])
@pytest.mark.parametrize("batch_size", [None, 3, 5])
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_reported_cost_of_an_epoch_is_the_cost_at_any_batch_size(aggregate, batch_size, penalty):
    """With a learning rate of nothing, the epoch's cost is that of the parameters, the penalty in it once."""
    net, X, y, s = problem()
    options = {"aggregate": aggregate, "penalty": penalty, "sample_weight": s}
    expected = net.cost(X, y, **options)
    run = net.fit(X, y, epochs=1, batch_size=batch_size, optimizer=cr.SGD(1e-300), **options)
    assert run.history[0]["train_cost"] == pytest.approx(expected, rel=1e-13)


# -- the penalty ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", [False, True])
def test_penalty_value_and_gradient_by_hand(biases):
    A = chain("test", 2, [Dense(2, "tanh"), Dense(1)])
    theta = np.array([1.0, -2.0, 3.0, 0.0, 0.5, -0.25, 4.0, -1.0, 0.125])
    penalty = Penalty(l1=0.5, l2=0.2, biases=biases)
    weights = [0, 1, 2, 3, 6, 7] + ([4, 5, 8] if biases else [])
    chosen = theta[weights]
    assert penalty.value(A, theta) == pytest.approx(0.5 * sum(abs(chosen)) + 0.1 * sum(chosen**2), rel=1e-15)
    slope = np.zeros(9)
    penalty.add_gradient(A, theta, slope)
    expected = np.zeros(9)
    expected[weights] = 0.5 * np.array([0 if v == 0 else math.copysign(1, v) for v in chosen]) + 0.2 * chosen
    np.testing.assert_allclose(slope, expected, rtol=1e-15)
    assert slope[3] == 0  # the subgradient of |w| at 0


def test_penalty_does_not_depend_on_batch_or_weights():
    net, X, y, s = problem()
    expected = 0.3 * np.concatenate([np.append(net.W(1).ravel(), [0] * 4), np.append(net.W(2).ravel(), [0] * 2)])
    for rows, weights in ((slice(None), s), (slice(None), 100 * s), (slice(0, 3), None), (slice(0, 1), None)):
        data = {"sample_weight": None if weights is None else weights[rows]}
        plain = net.gradient(X[rows], y[rows], **data)
        penalized = net.gradient(X[rows], y[rows], penalty=0.3, **data)
        np.testing.assert_allclose(penalized.dC_dtheta - plain.dC_dtheta, expected, atol=1e-14)
        half = 0.15 * ((net.W(1) ** 2).sum() + (net.W(2) ** 2).sum())
        assert penalized.cost - plain.cost == pytest.approx(half, rel=1e-12)


def test_number_as_penalty_is_an_l2_of_the_weights():
    net, X, y, _ = problem()
    one, other = (net.gradient(X, y, penalty=p) for p in (0.3, cr.Penalty(l2=0.3)))
    np.testing.assert_array_equal(one.dC_dtheta, other.dC_dtheta)
    assert one.cost == other.cost


# -- float32 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregate", PHIS)
def test_float32_gradient_is_float32_and_close(aggregate):
    net, X, y, s = problem()
    small = cr.Network(3, net.architecture.layers, dtype="float32")
    for number in (1, 2):
        small.set(number, W=net.W(number), b=net.b(number))
    options = {"aggregate": aggregate, "penalty": cr.Penalty(0.1, 0.2, True), "sample_weight": s}
    one, other = net.gradient(X, y, **options), small.gradient(X, y, **options)
    assert other.dC_dtheta.dtype == np.float32 and isinstance(other.cost, float)
    assert np.abs(one.dC_dtheta - other.dC_dtheta).max() < 2e-6 * np.linalg.norm(one.dC_dtheta)


def test_float32_sums_many_losses_in_float64():
    X = np.full((2**17, 1), 0.1, np.float32)
    net = cr.Network(1, [cr.Dense(1, bias=False)], dtype="float32").set(1, W=[[1.0]])
    exact = float(np.float32(0.1) ** 2)
    assert net.cost(X, np.zeros(2**17)) == pytest.approx(exact, rel=1e-12)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Cost(losses.categorical_cross_entropy, average_outputs=True),
            "expected the outputs' losses to be added",
        ),
        (lambda: Cost(losses.squared, label_smoothing=0.1), "expected a cross-entropy with label_smoothing"),
        (lambda: Cost(losses.binary_cross_entropy, label_smoothing=1.0), "from 0 to below 1, got 1.0"),
        (lambda: Cost(losses.binary_cross_entropy, label_smoothing=-0.1), "from 0 to below 1, got -0.1"),
        (lambda: Cost(losses.binary_cross_entropy, label_smoothing=math.nan), "from 0 to below 1, got nan"),
        (lambda: Penalty(l1=-1), "expected l1 of at least 0, got -1"),
        (lambda: Penalty(l2=math.nan), "expected l2 of at least 0, got nan"),
        (lambda: Penalty(l2=math.inf), "expected l2 of at least 0, got inf"),
        (
            lambda: cr.Network(1, [cr.Dense(1, "tanh")]).cost([1], [1], loss="binary_cross_entropy"),
            "predictions from 0 to 1",
        ),
    ],
)
def test_bad_costs_are_refused(make, message):
    with pytest.raises(ParameterError, match=message):
        make()


@pytest.mark.parametrize(
    ("s", "error", "message"),
    [
        ([1, 2], ShapeError, "expected 12 sample weights, one per row, got shape \\(2,\\)"),
        ([1] * 11 + [-1], DataError, "at least 0, got -1.0 at row 11"),
        ([1] * 11 + [math.nan], DataError, "got nan at row 11"),
        ([math.inf] + [1] * 11, DataError, "got inf at row 0"),
        ([0] * 12, DataError, "some sample weight above 0, got all zero"),
        (["a"] * 12, DataError, "to be numbers"),
        ([1e308] * 12, DataError, "with a finite sum, got up to 1e\\+308"),
    ],
)
def test_bad_sample_weights_are_refused(s, error, message):
    net, X, y, _ = problem()
    with pytest.raises(error, match=message):
        net.gradient(X, y, sample_weight=s)


def test_changing_a_cost_leaves_the_old_one():
    cost = Cost(losses.squared, penalty=Penalty(l2=0.1))
    assert replace(cost, penalty=Penalty()).penalty.l2 == 0 and cost.penalty.l2 == 0.1
    net, X, y, s = problem()
    first = gradient(net.architecture, net.theta, X, y, cost, s, 1.0).theta
    np.testing.assert_array_equal(first, gradient(net.architecture, net.theta, X, y, cost, s, 1.0).theta)
