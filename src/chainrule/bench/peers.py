"""The contenders: the same training, prediction and per-sample gradients, as a competent user of each library writes them.

What all have in common: float32, θ₀, rows, batches and their order; Adam with the same η, β₁, β₂ and ε, from m = v = 0; the
mean cross-entropy from logits; no metrics; nothing read back from the device before the end. `tests/test_bench.py` holds
their parameters after an epoch equal. A library is imported by the function that uses it.
"""

from __future__ import annotations

import functools
import itertools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import chainrule as cr

from ..arrays import Array
from ..engine.choice import cores, missing
from .floor import floor, multiply_adds, products
from .problems import BETA1, BETA2, EPS, LEARNING_RATE, Problem, Work, network


def nothing() -> None:
    """For contenders that have nothing to reset."""


def quiet() -> None:
    """Wait, a second at most, until no thread of this process computes or spins any more.

    OpenBLAS's threads spin for about 0.1 s after a product, onnxruntime's for 0.03 s, PyTorch's for 0.006 s, and on
    as many cores as threads they take them from whoever comes next.
    """
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.001:
            return


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        run: what is timed; prediction and per-sample contenders return their result.
        reset: not timed; back to θ₀ with a new optimizer.
        rest: not timed; after its turn, until its threads are asleep.
        theta: the parameters now, in chainrule's order.
    """

    run: Callable[[], Any]
    reset: Callable[[], None] = nothing
    rest: Callable[[], None] = quiet
    theta: Callable[[], Array] | None = None


class NoSuchThingError(Exception):
    """The library cannot do this problem."""


def flat(pairs: Any) -> Array:
    """θ of [(W, b), …] with W (n_l, n_{l-1})."""
    return np.concatenate([np.asarray(part).ravel() for pair in pairs for part in pair])


# -- training ---------------------------------------------------------------------------------------------------


def chainrule_trainer(problem: Problem, work: Work, **settings: Any) -> Contender:
    """`Network.fit`; it draws a new order for every epoch."""
    if settings.get("engine") == "compiled":
        import numba  # noqa: F401

    net = network(problem)
    adam = cr.Adam(LEARNING_RATE, BETA1, BETA2, EPS)
    settings |= {"threads": None if problem.threads == cores() else problem.threads}  # None: as many as are worth it

    def reset() -> None:
        for number, (W, b) in enumerate(work.start, 1):
            net.set(number, W=W, b=b)

    def run() -> None:
        net.fit(work.X, work.y, optimizer=adam, epochs=problem.epochs, batch_size=problem.batch, **settings)

    return Contender(run, reset, theta=lambda: net.theta)


def sklearn_trainer(problem: Problem, work: Work) -> Contender:
    """`MLPClassifier.fit` from given weights (`warm_start`), rows already in order, so that it is spared gathering them.

    Its two-class network ends in one logistic unit where the others have a softmax of two.
    """
    from sklearn.neural_network import MLPClassifier

    if problem.activation not in ("relu", "tanh"):
        raise NoSuchThingError(f"no {problem.activation}")
    model = MLPClassifier(
        problem.sizes[1:-1], activation=problem.activation, alpha=0.0, batch_size=problem.batch, shuffle=False,
        learning_rate_init=LEARNING_RATE, beta_1=BETA1, beta_2=BETA2, epsilon=EPS,
        max_iter=problem.epochs, n_iter_no_change=10**9, warm_start=True,
    )  # fmt: skip
    X, y = work.X[work.order], work.y[work.order]
    model.partial_fit(X[: problem.batch], y[: problem.batch], classes=np.arange(problem.sizes[-1]))  # makes the arrays

    def reset() -> None:
        for l, (W, b) in enumerate(work.start):
            outputs = len(model.intercepts_[l])
            model.coefs_[l][...], model.intercepts_[l][...] = W.T[:, :outputs], b[:outputs]

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            model.fit(X, y)

    return Contender(
        run, reset, theta=lambda: flat((W.T, b) for W, b in zip(model.coefs_, model.intercepts_, strict=True))
    )


def torch_model(problem: Problem, work: Work) -> Any:
    """The network as `nn.Sequential`, ending in logits."""
    import torch
    from torch import nn

    torch.set_num_threads(problem.threads)
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish}
    parts: list[Any] = []
    for n_in, n_out in problem.layers:
        parts += [nn.Linear(n_in, n_out), kinds[problem.activation]()]
    model = nn.Sequential(*parts[:-1])
    torch_load(model, work)
    return model


def torch_load(model: Any, work: Work) -> None:
    """Put θ₀ into the model."""
    import torch

    with torch.no_grad():
        for p, given in zip(model.parameters(), itertools.chain(*work.start), strict=True):
            p.copy_(torch.from_numpy(given))


def torch_trainer(problem: Problem, work: Work) -> Contender:
    """Eager, with the fused Adam: one kernel for all parameters, the fastest of PyTorch's three forms."""
    import torch

    model = torch_model(problem, work)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, (BETA1, BETA2), EPS, fused=True)
    X, y = torch.from_numpy(work.X), torch.from_numpy(work.y)
    batches = torch.from_numpy(work.order).split(problem.batch)

    def reset() -> None:
        torch_load(model, work)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()

    def run() -> None:
        for _ in range(problem.epochs):
            for rows in batches:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(X[rows]), y[rows]).backward()
                optimizer.step()

    return Contender(run, reset, theta=lambda: flat([[p.detach().numpy() for p in model.parameters()]]))


def torch_compiled_trainer(problem: Problem, work: Work) -> Contender:
    """The whole step as one graph: `torch.func.grad` and Adam by hand, which compiles without a break.

    On small networks it takes a third of the time of a compiled loss with `backward()` and `optimizer.step()`.
    """
    import torch
    from torch.func import functional_call, grad

    model = torch_model(problem, work)
    names, theta = zip(*((name, p.detach()) for name, p in model.named_parameters()), strict=True)
    m, v = ([torch.zeros_like(p) for p in theta] for _ in range(2))
    t = torch.zeros(())
    X, y = torch.from_numpy(work.X), torch.from_numpy(work.y)
    batches = torch.from_numpy(work.order).split(problem.batch)

    def cost(theta: Any, x: Any, labels: Any) -> Any:
        return torch.nn.functional.cross_entropy(
            functional_call(model, dict(zip(names, theta, strict=True)), (x,)), labels
        )

    def step(rows: Any) -> None:
        gradient = grad(cost)(theta, X[rows], y[rows])
        t.add_(1)
        eta, root = LEARNING_RATE / (1 - BETA1**t), (1 - BETA2**t).sqrt()
        for p_, m_, v_, g in zip(theta, m, v, gradient, strict=True):
            m_.mul_(BETA1).add_((1 - BETA1) * g)
            v_.mul_(BETA2).add_((1 - BETA2) * g * g)
            p_.sub_(eta * m_ / (v_.sqrt() / root + EPS))

    torch._dynamo.reset()
    compiled = torch.compile(step, dynamic=False, fullgraph=True)

    def reset() -> None:
        torch_load(model, work)
        for value in (*m, *v, t):
            value.zero_()

    def run() -> None:
        with torch.no_grad():
            for _ in range(problem.epochs):
                for rows in batches:
                    compiled(rows)

    return Contender(run, reset, theta=lambda: flat([[p.numpy() for p in theta]]))


def jax_start(work: Work) -> Any:
    """θ₀ with W (n_{l-1}, n_l), as JAX users keep it."""
    import jax.numpy as jnp

    return [(jnp.array(W.T), jnp.array(b)) for W, b in work.start]


def jax_forward(problem: Problem) -> Callable[[Any, Any], Any]:
    """(θ, x) → logits."""
    import jax
    import jax.numpy as jnp

    kinds: dict[str, Any] = {"tanh": jnp.tanh, "gelu": functools.partial(jax.nn.gelu, approximate=False)}
    g = kinds[problem.activation] if problem.activation in kinds else getattr(jax.nn, problem.activation)

    def forward(theta: Any, x: Any) -> Any:
        for W, b in theta[:-1]:
            x = g(x @ W + b)
        return x @ theta[-1][0] + theta[-1][1]

    return forward


def jax_trainer(problem: Problem, work: Work, scan: bool = False) -> Contender:
    """A jitted step called from Python, or with `scan` the whole epoch as one jitted `lax.scan`; state is donated."""
    import jax
    import jax.numpy as jnp

    forward = jax_forward(problem)
    X, y = jnp.array(work.X), jnp.array(work.y)
    order = jnp.array(work.order.reshape(problem.batches, problem.batch))
    state: Any = None

    def cost(theta: Any, x: Any, labels: Any) -> Any:
        log_p = jax.nn.log_softmax(forward(theta, x))
        return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()

    def step(state: Any, X: Any, y: Any, rows: Any) -> Any:
        theta, m, v, t = state
        g = jax.grad(cost)(theta, X[rows], y[rows])
        t = t + 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
        eta, root = LEARNING_RATE / (1 - BETA1**t), jnp.sqrt(1 - BETA2**t)
        theta = jax.tree.map(lambda p, m, v: p - eta * m / (jnp.sqrt(v) / root + EPS), theta, m, v)
        return theta, m, v, t

    def epoch(state: Any, X: Any, y: Any, order: Any) -> Any:
        return jax.lax.scan(lambda state, rows: (step(state, X, y, rows), None), state, order)[0]

    passes = [order] if scan else list(order)
    advance = jax.jit(epoch if scan else step, donate_argnums=0)

    def reset() -> None:
        nonlocal state
        theta = jax_start(work)
        m, v = (jax.tree.map(jnp.zeros_like, theta) for _ in range(2))
        state = jax.block_until_ready((theta, m, v, jnp.zeros((), jnp.float32)))

    def run() -> None:
        nonlocal state
        for _ in range(problem.epochs):
            for rows in passes:
                state = advance(state, X, y, rows)
        jax.block_until_ready(state)

    return Contender(run, reset, theta=lambda: flat((W.T, b) for W, b in state[0]))


def keras_model(problem: Problem, work: Work) -> Any:
    """The network as `keras.Sequential`, ending in logits; on JAX unless KERAS_BACKEND says otherwise."""
    import os

    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    hidden = [keras.layers.Dense(n, activation=problem.activation) for n in problem.sizes[1:-1]]
    model = keras.Sequential([keras.Input((problem.sizes[0],)), *hidden, keras.layers.Dense(problem.sizes[-1])])
    model.set_weights([part for W, b in work.start for part in (W.T, b)])
    return model


def keras_trainer(problem: Problem, work: Work) -> Contender:
    """`Model.fit`, jitted, without a progress bar; rows already in order. One execution holds the steps of an epoch."""
    model = keras_model(problem, work)
    import keras

    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE, BETA1, BETA2, EPS),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
        steps_per_execution=problem.batches,
    )
    model.optimizer.build(model.trainable_variables)
    blank = [variable.numpy() for variable in model.optimizer.variables]
    X, y = work.X[work.order], work.y[work.order]

    def reset() -> None:
        model.set_weights([part for W, b in work.start for part in (W.T, b)])
        for variable, value in zip(model.optimizer.variables, blank, strict=True):
            variable.assign(value)

    def run() -> None:
        model.fit(X, y, batch_size=problem.batch, epochs=problem.epochs, shuffle=False, verbose=0)

    def theta() -> Array:
        parts = model.get_weights()
        return flat((W.T, b) for W, b in zip(parts[::2], parts[1::2], strict=True))

    return Contender(run, reset, theta=theta)


def floor_contender(problem: Problem, work: Work) -> Contender:
    """The products of the steps and nothing else."""
    table, matrices = products(problem)
    steps, set_threads = floor(table, problem.steps)

    def run() -> None:
        steps()
        assert matrices  # which the table only points to

    def rest() -> None:
        set_threads(1)
        quiet()

    return Contender(run, lambda: set_threads(problem.threads), rest)


def peak_contender(problem: Problem, work: Work) -> Contender:
    """As many multiply-adds as the products of the steps have, in registers."""
    table, _ = products(problem)
    return Contender(multiply_adds(problem.steps * int(table[:, 2:5].prod(axis=1).sum()), problem.threads))


Make = Callable[[Problem, Work], Contender]

FLOOR, PEAK = "OpenBLAS, products alone", "multiply-adds alone"
BEST_SKLEARN = "scikit-learn, best kernels"  # measured only where NumPy's BLAS has not found them by itself
TRAINERS: dict[str, Make] = {
    "chainrule, compiled": functools.partial(chainrule_trainer, engine="compiled"),
    "chainrule, array": functools.partial(chainrule_trainer, engine="array"),
    "scikit-learn": sklearn_trainer,
    "torch": torch_trainer,
    "torch.compile": torch_compiled_trainer,
    "JAX, jit per step": jax_trainer,
    "JAX, epoch in scan": functools.partial(jax_trainer, scan=True),
    "Keras on JAX": keras_trainer,
    FLOOR: floor_contender,
    PEAK: peak_contender,
}


# -- prediction: a NumPy array goes in, a NumPy array of probabilities comes out -----------------------------------


def chainrule_predictor(problem: Problem, work: Work, compiled: bool = False) -> Contender:
    """`Network.predict`."""
    net = network(problem)
    if compiled:
        import numba  # noqa: F401

        net.compile(problem.threads)
    return Contender(lambda: net.predict(work.X))


def sklearn_predictor(problem: Problem, work: Work) -> Contender:
    """`MLPClassifier.predict_proba`."""
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(problem.sizes[1:-1], activation=problem.activation)
    rows = np.zeros((problem.sizes[-1], problem.sizes[0]), np.float32)
    model.partial_fit(rows, np.arange(problem.sizes[-1]), classes=np.arange(problem.sizes[-1]))
    for l, (W, b) in enumerate(work.start):
        if len(b) == 2 and l == len(work.start) - 1:  # one logistic unit: σ(z₁ − z₀) is the second probability
            W, b = W[1:] - W[:1], b[1:] - b[:1]
        model.coefs_[l][...], model.intercepts_[l][...] = W.T, b
    return Contender(lambda: model.predict_proba(work.X))


def torch_predictor(problem: Problem, work: Work, compiled: bool = False) -> Contender:
    """In inference mode, eager or compiled."""
    import torch

    model = torch.nn.Sequential(torch_model(problem, work), torch.nn.Softmax(dim=-1)).eval()
    if compiled:
        torch._dynamo.reset()
        model = torch.compile(model, dynamic=False)

    def run() -> Array:
        with torch.inference_mode():
            return model(torch.from_numpy(work.X)).numpy()

    return Contender(run)


def jax_predictor(problem: Problem, work: Work) -> Contender:
    """One jitted function."""
    import jax

    forward, theta = jax_forward(problem), jax_start(work)
    predict = jax.jit(lambda theta, x: jax.nn.softmax(forward(theta, x)))
    return Contender(lambda: np.asarray(predict(theta, work.X)))


def keras_predictor(problem: Problem, work: Work) -> Contender:
    """`predict_on_batch`, jitted; `predict` has a data pipeline on top that costs milliseconds."""
    model = keras_model(problem, work)
    import keras

    model = keras.Sequential([model, keras.layers.Softmax()])
    model.compile(jit_compile=True)
    return Contender(lambda: model.predict_on_batch(work.X))


def onnxruntime_predictor(problem: Problem, work: Work) -> Contender:
    """A graph of Gemm, Relu and Softmax."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    if problem.activation != "relu":
        raise NoSuchThingError(f"no {problem.activation} in this graph")
    nodes, values, x = [], [], "X"
    for l, (W, b) in enumerate(work.start, 1):
        values += [numpy_helper.from_array(W, f"W{l}"), numpy_helper.from_array(b, f"b{l}")]
        nodes.append(helper.make_node("Gemm", [x, f"W{l}", f"b{l}"], [f"z{l}"], transB=1))
        nodes.append(helper.make_node("Relu" if l < len(work.start) else "Softmax", [f"z{l}"], [x := f"a{l}"]))
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, n])
        for name, n in (("X", problem.sizes[0]), (x, problem.sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "dense", sides[:1], sides[1:], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = problem.threads, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Contender(lambda: session.run([x], {"X": work.X})[0])


PREDICTORS: dict[str, Make] = {
    "chainrule, compiled": functools.partial(chainrule_predictor, compiled=True),
    "chainrule, array": chainrule_predictor,
    "scikit-learn": sklearn_predictor,
    "onnxruntime": onnxruntime_predictor,
    "torch": torch_predictor,
    "torch.compile": functools.partial(torch_predictor, compiled=True),
    "JAX, jit": jax_predictor,
    "Keras on JAX": keras_predictor,
}


# -- per sample: ∂L_i/∂θ (N, P), its norms, and the Jacobians of the probabilities -----------------------------------


def chainrule_gradients(problem: Problem, work: Work, reuse: bool = False) -> Contender:
    """`Network.per_sample_gradients`, or with `reuse` into the array of the call before, as a loop over batches does."""
    net = network(problem)
    if missing() is None:
        net.compile(problem.threads)
    out = np.empty((problem.rows, net.P), np.float32) if reuse else None
    return Contender(lambda: net.per_sample_gradients(work.X, work.y, aggregate="sum", out=out))


def chainrule_norms(problem: Problem, work: Work) -> Contender:
    """`Network.per_sample_norms`, which builds no gradient."""
    net = network(problem)
    return Contender(lambda: net.per_sample_norms(work.X, work.y, aggregate="sum"))


def chainrule_jacobians(problem: Problem, work: Work) -> Contender:
    """`Network.jacobian` for every W and b: pairs of factors whose product is the Jacobian."""
    net = network(problem)

    def run() -> list[Any]:
        return [net.jacobian(work.X, wrt=wrt, layer=l) for l in range(1, len(problem.sizes)) for wrt in ("W", "b")]

    return Contender(run)


def torch_per_sample(problem: Problem, work: Work, what: str) -> Contender:
    """`torch.func`: vmap over grad or over jacrev."""
    import torch
    from torch.func import functional_call, grad, jacrev, vmap

    model = torch_model(problem, work)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    X, y = torch.from_numpy(work.X), torch.from_numpy(work.y)

    def cost(theta: Any, x: Any, label: Any) -> Any:
        return torch.nn.functional.cross_entropy(functional_call(model, theta, (x[None],)), label[None])

    def probabilities(theta: Any, x: Any) -> Any:
        return torch.softmax(functional_call(model, theta, (x[None],))[0], dim=-1)

    gradients = vmap(grad(cost), in_dims=(None, 0, 0))
    jacobians = vmap(jacrev(probabilities), in_dims=(None, 0))

    def norms() -> Array:
        parts = [g.flatten(1).square().sum(1) for g in gradients(theta, X, y).values()]
        return torch.stack(parts).sum(0).sqrt().numpy()

    runs: dict[str, Callable[[], Any]] = {
        "gradients": lambda: list(gradients(theta, X, y).values()),
        "norms": norms,
        "jacobians": lambda: list(jacobians(theta, X).values()),
    }
    return Contender(runs[what])


def jax_per_sample(problem: Problem, work: Work, what: str) -> Contender:
    """jit over vmap over grad or over jacrev, waited for."""
    import jax
    import jax.numpy as jnp

    forward, theta = jax_forward(problem), jax_start(work)
    X, y = jnp.array(work.X), jnp.array(work.y)

    def cost(theta: Any, x: Any, label: Any) -> Any:
        return -jax.nn.log_softmax(forward(theta, x))[label]

    def probabilities(theta: Any, x: Any) -> Any:
        return jax.nn.softmax(forward(theta, x))

    def gradients(theta: Any, X: Any, y: Any) -> Any:
        return jax.vmap(jax.grad(cost), (None, 0, 0))(theta, X, y)

    def norms(theta: Any, X: Any, y: Any) -> Any:
        parts = jax.tree.leaves(gradients(theta, X, y))
        return jnp.sqrt(sum((g.reshape(len(X), -1) ** 2).sum(1) for g in parts))

    def jacobians(theta: Any, X: Any, y: Any) -> Any:
        return jax.vmap(jax.jacrev(probabilities), (None, 0))(theta, X)

    run = jax.jit({"gradients": gradients, "norms": norms, "jacobians": jacobians}[what])
    return Contender(lambda: jax.block_until_ready(run(theta, X, y)))


def per_sample(ours: Callable[..., Contender], what: str) -> dict[str, Make]:
    """Those who can do it."""
    again = {"chainrule, into the same array": functools.partial(ours, reuse=True)} if what == "gradients" else {}
    return {
        "chainrule": ours,
        **again,
        "torch.func": functools.partial(torch_per_sample, what=what),
        "JAX, jit of vmap": functools.partial(jax_per_sample, what=what),
    }


TABLES: dict[str, dict[str, Make]] = {
    "training": TRAINERS,
    "prediction": PREDICTORS,
    "per-sample gradients": per_sample(chainrule_gradients, "gradients"),
    "per-sample norms": per_sample(chainrule_norms, "norms"),
    "Jacobians (chainrule's as pairs of factors)": per_sample(chainrule_jacobians, "jacobians"),
}
