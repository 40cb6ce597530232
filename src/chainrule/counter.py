"""Counter-based random numbers: a draw is a function of (seed, purpose, counters) and of nothing else.

So any start, shuffle or dropout mask can be re-created at any time, and no generator state is ever saved. The same hash
makes a checksum of data.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable

import numpy as np

from .arrays import Array
from .errors import ParameterError


class Purpose(enum.IntEnum):
    """What a random number is drawn for; streams of different purposes never meet."""

    START = 0  # starting weights; counters: start, layer
    ORDER = 1  # order of the rows; counters: epoch, start
    DROPOUT = 2  # dropout masks; counters: start, step, layer
    SPLIT = 3  # train, validation and test rows


def check_seed(where: str, seed: int) -> int:
    """A seed in [0, 2⁶³).

    Raises:
        ParameterError: not a whole number in that range.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**63:
        raise ParameterError(f"{where}: expected a seed, a whole number from 0 to 2**63 - 1, got {seed!r}.")
    return int(seed)


def generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """NumPy's generator over Philox-4x64 (Salmon et al. 2011), keyed by seed and purpose, placed by ≤ 3 counters."""
    words = [0, *counters, *([0] * (3 - len(counters)))]
    return np.random.Generator(np.random.Philox(key=[seed, int(purpose)], counter=words))


def permutation(count: int, seed: int, purpose: Purpose, *counters: int) -> Array:
    """The numbers 0 … count − 1 in a random order, (count,) int64."""
    return generator(seed, purpose, *counters).permutation(count)


_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF


def _mix(word: int) -> int:
    """The output function of SplitMix64 (Steele, Lea & Flood 2014) on one 64-bit word."""
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def uniform(shape: tuple[int, int], seed: int, purpose: Purpose, *counters: int) -> Array:
    """Uniform numbers in [0, 1), element i·columns + j a hash of (key, i·columns + j): SplitMix64 in counter mode.

    Each element stands alone, so that compiled code and a part of the rows draw the same numbers.
    """
    key = _mix(seed)
    for counter in (int(purpose), *counters):
        key = _mix((key + (counter + 1) * _GOLDEN) & _WORD)
    return ((_mixed(shape[0] * shape[1], key) >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def _mixed(count: int, key: int) -> Array:
    """So many words of SplitMix64 after the word `key`."""
    word = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


_FACTORS = _mixed(8192, 0) | np.uint64(1)


def checksum(arrays: Iterable[Array]) -> int:
    """32 bits that tell data apart: each 64 KiB as Σ fᵢ wᵢ mod 2⁶⁴ over its words, and the CRC-32 of the size and these sums.

    The upper half of a word, which has sign and exponent, is folded into the lower one first, as a product hands bits on
    upwards only. This takes a fraction of the time of a CRC-32 of the data themselves.
    """
    found = 0
    for array in arrays:
        octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        whole = len(octets) // 8 * 8
        words = octets[:whole].view(np.uint64)
        blocks = (words[begin : begin + len(_FACTORS)] for begin in range(0, len(words), len(_FACTORS)))
        sums = np.array(
            [len(octets), *(np.dot(block ^ (block >> np.uint64(32)), _FACTORS[: len(block)]) for block in blocks)],
            np.uint64,
        )
        found = zlib.crc32(octets[whole:].tobytes(), zlib.crc32(sums.tobytes(), found))
    return found
