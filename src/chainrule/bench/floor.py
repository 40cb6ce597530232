"""The floor: the matrix products of a training step and nothing else, from one compiled loop over OpenBLAS.

numba calls `cblas_sgemm` of the `scipy-openblas32` package, a copy of OpenBLAS of its own. On processors with
AVX-512 that OpenBLAS takes for older ones, the copy is told which kernels to use; NumPy's stays as it was found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array
from .problems import Problem

BEST = {"OPENBLAS_CORETYPE": "SkylakeX"}
AVX512_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}


def blas(part: str) -> dict[str, Any]:
    """What threadpoolctl knows of the loaded OpenBLAS whose path contains `part`; empty if there is none, or no threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return {}

    return next((i for i in threadpool_info() if i["internal_api"] == "openblas" and part in i["filepath"]), {})


def guessed_low() -> bool:
    """Whether NumPy's OpenBLAS took a processor with AVX-512 for one without, and nobody told it otherwise."""
    info = Path("/proc/cpuinfo")
    has = info.exists() and "avx512f" in info.read_text(encoding="utf-8")
    return has and "OPENBLAS_CORETYPE" not in os.environ and blas("numpy").get("architecture") not in AVX512_KERNELS


@contextlib.contextmanager
def best_kernels() -> Iterator[None]:
    """Load libraries in this block with OpenBLAS's best kernels."""
    chosen = BEST if guessed_low() else {}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name in chosen:
            del os.environ[name]


def products(problem: Problem) -> tuple[Array, list[Array]]:
    """One row of arguments for each product of a step, and the matrices that must stay alive.

    Forward Z = A Wᵀ; backward ∂W = Δᵀ A and, but for the first layer, ∂A = Δ W. Row-major, no batch is gathered.
    Columns: transpose A, transpose B, M, N, K, then address and leading dimension of A, B and C.
    """
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Array:
        return rng.standard_normal((rows, columns), dtype=np.float32)

    B = problem.batch
    A = [matrix(B, n) for n in problem.sizes]
    D = [matrix(B, n) for n in problem.sizes]
    W = [matrix(n_out, n_in) for n_in, n_out in problem.layers]
    dW = [np.empty_like(w) for w in W]
    plain, transposed = 111, 112  # CblasNoTrans, CblasTrans
    forward, backward = [], []
    for l, (n_in, n_out) in enumerate(problem.layers):
        a, z, w, dw = (m.ctypes.data for m in (A[l], A[l + 1], W[l], dW[l]))
        da, dz = D[l].ctypes.data, D[l + 1].ctypes.data
        forward.append((plain, transposed, B, n_out, n_in, a, n_in, w, n_in, z, n_out))
        if l > 0:
            backward.append((plain, plain, B, n_in, n_out, dz, n_out, w, n_in, da, n_in))
        backward.append((transposed, plain, n_out, n_in, B, dz, n_out, a, n_in, dw, n_in))
    return np.array([*forward, *reversed(backward)], dtype=np.int64), [*A, *D, *W, *dW]


def loop(threads: int) -> Callable[[Array, int], None]:
    """The compiled loop (products, steps) over cblas_sgemm."""
    import llvmlite.binding as llvm
    import numba as nb

    with best_kernels():
        import scipy_openblas32

    folder = Path(scipy_openblas32.get_lib_dir())
    library = ctypes.CDLL(str(next(folder.glob("*scipy_openblas*"))))
    library.scipy_openblas_set_num_threads(threads)
    llvm.add_symbol("scipy_cblas_sgemm", ctypes.cast(library.scipy_cblas_sgemm, ctypes.c_void_p).value)
    i, f, p = nb.int32, nb.float32, nb.intp
    signature = nb.void(i, i, i, i, i, i, f, p, i, p, i, f, p, i)
    sgemm = nb.types.ExternalFunction("scipy_cblas_sgemm", signature)

    @nb.njit(nb.void(nb.int64[:, ::1], nb.int64), error_model="numpy", nogil=True)
    def run(table: Any, steps: Any) -> None:
        row_major, one, zero = nb.int32(101), nb.float32(1), nb.float32(0)
        for _ in range(steps):
            for k in range(len(table)):
                g = table[k]
                i32 = nb.int32
                sgemm(
                    row_major, i32(g[0]), i32(g[1]), i32(g[2]), i32(g[3]), i32(g[4]),
                    one, g[5], i32(g[6]), g[7], i32(g[8]), zero, g[9], i32(g[10]),
                )  # fmt: skip

    return run


def floor(problem: Problem) -> Callable[[], None]:
    """The products of all steps of one timing."""
    table, alive = products(problem)
    run = loop(problem.threads)

    def epoch() -> None:
        run(table, problem.steps)
        assert alive

    return epoch
