"""The largest paths from a weight to an output (001 §3): ∂a^m_v/∂w^l_pq as a sum over paths of products of γ and w.

A path runs from unit p of layer l through one unit of every layer to output v; its value is a_q γ_p times the
product of the D on it. Magnitudes multiply, so the k largest paths to a unit are among the k largest to each unit
before it: one sweep finds them, without listing the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..arrays import Array


class Path(NamedTuple):
    """One path.

    Attributes:
        units: the unit on it in each layer l … m.
        value: its product.
        share: its part of the sum over all paths, the Jacobian's entry; parts of both signs may exceed 1.
        share_of_magnitude: |value| over the sum of all |values|, from 0 to 1.
    """

    units: tuple[int, ...]
    value: float
    share: float
    share_of_magnitude: float


def largest(start: float, unit: int, factors: list[Array], output: int, k: int) -> list[Path]:
    """The k largest paths by magnitude, largest first.

    `start` = a_q γ_p is the first factor, at `unit` p; `factors` are D^{l+1} … D^m of one sample, each (n_j, n_{j-1}).
    """
    values, origin = np.array([[start]]), [np.array([[unit]])]  # per unit: its best values, and the units on them
    reached = np.array([unit])
    total = np.array([start])
    magnitude = np.abs(total)
    for D in factors:
        D = D[:, reached]
        total, magnitude = D @ total, np.abs(D) @ magnitude
        candidates = (D[:, :, None] * values[None]).reshape(len(D), -1)
        best = np.argsort(-np.abs(candidates), axis=1, kind="stable")[:, :k]
        rows = np.arange(len(D))[:, None]
        values = candidates[rows, best]
        before = best // (candidates.shape[1] // len(reached)), best % (candidates.shape[1] // len(reached))
        origin = [part[before] for part in origin] + [np.broadcast_to(rows, best.shape)]
        reached = np.arange(len(D))
    if output not in reached:  # the last layer's own weight leads to its own unit alone
        return []
    at = int(np.flatnonzero(reached == output)[0])
    whole, all_of_it = float(total[at]), float(magnitude[at])
    found = []
    for j, value in enumerate(values[at]):
        share = float(value) / whole if whole else float("nan")
        weight = abs(float(value)) / all_of_it if all_of_it else float("nan")
        found.append(Path(tuple(int(part[at, j]) for part in origin), float(value), share, weight))
    return found
