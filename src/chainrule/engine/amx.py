"""Matrix products in float32 on the matrix unit (AMX) of Intel's servers since 2023: C ← α A B, as `products` has them.

The unit multiplies bfloat16, numbers of 8 binary digits, and adds float32. A float32 has 24 digits and is the sum of three
such numbers, x = h + m + l, each the nearest to what is left. Of the nine products of the parts of two numbers the six
largest are added: h h', h m', m h', m m', h l', l h'. What is left out is about 2⁻²⁴ of the term, as much as a float32
rounds off; and as a long sum is rounded six times for 32 terms, not 32 times, C is nearer to the exact product than with
`products` (tests/test_products.py). The unit takes numbers below 1e-38 for zero, so that numbers and terms below 1e-31 have
fewer digits; those beyond 3.39e38 are infinite, and what infinity is multiplied with becomes NaN.

A tile has 16 rows of 64 bytes. The first operand's rows are rows of A, with 32 terms of the sum in pairs; the second's
are pairs of rows of B, with 16 columns. Which terms make a pair is free as long as both agree: here p and p + 16, so that
a line of either is two vectors, one put into the other's upper halves. Where the terms lie along the wrong axis, the
squares of pairs are turned.

Every number of C is added up in the same order, wherever it stands.

Where the time of a product goes (256 × 256 × 784, one thread of a Xeon): half is the unit's additions, a third the splitting,
half of that waiting for memory, and the rest the ends of blocks, as the unit stands still for 0.3 µs whenever sums are
read out of it, wherever they are written. Splitting by slices between the unit's instructions is free while all lies in
the first cache, but gained 2 to 6 % of such a product, and lost 8 % where 2,048 inputs and units need more room for two
stripes at a time. So operands are split beforehand.

Sources: G. Henry, P. T. P. Tang and A. Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for
higher-precision computations", ARITH 26 (2019); Intel's "Architecture instruction set extensions", chapter 3.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import cfunc, config, types
from numba.core import cgutils
from numba.extending import intrinsic

from .memory import OPTIONS, compiled, declared, everywhere, inlined, number
from .products import c_signature, first_lanes, load_lanes, pointer, store_lanes, turn_square, whole
from .threads import system

DEPTH = 1024  # terms of a sum
NEAR = 5 * 2**18  # bytes of A's parts that stay in a core's cache; B is split by stripes then,
STRIPE = 64  # of so many columns,
ROWS = 128  # and else as a whole, and A by so many rows
TILE = 1024  # bytes
PARTS = 3  # tiles of h, m and l
TERMS = 32  # in a row of a tile
BLOCK = 32  # rows and columns of C whose sums the unit keeps: two tiles each way
SUMS = 4 * BLOCK * BLOCK  # bytes of them
WORTH = 2**22  # multiplications from which the unit is faster than `products`
WORTH_TURNED, SIDE = 2**23, 256  # the same, and inputs and units, where W must be turned
ARCH_PRCTL, ASK, TILES = 158, 0x1023, 18  # Linux: the call, its question, the state that it is about
I8, I32 = ir.IntType(8), ir.IntType(32)
NUMBERS, WORDS = ir.VectorType(ir.FloatType(), 16), ir.VectorType(I32, 16)


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether the processor has the unit, the compiler may use it, and the system lets this process have its registers."""
    if sys.platform != "linux" or config.CPU_NAME or config.CPU_FEATURES is not None or not config.ENABLE_AVX:
        return False
    features = llvm.get_host_cpu_features()
    if not all(features.get(name) for name in ("amx-tile", "amx-bf16", "avx512f")):
        return False
    return bool(system().syscall(*map(ctypes.c_long, (ARCH_PRCTL, ASK, TILES))) == 0)


def worth(inputs: int, units: int, rows: int) -> tuple[bool, bool]:
    """Whether a layer's products in a step with so many rows are made here: forward, for which W is turned, and back.

    Threads share a layer's products; it is the same for all of them.
    """
    size = inputs * units * rows
    back = min(inputs, units, rows) >= BLOCK and size >= WORTH and available()
    return back and min(inputs, units) >= SIDE and size >= WORTH_TURNED, back


def on_unit(builder: Any, name: str, *given: Any) -> None:
    """One of LLVM's functions for the unit; whole numbers among the arguments name registers."""
    arguments = [ir.Constant(I8, value) if isinstance(value, int) else value for value in given]
    kinds = [value.type for value in arguments]
    builder.call(declared(builder, f"llvm.x86.{name}", ir.VoidType(), *kinds), arguments)


def between(builder: Any, name: str, register: int, address: Any, offset: int, step: int) -> None:
    """Load or store a register; its rows lie `step` bytes apart in memory."""
    on_unit(builder, name, register, pointer(builder, builder.add(address, whole(offset)), I8), whole(step))


@intrinsic
def configure(typing_context: Any) -> Any:
    """Set all eight registers to tiles of 16 rows of 64 bytes."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sizes = [1, 0] + [0] * 14 + [64, 0] * 8 + [0] * 16 + [16] * 8 + [0] * 8  # palette; bytes in a row; rows
        place = cgutils.alloca_once_value(builder, ir.Constant(ir.ArrayType(I8, 64), sizes))
        on_unit(builder, "ldtilecfg", builder.bitcast(place, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def release(typing_context: Any) -> Any:
    """Give the registers back: the system then need not keep them when it stops this thread."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on_unit(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def clear(typing_context: Any) -> Any:
    """Let the sums of a block be zero."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for register in range(4):
            on_unit(builder, "tilezero", register)
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def six_products(typing_context: Any, A_1: Any, A_2: Any, B_1: Any, B_2: Any) -> Any:
    """Add to the sums of a block the products of two tiles of A with two of B; each is three tiles, one after the other."""
    first, second = (4, 5), (6, 7)  # the registers

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def load_part(registers: tuple[int, int], addresses: Any, part: int) -> None:
            for register, address in zip(registers, addresses, strict=True):
                between(builder, "tileloadd64", register, address, part * TILE, 64)

        h, m, l = range(PARTS)
        # Each operand changes as seldom as can be: 14 loads for 24 products.
        for of_A, of_B in ((l, h), (m, None), (None, m), (h, None), (None, l), (None, h)):
            if of_A is not None:
                load_part(first, values[:2], of_A)
            if of_B is not None:
                load_part(second, values[2:], of_B)
            for register in range(4):
                on_unit(builder, "tdpbf16ps", register, first[register // 2], second[register % 2])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), build


@intrinsic
def keep(typing_context: Any, target: Any) -> Any:
    """Write the sums of a block: rows of BLOCK numbers."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for register in range(4):
            at = 4 * (register // 2 * 16 * BLOCK + register % 2 * 16)
            between(builder, "tilestored64", register, values[0], at, 4 * BLOCK)
        return context.get_dummy_value()

    return types.void(types.int64), build


@intrinsic
def split(typing_context: Any, x: Any, x_count: Any, y: Any, y_count: Any, target: Any) -> Any:
    """Write a line of three tiles: parts of the numbers at x, with those at y in their upper halves; zeros beyond the counts."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        half, upper = (ir.Constant(WORDS, [value] * 16) for value in (0x8000, 0xFFFF0000))
        masks = [first_lanes(builder, values[i], 16) for i in (1, 3)]
        places = [pointer(builder, values[i], NUMBERS) for i in (0, 2)]
        left = [load_lanes(builder, at, NUMBERS, 4, mask) for at, mask in zip(places, masks, strict=True)]
        for part in range(PARTS):
            words = [builder.bitcast(x, WORDS) for x in left]
            if part < PARTS - 1:  # the last is what is left, 8 digits
                words = [builder.add(word, half) for word in words]
            near = [builder.and_(word, upper) for word in words]
            left = [builder.fsub(x, builder.bitcast(h, NUMBERS)) for x, h in zip(left, near, strict=True)]
            pairs = builder.or_(builder.lshr(near[0], ir.Constant(WORDS, [16] * 16)), near[1])
            builder.store(pairs, pointer(builder, builder.add(values[4], whole(part * TILE)), WORDS), 64)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), build


@intrinsic
def add_line(typing_context: Any, alpha: Any, sums: Any, C: Any, columns: Any, more: Any) -> Any:
    """C ← α sums, or C ← C + α sums if `more` is not 0, for a row of a block with so many columns."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        alpha, sums, C, columns, more = values
        factor = everywhere(builder, alpha, 16)
        old = builder.select(builder.icmp_signed("!=", more, whole(0)), columns, whole(0))
        for j in (0, 16):
            at = pointer(builder, builder.add(C, whole(4 * j)), NUMBERS)
            s = builder.load(pointer(builder, builder.add(sums, whole(4 * j)), NUMBERS), align=64)
            there, inside = (first_lanes(builder, builder.sub(count, whole(j)), 16) for count in (old, columns))
            value = builder.fadd(load_lanes(builder, at, NUMBERS, 4, there), builder.fmul(factor, s))
            store_lanes(builder, value, at, 4, inside)
        return context.get_dummy_value()

    i = types.int64
    return types.void(types.float32, i, i, i, i), build


@inlined
def up(count):
    """The rows or columns of so many whole blocks."""
    return (count + BLOCK - 1) // BLOCK * BLOCK


@inlined
def row(M, M_rows, M_step, i):
    """The address of a matrix's row, or of its row with the i-th of these numbers."""
    return M + (number(M_rows + 8 * i, 0) if M_rows else i) * M_step


@compiled
def pack(M, M_rows, M_step, along, turn, first, depth, start, count, target, one):
    """Split `count` rows or columns of an operand from number `start` on, with `depth` terms from number `first` on.

    The terms lie `along` the rows of M or across them; `turn`: the tiles are for the other operand than such lines make.
    Zeros fill whole blocks.
    """
    blocks, steps = up(count) // 16, (depth + TERMS - 1) // TERMS
    for turns in range(blocks * steps):  # as the numbers lie in memory
        block, step = (turns // steps, turns % steps) if along else (turns % blocks, turns // blocks)
        tile, lines, terms = target + (block * steps + step) * PARTS * TILE, count - block * 16, depth - step * TERMS
        if along:
            along_rows(M, M_rows, M_step, start + block * 16, lines, 4 * (first + step * TERMS), terms, tile)
        else:
            across_rows(M, M_rows, M_step, first + step * TERMS, terms, 4 * (start + block * 16), lines, tile)
        if turn:
            for part in range(PARTS):
                turn_square(tile + part * TILE, 64, tile + part * TILE, 64, one)


@inlined
def along_rows(M, M_rows, M_step, r, rows, offset, terms, tile):
    """Split terms that lie one after the other, in up to 16 rows of M from number r on."""
    for i in range(16):
        at = row(M, M_rows, M_step, r + i) + offset if i < rows else M
        here = terms if i < rows else 0
        split(at, here, at + 64, here - 16, tile + 64 * i)


@inlined
def across_rows(M, M_rows, M_step, r, rows, offset, columns, tile):
    """Split terms that lie in up to 32 rows of M from number r on, for up to 16 columns."""
    for i in range(16):
        x = row(M, M_rows, M_step, r + i) + offset if i < rows else M
        y = row(M, M_rows, M_step, r + i + 16) + offset if i + 16 < rows else M
        split(x, columns if i < rows else 0, y, columns if i + 16 < rows else 0, tile + 64 * i)


def multiply(m, n, k, alpha, A, A_rows, A_turned, A_step, B, B_rows, B_turned, B_step, C, C_step, scratch):
    """`products.multiply` in float32, with `room` bytes of scratch; no rows of a matrix that lies turned are picked."""
    configure()
    A_step, B_step, C_step = A_step * 4, B_step * 4, C_step * 4
    for first in range(0, k, DEPTH):
        depth = min(DEPTH, k - first)
        apart = (depth + TERMS - 1) // TERMS * PARTS * TILE
        high, wide = (up(m), STRIPE) if up(m) // 16 * apart <= NEAR else (ROWS, up(n))
        of_A, of_B = scratch + SUMS, scratch + SUMS + high // 16 * apart
        for left in range(0, n, wide):
            columns = min(wide, n - left)
            pack(B, B_rows, B_step, B_turned, B_turned, first, depth, left, columns, of_B, alpha)
            for top in range(0, m, high):
                rows = min(high, m - top)
                if left == 0:
                    pack(A, A_rows, A_step, 1 - A_turned, A_turned, first, depth, top, rows, of_A, alpha)
                for j in range(0, columns, BLOCK):
                    for i in range(0, rows, BLOCK):
                        a, b = of_A + i // 16 * apart, of_B + j // 16 * apart
                        clear()
                        for s in range(0, apart, PARTS * TILE):
                            six_products(a + s, a + apart + s, b + s, b + apart + s)
                        keep(scratch)
                        to = C + (top + i) * C_step + 4 * (left + j)
                        for l in range(min(BLOCK, rows - i)):
                            add_line(alpha, scratch + 4 * BLOCK * l, to + l * C_step, columns - j, first)
    release()


def room(inputs: int, units: int, rows: int) -> int:
    """The bytes of scratch for the three products of a layer in a step with so many rows."""

    def of(m: int, n: int, k: int) -> int:
        line = 2 * PARTS * min(DEPTH, -(-k // TERMS) * TERMS)
        m, n, near = -(-m // BLOCK) * BLOCK, -(-n // BLOCK) * BLOCK, NEAR // line
        return SUMS + line * max(min(m, near) + STRIPE, ROWS + n if m > near else 0)

    return max(of(rows, units, inputs), of(rows, inputs, units), of(units, inputs, rows))


@lru_cache(maxsize=1)
def function() -> Any:
    """`multiply`, compiled now or loaded from the disk; its `address` is for the kernel."""
    return cfunc(c_signature(types.float32), cache=True, **OPTIONS)(multiply)
