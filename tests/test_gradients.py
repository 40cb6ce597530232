"""Gradients against complex-step differentiation and central differences of the forward pass, on `grid.py`."""

import itertools

import numpy as np
import pytest

import grid
from chainrule import activation
from chainrule.core.architecture import chain, forward
from chainrule.core.backward import backward
from chainrule.core.layers import Dense, Scale
from chainrule.formulas import aggregators, losses

CASES = list(grid.all_pairs(grid.FACTORS, grid.allowed))


@pytest.mark.parametrize("row", CASES, ids=lambda row: "-".join(str(v).replace(" ", "_") for v in row.values()))
def test_gradient(row):
    complex_step, central = grid.errors(row)
    assert complex_step <= grid.COMPLEX_LIMIT
    assert central is None or central <= grid.CENTRAL_LIMIT


def test_selection_holds_every_allowed_pair_of_settings():
    names = list(grid.FACTORS)
    for f, g in itertools.combinations(names, 2):
        wanted = {(a, b) for a in grid.FACTORS[f] for b in grid.FACTORS[g] if grid.allowed({f: a, g: b})}
        assert {(row[f], row[g]) for row in CASES} == wanted, (f, g)
    assert {(row["output"], row["loss"]) for row in CASES} == grid.FITTING


def test_grid_is_not_vacuous():
    """Most gradients are far from zero, and every parameter of some network of each depth receives one."""
    flat = [
        row["output"] == "step"
        or (row["outputs"] == 1 and "softmax" in (row["output"], row["hidden"]))
        or (row["outputs"] == 1 and row["loss"].startswith("categorical"))
        for row in CASES
    ]
    sizes = [np.linalg.norm(grid.build(row).gradient()) for row, zero in zip(CASES, flat, strict=True) if not zero]
    assert np.mean(np.array(sizes) > 1e-3) > 0.9
    assert max(grid.build(row).architecture.P for row in CASES) <= 60
    for depth in (0, 1, 2, 3):
        assert any(
            (grid.build(row).gradient() != 0).all()
            for row in CASES
            if row["depth"] == depth and row["penalty"] == "none"
        ), depth


@pytest.mark.parametrize("slip", [1e-9, -1e-5])
def test_a_wrong_derivative_is_found(slip):
    @activation("tanh(z)", range=(-1, 1))
    def slipped(xp, real):
        def g(z):
            return xp.tanh(z)

        def dg(z, a):
            return (1 + slip) * (1 - a * a)

        def d2g(z, a):
            return -2 * a * (1 - a * a)

        return g, dg, d2g

    row = next(row for row in CASES if row["hidden"] == "tanh" and row["loss"] == "squared" and row["output"] != "step")
    case = grid.build(row)
    layers = [Dense(3, slipped), Dense(row["outputs"])]
    wrong = grid.Case(
        chain("test", 3, layers),
        np.random.default_rng(0).standard_normal(12 + 4 * row["outputs"]),
        case.X,
        case.y,
        case.cost,
        case.s,
        case.mean_weight,
        None,
    )
    assert grid.complex_error(wrong, np.eye(wrong.architecture.P)) > grid.COMPLEX_LIMIT
    if abs(slip) > grid.CENTRAL_LIMIT:
        assert grid.central_error(wrong, np.eye(wrong.architecture.P)) > grid.CENTRAL_LIMIT


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        ("softmax", "categorical_cross_entropy"),
        ("softmax", "squared"),
        ("sigmoid", "binary_cross_entropy"),
        ("tanh", "huber"),
    ],
)
def test_every_intermediate_derivative(output, loss):
    """∂C/∂z and ∂C/∂a of every layer, ∂C/∂X among them, by a complex step in that tensor."""
    rng = np.random.default_rng(4)
    A = chain("test", 3, [Scale(), Dense(4, "softmax"), Dense(3, "gelu", ntk=True), Dense(3, output)])
    theta, X, s = 0.7 * rng.standard_normal(A.P), rng.standard_normal((5, 3)), rng.uniform(0.5, 2, 5)
    y = grid.targets(rng, losses.CATALOGUE[loss].targets, 3)
    cost = grid.Cost(losses.CATALOGUE[loss], aggregators.find_aggregator("test", "tilted(0.7)"))
    values = forward(A, theta, X, keep="all")
    G = backward(A, theta, values, y, cost, s, float(s.mean()), keep="all")

    def cost_from(kind, layer, tensor):
        """C when a tensor in the middle of the network is replaced."""
        z = tensor if kind == "z" else values.z[-1]
        a = A.layers[layer - 1].g.value(tensor) if kind == "z" else tensor
        for later, p in list(zip(A.layers, A.views(theta), strict=True))[layer:]:
            z = later.forward(a, p, None)
            a = later.g.value(z)
        return cost.losses(A.output_activation, type(values)([None, z], [None, a]), y, s, float(s.mean())).aggregated

    for kind, numbers, tensors, found in (("z", range(1, 5), values.z, G.dC_dz), ("a", range(4), values.a, G.dC_da)):
        for layer in numbers:
            numeric = np.empty_like(found[layer])
            for place in np.ndindex(numeric.shape):
                moved = tensors[layer].astype(complex)
                moved[place] += 1e-30j
                numeric[place] = cost_from(kind, layer, moved).imag / 1e-30
            assert grid.relative(numeric, found[layer], np.linalg.norm(found[layer])) < 1e-10, (kind, layer)
