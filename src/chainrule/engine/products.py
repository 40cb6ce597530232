"""Matrix products, compiled: C ← α A B, built for what a training step multiplies.

A tile of C, a few rows by a few vectors of columns, stays in the processor's registers while its sums grow: in each
turn it takes a row of B in vectors and one number from each row of A. B is first copied into a panel as wide as a tile,
so that it comes from fast memory in the order of its use; the copy turns B where the product needs Bᵀ, and picks rows
of B by number. A product of few columns, such as the last layer's, is made turned: then its rows fill the vectors.

Every number of C is one sum in the order of k (beyond `DEPTH` terms a sum of such sums), in whatever tile it stands. So
neither the number of rows nor that of threads changes a digit.

Source: K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS 34 (2008).
"""

from __future__ import annotations

import platform
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from .memory import OPTIONS, compiled, declared, everywhere, inlined, number, view, widest, width

DEPTH = 2048  # terms of a sum; a strip of so many rows stays in a core's cache


def registers() -> tuple[int, int]:
    """The bytes of this processor's vectors, and how many of them it keeps at hand."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx"):
        return 32, 16
    return 16, 32 if platform.machine() in ("aarch64", "arm64") else 16


BYTES, REGISTERS = registers()
VECTORS = 4 if REGISTERS == 32 else 2  # vectors in a row of the widest tile
HEIGHTS = (6, 4, 2, 1)  # rows of tiles: the registers hold the first, a row of B and a number of A
NEAR = 65536  # bytes over which a matrix may be spread and yet be read where it lies
PANEL = np.int64(VECTORS * BYTES)  # bytes in a row of a panel, which is as wide as a tile
SHALLOW = 15  # terms of a sum up to which C is never turned
STRIP = 256  # bytes in a row of the panels for which a row of A is read once
I32, I64 = ir.IntType(32), ir.IntType(64)


def whole(value: int) -> Any:
    """A constant whole number."""
    return ir.Constant(I64, value)


def pointer(builder: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer to numbers or vectors."""
    return builder.inttoptr(address, kind.as_pointer())


def first_lanes(builder: Any, count: Any, lanes: int) -> Any:
    """A mask of so many of a vector's lanes, none or all if the number is beyond them."""
    numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, everywhere(builder, builder.trunc(count, I32), lanes))


def load_lanes(builder: Any, place: Any, vector: Any, size: int, mask: Any) -> Any:
    """The numbers at a place, of `size` bytes each, and zeros beyond the mask."""
    name = f"llvm.masked.load.v{vector.count}f{8 * size}.p0"
    load = declared(builder, name, vector, vector.as_pointer(), I32, mask.type, vector)
    return builder.call(load, [place, ir.Constant(I32, size), mask, ir.Constant(vector, None)])


def store_lanes(builder: Any, value: Any, place: Any, size: int, mask: Any) -> None:
    """Write the numbers of a vector, of `size` bytes each, that the mask has."""
    name = f"llvm.masked.store.v{value.type.count}f{8 * size}.p0"
    store = declared(builder, name, ir.VoidType(), value.type, value.type.as_pointer(), I32, mask.type)
    builder.call(store, [value, place, ir.Constant(I32, size), mask])


@intrinsic
def tile(
    typing_context: Any, height: Any, vectors: Any, k: Any, alpha: Any, rows: Any, A_p: Any, B: Any, B_p: Any, C: Any,
    C_i: Any, columns: Any, more: Any,
) -> Any:  # fmt: skip
    """C ← α A B, or C ← C + α A B if `more` is not 0: a tile of C with `height` rows and so many vectors of columns.

    C may have fewer columns than the vectors have lanes. Row i of A begins at the address rows[i], and its numbers lie
    A_p bytes apart; the rows of B and C lie B_p and C_i bytes apart. There is code for each of HEIGHTS.
    """

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        height, vectors, *rest = values
        real = context.get_data_type(signature.args[3])
        size = context.get_abi_sizeof(real)
        done = builder.append_basic_block("done")
        code = builder.add(builder.mul(height, whole(VECTORS + 1)), vectors)
        choice = builder.switch(code, done)
        for v in range(1, VECTORS + 1):
            for h in HEIGHTS:
                block = builder.append_basic_block(f"tile_{h}_{v}")
                choice.add_case(whole(h * (VECTORS + 1) + v), block)
                builder.position_at_end(block)
                write_tile(builder, real, size, h, v, *rest)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, i, alpha, *[i] * 8), build


def write_tile(
    builder: Any, real: Any, size: int, height: int, vectors: int, k: Any, alpha: Any, rows: Any, A_p: Any, B: Any,
    B_p: Any, C: Any, C_i: Any, columns: Any, more: Any,
) -> None:  # fmt: skip
    """The code of `tile` for one height and number of vectors: a loop over k, then the stores."""
    lanes = BYTES // size
    vector = ir.VectorType(real, lanes)
    zeros = ir.Constant(vector, None)
    fma = declared(builder, f"llvm.fmuladd.v{lanes}f{8 * size}", vector, vector, vector, vector)

    begin = builder.block
    starts = [builder.load(pointer(builder, builder.add(rows, whole(8 * i)), I64)) for i in range(height)]
    turn, end = builder.append_basic_block("turn"), builder.append_basic_block("end")
    builder.branch(turn)

    builder.position_at_end(turn)
    p, of_A, of_B = (builder.phi(I64) for _ in range(3))
    sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(height)]
    places = [builder.add(of_B, whole(j * BYTES)) for j in range(vectors)]
    b = [builder.load(pointer(builder, place, vector), align=size) for place in places]
    new = []
    for i in range(height):
        number = builder.load(pointer(builder, builder.add(starts[i], of_A), real))
        a = everywhere(builder, number, lanes)
        new.append([builder.call(fma, [a, b[j], sums[i][j]]) for j in range(vectors)])
    after = builder.add(p, whole(1))
    variables = [(p, whole(0), after), (of_A, whole(0), builder.add(of_A, A_p)), (of_B, B, builder.add(of_B, B_p))]
    variables += [(sums[i][j], zeros, new[i][j]) for i in range(height) for j in range(vectors)]
    for variable, first, then in variables:
        variable.add_incoming(first, begin)
        variable.add_incoming(then, turn)
    builder.cbranch(builder.icmp_signed("<", after, k), turn, end)

    builder.position_at_end(end)
    factor = everywhere(builder, alpha, lanes)
    inside = first_lanes(builder, builder.sub(columns, whole((vectors - 1) * lanes)), lanes)
    with builder.if_else(builder.icmp_signed("!=", more, whole(0))) as branches:
        for branch, adds in zip(branches, (True, False), strict=True):
            with branch:
                for i in range(height):
                    row = builder.add(C, builder.mul(C_i, whole(i)))
                    for j in range(vectors):
                        target = pointer(builder, builder.add(row, whole(j * BYTES)), vector)
                        value, last = new[i][j], j == vectors - 1
                        if adds:
                            there = load_lanes(builder, target, vector, size, inside) if last else None
                            there = there or builder.load(target, align=size)
                            value = builder.call(fma, [value, factor, there])
                        else:
                            value = builder.fmul(value, factor)
                        if last:
                            store_lanes(builder, value, target, size, inside)
                        else:
                            builder.store(value, target, size)


@intrinsic
def lanes(typing_context: Any, like: Any) -> Any:
    """The numbers in a vector of the type of `like`, known when it is compiled."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        size = context.get_abi_sizeof(context.get_data_type(like))
        return context.get_constant(types.int64, BYTES // size)

    return types.int64(like), build


@intrinsic
def turn_square(typing_context: Any, source: Any, source_step: Any, target: Any, target_step: Any, like: Any) -> Any:
    """Write a square of as many numbers each way as a vector has lanes, turned; its rows lie so many bytes apart."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        source, source_step, target, target_step, _ = values
        real = context.get_data_type(signature.args[4])
        size = context.get_abi_sizeof(real)
        lanes = BYTES // size
        vector = ir.VectorType(real, lanes)

        def place(address: Any, step: Any, i: int) -> Any:
            return pointer(builder, builder.add(address, builder.mul(step, whole(i))), vector)

        def mixed(x: Any, y: Any, order: list[int]) -> Any:
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, lanes), order))

        rows = [builder.load(place(source, source_step, i), align=size) for i in range(lanes)]
        half = 1
        while half < lanes:  # two rows, one of whose numbers has this bit, exchange the lanes where they differ in it
            for i in range(lanes):
                if not i & half:
                    x, y = rows[i], rows[i | half]
                    rows[i] = mixed(x, y, [lanes + l - half if l & half else l for l in range(lanes)])
                    rows[i | half] = mixed(x, y, [lanes + l if l & half else l + half for l in range(lanes)])
            half *= 2
        for i in range(lanes):
            builder.store(rows[i], place(target, target_step, i), size)
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, i, i, like), build


@compiled
def turned(source, source_step, rows, columns, target, target_step, one):
    """Write a matrix (rows, columns) turned; rows of either lie so many bytes apart."""
    size, step = width(one), lanes(one)
    whole_rows, whole = rows // step * step, columns // step * step
    for i in range(0, whole_rows, step):
        for j in range(0, whole, step):
            turn_square(
                source + i * source_step + j * size, source_step, target + j * target_step + i * size, target_step, one
            )
        for j in range(whole, columns):
            row = view(target + j * target_step + i * size, step, one)
            for l in range(step):
                row[l] = number(source + (i + l) * source_step + j * size, one)
    for i in range(whole_rows, rows):
        row = view(source + i * source_step, columns, one)
        for j in range(columns):
            view(target + j * target_step + i * size, 1, one)[0] = row[j]


@compiled
def fill_panel(B, B_rows, B_turned, B_step, first, depth, j, columns, panel, one):
    """Copy the part of B from row `first` and column j on, (depth, columns), to a panel; zeros fill its last vector."""
    widest()
    size, step = width(one), lanes(one)
    if B_turned:
        turned(B + j * B_step + first * size, B_step, columns, depth, panel, PANEL, one)
    else:
        for p in range(depth):
            at = B + (number(B_rows + 8 * (first + p), 0) if B_rows else first + p) * B_step + j * size
            source, target = view(at, columns, one), view(panel + p * PANEL, columns, one)
            for l in range(columns):
                target[l] = source[l]
    missing = -columns % step
    if missing:
        for p in range(depth):
            rest = view(panel + p * PANEL + columns * size, missing, one)
            for l in range(missing):
                rest[l] = 0


@inlined
def height_of(rows):
    """The rows of the highest tile for so many rows."""
    for height in HEIGHTS:
        if rows >= height:
            return height
    return 1


@inlined
def better_turned(m, n, k, step):
    """Whether rows of C would fill vectors of `step` numbers so much better than its columns that it pays to turn it."""
    return 3 * n * ((m + step - 1) // step) < 2 * m * ((n + step - 1) // step) and SHALLOW < k <= DEPTH


def multiply(m, n, k, alpha, A, A_rows, A_turned, A_step, B, B_rows, B_turned, B_step, C, C_step, scratch):
    """C ← α A B with A (m, k), B (k, n), C (m, n), by rows `step` numbers apart; A or B may lie there turned instead.

    A_rows and B_rows are addresses of row numbers, by which rows are picked, or 0. The scratch is `room` bytes.
    """
    widest()
    size, step = width(alpha), lanes(alpha)
    A_step, B_step, C_step = A_step * size, B_step * size, C_step * size
    turns = better_turned(m, n, k, step) and not A_rows and (not B_rows or k * PANEL <= NEAR)
    if turns:  # Cᵀ = α Bᵀ Aᵀ, of which each strip is turned back
        if B_rows:
            picked = scratch + (n + 7) // 8 * 64 + n * STRIP + k * STRIP
            fill_panel(B, B_rows, 0, B_step, 0, k, 0, n, picked, alpha)
            B, B_rows, B_step = picked, 0, PANEL
        m, n, A, A_turned, A_step, B, B_turned, B_step = n, m, B, 1 - B_turned, B_step, A, 1 - A_turned, A_step
    strip, wide = STRIP // size, PANEL // size
    rows, of_strip = view(scratch, m, 0), scratch + (m + 7) // 8 * 64
    panels = of_strip + (m * STRIP if turns else 0)
    upright = panels + min(k, DEPTH) * STRIP
    for first in range(0, k, DEPTH):
        depth = min(DEPTH, k - first)
        A_i, A_p, begin = A_step, size, A + first * size
        if A_turned:
            A_i, A_p, begin = size, A_step, A + first * A_step
            if depth * A_step > NEAR:
                A_i, A_p, begin = (depth + step - 1) // step * BYTES + BYTES, size, upright
                turned(A + first * A_step, A_step, depth, m, upright, A_i, alpha)
        for i in range(m):
            rows[i] = begin + (number(A_rows + 8 * i, 0) if A_rows else i) * A_i
        for j in range(0, n, strip):
            here = min(strip, n - j)
            at, B_p, apart = B + first * B_step + j * size, B_step, PANEL
            if B_turned or B_rows or here % step or (m > 1 and depth * B_step > NEAR):
                at, B_p, apart = panels, PANEL, depth * PANEL
                for q in range(0, here, wide):
                    panel = panels + q // wide * apart
                    fill_panel(B, B_rows, B_turned, B_step, first, depth, j + q, min(wide, here - q), panel, alpha)
            to, C_i = (of_strip, STRIP) if turns else (C + j * size, C_step)
            i = 0
            while i < m:
                height = height_of(m - i)
                for q in range(0, here, wide):
                    columns = min(wide, here - q)
                    vectors = (columns + step - 1) // step
                    of_A, of_B, of_C = scratch + 8 * i, at + q // wide * apart, to + i * C_i + q * size
                    tile(height, vectors, depth, alpha, of_A, A_p, of_B, B_p, of_C, C_i, columns, first)
                i += height
            if turns:
                turned(of_strip, STRIP, m, here, C + j * C_step, C_step, alpha)


def room(inputs: int, units: int, rows: int, training: bool, itemsize: int) -> int:
    """The bytes of scratch for the products of a layer with so many rows; a gradient's among them if it is training."""

    def of(m: int, n: int, k: int, turned: bool) -> int:
        depth = min(k, DEPTH)
        upright = depth * itemsize + 2 * BYTES
        least = (m + 7) // 8 * 64 + (m * upright if turned else 0)
        few = min(n, 2 * BYTES // itemsize)  # so many columns, all or a thread's share, may be turned
        least = max(least, (few + 7) // 8 * 64 + few * STRIP + max(few * upright, min(depth * int(PANEL), NEAR)))
        return depth * STRIP + least

    forward = of(rows, units, inputs, False)
    return max(forward, of(rows, inputs, units, False), of(units, inputs, rows, True)) if training else forward


def c_signature(real: Any) -> Any:
    """The types of `multiply`'s arguments for numbers of a type."""
    return types.void(*[types.int64] * 3, real, *[types.int64] * 11)


@lru_cache(maxsize=2)
def function(dtype: str) -> Any:
    """`multiply` for numbers of a dtype, compiled now or loaded from the disk; its `address` is for the kernel."""
    return cfunc(c_signature(getattr(types, dtype)), cache=True, **OPTIONS)(multiply)
