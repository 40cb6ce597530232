"""Threads that share one piece of work, and what they need of the operating system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any


class Team:
    """Threads that work at the same time: the caller's, and others of the team's own; new ones in a forked process."""

    def __init__(self, threads: int) -> None:
        self.threads, self.process = threads, 0
        self.pool: ThreadPoolExecutor | None = None
        self.others: list[int] = []  # the system's numbers of the team's own threads

    def __call__(self, work: Callable[[int], Any]) -> list[Any]:
        """The results of `work(0)` here and `work(1)` … on the others."""
        if self.threads == 1:
            return [work(0)]
        if self.pool is None or self.process != os.getpid():
            self.pool, self.process = self._started(), os.getpid()
        keep_away(self.others)
        others = [self.pool.submit(work, me) for me in range(1, self.threads)]
        return [work(0), *(other.result() for other in others)]

    def _started(self) -> ThreadPoolExecutor:
        """The others, all running: work that waits for one that the system does not give would wait for ever.

        They end with their pool, which nothing that they hold may refer to.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        others = self.others = []
        all_here = threading.Barrier(self.threads)

        def begin() -> None:
            others.append(threading.get_native_id())
            with contextlib.suppress(threading.BrokenBarrierError):
                all_here.wait()

        pool = ThreadPoolExecutor(self.threads - 1, initializer=begin)
        try:
            for _ in range(self.threads - 1):
                pool.submit(int)
            all_here.wait()
        except BaseException:
            all_here.abort()
            pool.shutdown()
            raise
        return pool


def keep_away(others: Iterable[int]) -> None:
    """Let sleeping threads wake on any core but this thread's, where the system can be told (Linux).

    Left alone it may wake them here although other cores are idle, and mends that only after milliseconds.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0) - {system().sched_getcpu()}
    with contextlib.suppress(OSError):  # a system that forbids it: it only costs time
        for thread in others if cores else ():
            os.sched_setaffinity(thread, cores)


@lru_cache(maxsize=1)
def system() -> ctypes.CDLL:
    """The functions of the C library."""
    return ctypes.CDLL(None)


@lru_cache(maxsize=1)
def yield_address() -> int:
    """The address of the system's function that lets another thread run; it takes nothing and returns an int."""
    if sys.platform == "win32":
        function = ctypes.windll.kernel32.SwitchToThread
    else:
        function = system().sched_yield
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
