"""Activations, losses and initializers against SymPy's derivatives of their formula text, in 30 digits.

The conventions at kinks are those of the catalogue; the values at extreme inputs come from mpmath.
"""

import mpmath
import numpy as np
import pytest
import sympy

import chainrule as cr
from chainrule.core.architecture import Values, chain
from chainrule.core.backward import cost_value, gradient
from chainrule.core.cost import Cost
from chainrule.core.layers import Dense
from chainrule.errors import ChainRuleError, DataError, ParameterError, ShapeError
from chainrule.formulas import activations, aggregators, initializers, losses
from chainrule.formulas.losses import check_targets
from own import fourth_power, softsign

ELEMENTWISE = [record for record in activations.CATALOGUE.values() if not record.rowwise]
ROWWISE_LOSSES = ["categorical_cross_entropy_logits"]
VARIANTS = [activations.leaky_relu(0.2), activations.elu(0.7)]
LOSS_VARIANTS = [losses.huber(delta=2), losses.quantile(0.9), losses.huber(0.3)]
Z, Y_HAT, Y, K = sympy.Symbol("z", real=True), sympy.Symbol("y_hat", real=True), sympy.Symbol("y", real=True), 3


def parsed(record, **symbols):
    """The formula text as SymPy reads it, with the record's parameters put in."""
    text = sympy.sympify(record.formula, locals=symbols | {name: sympy.Symbol(name) for name, _ in record.parameters})
    return text.subs({sympy.Symbol(name): sympy.Float(value, 40) for name, value in record.parameters})


def number(expression, **values):
    """An expression in 30 digits, rounded to float64."""
    symbols = {symbol.name: symbol for symbol in expression.free_symbols}
    exact = expression.subs({symbols[k]: sympy.Float(float(v), 40) for k, v in values.items() if k in symbols})
    return float(sympy.re(exact.evalf(30)))


def close(found, expected):
    return np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


# -- formulas and derivatives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ELEMENTWISE + VARIANTS, ids=str)
def test_activation_equals_its_formula(record):
    z = np.random.default_rng(1).uniform(-3, 3, 8)
    assert (np.abs(z) > 1e-3).all() and (z > 0).any() and (z < 0).any()
    expression = parsed(record, z=Z)
    a = record.value(z)
    for order, found in enumerate((a, record.derivative(z, a), record.second_derivative(z, a))):
        wanted = [number(sympy.diff(expression, Z, order) if order else expression, z=v) for v in z]
        close(found, wanted)


@pytest.mark.parametrize(
    "record", [loss for loss in losses.CATALOGUE.values() if loss.name not in ROWWISE_LOSSES] + LOSS_VARIANTS, ids=str
)
def test_loss_equals_its_formula(record):
    rng = np.random.default_rng(2)
    low, high = np.clip(record.prediction, -3, 3)
    y_hat = rng.uniform(low, high, 8)
    y = {
        "real": rng.uniform(-3, 3, 8),
        "probability": rng.uniform(0, 1, 8),
        "one_hot": rng.uniform(0, 1, 8),
        "sign": rng.choice([-1.0, 1.0], 8),
        "nonnegative": rng.uniform(0, 3, 8),
        "positive": rng.uniform(0.1, 3, 8),
    }[record.targets]
    expression = parsed(record, y_hat=Y_HAT, y=Y)
    found = (record.value(y_hat, y), record.derivative(y_hat, y), record.second_derivative(y_hat, y))
    for order, values in enumerate(found):
        derivative = sympy.diff(expression, Y_HAT, order) if order else expression
        close(values, [number(derivative, y_hat=p, y=t) for p, t in zip(y_hat, y, strict=True)])


def rowwise(formula):
    """A formula over a row of three, z_0 … z_2, as expressions for k = 0, 1, 2."""
    z = sympy.symbols("z0:3", real=True)
    row, j, k = sympy.IndexedBase("z"), sympy.Symbol("j", integer=True), sympy.Symbol("k", integer=True)
    text = sympy.sympify(formula, locals={"z": row, "j": j, "k": k, "n": K, "y": Y}).doit()
    return z, [text.subs(k, i + 1).subs({row[m + 1]: z[m] for m in range(K)}) for i in range(K)]


def test_softmax_equals_its_formula():
    symbols, components = rowwise(activations.softmax.formula)
    z = np.random.default_rng(3).uniform(-3, 3, (2, K))
    a = activations.softmax.value(z)
    matrices = activations.softmax.derivative(z, a)
    for i, row in enumerate(z):
        at = {s.name: v for s, v in zip(symbols, row, strict=True)}
        close(a[i], [number(c, **at) for c in components])
        close(matrices[i], [[number(sympy.diff(c, s), **at) for s in symbols] for c in components])


def test_categorical_cross_entropy_on_logits_equals_its_formula():
    symbols, components = rowwise(losses.categorical_cross_entropy_logits.formula)
    record, rng = losses.categorical_cross_entropy_logits, np.random.default_rng(4)
    z, y = rng.uniform(-3, 3, (2, K)), rng.dirichlet(np.ones(K), 2)
    value, derivative, second = record.value(z, y), record.derivative(z, y), record.second_derivative(z, y)
    for i, row in enumerate(z):
        at = {s.name: v for s, v in zip(symbols, row, strict=True)}
        terms = [c.subs(Y, sympy.Float(float(t), 40)) for c, t in zip(components, y[i], strict=True)]
        close(value[i], [number(t, **at) for t in terms])
        total = sum(terms)
        close(derivative[i], [number(sympy.diff(total, s), **at) for s in symbols])
        # the second derivative does not use that the targets sum to 1 up to rounding
        np.testing.assert_allclose(
            second[i], [[number(sympy.diff(total, s, t), **at) for s in symbols] for t in symbols], rtol=1e-12
        )


def test_softmax_contraction_is_the_product_with_the_matrix():
    rng = np.random.default_rng(5)
    z, dC_da = rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    a = activations.softmax.value(z)
    expected = [g @ (np.diag(p) - np.outer(p, p)) for g, p in zip(dC_da, a, strict=True)]
    np.testing.assert_allclose(activations.softmax.backward(dC_da, z, a), expected, atol=1e-15)
    np.testing.assert_allclose(
        activations.softmax.derivative(z, a), [np.diag(p) - np.outer(p, p) for p in a], atol=1e-16
    )


# -- conventions at kinks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize(
    ("record", "value", "derivative"),
    [
        (activations.relu, 0, 0),
        (activations.relu(1), 0, 1),
        (activations.relu(at_zero=0.5), 0, 0.5),
        (activations.step, 1, 0),
        (activations.leaky_relu, 0, 0.01),
        (activations.elu, 0, 1),
        (activations.elu(0.5), 0, 0.5),
        (activations.selu, 0, 1.0507009873554805 * 1.6732632423543772),
    ],
    ids=str,
)
def test_activation_at_its_kink(record, value, derivative, zero):
    z = np.array([zero])
    a = record.value(z)
    assert a[0] == value
    assert record.derivative(z, a)[0] == pytest.approx(derivative, rel=1e-15)


def test_relu_conventions_agree_away_from_zero():
    z = np.array([-1e-300, 1e-300, -2.0, 2.0])
    for record in (activations.relu, activations.relu(1)):
        np.testing.assert_array_equal(record.derivative(z, record.value(z)), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("record", "y_hat", "y"),
    [
        (losses.absolute, 0.3, 0.3),
        (losses.quantile(0.9), 0.3, 0.3),
        (losses.quantile, -1.0, -1.0),
        (losses.hinge, 1.0, 1.0),
        (losses.hinge, -1.0, -1.0),
    ],
    ids=str,
)
def test_loss_derivative_is_zero_at_its_kink(record, y_hat, y):
    assert record.value(np.array([y_hat]), np.array([y]))[0] == 0
    assert record.derivative(np.array([y_hat]), np.array([y]))[0] == 0
    for side in (-1e-9, 1e-9):
        sides = record.derivative(np.array([y_hat + side, y_hat - side]), np.array([y, y]))
        assert (sides != 0).any()


def test_huber_at_its_joints_and_beyond():
    u = np.array([-2.5, -2.0, 0.0, 2.0, 2.5])
    record = losses.huber(delta=2)
    np.testing.assert_array_equal(record.value(u, 0 * u), [3.0, 2.0, 0.0, 2.0, 3.0])
    np.testing.assert_array_equal(record.derivative(u, 0 * u), [-2, -2, 0, 2, 2])


# -- number types and extreme inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("record", [*activations.CATALOGUE.values(), *VARIANTS, activations.relu(1)], ids=str)
def test_activation_keeps_the_number_type(record, dtype):
    z = np.random.default_rng(6).standard_normal((4, 3)).astype(dtype)
    a = record.value(z)
    found = [a, record.derivative(z, a), record.backward(z, z, a)]
    if not record.rowwise:
        found.append(record.second_derivative(z, a))
    assert [array.dtype for array in found] == [dtype] * len(found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("record", [*losses.CATALOGUE.values(), *LOSS_VARIANTS], ids=str)
def test_loss_keeps_the_number_type(record, dtype):
    y_hat = np.random.default_rng(7).uniform(0.1, 0.9, (4, 3)).astype(dtype)
    y = np.eye(3, dtype=dtype)[[0, 1, 2, 0]] + (record.targets == "positive") * dtype(1)
    found = [record.value(y_hat, y), record.derivative(y_hat, y), record.second_derivative(y_hat, y)]
    assert [array.dtype for array in found] == [dtype] * 3


EXACT = {  # in mpmath, at any precision
    "identity": lambda z: z,
    "step": lambda z: mpmath.mpf(z >= 0),
    "relu": lambda z: max(z, 0),
    "leaky_relu": lambda z: z if z > 0 else mpmath.mpf(0.01) * z,
    "elu": lambda z: z if z > 0 else mpmath.expm1(z),
    "selu": lambda z: (
        mpmath.mpf(1.0507009873554805) * (z if z > 0 else mpmath.mpf(1.6732632423543772) * mpmath.expm1(z))
    ),
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "mish": lambda z: z * mpmath.tanh(mpmath.log1p(mpmath.exp(z))),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "tanh": mpmath.tanh,
    "exp": mpmath.exp,
    "square": lambda z: z * z,
}
DERIVATIVE_FAR_OUT = {  # (at −∞, at +∞)
    "identity": (1, 1),
    "step": (0, 0),
    "relu": (0, 1),
    "leaky_relu": (0.01, 1),
    "elu": (0, 1),
    "selu": (0, 1.0507009873554805),
    "gelu": (0, 1),
    "silu": (0, 1),
    "mish": (0, 1),
    "softplus": (0, 1),
    "sigmoid": (0, 0),
    "tanh": (0, 0),
}
SUBNORMAL = {np.float64: 5e-324, np.float32: 1e-45}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("record", ELEMENTWISE, ids=str)
def test_activation_at_extreme_inputs(record, dtype):
    tiny = dtype(SUBNORMAL[dtype])
    z = np.array([-1e4, -750, -100, -50, -20, -tiny, -0.0, 0.0, tiny, 20, 50, 100, 750, 1e4], dtype)
    with np.errstate(all="ignore"):
        a = record.value(z)
        slope, curve = record.derivative(z, a), record.second_derivative(z, a)
    assert not np.isnan(a).any() and not np.isnan(slope).any() and not np.isnan(curve).any()
    top = np.finfo(dtype).max
    with mpmath.workdps(60):
        exact = [EXACT[record.name](mpmath.mpf(float(v))) for v in z]
        exact = np.array([float("inf") if e > top else float(e) for e in exact])
    # below: 1 + erf cancels left of zero, and one rounding of z where the exponential is steep
    absolute = 64 * np.finfo(dtype).eps if record.name == "gelu" else 4 * np.finfo(dtype).tiny
    np.testing.assert_allclose(a, exact, rtol=64 * np.finfo(dtype).eps, atol=absolute)


@pytest.mark.parametrize(
    ("dtype", "far"),
    [
        (np.float64, 1e4),
        (np.float64, 1e8),
        (np.float64, 1e17),
        (np.float64, 1e200),
        (np.float32, 1e4),
        (np.float32, 1e8),
        (np.float32, 1e17),
        (np.float32, 1e30),
    ],
)
@pytest.mark.parametrize("name", DERIVATIVE_FAR_OUT)
def test_derivatives_far_out(name, dtype, far):
    """At ±far the derivative has reached its limit to within rounding, and the second derivative is 0."""
    record, z = activations.CATALOGUE[name], np.array([-far, far], dtype)
    with np.errstate(all="ignore"):
        a = record.value(z)
        np.testing.assert_allclose(
            record.derivative(z, a), np.array(DERIVATIVE_FAR_OUT[name], dtype), rtol=4 * np.finfo(dtype).eps
        )
        np.testing.assert_allclose(record.second_derivative(z, a), [0, 0], atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_softmax_at_extreme_inputs(dtype):
    z = np.array(
        [[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [800, 800, 0], [0, -0.0, SUBNORMAL[dtype]]], dtype
    )
    expected = [[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3, [0.5, 0.5, 0], [1 / 3] * 3]
    a = activations.softmax.value(z)
    np.testing.assert_allclose(a, expected, rtol=2 * np.finfo(dtype).eps)
    assert np.isfinite(activations.softmax.derivative(z, a)).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_losses_on_logits_at_extreme_inputs(dtype):
    z = np.array([[-1e4], [-1e4], [1e4], [1e4], [0.0], [SUBNORMAL[dtype]]], dtype)
    y = np.array([[0], [1], [0], [1], [0.5], [1]], dtype)
    binary = losses.binary_cross_entropy_logits
    np.testing.assert_allclose(binary.value(z, y)[:, 0], [0, 1e4, 1e4, 0, np.log(2), np.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(binary.derivative(z, y)[:4, 0], [0, -1, 1, 0])
    assert np.isfinite(binary.second_derivative(z, y)).all()
    z = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [1e4, 1e4, 0]], dtype)
    y = np.eye(3, dtype=dtype)[[0, 1, 2]]
    categorical = losses.categorical_cross_entropy_logits
    np.testing.assert_allclose(categorical.value(z, y), [[0, 0, 0], [0, 2e4, 0], [0, 0, 1e4]], rtol=1e-4)
    np.testing.assert_allclose(categorical.derivative(z, y), [[0, 0, 0], [1, -1, 0], [0.5, 0.5, -1]])
    assert np.isfinite(categorical.second_derivative(z, y)).all()


def test_log_cosh_is_right_near_zero_and_far_out():
    u = np.array([0.0, 1e-9, 1e-6, 1e-3, 0.1, 1.0, 1e4, -1e-6, -1e4])
    with mpmath.workdps(50):
        exact = np.array([float(mpmath.log(mpmath.cosh(mpmath.mpf(v)))) for v in u])
    found = losses.log_cosh.value(u, np.zeros_like(u))
    assert (found >= 0).all()
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=2e-16)


def test_logarithm_of_a_zero_probability_is_infinite_not_clipped():
    with np.errstate(all="ignore"):
        binary = losses.binary_cross_entropy.value(np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0]))
        np.testing.assert_array_equal(binary, [np.inf, np.inf, 0, 0])
        one_hot = losses.categorical_cross_entropy.value(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))
        np.testing.assert_array_equal(one_hot, [[np.inf, 0]])
        assert losses.poisson.value(np.array([0.0]), np.array([2.0]))[0] == np.inf
        assert losses.poisson.value(np.array([0.0]), np.array([0.0]))[0] == 0
    tiny = np.array([5e-324])
    assert losses.binary_cross_entropy.value(tiny, np.array([1.0]))[0] == pytest.approx(-np.log(5e-324), rel=1e-15)


def test_derivatives_are_finite_where_a_target_of_zero_meets_a_prediction_of_zero():
    with np.errstate(all="ignore"):
        zero, one = np.array([0.0]), np.array([1.0])
        assert losses.binary_cross_entropy.derivative(zero, zero)[0] == 1
        assert losses.binary_cross_entropy.derivative(one, one)[0] == -1
        assert losses.categorical_cross_entropy.derivative(zero, zero)[0] == 0
        assert losses.poisson.derivative(zero, zero)[0] == 1


@pytest.mark.parametrize("record", [activations.softplus, activations.elu, activations.selu], ids=str)
def test_complex_step_keeps_the_digits_of_small_values(record):
    """A step of 1e-30 along the imaginary axis changes no digit of the value, also where that is tiny."""
    z = np.array([-30.0, -25.0, -1e-9, -1.0, 2.0])
    found = record.value(z + 1e-30j)
    a = record.value(z)
    np.testing.assert_allclose(found.real, a, rtol=1e-15)
    np.testing.assert_allclose(found.imag / 1e-30, record.derivative(z, a), rtol=1e-14)


# -- fused pairs ------------------------------------------------------------------------------------------------------

PAIRS = [
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "categorical_cross_entropy"),
    ("identity", "squared"),
    ("exp", "poisson"),
    ("exp", "gamma"),
]


def pair_values(output, z):
    return Values([None, z], [None, activations.CATALOGUE[output].value(z)])


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(("output", "loss"), PAIRS)
def test_fused_pair_equals_the_general_path(output, loss, average):
    g, record = activations.CATALOGUE[output], losses.CATALOGUE[loss]
    if average and record.categorical:
        pytest.skip("never the mean for categorical cross-entropy")
    assert losses.on_logits(g, record) is not None
    rng = np.random.default_rng(8)
    z = rng.uniform(-10, 10, (50, 3))
    z[:2] = [[-10, 10, 0], [10, -10, 10]]
    y = {
        "probability": rng.uniform(0, 1, z.shape),
        "one_hot": np.eye(3)[rng.integers(0, 3, 50)],
        "real": rng.standard_normal(z.shape),
        "nonnegative": rng.poisson(2, z.shape).astype(float),
        "positive": rng.uniform(0.1, 3, z.shape),
    }[record.targets]
    values, seed = pair_values(output, z), rng.uniform(0, 1, 50)
    cost = Cost(record, average_outputs=average)
    fused = cost.dC_dz(g, values, y, seed)
    general = g.backward(cost.dC_da(values.y_hat, y, seed), z, values.y_hat)
    assert (np.abs(fused - general) <= 1e-13 * np.maximum(1, np.abs(fused))).all()
    fused_loss = cost.losses(g, values, y, np.ones(50), 1.0).per_output
    general_loss = record.value(values.y_hat, y)
    assert (np.abs(fused_loss - general_loss) <= 1e-11 * np.maximum(1, np.abs(general_loss))).all()


@pytest.mark.parametrize(
    ("output", "loss", "z", "y", "dC_dz"),
    [
        (
            "sigmoid",
            "binary_cross_entropy",
            [-1e4, -1e4, 1e4, 1e4, -40, 40],
            [0, 1, 0, 1, 1, 0],
            lambda z, y: 1 / (1 + mpmath.exp(-z)) - y,
        ),
        ("exp", "poisson", [-1e4, -1e4, 700, 700, -40, 3], [0, 2, 0, 3, 1, 0], lambda z, y: mpmath.exp(z) - y),
        ("exp", "gamma", [1e4, 1e4, -700, 700, -40, 3], [1, 2, 3, 3, 1, 2], lambda z, y: 1 - y * mpmath.exp(-z)),
    ],
)
def test_fused_pair_at_extreme_logits(output, loss, z, y, dC_dz):
    g, cost = activations.CATALOGUE[output], Cost(losses.CATALOGUE[loss])
    z, y = np.array(z, float)[:, None], np.array(y, float)[:, None]
    with np.errstate(over="ignore"):
        values = pair_values(output, z)
    found = cost.losses(g, values, y, np.ones(6), 1.0).per_output
    exact = {
        "sigmoid": lambda z, y: mpmath.log1p(mpmath.exp(z)) - y * z,
        "poisson": lambda z, y: mpmath.exp(z) - y * z,
        "gamma": lambda z, y: y * mpmath.exp(-z) + z,
    }[loss if output == "exp" else output]
    with mpmath.workdps(50):
        pairs = [(mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in zip(z[:, 0], y[:, 0], strict=True)]
        values_exact = [float(exact(a, b)) for a, b in pairs]
        slopes_exact = [float(dC_dz(a, b)) for a, b in pairs]
    np.testing.assert_allclose(found[:, 0], values_exact, rtol=1e-13)
    np.testing.assert_allclose(cost.dC_dz(g, values, y, np.ones(6))[:, 0], slopes_exact, rtol=1e-13, atol=1e-300)


def test_fused_softmax_at_extreme_logits():
    z = np.array([[1e4, -1e4, 0.0], [1e4, 9990.0, -1e4]])
    y = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    cost, values = Cost(losses.categorical_cross_entropy), pair_values("softmax", z)
    with mpmath.workdps(50):
        small = 1 / (1 + mpmath.exp(10))  # softmax of (10, 0)
        second = float(mpmath.log(1 + mpmath.exp(10)))
        p = [float(1 - small), float(small) - 1, 0.0]
    np.testing.assert_allclose(
        cost.losses(activations.softmax, values, y, np.ones(2), 1.0).per_sample, [2e4, second], rtol=1e-13
    )
    np.testing.assert_allclose(cost.dC_dz(activations.softmax, values, y, np.ones(2)), [[1, -1, 0], p], rtol=1e-13)


def test_on_logits():
    for output, loss in PAIRS:
        assert losses.on_logits(activations.CATALOGUE[output], losses.CATALOGUE[loss]) is not None
    assert losses.on_logits(activations.tanh, losses.squared) is None
    assert losses.on_logits(activations.softmax, losses.squared) is None
    assert losses.on_logits(activations.identity, losses.huber(2)) == losses.huber(2)


# -- which output fits which loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "loss", "parts"),
    [
        (
            "tanh",
            "binary_cross_entropy",
            [
                "from 0 to 1",
                "tanh with values from -1 to 1",
                "'sigmoid'",
                "'binary_cross_entropy_logits' with an identity output",
            ],
        ),
        (
            "relu",
            "categorical_cross_entropy",
            ["from 0 to 1", "relu with values from 0 to inf", "'softmax'", "'categorical_cross_entropy_logits'"],
        ),
        ("identity", "poisson", ["from 0 to inf", "identity with values from -inf to inf", "'exp'"]),
        ("silu", "gamma", ["from 0 to inf", "'exp'"]),
    ],
)
def test_output_that_leaves_the_interval_is_refused(output, loss, parts):
    with pytest.raises(ParameterError) as caught:
        losses.check_fit("fit", activations.CATALOGUE[output], losses.CATALOGUE[loss])
    for part in ["fit: expected", *parts]:
        assert part in str(caught.value)


def test_outputs_that_fit():
    for output, loss in [*PAIRS, ("sigmoid", "gamma"), ("softplus", "poisson"), ("tanh", "hinge"), ("step", "squared")]:
        losses.check_fit("fit", activations.CATALOGUE[output], losses.CATALOGUE[loss])
    assert losses.default_loss(activations.softmax) is losses.categorical_cross_entropy
    assert losses.default_loss(activations.sigmoid) is losses.binary_cross_entropy
    assert losses.default_loss(activations.exp) is losses.poisson
    assert losses.default_loss(activations.tanh) is losses.squared


# -- targets ----------------------------------------------------------------------------------------------------------

F64 = np.dtype(np.float64)


def test_labels_become_one_hot_rows():
    for labels in ([2, 0, 1], [2.0, 0.0, 1.0], np.array([2, 0, 1], np.uint8)):
        found = check_targets("fit", losses.categorical_cross_entropy, labels, 3, np.dtype(np.float32))
        np.testing.assert_array_equal(found, [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
        assert found.dtype == np.float32
    np.testing.assert_array_equal(
        check_targets("fit", losses.categorical_cross_entropy, [True, False], 2, F64), [[0, 1], [1, 0]]
    )


@pytest.mark.parametrize(
    ("loss", "y", "outputs", "error", "message"),
    [
        ("categorical_cross_entropy", [0, 3], 3, DataError, "expected labels 0 to 2 in y, got 3 at row 1"),
        ("categorical_cross_entropy", [0, -1], 3, DataError, "expected labels 0 to 2 in y, got -1 at row 1"),
        ("categorical_cross_entropy", [0, 1e30], 3, DataError, r"expected labels 0 to 2 in y, got 1e\+30 at row 1"),
        (
            "categorical_cross_entropy",
            np.array([0, None]),
            3,
            DataError,
            r"expected labels 0 to 2 in y, got \[0, None\]",
        ),
        ("categorical_cross_entropy", [0, 0.5], 3, DataError, "expected labels 0 to 2"),
        ("categorical_cross_entropy", [0, float("nan")], 3, DataError, "expected labels 0 to 2"),
        ("categorical_cross_entropy", [0, float("inf")], 3, DataError, "expected labels 0 to 2"),
        ("categorical_cross_entropy", ["cat", "dog"], 3, DataError, "expected labels 0 to 2"),
        ("categorical_cross_entropy", [], 3, ShapeError, "at least one row"),
        ("categorical_cross_entropy", [[0.5, 0.6]], 2, DataError, "sum to 1 .* got 1.1 in row 0"),
        ("categorical_cross_entropy", [[1.5, -0.5]], 2, DataError, "targets from 0 to 1 .* got 1.5 at row 0, column 0"),
        ("categorical_cross_entropy", [[1, 0]], 3, ShapeError, "expected y with 3 columns, one per output, got 2"),
        ("binary_cross_entropy", [0.0, 1.5], 1, DataError, "from 0 to 1 .* got 1.5 at row 1, column 0"),
        ("binary_cross_entropy", [0.0, -0.1], 1, DataError, "from 0 to 1 .* got -0.1 at row 1, column 0"),
        ("hinge", [0, 1], 1, DataError, "labels -1 or 1 .* got 0 at row 0, column 0"),
        ("poisson", [[1, -1]], 2, DataError, "at least 0 .* got -1 at row 0, column 1"),
        ("gamma", [1, 0], 1, DataError, "targets above 0 .* got 0 at row 1, column 0"),
        ("squared", [1, float("nan")], 1, DataError, "finite numbers in y, got nan at row 1, column 0"),
        ("squared", ["a", "b"], 1, DataError, "matrix of numbers"),
        ("squared", [1j], 1, DataError, "complex"),
        ("squared", [[1, 2], [3, 4]], 1, ShapeError, "expected y with 1 columns"),
        ("squared", np.zeros((2, 1, 1)), 1, ShapeError, "2 axes"),
    ],
)
def test_bad_targets_are_refused(loss, y, outputs, error, message):
    with pytest.raises(error, match=message):
        check_targets("fit", losses.CATALOGUE[loss], y, outputs, F64)


# -- names and parameters ---------------------------------------------------------------------------------------------


def test_names_with_parameters():
    find = activations.find_activation
    assert find("here", "leaky_relu(0.2)") == activations.leaky_relu(0.2) == find("here", " leaky_relu(slope = 0.2) ")
    assert losses.find_loss("here", "huber(delta=2)") == losses.huber(2.0)
    assert aggregators.find_aggregator("here", "tilted(-1e-3)").parameters == (("t", -0.001),)
    assert find("here", "relu") is activations.relu and find("here", activations.mish) is activations.mish
    assert find("here", "relu()") == activations.relu
    assert str(activations.leaky_relu) == "leaky_relu" and str(activations.leaky_relu(0.2)) == "leaky_relu(slope=0.2)"


@pytest.mark.parametrize(
    ("catalogue", "kind"),
    [
        (activations.CATALOGUE, activations.find_activation),
        (losses.CATALOGUE, losses.find_loss),
        (aggregators.CATALOGUE, aggregators.find_aggregator),
        (initializers.CATALOGUE, initializers.find_initializer),
    ],
)
def test_spec_finds_the_record_again(catalogue, kind):
    for record in catalogue.values():
        assert kind("here", record.spec) == record
        changed = record(*(value / 3 + 0.05 for _, value in record.parameters))
        assert kind("here", changed.spec) == changed


@pytest.mark.parametrize(
    ("find", "given", "message"),
    [
        (activations.find_activation, "rleu", "unknown name 'rleu'. Did you mean 'relu'?"),
        (activations.find_activation, "ReLU", "Did you mean 'relu'?"),
        (activations.find_activation, "xyz", "Known: identity, step"),
        (activations.find_activation, 3, "expected a name or a Activation record, got 3"),
        (activations.find_activation, losses.squared, "expected a name or a Activation record"),
        (activations.find_activation, "relu(", "expected a form such as relu(0.5)"),
        (activations.find_activation, "relu(a)", "expected a form such as relu(0.5)"),
        (activations.find_activation, "relu(1)(2)", "expected"),
        (activations.find_activation, "relu(1) + 1", "expected a form such as relu(0.5)"),
        (activations.find_activation, "relu(__import__('os'))", "expected a form such as relu(0.5)"),
        (activations.find_activation, "relu(True)", "number, got True"),
        (activations.find_activation, "relu('1')", "number, got '1'"),
        (activations.find_activation, "relu(1, 2)", "at most 1 parameters, got 2"),
        (activations.find_activation, "tanh(1)", "at most 0 parameters, got 1"),
        (activations.find_activation, "leaky_relu(slop=1)", "unknown name 'slop'. Did you mean 'slope'?"),
        pytest.param(activations.find_activation, "leaky_relu(1" + "0" * 400 + ")", "leaky_relu", id="10**400"),
        (losses.find_loss, "sqared", "Did you mean 'squared'?"),
        (losses.find_loss, "huber(0)", "expected delta above 0, got 0"),
        (losses.find_loss, "huber(-1)", "expected delta above 0, got -1"),
        (losses.find_loss, "quantile(1)", "expected tau between 0 and 1, got 1"),
        (losses.find_loss, "quantile(0)", "expected tau between 0 and 1, got 0"),
        (aggregators.find_aggregator, "means", "Did you mean 'mean'?"),
        (aggregators.find_aggregator, "cvar(0)", "share above 0 and at most 1"),
        (aggregators.find_aggregator, "cvar(1.01)", "share above 0 and at most 1"),
        (aggregators.find_aggregator, "tilted(0)", "expected t other than 0, got 0"),
        (initializers.find_initializer, "glorot", "Did you mean 'glorot_"),
    ],
)
def test_bad_names_and_parameters_are_refused(find, given, message):
    with pytest.raises(ParameterError) as caught:
        find("here", given)
    assert message in str(caught.value)


def test_a_parameter_given_twice_is_refused():
    with pytest.raises(ChainRuleError):
        activations.leaky_relu(0.1, slope=0.2)


def test_numpy_numbers_are_parameters():
    assert activations.leaky_relu(np.float64(0.25)) == activations.leaky_relu(0.25)
    assert activations.leaky_relu(np.float32(0.25)) == activations.leaky_relu(0.25)
    assert losses.huber(np.int64(2)) == losses.huber(2)


# -- records of one's own ---------------------------------------------------------------------------------------------


def test_own_records_have_the_same_treatment():
    z = np.random.default_rng(9).uniform(-3, 3, 8)
    expression, a = parsed(softsign, z=Z), softsign.value(z)
    for order, found in enumerate((a, softsign.derivative(z, a), softsign.second_derivative(z, a))):
        close(found, [number(sympy.diff(expression, Z, order) if order else expression, z=v) for v in z])

    rng = np.random.default_rng(10)
    X = rng.standard_normal((40, 2))
    y = np.sin(X[:, :1]) - X[:, 1:]
    A = chain("test", 2, [Dense(6, softsign), Dense(1)])
    theta, cost, s = A.start(1, F64), Cost(fourth_power), np.ones(40)
    g = gradient(A, theta, X, y, cost, s, 1.0).theta
    numeric = [cost_value(A, theta + 1e-30j * e, X, y, cost, s).imag / 1e-30 for e in np.eye(A.P)]
    assert np.abs(numeric - g).max() <= 1e-10 * np.linalg.norm(g)

    net = cr.Network(2, [cr.Dense(6, softsign), cr.Dense(1)], seed=1)
    before = net.cost(X, y, loss=fourth_power)
    run = net.fit(X, y, loss=fourth_power, optimizer=cr.Adam(0.02), epochs=100, batch_size=10)
    assert net.cost(X, y, loss=fourth_power) < 0.02 * before
    assert len(run.history) == 100


def test_own_activation_with_parameters():
    @cr.activation("tanh(k*z)", range=(-1, 1))
    def steep(xp, real, k=2.0):
        def g(z):
            return xp.tanh(k * z)

        def dg(z, a):
            return k * (1 - a * a)

        def d2g(z, a):
            return -2 * k * k * a * (1 - a * a)

        return g, dg, d2g

    assert steep.parameters == (("k", 2.0),) and steep.name == "steep"
    z = np.array([0.1, -0.2])
    np.testing.assert_allclose(steep(k=3).value(z), np.tanh(3 * z))
    np.testing.assert_allclose(steep.value(z), np.tanh(2 * z))
    assert steep.value(z.astype(np.float32)).dtype == np.float32


# -- starting weights -------------------------------------------------------------------------------------------------

SHAPE = (400, 300)  # units, inputs


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("normal", 1.0),
        ("normal(0.1)", 0.01),
        ("uniform", 0.05**2 / 3),
        ("uniform(limit=2)", 4 / 3),
        ("glorot_uniform", 2 / 700),
        ("glorot_normal", 2 / 700),
        ("he_normal", 2 / 300),
        ("he_uniform", 2 / 300),
        ("lecun_normal", 1 / 300),
        ("zeros", 0.0),
    ],
)
def test_initializer_variance(name, variance):
    drawn = initializers.find_initializer("here", name).draw(np.random.default_rng(0), SHAPE)
    assert drawn.shape == SHAPE and drawn.dtype == np.float64
    n = drawn.size
    assert drawn.var() == pytest.approx(variance, rel=6 * np.sqrt(2 / n))  # six standard errors
    assert abs(drawn.mean()) <= 6 * np.sqrt(variance / n)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("uniform", 0.05), ("uniform(2)", 2.0), ("glorot_uniform", np.sqrt(6 / 700)), ("he_uniform", np.sqrt(6 / 300))],
)
def test_uniform_initializer_limits(name, limit):
    drawn = np.abs(initializers.find_initializer("here", name).draw(np.random.default_rng(0), SHAPE))
    assert 0.9999 * limit < drawn.max() <= limit


def test_default_initializers():
    expected = dict.fromkeys(("relu", "leaky_relu", "elu", "gelu", "silu", "mish"), "he_normal")
    expected |= dict.fromkeys(
        ("identity", "step", "softplus", "sigmoid", "tanh", "exp", "square", "softmax"), "glorot_uniform"
    ) | {"selu": "lecun_normal"}
    assert {name: initializers.default_initializer(name).name for name in activations.CATALOGUE} == expected
    A = chain("test", 2, [Dense(3, "leaky_relu(0.2)"), Dense(3, "selu"), Dense(3, "tanh", ntk=True), Dense(1)])
    assert [layer.init.name for layer in A.layers] == ["he_normal", "lecun_normal", "normal", "glorot_uniform"]
    assert all(layer.bias_init.name == "zeros" for layer in A.layers)


def test_start_uses_the_initializer_of_each_layer():
    net = cr.Network(
        300,
        [cr.Dense(400, "relu"), cr.Dense(200, "tanh", init="normal(3)", bias_init="normal"), cr.Dense(1, init="zeros")],
        seed=5,
    )
    assert net.W(1).var() == pytest.approx(2 / 300, rel=0.03)
    assert net.W(2).std() == pytest.approx(3, rel=0.02)
    assert not net.b(1).any() and 0.5 < net.b(2).std() < 1.5 and not net.W(3).any()
    again = cr.Network(300, [cr.Dense(400, "relu")], seed=5)
    np.testing.assert_array_equal(net.W(1), again.W(1))
    assert not np.array_equal(net.W(1), cr.Network(300, [cr.Dense(400, "relu")], seed=6).W(1))
