"""The order of the rows of an epoch, compiled: NumPy's `Generator(Philox).permutation`, to the bit, in less than half of its time.

With small networks a shuffle takes as long as a tenth of the steps of its epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..counter import Purpose
from .memory import in_order, inlined, times_wide

WORDS = 256  # 64-bit numbers that are drawn at a time
# Philox-4x64's factors and key increments (Salmon et al. 2011), as unsigned numbers for the compiler
M0, M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
W0, W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


def permutation(count: int, seed: int, purpose: Purpose, *counters: int) -> Array:
    """`counter.permutation`, of less than 2³² numbers."""
    only: Array = permutations(1, count, seed, purpose, *counters)[0]
    return only


def permutations(times: int, count: int, seed: int, purpose: Purpose, *counters: int) -> Array:
    """Those of so many values of the first counter, counted up: (times, count)."""
    place = np.zeros(4, np.uint64)
    place[1 : 1 + len(counters)] = counters
    orders = np.empty((times, count), np.int64)
    shuffles(orders, np.uint64(seed), np.uint64(purpose), place, np.empty(WORDS, np.uint64))
    return orders


@inlined
def draw(words, key0, key1, place):
    """Philox's next numbers, from the counter `place` on, which is moved on."""
    for at in range(0, len(words), 4):
        place[0] += np.uint64(1)  # 2⁶⁴ times 4 numbers are never drawn, so nothing is carried
        c0, c1, c2, c3 = place[0], place[1], place[2], place[3]
        k0, k1 = key0, key1
        for _ in range(10):
            high0, low0 = times_wide(M0, c0)
            high1, low1 = times_wide(M1, c2)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
            k0 += W0
            k1 += W1
        words[at], words[at + 1], words[at + 2], words[at + 3] = c0, c1, c2, c3


@in_order
def shuffles(orders, key0, key1, place, words):
    """A shuffle in each row, the next with `place[1]` counted up."""
    for k in range(len(orders)):
        place[0] = np.uint64(0)
        shuffle(orders[k], key0, key1, place, words)
        place[1] += np.uint64(1)


@inlined
def shuffle(order, key0, key1, place, words):
    """Fisher and Yates's shuffle of 0, 1 …, with numbers of as few bits as there may be, of which too large ones are left out.

    A number that is too large swaps a row with itself: a branch that nobody can foresee would cost more.
    """
    for i in range(len(order)):
        order[i] = i
    used, i, mask = 2 * len(words), len(order) - 1, 1
    while mask < i:
        mask = 2 * mask + 1
    while i > 0:
        if used == 2 * len(words):
            draw(words, key0, key1, place)
            used = 0
        while used < 2 * len(words) and i > mask >> 1:
            half = words[used >> 1] >> (np.uint64(used & 1) << np.uint64(5))  # the lower half of a word comes first
            drawn: Any = np.int64(half) & mask
            fits = drawn <= i
            j = drawn if fits else i
            order[i], order[j] = order[j], order[i]
            i -= fits
            used += 1
        if i <= mask >> 1:
            mask >>= 1
