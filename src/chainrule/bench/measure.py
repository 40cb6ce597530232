"""Timing in turn, in fresh processes: who is measured with whom, and on what machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import floor
from .peers import BEST_SKLEARN, FLOOR, TABLES, TRAINERS, Contender, Make
from .problems import Problem, Work, work

SHORT = 0.3  # a turn whose first run took less runs again, and the second one counts
LEAST = 0.005  # seconds that a timing should take; shorter things are called more often
PACKAGES = ["numpy", "scikit-learn", "torch", "jax", "keras", "onnxruntime", "numba", "scipy-openblas32"]


@dataclass
class Times:
    """What one process measured.

    Attributes:
        seconds: the median of each contender, for one step of training or one call of anything else.
        cores: processor time per second of wall-clock time, in the same runs.
        left_out: who could not be measured, and why.
    """

    table: str
    problem: Problem
    seconds: dict[str, float] = field(default_factory=dict)
    cores: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


# -- one process ------------------------------------------------------------------------------------------------


def build(table: Mapping[str, Make], problem: Problem, given: Work) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders that work here, each run once, and why the others do not."""
    contenders, left_out = {}, {}
    for name, make in table.items():
        try:
            contender = make(problem, given)
            contender.reset()
            contender.run()
            contenders[name] = contender
        except ImportError as error:
            left_out[name] = f"not installed ({error})"
        except Exception as error:  # whatever a peer cannot do here, such as compile without a compiler
            left_out[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return contenders, left_out


def interleaved(contenders: Mapping[str, Contender], repetitions: int) -> dict[str, tuple[float, float]]:
    """Time everybody in turn, A B C A B C …: the median seconds of one run and the median of the cores in use."""

    def clock(contender: Contender, count: int) -> tuple[float, float]:
        contender.reset()
        begun, used = time.perf_counter(), time.process_time()
        for _ in range(count):
            contender.run()
        seconds = time.perf_counter() - begun
        return seconds / count, (time.process_time() - used) / seconds

    counts = {}
    for name, contender in contenders.items():
        contender.rest()
        counts[name] = max(1, round(LEAST / clock(contender, 1)[0]))
        contender.rest()
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, contender in contenders.items():
            turn = clock(contender, counts[name])
            if turn[0] * counts[name] < SHORT:
                turn = clock(contender, counts[name])
            turns[name].append(turn)
            contender.rest()
    return {
        name: (statistics.median(t[0] for t in values), statistics.median(t[1] for t in values))
        for name, values in turns.items()
    }


def times(table: str, problem: Problem, repetitions: int = 7, only: Iterable[str] | None = None) -> Times:
    """Measure one problem in this process, whose environment must already limit the threads (see `apart`)."""
    chosen = dict(TABLES[table])
    if table == "training" and floor.blas("numpy") and floor.guessed_low():
        chosen[BEST_SKLEARN] = lambda problem, given: elsewhere("scikit-learn", problem, floor.BEST)
    chosen = {name: make for name, make in chosen.items() if only is None or name in only}
    given = work(problem)
    contenders, left_out = build(chosen, problem, given)
    medians = interleaved(contenders, repetitions)
    each = problem.steps if table == "training" else 1
    return Times(
        table,
        problem,
        {name: seconds / each for name, (seconds, _) in medians.items()},
        {name: cores for name, (_, cores) in medians.items()},
        left_out,
    )


def peak(name: str, problem: Problem) -> dict[str, float]:
    """MiB that a trainer's libraries need once they are loaded, and that its first fit adds, data included."""
    tiny = Problem((2, 2, 2), 2, batches=1)
    _, left_out = build({name: TRAINERS[name]}, tiny, work(tiny))  # loads everything that is loaded late
    if left_out:
        return {}
    before = high_water()
    build({name: TRAINERS[name]}, problem, work(problem))
    return {"loaded": before, "fit": high_water() - before}


def high_water() -> float:
    """The most memory this process has used so far, in MiB.

    On Linux from /proc: `ru_maxrss` of a new process begins with that of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, BLAS libraries with their kernels, versions."""
    info = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (info.read_text(encoding="utf-8").splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    with_floor = build({FLOOR: TRAINERS[FLOOR]}, Problem((2, 2), 1, batches=1), work(Problem((2, 2), 1, batches=1)))
    libraries = {"NumPy": floor.blas("numpy"), "the floor": floor.blas("scipy_openblas32") if with_floor[0] else {}}
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "blas": {
            name: f"OpenBLAS {lib['version']}, {lib['architecture']} kernels" if lib else "not OpenBLAS"
            for name, lib in libraries.items()
        },
        "versions": versions(PACKAGES),
    }


# -- other processes --------------------------------------------------------------------------------------------


def environment(threads: int, **more: str) -> dict[str, str]:
    """Variables under which every library uses this many threads; most read them only when they are loaded."""
    count = str(threads)
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    own = {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}
    return {**os.environ, **dict.fromkeys(names, count), **own, **more}


def command(function: Callable[..., Any]) -> list[str]:
    """A Python that reads arguments as JSON from its input and prints the function's answer as its last line."""
    code = (
        "import json, sys; from {0} import {1}; from chainrule.bench.measure import thaw, freeze; "
        "print(); print(json.dumps({1}(*map(thaw, json.loads(sys.stdin.readline()))), default=freeze))"
    )
    return [sys.executable, "-c", code.format(function.__module__, function.__name__)]


def freeze(value: Any) -> Any:
    """A dataclass as a JSON object."""
    return asdict(value)


def thaw(value: Any) -> Any:
    """The problem that `freeze` wrote; other values as they are."""
    if isinstance(value, dict) and "sizes" in value:
        return Problem(**{**value, "sizes": tuple(value["sizes"])})
    return value


def apart(function: Callable[..., Any], *arguments: Any, threads: int = 1, **variables: str) -> Any:
    """What the function returns in a fresh process with that many threads, as JSON has it.

    Raises:
        RuntimeError: the process failed; its last words are in the message.
    """
    given = json.dumps(arguments, default=freeze)
    result = subprocess.run(
        command(function), input=given + "\n", capture_output=True, text=True, env=environment(threads, **variables)
    )
    if result.returncode:
        raise RuntimeError(f"{function.__name__}{arguments}: {result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def obey(name: str, problem: Problem) -> None:
    """Be a contender for another process: "reset", "run" or "rest" on each line of the input, answered when it is done."""
    contender = TRAINERS[name](problem, work(problem))
    print("ready", flush=True)
    for line in sys.stdin:
        getattr(contender, line.strip())()
        print("done", flush=True)


def elsewhere(name: str, problem: Problem, variables: Mapping[str, str]) -> Contender:
    """A trainer in a process of its own with these environment variables, which takes part in the turns here."""
    child = subprocess.Popen(
        command(obey), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment(problem.threads, **variables),
    )  # fmt: skip
    assert child.stdin and child.stdout
    sent, answers = child.stdin, child.stdout

    def say(line: str, answer: str = "done") -> None:
        print(line, file=sent, flush=True)
        while (said := answers.readline()).strip() != answer:
            if not said:
                raise RuntimeError(f"{name} in a process of its own has ended")

    say(json.dumps([name, problem], default=freeze), "ready")
    return Contender(lambda: say("run"), lambda: say("reset"), lambda: say("rest"))


def import_seconds(modules: Iterable[str], repetitions: int = 5) -> dict[str, float]:
    """The median time of `import module` in a fresh process, in turn; modules that are not there are left out."""
    code = "import time; t = time.perf_counter(); import {}; print(); print(time.perf_counter() - t)"
    found: dict[str, list[float]] = {module: [] for module in modules}
    for repetition in range(repetitions + 1):  # the first fills the file cache
        for module, seconds in found.items():
            result = subprocess.run(
                [sys.executable, "-c", code.format(module)], capture_output=True, text=True, env=environment(1)
            )
            if result.returncode == 0 and repetition:
                seconds.append(float(result.stdout.splitlines()[-1]))
    return {module: statistics.median(seconds) for module, seconds in found.items() if seconds}
