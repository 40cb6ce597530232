"""The elementary functions of the compiled engine: errors in units in the last place, special values, loops.

The independent sources are mpmath with 60 digits and, for float32, the C library's functions of doubles.

    python tests/test_elementary.py --full    every float32 number and a dense battery of float64; the worst errors
                                              (about twenty minutes; names of functions may follow)

NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES= before either command tests the code of processors without fused products.
"""

from __future__ import annotations

import math
import re
import sys
import time

import numpy as np
import pytest

mpmath = pytest.importorskip("mpmath")
numba = pytest.importorskip("numba")

from chainrule.engine import passes  # noqa: E402
from chainrule.engine.elementary import functions  # noqa: E402
from chainrule.formulas import activations  # noqa: E402

NAMES = ("exp", "expm1", "log", "log1p", "tanh", "erf")
REALS = (np.float32, np.float64)
LIMIT = 3.0  # units in the last place
FLAGS = (set(), {"contract"}, {"nsz", "contract", "arcp"}, {"nsz", "contract", "arcp", "reassoc", "afn"})
EXACT = mpmath.mp.clone()
EXACT.dps = 60

loops: dict[object, object] = {}


def loop(function, flags=frozenset()):
    """A compiled loop of a function over an array."""
    key = function, frozenset(flags)
    if key not in loops:

        @numba.njit(error_model="numpy", fastmath=set(flags))
        def run(x, out):
            for i in range(x.size):
                out[i] = function(x[i])

        loops[key] = run
    return loops[key]


def apply(function, x, flags=frozenset()):
    out = np.empty_like(x)
    loop(function, flags)(x, out)
    return out


def exact(name, x):
    """f(x) with 60 digits, or a float where the value is a limit."""
    if name in ("exp", "expm1") and abs(x) > 800:
        return np.inf if x > 0 else -(name == "expm1")
    if name in ("tanh", "erf") and abs(x) > 60:
        return math.copysign(1, x)
    if (name == "log" and x <= 0) or (name == "log1p" and x <= -1):
        return -np.inf if x == -(name == "log1p") else np.nan
    return getattr(EXACT, name)(EXACT.mpf(float(x)))


def error64(name, x, got):
    """The error of a float64 result in units in the last place of the exact value."""
    want = exact(name, x)
    rounded = float(want)
    if got == rounded or (got != got and rounded != rounded):
        if not math.isfinite(rounded) or got == want:
            return 0.0
    elif not math.isfinite(rounded) or got != got:
        return math.inf
    shown = EXACT.mpf(2) ** 1024 * (1 if got > 0 else -1) if math.isinf(got) else EXACT.mpf(float(got))
    exponent = EXACT.frexp(want)[1] if want else -1073
    return float(abs(shown - want) / EXACT.mpf(2) ** max(exponent - 53, -1074))


def sample64(rng, each):
    """In every exponent `each` random numbers and its first and last; the edges of every range; both signs."""
    exponents = np.arange(2047, dtype=np.int64) << 52
    random = exponents[:, None] + rng.integers(0, 1 << 52, (2047, each))
    ends = np.concatenate([exponents, exponents + 1, exponents + (1 << 52) - 1, 1 << np.arange(52)])
    numbers = np.concatenate([random.ravel(), ends]).view(np.float64)
    n = np.arange(-1080, 1030)
    edges = [(n + 0.5) * math.log(2), n * math.log(2), (n + 0.5) * math.log(2) / 2, [708.3964, 709.7827128933841]]
    edges += [
        np.ldexp(math.sqrt(0.5), n[10:-10]),
        np.ldexp(math.sqrt(0.5), n[10:-10]) - 1,
        [20, 40, 6, 710, 746, 2.0**54],
    ]
    edges += [-1 + 2.0 ** np.arange(-53, 0), rng.uniform(-7, 7, 400 * each), rng.uniform(-750, 720, 100 * each)]
    edges = np.concatenate([np.asarray(e, dtype=np.float64) for e in edges])
    for _ in range(2):  # and what stands next to them
        edges = np.concatenate([edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf)])
    numbers = np.concatenate([numbers, edges])
    return np.unique(np.concatenate([numbers, -numbers]))


def worst64(name, x):
    got = apply(getattr(functions(np.float64), name), x)
    errors = [error64(name, a, b) for a, b in zip(x, got, strict=True)]
    return max(errors), float(x[int(np.argmax(errors))])


def float32_loop(name):
    """A loop over the bit patterns of float32: the worst error, and where."""
    ours, peer = getattr(functions(np.float32), name), getattr(math, name)
    low = {"log": 0.0, "log1p": -1.0}.get(name, -np.inf)

    @numba.njit(error_model="numpy")
    def run(first, last, step):
        worst, where = 0.0, np.float32(0)
        for pattern in range(first, last, step):
            x = np.uint32(pattern).view(np.float32)
            got = np.float64(ours(x))
            if x < low:
                want = np.nan
            elif x == low and low > -np.inf:
                want = -np.inf
            else:
                want = peer(np.float64(x))
            if want != want or got != got:
                error = 0.0 if want != want and got != got else np.inf
            elif abs(want) >= 2.0**128:
                error = 0.0 if got == np.copysign(np.inf, want) else (2.0**128 - got) / 2.0**104
            else:
                if abs(got) == np.inf:
                    got = np.copysign(2.0**128, got)
                exponent = max(math.frexp(want)[1], -125)
                error = abs(got - want) / math.ldexp(1.0, exponent - 24)
            if error > worst:
                worst, where = error, x
        return worst, where

    return run


@pytest.mark.parametrize("name", NAMES)
def test_float64_against_60_digits(name):
    x = np.random.default_rng(0).permutation(sample64(np.random.default_rng(1), 1))[:4000]
    worst, where = worst64(name, x)
    assert worst <= LIMIT, where


@pytest.mark.parametrize("name", NAMES)
def test_float32_against_doubles(name):
    worst, where = float32_loop(name)(0, 1 << 32, 1021)
    assert worst <= LIMIT, where


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name, real):
    info = np.finfo(real)
    tiny, least = info.smallest_normal, info.smallest_subnormal
    x = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, -2.0, info.max, -info.max, tiny, -tiny, least, -least], real
    )
    inf, nan = np.inf, np.nan
    want = {
        "exp": [1, 1, inf, 0, nan, math.exp(-1), math.exp(-2), inf, 0, 1, 1, 1, 1],
        "expm1": [0.0, -0.0, inf, -1, nan, math.expm1(-1), math.expm1(-2), inf, -1, *x[9:]],
        "log": [
            -inf,
            -inf,
            inf,
            nan,
            nan,
            nan,
            nan,
            math.log(info.max),
            nan,
            math.log(tiny),
            nan,
            math.log(least),
            nan,
        ],
        "log1p": [0.0, -0.0, inf, nan, nan, -inf, nan, math.log(info.max), nan, *x[9:]],
        "tanh": [0.0, -0.0, 1, -1, nan, math.tanh(-1), math.tanh(-2), 1, -1, *x[9:]],
        "erf": [0.0, -0.0, 1, -1, nan, math.erf(-1), math.erf(-2), 1, -1, *x[9:] * (2 / math.sqrt(math.pi))],
    }[name]
    for flags in FLAGS:
        got = apply(getattr(functions(real), name), x, flags)
        np.testing.assert_allclose(got, np.array(want, real), rtol=4 * info.eps, atol=0)
        np.testing.assert_array_equal(np.signbit(got[:2]), np.signbit(np.array(want[:2])))


@pytest.mark.parametrize("real", REALS)
def test_exp_ends_in_the_right_subnormals(real):
    info = np.finfo(real)
    x = np.linspace(math.log(info.smallest_subnormal) - 1, math.log(info.smallest_normal) + 1, 5001).astype(real)
    want = np.array([float(EXACT.exp(float(v)) / float(info.smallest_subnormal)) for v in x])
    assert np.abs(apply(functions(real).exp, x) / info.smallest_subnormal - want)[want < 1e4].max() <= 0.502


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", NAMES)
def test_flags_of_the_loop_change_nothing(name, real):
    """Bit for bit, whatever is allowed to the loop around."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=20000) * 10 ** rng.uniform(-9, 2.5, 20000)).astype(real)
    plain = apply(getattr(functions(real), name), x)
    for flags in FLAGS[1:]:
        np.testing.assert_array_equal(apply(getattr(functions(real), name), x, flags), plain)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", [*NAMES, "sqrt", "abs", "sign"])
def test_loops_are_vectorised_and_keep_their_type(name, real):
    """Vectors of numbers or, where only their bits matter, of whole numbers as wide."""
    function = getattr(functions(real), name)
    apply(function, np.ones(8, real))
    (code,) = loop(function).inspect_llvm().values()
    assert re.search({np.float32: r"<\d+ x (float|i32)>", np.float64: r"<\d+ x (double|i64)>"}[real], code)
    assert "fpext" not in code and "fptrunc" not in code


@pytest.mark.parametrize("real", REALS)
def test_choices_and_signs_are_those_of_numpy(real):
    xp = functions(real)
    numbers = np.array([0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, np.nan], real)
    np.testing.assert_array_equal(apply(xp.sign, numbers), np.sign(numbers))
    np.testing.assert_array_equal(apply(xp.abs, numbers), np.abs(numbers))
    np.testing.assert_array_equal(apply(xp.zeros_like, numbers), np.zeros(7))
    np.testing.assert_array_equal(apply(xp.ones_like, numbers), np.ones(7))
    np.testing.assert_array_equal(apply(xp.sqrt, numbers[[0, 1, 2, 4, 6]]), np.sqrt(numbers[[0, 1, 2, 4, 6]]))

    @numba.njit(error_model="numpy", fastmath={"nsz", "contract", "arcp"})
    def pairs(a, b, high, low, chosen):
        for i in range(a.size):
            high[i], low[i] = xp.maximum(a[i], b[i]), xp.minimum(a[i], b[i])
            chosen[i] = xp.where(a[i] > b[i], a[i], b[i])

    a, b = (m.ravel() for m in np.meshgrid(numbers, numbers))
    high, low, chosen = np.empty_like(a), np.empty_like(a), np.empty_like(a)
    pairs(a, b, high, low, chosen)
    np.testing.assert_array_equal(high, np.maximum(a, b))
    np.testing.assert_array_equal(low, np.minimum(a, b))
    np.testing.assert_array_equal(chosen, np.where(a > b, a, b))


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", list(activations.CATALOGUE))
def test_passes_are_vector_loops_of_one_type(name, real, tmp_path, monkeypatch):
    """What they compute is held against NumPy by test_compiled; a pass from the disk has no code to look at."""
    monkeypatch.setattr(passes, "directory", lambda: tmp_path)
    passes.loaded.cache_clear()
    for kind in (passes.forward, passes.backward):
        text = passes.text(kind(activations.CATALOGUE[name]), np.dtype(real).name)
        code = passes.loaded(text, kind.__name__).inspect_llvm()
        assert {np.float32: "x float>", np.float64: "x double>"}[real] in code or name in ("identity", "step")
        assert "fpext" not in code
    passes.loaded.cache_clear()


def main() -> None:
    """The full battery."""
    step = 1 if "--full" in sys.argv else 61
    x = sample64(np.random.default_rng(0), 16 if step == 1 else 1)
    for name in [name for name in NAMES if name in sys.argv] or NAMES:
        begun = time.perf_counter()
        worst, where = float32_loop(name)(0, 1 << 32, step)
        print(f"{name:<6} float32 {worst:6.3f} ulp at {where!r} ({(1 << 32) // step} numbers, ", end="")
        print(f"{time.perf_counter() - begun:.0f} s)", flush=True)
        begun = time.perf_counter()
        worst, where = worst64(name, x)
        print(f"{name:<6} float64 {worst:6.3f} ulp at {where!r} ({x.size} numbers, ", end="")
        print(f"{time.perf_counter() - begun:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
