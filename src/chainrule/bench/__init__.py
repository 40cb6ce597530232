"""The speed of chainrule beside its peers, measured in one run; `run` measures and `page` writes it down.

Peers are imported when they are measured; one that is missing is reported and left out. Install them with
`pip install torch` and `pip install "chainrule[bench]"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..arrays import check_count
from ..errors import ParameterError, unknown_name
from .measure import Times, apart, import_seconds, machine, peak, thaw, times
from .page import page
from .peers import BEST_SKLEARN, PEAK, TABLES, TRAINERS
from .problems import ACTIVATIONS, GROWTH, INFERENCE, JACOBIANS, PER_SAMPLE, TRAINING, Problem

__all__ = ["MAIN", "SECTIONS", "page", "run"]

Label = Callable[[Times], str]


def _network(found: Times) -> str:
    return f"{found.problem}, batch {found.problem.batch}"


def _activation(found: Times) -> str:
    return f"{_network(found)}, {found.problem.activation}"


def _growth(found: Times) -> str:
    return f"{_network(found)}, {found.problem.rows} rows"


def _rows(found: Times) -> str:
    return f"{found.problem}, {found.problem.rows} row{'s' * (found.problem.rows > 1)}"


def _table(found: Times) -> str:
    return f"{found.table}, {_rows(found)}"


# title → what to measure, as (table of contenders, problem), and what a row is called
SECTIONS: dict[str, tuple[list[tuple[str, Problem]], Label]] = {
    "Training": ([("training", p) for p in TRAINING], _network),
    "Activations": ([("training", p) for p in ACTIVATIONS], _activation),
    **{f"Growth with {what}": ([("training", p) for p in ps], _growth) for what, ps in GROWTH.items()},
    "Prediction": ([("prediction", p) for p in INFERENCE], _rows),
    "Per sample": (
        [
            ("per-sample gradients", PER_SAMPLE),
            ("per-sample norms", PER_SAMPLE),
            ("Jacobians (chainrule's as pairs of factors)", JACOBIANS),
        ],
        _table,
    ),
}
MAIN = ("Training", "Prediction", "Per sample")
MODULES = ["numpy", "chainrule", "sklearn.neural_network", "torch", "jax", "keras", "onnxruntime"]
MEMORY = TRAINING[2:4]


def run(
    sections: Sequence[str] = MAIN,
    threads: Iterable[int] = (1,),
    repetitions: int = 7,
    only: Sequence[str] | None = None,
    costs: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure; every row in a fresh process.

    Args:
        sections: titles from `SECTIONS`. threads: that everybody may use; each is a run of its own.
        repetitions: turns of each contender. only: the names of the contenders; all by default.
        costs: import times and memory too. say: called with a line on each thing as it is begun.

    Returns:
        what `page` draws: sections (title → list of `Times`), labels, machine, imports, memory.

    Raises:
        ParameterError: an unknown section or contender, or threads or turns below 1.
    """
    threads = list(threads)
    for title in sections:
        if title not in SECTIONS:
            raise unknown_name("bench", title, SECTIONS)
    if not threads or min(threads) < 1:
        raise ParameterError(f"bench: expected threads of at least 1, got {threads}.")
    check_count("bench", "turns", repetitions)
    known = dict.fromkeys([*(name for table in TABLES.values() for name in table), BEST_SKLEARN])
    for name in only or ():
        if name not in known:
            raise unknown_name("bench, only", name, known)
    found: dict[str, list[Times]] = {title: [] for title in sections}
    about = apart(machine, threads=max(threads))
    for title in sections:
        for count in threads:
            for table, problem in SECTIONS[title][0]:
                say(f"{title}, {count} threads: {table}, {problem}, batch {problem.batch}, {problem.activation}")
                given = apart(times, table, replace(problem, threads=count), repetitions, only, threads=count)
                found[title].append(Times(**{**given, "problem": thaw(given["problem"])}))
    imports: dict[str, float] = {}
    memory: dict[str, dict[str, dict[str, float]]] = {}
    if costs:
        say("import times and memory")
        imports = import_seconds(MODULES)
        names = [name for name in TRAINERS if name != PEAK and (only is None or name in only)]
        for problem in MEMORY:
            peaks = {name: apart(peak, name, problem) for name in names}
            memory[f"{problem}, batch {problem.batch}"] = {name: p for name, p in peaks.items() if p}
    labels = {title: SECTIONS[title][1] for title in sections}
    return {"sections": found, "labels": labels, "machine": about, "imports": imports, "memory": memory}
