"""The compiled engine's matrix products against NumPy's in higher precision, for every form in which a step asks for them.

"float32" and "float64" are the products in vector registers, "amx" those in float32 on the matrix unit, where there is one.
"""

import os
import subprocess
import sys
from ctypes import CFUNCTYPE, c_double, c_float, c_int64

import numpy as np
import pytest

pytest.importorskip("numba")

from chainrule.engine import amx, products

NAN = float("nan")
ON_UNIT = pytest.param("amx", marks=pytest.mark.skipif(not amx.available(), reason="no matrix unit"))
every_kind = pytest.mark.parametrize("kind", ["float32", "float64", ON_UNIT])


def dtype_of(kind):
    return "float64" if kind == "float64" else "float32"


def multiply(
    A, B, kind="float32", *, alpha=1.0, A_rows=None, B_rows=None, A_turned=False, B_turned=False, margin=3, layer=None
):
    """α A B by `multiply` of `products` or `amx`, with matrices amid numbers that must be neither read nor written.

    `layer` is (inputs, units, rows), and A B part of its work; without it A B is all of it.
    """
    dtype = A.dtype
    m, k = A.shape if A_rows is None else (len(A_rows), A.shape[1])
    n = B.shape[1]
    A_there, B_there = (amid(x.T if turned else x, margin) for x, turned in ((A, A_turned), (B, B_turned)))
    C = amid(np.full((m, n), NAN, dtype), margin)
    numbers = [None if rows is None else np.array(rows, np.int64) for rows in (A_rows, B_rows)]
    at_numbers = [0 if rows is None else rows.ctypes.data for rows in numbers]
    training = A_turned or layer is not None
    layer = layer or ((n, m, k) if A_turned else (k, n, m))  # a gradient, or a forward pass
    room = amx.room(*layer) if kind == "amx" else products.room(*layer, training, dtype.itemsize)
    function = amx.function() if kind == "amx" else products.function(kind)
    scratch = np.full(room + 2**20, 255, np.uint8)
    before = C.copy()
    real = {"float32": c_float, "float64": c_double}[dtype.name]
    call = CFUNCTYPE(None, *[c_int64] * 3, real, *[c_int64] * 11)(function.address)

    def place(matrix):
        return matrix[margin:, margin:].ctypes.data, matrix.shape[1]

    (at_A, A_step), (at_B, B_step), (at_C, C_step) = place(A_there), place(B_there), place(C)
    offset = -scratch.ctypes.data % 64
    call(
        m, n, k, alpha, at_A, at_numbers[0], A_turned, A_step, at_B, at_numbers[1], B_turned, B_step, at_C, C_step, scratch.ctypes.data + offset
    )  # fmt: skip
    inside = np.zeros(C.shape, bool)
    inside[margin:-margin, margin:-margin] = True
    np.testing.assert_array_equal(C[~inside], before[~inside])
    assert (scratch[:offset] == 255).all() and (scratch[offset + room :] == 255).all()
    return C[margin:-margin, margin:-margin].copy()


def amid(matrix, margin):
    """The matrix in the middle of a larger one of NaN."""
    there = np.full(tuple(size + 2 * margin for size in matrix.shape), NAN, matrix.dtype)
    there[margin:-margin, margin:-margin] = matrix
    return there


def matrices(m, n, k, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)


SIZES = [
    (1, 1, 1),
    (1, 5, 3),
    (7, 2, 64),
    (13, 17, 31),
    (32, 64, 20),
    (6, 65, 16),
    (29, 130, 5),
    (40, 10, 300),
    (3, 257, 2),
]
SIZES += [(12, 64, 2048), (5, 9, 2049), (9, 70, 4100), (300, 16, 130), (290, 70, 1100)]
# few columns, made turned
SIZES += [(33, 3, 20), (64, 20, 32), (130, 21, 40), (300, 1, 2048), (70, 2, 2049), (17, 1, 16)]


@every_kind
@pytest.mark.parametrize("A_turned", [False, True])
@pytest.mark.parametrize("B_turned", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_products(size, A_turned, B_turned, kind):
    dtype = dtype_of(kind)
    A, B = matrices(*size, dtype)
    C = multiply(A, B, kind, alpha=-1.5, A_turned=A_turned, B_turned=B_turned)
    wide = np.longdouble if dtype == "float64" else np.float64
    exact = -1.5 * (A.astype(wide) @ B.astype(wide))
    bound = 1.5 * np.abs(A).astype(wide) @ np.abs(B).astype(wide)  # Σ |a| |b|, of which each term is off by k ε at most
    assert (np.abs(C - exact) <= (size[2] + 2) * np.finfo(dtype).eps * bound).all()


@every_kind
@pytest.mark.parametrize("count", [23, 200, 1500])
@pytest.mark.parametrize("inputs", [40, 20, 3])
def test_rows_by_number(kind, inputs, count):
    rng = np.random.default_rng(1)
    dtype = dtype_of(kind)
    X, W = matrices(50, 33, inputs, dtype)
    rows = rng.integers(0, 50, count)
    np.testing.assert_array_equal(multiply(X, W, kind, A_rows=rows), multiply(X[rows], W, kind))
    delta = rng.standard_normal((70, count)).astype(dtype)
    np.testing.assert_array_equal(
        multiply(delta, X, kind, B_rows=rows, A_turned=True), multiply(delta, X[rows], kind, A_turned=True)
    )


@every_kind
@pytest.mark.parametrize("k", [30, 3000])
def test_a_number_is_the_same_sum_wherever_it_stands(k, kind):
    """Neither the rows nor the columns around it change a digit, nor how the matrices lie in memory."""
    A, B = matrices(241, 83, k, dtype_of(kind))
    C = multiply(A, B, kind, alpha=0.3)
    np.testing.assert_array_equal(multiply(A, B[:, :2], kind, alpha=0.3), C[:, :2])
    np.testing.assert_array_equal(multiply(A[17:30], B, kind, alpha=0.3), C[17:30])
    np.testing.assert_array_equal(multiply(A, B[:, 5:9], kind, alpha=0.3), C[:, 5:9])
    np.testing.assert_array_equal(multiply(A[2:11], B[:, :9], kind, alpha=0.3), C[2:11, :9])
    for A_turned, B_turned in ((True, False), (False, True), (True, True)):
        np.testing.assert_array_equal(multiply(A, B, kind, alpha=0.3, A_turned=A_turned, B_turned=B_turned), C)


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("layer", [(784, 20, 128), (40, 2000, 16), (2000, 50, 16), (17, 16, 8), (2048, 40, 10)])
def test_a_share_of_a_layer_has_room_in_the_scratch_of_the_layer(layer, threads, kind):
    """Threads share the units of a layer, and fewer columns may be turned where more are not."""
    inputs, units, rows = layer
    dtype = dtype_of(kind)
    X, W = matrices(rows, units, inputs, dtype)
    delta = matrices(rows, units, 1, dtype)[0] @ np.ones((1, units), dtype)
    forward, backward, gradient = X @ W, delta @ W.T, delta.T @ X
    near = {"rtol": 1e-4 if dtype == "float32" else 1e-12, "atol": 1e-3 if dtype == "float32" else 1e-11}
    numbers = np.arange(rows)
    for me in range(threads):
        own = slice(units * me // threads, units * (me + 1) // threads)
        of_inputs = slice(inputs * me // threads, inputs * (me + 1) // threads)
        for A_rows in (None, numbers):
            made = multiply(X, W[:, own], kind, A_rows=A_rows, B_turned=True, layer=layer)
            np.testing.assert_allclose(made, forward[:, own], **near)
        made = multiply(delta, W.T[:, of_inputs], kind, layer=layer)
        np.testing.assert_allclose(made, backward[:, of_inputs], **near)
        for B_rows in (None, numbers):
            made = multiply(delta.T[own], X, kind, A_turned=True, B_rows=B_rows, layer=layer)
            np.testing.assert_allclose(made, gradient[own], **near)


@every_kind
def test_what_is_not_finite_stays_where_it_belongs(kind):
    A, B = matrices(20, 70, 50, dtype_of(kind))
    A[3, 7], B[8, 66] = np.inf, NAN
    C = multiply(A, B, kind)
    assert np.isfinite(np.delete(np.delete(C, 3, 0), 66, 1)).all()
    assert np.isnan(C[:, 66]).all() and not np.isfinite(C[3]).any()


@pytest.mark.parametrize("kind", ["float32", ON_UNIT])
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
def test_no_nan_is_lost(kind, bits):
    A, B = matrices(20, 70, 50, "float32")
    A.view(np.uint32)[3, 7] = bits
    assert np.isnan(multiply(A, B, kind)[3]).all()


@pytest.mark.parametrize("kind", [ON_UNIT])
@pytest.mark.parametrize("size", [(64, 64, 64), (128, 96, 800), (40, 40, 4000)])
@pytest.mark.parametrize("positive", [False, True])
def test_the_matrix_unit_is_nearer_to_the_exact_product(kind, size, positive):
    """Though it multiplies numbers of 8 digits: also for numbers of very different size, and where all terms add up."""
    A, B = matrices(*size, "float32")
    rng = np.random.default_rng(2)
    A, B = (x * (10 ** rng.uniform(-8, 8, x.shape)).astype(np.float32) for x in (A, B))
    if positive:
        A, B = np.abs(A), np.abs(B)
    exact, scale = A.astype(float) @ B.astype(float), np.abs(A).astype(float) @ np.abs(B)
    error = {name: np.abs(multiply(A, B, name) - exact) / scale for name in ("float32", kind)}
    assert error[kind].max() <= error["float32"].max()
    assert np.linalg.norm(error[kind]) <= np.linalg.norm(error["float32"])


@pytest.mark.parametrize(("vector", "registers"), [(64, 32), (32, 16), (16, 16), (16, 32)])
def test_other_processors(vector, registers, tmp_path):
    """The code for other vectors than this processor's, in a process that takes it for another one."""
    script = f"""
import platform
import llvmlite.binding as llvm, numba
numba.njit(lambda: 1)()  # so that the compiler itself knows the processor as it is
features = {{64: {{"avx512f": True}}, 32: {{"avx": True}}, 16: {{}}}}[{vector}]
llvm.get_host_cpu_features = lambda: features
platform.machine = lambda: "aarch64" if {registers} == 32 else "x86_64"
import test_products
assert (test_products.products.BYTES, test_products.products.REGISTERS) == ({vector}, {registers})
for size in test_products.SIZES:
    for turned in (False, True):
        test_products.test_products(size, turned, not turned, "float32")
        test_products.test_products(size, turned, turned, "float32")
test_products.test_rows_by_number("float32", 3, 200)
"""
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
