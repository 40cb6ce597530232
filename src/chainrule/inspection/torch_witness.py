"""The gradient by PyTorch's automatic differentiation, where it is installed: every coordinate in one pass.

The forward pass and the cost are those of `rewritten`; the values of activations and losses are the records' own,
bound to tensors, and their derivatives are PyTorch's.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..arrays import Array
from ..formulas.losses import on_logits
from ..formulas.record import Record
from . import rewritten
from .problem import Problem


def functions(torch: Any) -> SimpleNamespace:
    """What a formula may call, on tensors.

    At ties |z|, max and min take one side: max(0, z) + ln(1 + e^−|z|) is smooth there only if both terms agree on it.
    """
    same = ("exp", "expm1", "log", "log1p", "sqrt", "tanh", "erf", "sign", "where", "zeros_like", "ones_like")
    return SimpleNamespace(
        **{name: getattr(torch, name) for name in same},
        abs=lambda z: torch.where(z < 0, -z, z),
        maximum=lambda x, y: torch.where(x >= y, x, y),
        minimum=lambda x, y: torch.where(x <= y, x, y),
        eye=lambda n, real: torch.eye(n, dtype=torch.float64),
        row_max=lambda z: z.amax(-1, keepdim=True),
        row_sum=lambda z: z.sum(-1, keepdim=True),
    )


def torch_gradient(problem: Problem) -> Array | str:
    """∂C/∂θ (P,), or why there is none."""
    try:
        torch = import_module("torch")
    except ImportError:
        return "torch is not installed: no automatic differentiation"
    xp, A, cost = functions(torch), problem.architecture, problem.cost

    def real(number: Any) -> Any:
        return torch.tensor(number, dtype=torch.float64)

    def value(record: Record, *at: Any) -> Any:
        return record.make(xp, real, **{name: real(number) for name, number in record.parameters})[0](*at)

    theta = real(problem.theta).requires_grad_()
    views = A.views(theta)
    z = a = real(problem.X)
    y, s = rewritten.smoothed(cost, real(problem.y)), real(problem.s)
    pair = on_logits(A.output_activation, cost.loss)
    try:
        for number, (layer, p) in enumerate(zip(A.layers, views, strict=True)):
            mask = problem.masks[number] if problem.masks else None
            z = rewritten.layer_map(torch, layer, a, p, None if mask is None else real(mask))
            a = value(layer.g, z)
        L = (value(cost.loss, a, y) if pair is None else value(pair, z, y)).sum(1)
        L = L / y.shape[1] if cost.average_outputs else L
        C = rewritten.aggregate(torch, cost.aggregate, L, s, problem.mean_weight)
        (C + rewritten.penalty(cost.penalty, views) + 0 * theta.sum()).backward()
    except Exception:  # a record, layer or φ of one's own may ask for NumPy arrays, or be unknown here
        return "not repeated in PyTorch, which not all records or layers take"
    return np.asarray(theta.grad)
