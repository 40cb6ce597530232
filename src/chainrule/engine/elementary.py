"""Elementary functions of one number, for the loops that Numba compiles.

LLVM turns a loop into vector instructions only where it sees the arithmetic of the functions in it, and it sees none
of the mathematics library's. So here each function is arithmetic without branches: both sides of a choice are
computed and one is selected, and exponents are read and written as bits.

Every function reduces its argument to a short interval, on which one polynomial serves:

    exp, expm1   x = n ln 2 + r, |r| ≤ ln 2 / 2:    expm1(r) = r + r² q(r),    eˣ = 2ⁿ (1 + expm1(r))
    log, log1p   x = 2ᵏ (1 + t), √½ ≤ 1 + t < √2:   s = t/(2 + t), w = s²,     ln(1 + t) = 2 artanh s = 2s + s w q(w)
    tanh         tanh |x| = E / (E + 2) with E = expm1(2 |x|)
    erf          erf |x| = -expm1(-|x| (2/√π + q(|x|))), as -ln(erfc |x|) is a smooth function of |x|

The coefficients of q are those of least greatest error (`benchmarks/elementary_coefficients.py` finds them). Errors
stay below 3 units in the last place everywhere, subnormal numbers included (`tests/test_elementary.py --full`).

The order of operations matters: x - n ln 2 is taken in two parts, and numbers are rounded to integers by adding and
taking away a large number. So these functions carry their own fast-math flag `contract` (a product and a sum may
become one instruction with one rounding) and no other, whatever the flags of the loop that calls them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numba.core.cgutils import unpack_tuple
from numba.extending import intrinsic, register_jitable

# Coefficients of q, highest power first, each table made by benchmarks/elementary_coefficients.py. The interval is that
# of q's argument; the error is the greatest that q alone brings to the function, relative to it, in units of eps.
EXPM1 = {
    # degree 4 on [-0.3466, 0.3466], 0.11 eps
    np.float32: (0.0013882447, 0.008366519, 0.0416672, 0.16666543, 0.49999997),
    # degree 9 on [-0.3466, 0.3466], 0.081 eps
    np.float64: (
        2.505379066856734e-08, 2.7626037720817683e-07, 2.755740749284489e-06, 2.4801505274109748e-05,
        0.00019841269719061432, 0.0013888888931564772, 0.008333333333389528, 0.04166666666657676, 0.16666666666666588,
        0.5000000000000006,
    ),
}  # fmt: skip
LOG = {
    # degree 2 on [0, 0.0294], 0.0068 eps
    np.float32: (0.29870957, 0.39977574, 0.66666776),
    # degree 6 on [0, 0.0294], 0.0055 eps
    np.float64: (
        0.1479547421055834, 0.153140989174937, 0.18183562402542208, 0.22222198610818683, 0.2857142874201535,
        0.3999999999941637, 0.6666666666666734,
    ),
}  # fmt: skip
ERF = {
    # degree 8 on [0, 4], 0.034 eps
    np.float32: (
        -9.2558685e-06, 0.0001176389, -0.00063283235, 0.0016670258, -0.00016040032, -0.019153059, 0.10277783, 0.6366194,
        -5.4122104e-08,
    ),
    # degree 23 on [0, 6], 0.097 eps
    np.float64: (
        -3.59226860947255e-15, 1.6149108148090915e-13, -3.364444912558928e-12, 4.30192097223658e-11,
        -3.7608404540975486e-10, 2.360603125892603e-09, -1.0773802286737442e-08, 3.458662136235056e-08,
        -6.573895930318228e-08, -1.1695159605267707e-08, 5.706075507957249e-07, -2.037150954869763e-06,
        3.132918082895821e-06, 3.169711677685901e-06, -2.9575694935180043e-05, 6.442048598691836e-05,
        2.5904494503430674e-05, -0.0005901324287270723, 0.001696207669601378, -0.00020919485389205602,
        -0.019128446993096553, 0.10277260330131546, 0.6366197723675909, -9.094837315089991e-18,
    ),
}  # fmt: skip

# From here on a function is constant to the last place: exp is 0 below and infinite above, expm1 is -1 below.
EXP_LOW, EXP_HIGH = {np.float32: -104.0, np.float64: -746.0}, {np.float32: 89.0, np.float64: 710.0}
EXPM1_LOW = {np.float32: -20.0, np.float64: -40.0}
TANH_END, ERF_END = {np.float32: 10.0, np.float64: 20.0}, {np.float32: 4.0, np.float64: 6.0}

ERF_SLOPE = 1.1283791670955126  # 2/√π; in q the last coefficient is what rounding takes from it
LOG_2, LOG_2_REST = 0.6931471805599453, 2.3190468138462996e-17  # ln 2 is their sum
LOG_2_BITS = {np.float32: 16, np.float64: 42}  # n times so many bits of ln 2 is exact


@intrinsic
def polynomial(context: Any, x: Any, coefficients: Any) -> Any:
    """Horner's scheme, written out: LLVM does not unroll a loop over the longest tables."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, table = arguments
        result, *others = unpack_tuple(builder, table)
        for coefficient in others:
            result = builder.fadd(builder.fmul(result, x), coefficient)
        return result

    return x(x, coefficients), generate


# Compiled where it is called, inside the loop, so that LLVM sees through it, and with its own flags.
merged = register_jitable(fastmath={"contract"}, error_model="numpy", forceinline=True)


def functions(real: type) -> ModuleType:
    """What formulas call as `xp` in compiled loops over numbers of type `real`, np.float32 or np.float64.

    A module, since Numba looks up names in modules, and one that can be imported, since its cache on disk names it.
    """
    return importlib.import_module(f"..{np.dtype(real).name}", __name__)


def build(real: Any) -> dict[str, Callable[..., Any]]:
    """The functions over one type of number, by name."""
    info = np.finfo(real)
    integer: Any = {np.float32: np.int32, np.float64: np.int64}[real]

    zero, half, one, two = real(0), real(0.5), real(1), real(2)
    infinity, nan = real(np.inf), real(np.nan)
    smallest_normal, negligible = real(info.smallest_normal), real(info.eps / 4)
    expm1_q, log_q, erf_q = (tuple(map(real, table[real])) for table in (EXPM1, LOG, ERF))
    erf_slope, erf_even, erf_odd = real(ERF_SLOPE), erf_q[-1::-2][::-1], erf_q[-2::-2][::-1]
    exp_low, exp_high, expm1_low = real(EXP_LOW[real]), real(EXP_HIGH[real]), real(EXPM1_LOW[real])
    tanh_end, erf_end = real(TANH_END[real]), real(ERF_END[real])

    # A number is stored as sign | biased exponent | mantissa.
    mantissa, bias = integer(info.nmant), real(info.maxexp - 1)
    sign_bit, other_bits = integer(np.iinfo(integer).min), integer(np.iinfo(integer).max)
    mantissa_bits, exponent_bits = integer((1 << info.nmant) - 1), integer(2 * info.maxexp - 1)
    one_bits, root_half_bits = one.view(integer), real(np.sqrt(0.5)).view(integer)

    # Next to 2^mantissa the numbers are the integers: the last bits of rounder + n are those of the integer n, also of
    # n < 0, and of counter + n those of n ≥ 0.
    rounder, counter = real(1.5 * 2.0**info.nmant), real(2.0**info.nmant)
    counter_bits, counter_and_bias = counter.view(integer), counter + bias

    unit = 2.0 ** LOG_2_BITS[real]
    log_2_high = real(round(LOG_2 * unit) / unit)
    log_2_low, log_2_inverse = real(LOG_2 - float(log_2_high) + LOG_2_REST), real(1 / LOG_2)

    # Powers of two by which numbers near the ends of the range are brought to its middle and back.
    up, down = real(2.0 ** (info.nmant + 8)), real(2.0 ** -(info.nmant + 8))
    normalise, normalised = real(2.0**info.nmant), real(info.nmant)
    one_is_lost = real(2.0 ** (info.nmant + 2))

    @merged
    def bits(x):
        return real(x).view(integer)

    @merged
    def number(b):
        return integer(b).view(real)

    @merged
    def where(condition, a, b):
        return a if condition else b

    @merged
    def absolute(x):
        return number(bits(x) & other_bits)

    @merged
    def with_sign_of(x, y):
        return number((bits(x) & other_bits) | (bits(y) & sign_bit))

    @merged
    def between(low, x, high):
        x = where(x > high, high, x)
        return where(x < low, low, x)  # NaN stays

    @merged
    def reduced(x):
        """For x = n ln 2 + r: bits of which the last are n, then r and expm1(r) - r."""
        rounded = x * log_2_inverse + rounder
        n = rounded - rounder
        r = (x - n * log_2_high) - n * log_2_low
        return bits(rounded), r, r * r * polynomial(r, expm1_q)

    @merged
    def scaled(power, n):
        """2ⁿ times a power of two: n is added to its exponent."""
        return number(bits(power) + (n << mantissa))

    @merged
    def exp(x):
        # 2ⁿ may be no normal number although eˣ is one, and the other way round: it is applied in two parts, of which
        # the first leaves the result normal, so that it is rounded once.
        x = between(exp_low, x, exp_high)
        n, r, rest = reduced(x)
        return (one + (r + rest)) * scaled(where(x < zero, up, down), n) * where(x < zero, down, up)

    @merged
    def expm1(x):
        # 2ⁿ (r + rest) + (2ⁿ - 1) by halves, as 2ⁿ may be infinite; the inner sum rounds little.
        n, r, rest = reduced(between(expm1_low, x, exp_high))
        power = scaled(half, n)
        return where(absolute(x) < negligible, x, two * (power * rest + (power * r + (power - half))))

    @merged
    def expm1_inside(x):
        """expm1 where 2ⁿ is a normal number."""
        n, r, rest = reduced(x)
        power = scaled(one, n)
        return power * rest + (power * r + (power - one))

    @merged
    def exponent_and_mantissa(x):
        """For a normal x = 2ᵏ m with √½ ≤ m < √2: k and m."""
        b = bits(x) - root_half_bits
        k = number((((b + one_bits) >> mantissa) & exponent_bits) | counter_bits) - counter_and_bias
        return k, number((b & mantissa_bits) + root_half_bits)

    @merged
    def log_of(k, t):
        """k ln 2 + ln(1 + t); 2s = t - s t."""
        s = t / (two + t)
        w = s * s
        return k * log_2_high + (t - (s * (t - w * polynomial(w, log_q)) - k * log_2_low))

    @merged
    def log(x):
        small = x < smallest_normal
        k, m = exponent_and_mantissa(where(small, x * normalise, x))
        result = log_of(k - where(small, normalised, zero), m - one)
        return where(x > zero, where(x == infinity, x, result), where(x == zero, -infinity, nan))

    @merged
    def log1p(x):
        # k is that of 1 + x as rounded; t = 2⁻ᵏ (1 + x) - 1 is taken from x, which is exact.
        y = one + x
        k, m = exponent_and_mantissa(y)
        scale = number(bits(m) - bits(y) + one_bits)
        result = log_of(k, where(x < one_is_lost, scale * x + (scale - one), m - one))
        result = where((x == zero) | (x == infinity), x, result)
        return where(x > -one, result, where(x == -one, -infinity, nan))

    @merged
    def tanh(x):
        a = absolute(x)
        e = expm1_inside(two * where(a > tanh_end, tanh_end, a))
        return with_sign_of(e / (e + two), x)

    @merged
    def erf(x):
        a = absolute(x)
        a = where(a > erf_end, erf_end, a)
        w = a * a
        q = a * polynomial(w, erf_odd) + polynomial(w, erf_even)  # side by side: half the time to wait
        return with_sign_of(expm1_inside(-(a * erf_slope + a * q)), x)

    @merged
    def sqrt(x):
        return math.sqrt(x)

    @merged
    def sign(x):
        return where(x > zero, one, where(x < zero, -one, where(x == zero, zero, x)))

    @merged
    def maximum(a, b):
        return where(b != b, b, where(a < b, b, a))

    @merged
    def minimum(a, b):
        return where(b != b, b, where(a > b, b, a))

    @merged
    def zeros_like(x):
        return zero

    @merged
    def ones_like(x):
        return one

    public = (exp, expm1, log, log1p, tanh, erf, sqrt, sign, where, maximum, minimum, zeros_like, ones_like)
    return {function.__name__: function for function in public} | {"abs": absolute}
