"""The training loop and the forward pass, compiled once for each dtype: steps in blocks, with no Python inside.

The kernel knows layers by numbers only: sizes, places in θ and in the workspace, and the addresses of the passes that
apply an activation, a loss or an update rule (`passes`). Matrix products go straight to BLAS.

Threads share one step. Each takes a part of the rows of the batch through the forward and the backward pass, on which
no thread waits for another; then each computes the gradient of a part of every layer's units from all rows, and
updates those. So a step has three meeting points, whatever its depth, and no sum depends on who came first.

    gather, forward, loss, backward: own rows | ∂C/∂W, ∂C/∂b, penalty: own units | clip, update: own units |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from ..counter import Purpose

# Columns of the table of layers, whole numbers.
KIND, INPUTS, UNITS, AT_W, AT_B, AT_Z, AT_A, AT_DELTA, FORWARD, BACKWARD = range(10)
DENSE, SCALE, DROPOUT = range(3)
# Columns of the table of factors, float64: c of NTK scaling, dropout's rate.
FACTOR, RATE = range(2)
# Places in the vector of whole numbers that describe a run: addresses, sizes, places in the workspace, choices.
PRODUCT, GIVE_WAY, LOSS_AND_SLOPE, VALUE, AGGREGATE, SLOPE, UPDATE = range(7)
ROWS, BATCH, GATHERED, AT_X, AT_Y, AT_WEIGHT, AT_SCRATCH, SCRATCH, SEED, START = range(7, 17)
ON_LOGITS, SUMMED, PENALISE_BIASES = range(17, 20)
SETTINGS = 20
# Places in the vector of float64 settings.
MEAN_WEIGHT, L1, L2, CLIP, OUTPUT_SHARE, SMOOTH, SMOOTH_BY, LARGEST = range(8)
# Vectors of float64 with a number for each sample of the batch: its loss, weight and share of ∇φ.
LOSS, WEIGHT, SHARE = range(3)
# What each thread adds up in a step.
PHI, PENALTY, SQUARES = range(3)
DROPOUT_PURPOSE = int(Purpose.DROPOUT)

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # CBLAS's codes
SMALL = 1500  # multiplications below which a loop is faster than a call to BLAS
RUN = 2048  # squares that are added in float32 before they go to float64
SUMS = {"contract", "nsz", "reassoc"}  # sums may be taken in any order, so that they are vector loops

compiled = njit(nogil=True, cache=True, error_model="numpy", fastmath=SUMS)


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
def add_and_get(typing_context: Any, address: Any, amount: Any) -> Any:
    """Add to the whole number at an address, at once for all threads, and return the sum."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.add(builder.atomic_rmw("add", pointer, values[1], "seq_cst"), values[1])

    return types.int64(types.int64, types.int64), build


@intrinsic
def part(typing_context: Any, array: Any, at: Any, size: Any) -> Any:
    """The `size` numbers of a vector from `at` on, as a vector.

    What a slice is, without its questions whether numbers count from the end, which keep LLVM from vector loops, and
    without counting references.
    """
    view = types.Array(array.dtype, 1, "C")

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        given = arrayobj.make_array(array)(context, builder, values[0])
        found = arrayobj.make_array(view)(context, builder)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        data = builder.gep(given.data, [values[1]])
        arrayobj.populate_array(found, data, [values[2]], [itemsize], itemsize, None)
        return found._getvalue()

    return view(array, types.int64, types.int64), build


@intrinsic
def look(typing_context: Any, address: Any) -> Any:
    """The whole number at an address as another thread last left it."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), build


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
def address(array, at):
    """Where the element `at` of a vector stands in memory."""
    return np.int64(array.ctypes.data) + at * array.itemsize


@compiled
def product(gemm, m, n, k, alpha, A, at_A, A_turned, A_step, B, at_B, B_turned, B_step, C, at_C):
    """C ← α A B, C (m, n) row after row; A (m, k) and B (k, n) by rows `step` apart, turned ones by columns so far apart."""
    if m * n * k <= SMALL:
        small(m, n, k, alpha, A, at_A, A_turned, A_step, B, at_B, B_turned, B_step, C, at_C)
        return
    i32 = np.int32
    A_order, B_order = TRANSPOSED if A_turned else PLAIN, TRANSPOSED if B_turned else PLAIN
    sizes = (i32(ROW_MAJOR), i32(A_order), i32(B_order), i32(m), i32(n), i32(k))
    inputs = (alpha, address(A, at_A), i32(A_step), address(B, at_B), i32(B_step))
    call(gemm, (*sizes, *inputs, C.dtype.type(0), address(C, at_C), i32(n)))


@compiled
def small(m, n, k, alpha, A, at_A, A_turned, A_step, B, at_B, B_turned, B_step, C, at_C):
    """`product` by loops, of which the innermost runs over neighbours."""
    A_i, A_p = (1, A_step) if A_turned else (A_step, 1)
    for i in range(m):
        c = part(C, at_C + i * n, n)
        if B_turned:
            for j in range(n):
                b = part(B, at_B + j * B_step, k)
                total = C.dtype.type(0)
                for p in range(k):
                    total += A[at_A + i * A_i + p * A_p] * b[p]
                c[j] = alpha * total
        else:
            fill(c, C.dtype.type(0))
            for p in range(k):
                factor = alpha * A[at_A + i * A_i + p * A_p]
                b = part(B, at_B + p * B_step, n)
                for j in range(n):
                    c[j] += factor * b[j]


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
def forward(layers, factors, run, theta, zeros, work, scratch, X, at_X, first, rows, masks, step):
    """z and a of all layers for the rows from `first` on of the batch; `at_X` is where row `first` stands in X."""
    real = theta.dtype.type
    A, at_A = X, at_X
    for l in range(len(layers)):
        n, m = layers[l, INPUTS], layers[l, UNITS]
        at_z, at_a = layers[l, AT_Z] + first * m, layers[l, AT_A] + first * m
        if layers[l, KIND] == DENSE:
            c = real(factors[l, FACTOR])
            product(run[PRODUCT], rows, m, n, c, A, at_A, False, n, theta, layers[l, AT_W], True, n, work, at_z)
        elif layers[l, KIND] == SCALE:
            W = part(theta, layers[l, AT_W], m)
            for i in range(rows):
                z, a_prev = part(work, at_z + i * m, m), part(A, at_A + i * m, m)
                for k in range(m):
                    z[k] = a_prev[k] * W[k]
        elif masks:
            word = key(run[SEED], run[START], step, l + 1)
            rate, kept = factors[l, RATE], real(1 / (1 - factors[l, RATE]))
            a, a_prev, mask = part(work, at_a, rows * m), part(A, at_A, rows * m), part(work, at_z, rows * m)
            for j in range(rows * m):
                count = np.uint64(first * m + j + 1)
                uniform = np.float64(mixed(word + count * GOLDEN) >> np.uint64(11)) * 2.0**-53
                mask[j] = kept if uniform >= rate else real(0)  # which the backward pass reads
                a[j] = a_prev[j] * mask[j]
        else:
            copy(part(A, at_A, rows * m), part(work, at_a, rows * m))
        if layers[l, FORWARD]:
            b = address(zeros, 0) if layers[l, AT_B] < 0 else address(theta, layers[l, AT_B])
            call(layers[l, FORWARD], (address(work, at_z), address(work, at_a), b, scratch, rows, m))
        A, at_A = work, at_a


@compiled
def backward(layers, factors, run, theta, work, scratch, first, rows):
    """δ of all layers for the rows from `first` on, from ∂C/∂z or ∂C/∂a of the last in its place."""
    real = theta.dtype.type
    last = len(layers) - 1
    for l in range(last, -1, -1):
        n, m = layers[l, INPUTS], layers[l, UNITS]
        at_delta, at_z, at_a = layers[l, AT_DELTA] + first * m, layers[l, AT_Z] + first * m, layers[l, AT_A] + first * m
        if layers[l, BACKWARD] and not (l == last and run[ON_LOGITS]):
            addresses = (address(work, at_delta), address(work, at_z), address(work, at_a), scratch)
            call(layers[l, BACKWARD], (*addresses, rows, m))
        if l == 0:
            break
        at_below = layers[l - 1, AT_DELTA] + first * n
        if layers[l, KIND] == DENSE:
            c = real(factors[l, FACTOR])
            product(
                run[PRODUCT], rows, n, m, c, work, at_delta, False, m, theta, layers[l, AT_W], False, n, work, at_below
            )
        elif layers[l, KIND] == SCALE:
            W = part(theta, layers[l, AT_W], m)
            for i in range(rows):
                below, delta = part(work, at_below + i * m, m), part(work, at_delta + i * m, m)
                for k in range(m):
                    below[k] = delta[k] * W[k]
        else:
            below, delta, mask = (
                part(work, at_below, rows * m),
                part(work, at_delta, rows * m),
                part(work, at_z, rows * m),
            )
            for j in range(rows * m):
                below[j] = delta[j] * mask[j]


@compiled
def gradients(layers, factors, run, settings, theta, g, work, X, at_X, rows, me, threads, sums):
    """∂C/∂W, ∂C/∂b and the penalty's part, of this thread's share of every layer's units, from all rows."""
    real = theta.dtype.type
    penalised = settings[L1] != 0 or settings[L2] != 0
    A, at_A = X, at_X
    for l in range(len(layers)):
        n, m = layers[l, INPUTS], layers[l, UNITS]
        first, end = m * me // threads, m * (me + 1) // threads
        own = end - first
        at_delta = layers[l, AT_DELTA] + first
        if own and layers[l, KIND] == DENSE:
            at, c = layers[l, AT_W] + first * n, real(factors[l, FACTOR])
            product(run[PRODUCT], own, n, rows, c, work, at_delta, True, m, A, at_A, False, n, g, at)
            if penalised:
                for i in range(own):
                    penalise(settings, part(theta, at + i * n, n), part(g, at + i * n, n), sums)
        elif own and layers[l, KIND] == SCALE:
            W, dC_dW = part(theta, layers[l, AT_W] + first, own), part(g, layers[l, AT_W] + first, own)
            fill(dC_dW, real(0))
            for i in range(rows):
                delta, a_prev = part(work, at_delta + i * m, own), part(A, at_A + first + i * m, own)
                for k in range(own):
                    dC_dW[k] += delta[k] * a_prev[k]
            if penalised:
                penalise(settings, W, dC_dW, sums)
        if own and layers[l, AT_B] >= 0:
            b, dC_db = part(theta, layers[l, AT_B] + first, own), part(g, layers[l, AT_B] + first, own)
            fill(dC_db, real(0))
            for i in range(rows):
                delta = part(work, at_delta + i * m, own)
                for k in range(own):
                    dC_db[k] += delta[k]
            if penalised and run[PENALISE_BIASES]:
                penalise(settings, b, dC_db, sums)
        A, at_A = work, layers[l, AT_A]


@compiled
def penalise(settings, w, g, sums):
    """Add ∂R/∂w to a part g of the gradient, and R to the sums."""
    real = w.dtype.type
    l1, l2 = real(settings[L1]), real(settings[L2])
    absolute, square = real(0), real(0)
    for j in range(len(w)):
        sign = real(1) if w[j] > 0 else (real(-1) if w[j] < 0 else real(0))
        g[j] += l1 * sign + l2 * w[j]
        absolute += abs(w[j])
        square += w[j] * w[j]
    sums[PENALTY] += settings[L1] * absolute + 0.5 * settings[L2] * square


@compiled
def squares(vector):
    """The sum of squares, in the vector's dtype over short runs and in float64 over these."""
    total = 0.0
    for at in range(0, len(vector), RUN):
        run = part(vector, at, min(RUN, len(vector) - at))
        sum_of_run = vector.dtype.type(0)
        for j in range(len(run)):
            sum_of_run += run[j] * run[j]
        total += sum_of_run
    return total


# -- steps ------------------------------------------------------------------------------------------------------------


@compiled
def train(
    me, threads, counter, sums, step, place, steps, X, Y, S, order, layers, factors, run, settings, zeros,
    theta, g, slots, work, samples, parts, part_factors, rates, coefficients,
):  # fmt: skip
    """`steps` updates from step number `step` on, which is number `place` of its epoch.

    All threads call it with the same arguments but `me`. Returns how many updates were made, and the sum of the steps'
    costs, each with its share of the epoch. It ends before an update whose gradient is not finite, or so large that
    its squares might not be.
    """
    real = theta.dtype.type
    n, K, B, P = layers[0, INPUTS], layers[-1, UNITS], run[BATCH], len(theta)
    last = len(layers) - 1
    scratch = address(work, run[AT_SCRATCH] + me * run[SCRATCH])
    meeting = address(counter, 0)
    met = 0
    cost_sum = 0.0
    for t in range(steps):
        begin = (place + t) * B
        rows = min(B, run[ROWS] - begin)
        first, end = rows * me // threads, rows * (me + 1) // threads
        own = end - first
        numbers = part(order, begin + first, own)
        A, at_A = X, begin * n
        if run[GATHERED]:
            A, at_A = work, run[AT_X]
            for i in range(own):
                copy(part(X, numbers[i] * n, n), part(work, at_A + (first + i) * n, n))
        smooth, smooth_by = real(settings[SMOOTH]), real(settings[SMOOTH_BY])
        for i in range(own):
            given, y = part(Y, numbers[i] * K, K), part(work, run[AT_Y] + (first + i) * K, K)
            for k in range(K):
                y[k] = given[k] * smooth + smooth_by
        forward(layers, factors, run, theta, zeros, work, scratch, A, at_A + first * n, first, own, True, step + t)

        output = layers[last, AT_Z if run[ON_LOGITS] else AT_A] + first * K
        at_y = address(work, run[AT_Y] + first * K)
        z = address(work, output)
        delta = address(work, layers[last, AT_DELTA] + first * K)
        L, s = part(samples, LOSS * B + first, own), part(samples, WEIGHT * B + first, own)
        dC_dL, w = part(samples, SHARE * B + first, own), part(work, run[AT_WEIGHT] + first, own)
        for i in range(own):
            s[i] = S[numbers[i]]
        phi = 0.0
        if run[AGGREGATE]:  # which looks at all samples of the batch
            call(run[VALUE], (z, at_y, address(L, 0), scratch, own, K))
            for i in range(own):
                L[i] *= settings[OUTPUT_SHARE]
            if threads > 1:
                met += threads
                meet(meeting, met, run[GIVE_WAY])
            if me == 0:
                addresses = (address(samples, 0), address(samples, B), address(samples, 2 * B), address(sums[0], PHI))
                call(run[AGGREGATE], (*addresses, settings[MEAN_WEIGHT], rows))
                phi = sums[0, PHI]
            if threads > 1:
                met += threads
                meet(meeting, met, run[GIVE_WAY])
            for i in range(own):
                w[i] = real(dC_dL[i] * settings[OUTPUT_SHARE])
            call(run[SLOPE], (z, at_y, address(w, 0), delta, scratch, own, K))
        else:
            divisor = 1.0 if run[SUMMED] else rows * settings[MEAN_WEIGHT]
            for i in range(own):
                dC_dL[i] = s[i] / divisor
                w[i] = real(dC_dL[i] * settings[OUTPUT_SHARE])
            call(run[LOSS_AND_SLOPE], (z, at_y, address(w, 0), address(L, 0), delta, scratch, own, K))
            for i in range(own):
                phi += dC_dL[i] * settings[OUTPUT_SHARE] * L[i] if s[i] > 0 else 0.0
        backward(layers, factors, run, theta, work, scratch, first, own)
        if threads > 1:
            met += threads
            meet(meeting, met, run[GIVE_WAY])

        mine = sums[me]
        mine[PHI], mine[PENALTY], mine[SQUARES] = phi, 0.0, 0.0
        gradients(layers, factors, run, settings, theta, g, work, A, at_A, rows, me, threads, mine)
        for j in range(len(parts)):
            if parts[j, 0] == me:
                mine[SQUARES] += squares(part(g, parts[j, 1], parts[j, 2] - parts[j, 1]))
        if threads > 1:
            met += threads
            meet(meeting, met, run[GIVE_WAY])

        cost, penalty, square = 0.0, 0.0, 0.0
        for other in range(threads):
            cost += sums[other, PHI]
            penalty += sums[other, PENALTY]
            square += sums[other, SQUARES]
        if not (np.isfinite(cost + penalty) and square < settings[LARGEST]):
            return t, cost_sum
        share = rows / run[ROWS]
        cost_sum += cost * (1.0 if run[SUMMED] else share) + penalty * share
        length = np.sqrt(square)
        scale = real(settings[CLIP] / length) if length > settings[CLIP] else real(1)
        for j in range(len(parts)):
            if parts[j, 0] == me:
                eta = real(rates[t]) * real(part_factors[j])
                at, end = parts[j, 1], parts[j, 2]
                state = (
                    address(slots, at),
                    address(slots, P + at),
                    address(slots, 2 * P + at),
                    address(slots, 3 * P + at),
                )
                arrays = (address(theta, at), address(g, at), *state, address(coefficients, t * 8))
                call(run[UPDATE], (*arrays, eta, scale, end - at))
        if threads > 1:
            met += threads
            meet(meeting, met, run[GIVE_WAY])
    return steps, cost_sum


@compiled
def predict(me, threads, block, X, layers, factors, run, zeros, theta, work, logits, y_hat):
    """The last z and a of the rows of X (N, n_0), in blocks of rows that go to the threads in turn.

    Either result may have no rows, and is left out then. Returns whether this thread's rows of X are finite.
    """
    (N, n), K = X.shape, layers[-1, UNITS]
    numbers, z, a = X.reshape(-1), logits.reshape(-1), y_hat.reshape(-1)
    own = work[me]
    scratch = address(own, run[AT_SCRATCH])
    at_z, at_a = layers[-1, AT_Z], layers[-1, AT_A]
    total = theta.dtype.type(0)
    for begin in range(me * block, N, threads * block):
        rows = min(block, N - begin)
        for j in range(begin * n, (begin + rows) * n):
            total += numbers[j] * 0
        forward(layers, factors, run, theta, zeros, own, scratch, numbers, begin * n, 0, rows, False, 0)
        if len(z):
            z[begin * K : (begin + rows) * K] = own[at_z : at_z + rows * K]
        if len(a):
            a[begin * K : (begin + rows) * K] = own[at_a : at_a + rows * K]
    return total == 0
