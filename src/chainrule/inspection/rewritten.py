"""What a cost is made of, written a second time as plain sums: a witness for what no derivative checks.

Each function takes NumPy arrays or, for automatic differentiation, PyTorch tensors; `xp` is that library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.cost import Cost, Penalty
from ..core.layers import Dense, Dropout, Layer, Parameters, Scale
from ..formulas.aggregators import CATALOGUE, Aggregator


def layer_map(xp: Any, layer: Layer, a_prev: Any, p: Parameters, mask: Any) -> Any:
    """z (N, n_l); None for a layer class that this module does not know."""
    W, b = p
    if type(layer) is Dense:
        c = float(layer.inputs or 1) ** -0.5 if layer.ntk else 1.0
        return c * xp.einsum("ij,kj->ik", a_prev, W) + (0.0 if b is None else b)
    if type(layer) is Scale:
        return xp.einsum("ij,j->ij", a_prev, W)
    if type(layer) is Dropout:
        return a_prev if mask is None else xp.where(mask == 0, 0.0, a_prev / (1 - layer.rate))
    return None


def aggregate(xp: Any, phi: Aggregator, L: Any, s: Any, mean_weight: float) -> Any:
    """φ(L) by its definition; None for an aggregator that is not in the catalogue."""
    known = CATALOGUE.get(phi.name)
    if known is None or known.make is not phi.make:
        return None
    p, N = dict(phi.parameters), len(L)
    L, s = L[s > 0], s[s > 0]
    share = s / s.sum()
    if phi.name == "mean":
        return (s * L).sum() / N / mean_weight
    if phi.name == "sum":
        return (s * L).sum()
    if phi.name == "tilted":
        top = L.max() if p["t"] > 0 else L.min()
        return top + xp.log(share @ xp.exp(p["t"] * (L - top))) / p["t"]
    if phi.name == "cvar":  # Rockafellar & Uryasev: the least of t + mean of (L − t)⁺ / share, found at some L
        excess = L[None] - L[:, None]
        return (L + (excess * (excess > 0)) @ share / p["share"]).min()
    return L.max()


def penalty(R: Penalty, parameters: Iterable[Parameters]) -> Any:
    """R(θ)."""
    chosen = [part for p in parameters for part in (p.W, p.b if R.biases else None) if part is not None]
    return sum(R.l1 * abs(part).sum() + R.l2 / 2 * (part**2).sum() for part in chosen)


def smoothed(cost: Cost, y: Any) -> Any:
    """The targets with label smoothing, (N, n_L)."""
    eps = cost.label_smoothing
    return (1 - eps) * y + eps / (y.shape[1] if cost.loss.categorical else 2)
