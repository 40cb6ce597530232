"""The training loop and the forward pass, compiled once for each dtype: steps in blocks, with no Python inside.

The kernel knows everything by numbers: sizes, places in θ and in the workspace, and the addresses of the passes that
apply an activation, a loss or an update rule (`passes`). Matrix products go straight to BLAS. Memory is handed on by
address, and looked at through `view`; `one` is the number 1 of the network's dtype, which tells the compiler the type.

Threads share one step, in one of two ways. By units: each owns a part of every layer's units; it computes their z and a
for all rows, their part of δ and of the gradient, and updates their weights, which never leave its core's cache; what
a layer needs from the one before is complete after a meeting of all threads. By rows, where activations are more
numbers than weights: each takes a part of the rows through all layers and back, on which none waits for another; only
gradient and update are by units. Losses, and activations that work on rows, are always shared out by rows. So no sum
depends on who came first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from ..arrays import LINE
from ..counter import Purpose

# Columns of the table of layers; places count numbers from the beginning of θ or of the workspace, -1 is none.
KIND, INPUTS, UNITS, AT_W, AT_B, AT_Z, AT_A, AT_DELTA, FORWARD, BACKWARD, ROWWISE = range(11)
DENSE, SCALE, DROPOUT = range(3)
# Columns of the table of factors, float64: c of NTK scaling, dropout's rate.
FACTOR, RATE = range(2)
# Places in the vector of whole numbers that describes a run. Addresses of functions:
PRODUCT, GIVE_WAY, LOSS_AND_SLOPE, VALUE, AGGREGATE, SLOPE, UPDATE = range(7)
# addresses of memory,
X, Y, S, ORDER, THETA, GRADIENT, WORK, ZEROS, SAMPLES, COUNTER = range(7, 17)
# sizes, places in the workspace, of which X and SCRATCH have one for each thread, and choices.
ROWS, BATCH, AT_X, X_SIZE, AT_Y, AT_WEIGHT, AT_SCRATCH, SCRATCH, SEED, START = range(17, 27)
BY_ROWS, GATHERED, ON_LOGITS, SUMMED, PENALISE_BIASES, CLIPPED = range(27, 33)
AT_TURNED = 37
SLOTS = 33  # addresses of the optimizer's vectors, of which there may be four
DESCRIPTION = 38  # numbers in that vector
# Places in the vector of float64 settings.
MEAN_WEIGHT, L1, L2, CLIP, OUTPUT_SHARE, SMOOTH, SMOOTH_BY, LARGEST, LONGEST_ROW = range(9)
# Vectors of float64 with a number for each sample of the batch: its loss, weight and share of ∇φ.
LOSS, WEIGHT, SHARE = range(3)
# What each thread adds up in a step.
PHI, PENALTY, SQUARES = range(3)
# Columns of the table of who updates which part of θ.
WHO, FROM, TO = range(3)
DROPOUT_PURPOSE = int(Purpose.DROPOUT)

COEFFICIENTS = 8  # numbers that an update rule may have for each step
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # CBLAS's codes
SMALL = 300  # multiplications below which a loop is faster than a call to BLAS
MANY = 512  # rows of a prediction from which it pays to transpose small weights first
RUN = 2048  # squares that are added in float32 before they go to float64
SUMS = {"contract", "nsz", "reassoc"}  # sums may be taken in any order, so that they are vector loops

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)
# For what two functions share: a call is 5 % of a small step.
inlined = njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS, forceinline=True)
in_order = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


# -- what Numba does not have -----------------------------------------------------------------------------------------


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
        first, nothing = ir.Constant(ir.IntType(32), 0), ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(nothing, values[0], first)
        factors = builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), count), None))
        store = builder.store(builder.fmul(numbers, factors), builder.inttoptr(values[2], vector.as_pointer()), LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(factor, types.int64, types.int64), build


@compiled
def meet(counter, goal, give_way):
    """Wait until all threads have come: the counter has reached the goal."""
    if add_and_get(counter, 1) >= goal:
        return
    tries = 0
    while look(counter) < goal:
        tries += 1
        if tries > 2000:
            call(give_way, ())


# -- products ---------------------------------------------------------------------------------------------------------


@compiled
def product(gemm, m, n, k, alpha, A, A_turned, A_step, B, B_turned, B_step, C, C_step):
    """C ← α A B with A (m, k), B (k, n) and C (m, n) by rows `step` numbers apart, turned ones by columns so far apart."""
    if m * n * k <= SMALL:
        small(m, n, k, alpha, A, A_turned, A_step, B, B_turned, B_step, C, C_step)
        return
    i32 = np.int32
    A_order, B_order = TRANSPOSED if A_turned else PLAIN, TRANSPOSED if B_turned else PLAIN
    sizes = (i32(ROW_MAJOR), i32(A_order), i32(B_order), i32(m), i32(n), i32(k))
    call(gemm, (*sizes, alpha, A, i32(A_step), B, i32(B_step), alpha * 0, C, i32(C_step)))


@in_order
def small(m, n, k, alpha, A, A_turned, A_step, B, B_turned, B_step, C, C_step):
    """`product` by loops; sums in their order, so that LLVM adds no vector loops, which only cost here."""
    size = width(alpha)
    A_i, A_p = (size, A_step * size) if A_turned else (A_step * size, size)
    B_p, B_j = (size, B_step * size) if B_turned else (B_step * size, size)
    for i in range(m):
        c = view(C + i * C_step * size, n, alpha)
        for j in range(n):
            total = alpha * 0
            for p in range(k):
                total += number(A + i * A_i + p * A_p, alpha) * number(B + p * B_p + j * B_j, alpha)
            c[j] = alpha * total


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


# -- random numbers ---------------------------------------------------------------------------------------------------

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@compiled
def mixed(word):
    """SplitMix64's output function, as `counter` has it."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@compiled
def key(seed, start, step, layer):
    """The key of a dropout layer's mask in a step; DROPOUT_PURPOSE is `counter.Purpose.DROPOUT`."""
    word = mixed(np.uint64(seed))
    for counter in (DROPOUT_PURPOSE, start, step, layer):
        word = mixed(word + (np.uint64(counter) + np.uint64(1)) * GOLDEN)
    return word


# -- the two passes ---------------------------------------------------------------------------------------------------


@compiled
def share(count, me, threads):
    """This thread's part of so many things: its beginning and its size."""
    if threads == 1:  # a division costs as much as a small layer
        return 0, count
    first = count * me // threads
    return first, count * (me + 1) // threads - first


@compiled
def wait(run, met, threads):
    """Meet the other threads, if there are any; returns the count of arrivals that the next meeting starts from."""
    if threads > 1:
        meet(run[COUNTER], met + threads, run[GIVE_WAY])
    return met + threads


@compiled
def block(layer, run, rows, me, threads):
    """This thread's part of a layer's matrices (rows, units): first row, rows, first unit, units."""
    if run[BY_ROWS]:
        return (*share(rows, me, threads), 0, layer[UNITS])
    return (0, rows, *share(layer[UNITS], me, threads))


@compiled
def forward(layers, factors, run, theta, turned, work, scratch, A, rows, masks, step, me, threads, met, one):
    """z and a of this thread's blocks of all layers, from the batch at A; of the last layer its rows are complete.

    `turned` is 0, or the address of a θ in which every W is transposed.
    """
    size = width(one)
    for l in range(len(layers)):
        n, m = layers[l, INPUTS], layers[l, UNITS]
        i0, some, k0, own = block(layers[l], run, rows, me, threads)
        at = (i0 * m + k0) * size
        z, a = work + layers[l, AT_Z] * size + at, work + layers[l, AT_A] * size + at
        if layers[l, KIND] == DENSE:
            W, c = theta + (layers[l, AT_W] + k0 * n) * size, cast(one, factors[l, FACTOR])
            if turned:
                product(run[PRODUCT], rows, m, n, c, A, False, n, turned + layers[l, AT_W] * size, False, m, z, m)
            elif some and own:
                product(run[PRODUCT], some, own, n, c, A + i0 * n * size, False, n, W, True, n, z, m)
        elif layers[l, KIND] == SCALE:
            scaled(A + at, theta + (layers[l, AT_W] + k0) * size, z, some, own, m, one)
        elif masks:
            word = key(run[SEED], run[START], step, l + 1)
            for i in range(some):
                source = view(A + at + i * m * size, own, one)
                mask, target = view(z + i * m * size, own, one), view(a + i * m * size, own, one)
                drop(source, mask, target, factors[l, RATE], (i0 + i) * m + k0, word, one)
        else:
            for i in range(some):
                copy(view(A + at + i * m * size, own, one), view(a + i * m * size, own, one))
        if layers[l, FORWARD]:
            if layers[l, ROWWISE] and not run[BY_ROWS]:
                met = wait(run, met, threads)
                i0, some = share(rows, me, threads)
                k0, own = 0, m
                z, a = work + (layers[l, AT_Z] + i0 * m) * size, work + (layers[l, AT_A] + i0 * m) * size
            b = run[ZEROS] if layers[l, AT_B] < 0 else theta + (layers[l, AT_B] + k0) * size
            call(layers[l, FORWARD], (z, a, b, scratch, some, own, m))
        if not run[BY_ROWS]:
            met = wait(run, met, threads)
        A = work + layers[l, AT_A] * size
    return met


@compiled
def scaled(source, factors, target, rows, n, step, one):
    """A block (rows, n) times one factor for each column."""
    w = view(factors, n, one)
    for i in range(rows):
        given, row = view(source + i * step * width(one), n, one), view(target + i * step * width(one), n, one)
        for k in range(n):
            row[k] = given[k] * w[k]


@compiled
def drop(source, mask, target, rate, first, word, one):
    """The mask of the numbers from `first` on, which the backward pass reads, and the numbers that it leaves."""
    kept = cast(one, 1 / (1 - rate))
    for j in range(len(source)):
        uniform = np.float64(mixed(word + np.uint64(first + j + 1) * GOLDEN) >> np.uint64(11)) * 2.0**-53
        mask[j] = kept if uniform >= rate else one * 0
        target[j] = source[j] * mask[j]


@compiled
def backward(layers, factors, run, theta, work, rows, scratch, me, threads, met, one):
    """δ of this thread's blocks of all layers, from the last, of which its rows are complete."""
    size = width(one)
    if not run[BY_ROWS]:
        met = wait(run, met, threads)
    for l in range(len(layers) - 1, 0, -1):
        n, m = layers[l, INPUTS], layers[l, UNITS]
        i0, some, k0, own = block(layers[l - 1], run, rows, me, threads)
        at = (i0 * n + k0) * size
        delta, below = work + layers[l, AT_DELTA] * size, work + layers[l - 1, AT_DELTA] * size + at
        if layers[l, KIND] == DENSE:
            W, c = theta + (layers[l, AT_W] + k0) * size, cast(one, factors[l, FACTOR])
            if some and own:
                product(run[PRODUCT], some, own, m, c, delta + i0 * m * size, False, m, W, False, n, below, n)
        elif layers[l, KIND] == SCALE:
            scaled(delta + at, theta + (layers[l, AT_W] + k0) * size, below, some, own, m, one)
        else:
            for i in range(some):
                target, source = view(below + i * m * size, own, one), view(delta + at + i * m * size, own, one)
                mask = view(work + layers[l, AT_Z] * size + at + i * m * size, own, one)
                for k in range(own):
                    target[k] = source[k] * mask[k]
        if layers[l - 1, BACKWARD]:
            if layers[l - 1, ROWWISE] and not run[BY_ROWS]:
                met = wait(run, met, threads)
                i0, some = share(rows, me, threads)
                at, own = i0 * n * size, n
            places = layers[l - 1, AT_DELTA], layers[l - 1, AT_Z], layers[l - 1, AT_A]
            d, z, a = (work + places[0] * size + at, work + places[1] * size + at, work + places[2] * size + at)
            call(layers[l - 1, BACKWARD], (d, z, a, scratch, some, own, n))
        if not run[BY_ROWS]:
            met = wait(run, met, threads)
    return wait(run, met, threads) if run[BY_ROWS] else met


@compiled
def gradients(layer, factor, run, settings, theta, g, delta, A, is_first, rows, sums, me, threads, one):
    """∂C/∂W and ∂C/∂b of this thread's units of a layer, with the penalty's part; and a bound of their squares."""
    size = width(one)
    n, m = layer[INPUTS], layer[UNITS]
    first, own = share(m, me, threads)
    if own == 0 or layer[KIND] == DROPOUT:
        return
    delta += first * size
    penalised = settings[L1] != 0 or settings[L2] != 0
    c = factor[FACTOR]
    if layer[KIND] == DENSE:
        at = (layer[AT_W] + first * n) * size
        product(run[PRODUCT], own, n, rows, cast(one, c), delta, True, m, A, False, n, g + at, n)
        if penalised:
            for i in range(own):
                row = at + i * n * size
                penalise(settings, view(theta + row, n, one), view(g + row, n, one), sums)
    else:
        at = (layer[AT_W] + first) * size
        dC_dW = view(g + at, own, one)
        fill(dC_dW, one * 0)
        for i in range(rows):
            d, a_prev = view(delta + i * m * size, own, one), view(A + (first + i * m) * size, own, one)
            for k in range(own):
                dC_dW[k] += d[k] * a_prev[k]
        if penalised:
            penalise(settings, view(theta + at, own, one), dC_dW, sums)
    if layer[AT_B] >= 0:
        at = (layer[AT_B] + first) * size
        dC_db = view(g + at, own, one)
        fill(dC_db, one * 0)
        for i in range(rows):
            d = view(delta + i * m * size, own, one)
            for k in range(own):
                dC_db[k] += d[k]
        if penalised and run[PENALISE_BIASES]:
            penalise(settings, view(theta + at, own, one), dC_db, sums)
    if not run[CLIPPED]:
        # No element of δᵀ a is longer than ‖δ‖ ‖a‖ (Cauchy and Schwarz): a look at δ and a spares one at the gradient.
        of_a = rows * settings[LONGEST_ROW] if is_first else squares(A, rows, n, n, one)
        sums[SQUARES] += squares(delta, rows, own, m, one) * (c * c * of_a + rows)


@compiled
def penalise(settings, w, g, sums):
    """Add ∂R/∂w to a part g of the gradient, and R and the squares of ∂R/∂w to the sums."""
    real = w.dtype.type
    l1, l2 = real(settings[L1]), real(settings[L2])
    absolute, square = real(0), real(0)
    for j in range(len(w)):
        sign = real(1) if w[j] > 0 else (real(-1) if w[j] < 0 else real(0))
        g[j] += l1 * sign + l2 * w[j]
        absolute += abs(w[j])
        square += w[j] * w[j]
    sums[PENALTY] += settings[L1] * absolute + 0.5 * settings[L2] * square
    sums[SQUARES] += 2 * settings[L2] * settings[L2] * square


@compiled
def squares(address, rows, n, step, one):
    """The sum of squares of a matrix (rows, n) by rows `step` apart; of a row in the network's dtype."""
    total = 0.0
    for i in range(rows):
        row = view(address + i * step * width(one), n, one)
        of_row = one * 0
        for k in range(n):
            of_row += row[k] * row[k]
        total += of_row
    return total


# -- steps ------------------------------------------------------------------------------------------------------------


@inlined
def batch(me, threads, begin, rows, step, layers, factors, run, settings, theta, scratch, met, one):
    """z, a and δ of a batch, from place `begin` of the order on, in the workspace; this thread's blocks of them.

    Returns the address of the batch's X, this thread's part of φ, and the count of arrivals.
    """
    n, K, B, size = layers[0, INPUTS], layers[-1, UNITS], run[BATCH], width(one)
    work, last = run[WORK], len(layers) - 1
    smooth, smooth_by = cast(one, settings[SMOOTH]), cast(one, settings[SMOOTH_BY])
    share_of_output = settings[OUTPUT_SHARE]
    first, own = share(rows, me, threads)
    A = run[X] + begin * n * size
    if run[GATHERED]:  # by units, every thread for itself: that is faster than to fetch rows from another core
        A = work + (run[AT_X] + me * run[X_SIZE]) * size
        i0, some = (first, own) if run[BY_ROWS] else (0, rows)
        picked = view(run[ORDER] + (begin + i0) * 8, some, 0)
        for i in range(some):
            copy(view(run[X] + picked[i] * n * size, n, one), view(A + (i0 + i) * n * size, n, one))
    picked = view(run[ORDER] + (begin + first) * 8, own, 0)
    targets = work + (run[AT_Y] + first * K) * size
    for i in range(own):
        given, y = view(run[Y] + picked[i] * K * size, K, one), view(targets + i * K * size, K, one)
        for k in range(K):
            y[k] = given[k] * smooth + smooth_by
    met = forward(layers, factors, run, theta, 0, work, scratch, A, rows, True, step, me, threads, met, one)

    z = work + (layers[last, AT_Z if run[ON_LOGITS] else AT_A] + first * K) * size
    delta = work + (layers[last, AT_DELTA] + first * K) * size
    at_L, at_s = run[SAMPLES] + (LOSS * B + first) * 8, run[SAMPLES] + (WEIGHT * B + first) * 8
    L, s = view(at_L, own, 1.0), view(at_s, own, 1.0)
    dC_dL = view(run[SAMPLES] + (SHARE * B + first) * 8, own, 1.0)
    at_w = work + (run[AT_WEIGHT] + first) * size
    w = view(at_w, own, one)
    for i in range(own):
        s[i] = number(run[S] + picked[i] * 8, 1.0)
    phi = 0.0
    if run[AGGREGATE]:  # which looks at all samples of the batch
        call(run[VALUE], (z, targets, at_L, scratch, own, K))
        for i in range(own):
            L[i] *= share_of_output
        met = wait(run, met, threads)
        if me == 0:
            vectors = (run[SAMPLES], run[SAMPLES] + WEIGHT * B * 8, run[SAMPLES] + SHARE * B * 8)
            call(run[AGGREGATE], (*vectors, run[SAMPLES] + 3 * B * 8, settings[MEAN_WEIGHT], rows))
            phi = number(run[SAMPLES] + 3 * B * 8, 1.0)
        met = wait(run, met, threads)
        for i in range(own):
            w[i] = cast(one, dC_dL[i] * share_of_output)
        call(run[SLOPE], (z, targets, at_w, delta, scratch, own, K))
    else:
        divisor = 1.0 if run[SUMMED] else rows * settings[MEAN_WEIGHT]
        for i in range(own):
            dC_dL[i] = s[i] / divisor
            w[i] = cast(one, dC_dL[i] * share_of_output)
        call(run[LOSS_AND_SLOPE], (z, targets, at_w, at_L, delta, scratch, own, K))
        for i in range(own):
            phi += dC_dL[i] * share_of_output * L[i] if s[i] > 0 else 0.0
    if layers[last, BACKWARD] and not run[ON_LOGITS]:
        z, a = work + (layers[last, AT_Z] + first * K) * size, work + (layers[last, AT_A] + first * K) * size
        call(layers[last, BACKWARD], (delta, z, a, scratch, own, K, K))
    met = backward(layers, factors, run, theta, work, rows, scratch, me, threads, met, one)
    return A, phi, met


@compiled
def train(
    me, threads, step, place, layers, factors, run, settings, parts, part_factors, rates, coefficients, sums, one
):
    """An update for each of the rates, from step number `step` on, which is number `place` of its epoch.

    All threads call it with the same arguments but `me`. Returns how many updates were made, and the sum of the steps'
    costs, each with its share of the epoch. It ends before an update whose gradient is not finite, or so large that
    its squares might not be.
    """
    B, size = run[BATCH], width(one)
    theta, g, work = run[THETA], run[GRADIENT], run[WORK]
    scratch = work + (run[AT_SCRATCH] + me * run[SCRATCH]) * size
    met = 0
    cost_sum = 0.0
    for t in range(len(rates)):
        begin = (place + t) * B
        rows = min(B, run[ROWS] - begin)
        tables = (layers, factors, run, settings)
        A, phi, met = batch(me, threads, begin, rows, step + t, *tables, theta, scratch, met, one)

        mine = sums[me]
        mine[PHI], mine[PENALTY], mine[SQUARES] = phi, 0.0, 0.0
        for l in range(len(layers)):
            d, a_prev = work + layers[l, AT_DELTA] * size, A if l == 0 else work + layers[l - 1, AT_A] * size
            gradients(layers[l], factors[l], run, settings, theta, g, d, a_prev, l == 0, rows, mine, me, threads, one)
        if run[CLIPPED]:
            mine[SQUARES] = 0.0
            for j in range(len(parts)):
                if parts[j, WHO] == me:
                    count = parts[j, TO] - parts[j, FROM]
                    at = g + parts[j, FROM] * size
                    mine[SQUARES] += squares(at, count // RUN, RUN, RUN, one)
                    mine[SQUARES] += squares(at + count // RUN * RUN * size, 1, count % RUN, RUN, one)
        met = wait(run, met, threads)

        cost, penalty, square = 0.0, 0.0, 0.0
        for other in range(threads):
            cost += sums[other, PHI]
            penalty += sums[other, PENALTY]
            square += sums[other, SQUARES]
        if not (np.isfinite(cost + penalty) and square < settings[LARGEST]):
            return t, cost_sum
        part_of_epoch = rows / run[ROWS]
        cost_sum += cost * (1.0 if run[SUMMED] else part_of_epoch) + penalty * part_of_epoch
        clip = one
        if run[CLIPPED] and np.sqrt(square) > settings[CLIP]:
            clip = cast(one, settings[CLIP] / np.sqrt(square))
        for j in range(len(parts)):
            if parts[j, WHO] == me:
                at, count = parts[j, FROM] * size, parts[j, TO] - parts[j, FROM]
                state = (run[SLOTS] + at, run[SLOTS + 1] + at, run[SLOTS + 2] + at, run[SLOTS + 3] + at)
                eta = cast(one, rates[t]) * cast(one, part_factors[j])
                call(run[UPDATE], (theta + at, g + at, *state, coefficients + t * COEFFICIENTS * 8, eta, clip, count))
        if run[BY_ROWS]:
            met = wait(run, met, threads)
    return len(rates), cost_sum


@compiled
def per_sample(me, threads, layers, factors, run, settings, out, P, one):
    """Each row's part of ∂C/∂θ, without the penalty, written to `out`: rows of P numbers.

    What other threads wrote past their caches is seen by whoever waited for them: a lock completes all stores.
    """
    rows, work, size = run[BATCH], run[WORK], width(one)
    scratch = work + (run[AT_SCRATCH] + me * run[SCRATCH]) * size
    A, _, met = batch(me, threads, 0, rows, 0, layers, factors, run, settings, run[THETA], scratch, 0, one)
    wait(run, met, threads)
    first, own = share(rows, me, threads)
    for i in range(first, first + own):
        row = out + i * P * size
        for l in range(len(layers)):
            n, m = layers[l, INPUTS], layers[l, UNITS]
            a_prev = A + i * n * size if l == 0 else work + (layers[l - 1, AT_A] + i * n) * size
            delta = work + (layers[l, AT_DELTA] + i * m) * size
            at = row + layers[l, AT_W] * size
            if layers[l, KIND] == DENSE:
                c = cast(one, factors[l, FACTOR])
                for k in range(m):
                    times(number(delta + k * size, one) * c, a_prev, at + k * n * size, n)
            elif layers[l, KIND] == SCALE:
                a, d, dC_dW = view(a_prev, n, one), view(delta, n, one), view(at, n, one)
                for k in range(n):
                    dC_dW[k] = d[k] * a[k]
            if layers[l, AT_B] >= 0:
                copy(view(delta, m, one), view(row + layers[l, AT_B] * size, m, one))


@compiled
def times(factor, source, target, count):
    """Write `factor` times the numbers at `source` to `target`: whole cache lines past the caches, the ends as usual."""
    size = width(factor)
    line = LINE // size
    numbers, result = view(source, count, factor), view(target, count, factor)
    head = min(count, -target % LINE // size)
    body = head + (count - head) // line * line
    for j in range(head):
        result[j] = factor * numbers[j]
    for j in range(head, body, line):
        stream(factor, source + j * size, target + j * size)
    for j in range(body, count):
        result[j] = factor * numbers[j]


@compiled
def turn(layers, theta, turned, one):
    """Write every W of θ transposed: products of few rows with a small W are then twice as fast."""
    for l in range(len(layers)):
        if layers[l, KIND] == DENSE:
            n, m = layers[l, INPUTS], layers[l, UNITS]
            W = view(theta + layers[l, AT_W] * width(one), n * m, one)
            target = view(turned + layers[l, AT_W] * width(one), n * m, one)
            for i in range(m):
                for k in range(n):
                    target[k * m + i] = W[i * n + k]


@compiled
def predict(me, threads, block, X, layers, factors, run, theta, work, logits, y_hat, one):
    """The last z and a of the rows of X (N, n_0), in blocks of rows that go to the threads in turn.

    Either result may have no rows, and is left out then. Returns whether this thread's rows of X are finite.
    """
    N, n, K, size = X.shape[0], layers[0, INPUTS], layers[-1, UNITS], width(one)
    x, z, a = X.reshape(-1), logits.reshape(-1), y_hat.reshape(-1)
    at_theta, own = np.int64(theta.ctypes.data), np.int64(work.ctypes.data) + me * work.shape[1] * size
    scratch = own + run[AT_SCRATCH] * size
    turned = 0
    if run[AT_TURNED] >= 0 and N >= MANY:
        turned = own + run[AT_TURNED] * size
        turn(layers, at_theta, turned, one)
    total = one * 0
    for begin in range(me * block, N, threads * block):
        rows = min(block, N - begin)
        at = np.int64(x.ctypes.data) + begin * n * size
        given = view(at, rows * n, one)
        for j in range(rows * n):
            total += given[j] * 0
        forward(layers, factors, run, at_theta, turned, own, scratch, at, rows, False, 0, 0, 1, 0, one)
        if len(z):
            copy(view(own + layers[-1, AT_Z] * size, rows * K, one), z[begin * K : (begin + rows) * K])
        if len(a):
            copy(view(own + layers[-1, AT_A] * size, rows * K, one), a[begin * K : (begin + rows) * K])
    return total == 0
