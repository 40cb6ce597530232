"""Past training steps and updates re-created, affine stacks collapsed, and the computation graph."""

import dataclasses
import itertools
from xml.etree import ElementTree

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.backward import gradient
from chainrule.core.cost import make_cost
from chainrule.errors import NotTrainedError, ParameterError
from chainrule.formulas import activations, losses
from chainrule.inspection.graph import Graph
from chainrule.training.loop import clip

N, EPOCHS = 13, 3
OPTIONS = {"loss": "squared", "aggregate": "tilted(0.5)", "penalty": cr.Penalty(l1=0.01, l2=0.1, biases=True)}


def data(outputs=2):
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, 3)), rng.standard_normal((N, outputs)), rng.uniform(0.2, 3, N)


def network(dropout=True, **options):
    layers = [
        cr.Dense(4, "tanh", bias_init="normal", **options),
        *([cr.Dropout(0.4)] if dropout else []),
        cr.Scale(init="normal"),
        cr.Dense(2, "tanh"),
    ]
    return cr.Network(3, layers, seed=5)


# -- traces of past steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_every", [1, 4, 100])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("sampling", ["shuffle", "sequential", "replacement"])
def test_trace_of_every_step_is_the_gradient_of_its_rows(sampling, dropout, keep_every):
    """Rows from `plan.order`, masks from the step's counter, θ from a run that was stopped at that step."""
    X, y, s = data()
    settings = {"batch_size": 5, "sampling": sampling, "epochs": EPOCHS, "optimizer": "momentum", **OPTIONS}
    net = network(dropout)
    run = net.fit(X, y, sample_weight=s, keep_every=keep_every, **settings)
    theta, snapshot, kept = net.theta.copy(), run.snapshot, list(run.training.kept)
    assert [k.step for k in kept] == list(range(0, 9, keep_every))
    cost = make_cost("test", net.architecture.output_activation, **OPTIONS)
    for step in (8, 0, 5, 3, 4):  # in any order, before and after the snapshots
        stopped = network(dropout)
        if step:
            stopped.fit(X, y, sample_weight=s, max_steps=step, **settings)
        epoch, k = divmod(step, 3)
        rows = run.plan.order(epoch, N)[5 * k : 5 * k + 5]
        t = run.trace(step)
        np.testing.assert_array_equal(t.X, X[rows])
        np.testing.assert_array_equal(t.y, y[rows])
        np.testing.assert_array_equal(t.s, s[rows])
        np.testing.assert_array_equal(t.theta, stopped.theta)
        masks = net.architecture.masks(len(rows), 5, step, np.dtype(float))
        assert (masks is not None) == dropout
        if dropout:
            np.testing.assert_array_equal(t[2].mask, masks[1])
        G = gradient(net.architecture, stopped.theta, X[rows], y[rows], cost, s[rows], s.mean(), masks)
        np.testing.assert_array_equal(t.dC_dtheta, G.theta)
        assert t.cost == float(G.cost)
        again = run.trace(step)
        np.testing.assert_array_equal(again.dC_dtheta, t.dC_dtheta)
        np.testing.assert_array_equal(again.loss, t.loss)
    np.testing.assert_array_equal(net.theta, theta)
    assert run.snapshot is snapshot and len(run.training.kept) == len(kept)
    assert all(a is b for a, b in zip(run.training.kept, kept, strict=True))


def test_trace_of_a_step_by_differences():
    """The gradient of a past step, by central differences of its cost."""
    X, y, _ = data()
    net = network(dropout=False)
    run = net.fit(X, y, batch_size=4, epochs=2, keep_every=3, **OPTIONS)
    t = run.trace(5)
    other = network(dropout=False)
    costs = []
    for sign in (1, -1):
        moved = t.theta + sign * 1e-6 * np.eye(net.P)
        row = []
        for theta in moved:
            for number, p in enumerate(net.architecture.views(theta), 1):
                other.set(number, **{name: part for name, part in zip("Wb", p, strict=True) if part is not None})
            row.append(other.cost(t.X, t.y, **OPTIONS))
        costs.append(row)
    np.testing.assert_allclose((np.array(costs[0]) - costs[1]) / 2e-6, t.dC_dtheta, atol=1e-8)


def test_steps_of_a_run_that_was_continued():
    """What a continued run made can be traced from its first step on; what another one made cannot."""
    X, y, _ = data()
    settings = {"batch_size": 5, "epochs": 4, **OPTIONS}
    whole, parts = network(), network()
    complete = whole.fit(X, y, keep_every=1, **settings)
    stopped = parts.fit(X, y, max_steps=5, **settings)
    run = parts.fit(X, y, resume=stopped.snapshot, keep_every=4, **settings)
    for step in (5, 6, 9, 11):
        np.testing.assert_array_equal(run.trace(step).dC_dtheta, complete.trace(step).dC_dtheta)
    with pytest.raises(NotTrainedError, match="step 5"):
        run.trace(4)


def test_best_of_several_starts_is_traced():
    X, y, _ = data()
    net = network()
    run = net.fit(X, y, starts=3, epochs=2, batch_size=5, keep_every=2, seed=1, **OPTIONS)
    best = run.plan.start
    assert run.starts[best] == min(run.starts)
    np.testing.assert_array_equal(run.trace(0).theta, network().architecture.start(5, np.dtype(float), start=best))


def test_data_that_changes_later_changes_no_trace():
    X, y, s = data()
    run = network().fit(X, y, sample_weight=s, epochs=2, batch_size=5, keep_every=2, **OPTIONS)
    before = run.trace(3)
    for array in (X, y, s):
        array[...] = 0.5
    np.testing.assert_array_equal(run.trace(3).dC_dtheta, before.dC_dtheta)


def test_float32_stays_float32():
    X, y, _ = data()
    net = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dropout(0.4), cr.Dense(2)], dtype="float32")
    run = net.fit(X, y, epochs=2, batch_size=5, keep_every=2)
    t = run.trace(4)
    assert t.dC_dtheta.dtype == t[1].a.dtype == t[2].mask.dtype == np.float32
    u = run.update(4, "W", 1, (0, 0))
    assert u.before + u.total == pytest.approx(u.after, abs=1e-6)
    assert u.before == float(t[1].W[0, 0]) and u.change != 0


# -- updates --------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": cr.SGD(0.05),
    "momentum": cr.SGD(0.05, momentum=0.9),
    "nesterov": cr.SGD(0.05, momentum=0.8, nesterov=True),
    "adam": cr.Adam(0.02),
    "adamw": cr.AdamW(0.02, weight_decay=0.1),
}


def every_parameter(net):
    for number, layer in enumerate(net.architecture.layers, 1):
        for name, shape in (("W", layer.W_shape), ("b", layer.b_shape)):
            for place in np.ndindex(*(shape or (0,))):
                yield name, number, place if len(place) > 1 else place[0]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "warmup(length=2)"])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("penalty", [None, OPTIONS["penalty"]])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parts_of_an_update_add_up(name, penalty, clip_norm, schedule):
    X, y, s = data()
    net = network(ntk=True, learning_rate_factor=0.3, bias_learning_rate_factor=2.0)
    settings = {"optimizer": OPTIMIZERS[name], "schedule": schedule, "clip_norm": clip_norm}
    settings |= {"loss": "squared", "penalty": penalty, "sample_weight": s, "batch_size": 5, "epochs": 3}
    run = net.fit(X, y, keep_every=4, **settings)
    theta = net.theta.copy()
    for step in (0, 6):
        t = run.trace(step)
        after = run.trace(step + 1).theta
        for at, (what, layer, index) in enumerate(every_parameter(net)):
            u = run.update(step, what, layer, index)
            parts = (*u.samples, u.penalty, u.clipping, u.momentum, u.decay)
            assert u.total == pytest.approx(sum(parts), rel=1e-12, abs=1e-16)
            assert (u.before, u.after) == (t.theta[at], after[at]) and u.change == u.after - u.before
            size = max(abs(u.before), *map(abs, parts))
            assert abs(u.before + u.total - u.after) <= 1e-12 * size
            np.testing.assert_array_equal(u.rows, run.plan.order(step // 3, N)[5 * (step % 3) : 5 * (step % 3) + 5])
            assert (u.penalty != 0) <= (penalty is not None) and (u.clipping != 0) <= (clip_norm is not None)
            assert (u.decay != 0) <= (name == "adamw")
            assert (u.momentum != 0) <= (name != "sgd" and step > 0)
        if clip_norm is not None and schedule == "constant":  # it is not vacuous
            assert np.linalg.norm(t.dC_dtheta) > clip_norm and u.clipping != 0
    np.testing.assert_array_equal(net.theta, theta)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_parts_by_hand(clip_norm):
    """SGD with momentum, decoupled from the code: −η gᵢ, −η λ w, −η μ v, and what clipping gives back."""
    X, y, _ = data()
    net = network(learning_rate_factor=0.5)
    run = net.fit(X, y, loss="squared", penalty=0.2, batch_size=5, epochs=2, keep_every=1, clip_norm=clip_norm,
                  optimizer=cr.SGD(0.05, momentum=0.9))  # fmt: skip
    step = 4
    t = run.trace(step)
    v = np.zeros(net.P)
    for earlier in range(step):
        v = 0.9 * v + clip(run.trace(earlier).dC_dtheta, clip_norm)
    scale = 1.0 if clip_norm is None else min(1.0, clip_norm / np.linalg.norm(t.dC_dtheta))
    per_sample = t.per_sample_gradients()
    for at, (what, layer, index) in enumerate(every_parameter(net)):
        eta = 0.05 * (0.5 if (what, layer) == ("W", 1) else 1.0)
        u = run.update(step, what, layer, index)
        np.testing.assert_allclose(u.samples, -eta * per_sample[:, at], rtol=1e-12, atol=1e-17)
        expected = -eta * 0.2 * t.theta[at] * (what == "W")
        assert u.penalty == pytest.approx(expected, rel=1e-10, abs=1e-15)
        assert u.momentum == pytest.approx(-eta * 0.9 * v[at], rel=1e-10, abs=1e-15)
        assert u.clipping == pytest.approx(eta * (1 - scale) * t.dC_dtheta[at], rel=1e-10, abs=1e-15)
        assert u.decay == 0


def test_samples_of_plain_sgd_are_minus_eta_times_their_gradients():
    """Each row's share is −η times the gradient of that row alone, divided by N once."""
    X, y, _ = data()
    net = network(dropout=False)
    run = net.fit(X, y, loss="squared", optimizer=cr.SGD(0.1), batch_size=5, epochs=2, keep_every=2)
    t = run.trace(4)
    other = network(dropout=False)
    for number, p in enumerate(net.architecture.views(t.theta), 1):
        other.set(number, **{name: part for name, part in zip("Wb", p, strict=True) if part is not None})
    for what, layer, index in every_parameter(net):
        u = run.update(4, what, layer, index)
        for share, row in zip(u.samples, u.rows, strict=True):
            alone = getattr(other.gradient(X[[row]], y[[row]], loss="squared"), f"dC_d{what}")[layer][index]
            assert share == pytest.approx(-0.1 * alone / 5, rel=1e-11, abs=1e-16)


def test_first_steps_of_adam_by_hand():
    """The first change is −η sign(g); its momentum part is 0, and the gradient's rate is −η (1 − β₁)/(1 − β₁)/|g|."""
    net = cr.Network(1, [cr.Dense(1, bias=False)]).set(1, W=[[2.0]])
    run = net.fit([1.0], [0.0], optimizer=cr.Adam(0.5, eps=1e-30), epochs=1, keep_every=1)
    u = run.update(0, "W", 1, (0, 0))
    assert (u.before, u.after, u.momentum, u.penalty, u.clipping, u.decay) == (2.0, 1.5, 0, 0, 0, 0)
    assert u.samples == pytest.approx([-0.5]) and list(u.rows) == [0]


# -- errors ---------------------------------------------------------------------------------------------------------


def test_runs_without_snapshots():
    X, y, _ = data()
    run = network().fit(X, y, epochs=1)
    message = "expected a run that kept snapshots, got one without. Train with fit\\(..., keep_every=100\\)"
    for call in (lambda: run.trace(0), lambda: run.update(0, "W", 1, (0, 0))):
        with pytest.raises(NotTrainedError, match=message):
            call()


@pytest.mark.parametrize("step", [-1, 3, 100, 1.0, True, "0", None])
def test_steps_outside_the_run(step):
    X, y, _ = data()
    run = network().fit(X, y, epochs=1, batch_size=5, keep_every=1)
    for call in (lambda: run.trace(step), lambda: run.update(step, "W", 1, (0, 0))):
        with pytest.raises(ParameterError, match=r"^Run: expected a step from 0 to 2, got "):
            call()
    assert run.trace(np.int64(2)).X.shape == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("W", 1, (4, 0)), r"expected an index inside W of shape \(4, 3\), got \(4, 0\)"),
        (("W", 1, (-1, 0)), r"expected an index inside W of shape \(4, 3\), got \(-1, 0\)"),
        (("W", 1, (0, 3)), r"expected an index inside W of shape \(4, 3\)"),
        (("W", 1, 0), r"expected an index inside W of shape \(4, 3\), got 0"),
        (("W", 1, (0, 0, 0)), r"expected an index inside W of shape \(4, 3\)"),
        (("W", 1, (0.5, 0)), r"expected an index inside W of shape \(4, 3\)"),
        (("W", 1, ("a", 0)), r"expected an index inside W of shape \(4, 3\)"),
        (("W", 1, None), r"expected an index inside W of shape \(4, 3\)"),
        (("b", 1, 4), r"expected an index inside b of shape \(4,\), got 4"),
        (("W", 3, 4), r"expected an index inside W of shape \(4,\), got 4"),
        (("W", 2, 0), r"expected a layer with W, got layer 2 \(Dropout 0.4\)"),
        (("b", 3, 0), r"expected a layer with b, got layer 3 \(Scale 4\)"),
        (("V", 1, 0), "expected 'W' or 'b', got 'V'"),
        (("W", 5, (0, 0)), "expected a layer from 1 to 4, got 5"),
        (("W", 0, (0, 0)), "expected a layer from 1 to 4, got 0"),
        (("W", "loss", (0, 0)), "expected a layer from 1 to 4, got 'loss'"),
    ],
)
def test_parameters_outside_the_network(arguments, message):
    X, y, _ = data()
    run = network().fit(X, y, epochs=1, batch_size=5, keep_every=1)
    with pytest.raises(ParameterError, match=message) as error:
        run.update(0, *arguments)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# -- collapse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 5), (4, 5, 3), (4, 5, 3, 2), (3, 1, 4, 2, 5)])
def test_identity_stacks_are_one_map(sizes):
    """W = W_k … W_1 and b = Σ_j W_k … W_{j+1} b_j (004, appendix A; worked example 13)."""
    rng = np.random.default_rng(13)
    net = cr.Network(sizes[0], [cr.Dense(n) for n in sizes[1:]], seed=3)
    Ws, bs = [], []
    for number, (inputs, units) in enumerate(itertools.pairwise(sizes), 1):
        Ws.append(rng.standard_normal((units, inputs)))
        bs.append(rng.standard_normal(units))
        net.set(number, W=Ws[-1], b=bs[-1])
    one = net.collapse()
    assert [str(layer) for layer in one.architecture.layers] == [f"Dense {sizes[0]} → {sizes[-1]}, identity"]
    b = np.zeros(sizes[-1])
    for j, b_j in enumerate(bs):
        for W in Ws[j + 1 :]:
            b_j = W @ b_j
        b = b + b_j
    W = np.linalg.multi_dot(Ws[::-1]) if len(Ws) > 1 else Ws[0]
    np.testing.assert_allclose(one.W(1), W, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(one.b(1), b, rtol=1e-13, atol=1e-14)
    X = rng.standard_normal((6, sizes[0]))
    np.testing.assert_allclose(one.predict(X), net.predict(X), rtol=1e-12, atol=1e-13)


STACKS = {
    "mixed": ([cr.Dense(4), cr.Dense(5, "tanh"), cr.Dense(3), cr.Dense(3), cr.Dense(4, "relu"), cr.Dense(2)], 3),
    "scale and dropout": (
        [cr.Dropout(0.3), cr.Scale(init="normal"), cr.Dense(4), cr.Dropout(0.5), cr.Dense(3, "sigmoid"), cr.Scale()],
        2,
    ),
    "no biases": ([cr.Dense(4, bias=False), cr.Dense(3, bias=False), cr.Dense(2, "softmax", bias=False)], 1),
    "ntk": ([cr.Dense(4, ntk=True), cr.Dense(3, "silu", ntk=True), cr.Dense(2, ntk=True), cr.Dense(2, "exp")], 2),
    "nothing to merge": ([cr.Dense(4, "tanh"), cr.Dense(3, "softmax")], 2),
    "scale alone": ([cr.Scale(init="normal")], 1),
    "softmax inside": ([cr.Dense(4), cr.Dense(4, "softmax"), cr.Dense(3), cr.Dense(2, "step")], 2),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", STACKS)
def test_predictions_of_a_collapsed_network(name, dtype):
    layers, count = STACKS[name]
    net = cr.Network(3, layers, seed=2, dtype=dtype)
    rng = np.random.default_rng(1)
    for number, layer in enumerate(net.architecture.layers, 1):
        if layer.b_shape:
            net.set(number, b=rng.standard_normal(layer.b_shape))
    theta = net.theta.copy()
    one = net.collapse()
    assert len(one.architecture.layers) == count and one.dtype == one.theta.dtype == dtype and one.seed == net.seed
    assert all(isinstance(layer, cr.Dense) and layer.factor == 1 for layer in one.architecture.layers)
    X = rng.standard_normal((50, 3))
    found, expected = one.predict(X), net.predict(X)
    assert found.dtype == dtype
    tolerance = {"float64": 1e-13, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    np.testing.assert_array_equal(net.theta, theta)
    twice = one.collapse()
    np.testing.assert_allclose(twice.theta, one.theta, rtol=1e-6)
    assert len(twice.architecture.layers) == count


# -- the computation graph ------------------------------------------------------------------------------------------


def figure_1():
    return cr.Network(3, [cr.Dense(4, "relu"), cr.Dense(5, "softmax")]).graph()


def figure_2():
    return cr.Network(2, [cr.Dense(3, "exp"), cr.Dense(1, bias=False)]).graph("squared")


def test_figure_1():
    """003 figure 1: data and parameters are sources; the loss of (18) starts from zᴼ."""
    graph = figure_1()
    assert [(n.name, n.formula, n.shape, n.kind) for n in graph.nodes] == [
        ("x", "x", "(N, 3)", "data"),
        ("W1", "W^1", "4 × 3", "parameter"),
        ("b1", "b^1", "4", "parameter"),
        ("z1", "z^1 = x W^1ᵀ + b^1", "(N, 4)", "computation"),
        ("a1", "a^1 = relu(z^1)", "(N, 4)", "computation"),
        ("W2", "W^2", "5 × 4", "parameter"),
        ("b2", "b^2", "5", "parameter"),
        ("z2", "z^2 = a^1 W^2ᵀ + b^2", "(N, 5)", "computation"),
        ("a2", "a^2 = softmax(z^2)", "(N, 5)", "computation"),
        ("y", "y", "(N, 5)", "data"),
        ("L", "L = categorical_cross_entropy_logits", "(N,)", "computation"),
    ]
    assert set(graph.edges) == {
        ("x", "z1"), ("W1", "z1"), ("b1", "z1"), ("z1", "a1"), ("a1", "z2"), ("W2", "z2"), ("b2", "z2"),
        ("z2", "a2"), ("z2", "L"), ("y", "L"),
    }  # fmt: skip


def test_figure_2():
    """003 figure 2: x, W, b → z → u = exp(z), with α → ŷ, with y → L."""
    graph = figure_2()
    assert [(n.name, n.formula, n.shape, n.kind) for n in graph.nodes] == [
        ("x", "x", "(N, 2)", "data"),
        ("W1", "W^1", "3 × 2", "parameter"),
        ("b1", "b^1", "3", "parameter"),
        ("z1", "z^1 = x W^1ᵀ + b^1", "(N, 3)", "computation"),
        ("a1", "a^1 = exp(z^1)", "(N, 3)", "computation"),
        ("W2", "W^2", "1 × 3", "parameter"),
        ("z2", "z^2 = a^1 W^2ᵀ", "(N, 1)", "computation"),
        ("y", "y", "(N, 1)", "data"),
        ("L", "L = squared", "(N,)", "computation"),
    ]
    assert set(graph.edges) == {
        ("x", "z1"), ("W1", "z1"), ("b1", "z1"), ("z1", "a1"), ("a1", "z2"), ("W2", "z2"), ("z2", "L"), ("y", "L"),
    }  # fmt: skip


def graphs():
    yield figure_1()
    yield figure_2()
    for layers, _ in STACKS.values():
        yield cr.Network(3, layers).graph("squared")
    yield cr.Network(1, [cr.Dense(1, "sigmoid")]).graph()
    yield cr.Network(1, [cr.Dense(1, "sigmoid")]).graph("squared")
    yield cr.Network(4000, [cr.Dense(1000, "tanh"), cr.Scale(), cr.Dropout(0.5), cr.Dense(2, "exp")]).graph("gamma")
    odd = dataclasses.replace(activations.tanh, name='<a> & "b"')
    loss = dataclasses.replace(losses.squared, name="L<1> & \\ 2")
    yield cr.Network(2, [cr.Dense(2, odd), cr.Dense(1)]).graph(loss)


GRAPHS = [pytest.param(graph, id=f"{k}") for k, graph in enumerate(g for g in graphs())]


@pytest.mark.parametrize("graph", GRAPHS)
def test_edges_form_a_dag_that_ends_at_the_loss(graph: Graph):
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) and len(set(graph.edges)) == len(graph.edges)
    order = {name: at for at, name in enumerate(names)}
    assert all(order[start] < order[end] for start, end in graph.edges)  # so there is no cycle
    given = {node.name for node in graph.nodes if node.kind != "computation"}
    assert given == set(names) - {end for _, end in graph.edges}  # data and parameters are the sources
    sinks = set(names) - {start for start, _ in graph.edges}
    assert "L" in sinks and all(name == "L" or name[0] == "a" for name in sinks)
    reached = {"L"}
    for start, end in reversed(graph.edges):
        reached |= {start} if end in reached else set()
    assert given <= reached  # the loss depends on all data and parameters


@pytest.mark.parametrize("graph", GRAPHS)
def test_dot_lists_every_node_and_edge(graph: Graph):
    lines = graph.dot().splitlines()
    assert lines[0] == "digraph network {" and lines[-1] == "}"
    nodes = [line for line in lines if "[label=" in line]
    assert len(nodes) == len(graph.nodes)
    for line, node in zip(nodes, graph.nodes, strict=True):
        label = line.split('[label="', 1)[1].rsplit('", fillcolor=', 1)[0]
        assert line.startswith(f'  "{node.name}" [label="')
        formula, shape = label.rsplit("\\n", 1)
        assert shape == node.shape
        plain = formula.replace("\\\\", "\0")  # what is left of backslashes escapes a quote
        assert plain.replace('\\"', "").count('"') == 0
        assert plain.replace('\\"', '"').replace("\0", "\\") == node.formula
    edges = [tuple(line.strip(' ";').split('" -> "')) for line in lines if " -> " in line]
    assert edges == list(graph.edges)


@pytest.mark.parametrize("graph", GRAPHS)
def test_svg_is_well_formed_and_its_boxes_lie_apart(graph: Graph):
    root = ElementTree.fromstring(graph.svg())
    svg = "{http://www.w3.org/2000/svg}"
    boxes = [[float(r.get(k)) for k in ("x", "y", "width", "height")] for r in root.iter(f"{svg}rect")]
    assert len(boxes) == len(graph.nodes)
    width, height = float(root.get("width")), float(root.get("height"))
    for x, y, w, h in boxes:
        assert w > 0 and h > 0 and x >= 0 and x + w <= width and y >= 0 and y + h <= height
    for (x1, y1, w1, h1), (x2, y2, w2, h2) in itertools.combinations(boxes, 2):
        assert x1 + w1 <= x2 or x2 + w2 <= x1 or y1 + h1 <= y2 or y2 + h2 <= y1
    texts = [found.text for found in root.iter(f"{svg}text")]
    assert texts == [part for node in graph.nodes for part in (node.formula, node.shape)]
    arrows = [path for path in root.iter(f"{svg}path") if path.get("class") == "edge"]
    assert len(arrows) == len(graph.edges)
    # a text lies inside its box: 14 px sans-serif is at most 8 px a letter on average, 11 px at most 6.5
    for node, (_, _, w, _) in zip(graph.nodes, boxes, strict=True):
        assert 8 * len(node.formula) <= w and 6.5 * len(node.shape) <= w


def test_graph_of_a_loss_that_does_not_fit():
    net = cr.Network(2, [cr.Dense(1)])
    with pytest.raises(ParameterError, match="graph: expected predictions from 0 to 1"):
        net.graph("binary_cross_entropy")
    with pytest.raises(ParameterError, match="unknown name 'squares'"):
        net.graph("squares")


def test_graph_has_the_factor_of_a_scaled_layer():
    graph = cr.Network(3, [cr.Dense(4, "tanh", ntk=True), cr.Dense(1)]).graph()
    assert [node.formula for node in graph.nodes if node.name[0] == "z"] == [
        "z^1 = 0.5774 x W^1ᵀ + b^1",
        "z^2 = a^1 W^2ᵀ + b^2",
    ]


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("costs", [(1.1, 0.7), (120, 60), (1.0, 0.04), (1.0, 1e-9), (300.0, 2.0), (0.5, 0.0)])
def test_the_axis_of_costs_has_some_labels_and_not_too_many(costs):
    pytest.importorskip("matplotlib")
    from chainrule import plots

    run = cr.Network(1, [cr.Dense(1)]).fit([[1.0], [2.0]], [1.0, 2.0], epochs=2)
    history = tuple(row | {"train_cost": cost} for row, cost in zip(run.history, costs, strict=True))
    figure = plots.learning_curve(dataclasses.replace(run, snapshot=dataclasses.replace(run.snapshot, history=history)))
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_ylim()
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels() if low <= tick.get_position()[1] <= high]
    assert 3 <= len(shown) <= 14 and all(shown), shown


def test_a_surface_has_one_output():
    pytest.importorskip("matplotlib")
    from chainrule import plots

    with pytest.raises(cr.ShapeError, match="expected a network of one output, got 3"):
        plots.surface(cr.Network(2, [cr.Dense(3)]))
    with pytest.raises(ParameterError, match="grid to be a whole number of at least 2, got 1"):
        plots.surface(cr.Network(2, [cr.Dense(1)]), grid=1)
