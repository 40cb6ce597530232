"""Functions that several formulas share, each over (xp, real) like the formulas themselves."""

from __future__ import annotations

from typing import Any

from .record import Function


def sigmoid_of(xp: Any, real: Any) -> Function:
    """σ(z) = 1 / (1 + e⁻ᶻ); the exponential is only ever taken of −|z|, so nothing overflows (003 (3))."""
    zero, one = real(0), real(1)

    def sigmoid(z):
        e = xp.exp(-xp.abs(z))
        return xp.where(z >= zero, one, e) / (one + e)

    return sigmoid


def softplus_of(xp: Any, real: Any) -> Function:
    """ln(1 + eᶻ) = max(0, z) + ln(1 + e^−|z|)."""
    zero = real(0)

    def softplus(z):
        return xp.maximum(z, zero) + xp.log1p(xp.exp(-xp.abs(z)))

    return softplus


def softmax_of(xp: Any, real: Any) -> Function:
    """eᶻᵏ / Σⱼ eᶻʲ over rows, with the row's maximum subtracted (003 (5))."""

    def softmax(z):
        e = xp.exp(z - xp.row_max(z))
        return e / xp.row_sum(e)

    return softmax


def log_sum_exp_of(xp: Any, real: Any) -> Function:
    """ln Σⱼ eᶻʲ over rows, with the row's maximum subtracted; (N, 1)."""

    def log_sum_exp(z):
        highest = xp.row_max(z)
        return highest + xp.log(xp.row_sum(xp.exp(z - highest)))

    return log_sum_exp
