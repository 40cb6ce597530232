"""Formulas as loops: what a record's functions may do, against the same functions on NumPy arrays."""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("numba")

import chainrule as cr
from chainrule.engine import lowering, passes
from chainrule.engine.compiled import Predictor
from chainrule.engine.lowering import ELEMENT, Untraceable, trace
from chainrule.formulas import activations, losses
from chainrule.training.optimizers import SGD, Adam, Continued


@cr.activation()
def operators(xp, real):
    half, two = real(0.5), real(2)

    def g(z):
        inside = (z > -half) & (z < two) | (z == real(7))
        folded = np.maximum(np.minimum(z, two), -two) + abs(1 - z) ** 0.5 - (z * z + 1) ** -2 + z**3
        return xp.where(inside, folded, -(two / (1 + xp.exp(np.negative(np.abs(z)))))) + np.square(z) - 1.5

    def dg(z, a):
        return xp.ones_like(z)

    return g, dg, dg


@cr.activation(rowwise=True)
def normed(xp, real):
    """Two reductions, of which the second needs the first, and row values in between."""

    def g(z):
        centred = z - xp.row_sum(z) / real(5)
        length = xp.sqrt(xp.row_sum(centred * centred) + real(1e-3))
        return centred / length * xp.row_max(xp.abs(z))

    def matrix(z, a):
        raise NotImplementedError

    def contract(dC_da, z, a):
        return dC_da - xp.row_sum(dC_da * a) * z

    return g, matrix, contract, contract


def predicted(activation, z):
    """g(z) by the compiled forward pass of a layer that hands its input on."""
    net = cr.Network(z.shape[1], [cr.Dense(z.shape[1], activation, bias=False)]).set(1, W=np.eye(z.shape[1]))
    return Predictor(net.architecture, np.dtype(np.float64), 1)(net.theta.copy(), z)[1]


@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("activation", [operators, normed], ids=str)
def test_formulas_of_ones_own(activation, rows):
    z = np.random.default_rng(0).normal(scale=2, size=(rows, 5))
    np.testing.assert_allclose(predicted(activation, z), activation.value(z), rtol=1e-13, atol=1e-13)


def test_what_is_used_twice_is_computed_once():
    text = passes.text(passes.loss_and_slope(losses.categorical_cross_entropy_logits), "float32")
    assert text.count("xp.exp(") == 1 and text.count("xp.log(") == 1
    text = passes.text(passes.forward(activations.mish), "float32")
    assert text.count("xp.exp(") == 1 and "float64" not in text.partition("def ")[2]


def test_few_units_have_lines_of_their_own():
    loss = losses.categorical_cross_entropy_logits
    few, many = (passes.text(passes.loss_and_slope(loss, units), "float64") for units in (3, 0))
    assert few.count("xp.exp(") == 3 and few.count("xp.log(") == 1 and few.count("for ") == 1 and "kept =" not in few
    assert "kept =" in many
    z, y, w = np.random.default_rng(0).normal(scale=3, size=(3, 37, 3))
    results = []
    for units in (3, 0):
        made = passes.made(loss, passes.loss_and_slope, "float64", units)
        L, delta, scratch = np.zeros(37), np.zeros((37, 3)), np.zeros(made.scratch(3))
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 2)(made.address)
        call(*(part.ctypes.data for part in (z, y, w[:, 0].copy(), L, delta, scratch)), 37, 3)
        results.append((L, delta))
    np.testing.assert_allclose(results[0][0], loss.value(z, y).sum(axis=1), rtol=1e-12, atol=1e-12)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-14)


@cr.activation()
def truths(xp, real):
    """Truth values added and multiplied, which NumPy takes as "or" and "and", and one that counts in a sum of numbers."""

    def g(z):
        below, above = z < real(0.5), z > -real(0.5)
        either, both = below + above, below * above
        count = (1 + np.maximum(below, above)) * np.minimum(below, above) + xp.where(below, above, both) * above
        return z * either + real(3) * both + count + (below & above) * 2

    def dg(z, a):
        return xp.ones_like(z)

    return g, dg, dg


def test_truth_values_are_numpys():
    z = np.random.default_rng(0).normal(size=(40, 5))
    np.testing.assert_allclose(predicted(truths, z), truths.value(z), rtol=1e-13, atol=1e-13)


SLOPE = 2.0


@cr.activation()
def sloped(xp, real):
    """One whose slope is a number elsewhere in its module."""

    def g(z):
        return real(SLOPE) * z

    def dg(z, a):
        return real(SLOPE) * xp.ones_like(z)

    return g, dg, dg


def test_numbers_that_a_formula_names_count_as_they_are_at_each_fit(monkeypatch):
    X, y = np.random.default_rng(0).normal(size=(2, 8, 1))
    net = {engine: cr.Network(1, [cr.Dense(2, sloped), cr.Dense(1)], seed=0) for engine in ("array", "compiled")}
    for slope in (2.0, 5.0):
        monkeypatch.setitem(globals(), "SLOPE", slope)
        runs = {e: net[e].fit(X, y, optimizer=SGD(0.01), epochs=2, engine=e, validation=(X, y)) for e in net}
        assert [runs[e].engine for e in net] == ["array", "compiled"]
        for one, other in zip(runs["array"].history, runs["compiled"].history, strict=True):
            assert one["valid_cost"] == pytest.approx(other["valid_cost"], rel=1e-12)


@dataclass(frozen=True)
class Capped:
    """Adagrad with steps of at most 0.1 |g|, of which the coefficient is looked up: it divides by 0 on purpose."""

    learning_rate: float = 0.01
    slots = ("squares",)

    def coefficients(self, t):
        return (np.linspace(1, 2, 1000)[t],)

    def rule(self, xp, real):
        def rule(theta, g, eta, squares, c):
            squares = squares + g * g
            return theta - c * xp.minimum(eta / xp.sqrt(squares), real(0.1)) * g, squares

        return rule


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_update_rule_of_ones_own_may_divide_by_zero_and_is_given_one_count_at_a_time(dtype):
    X = np.random.default_rng(0).normal(size=(40, 3))
    y, X[:, 1] = X[:, 0].copy(), 0
    theta = {}
    for engine in ("array", "compiled"):
        net = cr.Network(3, [cr.Dense(40, "tanh"), cr.Dense(1)], seed=0, dtype=dtype)
        assert net.fit(X, y, optimizer=Capped(), epochs=2, batch_size=4, engine=engine).engine == engine
        theta[engine] = net.theta
    np.testing.assert_allclose(theta["compiled"], theta["array"], rtol=1e-5 if dtype == "float32" else 1e-12)


class Scaled:
    """An update rule with a constant that can be changed: θ ← θ − c η g."""

    learning_rate, slots, c = 0.1, (), 1.0

    def coefficients(self, t):
        return ()

    def rule(self, xp, real):
        c = real(self.c)
        return lambda theta, g, eta: (theta - c * eta * g,)


@dataclass(frozen=True)
class Frozen(Scaled):
    """One that looks unchangeable, and is equal to itself with another constant."""

    learning_rate: float = 0.1


AGGREGATORS = """
from chainrule.formulas.aggregators import aggregator
import helpers
FACTOR = 2.0

def weighted(s):
    return FACTOR * s

@aggregator()
def scaled(L, s, mean_weight):
    w = weighted(s)
    return (w * L).sum(), w

@aggregator()
def elsewhere(L, s, mean_weight):
    w = helpers.factor() * s
    return (w * L).sum(), w
"""


def test_aggregators_are_compiled_with_what_they_name(tmp_path, monkeypatch, caplog):
    """A number that they name may change between two fits; what may change unseen is not compiled."""
    (tmp_path / "helpers.py").write_text("def factor(): return 5.0")
    (tmp_path / "own_aggregators.py").write_text(AGGREGATORS)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_aggregators")
    X, y = np.random.default_rng(0).normal(size=(2, 8, 1))

    def theta(aggregate, engine):
        net = cr.Network(1, [cr.Dense(1)], seed=0)
        run = net.fit(X, y, optimizer=SGD(1e-3), epochs=2, engine=engine, aggregate=aggregate)
        return net.theta, run.engine

    for factor in (2.0, 9.0):
        monkeypatch.setattr(own, "FACTOR", factor)
        (expected, _), (found, engine) = theta(own.scaled, "array"), theta(own.scaled, "compiled")
        assert engine == "compiled"
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert theta(own.elsewhere, "compiled")[1] == "array"
    assert "elsewhere names <module 'helpers'" in caplog.text


@pytest.mark.parametrize("holder", [Scaled(), Frozen, Continued(Scaled(), 3)])
def test_update_rules_whose_constants_change_are_compiled_anew(holder):
    X, y = np.random.default_rng(0).normal(size=(2, 8, 1))
    rule = holder() if isinstance(holder, type) else holder
    changed = holder.optimizer if isinstance(holder, Continued) else holder
    for changed.c in (1.0, 3.0):
        theta = {}
        for engine in ("array", "compiled"):
            net = cr.Network(1, [cr.Dense(1)], seed=0)
            net.fit(X, y, optimizer=rule, epochs=1, engine=engine)
            theta[engine] = net.theta
        np.testing.assert_allclose(theta["compiled"], theta["array"], rtol=1e-12)


def test_identity_needs_no_pass():
    assert passes.keeps(activations.identity) and not passes.keeps(activations.relu)
    assert not any("a[" in line for line in passes.forward(activations.identity).body)


def test_z_is_kept_where_the_way_back_asks_for_it():
    kept = (activations.gelu, activations.selu, activations.relu(1.0), activations.leaky_relu)
    assert all(passes.reads_z(g) for g in kept)
    over = (activations.relu, activations.tanh, activations.sigmoid)
    assert not any(passes.reads_z(g) for g in over)
    assert not any("a[" in line or "z[i, k] = x" in line for line in passes.in_place(activations.tanh).body)


def test_parameters_and_coefficients_are_in_the_text():
    assert "real(0.2)" in passes.text(passes.forward(activations.leaky_relu(0.2)), "float64")
    update = passes.update(Adam(beta1=0.8))
    assert "real(0.8)" in passes.text(update, "float64") and "coefficient_1" in passes.text(update, "float64")
    assert "slot_0[j]" not in passes.text(passes.update(SGD(0.1)), "float64")


@pytest.mark.parametrize(
    ("formula", "why"),
    [
        (lambda xp, z: z if z > 0 else -z, "a decision by value"),
        (lambda xp, z: z.sum(), "no attribute 'sum'"),
        (lambda xp, z: np.add.reduce(z), "numpy.add"),
        (lambda xp, z: np.sort(z), "AxisError"),
        (lambda xp, z: np.arctan(z), "numpy.arctan"),
        (lambda xp, z: xp.arctan(z), "xp.arctan"),
        (lambda xp, z: z**z, "an exponent that is not a number"),
        (lambda xp, z: z[0], "not subscriptable"),
        (lambda xp, z: "text", "'text' in a formula"),
        (lambda xp, z: xp.row_sum(xp.ones_like(z)), "the same for all units"),
    ],
)
def test_what_is_no_loop_over_numbers(formula, why):
    with pytest.raises(Untraceable, match=why):
        trace(lambda graph, xp: {"a": formula(xp, graph.input("z", ELEMENT))})


def test_reductions_need_rows():
    with pytest.raises(Untraceable, match=r"xp\.row_sum in an elementwise formula"):
        lowering.flat({"z": "z"}, trace(lambda graph, xp: {"a": xp.row_sum(graph.input("z", ELEMENT))}))


def test_passes_are_files_that_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "directory", lambda: tmp_path)
    passes.loaded.cache_clear()
    given = passes.forward(activations.leaky_relu(0.125))
    passes.compile(given, "float32")
    (path,) = tmp_path.glob("forward_*.py")
    before = path.stat().st_mtime_ns
    assert "real(0.125)" in path.read_text(encoding="utf-8")
    passes.loaded.cache_clear()
    passes.compile(given, "float32")
    assert path.stat().st_mtime_ns == before and len(list(tmp_path.glob("forward_*.py"))) == 1
    passes.compile(passes.forward(activations.leaky_relu(0.25)), "float32")
    assert len(list(tmp_path.glob("forward_*.py"))) == 2
