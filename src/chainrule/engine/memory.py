"""Numbers in memory for compiled code: what Numba does not have, and loops that every part of the engine needs.

Memory is handed on by address, and looked at through `view`; where a function takes `like` or `one`, a number of the
dtype in question tells the compiler the type.

Numba keeps a function's machine code until the file that holds it changes. So whoever changes this file deletes what
is kept of `kernel`, `order`, `products` and `amx` (`__pycache__`).
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from ..arrays import LINE

X86 = platform.machine() in ("x86_64", "AMD64")
NO_SUBNORMALS = 0x8040  # flush to zero, and take for zero
SUMS = {"contract", "nsz", "reassoc"}  # sums may be taken in any order, so that they are vector loops

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": SUMS}

# What Python calls; what only compiled code calls; and, as a call is 5 % of a small step, what LLVM puts into its
# caller, or Numba before it infers types, which is quicker to compile and makes `batch` a tenth slower.
entry = njit(nogil=True, cache=True, **OPTIONS)
compiled = njit(nogil=True, cache=True, no_cpython_wrapper=True, **OPTIONS)
merged = njit(nogil=True, cache=True, forceinline=True, **OPTIONS)
inlined = njit(nogil=True, inline="always", **OPTIONS)
in_order = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


def everywhere(builder: Any, value: Any, lanes: int) -> Any:
    """A vector that has the value in all its lanes."""
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))


def declared(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """One of LLVM's own functions."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def call(typing_context: Any, address: Any, arguments: Any) -> Any:
    """Call the C function at an address with a tuple of numbers; pointers are whole numbers too."""
    signature = types.void(types.int64, arguments)

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        given = cgutils.unpack_tuple(builder, values[1])
        function = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), given)
        return context.get_dummy_value()

    return signature, build


@intrinsic
def view(typing_context: Any, address: Any, count: Any, like: Any) -> Any:
    """The numbers at an address as a vector, of the type of `like`.

    Its indices count up from 0, so LLVM sees that none is negative, and nothing counts who refers to it.
    """
    like = types.unliteral(like)
    vector = types.Array(like, 1, "C")

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        made = arrayobj.make_array(vector)(context, builder)
        number = context.get_data_type(like)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(number))
        data = builder.inttoptr(values[0], number.as_pointer())
        arrayobj.populate_array(made, data, [values[1]], [itemsize], itemsize, None)
        return made._getvalue()

    return vector(types.int64, types.int64, like), build


@intrinsic
def borrowed(typing_context: Any, array: Any) -> Any:
    """The same array, which its caller keeps alive: without the atomic count of who refers to it or to one of its rows."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        make = arrayobj.make_array(array)
        given, made = make(context, builder, values[0]), make(context, builder)
        shape, strides = (cgutils.unpack_tuple(builder, part) for part in (given.shape, given.strides))
        arrayobj.populate_array(made, given.data, shape, strides, given.itemsize, None)
        return made._getvalue()

    return array(array), build


@intrinsic
def float_modes(typing_context: Any) -> Any:
    """This thread's register of floating-point modes on x86, else 0."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if not X86:
            return ir.Constant(ir.IntType(32), 0)
        place = cgutils.alloca_once(builder, ir.IntType(32))
        builder.call(modes(builder, "stmxcsr"), [builder.bitcast(place, ir.IntType(8).as_pointer())])
        return builder.load(place)

    return types.int32(), build


@intrinsic
def set_float_modes(typing_context: Any, register: Any) -> Any:
    """Set that register, where there is one."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if X86:
            place = cgutils.alloca_once_value(builder, values[0])
            builder.call(modes(builder, "ldmxcsr"), [builder.bitcast(place, ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int32), build


def modes(builder: Any, name: str) -> Any:
    """LLVM's function that stores or loads the register of floating-point modes."""
    return declared(builder, f"llvm.x86.sse.{name}", ir.VoidType(), ir.IntType(8).as_pointer())


@intrinsic
def widest(typing_context: Any) -> Any:
    """Let the loops of this function use the processor's widest vectors; of its own accord LLVM takes half of AVX-512."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # a name that llvmlite does not know
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def number(typing_context: Any, address: Any, like: Any) -> Any:
    """The number at an address, of the type of `like`."""
    like = types.unliteral(like)

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.inttoptr(values[0], context.get_data_type(like).as_pointer()))

    return like(types.int64, like), build


@intrinsic
def width(typing_context: Any, like: Any) -> Any:
    """The bytes of a number of the type of `like`, known when it is compiled."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.get_constant(types.int64, context.get_abi_sizeof(context.get_data_type(like)))

    return types.int64(like), build


@intrinsic
def cast(typing_context: Any, like: Any, value: Any) -> Any:
    """A float64 in the type of `like`."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.cast(builder, values[1], types.float64, like)

    return like(like, types.float64), build


@intrinsic
def add_and_get(typing_context: Any, address: Any, amount: Any) -> Any:
    """Add to the whole number at an address, at once for all threads, and return the sum."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.add(builder.atomic_rmw("add", pointer, values[1], "seq_cst"), values[1])

    return types.int64(types.int64, types.int64), build


@intrinsic
def times_wide(typing_context: Any, a: Any, b: Any) -> Any:
    """The upper and the lower half of the product of two 64-bit numbers without sign."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(value, wide) for value in values))
        halves = builder.lshr(product, ir.Constant(wide, 64)), product
        parts = [builder.trunc(half, ir.IntType(64)) for half in halves]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), build


@intrinsic
def look(typing_context: Any, address: Any) -> Any:
    """The whole number at an address as another thread last left it."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(values[0], ir.IntType(64).as_pointer()), "acquire", 8)

    return types.int64(types.int64), build


@intrinsic
def stream(typing_context: Any, factor: Any, source: Any, target: Any) -> Any:
    """Write `factor` times a cache line of numbers at `source` to the line that begins at `target`, past the caches.

    An ordinary store would first fetch the line that it overwrites: half of all traffic, where results fill memory.
    """

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        count = LINE // context.get_abi_sizeof(context.get_data_type(factor))
        vector = ir.VectorType(context.get_data_type(factor), count)
        numbers = builder.load(builder.inttoptr(values[1], vector.as_pointer()), align=1)
        factors = everywhere(builder, values[0], count)
        store = builder.store(builder.fmul(numbers, factors), builder.inttoptr(values[2], vector.as_pointer()), LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(factor, types.int64, types.int64), build


@compiled
def fill(vector, value):
    """Set all numbers of a vector."""
    for j in range(len(vector)):
        vector[j] = value


@compiled
def copy(source, target):
    """Write one vector into another."""
    for j in range(len(source)):
        target[j] = source[j]
