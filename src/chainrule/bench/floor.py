"""Two floors: the matrix products of a training step from one compiled loop over OpenBLAS, and their arithmetic alone.

OpenBLAS is a copy of our own, whose threads are turned up for the floor's turns only. The engine's own products are
faster for many shapes, so that a whole step can take less than this. No step on the vector units takes less than its
multiply-adds in registers, where nothing is read or written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array
from .openblas import CORE_TYPE, WIDE, has_avx512, library, product_address
from .problems import Problem

BEST = {CORE_TYPE: "SkylakeX"}


def blas(part: str) -> dict[str, Any]:
    """What threadpoolctl knows of the loaded OpenBLAS whose path contains `part`; empty if there is none, or no threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return {}

    return next((i for i in threadpool_info() if i["internal_api"] == "openblas" and part in i["filepath"]), {})


def guessed_low() -> bool:
    """Whether NumPy's OpenBLAS took a processor with AVX-512 for one without, and nobody told it otherwise."""
    return has_avx512() and CORE_TYPE not in os.environ and blas("numpy").get("architecture") not in WIDE


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


def floor(table: Array, steps: int) -> tuple[Callable[[], None], Callable[[int], None]]:
    """The products of so many steps, and what sets the threads of the library."""
    import numba as nb

    from ..engine.memory import call

    gemm = product_address()

    @nb.njit(nb.void(nb.int64, nb.int64[:, ::1], nb.int64), error_model="numpy", nogil=True)
    def run(gemm: Any, table: Any, steps: Any) -> None:
        row_major, one, zero = nb.int32(101), nb.float32(1), nb.float32(0)
        for _ in range(steps):
            for k in range(len(table)):
                g = table[k]
                i32 = nb.int32
                sizes = (row_major, i32(g[0]), i32(g[1]), i32(g[2]), i32(g[3]), i32(g[4]))
                call(gemm, (*sizes, one, g[5], i32(g[6]), g[7], i32(g[8]), zero, g[9], i32(g[10])))

    def set_threads(count: int) -> None:
        openblas = library()
        assert openblas is not None
        openblas.scipy_openblas_set_num_threads(count)

    return lambda: run(gemm, table, steps), set_threads


def multiply_adds(count: int, threads: int) -> Callable[[], int]:
    """At least `count` multiply-adds of float32, shared by so many threads: a ← x x + a in vectors that stay in registers.

    Called, it returns how many were made; with x = 1 each adds 1, so that the sums count them (up to 2²⁴ in a lane).
    """
    import numba as nb
    from llvmlite import ir
    from numba.extending import intrinsic

    from ..engine.memory import declared, everywhere, widest
    from ..engine.products import BYTES, I32, I64, REGISTERS, whole
    from ..engine.threads import Team

    lanes, sums = BYTES // 4, REGISTERS - 8  # more sums than a multiply-add takes cycles
    turns = -(-count // (threads * sums * lanes))

    @intrinsic
    def loop(typing_context: Any, turns: Any, x: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            turns, x = values
            vector = ir.VectorType(x.type, lanes)
            fma = declared(builder, f"llvm.fma.v{lanes}f32", vector, vector, vector, vector)
            factor, zeros = everywhere(builder, x, lanes), ir.Constant(vector, None)
            begin, turn, end = builder.block, builder.append_basic_block("turn"), builder.append_basic_block("end")
            builder.branch(turn)
            builder.position_at_end(turn)
            made, before = builder.phi(I64), [builder.phi(vector) for _ in range(sums)]
            more, after = builder.add(made, whole(1)), [builder.call(fma, [factor, factor, a]) for a in before]
            for variable, first, then in [
                (made, whole(0), more),
                *((a, zeros, b) for a, b in zip(before, after, strict=True)),
            ]:
                variable.add_incoming(first, begin)
                variable.add_incoming(then, turn)
            builder.cbranch(builder.icmp_signed("<", more, turns), turn, end)
            builder.position_at_end(end)
            total = zeros
            for a in after:
                total = builder.fadd(total, a)
            return builder.extract_element(total, ir.Constant(I32, 0))

        return x(turns, x), build

    @nb.njit(nb.float32(nb.int64, nb.float32), nogil=True)
    def run(turns: Any, x: Any) -> Any:
        widest()
        return loop(turns, x)

    team = Team(threads)
    return lambda: lanes * int(sum(team(lambda me: run(turns, np.float32(1)))))
