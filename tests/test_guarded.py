"""The compiled engine's memory: what it reaches by address lies between pages that nobody may touch.

A read or a write beyond a buffer's end is a segmentation fault here; one before it, or between the parts of a workspace,
changes numbers that are looked at afterwards. The independent sources are the processor, and the array engine's result.

    python tests/test_guarded.py --count 10000    so many random networks (10 000 in a quarter of an hour)
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import mmap
import sys
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest

import chainrule as cr
from chainrule.arrays import LINE

pytest.importorskip("numba")
if sys.platform == "win32":
    pytest.skip("memory is protected by a function of POSIX", allow_module_level=True)

from chainrule.engine import compiled
from chainrule.training import loop

PAGE = mmap.PAGESIZE
GAP = 256  # bytes after each part of a workspace
MARK = 0xFF  # every byte outside of the buffers; as a number it is NaN
SIZES = [
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    15,
    16,
    17,
    20,
    31,
    32,
    33,
    40,
    47,
    48,
    49,
    50,
    63,
    64,
    65,
    96,
    100,
    127,
    128,
    129,
    200,
]
SIZES += [255, 256, 257, 300, 511, 513, 700, 1000, 1025, 2000, 2047, 2049, 3000]
BATCHES = [size for size in SIZES if size <= 513]
ACTIVATIONS = [name for name in cr.activations.CATALOGUE if name not in ("step", "exp", "square")]  # no slope; explode


class Gapped(compiled.Layout):
    """A layout that leaves a gap after each part."""

    def __init__(self, itemsize: int) -> None:
        super().__init__(itemsize)
        self.gaps: list[slice] = []

    def take(self, count: int) -> int:
        at = super().take(count)
        self.size += GAP // self.itemsize
        self.gaps.append(slice(at + count, self.size))
        return at


class Guards:
    """Buffers between protected pages, and workspaces with gaps between their parts."""

    def __init__(self) -> None:
        self.buffers: list[tuple[mmap.mmap, int, int]] = []
        self.layouts: list[Gapped] = []
        self.gaps: list[np.ndarray] = []
        self.protect = ctypes.CDLL(None, use_errno=True).mprotect

    def layout(self, itemsize):
        self.layouts.append(Gapped(itemsize))
        return self.layouts[-1]

    def aligned(self, shape, dtype):
        """Like `arrays.aligned`, but as near to the end of its last page as a cache line allows."""
        array = self.zeros(shape, dtype, LINE)
        rows = array.reshape(-1, array.shape[-1])
        for layout in self.layouts:
            if layout.size == rows.shape[1]:
                found = [row[gap].view(np.uint8) for row in rows for gap in layout.gaps]
                for gap in found:
                    gap[:] = MARK
                self.gaps += found
        return array

    def copy(self, given):
        array = self.zeros(given.shape, given.dtype, given.itemsize)
        array[...] = given
        return array

    def zeros(self, shape, dtype, alignment):
        size, dtype = int(np.prod(shape)), np.dtype(dtype)
        pages = -(-max(size * dtype.itemsize, 1) // PAGE) * PAGE
        memory = mmap.mmap(-1, pages + 2 * PAGE)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        at = (PAGE + pages - size * dtype.itemsize) // alignment * alignment
        memory[PAGE : PAGE + pages] = bytes([MARK]) * pages
        for page in (begin, begin + PAGE + pages):
            assert self.protect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0
        self.buffers.append((memory, at, size * dtype.itemsize))
        array = np.frombuffer(memory, dtype, size, at).reshape(shape)
        array[...] = 0
        return array

    def check(self, where: str) -> None:
        """Assert that nothing outside of a buffer, or between the parts of a workspace, was written."""
        assert all((gap == MARK).all() for gap in self.gaps), f"written beside a part of a workspace: {where}"
        for memory, at, size in self.buffers:
            outside = memory[PAGE:at] + memory[at + size : len(memory) - PAGE]
            assert outside == bytes([MARK]) * len(outside), f"written beside a buffer of {size} bytes: {where}"


@contextlib.contextmanager
def guarded() -> Iterator[Guards]:
    """What the compiled engine takes within is guarded."""
    guards = Guards()
    with (
        mock.patch.object(compiled, "aligned", guards.aligned),
        mock.patch.object(loop, "aligned", guards.aligned),
        mock.patch.object(compiled, "Layout", guards.layout),
    ):
        yield guards


def problem(seed: int):
    """A random network, its data and the settings of a short fit."""
    rng = np.random.default_rng(seed)
    largest = rng.choice([20, 70, 300, 3000], p=[0.2, 0.3, 0.3, 0.2])

    def size() -> int:
        return int(
            rng.choice([s for s in SIZES if s <= largest]) if rng.random() < 0.8 else rng.integers(1, largest + 1)
        )

    hidden, inputs = [size() for _ in range(rng.integers(1, 5))], size()
    outputs = int(rng.choice([1, 2, 3, 4, 5, 7, 8, 10, 16, 17, 33, 50, 64, 100]))
    while sum(a * b for a, b in zip([inputs, *hidden], [*hidden, outputs], strict=True)) > 4_000_000:
        hidden, inputs = hidden[:-1] or [50], min(inputs, 1000)
    batch = int(rng.choice(BATCHES if sum(hidden) * 513 < 2_000_000 else [b for b in BATCHES if b < 70]))
    rows = int(batch * rng.integers(1, 4) + rng.integers(0, batch))
    layers: list[cr.Dense | cr.Scale | cr.Dropout] = [cr.Scale()] if rng.random() < 0.2 else []
    for units in hidden:
        bias, ntk = bool(rng.random() < 0.9), bool(rng.random() < 0.2)
        layers.append(cr.Dense(units, str(rng.choice(ACTIVATIONS)), bias=bias, ntk=ntk))
        layers += [cr.Dropout(0.2)] if rng.random() < 0.15 else []
    dtype = str(rng.choice(["float32", "float64"]))
    X = (rng.standard_normal((rows, inputs)) / 2).astype(dtype)
    settings = {"batch_size": batch, "epochs": 2, "sampling": str(rng.choice(["shuffle", "sequential", "replacement"]))}
    settings["optimizer"] = str(rng.choice(["sgd(0.01)", "momentum(0.01)", "adam", "adamw"]))
    match rng.integers(4):
        case 0:
            layers.append(cr.Dense(max(outputs, 2), "softmax"))
            y = rng.integers(0, max(outputs, 2), rows)
        case 1:
            layers.append(cr.Dense(outputs, "sigmoid"))
            y = rng.integers(0, 2, (rows, outputs)).astype(dtype)
        case _:
            layers.append(cr.Dense(outputs, "tanh"))
            y = rng.standard_normal((rows, outputs)).astype(dtype)
            settings["loss"] = str(rng.choice(["squared", "huber", "log_cosh"]))
    chances = {
        "clip_norm": (0.2, 1.0),
        "penalty": (0.2, cr.Penalty(l1=1e-4, l2=1e-3)),
        "aggregate": (0.15, str(rng.choice(["sum", "tilted", "cvar", "max"]))),
        "sample_weight": (0.3, rng.random(rows) + 0.1),
        "validation": (0.4, (X[: rows // 3 + 1], y[: rows // 3 + 1])),
        "drop_last": (0.3, True),
    }
    settings |= {name: value for name, (chance, value) in chances.items() if rng.random() < chance}
    return cr.Network(inputs, layers, seed=seed, dtype=dtype), X, y, settings, int(rng.integers(1, 4))


def check(seed: int) -> None:
    """Fit and predict a random network in guarded memory, and compare it with the array engine."""
    net, X, y, settings, threads = problem(seed)
    other = cr.Network(net.architecture.inputs, net.architecture.layers, seed=seed, dtype=net.dtype)
    where = f"seed {seed}: {net}, {threads} threads, {settings}"
    with guarded() as guards:
        net.fit(guards.copy(X), guards.copy(y), engine="compiled", threads=threads, **settings)
        y_hat = net.predict(guards.copy(X))
        guards.check(where)
    other.fit(X, y, engine="array", **settings)
    tolerance = 3e-2 if net.dtype == np.float32 else 1e-5  # an update whose gradient is nearly 0 may take either sign
    scale = max(1e-3, float(np.abs(other.theta).max()))
    assert np.abs(net.theta - other.theta).max() < tolerance * scale, where
    assert np.isfinite(y_hat).all(), where


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_nothing_outside_of_the_buffers_is_touched(first):
    for seed in range(first, first + 10):
        check(seed)


def main() -> None:
    """So many random networks; ends at the first that touches what it should not."""
    parser = argparse.ArgumentParser(description="Train random networks in guarded memory.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    faulthandler.enable()
    for seed in range(given.first, given.first + given.count):
        check(seed)
    print(f"{given.count:,} networks, nothing outside of their buffers was touched")


if __name__ == "__main__":
    main()
