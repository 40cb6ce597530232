"""Where the polynomial coefficients of `chainrule.engine.elementary` come from: Remez' exchange in 60 digits.

python benchmarks/elementary_coefficients.py        needs mpmath; prints every table with its greatest relative error

Each polynomial stands inside a longer formula. `weight` turns its error into the relative error of the function.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpmath import erf, erfc, expm1, log, lu_solve, matrix, mp, mpf, polyval, sqrt

mp.dps = 60
Function = Callable[[mpf], mpf]
POINTS = 800


def remez(f: Function, weight: Function, low: mpf, high: mpf, degree: int) -> tuple[list[mpf], mpf]:
    """Coefficients (highest power first) of the polynomial p with the least max |weight (f - p)|, and that maximum."""
    xs = [low + (high - low) * (1 - mp.cos(mp.pi * (k + mpf(1) / 2) / POINTS)) / 2 for k in range(POINTS)]
    fs, ws = [f(x) for x in xs], [weight(x) for x in xs]
    wanted = degree + 2
    chosen = [round(k * (POINTS - 1) / (wanted - 1)) for k in range(wanted)]
    while True:
        # The polynomial whose error alternates at the chosen points: p(x) ± level / weight(x) = f(x).
        rows = [[xs[i] ** j for j in range(degree, -1, -1)] + [(-1) ** k / ws[i]] for k, i in enumerate(chosen)]
        *p, level = lu_solve(matrix(rows), matrix([fs[i] for i in chosen]))
        error = [w * (y - polyval(p, x)) for x, y, w in zip(xs, fs, ws, strict=True)]
        worst = max(map(abs, error))
        if worst < abs(level) * mpf("1.01"):
            return p, worst
        # The next points: where the error is greatest in every stretch of one sign.
        chosen = [0]
        for i in range(1, POINTS):
            if (error[i] > 0) != (error[chosen[-1]] > 0):
                chosen.append(i)
            elif abs(error[i]) > abs(error[chosen[-1]]):
                chosen[-1] = i
        while len(chosen) > wanted:
            del chosen[0 if abs(error[chosen[0]]) < abs(error[chosen[-1]]) else -1]


def expm1_part(r: mpf) -> mpf:
    """q where expm1(r) = r + r² q(r)."""
    return (expm1(r) - r) / r**2


def expm1_weight(r: mpf) -> mpf:
    """The relative change of expm1(r) where q changes by 1."""
    return abs(r**2 / expm1(r))


def log_part(w: mpf) -> mpf:
    """q where ln(1 + t) = 2s + s w q(w), with s = t/(2 + t) and w = s²."""
    s = sqrt(w)
    return (log((1 + s) / (1 - s)) / s - 2) / w


def log_weight(w: mpf) -> mpf:
    """The relative change of ln(1 + t) where q changes by 1, for the t of the smaller logarithm."""
    s = sqrt(w)
    return s * w / log((1 + s) / (1 - s))


def erf_part(real: type) -> Function:
    """q where erfc(a) = exp(-a (2/√π + q(a))), with 2/√π as rounded."""
    slope = mpf(float(real(2 / np.sqrt(np.pi))))
    return lambda a: -log(erfc(a)) / a - slope


def erf_weight(a: mpf) -> mpf:
    """The relative change of erf(a) where q changes by 1."""
    return a * erfc(a) / erf(a)


def main() -> None:
    """Print the tables."""
    half = log(2) / 2 * mpf("1.0001")
    largest = ((sqrt(2) - 1) / (sqrt(2) + 1)) ** 2
    for name, real, f, weight, low, high, degree in (
        ("expm1", np.float32, expm1_part, expm1_weight, -half, half, 4),
        ("expm1", np.float64, expm1_part, expm1_weight, -half, half, 9),
        ("log", np.float32, log_part, log_weight, mpf(0), largest, 2),
        ("log", np.float64, log_part, log_weight, mpf(0), largest, 6),
        ("erf", np.float32, erf_part(np.float32), erf_weight, mpf(0), mpf(4), 8),
        ("erf", np.float64, erf_part(np.float64), erf_weight, mpf(0), mpf(6), 23),
    ):
        p, worst = remez(f, weight, low, high, degree)
        share = float(worst / mpf(float(np.finfo(real).eps)))
        print(f"{name} {real.__name__}: degree {degree} on [{float(low):.4f}, {float(high):.4f}], {share:.2g} eps")
        print("    " + ", ".join(str(real(float(c))) for c in p) + ",")


if __name__ == "__main__":
    main()
