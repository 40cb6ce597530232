"""The training loop and the forward pass, compiled once for each dtype: steps in blocks, with no Python inside.

The kernel knows everything by numbers: sizes, places in θ and in the workspace, and the addresses of the passes that
apply an activation, a loss or an update rule (`passes`) and of matrix products (`products`, `amx`). Memory is handed on by
address, and looked at through `view`; `one` is the number 1 of the network's dtype, which tells the compiler the type.

Threads share one step, in one of two ways. By units: each owns a part of every layer's units; it computes their z and a
for all rows, their part of δ and of the gradient, and updates their weights, which never leave its core's cache; what
a layer needs from the one before is complete after a meeting of all threads. By rows, where activations are more
numbers than weights: each takes a part of the rows through all layers and back, on which none waits for another; only
gradient and update are by units. Losses, and activations that work on rows, are always shared out by rows. So no sum
depends on who came first.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from ..arrays import LINE
from ..counter import Purpose
from .memory import (
    NO_SUBNORMALS,
    add_and_get,
    borrowed,
    call,
    cast,
    compiled,
    copy,
    entry,
    fill,
    float_modes,
    in_order,
    inlined,
    look,
    merged,
    number,
    set_float_modes,
    stream,
    view,
    widest,
    width,
)

# Columns of the table of layers; places count numbers from the beginning of θ or of the workspace, -1 is none.
KIND, INPUTS, UNITS, AT_W, AT_B, AT_Z, AT_A, AT_DELTA, FORWARD, BACKWARD, ROWWISE = range(11)
FORWARD_PRODUCT, BACKWARD_PRODUCT = 11, 12  # addresses of the products for z, and for δ and the gradient
COLUMNS = 13
DENSE, SCALE, DROPOUT = range(3)
# Columns of the table of factors, float64: c of NTK scaling, dropout's rate.
FACTOR, RATE = range(2)
# Places in the vector of whole numbers that describes a run. Addresses of functions:
BIAS_PRODUCT, GIVE_WAY, LOSS_AND_SLOPE, VALUE, AGGREGATE, SLOPE, UPDATE = range(7)
# addresses of memory,
X, Y, S, ORDER, THETA, GRADIENT, WORK, ZEROS, ONES, SAMPLES, COUNTER = range(7, 18)
# sizes, places in the workspace, of which X and SCRATCH have one for each thread, and choices (MEASURED: whether the
# squares of the gradient are added up, for its norm or as it is small, and not only bounded).
ROWS, BATCH, AT_X, X_SIZE, AT_Y, AT_WEIGHT, AT_SCRATCH, SCRATCH, SEED, START = range(18, 28)
BY_ROWS, PICKED, COPIED, SUMMED, PENALISE_BIASES, MEASURED, AT_TURNED = range(28, 35)
STEPS, ORDERED = 35, 36  # the steps of an epoch, and the numbers of its order, which may be more than its steps take
SLOTS = 37  # addresses of the optimizer's vectors, of which there may be four
DESCRIPTION = 41  # numbers in that vector
# Places in the vector of float64 settings.
MEAN_WEIGHT, L1, L2, CLIP, OUTPUT_SHARE, SMOOTH, SMOOTH_BY, LARGEST, LONGEST_ROW, COST_SO_FAR = range(10)
# Vectors of float64 with a number for each sample of the batch: its loss, weight and share of ∇φ.
LOSS, WEIGHT, SHARE = range(3)
# What each thread adds up in a step.
PHI, PENALTY, SQUARES = range(3)
# Columns of the table of who updates which part of θ.
WHO, FROM, TO = range(3)
DROPOUT_PURPOSE = int(Purpose.DROPOUT)

NO, YES = np.int64(0), np.int64(1)  # numbers of a type, not constants, for each of which Numba compiles a version
COEFFICIENTS = 8  # numbers that an update rule may have for each step
SMALL = 300  # multiplications below which plain loops are faster than `products`
MANY = 512  # rows of a prediction from which it pays to transpose small weights first
RUN = 2048  # squares that are added in float32 before they go to float64


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


@inlined
def product(multiply, m, n, k, alpha, A, A_rows, A_turned, A_step, B, B_rows, B_turned, B_step, C, C_step, scratch):
    """`products.multiply` or `amx.multiply` at its address, or loops where those are faster."""
    if m * n * k > SMALL or A_rows or B_rows:
        given = (A, A_rows, A_turned, A_step, B, B_rows, B_turned, B_step, C, C_step, scratch)
        call(multiply, (m, n, k, alpha, *given))
    else:
        small(m, n, k, alpha, A, A_turned, A_step, B, B_turned, B_step, C, C_step)


@in_order
def small(m, n, k, alpha, A, A_turned, A_step, B, B_turned, B_step, C, C_step):
    """`product` by loops; sums in their order, so that LLVM adds no vector loops, which only cost here."""
    size = width(alpha)
    A_i, A_p = (size, A_step * size) if A_turned else (A_step * size, size)
    B_p, B_j = (size, B_step * size) if B_turned else (B_step * size, size)
    for i in range(m):
        c = view(C + i * C_step * size, n, alpha)
        for j in range(n):
            total = cast(alpha, 0.0)  # alpha * 0 would be a float64
            for p in range(k):
                total += number(A + i * A_i + p * A_p, alpha) * number(B + p * B_p + j * B_j, alpha)
            c[j] = alpha * total


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


@register_jitable
def whole_vectors(count):
    """So many samples as fill vectors, of which none in a loop over samples, with losses in float64, has more than 8."""
    return (count + 7) // 8 * 8


@compiled
def block(layer, run, rows, me, threads):
    """This thread's part of a layer's matrices (rows, units): first row, rows, first unit, units."""
    if run[BY_ROWS]:
        return (*share(rows, me, threads), 0, layer[UNITS])
    return (0, rows, *share(layer[UNITS], me, threads))


@compiled
def forward(layers, factors, run, theta, turned, work, scratch, A, picked, rows, masks, step, me, threads, met, one):
    """z and a of this thread's blocks of all layers, from the batch at A; of the last layer its rows are complete.

    `picked` is 0, or the address of the numbers of the rows of A that make the batch; the first layer is dense then.
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
                W = turned + layers[l, AT_W] * size
                product(layers[l, FORWARD_PRODUCT], rows, m, n, c, A, NO, NO, n, W, NO, NO, m, z, m, scratch)
            elif some and own:
                x, x_rows = (A, picked + i0 * 8) if picked and l == 0 else (A + i0 * n * size, NO)
                product(layers[l, FORWARD_PRODUCT], some, own, n, c, x, x_rows, NO, n, W, NO, YES, n, z, m, scratch)
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
    widest()
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
        mask[j] = kept if uniform >= rate else cast(one, 0.0)
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
                d = delta + i0 * m * size
                product(layers[l, BACKWARD_PRODUCT], some, own, m, c, d, NO, NO, m, W, NO, NO, n, below, n, scratch)
        elif layers[l, KIND] == SCALE:
            scaled(delta + at, theta + (layers[l, AT_W] + k0) * size, below, some, own, m, one)
        else:
            for i in range(some):
                target, source = view(below + i * m * size, own, one), view(delta + at + i * m * size, own, one)
                mask = view(work + layers[l, AT_Z] * size + at + i * m * size, own, one)
                for k in range(own):
                    target[k] = source[k] * mask[k]
        if layers[l - 1, BACKWARD]:
            if layers[l - 1, ROWWISE]:
                if not run[BY_ROWS]:
                    met = wait(run, met, threads)
                    i0, some = share(rows, me, threads)
                    at, own = i0 * n * size, n
            elif own == n:  # one row after the other
                some, own = 1, some * n
            places = layers[l - 1, AT_DELTA], layers[l - 1, AT_Z], layers[l - 1, AT_A]
            d, z, a = (work + places[0] * size + at, work + places[1] * size + at, work + places[2] * size + at)
            call(layers[l - 1, BACKWARD], (d, z, a, scratch, some, own, n))
        if not run[BY_ROWS]:
            met = wait(run, met, threads)
    return wait(run, met, threads) if run[BY_ROWS] else met


@compiled
def gradients(
    layer, factor, run, settings, theta, g, delta, A, picked, is_first, rows, sums, scratch, me, threads, one
):
    """∂C/∂W and ∂C/∂b of this thread's units of a layer, with the penalty's part; and unless MEASURED a bound of their squares."""
    widest()
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
        product(
            layer[BACKWARD_PRODUCT], own, n, rows, cast(one, c), delta, NO, YES, m, A, picked, NO, n, g + at, n, scratch
        )
        if penalised:
            for i in range(own):
                row = at + i * n * size
                penalise(settings, view(theta + row, n, one), view(g + row, n, one), sums)
    else:
        at = (layer[AT_W] + first) * size
        dC_dW = view(g + at, own, one)
        fill(dC_dW, cast(one, 0.0))
        for i in range(rows):
            d, a_prev = view(delta + i * m * size, own, one), view(A + (first + i * m) * size, own, one)
            for k in range(own):
                dC_dW[k] += d[k] * a_prev[k]
        if penalised:
            penalise(settings, view(theta + at, own, one), dC_dW, sums)
    if layer[AT_B] >= 0:
        at = (layer[AT_B] + first) * size
        ones = run[ONES]
        product(run[BIAS_PRODUCT], YES, own, rows, one, ones, NO, NO, rows, delta, NO, NO, m, g + at, own, scratch)
        if penalised and run[PENALISE_BIASES]:
            penalise(settings, view(theta + at, own, one), view(g + at, own, one), sums)
    if not run[MEASURED]:
        # No element of δᵀ a is longer than ‖δ‖ ‖a‖ (Cauchy and Schwarz): a look at δ and a spares one at the gradient.
        of_a = rows * settings[LONGEST_ROW] if is_first else squares(A, rows, n, n, one)
        sums[SQUARES] += squares(delta, rows, own, m, one) * (c * c * of_a + rows)


@compiled
def penalise(settings, w, g, sums):
    """Add ∂R/∂w to a part g of the gradient, and R and the squares of ∂R/∂w to the sums."""
    widest()
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
    """The sum of squares of a matrix (rows, n) by rows `step` apart; in the network's dtype runs of RUN numbers, or a row."""
    widest()
    total = 0.0
    if n == step:  # one row after the other: the ends of rows, at which lanes are added up, cost the most
        rows, n, step = 1, rows * n, 0
    for i in range(rows):
        for first in range(0, n, RUN):
            run = view(address + (i * step + first) * width(one), min(RUN, n - first), one)
            of_run = cast(one, 0.0)
            for k in range(len(run)):
                of_run += run[k] * run[k]
            total += of_run
    return total


# -- steps ------------------------------------------------------------------------------------------------------------


@merged
def batch(me, threads, order, begin, rows, step, layers, factors, run, settings, theta, scratch, met, one):
    """z, a and δ of a batch, from place `begin` of the epoch's order on, in the workspace; this thread's blocks of them.

    Returns the address of the batch's X, that of the numbers of its rows there or 0, this thread's part of φ, and the
    count of arrivals.
    """
    n, K, size = layers[0, INPUTS], layers[-1, UNITS], width(one)
    work, last = run[WORK], len(layers) - 1
    smooth, smooth_by = cast(one, settings[SMOOTH]), cast(one, settings[SMOOTH_BY])
    share_of_output = settings[OUTPUT_SHARE]
    first, own = share(rows, me, threads)
    A, picked = run[X] + begin * n * size, order + begin * 8
    if run[PICKED]:
        A = run[X]
    elif run[COPIED]:  # by units, every thread for itself: that is faster than to fetch rows from another core
        A = work + (run[AT_X] + me * run[X_SIZE]) * size
        i0, some = (first, own) if run[BY_ROWS] else (0, rows)
        rows_here = view(picked + i0 * 8, some, 0)
        for i in range(some):
            copy(view(run[X] + rows_here[i] * n * size, n, one), view(A + (i0 + i) * n * size, n, one))
    mine = view(picked + first * 8, own, 0)
    targets = work + (run[AT_Y] + first * K) * size
    for i in range(own):
        given, y = view(run[Y] + mine[i] * K * size, K, one), view(targets + i * K * size, K, one)
        for k in range(K):
            y[k] = given[k] * smooth + smooth_by
    picked = picked if run[PICKED] else NO
    met = forward(layers, factors, run, theta, NO, work, scratch, A, picked, rows, YES, step, me, threads, met, one)

    z = work + (layers[last, AT_A] + first * K) * size
    delta = work + (layers[last, AT_DELTA] + first * K) * size
    of_samples, B = run[SAMPLES], whole_vectors(run[BATCH])
    at_L, at_s = of_samples + (LOSS * B + first) * 8, of_samples + (WEIGHT * B + first) * 8
    L, s = view(at_L, own, 1.0), view(at_s, own, 1.0)
    dC_dL = view(of_samples + (SHARE * B + first) * 8, own, 1.0)
    at_w = work + (run[AT_WEIGHT] + first) * size
    w = view(at_w, own, one)
    phi = 0.0
    if run[AGGREGATE]:  # which looks at all samples of the batch
        for i in range(own):
            s[i] = number(run[S] + mine[i] * 8, 1.0)
        call(run[VALUE], (z, targets, at_L, scratch, own, K))
        for i in range(own):
            L[i] *= share_of_output
        met = wait(run, met, threads)
        if me == 0:
            vectors = (of_samples, of_samples + WEIGHT * B * 8, of_samples + SHARE * B * 8)
            call(run[AGGREGATE], (*vectors, of_samples + 3 * B * 8, settings[MEAN_WEIGHT], rows))
            phi = number(of_samples + 3 * B * 8, 1.0)
        met = wait(run, met, threads)
        for i in range(own):
            w[i] = cast(one, dC_dL[i] * share_of_output)
        call(run[SLOPE], (z, targets, at_w, delta, scratch, own, K))
    else:
        part = 1.0 if run[SUMMED] else 1 / (rows * settings[MEAN_WEIGHT])
        for i in range(own):
            s[i] = number(run[S] + mine[i] * 8, 1.0)
            dC_dL[i] = s[i] * part
            w[i] = cast(one, dC_dL[i] * share_of_output)
        # Whole vectors are faster than their ends: samples beyond the batch are computed, and not looked at.
        samples = whole_vectors(own) if threads == 1 else own
        call(run[LOSS_AND_SLOPE], (z, targets, at_w, at_L, delta, scratch, samples, K))
        for i in range(own):
            phi += dC_dL[i] * share_of_output * L[i] if s[i] > 0 else 0.0
    if layers[last, BACKWARD]:
        z, a = work + (layers[last, AT_Z] + first * K) * size, work + (layers[last, AT_A] + first * K) * size
        call(layers[last, BACKWARD], (delta, z, a, scratch, own, K, K))
    met = backward(layers, factors, run, theta, work, rows, scratch, me, threads, met, one)
    return A, picked, phi, met


@entry
def train(
    me, threads, step, place, layers, factors, run, settings, parts, part_factors, rates, coefficients, costs, sums, one
):
    """An update for each of the rates, from step number `step` on, which is number `place` of its epoch.

    All threads call it with the same arguments but `me`. Epoch follows on epoch, each with its own part of the order.
    Returns how many updates were made, and the sum of the costs of the last epoch's steps so far, each with its share; those
    of the epochs before it are in `costs`. It ends before an update whose gradient is not finite, or so large that its
    squares might not be.
    """
    widest()
    # On x86 subnormal numbers are zero meanwhile: the moments of gradients that fade away become subnormal, and then
    # every operation takes many times as long.
    modes = float_modes()
    set_float_modes(np.int32(modes | NO_SUBNORMALS))
    layers, factors, run, settings = borrowed(layers), borrowed(factors), borrowed(run), borrowed(settings)
    parts, part_factors, rates, sums = borrowed(parts), borrowed(part_factors), borrowed(rates), borrowed(sums)
    costs = borrowed(costs)
    B, size = run[BATCH], width(one)
    theta, g, work = run[THETA], run[GRADIENT], run[WORK]
    scratch = work + (run[AT_SCRATCH] + me * run[SCRATCH]) * size
    met = NO
    done, cost_sum = len(rates), settings[COST_SO_FAR]
    order, ended = run[ORDER], 0
    for t in range(len(rates)):
        begins = place == run[STEPS]
        if begins:
            order, place = order + run[ORDERED] * 8, 0
        begin = place * B
        place += 1
        rows = min(B, run[ROWS] - begin)
        tables = (layers, factors, run, settings)
        A, picked, phi, met = batch(me, threads, order, begin, rows, step + t, *tables, theta, scratch, met, one)

        mine = sums[me]
        mine[PHI], mine[PENALTY], mine[SQUARES] = phi, 0.0, 0.0
        for l in range(len(layers)):
            d, a_prev = work + layers[l, AT_DELTA] * size, A if l == 0 else work + layers[l - 1, AT_A] * size
            of_rows, tables_of = picked if l == 0 else NO, (layers[l], factors[l], run, settings)
            gradients(*tables_of, theta, g, d, a_prev, of_rows, l == 0, rows, mine, scratch, me, threads, one)
        if run[MEASURED]:
            mine[SQUARES] = 0.0
            for j in range(len(parts)):
                if parts[j, WHO] == me:
                    count = parts[j, TO] - parts[j, FROM]
                    mine[SQUARES] += squares(g + parts[j, FROM] * size, YES, count, count, one)
        met = wait(run, met, threads)

        cost, penalty, square = 0.0, 0.0, 0.0
        for other in range(threads):
            cost += sums[other, PHI]
            penalty += sums[other, PENALTY]
            square += sums[other, SQUARES]
        if not (np.isfinite(cost + penalty) and square < settings[LARGEST]):
            done = t
            break
        if begins:
            if me == 0:
                costs[ended] = cost_sum
            ended, cost_sum = ended + 1, 0.0
        part_of_epoch = rows / run[ROWS]
        cost_sum += cost * (1.0 if run[SUMMED] else part_of_epoch) + penalty * part_of_epoch
        clip = one
        if run[MEASURED] and np.sqrt(square) > settings[CLIP]:
            clip = cast(one, settings[CLIP] / np.sqrt(square))
        for j in range(len(parts)):
            if parts[j, WHO] == me:
                at, count = parts[j, FROM] * size, parts[j, TO] - parts[j, FROM]
                state = (run[SLOTS] + at, run[SLOTS + 1] + at, run[SLOTS + 2] + at, run[SLOTS + 3] + at)
                eta = cast(one, rates[t]) * cast(one, part_factors[j])
                call(run[UPDATE], (theta + at, g + at, *state, coefficients + t * COEFFICIENTS * 8, eta, clip, count))
        if run[BY_ROWS]:
            met = wait(run, met, threads)
    set_float_modes(modes)
    return done, cost_sum


@entry
def per_sample(me, threads, layers, factors, run, settings, out, P, one):
    """Each row's part of ∂C/∂θ, without the penalty, written to `out`: rows of P numbers.

    What other threads wrote past their caches is seen by whoever waited for them: a lock completes all stores.
    """
    layers, factors, run, settings = borrowed(layers), borrowed(factors), borrowed(run), borrowed(settings)
    rows, work, size = run[BATCH], run[WORK], width(one)
    scratch = work + (run[AT_SCRATCH] + me * run[SCRATCH]) * size
    tables = (layers, factors, run, settings)
    A, _, _, met = batch(me, threads, run[ORDER], 0, rows, 0, *tables, run[THETA], scratch, NO, one)
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


@entry
def predict(me, threads, block, X, layers, factors, run, theta, work, logits, y_hat, one):
    """The last z and a of the rows of X (N, n_0), in blocks of rows that go to the threads in turn.

    Either result may have no rows, and is left out then. Returns whether this thread's rows of X are finite.
    """
    layers, factors, run = borrowed(layers), borrowed(factors), borrowed(run)
    N, n, K, size = X.shape[0], layers[0, INPUTS], layers[-1, UNITS], width(one)
    x, z, a = X.reshape(-1), logits.reshape(-1), y_hat.reshape(-1)
    at_theta, own = np.int64(theta.ctypes.data), np.int64(work.ctypes.data) + me * work.shape[1] * size
    scratch = own + run[AT_SCRATCH] * size
    turned = 0
    if run[AT_TURNED] >= 0 and N >= MANY:
        turned = own + run[AT_TURNED] * size
        turn(layers, at_theta, turned, one)
    total = nought = cast(one, 0.0)
    for begin in range(me * block, N, threads * block):
        rows = min(block, N - begin)
        at = np.int64(x.ctypes.data) + begin * n * size
        given = view(at, rows * n, one)
        for j in range(rows * n):
            total += given[j] * nought
        forward(layers, factors, run, at_theta, turned, own, scratch, at, NO, rows, NO, NO, NO, YES, NO, one)
        if len(z):
            copy(view(own + layers[-1, AT_Z] * size, rows * K, one), z[begin * K : (begin + rows) * K])
        if len(a):
            copy(view(own + layers[-1, AT_A] * size, rows * K, one), a[begin * K : (begin + rows) * K])
    return total == 0
