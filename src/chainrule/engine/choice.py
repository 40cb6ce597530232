"""Which engine runs a training, and with how many threads: functions of network, data and settings alone.

Neither timing nor what happens to lie in a cache decides, so the same call gives the same numbers everywhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import threading
from collections.abc import Hashable, Iterator
from typing import Literal, cast

from ..core.architecture import Architecture
from ..errors import ParameterError, unknown_name

EngineName = Literal["array", "compiled"]
ENGINES = ("auto", "array", "compiled")
LONG = 3.0  # seconds on the array engine, as estimated here, from which `auto` compiles
STEP, LAYER, RATE = 1e-4, 5e-5, 2e10  # its costs: seconds for a step and for a layer of a step, operations in a second
SHARED = 8e6  # operations in a step from which threads share it


class NotCompiledError(Exception):
    """The compiled engine cannot run something; its text says why, for a message that goes on with the array engine."""


def missing() -> str | None:
    """What the compiled engine lacks here, in words, or None."""
    return None if importlib.util.find_spec("numba") else "numba is not installed"


def operations(architecture: Architecture, rows: int) -> int:
    """Multiplications and additions of one step with `rows` rows: three products with each layer's W."""
    return 6 * architecture.P * rows


def choose(where: str, engine: str, architecture: Architecture, steps: int, rows_per_step: int) -> EngineName:
    """The engine, "array" or "compiled", of a training of so many steps; `auto` compiles what would take seconds.

    Raises:
        ParameterError: an unknown engine, or a compiled one that cannot be had here.
    """
    if engine not in ENGINES:
        raise unknown_name(f"{where}, engine", engine, ENGINES)
    if engine == "compiled" and (lacking := missing()):
        raise ParameterError(
            f"{where}: expected engine 'array', got 'compiled', but {lacking}. Install it, or use 'auto'."
        )
    if engine != "auto":
        return cast(EngineName, engine)
    step = STEP + LAYER * len(architecture.layers) + operations(architecture, rows_per_step) / RATE
    return "compiled" if steps * step > LONG and missing() is None else "array"


def share(threads: int | None, architecture: Architecture, rows_per_step: int) -> int:
    """How many threads share a step: as told, or as many as there are cores where steps are long enough, else one."""
    if threads is not None:
        return threads
    return cores() if operations(architecture, rows_per_step) >= SHARED else 1


@contextlib.contextmanager
def announced(*kind: Hashable) -> Iterator[None]:
    """Say so where a compilation takes more than a second; a kind that this process has compiled needs no clock."""
    if kind in _compiled:
        yield
        return
    from .passes import directory

    log = logging.getLogger("chainrule")
    timer = threading.Timer(
        1.0, log.warning, ("Compiling for this kind of network, once; the result is kept in %s.", directory())
    )
    timer.daemon = True
    timer.start()
    try:
        yield
        _compiled.add(kind)
    finally:
        timer.cancel()


_compiled: set[tuple[Hashable, ...]] = set()


def cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
