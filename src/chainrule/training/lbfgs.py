"""L-BFGS on the flat θ: SciPy's L-BFGS-B with the cost and gradient of all rows (Liu & Nocedal 1989; `mathematics` §6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..arrays import Array, check_count, check_number
from ..core.architecture import Architecture
from ..core.backward import gradient
from ..core.cost import Cost
from ..core.layers import Dropout
from ..errors import DivergenceError, ParameterError
from .loop import Data

OnIteration = Callable[[int, float], bool | None]


@dataclass(frozen=True)
class Minimum:
    """What a minimisation left behind.

    Attributes:
        theta: θ (P,), in the dtype that it began with. cost: C there.
        iterations, evaluations: of steps, and of C with its gradient.
        reason: "converged", "iterations" or "evaluations" (a limit was reached), "callback", "interrupted", or
            "stuck" (the line search found no lower cost).
        message: SciPy's own words.
        costs: C after every iteration.
    """

    theta: Array
    cost: float
    iterations: int
    evaluations: int
    reason: str
    message: str
    costs: list[float]


def lbfgs(
    architecture: Architecture,
    theta: Array,
    data: Data,
    cost: Cost,
    *,
    max_iterations: int = 200,
    max_evaluations: int = 15000,
    tolerance: float = 1e-4,
    least_decrease: float = 2.220446049250313e-09,
    on_iteration: OnIteration | None = None,
) -> Minimum:
    """Minimise C over θ (P,) from where it is; computed in float64, whose digits the line search needs.

    Args:
        data: all rows; every step sees them all.
        tolerance: done when no component of the gradient is larger.
        least_decrease: done when an iteration lowers the cost by less than this share of it; SciPy's default.
        on_iteration: called with the iteration (1, 2 …) and its cost; True ends the run.

    Raises:
        ParameterError: a layer with dropout, whose cost is another one at every evaluation; or a limit below 1.
        DivergenceError: cost or gradient are not finite at the start.
    """
    from scipy.optimize import minimize

    if any(isinstance(layer, Dropout) and layer.rate for layer in architecture.layers):
        raise ParameterError("lbfgs: expected a network without dropout, got one with it. Use SGD or Adam.")
    check_count("lbfgs", "max_iterations", max_iterations)
    check_count("lbfgs", "max_evaluations", max_evaluations)
    check_number("lbfgs", "tolerance", tolerance)
    check_number("lbfgs", "least_decrease", least_decrease)
    X, y, s = (part.astype(np.float64, copy=False) for part in data)
    mean_weight = float(s.mean())
    costs: list[float] = []
    last = theta.astype(np.float64)
    reason = ""

    def evaluate(at: Array) -> tuple[float, Array]:
        G = gradient(architecture, at, X, y, cost, s, mean_weight)
        return float(G.cost), G.theta

    def iterated(intermediate_result: object) -> None:
        nonlocal last, reason
        last, value = intermediate_result.x.copy(), float(intermediate_result.fun)  # type: ignore[attr-defined]
        costs.append(value)
        if on_iteration is not None and on_iteration(len(costs), value):
            reason = "callback"
            raise StopIteration

    limits = {"maxiter": max_iterations, "maxfun": max_evaluations, "gtol": tolerance, "ftol": least_decrease}
    with np.errstate(all="ignore"):  # a line search may look where the cost overflows, and come back
        value, slope = evaluate(last)
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            raise DivergenceError(f"lbfgs: expected a finite cost and gradient at the start, got the cost {value}.")
        try:
            result = minimize(evaluate, last, method="L-BFGS-B", jac=True, callback=iterated, options=limits)
        except KeyboardInterrupt:
            end = costs[-1] if costs else value
            return Minimum(last.astype(theta.dtype), end, len(costs), 0, "interrupted", "interrupted", costs)
    if not reason:
        counts = "iterations" if result.nit >= max_iterations else "evaluations"
        reason = {0: "converged", 1: counts}.get(int(result.status), "stuck")
    best = result.x if np.isfinite(result.x).all() else last
    return Minimum(
        best.astype(theta.dtype),
        float(result.fun),
        int(result.nit),
        int(result.nfev),
        reason,
        str(result.message),
        costs,
    )
