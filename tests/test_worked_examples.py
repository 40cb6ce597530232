"""The worked examples of the five texts, with the numbers that they print (or, where they slip, that follow).

Each test is numbered as in the mathematics, section 8; example 11 needs Jacobians of any pair of layers.
"""

import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.architecture import forward
from chainrule.core.backward import backward
from chainrule.core.cost import Cost
from chainrule.formulas import activations, aggregators, losses


@cr.loss("y*y_hat")
def selected(xp, real):
    """y·ŷ: with y a row of the identity, the gradients of one output."""

    def value(y_hat, y):
        return y * y_hat

    def derivative(y_hat, y):
        return y * xp.ones_like(y_hat)

    def second(y_hat, y):
        return xp.zeros_like(y_hat)

    return value, derivative, second


def sigma(z):
    return 1 / (1 + np.exp(-z))


def test_1_absolute_value():
    net = cr.Network(1, [cr.Dense(2, "relu"), cr.Dense(1)]).set(1, W=[[1], [-1]], b=[0, 0]).set(2, W=[[1, 1]], b=[0])
    x = np.array([-1e300, -3.5, -1.0, -5e-324, 0.0, 0.25, 2.0, 1e300])
    np.testing.assert_array_equal(net.predict(x)[:, 0], np.abs(x))


def test_2_one_sigmoid_neuron():
    x, w, y = 2.0, 0.3, 1.0
    net = cr.Network(1, [cr.Dense(1, "sigmoid", bias=False)]).set(1, W=[[w]])
    a = sigma(w * x)
    three_factors = -(y / a - (1 - y) / (1 - a)) * (a * (1 - a)) * x
    assert net.gradient([x], [y]).dC_dW[1][0, 0] == pytest.approx((a - y) * x, rel=1e-14)
    assert three_factors == pytest.approx((a - y) * x, rel=1e-14)


@pytest.mark.parametrize("depth", [2, 5])
def test_2_chain_of_one_unit_layers(depth):
    rng = np.random.default_rng(depth)
    w, x, y = rng.uniform(0.5, 2, depth), 0.7, 0.2
    net = cr.Network(1, [cr.Dense(1, "tanh", bias=False)] * depth)
    a = [x]
    for layer in range(depth):
        net.set(layer + 1, W=[[w[layer]]])
        a.append(math.tanh(w[layer] * a[-1]))
    found = net.gradient([x], [y], loss="squared").dC_dW
    for layer in range(depth):  # ∂L/∂a_L · (∂a/∂z ∂z/∂a_prev) … · ∂a_l/∂z_l · ∂z_l/∂w_l
        product = 2 * (a[-1] - y)
        for later in range(depth - 1, layer, -1):
            product *= (1 - a[later + 1] ** 2) * w[later]
        product *= (1 - a[layer + 1] ** 2) * a[layer]
        assert found[layer + 1][0, 0] == pytest.approx(product, rel=1e-13)


def test_2_three_functions():
    @cr.activation("sin(z)", range=(-1, 1))
    def sine(xp, real):
        return np.sin, lambda z, a: np.cos(z), lambda z, a: -a

    layers = [cr.Dense(1), cr.Dense(1), cr.Dense(1, sine, bias=False)]
    values = []
    for depth in (1, 2, 3):
        net = cr.Network(1, layers[:depth]).set(1, W=[[1]], b=[2])
        if depth > 1:
            net.set(2, W=[[3]], b=[0])
        if depth > 2:
            net.set(3, W=[[1]])
        values.append(net.predict([10.0])[0, 0])
    assert values == [12.0, 36.0, math.sin(36)]
    # ∂h/∂x = cos g · 3 · 1, which is also the gradient of the first layer's bias
    assert net.gradient([10.0], [1.0], loss=selected).dC_db[1][0] == pytest.approx(3 * math.cos(36), rel=1e-15)


def test_3_square():
    net = cr.Network(3, [cr.Dense(3, "square", bias=False)]).set(1, W=np.eye(3))
    z = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(net.predict(z), [[1, 4, 9]])
    np.testing.assert_array_equal(activations.square.derivative(z, net.predict(z)), [[2, 4, 6]])
    # ∂a/∂z = diag(2, 4, 6): with the weights' gradient δ xᵀ, output k alone gives row k
    for k, row in enumerate(np.diag([2.0, 4.0, 6.0])):
        found = net.gradient(z, np.eye(3)[[k]], loss=selected).dC_dW[1]
        np.testing.assert_array_equal(found, np.outer(row, z[0]))


def threshold(W_H, b_H, W_O, b_O):
    """Networks of hard thresholds: the decision, and the z before it."""
    n = np.shape(W_H)[1]
    hidden = cr.Dense(len(W_H), "step")
    return [
        cr.Network(n, [hidden, cr.Dense(1, output)]).set(1, W=W_H, b=b_H).set(2, W=[W_O], b=[b_O])
        for output in ("step", "identity")
    ]


def test_4_two_thresholds():
    decision, logit = threshold([[1], [1]], [-1, -3], [-1, 2], 0.5)
    x = np.array([-5, 0, np.nextafter(1, 0), 1, 2, np.nextafter(3, 0), 3, 10])
    np.testing.assert_array_equal(logit.predict(x)[:, 0], [0.5, 0.5, 0.5, -0.5, -0.5, -0.5, 1.5, 1.5])
    np.testing.assert_array_equal(decision.predict(x)[:, 0], [1, 1, 1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(decision.decide(x)[:, 0], [1, 1, 1, 0, 0, 0, 1, 1])


def test_5_table_of_problem_2():
    decision, logit = threshold([[1], [1]], [-2, -4], [1, -2], -0.5)
    x = np.array([[0], [1], [3], [5], [3.5]])
    kept = forward(logit.architecture, logit.theta, x, keep="all")
    np.testing.assert_array_equal(kept.z[1].T, [[-2, -1, 1, 3, 1.5], [-4, -3, -1, 1, -0.5]])  # x − 2 and x − 4
    np.testing.assert_array_equal(kept.a[1].T, [[0, 0, 1, 1, 1], [0, 0, 0, 1, 0]])
    np.testing.assert_array_equal(logit.predict(x)[:, 0], [-0.5, -0.5, 0.5, -1.5, 0.5])
    np.testing.assert_array_equal(decision.predict(x)[:, 0], [0, 0, 1, 0, 1])


def test_6_triangle():
    decision, _ = threshold([[1, 0], [0, 1], [1, 1]], [0, 0, -1], [1, 1, -1], -1.5)
    grid = np.arange(-8, 17) / 8  # exact in binary, the borders among them
    x1, x2 = (part.ravel() for part in np.meshgrid(grid, grid))
    inside = (x1 >= 0) & (x2 >= 0) & (x1 + x2 < 1)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(decision.predict(np.stack([x1, x2], axis=1))[:, 0], inside)


@pytest.mark.parametrize(
    ("inputs", "outputs", "activation", "loss", "P"),
    [
        (400, 26, "softmax", "categorical_cross_entropy", 10 * 401 + 26 * 11),
        (120, 1, "sigmoid", "binary_cross_entropy", 10 * 121 + 11),
        (5, 1, "identity", "squared", 10 * 6 + 11),
    ],
)
def test_7_output_layer_follows_from_the_task(inputs, outputs, activation, loss, P):
    net = cr.Network(inputs, [cr.Dense(10, "relu"), cr.Dense(outputs, activation)])
    assert net.P == P
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6, inputs))
    y = {26: np.array([0, 25, 3, 7, 7, 1]), 1: rng.integers(0, 2, 6)}[outputs]
    assert net.predict(X).shape == (6, outputs)
    assert net.cost(X, y) == net.cost(X, y, loss=loss)  # the default loss
    if activation != "identity":
        decided = net.decide(X)
        assert decided.shape == ((6,) if outputs > 1 else (6, 1)) and set(decided.ravel()) <= set(
            range(max(2, outputs))
        )


def test_8_jacobian_of_two_functions():
    """f(x) = (x₁ + x₂x₃, x₁² + 3x₂), from squares: uv = ((u + v)² − (u − v)²)/4 and u = ((u + 1)² − (u − 1)²)/4."""
    W = [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, -1], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    b = [1, -1, 0, 0, 0, 1, -1]
    net = cr.Network(3, [cr.Dense(7, "square"), cr.Dense(2, bias=False)])
    net.set(1, W=W, b=b).set(2, W=np.array([[1, -1, 1, -1, 0, 0, 0], [0, 0, 0, 0, 4, 3, -3]]) / 4)
    x1, x2, x3 = x = np.array([0.5, -2.0, 3.0])
    np.testing.assert_allclose(net.predict([x])[0], [x1 + x2 * x3, x1**2 + 3 * x2], rtol=1e-14)
    cost, jacobian = Cost(selected), []
    for row in np.eye(2):
        values = forward(net.architecture, net.theta, x[None], keep="all")
        kept = backward(net.architecture, net.theta, values, row[None], cost, np.ones(1), 1.0, keep="all")
        jacobian.append(kept.dC_da[0][0])
    np.testing.assert_allclose(jacobian, [[1, x3, x2], [2 * x1, 3, 0]], atol=1e-14)


def test_8_logistic_loss():
    rng = np.random.default_rng(8)
    X, y, w, b = rng.standard_normal((7, 3)), rng.integers(0, 2, 7), rng.standard_normal(3), 0.4
    z = X @ w + b
    for output, loss in (("sigmoid", "binary_cross_entropy"), ("identity", "binary_cross_entropy_logits")):
        net = cr.Network(3, [cr.Dense(1, output)]).set(1, W=[w], b=[b])
        found = net.gradient(X, y, loss=loss, aggregate="sum")
        assert found.cost == pytest.approx(sum(np.log(1 + np.exp(z)) - y * z), rel=1e-14)
        np.testing.assert_allclose(found.dC_dW[1][0], [sum((sigma(z) - y) * X[:, j]) for j in range(3)], rtol=1e-13)
        np.testing.assert_allclose(found.dC_db[1], [sum(sigma(z) - y)], rtol=1e-13)


def test_8_sigmoid_layer():
    rng = np.random.default_rng(9)
    W, b, x = rng.standard_normal((3, 2)), rng.standard_normal(3), rng.standard_normal(2)
    net = cr.Network(2, [cr.Dense(3, "sigmoid")]).set(1, W=W, b=b)
    z = W @ x + b
    slope = np.exp(-z) / (1 + np.exp(-z)) ** 2
    for i in range(3):
        found = net.gradient([x], np.eye(3)[[i]], loss=selected)
        for k in range(3):
            np.testing.assert_allclose(found.dC_dW[1][k], (k == i) * slope[i] * x, rtol=1e-14)
        np.testing.assert_allclose(found.dC_db[1], np.eye(3)[i] * slope[i], rtol=1e-14)
        values = forward(net.architecture, net.theta, x[None], keep="all")
        kept = backward(
            net.architecture, net.theta, values, np.eye(3)[[i]], Cost(selected), np.ones(1), 1.0, keep="all"
        )
        np.testing.assert_allclose(kept.dC_da[0][0], slope[i] * W[i], rtol=1e-14)
        np.testing.assert_allclose(kept.dC_dz[1][0], np.diag(slope)[i], rtol=1e-14)


def test_8_squared_distance():
    rng = np.random.default_rng(10)
    W, b, x, y = rng.standard_normal((3, 2)), rng.standard_normal(3), rng.standard_normal(2), rng.standard_normal(3)
    net = cr.Network(2, [cr.Dense(3)]).set(1, W=W, b=b)
    z = W @ x + b
    found = net.gradient([x], [y], loss="squared")
    assert found.cost == pytest.approx(sum((y - z) ** 2), rel=1e-14)
    for i in range(3):
        for j in range(2):
            assert found.dC_dW[1][i, j] == pytest.approx(2 * (z[i] - y[i]) * x[j], rel=1e-13)
        assert found.dC_db[1][i] == pytest.approx(2 * (z[i] - y[i]), rel=1e-13)
    values = forward(net.architecture, net.theta, x[None], keep="all")
    kept = backward(net.architecture, net.theta, values, y[None], Cost(losses.squared), np.ones(1), 1.0, keep="all")
    np.testing.assert_allclose(kept.dC_da[0][0], 2 * W.T @ (z - y), rtol=1e-13)


def test_9_relu_and_softmax_cross_entropy_by_indices():
    rng = np.random.default_rng(11)
    N, N_i, N_h, N_o = 4, 3, 5, 3
    X, labels = rng.standard_normal((N, N_i)), np.array([2, 0, 1, 2])
    WH, bH, WO, bO = (rng.standard_normal(s) for s in ((N_h, N_i), N_h, (N_o, N_h), N_o))
    net = cr.Network(N_i, [cr.Dense(N_h, "relu"), cr.Dense(N_o, "softmax")]).set(1, W=WH, b=bH).set(2, W=WO, b=bO)
    found = net.gradient(X, labels, aggregate="sum")

    zH = [[sum(WH[j, k] * X[i, k] for k in range(N_i)) + bH[j] for j in range(N_h)] for i in range(N)]
    u = [[max(0.0, z) for z in row] for row in zH]
    zO = [[sum(WO[j, k] * u[i][k] for k in range(N_h)) + bO[j] for j in range(N_o)] for i in range(N)]
    r = [[float(labels[i] == j) for j in range(N_o)] for i in range(N)]
    exps = [[math.exp(z) for z in row] for row in zO]
    cost = sum(math.log(sum(exps[i])) - sum(r[i][k] * zO[i][k] for k in range(N_o)) for i in range(N))
    dL_dzO = [[exps[i][j] / sum(exps[i]) - r[i][j] for j in range(N_o)] for i in range(N)]
    dL_dWO = [[sum(dL_dzO[i][j] * u[i][k] for i in range(N)) for k in range(N_h)] for j in range(N_o)]
    dL_dbO = [sum(dL_dzO[i][j] for i in range(N)) for j in range(N_o)]
    dL_du = [[sum(dL_dzO[i][j] * WO[j, k] for j in range(N_o)) for k in range(N_h)] for i in range(N)]
    dL_dzH = [[dL_du[i][j] * (1.0 if zH[i][j] > 0 else 0.0) for j in range(N_h)] for i in range(N)]
    dL_dWH = [[sum(dL_dzH[i][j] * X[i, k] for i in range(N)) for k in range(N_i)] for j in range(N_h)]
    dL_dbH = [sum(dL_dzH[i][j] for i in range(N)) for j in range(N_h)]

    assert found.cost == pytest.approx(cost, rel=1e-14)
    for ours, theirs in (
        (found.dC_dW[2], dL_dWO),
        (found.dC_db[2], dL_dbO),
        (found.dC_dW[1], dL_dWH),
        (found.dC_db[1], dL_dbH),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_10_exponential_model_by_indices():
    rng = np.random.default_rng(12)
    N, M, n = 5, 3, 2
    X, y = rng.standard_normal((N, n)), rng.standard_normal(N)
    W, b, alpha = 0.5 * rng.standard_normal((M, n)), 0.5 * rng.standard_normal(M), rng.standard_normal(M)
    net = cr.Network(n, [cr.Dense(M, "exp"), cr.Dense(1, bias=False)]).set(1, W=W, b=b).set(2, W=[alpha])
    found = net.gradient(X, y, aggregate="sum")

    z = [[sum(W[j, k] * X[i, k] for k in range(n)) + b[j] for j in range(M)] for i in range(N)]
    u = [[math.exp(v) for v in row] for row in z]
    y_hat = [sum(alpha[j] * u[i][j] for j in range(M)) for i in range(N)]
    dL_dy = [2 * (y_hat[i] - y[i]) for i in range(N)]
    dL_dalpha = [sum(dL_dy[i] * u[i][j] for i in range(N)) for j in range(M)]
    dL_dz = [[dL_dy[i] * alpha[j] * math.exp(z[i][j]) for j in range(M)] for i in range(N)]
    dL_dW = [[sum(dL_dz[i][j] * X[i, k] for i in range(N)) for k in range(n)] for j in range(M)]
    dL_db = [sum(dL_dz[i][j] for i in range(N)) for j in range(M)]

    assert found.cost == pytest.approx(sum((y[i] - y_hat[i]) ** 2 for i in range(N)), rel=1e-14)
    np.testing.assert_allclose(found.dC_dW[2][0], dL_dalpha, rtol=1e-12)
    np.testing.assert_allclose(found.dC_dW[1], dL_dW, rtol=1e-12)
    np.testing.assert_allclose(found.dC_db[1], dL_db, rtol=1e-12)
    assert found.dC_db[2] is None


AND_X, AND_Y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 0, 0, 1])


@pytest.mark.parametrize("k", range(20))
def test_12_and_gate(k):
    """Tanh 2–3–1, N(0, 1) start in the order in which the paper's layers draw it, one sample at a time, η = 0.1."""
    rng = np.random.RandomState(k)
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(1, "tanh")])
    for layer, (inputs, units) in enumerate(pairwise((2, 3, 1)), 1):
        W = rng.randn(units, inputs)
        net.set(layer, W=W, b=rng.randn(units, 1)[:, 0])
    run = net.fit(AND_X, AND_Y, loss="squared", optimizer=cr.SGD(0.1), epochs=1000, batch_size=1, sampling="sequential")
    assert run.snapshot.step == 4000
    y_hat = net.predict(AND_X)[:, 0]
    assert np.mean((y_hat - AND_Y) ** 2) < 1e-3
    np.testing.assert_array_equal(y_hat >= 0.5, AND_Y)


def test_12_first_epoch_by_the_paper_s_own_loop():
    """Sixteen updates in the paper's column form, with its slip mended (W is used before it is updated)."""
    rng = np.random.RandomState(0)
    parameters = [[rng.randn(units, inputs), rng.randn(units, 1)] for inputs, units in pairwise((2, 3, 1))]
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(1, "tanh")])
    for layer, (W, b) in enumerate(parameters, 1):
        net.set(layer, W=W, b=b[:, 0])
    epoch_errors = []
    for _ in range(4):
        error = 0.0
        for x, y in zip(AND_X.reshape(4, 2, 1), AND_Y.reshape(4, 1, 1), strict=True):
            inputs, outputs = [x], []
            for W, b in parameters:
                outputs.append(np.tanh(W @ inputs[-1] + b))
                inputs.append(outputs[-1])
            error += np.mean((y - outputs[-1]) ** 2)
            gradient = 2 * (outputs[-1] - y) / y.size
            for layer in (1, 0):
                gradient = gradient * (1 - outputs[layer] ** 2)
                W, b = parameters[layer]
                parameters[layer] = [W - 0.1 * gradient @ inputs[layer].T, b - 0.1 * gradient]
                gradient = W.T @ gradient
        epoch_errors.append(error / 4)
    run = net.fit(AND_X, AND_Y, loss="squared", optimizer=cr.SGD(0.1), epochs=4, batch_size=1, sampling="sequential")
    for layer, (W, b) in enumerate(parameters, 1):
        np.testing.assert_allclose(net.W(layer), W, rtol=1e-12)
        np.testing.assert_allclose(net.b(layer), b[:, 0], rtol=1e-12)
    np.testing.assert_allclose([row["train_cost"] for row in run.history], epoch_errors, rtol=1e-12)


def test_13_identity_layers_are_one_affine_map():
    rng = np.random.default_rng(13)
    sizes = (4, 5, 3, 2)
    net = cr.Network(4, [cr.Dense(n) for n in sizes[1:]])
    W, b = np.eye(4), np.zeros(4)
    for layer, (inputs, units) in enumerate(pairwise(sizes), 1):
        W_l, b_l = rng.standard_normal((units, inputs)), rng.standard_normal(units)
        net.set(layer, W=W_l, b=b_l)
        W, b = W_l @ W, W_l @ b + b_l
    X, y = rng.standard_normal((6, 4)), rng.standard_normal((6, 2))
    one = cr.Network(4, [cr.Dense(2)]).set(1, W=W, b=b)
    np.testing.assert_allclose(net.predict(X), one.predict(X), rtol=1e-12)
    # and the gradient by the one map's b is that by the last layer's
    np.testing.assert_allclose(net.gradient(X, y).dC_db[3], one.gradient(X, y).dC_db[1], rtol=1e-11)


def test_14_row_and_column_forms_are_transposes():
    rng = np.random.default_rng(14)
    m, n, N = 4, 3, 5
    W, b, X, y = (rng.standard_normal(s) for s in ((n, m), n, (N, m), (N, n)))
    net = cr.Network(m, [cr.Dense(n, "tanh")]).set(1, W=W, b=b)
    found = net.gradient(X, y, loss="squared", aggregate="sum")

    row_W, row_b = W.T, b[None, :]  # appendix B: w_ij from input i to neuron j
    row_a = np.tanh(X @ row_W + row_b)
    row_dz = 2 * (row_a - y) * (1 - row_a**2)
    row_dW, row_db, row_dX = X.T @ row_dz, row_dz.sum(0, keepdims=True), row_dz @ row_W.T

    column_a = np.tanh(W @ X.T + b[:, None])  # section 3.3: samples are columns
    column_dz = 2 * (column_a - y.T) * (1 - column_a**2)
    column_dW, column_db, column_dX = column_dz @ X, column_dz.sum(1, keepdims=True), W.T @ column_dz

    np.testing.assert_allclose(net.predict(X), row_a, rtol=1e-14)
    np.testing.assert_allclose(net.predict(X), column_a.T, rtol=1e-14)
    np.testing.assert_allclose(found.dC_dW[1], row_dW.T, rtol=1e-12)
    np.testing.assert_allclose(found.dC_dW[1], column_dW, rtol=1e-12)
    np.testing.assert_allclose(found.dC_db[1], row_db[0], rtol=1e-12)
    np.testing.assert_allclose(found.dC_db[1], column_db[:, 0], rtol=1e-12)
    values = forward(net.architecture, net.theta, X, keep="all")
    cost = Cost(losses.squared, aggregators.sum_)
    kept = backward(net.architecture, net.theta, values, y, cost, np.ones(N), 1.0, keep="all")
    np.testing.assert_allclose(kept.dC_da[0], row_dX, rtol=1e-12)
    np.testing.assert_allclose(kept.dC_da[0].T, column_dX, rtol=1e-12)


def test_page_of_worked_examples_is_what_the_script_prints():
    """Byte for byte; every one of the fourteen has results, and all of them are OK."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-X", "utf8", "-W", "error", str(root / "examples" / "worked_examples.py")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    page = (root / "docs" / "worked_examples.md").read_bytes()
    assert done.stdout.replace(b"\r\n", b"\n") == page
    first, *sections = re.split(r"^## (?=\d+\. )", page.decode(), flags=re.MULTILINE)
    assert "differs" not in first and [int(section.split(".")[0]) for section in sections] == list(range(1, 15))
    for section in sections:
        verdicts = re.findall(r"\*\*(.*?)\*\*", section)
        assert verdicts and set(verdicts) == {"OK"}
    assert sections[-1].endswith("All fourteen agree.\n")
