"""Traces, Jacobians, per-sample gradients, curvature products and largest paths.

The independent sources are `inspection_oracles.py` (torch's reverse mode and 50-digit dual numbers), sums written out by
indices, and enumeration.

    python tests/test_inspection.py           the selection that the tests run; prints the worst errors
    python tests/test_inspection.py --full    1 000 networks against torch, 200 against 50 digits (minutes)
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.architecture import Architecture, Masks, chain, forward
from chainrule.core.backward import gradient
from chainrule.core.cost import Cost, Penalty
from chainrule.errors import DataError, ParameterError, ShapeError
from chainrule.formulas.aggregators import find_aggregator
from chainrule.formulas.losses import find_loss
from chainrule.inspection import curvature
from chainrule.inspection.jacobians import CompactJacobian
from chainrule.inspection.trace import Trace, trace
from inspection_oracles import ELEMENTWISE, LayerSpec, Spec, TorchModel, exact

TORCH_LIMIT, EXACT_LIMIT = 1e-10, 1e-13
RANDOM, RANDOM_FULL = 60, 1000
FIXED, FIXED_FULL = 20, 200

OUTPUTS = [
    ("identity", "squared"),
    ("identity", "log_cosh"),
    ("exp", "poisson"),
    ("softmax", "categorical_cross_entropy"),
    ("sigmoid", "binary_cross_entropy"),
    ("tanh", "squared"),
    ("softmax", "squared"),
    ("softmax", "log_cosh"),
    ("softmax", "binary_cross_entropy"),
    ("sigmoid", "squared"),
    ("softplus", "poisson"),
    ("exp", "squared"),
    ("gelu", "log_cosh"),
]


# -- the cases ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network of the library, its specification for the oracles, and a batch."""

    spec: Spec
    architecture: Architecture
    theta: np.ndarray
    X: np.ndarray
    y: np.ndarray
    s: np.ndarray
    masks: Masks | None
    v: np.ndarray

    @property
    def cost(self) -> Cost:
        """The cost's record."""
        spec = self.spec
        return Cost(
            find_loss("test", spec.loss),
            find_aggregator("test", f"tilted({spec.t})" if spec.aggregate == "tilted" else spec.aggregate),
            Penalty(l2=spec.l2, biases=spec.penalise_biases),
            spec.average_outputs,
            spec.smoothing,
        )

    @property
    def data(self) -> tuple[Any, ...]:
        """The arguments of the core's functions after θ."""
        return self.X, self.y, self.cost, self.s, float(self.s.mean()), self.masks

    def trace(self) -> Trace:
        """The trace under test."""
        return trace(self.architecture, self.theta, *self.data)

    def product(self, kind: curvature.Kind) -> np.ndarray:
        """The curvature product under test."""
        return curvature.product(self.architecture, self.theta, self.v, *self.data, kind=kind)

    def oracle(self) -> TorchModel:
        """The same network in torch."""
        return TorchModel(self.spec, self.theta, self.X, self.y, self.s, self.masks)


def library_layers(spec: Spec) -> list[Any]:
    """The library's layers of a specification."""
    made: dict[str, Any] = {
        "dense": lambda u: cr.Dense(u.units, u.activation, bias=u.bias, ntk=u.ntk),
        "scale": lambda u: cr.Scale(),
        "dropout": lambda u: cr.Dropout(u.rate),
    }
    return [made[layer.kind](layer) for layer in spec.layers]


def random_spec(rng: np.random.Generator, depth: int, width: int, hidden: tuple[str, ...], dropout: bool) -> Spec:
    """A specification with `depth` dense layers; scale and dropout layers lie between them now and then."""
    output, loss = OUTPUTS[rng.integers(len(OUTPUTS))]
    inputs = int(rng.integers(1, width + 1))
    layers: list[LayerSpec] = []
    for number in range(depth):
        before = layers[-1].units if layers else inputs
        if rng.random() < 0.15:
            layers.append(LayerSpec("scale", before, bias=False))
        if dropout and rng.random() < 0.15:
            layers.append(LayerSpec("dropout", before, bias=False, rate=0.3))
        last = number == depth - 1
        least = 2 if last and output == "softmax" else 1
        units = int(rng.integers(least, width + 1))
        g = output if last else str(rng.choice(hidden))
        layers.append(LayerSpec("dense", units, g, bias=bool(rng.random() < 0.8), ntk=bool(rng.random() < 0.2)))
    categorical = loss == "categorical_cross_entropy"
    return Spec(
        inputs,
        tuple(layers),
        loss,
        str(rng.choice(["mean", "sum", "tilted"])),
        float(rng.choice([-1.5, 0.7, 2.0])),
        float(rng.choice([0.0, 0.3])),
        bool(rng.random() < 0.5),
        bool(rng.random() < 0.3) and not categorical,
        0.2 if loss.endswith("cross_entropy") and rng.random() < 0.3 else 0.0,
    )


def random_case(seed: int, small: bool = False) -> Case:
    """A network and a batch from a seed; parameters are drawn, ever smaller, until every |z| is moderate.

    Small networks stay nearer to 0, where 1 − a² of tanh keeps its digits (see `test_slope_of_a_saturated_unit`).
    """
    rng = np.random.default_rng([seed, 17])
    depth = 1 + seed % (3 if small else 6)
    spec = random_spec(rng, depth, 3 if small else 4, (*ELEMENTWISE, "softmax"), dropout=not small)
    N = 2 if small else int(rng.integers(1, 5))
    A = chain("test", spec.inputs, library_layers(spec))
    X = rng.standard_normal((N, spec.inputs))
    y = targets(rng, spec.loss, (N, spec.sizes[-1]))
    s = rng.uniform(0.3, 2.0, N) if rng.random() < 0.5 else np.ones(N)
    if N > 2 and rng.random() < 0.3:
        s[1] = 0.0
    masks = random_masks(rng, A, N)
    for attempt in itertools.count():
        theta = 0.95**attempt * rng.standard_normal(A.P)
        for here, (W_shape, _) in zip(A.views(theta), spec.shapes, strict=True):
            if here.W is not None and W_shape is not None and len(W_shape) == 2:
                here.W[...] *= 1.3 / math.sqrt(W_shape[1])
        with np.errstate(all="ignore"):
            z = forward(A, theta, X, masks, keep="all").z
        if all(np.abs(part).max() < (3 if small else 5) for part in z if part is not None):
            return Case(spec, A, theta, X, y, s, masks, rng.standard_normal(A.P))
    raise AssertionError("unreachable")


def random_masks(rng: np.random.Generator, A: Architecture, rows: int) -> Masks | None:
    """0 with the layer's rate, else 1/(1 − rate), for every dropout layer."""
    masks = [
        (rng.random((rows, layer.outputs)) >= layer.rate) / (1 - layer.rate) if isinstance(layer, cr.Dropout) else None
        for layer in A.layers
    ]
    return masks if any(m is not None for m in masks) else None


def targets(rng: np.random.Generator, loss: str, shape: tuple[int, int]) -> np.ndarray:
    """Targets that a loss takes."""
    if loss == "poisson":
        return rng.poisson(1.5, shape).astype(float)
    if loss == "binary_cross_entropy":
        return rng.uniform(0.1, 0.9, shape)
    if loss == "categorical_cross_entropy":
        return rng.dirichlet(np.ones(shape[1]), shape[0])
    return 1.5 * rng.standard_normal(shape)


def relative(found: Any, expected: Any) -> float:
    """‖found − expected‖ over ‖expected‖ (at least 1e-8, where it vanishes); inf for NaN or another shape."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return math.inf
    error = float(np.linalg.norm(found - expected)) / max(1e-8, float(np.linalg.norm(expected)))
    return error if math.isfinite(error) else math.inf


# -- against torch --------------------------------------------------------------------------------------------------


def torch_errors(case: Case) -> dict[str, float]:
    """The worst relative error of every kind of derivative, over all layers and pairs of layers."""
    worst: dict[str, float] = {}

    def note(kind: str, found: Any, expected: Any) -> None:
        worst[kind] = max(worst.get(kind, 0.0), relative(found, expected))

    t, oracle, spec = case.trace(), case.oracle(), case.spec
    for (of, m, wrt, layer), by, expected in all_jacobians(spec, *oracle.jacobians()):
        note(f"Jacobian by {wrt}", t.jacobian(of, wrt, layer, m, full=True), expected)
        turned = t.jacobian(of, wrt, layer, m, layout="denominator")
        note(f"Jacobian by {wrt}, denominator layout", turned, np.moveaxis(expected, 1, -1))
        if wrt == "W" and len(by) == 2:
            pair = t.jacobian(of, wrt, layer, m)
            assert isinstance(pair, CompactJacobian) and pair.shape == expected.shape
            assert pair.nbytes == expected.nbytes
            note("compact Jacobian", np.einsum("ivp,iq->ivpq", pair.by_z, pair.a_prev), expected)

    G = oracle.gradients()
    note("cost", t.cost, G.cost)
    note("losses", t.loss, G.loss)
    note("∇φ", t.dC_dL, G.dC_dL)
    note("gradient", t.dC_dtheta, G.theta)
    note("per-sample gradients", t.per_sample_gradients(), G.samples)
    note("per-sample norms", t.per_sample_norms(), np.linalg.norm(G.samples, axis=1))
    for number in range(1, len(spec.layers) + 1):
        note("δ and ∂C/∂a of a layer", t[number].dC_dz, G.marks[:, spec.marks["z", number]])
        note("δ and ∂C/∂a of a layer", t[number].dC_da, G.marks[:, spec.marks["a", number]])
        note("δ and ∂C/∂a of a layer", t[number].dC_da_prev, G.marks[:, spec.marks["a", number - 1]])
    note("Hessian product", case.product("hessian"), oracle.hessian_product(case.v))
    note("Gauss-Newton product", case.product("gauss_newton"), oracle.gauss_newton_product(case.v))
    return worst


def all_jacobians(
    spec: Spec, by_theta: np.ndarray, by_e: np.ndarray
) -> Iterator[tuple[tuple[str, int, str, int | None], tuple[int, ...], np.ndarray]]:
    """Every Jacobian that can be asked for: its arguments (of, of_layer, wrt, layer), the shape of what it is by, itself."""
    marks, N = spec.marks, len(by_e)
    for of, m in itertools.product("az", range(1, len(spec.layers) + 1)):
        rows = marks[of, m]
        yield (of, m, "x", None), (spec.inputs,), by_e[:, rows, marks["a", 0]]
        yield (of, m, "a", 0), (spec.inputs,), by_e[:, rows, marks["a", 0]]
        for layer in range(1, m + 1):
            n = spec.sizes[layer]
            yield (of, m, "z", layer), (n,), by_e[:, rows, marks["z", layer]]
            if (of, m) != ("z", layer):
                yield (of, m, "a", layer), (n,), by_e[:, rows, marks["a", layer]]
            for wrt, place, shape in zip("Wb", spec.places[layer - 1], spec.shapes[layer - 1], strict=True):
                if place is not None and shape is not None:
                    yield (of, m, wrt, layer), shape, by_theta[:, rows, place].reshape(N, -1, *shape)


@pytest.mark.parametrize("seed", range(RANDOM))
def test_random_networks_against_torch(seed):
    pytest.importorskip("torch").set_num_threads(1)
    for kind, error in torch_errors(random_case(seed)).items():
        assert error <= TORCH_LIMIT, kind


def test_selection_is_mixed_and_not_vacuous():
    cases = [random_case(seed) for seed in range(RANDOM)]
    layers = [layer for case in cases for layer in case.spec.layers]
    assert {layer.activation for layer in layers if layer.kind == "dense"} == {*ELEMENTWISE, "softmax"}
    assert {layer.kind for layer in layers} == {"dense", "scale", "dropout"}
    assert {(case.spec.output, case.spec.loss) for case in cases} == set(OUTPUTS)
    assert {case.spec.aggregate for case in cases} == {"mean", "sum", "tilted"}
    assert {sum(layer.kind == "dense" for layer in case.spec.layers) for case in cases} == set(range(1, 7))
    assert any(layer.activation == "softmax" for case in cases for layer in case.spec.layers[:-1])
    assert any(layer.ntk for layer in layers) and any(layer.kind == "dense" and not layer.bias for layer in layers)
    sizes = [np.linalg.norm(case.trace().dC_dtheta) for case in cases]
    assert np.median(sizes) > 0.1 and np.mean(np.array(sizes) > 1e-3) > 0.95
    bent = [relative(case.product("hessian"), case.product("gauss_newton")) for case in cases]
    assert np.mean(np.array(bent) > 1e-3) > 0.7  # the two products are different numbers


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_curvature_matrices_are_symmetric_and_gauss_newton_is_not_negative(kind):
    case = next(c for c in map(random_case, range(100)) if c.spec.aggregate == "mean" and c.spec.loss == "squared")
    H = np.array(
        [
            curvature.product(case.architecture, case.theta, row, *case.data, kind=kind)
            for row in np.eye(case.architecture.P)
        ]
    )
    np.testing.assert_allclose(H, H.T, atol=1e-12 * np.abs(H).max())
    if kind == "gauss_newton":
        assert np.linalg.eigvalsh(H).min() > -1e-12 * np.abs(H).max()


# -- against fifty digits -------------------------------------------------------------------------------------------


def exact_errors(case: Case) -> dict[str, float]:
    """The relative errors of forward pass, Jacobians and gradient against 50 digits."""
    t, spec = case.trace(), case.spec
    e = exact(spec, case.theta, case.X, case.y, case.s)
    worst = {
        "predictions": relative(t.y_hat, e.y_hat),
        "losses": relative(t.loss, e.loss),
        "cost": relative(t.cost, e.cost),
        "gradient": relative(t.dC_dtheta, e.gradient),
        "Jacobian by x": relative(t.jacobian(wrt="x"), e.by_x),
        "Jacobian by W": 0.0,
        "Jacobian by b": 0.0,
    }
    for layer, (places, shapes) in enumerate(zip(spec.places, spec.shapes, strict=True), 1):
        for wrt, place, shape in zip("Wb", places, shapes, strict=True):
            if place is not None and shape is not None:
                expected = e.by_theta[:, :, place].reshape(*e.y_hat.shape, *shape)
                error = relative(t.jacobian("a", wrt, layer, full=True), expected)  # type: ignore[arg-type]
                worst[f"Jacobian by {wrt}"] = max(worst[f"Jacobian by {wrt}"], error)
    return worst


@pytest.mark.parametrize("seed", range(FIXED))
def test_small_networks_against_fifty_digits(seed):
    for kind, error in exact_errors(random_case(seed, small=True)).items():
        assert error <= EXACT_LIMIT, kind


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("z", [3.0, 4.2, 8.0, 15.0])
def test_slope_of_a_saturated_unit(activation, z):
    """1 − a² and a(1 − a) are as good as a is: their relative error is a rounding of a over the distance to 1."""
    spec = Spec(1, (LayerSpec("dense", 1, activation, bias=False),))
    theta, x = np.array([1.0]), np.array([[z]])
    t = trace(chain("test", 1, library_layers(spec)), theta, x, x, Cost(find_loss("t", "squared")), np.ones(1), 1.0)
    expected = exact(spec, theta, x, x, np.ones(1)).by_x
    eps = np.finfo(float).eps
    assert relative(t.jacobian(), expected) <= 2 * eps / float(1 - t.y_hat[0, 0])


# -- the trace ------------------------------------------------------------------------------------------------------


def network(seed: int = 0, **options: Any) -> tuple[cr.Network, np.ndarray, np.ndarray]:
    """A network with every kind of layer, X and labels."""
    layers = [
        cr.Scale(init="normal"),
        cr.Dense(4, "softmax"),
        cr.Dropout(0.25),
        cr.Dense(3, "gelu", ntk=True),
        cr.Dense(3, "softmax", bias=False),
    ]
    rng = np.random.default_rng(seed)
    return cr.Network(2, layers, seed=seed, **options), rng.standard_normal((6, 2)), rng.integers(0, 3, 6)


OPTIONS = {"aggregate": "tilted(0.5)", "penalty": Penalty(l1=0.01, l2=0.2), "label_smoothing": 0.1}
OF_A_LAYER = ("a_prev", "z", "a", "da_dz", "dC_da", "dC_dz", "dC_da_prev", "W", "b", "dC_dW", "dC_db", "D", "mask")
OF_THE_TRACE = ("X", "y", "s", "y_hat", "loss_per_output", "loss", "dC_dL", "dC_dtheta")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_trace_holds_what_predict_cost_and_gradient_give(dtype):
    net, X, y = network(dtype=dtype)
    s = np.arange(1.0, 7.0)
    t = net.trace(X, y, sample_weight=s, **OPTIONS)
    G = net.gradient(X, y, sample_weight=s, **OPTIONS)
    np.testing.assert_array_equal(t.y_hat, net.predict(X))
    np.testing.assert_array_equal(t.dC_dtheta, G.dC_dtheta)
    assert t.cost == G.cost == net.cost(X, y, sample_weight=s, **OPTIONS)
    assert t.penalty == cr.Penalty(l1=0.01, l2=0.2).value(net.architecture, net.theta) > 0
    unpenalised = net.gradient(X, y, sample_weight=s, **(OPTIONS | {"penalty": None}))
    for number, here in enumerate(t.layers, 1):
        for ours, theirs in ((here.dC_dW, unpenalised.dC_dW), (here.dC_db, unpenalised.dC_db)):
            assert (ours is None) == (theirs[number] is None)
            if ours is not None:
                np.testing.assert_array_equal(ours, theirs[number])
                assert ours.dtype == net.dtype


def test_trace_follows_the_equations_of_each_layer():
    net, X, y = network()
    t = net.trace(X, y, **OPTIONS)
    np.testing.assert_array_equal(t[1].a_prev, X)
    np.testing.assert_array_equal(t.y, np.eye(3)[y])
    for number, here in enumerate(t.layers, 1):
        assert here.number == number and here.layer is net.architecture.layers[number - 1]
        if number > 1:
            np.testing.assert_array_equal(here.a_prev, t[number - 1].a)
            np.testing.assert_array_equal(here.dC_da_prev, t[number - 1].dC_da)
        slopes = here.da_dz if here.da_dz.ndim == 3 else here.da_dz[:, :, None] * np.eye(here.z.shape[1])
        np.testing.assert_allclose(here.dC_dz, np.einsum("ij,ijk->ik", here.dC_da, slopes), atol=1e-14)
        c = {4: 1 / 2}.get(number, 1.0)  # 1/√n of the four inputs with ntk
        if here.W is not None and here.W.ndim == 2:
            np.testing.assert_allclose(
                here.z, c * here.a_prev @ here.W.T + (0 if here.b is None else here.b), rtol=1e-13
            )
            np.testing.assert_allclose(here.dC_dW, c * here.dC_dz.T @ here.a_prev, atol=1e-15)
            np.testing.assert_allclose(here.dC_da_prev, c * here.dC_dz @ here.W, atol=1e-15)
        if here.b is not None:
            np.testing.assert_allclose(here.dC_db, here.dC_dz.sum(0), atol=1e-15)
    np.testing.assert_array_equal(t[1].z, X * net.W(1))
    np.testing.assert_array_equal(t[3].z, t[2].a)  # dropout without a mask


def test_D_is_diag_gamma_W():
    net, X, y = network()
    t = net.trace(X, y)
    np.testing.assert_allclose(t[4].D, t[4].da_dz[:, :, None] * t[4].W / 2, rtol=1e-14)
    np.testing.assert_allclose(t[2].D, t[2].da_dz @ t[2].W, rtol=1e-12, atol=1e-15)  # softmax: its matrix
    np.testing.assert_allclose(t[1].D, np.broadcast_to(np.diag(t[1].W), (6, 2, 2)))
    np.testing.assert_allclose(t[3].D, np.broadcast_to(np.eye(4), (6, 4, 4)))
    plain = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dense(2, "sigmoid")])
    t = plain.trace(np.ones((1, 3)), np.zeros((1, 2)), loss="squared")
    for here in t.layers:
        np.testing.assert_allclose(here.D[0], np.diag(here.da_dz[0]) @ here.W, rtol=1e-14)
    np.testing.assert_allclose(t.jacobian()[0], t[2].D[0] @ t[1].D[0], rtol=1e-13)


def test_every_address():
    net, X, y = network()
    t = net.trace(X, y)
    for name in (*OF_THE_TRACE, "cost", "penalty", "theta", "layers"):
        assert t[name] is getattr(t, name)
    for number, here in enumerate(t.layers, 1):
        assert t[number] is t[np.int64(number)] is here
        for name in (*OF_A_LAYER, "number", "layer"):
            assert t[f"layers[{number}].{name}"] is getattr(here, name)


@pytest.mark.parametrize(
    "address",
    ["layers[1].nothing", "nothing", "layers[1]", "layers.dC_dW", "layers[1].dC_dW[0]", "_x", "layers[1]._x", ""],
)
def test_address_that_does_not_exist(address):
    net, X, y = network()
    with pytest.raises(ParameterError, match=r"Trace: expected an address such as 'layers\[1\]\.dC_dW', got ") as error:
        net.trace(X, y)[address]
    one_sentence(error)


@pytest.mark.parametrize("number", [0, 6, -1, True, 1.0, "layers[6].z", "layers[0].z"])
def test_layer_that_does_not_exist(number):
    net, X, y = network()
    with pytest.raises(ParameterError, match="Trace: expected a layer from 1 to 5, got ") as error:
        net.trace(X, y)[number]
    one_sentence(error)


@pytest.mark.parametrize("name", OF_A_LAYER)
def test_arrays_of_a_layer_are_read_only(name):
    net, X, y = network()
    t = trace(
        net.architecture, net.theta, X, np.eye(3)[y], Cost(find_loss("t", "squared")), np.ones(6), 1.0, masks(net)
    )
    arrays = [getattr(here, name) for here in t.layers if getattr(here, name) is not None]
    assert arrays
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("name", [*OF_THE_TRACE, "theta"])
def test_arrays_of_the_trace_are_read_only(name):
    net, X, y = network()
    with pytest.raises(ValueError, match="read-only"):
        net.trace(X, y)[name][...] = 0


def everything(t: Trace) -> dict[str, Any]:
    """Every array and every derived result of a trace."""
    found = {name: t[name] for name in (*OF_THE_TRACE, "cost", "penalty", "theta")}
    for number, here in enumerate(t.layers, 1):
        found |= {
            f"layers[{number}].{name}": getattr(here, name) for name in OF_A_LAYER if getattr(here, name) is not None
        }
        found |= {f"per sample {number} {i}": part for i, part in enumerate(here.per_sample()) if part is not None}
    found |= {"Jacobian": t.jacobian(), "by W": t.jacobian(wrt="W", layer=2, full=True)}
    found |= {"per sample": t.per_sample_gradients(), "norms": t.per_sample_norms()}
    found |= {"paths": np.array([(path.value, *path.units) for path in t.paths(4, (1, 2), output=2, sample=3, k=20)])}
    return {name: np.array(value) for name, value in found.items()} | {"repr": np.array(repr(t))}


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(b[name], value, err_msg=name)


def test_twice_gives_the_same_and_changes_nothing():
    net, X, y = network()
    before = net.theta.copy(), X.copy(), y.copy()
    t, v = net.trace(X, y, **OPTIONS), np.linspace(-1, 1, net.P)
    first, H = everything(t), net.curvature_product(v, X, y, **OPTIONS)
    assert_equal(first, everything(t))
    assert_equal(first, everything(net.trace(X, y, **OPTIONS)))
    np.testing.assert_array_equal(net.curvature_product(v, X, y, **OPTIONS), H)
    for ours, theirs in zip(before, (net.theta, X, y), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_trace_stays_when_network_and_data_change():
    net, X, _ = network()
    y, s = np.eye(3)[[0, 1, 2, 0, 1, 2]], np.arange(1.0, 7.0)
    t = net.trace(X, y, sample_weight=s, aggregate="sum")
    first = everything(t)
    net.set(2, W=np.zeros((4, 2))).fit(X, y, epochs=2)
    assert_equal(first, everything(t))
    X[...], y[...], s[...] = 7.0, 0.5, 9.0
    assert_equal(first, everything(t))


def masks(net: cr.Network, rows: int = 6) -> Masks:
    found = random_masks(np.random.default_rng(5), net.architecture, rows)
    assert found is not None
    return found


def test_trace_on_dropout_masks():
    net, X, y = network()
    drawn = masks(net)
    assert {*np.unique(drawn[2])} == {0.0, 1 / 0.75}
    cost, Y, s = Cost(find_loss("test", "categorical_cross_entropy")), np.eye(3)[y], np.ones(6)
    t = trace(net.architecture, net.theta, X, Y, cost, s, 1.0, drawn)
    np.testing.assert_array_equal(t[3].mask, drawn[2])
    np.testing.assert_array_equal(t[3].z, t[2].a * drawn[2])
    np.testing.assert_array_equal(t[3].dC_da_prev, t[3].dC_dz * drawn[2])
    np.testing.assert_array_equal(t[3].D, [np.diag(row) for row in drawn[2]])
    np.testing.assert_array_equal(t[3].per_sample(), [None, None])
    G = gradient(net.architecture, net.theta, X, Y, cost, s, 1.0, drawn)
    np.testing.assert_array_equal(t.dC_dtheta, G.theta)
    np.testing.assert_allclose(t.per_sample_gradients().sum(0), G.theta, atol=1e-15)
    for i in range(6):  # each sample by itself, with its own row of the mask
        chain_of_D = np.linalg.multi_dot([t[number].D[i] for number in (5, 4, 3, 2, 1)])
        np.testing.assert_allclose(t.jacobian()[i], chain_of_D, atol=1e-15)
        alone = [None if m is None else m[[i]] for m in drawn]
        single = trace(net.architecture, net.theta, X[[i]], Y[[i]], cost, s[[i]], 1.0, alone)
        np.testing.assert_allclose(single.jacobian(wrt="b", layer=2)[0], t.jacobian(wrt="b", layer=2)[i], atol=1e-15)
    assert np.abs(t.y_hat - net.predict(X)).max() > 1e-3


@pytest.mark.parametrize("seed", range(12))
def test_sums_over_samples(seed):
    """Per-sample gradients sum to the gradient, Jacobians contracted with ∂C/∂ŷ too; a row is that sample's alone."""
    case = random_case(seed)
    t = case.trace()
    without = t.dC_dtheta - case.spec.l2 * case.spec.penalised() * case.theta
    rows = t.per_sample_gradients()
    assert rows.shape == (len(case.X), case.architecture.P)
    np.testing.assert_allclose(rows.sum(0), without, atol=1e-13 * (1 + np.abs(rows).max()))
    np.testing.assert_allclose(t.per_sample_norms(), np.linalg.norm(rows, axis=1), rtol=1e-12)
    scale = 1 + np.abs(rows).max()
    for here, places in zip(t.layers, case.spec.places, strict=True):
        for part, total, place in zip(here.per_sample(), (here.dC_dW, here.dC_db), places, strict=True):
            assert (part is None) == (total is None) == (place is None)
            if part is not None and total is not None:
                assert part.shape == (len(case.X), *total.shape)
                np.testing.assert_allclose(part.sum(0), total, atol=1e-13 * scale)
                np.testing.assert_array_equal(part.reshape(len(case.X), -1), rows[:, place])


def test_gradient_of_single_losses_is_the_seed_one():
    """With φ = Σ and unit weights ∇φ is 1, so the rows are the gradients of the losses themselves."""
    net, X, y = network()
    rows = net.trace(X, y, aggregate="sum").per_sample_gradients()
    for i in range(6):
        np.testing.assert_allclose(rows[i], net.gradient(X[[i]], y[[i]]).dC_dtheta, atol=1e-15)
    tilted = net.trace(X, y, aggregate="tilted(2)")
    np.testing.assert_allclose(tilted.per_sample_gradients(), tilted.dC_dL[:, None] * rows, atol=1e-15)


def test_text_of_a_trace():
    net = cr.Network(2, [cr.Dense(1, bias=False)]).set(1, W=[[2.0, -1.0]])
    t = net.trace([[3.0, 1.0]], [4.0], penalty=0.5)
    assert str(t).splitlines() == [
        "Trace of 1 samples, loss squared, φ mean: cost 2.25, of which penalty 1.25",
        "layer 1 (Dense 2 → 1, identity)",
        "  a_prev     1 × 2         [[3., 1.]]",
        "  W          1 × 2         [[ 2., -1.]]",
        "  z          1 × 1         [[5.]]",
        "  da_dz      1 × 1         [[1.]]",
        "  a          1 × 1         [[5.]]",
        "  dC_da      1 × 1         [[2.]]",
        "  dC_dz      1 × 1         [[2.]]",
        "  dC_dW      1 × 2         [[6., 2.]]",
        "  dC_da_prev 1 × 2         [[ 4., -2.]]",
        "loss_per_output 1 × 1       [[1.]]",
        "loss            1           [1.]",
        "dC_dL           1           [1.]",
    ]


# -- worked examples of the mathematics, section 8 ------------------------------------------------------------------


def test_example_3_square():
    net = cr.Network(3, [cr.Dense(3, "square", bias=False)]).set(1, W=np.eye(3))
    t = net.trace([[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(t[1].a, [[1, 4, 9]])
    np.testing.assert_array_equal(t[1].da_dz, [[2, 4, 6]])
    for wrt, layer in (("z", 1), ("x", None)):
        np.testing.assert_array_equal(t.jacobian(wrt=wrt, layer=layer), [np.diag([2, 4, 6])])


def test_jacobian_of_a_vector_of_losses():
    """A row for each output (000 §2.2), by a complex step along single parameters and inputs; smoothing included."""
    net = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dense(2, "sigmoid")], seed=1)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5, 3)), rng.integers(0, 2, (5, 2)).astype(float)
    t = net.trace(X, y, label_smoothing=0.1)

    def losses(theta, X):
        values = forward(net.architecture, theta, X)
        return t.cost_record.loss.value(values.y_hat, t.cost_record.smooth(y))

    tensor, by_x = t.jacobian("loss", "W", 1, full=True), t.jacobian("loss")
    assert tensor.shape == (5, 2, 4, 3)
    for p, q in itertools.product(range(4), range(3)):
        step = np.zeros(net.P, complex)
        step[3 * p + q] = 1e-30j
        np.testing.assert_allclose(tensor[..., p, q], losses(net.theta + step, X).imag / 1e-30, rtol=1e-12)
    for k in range(3):
        moved = X + 1e-30j * np.eye(3)[k]
        np.testing.assert_allclose(by_x[..., k], losses(net.theta, moved).imag / 1e-30, rtol=1e-12)
    np.testing.assert_allclose(t.jacobian("loss", "W", 1).full(), tensor, rtol=1e-14)
    transposed = t.jacobian("loss", "W", 1, layout="denominator")
    np.testing.assert_allclose(transposed, np.moveaxis(tensor, 1, -1), rtol=1e-14)
    np.testing.assert_array_equal(
        t.jacobian("loss", "b", 2, layout="denominator").swapaxes(1, 2), t.jacobian("loss", "b", 2)
    )


def test_jacobian_without_targets():
    net, X, y = network()
    t = net.trace(X, y)
    np.testing.assert_array_equal(net.jacobian(X), t.jacobian())
    np.testing.assert_array_equal(net.jacobian(X, "z", "W", 2, 3).full(), t.jacobian("z", "W", 2, 3, full=True))
    refused("jacobian: expected X with 2 columns, got 3", lambda: net.jacobian([[1.0, 2.0, 3.0]]), ShapeError)


def test_example_8_jacobian_of_two_functions():
    """f(x) = (x₁ + x₂x₃, x₁² + 3x₂), from squares: uv = ((u + v)² − (u − v)²)/4 and u = ((u + 1)² − (u − 1)²)/4."""
    W = [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, -1], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    net = cr.Network(3, [cr.Dense(7, "square"), cr.Dense(2, bias=False)]).set(1, W=W, b=[1, -1, 0, 0, 0, 1, -1])
    net.set(2, W=np.array([[1, -1, 1, -1, 0, 0, 0], [0, 0, 0, 0, 4, 3, -3]]) / 4)
    x1, x2, x3 = 0.5, -2.0, 3.0
    t = net.trace([[x1, x2, x3]], [[0, 0]])
    np.testing.assert_array_equal(t.jacobian(), [[[1, x3, x2], [2 * x1, 3, 0]]])
    np.testing.assert_array_equal(t.jacobian(layout="denominator"), [np.transpose([[1, x3, x2], [2 * x1, 3, 0]])])


def test_example_8_logistic_loss_by_observation():
    rng = np.random.default_rng(8)
    X, y, w, b = rng.standard_normal((7, 3)), rng.integers(0, 2, 7), rng.standard_normal(3), 0.4
    t = cr.Network(3, [cr.Dense(1, "sigmoid")]).set(1, W=[w], b=[b]).trace(X, y, aggregate="sum")
    error = 1 / (1 + np.exp(-(X @ w + b))) - y
    np.testing.assert_allclose(t[1].dC_dz[:, 0], error, rtol=1e-13)
    for j in range(3):
        np.testing.assert_allclose(t[1].per_sample().W[:, 0, j], error * X[:, j], rtol=1e-13)
        assert t[1].dC_dW[0, j] == pytest.approx(sum(error[i] * X[i, j] for i in range(7)), rel=1e-12)
    np.testing.assert_allclose(t[1].per_sample().b[:, 0], error, rtol=1e-13)


def test_example_8_sigmoid_layer():
    rng = np.random.default_rng(9)
    W, b, x = rng.standard_normal((3, 2)), rng.standard_normal(3), rng.standard_normal(2)
    t = cr.Network(2, [cr.Dense(3, "sigmoid")]).set(1, W=W, b=b).trace([x], [[0, 0, 0]], loss="squared")
    z = W @ x + b
    slope = np.exp(-z) / (1 + np.exp(-z)) ** 2
    np.testing.assert_allclose(t.jacobian(wrt="z", layer=1)[0], np.diag(slope), rtol=1e-14)
    by_W, by_x = t.jacobian(wrt="W", layer=1, full=True)[0], t.jacobian(wrt="x")[0]
    for i, k, j in np.ndindex(3, 3, 2):
        assert by_W[i, k, j] == pytest.approx((i == k) * slope[i] * x[j], rel=1e-14)
        assert by_x[i, j] == pytest.approx(slope[i] * W[i, j], rel=1e-14)


def test_example_8_squared_distance():
    rng = np.random.default_rng(10)
    W, b, x, y = rng.standard_normal((3, 2)), rng.standard_normal(3), rng.standard_normal(2), rng.standard_normal(3)
    t = cr.Network(2, [cr.Dense(3)]).set(1, W=W, b=b).trace([x], [y])
    z = W @ x + b
    for i in range(3):
        assert t[1].dC_dz[0, i] == t[1].dC_db[i] == pytest.approx(2 * (z[i] - y[i]), rel=1e-13)
        for j in range(2):
            assert t[1].dC_dW[i, j] == pytest.approx(2 * (z[i] - y[i]) * x[j], rel=1e-13)
    np.testing.assert_allclose(t[1].dC_da_prev[0], 2 * W.T @ (z - y), rtol=1e-13)


def test_example_9_relu_and_softmax_cross_entropy():
    """Every step of the printed solution by its indices: L → zᴼ → Wᴼ, bᴼ, uᴴ → zᴴ → Wᴴ, bᴴ."""
    rng = np.random.default_rng(11)
    N, N_i, N_h, N_o = 4, 3, 5, 3
    X, labels = rng.standard_normal((N, N_i)), np.array([2, 0, 1, 2])
    WH, bH, WO, bO = (rng.standard_normal(s) for s in ((N_h, N_i), N_h, (N_o, N_h), N_o))
    net = cr.Network(N_i, [cr.Dense(N_h, "relu"), cr.Dense(N_o, "softmax")]).set(1, W=WH, b=bH).set(2, W=WO, b=bO)
    t = net.trace(X, labels, aggregate="sum")
    for i in range(N):
        for j in range(N_h):
            assert t[1].z[i, j] == pytest.approx(sum(WH[j, k] * X[i, k] for k in range(N_i)) + bH[j], rel=1e-12)
            assert t[1].a[i, j] == max(0.0, t[1].z[i, j])
            assert t[1].da_dz[i, j] == (t[1].z[i, j] > 0)
            by_u = sum(t[2].dC_dz[i, m] * WO[m, j] for m in range(N_o))
            assert t[1].dC_da[i, j] == t[2].dC_da_prev[i, j] == pytest.approx(by_u, rel=1e-12, abs=1e-15)
            assert t[1].dC_dz[i, j] == t[1].dC_da[i, j] * (t[1].z[i, j] > 0)
        exps = [math.exp(v) for v in t[2].z[i]]
        for j in range(N_o):
            assert t[2].dC_dz[i, j] == pytest.approx(exps[j] / sum(exps) - (labels[i] == j), rel=1e-12)
    for number, a_prev in ((2, t[1].a), (1, X)):
        delta = t[number].dC_dz
        for j, k in np.ndindex(*t[number].W.shape):
            expected = sum(delta[i, j] * a_prev[i, k] for i in range(N))
            assert t[number].dC_dW[j, k] == pytest.approx(expected, rel=1e-12, abs=1e-15)
        for j in range(len(t[number].b)):
            assert t[number].dC_db[j] == pytest.approx(sum(delta[i, j] for i in range(N)), rel=1e-12, abs=1e-15)


def test_example_10_exponential_model():
    """Every edge of the printed computation graph; ∂z_ij/∂W_jk is x_ik."""
    rng = np.random.default_rng(12)
    N, M, n = 5, 3, 2
    X, y = rng.standard_normal((N, n)), rng.standard_normal(N)
    W, b, alpha = 0.5 * rng.standard_normal((M, n)), 0.5 * rng.standard_normal(M), rng.standard_normal(M)
    net = cr.Network(n, [cr.Dense(M, "exp"), cr.Dense(1, bias=False)]).set(1, W=W, b=b).set(2, W=[alpha])
    t = net.trace(X, y, aggregate="sum")
    by_u, by_alpha = t.jacobian(wrt="a", layer=1), t.jacobian(wrt="W", layer=2, full=True)
    z_by_W, u_by_z = t.jacobian("z", "W", 1, 1, full=True), t.jacobian("a", "z", 1, 1)
    for i in range(N):
        dL_dy = 2 * (sum(alpha[j] * t[1].a[i, j] for j in range(M)) - y[i])
        assert t[2].dC_da[i, 0] == pytest.approx(dL_dy, rel=1e-12)
        for j in range(M):
            z = sum(W[j, k] * X[i, k] for k in range(n)) + b[j]
            assert by_u[i, 0, j] == alpha[j]
            assert by_alpha[i, 0, 0, j] == t[1].a[i, j] == pytest.approx(math.exp(z), rel=1e-14)
            assert t[1].dC_da[i, j] == pytest.approx(dL_dy * alpha[j], rel=1e-12)
            assert t[1].dC_dz[i, j] == pytest.approx(dL_dy * alpha[j] * math.exp(z), rel=1e-12)
            for m in range(M):
                assert u_by_z[i, j, m] == pytest.approx((j == m) * math.exp(z), rel=1e-14)
                np.testing.assert_array_equal(z_by_W[i, j, m], (j == m) * X[i])
    np.testing.assert_allclose(t[1].dC_dW, t[1].dC_dz.T @ X, rtol=1e-12)


def by_index_sums(t: Trace, l: int) -> tuple[np.ndarray, np.ndarray]:
    """∂aᴸ/∂Wˡ and ∂aᴸ/∂bˡ of the first sample, every sum and every Kronecker delta of 001 §3 written out."""
    L = len(t.layers)
    n = [t.X.shape[1], *(here.z.shape[1] for here in t.layers)]

    def kronecker(i: int, j: int) -> float:
        return 1.0 if i == j else 0.0

    by_W, by_b = np.zeros((n[L], n[l], n[l - 1])), np.zeros((n[L], n[l]))
    for v_L, p, *rest in itertools.product(range(n[L]), range(n[l]), *(range(n[k]) for k in range(L - 1, l - 1, -1))):
        nodes = dict(zip(range(L, l - 1, -1), [v_L, *rest], strict=True)) if l < L else {L: v_L}
        product = 1.0
        for k in range(L, l, -1):
            product *= t[k].da_dz[0, nodes[k]] * t[k].W[nodes[k], nodes[k - 1]]
        product *= t[l].da_dz[0, nodes[l]] * kronecker(nodes[l], p)
        by_b[v_L, p] += product
        for q, v_before in np.ndindex(n[l - 1], n[l - 1]):
            by_W[v_L, p, q] += product * kronecker(v_before, q) * t[l].a_prev[0, v_before]
    return by_W, by_b


@pytest.mark.parametrize(
    ("sizes", "layer", "shape"),
    [((2, 3, 4, 2, 5, 3), 3, (3, 2, 4)), ((4, 3, 2), 2, (2, 2, 3)), ((4, 3, 2), 1, (2, 3, 4))],
    ids=["L=5,l=3", "L=2,l=2", "L=2,l=1"],
)
def test_example_11_jacobians_against_index_sums(sizes, layer, shape):
    L = len(sizes) - 1
    activations = ["tanh", "sigmoid", "gelu", "softplus", "silu"][:L]
    net = cr.Network(sizes[0], [cr.Dense(n, g) for n, g in zip(sizes[1:], activations, strict=True)], seed=11)
    for number in range(1, L + 1):
        net.set(number, b=np.random.default_rng(number).standard_normal(sizes[number]))
    t = net.trace(np.random.default_rng(0).standard_normal((2, sizes[0])), np.zeros((2, sizes[-1])), loss="squared")
    by_W, by_b = by_index_sums(t, layer)
    found_W, found_b = t.jacobian(wrt="W", layer=layer, full=True), t.jacobian(wrt="b", layer=layer)
    assert found_W.shape == (2, *shape) and found_b.shape == (2, *shape[:2])
    np.testing.assert_allclose(found_W[0], by_W, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found_b[0], by_b, rtol=1e-12, atol=1e-15)
    gamma, a_prev = [here.da_dz[0] for here in t.layers], t[layer].a_prev[0]
    for v, p, q in np.ndindex(*shape):  # the closed forms that 001 §3.2 prints
        if (L, layer) == (5, 3):
            inner = sum(t[5].W[v, m] * gamma[3][m] * t[4].W[m, p] for m in range(sizes[4]))
            printed = gamma[4][v] * inner * gamma[2][p]
        elif layer == 2:
            printed = gamma[1][v] * (v == p)
        else:
            printed = gamma[1][v] * t[2].W[v, p] * gamma[0][p]
        assert found_b[0, v, p] == pytest.approx(printed, rel=1e-12, abs=1e-15)
        assert found_W[0, v, p, q] == pytest.approx(printed * a_prev[q], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("aggregate", ["mean", "sum", "tilted(1.5)"])
def test_total_derivative_of_the_cost(aggregate):
    """D_A C = ∇φ · D_A ϕ̃ as a row [1 × N n_L], and D_W C = D_A C · D_W A with the stacked tensors (§4; 001 §5)."""
    net = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dense(2, "sigmoid")], seed=3)
    rng = np.random.default_rng(1)
    X, y, s = rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), rng.uniform(0.5, 2, 5)
    t = net.trace(X, y, loss="squared", aggregate=aggregate, sample_weight=s)
    L = ((t.y_hat - y) ** 2).sum(1)
    np.testing.assert_allclose(t.loss, L, rtol=1e-14)
    p = s / s.sum()
    tilted = p * np.exp(1.5 * L) / (p * np.exp(1.5 * L)).sum()
    grad_phi = {"mean": p, "sum": s, "tilted(1.5)": tilted}[aggregate]
    np.testing.assert_allclose(t.dC_dL, grad_phi, rtol=1e-13)
    blocks = np.zeros((5, 10))
    for k in range(5):
        blocks[k, 2 * k : 2 * k + 2] = 2 * (t.y_hat[k] - y[k])
    row = t.dC_dL[None] @ blocks
    np.testing.assert_allclose(row, t[2].dC_da.reshape(1, 10), rtol=1e-13)
    for number in (1, 2):
        stacked_W = t.jacobian(wrt="W", layer=number, full=True).reshape(10, *net.W(number).shape)
        stacked_b = t.jacobian(wrt="b", layer=number).reshape(10, -1)
        np.testing.assert_allclose(np.tensordot(row[0], stacked_W, 1), t[number].dC_dW, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(row[0] @ stacked_b, t[number].dC_db, rtol=1e-12, atol=1e-15)


# -- paths ----------------------------------------------------------------------------------------------------------


def every_path(t: Trace, layer: int, p: int, q: int, output: int, sample: int) -> dict[tuple[int, ...], float]:
    """The value of every path by enumeration, from the layers' own numbers."""
    found = {}
    above = t.layers[layer:]
    here = t[layer]
    c = 1 / math.sqrt(here.W.shape[1]) if here.layer.ntk else 1.0
    for units in itertools.product(*(range(after.z.shape[1]) for after in above)):
        if (units or (p,))[-1] != output:
            continue
        value, before = c * here.a_prev[sample, q] * here.da_dz[sample, p], p
        for after, unit in zip(above, units, strict=True):
            if isinstance(after.layer, cr.Dense):
                factor = after.W[:, before] / (math.sqrt(after.W.shape[1]) if after.layer.ntk else 1.0)
            elif isinstance(after.layer, cr.Scale):
                factor = after.W * (np.arange(len(after.W)) == before)
            else:
                factor = (after.mask[sample] if after.mask is not None else 1.0) * (
                    np.arange(len(after.z[0])) == before
                )
            slopes = after.da_dz[sample]
            value *= float(slopes[unit] @ factor) if slopes.ndim == 2 else slopes[unit] * factor[unit]
            before = unit
        found[p, *units] = float(value)
    return found


@dataclass(frozen=True)
class PathCase:
    """A trace and a path's ends."""

    t: Trace
    layer: int
    index: tuple[int, int]
    output: int
    sample: int


def path_case(seed: int) -> PathCase:
    """A network of depth 2 to 5 with ntk, scale and dropout layers on the way."""
    rng = np.random.default_rng([seed, 23])
    while True:
        spec = random_spec(rng, 2 + seed % 4, 4, ELEMENTWISE[:-2], dropout=True)
        A = chain("test", spec.inputs, library_layers(spec))
        X = rng.standard_normal((2, spec.inputs))
        y = targets(rng, spec.loss, (2, spec.sizes[-1]))
        cost = Cost(find_loss("test", spec.loss))
        t = trace(A, rng.standard_normal(A.P), X, y, cost, np.ones(2), 1.0, random_masks(rng, A, 2))
        dense = [here.number for here in t.layers if isinstance(here.layer, cr.Dense)]
        layer = int(rng.choice(dense[:-1]))
        n, m = t[layer].W.shape
        index = int(rng.integers(n)), int(rng.integers(m))
        case = PathCase(t, layer, index, int(rng.integers(spec.sizes[-1])), seed % 2)
        if math.prod(spec.sizes[layer + 1 :]) <= 4000:
            return case


PATHS = 40


@pytest.mark.parametrize("seed", range(PATHS))
def test_largest_paths_against_enumeration(seed):
    c = path_case(seed)
    brute = every_path(c.t, c.layer, *c.index, c.output, c.sample)
    ordered = sorted(brute.values(), key=abs, reverse=True)
    total, magnitude = sum(brute.values()), sum(map(abs, brute.values()))
    entry = c.t.jacobian(wrt="W", layer=c.layer, full=True)[c.sample, c.output, c.index[0], c.index[1]]
    scale = magnitude or 1.0
    assert total == pytest.approx(entry, abs=1e-13 * scale)
    for k in (1, 2, 5, 10**6):
        found = c.t.paths(c.layer, c.index, c.output, c.sample, k)
        assert len(found) == min(k, len(brute))
        assert len({path.units for path in found}) == len(found)
        sizes = [abs(path.value) for path in found]
        assert sizes == sorted(sizes, reverse=True)
        np.testing.assert_allclose(sizes, np.abs(ordered[:k]), rtol=1e-12, atol=1e-14 * scale)
        for path in found:
            assert path.value == pytest.approx(brute[path.units], rel=1e-12, abs=1e-15 * scale)
            if magnitude:
                assert path.share_of_magnitude == pytest.approx(abs(path.value) / magnitude, rel=1e-10)
                assert path.share * total == pytest.approx(path.value, rel=1e-6, abs=1e-13 * scale)
    assert sum(path.value for path in found) == pytest.approx(entry, abs=1e-13 * scale)
    if magnitude:
        assert sum(path.share_of_magnitude for path in found) == pytest.approx(1, rel=1e-12)


def test_path_selection_has_every_kind_of_layer():
    cases = [path_case(seed) for seed in range(PATHS)]
    after = [here.layer for c in cases for here in c.t.layers[c.layer :]]
    assert any(isinstance(layer, cr.Scale) for layer in after) and any(isinstance(layer, cr.Dropout) for layer in after)
    assert any(isinstance(layer, cr.Dense) and layer.ntk for layer in after)
    assert any(layer.g.name == "softmax" for layer in after)
    assert any(c.t[c.layer].layer.ntk for c in cases)
    live = [c.t.paths(c.layer, c.index, c.output, c.sample, 1)[0].value != 0 for c in cases]
    assert np.mean(live) > 0.6


def test_paths_by_hand():
    """1 → 2 → 1, identity: the paths from W¹_00 = 3 at x = 2; and of the last layer there is one path, or none."""
    net = cr.Network(1, [cr.Dense(1, bias=False), cr.Dense(2, bias=False), cr.Dense(1, bias=False)])
    net.set(1, W=[[3]]).set(2, W=[[1], [-2]]).set(3, W=[[5, 1]])
    t = net.trace([[2.0]], [[0.0]])
    first, second = t.paths(1, (0, 0))
    assert first == ((0, 0, 0), 10.0, 10 / 6, 10 / 14) and second == ((0, 1, 0), -4.0, -4 / 6, 4 / 14)
    assert t.jacobian(wrt="W", layer=1, full=True).item() == 6.0
    assert t.paths(1, (0, 0), k=1) == [first]
    assert t.paths(3, (0, 1)) == [((0,), -12.0, 1.0, 1.0)]


def test_paths_from_the_last_layer_to_another_output_are_none():
    net = cr.Network(2, [cr.Dense(3, "tanh")])
    t = net.trace([[1.0, 2.0]], [[0.0, 0.0, 0.0]])
    assert t.jacobian(wrt="W", layer=1, full=True)[0, 1, 0, 1] == 0
    assert t.paths(1, (0, 1), output=1) == []
    assert len(t.paths(1, (1, 1), output=1)) == 1


def test_paths_where_the_input_is_zero():
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(1)])
    (path,) = net.trace([[0.0, 2.0]], [[0.0]]).paths(1, (1, 0))
    assert path.value == 0 and math.isnan(path.share) and math.isnan(path.share_of_magnitude)


# -- what is refused ------------------------------------------------------------------------------------------------


def one_sentence(error: Any) -> None:
    """The message is one line: where, what was expected, what came, and at most a hint after it."""
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 300
    assert text.count(". ") <= 2


def refused(match: str, call: Any, kind: type[Exception] = ParameterError) -> None:
    with pytest.raises(kind, match=match) as error:
        call()
    one_sentence(error)


def test_memory_refusals_name_the_size():
    net = cr.Network(3, [cr.Dense(5, "tanh"), cr.Dense(2)])
    t = net.trace(np.ones((7, 3)), np.zeros((7, 2)))
    size = 7 * 2 * 5 * 3 * 8
    for call in (
        lambda: t.jacobian(wrt="W", layer=1, full=True, limit=size - 1),
        lambda: t.jacobian(wrt="W", layer=1, layout="denominator", limit=size - 1),
        lambda: t.jacobian(wrt="W", layer=1).full(size - 1),
    ):
        refused("Jacobian: expected a tensor of at most .* GiB, got 7 × 2 × 5 × 3 numbers, .* GiB", call)
    assert t.jacobian(wrt="W", layer=1).full(size).shape == (7, 2, 5, 3)
    refused(
        "Per-sample gradients: .* at most .* GiB, got 7 × 32 numbers, .* GiB",
        lambda: t.per_sample_gradients(limit=7 * 32 * 8 - 1),
    )
    assert t.per_sample_gradients(limit=7 * 32 * 8).shape == (7, 32)
    out = np.full((7, 32), np.nan)
    assert t.per_sample_gradients(limit=1, out=out) is out  # whose memory is there
    np.testing.assert_array_equal(out, t.per_sample_gradients())
    for wrong in (np.empty((7, 31)), np.empty((7, 32), np.float32), np.empty((32, 7)).T):
        refused("expected out of shape", lambda wrong=wrong: t.per_sample_gradients(out=wrong), ShapeError)
    refused(
        "Per-sample gradients of layer 1: .*got 7 × 5 × 3 numbers", lambda: t[1].per_sample(limit=7 * 5 * 3 * 8 - 1)
    )
    wide = CompactJacobian(np.broadcast_to(0.0, (4000, 100, 100)), np.broadcast_to(0.0, (4000, 1000)))
    refused("at most 1 GiB, got 4000 × 100 × 100 × 1000 numbers, 298 GiB.", wide.full)
    assert t.per_sample_norms().shape == (7,)  # which needs none of them
    many = cr.Network(1, [cr.Dense(4000, "softmax")], dtype="float32")
    t = many.trace(np.ones((20, 1)), np.zeros(20, int))  # whose matrices are built only when they are asked for
    refused("da_dz of layer 1: expected a tensor of at most 1 GiB, got 20 × 4000 × 4000", lambda: t[1].da_dz)
    assert "20 × 4000 × 4000" in repr(t)
    refused("D of layer 1: expected a tensor of at most 1 GiB, got 20 × 4000 × 4000", lambda: t[1].D)


def test_layers_and_pairs_that_do_not_exist():
    net, X, y = network()
    t = net.trace(X, y)
    for call in (
        lambda: t.jacobian(wrt="W", layer=6),
        lambda: t.jacobian(wrt="z", layer=0),
        lambda: t.jacobian(of_layer=0),
        lambda: t.jacobian(of_layer=6),
        lambda: t.paths(6, (0, 0)),
    ):
        refused("(Trace|Jacobian): expected a layer from 1 to 5, got ", call)
    refused("got a of layer 2 by z of layer 4", lambda: t.jacobian(wrt="W", layer=4, of_layer=2))
    refused("got its own a, which comes after z", lambda: t.jacobian("z", "a", 2, 2))
    refused("expected the layer of W, got none", lambda: t.jacobian(wrt="W"))
    refused("expected 'a' or 'z' by 'W', 'b', 'a', 'z' or 'x', got 'a' by 'theta'", lambda: t.jacobian(wrt="theta"))
    refused("got 'cost' by 'x'", lambda: t.jacobian("cost"))
    refused("expected no of_layer for the loss, got 2", lambda: t.jacobian("loss", of_layer=2))


def test_layers_without_W_or_b():
    net, X, y = network()
    t = net.trace(X, y)
    refused(r"Jacobian: expected a layer with W, got layer 3 \(Dropout 0.25\)", lambda: t.jacobian(wrt="W", layer=3))
    refused(r"Jacobian: expected a layer with b, got layer 5 \(Dense 3 → 3, soft", lambda: t.jacobian(wrt="b", layer=5))
    refused(r"Jacobian: expected a layer with b, got layer 1 \(Scale 2\)", lambda: t.jacobian(wrt="b", layer=1))
    refused(r"Paths: expected a dense layer, got layer 1 \(Scale 2\)", lambda: t.paths(1, (0, 0)))
    refused(r"Paths: expected a dense layer, got layer 3 \(Dropout 0.25\)", lambda: t.paths(3, (0, 0)))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("wrt", ["x", "b", "W"])
def test_unknown_layout(wrt, full):
    net, X, y = network()
    layer = None if wrt == "x" else 2
    message = "Jacobian: expected layout 'numerator' or 'denominator', got 'rows'"
    refused(message, lambda: net.trace(X, y).jacobian(wrt=wrt, layer=layer, full=full, layout="rows"))


def test_paths_outside_a_layer():
    net, X, y = network()
    t = net.trace(X, y)
    refused("Paths: expected a row of W from 0 to 2, got 3", lambda: t.paths(4, (3, 0)))
    refused("Paths: expected a row of W from 0 to 2, got -1", lambda: t.paths(4, (-1, 0)))
    refused("Paths: expected a column of W from 0 to 3, got 4", lambda: t.paths(4, (0, 4)))
    refused("Paths: expected an output from 0 to 2, got 3", lambda: t.paths(4, (0, 0), output=3))
    refused("Paths: expected a sample from 0 to 5, got 6", lambda: t.paths(4, (0, 0), sample=6))
    refused("Paths: expected k to be a whole number of at least 1, got 0", lambda: t.paths(4, (0, 0), k=0))
    refused("Paths: expected an elementwise activation in layer 2, got softmax", lambda: t.paths(2, (0, 0)))


def test_no_derivative_through_a_step():
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(3, "step"), cr.Dense(1)])
    t = net.trace([[1.0, 2.0]], [[0.0]])
    message = r"Derivative through layer 2 \(Dense 3 → 3, step\)"
    for call in (
        lambda: t.jacobian(),
        lambda: t.jacobian(wrt="W", layer=1),
        lambda: t.jacobian(wrt="b", layer=2),
        lambda: t.jacobian(wrt="a", layer=1, of_layer=2),
        lambda: t.paths(1, (0, 0)),
        lambda: t.paths(2, (0, 0)),
    ):
        refused(message, call)
    np.testing.assert_array_equal(t.jacobian(wrt="a", layer=2)[0], net.W(3))  # above it, and up to its z
    np.testing.assert_allclose(t.jacobian("z", "b", 1, 2)[0], net.W(2) * t[1].da_dz[0])
    np.testing.assert_array_equal(t.jacobian("a", "a", 2, 2)[0], np.eye(3))
    assert not t[1].dC_dW.any()  # the gradient itself is 0, and given


def test_wrong_arguments_of_trace_and_curvature_product():
    net, X, y = network()
    v = np.zeros(net.P)
    refused(
        f"expected a direction of length {net.P}, got 3", lambda: net.curvature_product(np.zeros(3), X, y), ShapeError
    )
    refused("direction with 1 columns", lambda: net.curvature_product(v[None], X, y), ShapeError)
    refused(
        "curvature_product: expected kind 'hessian' or 'gauss_newton', got 'fisher'",
        lambda: net.curvature_product(v, X, y, kind="fisher"),
    )
    v[4] = np.nan
    refused(
        "curvature_product: expected finite numbers in direction, got nan at row 4",
        lambda: net.curvature_product(v, X, y),
        DataError,
    )
    X[2, 1] = np.inf
    for name, call in (
        ("trace", lambda: net.trace(X, y)),
        ("curvature_product", lambda: net.curvature_product(np.ones(net.P), X, y)),
    ):
        refused(f"{name}: expected finite numbers in X, got inf at row 2, column 1", call, DataError)
    refused("trace: expected X with 2 columns, got 3", lambda: net.trace(np.ones((2, 3)), [0, 1]), ShapeError)
    refused("trace: expected labels 0 to 2 in y, got 3 at row 1", lambda: net.trace(np.ones((2, 2)), [0, 3]), DataError)
    refused("trace: option: unknown name 'los'", lambda: net.trace(np.ones((2, 2)), [0, 1], los="squared"))


def test_curvature_product_of_the_network():
    """The public method: its defaults, options, weights and kinds are those of the core's function and of `gradient`."""
    net, X, y = network()
    v, s = np.random.default_rng(0).standard_normal(net.P), np.arange(1.0, 7.0)
    cost = Cost(
        find_loss("t", "categorical_cross_entropy"), find_aggregator("t", "tilted(0.5)"), OPTIONS["penalty"], False, 0.1
    )
    for kind in ("hessian", "gauss_newton"):
        found = net.curvature_product(v, X, y, kind=kind, sample_weight=s, **OPTIONS)
        data = (X, np.eye(3)[y], cost, s, 3.5)
        np.testing.assert_array_equal(found, curvature.product(net.architecture, net.theta, v, *data, kind=kind))
        assert found.shape == (net.P,)
    h = 1e-5
    moved = []
    for sign in (1, -1):
        other = cr.Network(2, net.architecture.layers)
        other._theta = net.theta + sign * h * v
        moved.append(other.gradient(X, y, sample_weight=s, **OPTIONS).dC_dtheta)
    H = net.curvature_product(v, X, y, sample_weight=s, **OPTIONS)
    np.testing.assert_allclose((moved[0] - moved[1]) / (2 * h), H, atol=1e-7 * np.linalg.norm(H))
    assert net.curvature_product(list(v), X, y).dtype == np.float64
    single = cr.Network(2, net.architecture.layers, dtype="float32")
    assert single.curvature_product(v, X, y).dtype == single.trace(X, y).jacobian().dtype == np.float32


# -- the command ----------------------------------------------------------------------------------------------------


def _against_torch(seed: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    return torch_errors(random_case(seed))


def _against_digits(seed: int) -> dict[str, float]:
    return exact_errors(random_case(seed, small=True))


def main() -> int:
    """Check the networks and print the worst errors; 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description="Check inspection against torch and against 50 digits.")
    parser.add_argument("--full", action="store_true", help="1 000 and 200 networks instead of 60 and 20")
    full = parser.parse_args().full
    failures = 0
    with multiprocessing.Pool(2) as pool:
        for title, check, count, limit in (
            ("torch", _against_torch, RANDOM_FULL if full else RANDOM, TORCH_LIMIT),
            ("50 digits", _against_digits, FIXED_FULL if full else FIXED, EXACT_LIMIT),
        ):
            worst: dict[str, tuple[float, int]] = {}
            for seed, errors in enumerate(pool.imap(check, range(count), chunksize=5)):
                for kind, error in errors.items():
                    failures += error > limit
                    worst[kind] = max(worst.get(kind, (-1.0, -1)), (error, seed))
            print(f"{count:,} networks against {title}, limit {limit:.0e}; worst relative errors:")
            for kind, (error, seed) in worst.items():
                print(f"  {kind:<36} {error:.2e}  (network {seed})")
    print(f"{failures:,} beyond a limit")
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())


def test_per_sample_gradients_without_a_trace_are_those_of_the_trace():
    rng = np.random.default_rng(4)
    net = cr.Network(3, [cr.Scale(), cr.Dense(4, "mish", ntk=True), cr.Dense(3, "softmax")], seed=4)
    X, y, s = rng.normal(size=(7, 3)), rng.integers(0, 3, 7), rng.uniform(0, 2, 7)
    options = {"aggregate": "tilted(2)", "penalty": 0.1, "sample_weight": s}
    t = net.trace(X, y, **options)
    np.testing.assert_array_equal(net.per_sample_gradients(X, y, **options), t.per_sample_gradients())
    np.testing.assert_array_equal(net.per_sample_norms(X, y, **options), t.per_sample_norms())
