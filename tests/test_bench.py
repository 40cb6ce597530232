"""The benchmark: that its contenders do the same work, that its floor is the products of a step, and that its page is written.

No test measures time. Peers that are not installed are skipped.
"""

import importlib.util
import shutil

import numpy as np
import pytest

import chainrule as cr
from chainrule.bench import SECTIONS, floor, measure, page, peers, run
from chainrule.bench.page import busy
from chainrule.bench.problems import JACOBIANS, PER_SAMPLE, Problem, work

SMALL = Problem((5, 16, 12, 3), 16, batches=6)
TWO = Problem((5, 8, 2), 4, batches=3)
NEEDS = {"chainrule, compiled": ["numba"], "scikit-learn": ["sklearn"], "torch": ["torch"], "JAX": ["jax"], "Keras": ["keras", "jax"],
         "onnxruntime": ["onnxruntime", "onnx"], peers.FLOOR: ["numba", "scipy_openblas32"], peers.PEAK: ["numba"]}  # fmt: skip


def contender(table, name, problem):
    for prefix, modules in NEEDS.items():
        if name.startswith(prefix) and not all(map(importlib.util.find_spec, modules)):
            pytest.skip(f"{modules} not installed")
    if name == "torch.compile" and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    made = peers.TABLES[table][name](problem, work(problem))
    made.reset()
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", ["relu", "mish"])
@pytest.mark.parametrize(
    "name", [name for name in peers.TRAINERS if name not in ("chainrule, array", peers.FLOOR, peers.PEAK)]
)
def test_trainers_do_the_same_work(name, activation):
    """Parameters after an epoch, also after a reset. scikit-learn and Keras add ε before the bias correction of v."""
    problem = Problem(SMALL.sizes, SMALL.batch, SMALL.batches, activation=activation)
    reference = contender("training", "chainrule, array", problem)
    reference.run()
    try:
        peer = contender("training", name, problem)
    except peers.NoSuchThingError as error:
        pytest.skip(str(error))
    start = peer.theta().copy()
    for _ in range(2):
        peer.reset()
        peer.run()
        np.testing.assert_allclose(peer.theta(), reference.theta(), atol=1e-4, rtol=0)
    assert np.abs(start - reference.theta()).max() > 5e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("problem", [SMALL, TWO], ids=str)
@pytest.mark.parametrize("name", [name for name in peers.PREDICTORS if name != "chainrule, array"])
def test_predictors_give_the_same_probabilities(name, problem):
    expected = contender("prediction", "chainrule, array", problem).run()
    np.testing.assert_allclose(contender("prediction", name, problem).run(), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("table", list(peers.TABLES)[2:])
@pytest.mark.parametrize("name", ["torch.func", "JAX, jit of vmap"])
def test_per_sample_contenders_give_the_same(name, table):
    problem = JACOBIANS if table.startswith("Jacobians") else PER_SAMPLE
    mine, theirs = (contender(table, n, problem).run() for n in ("chainrule", name))
    if name.startswith("JAX") and not table.endswith("norms"):  # its W is (n_{l-1}, n_l)
        theirs = [part for W, b in theirs for part in (W.swapaxes(-1, -2), b)]
    if table.startswith("Jacobians"):
        for ours, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(ours.full() if hasattr(ours, "full") else ours, other, atol=1e-5)
        return
    if table.endswith("gradients"):
        theirs = np.concatenate([np.asarray(part).reshape(problem.rows, -1) for part in theirs], axis=1)
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_the_floor_makes_the_products_of_a_step():
    """Against NumPy, on the matrices that the table of arguments points to."""
    for module in ("numba", "scipy_openblas32", "threadpoolctl"):
        pytest.importorskip(module)
    problem = Problem((5, 7, 6, 3), 4, batches=1)
    table, matrices = floor.products(problem)
    assert len(table) == 3 * 3 - 1
    L = len(problem.sizes)
    A, D, W, dW = matrices[:L], matrices[L : 2 * L], matrices[2 * L : 3 * L - 1], matrices[3 * L - 1 :]
    floor.floor(table, 1)[0]()
    for l in range(L - 1):
        np.testing.assert_allclose(A[l + 1], A[l] @ W[l].T, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(dW[l], D[l + 1].T @ A[l], rtol=1e-4, atol=1e-5)
        if l:
            np.testing.assert_allclose(D[l], D[l + 1] @ W[l], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_peak_makes_the_multiply_adds_of_a_step(threads):
    """Each of which adds 1. A step of 5-16-12-3 with 16 rows: forward and ∂W 16 · 308 each, ∂A 16 · 228."""
    pytest.importorskip("numba")
    problem = Problem(SMALL.sizes, SMALL.batch, batches=1000, threads=threads)
    count = 1000 * 16 * (2 * 308 + 228)
    assert 0 <= contender("training", peers.PEAK, problem).run() - count < 2 * 24 * 16 * threads


def test_a_missing_peer_is_reported_and_left_out():
    def missing(problem, given):
        import there_is_no_such_module  # noqa: F401

    def unable(problem, given):
        raise peers.NoSuchThingError("no mish")

    table = {"chainrule": peers.chainrule_trainer, "missing": missing, "unable": unable}
    contenders, left_out = measure.build(table, TWO, work(TWO))
    assert list(contenders) == ["chainrule"]
    assert "there_is_no_such_module" in left_out["missing"] and left_out["unable"] == "no mish"


def test_turns_are_interleaved():
    calls = []
    table = {name: peers.Contender(lambda name=name: calls.append(name), rest=lambda: None) for name in ("A", "B", "C")}
    medians = measure.interleaved(table, 2)
    changes = [name for k, name in enumerate(calls) if k == 0 or calls[k - 1] != name]
    assert changes == ["A", "B", "C"] * 3 and list(medians) == ["A", "B", "C"]


def test_the_page_is_written(monkeypatch):
    pytest.importorskip("threadpoolctl")
    label = SECTIONS["Training"][1]
    monkeypatch.setitem(SECTIONS, "Training", ([("training", TWO)], label))
    said = []
    results = run(
        ["Training"],
        repetitions=1,
        only=["chainrule, array", "scikit-learn", peers.FLOOR, peers.PEAK],
        costs=False,
        say=said.append,
    )
    (found,) = results["sections"]["Training"]
    assert found.problem == TWO and found.seconds["chainrule, array"] > 0 and len(said) == 1
    text = page(results)
    assert "## Training, 1 thread" in text and "| 5-8-2, batch 4 |" in text and "× fastest peer" in text


def test_a_busy_machine_is_seen():
    times = measure.Times("training", TWO, cores={"chainrule": 0.99, "torch": 0.51, peers.BEST_SKLEARN: 0.0})
    assert busy({"sections": {"Training": [times]}}) == 0.51
    times.cores["torch"] = 1.9
    assert busy({"sections": {"Training": [times]}}) is None


def test_unknown_sections_and_threads_are_refused():
    with pytest.raises(cr.ParameterError, match="Did you mean 'Training'"):
        run(["Trainin"])
    with pytest.raises(cr.ParameterError, match="threads of at least 1"):
        run(threads=[0])
