"""Per-sample gradients, their norms and Jacobians of 784-128-10, side by side with torch.func in one run.

python benchmarks/per_sample.py        needs torch; prints medians of interleaved repetitions and their ratios
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.func import functional_call, grad, jacrev, vmap

import chainrule as cr

REPETITIONS = 15
ROWS, JACOBIAN_ROWS = 128, 32


def main() -> None:
    """Check that both give the same, then time them in turn."""
    rng = np.random.default_rng(0)
    network = cr.Network(784, [cr.Dense(128, "relu"), cr.Dense(10, "softmax")], seed=0, dtype="float32")
    X, labels = rng.normal(size=(ROWS, 784)).astype(np.float32), rng.integers(0, 10, ROWS)
    model = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    with torch.no_grad():
        for number, k in ((1, 0), (2, 2)):
            model[k].weight.copy_(torch.tensor(network.W(number)))
            model[k].bias.copy_(torch.tensor(network.b(number)))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    Xt, yt = torch.tensor(X), torch.tensor(labels)

    def loss(p: dict[str, torch.Tensor], x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(functional_call(model, p, (x[None],)), label[None])

    def probabilities(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(functional_call(model, p, (x[None],))[0], dim=-1)

    torch_gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    torch_jacobians = vmap(jacrev(probabilities), in_dims=(None, 0))
    few = X[:JACOBIAN_ROWS]

    def norms() -> np.ndarray:
        return network.per_sample_norms(X, labels, aggregate="sum")

    def gradients() -> np.ndarray:
        return network.per_sample_gradients(X, labels, aggregate="sum")

    def jacobians() -> list[object]:
        return [network.jacobian(few, wrt=wrt, layer=layer) for layer in (1, 2) for wrt in ("W", "b")]

    theirs = torch_gradients(parameters, Xt, yt)
    flat = np.concatenate([theirs[name].reshape(ROWS, -1).numpy() for name in parameters], axis=1)
    np.testing.assert_allclose(gradients(), flat, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(norms(), np.linalg.norm(flat, axis=1), rtol=1e-4)

    torch_rows = Xt[:JACOBIAN_ROWS]
    forms: dict[str, Callable[[], object]] = {
        "torch.func per-sample gradients": lambda: torch_gradients(parameters, Xt, yt),
        "chainrule per-sample gradients": gradients,
        "chainrule per-sample norms": norms,
        "torch.func Jacobians": lambda: torch_jacobians(parameters, torch_rows),
        "chainrule compact Jacobians": jacobians,
    }
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(REPETITIONS + 2):
        for name, form in forms.items():
            begun = time.perf_counter()
            form()
            times[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(values[2:]) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:<34} {1e3 * value:8.2f} ms")
    for ours, peer in (
        ("chainrule per-sample gradients", "torch.func per-sample gradients"),
        ("chainrule per-sample norms", "torch.func per-sample gradients"),
        ("chainrule compact Jacobians", "torch.func Jacobians"),
    ):
        print(f"{ours}: {median[peer] / median[ours]:.1f} times as fast as {peer}")


if __name__ == "__main__":
    main()
