"""The page of results, in Markdown, from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .measure import Times
from .peers import BEST_SKLEARN, FLOOR, PEAK


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def digits(value: float) -> str:
    """Three significant digits, and never more than are before the point."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ours(found: Times) -> float | None:
    """The fastest form of chainrule."""
    return min((s for name, s in found.seconds.items() if name.startswith("chainrule")), default=None)


def peers(found: Times) -> list[float]:
    """The times of everybody else, without the floors."""
    return [s for name, s in found.seconds.items() if not name.startswith("chainrule") and name not in (FLOOR, PEAK)]


def ratio(theirs: float | None, mine: float | None, floor: float | None) -> str:
    """How many times as fast chainrule is, and in parentheses how many times the floor is."""
    if not (theirs and mine):
        return "–"
    return digits(theirs / mine) + (f" ({digits(theirs / floor)})" if floor else "")


def timing(results: Sequence[Times], what: Callable[[Times], str]) -> str:
    """µs for each contender in the columns, then chainrule against the fastest peer, scikit-learn and the floors.

    Where there is a floor, the ratios that a step of the products alone would have stand in parentheses.
    """
    names = list(dict.fromkeys(name for found in results for name in found.seconds))
    with_sklearn = any(name.startswith("scikit-learn") for name in names)
    head = [
        "",
        *names,
        "× fastest peer",
        *["× scikit-learn"] * with_sklearn,
        *["share of the floor"] * (FLOOR in names),
        *["share of the peak"] * (PEAK in names),
    ]
    rows = []
    for found in results:
        row = [what(found), *(digits(1e6 * found.seconds[n]) if n in found.seconds else "–" for n in names)]
        mine, others = ours(found), peers(found)
        sklearn = min((found.seconds[n] for n in ("scikit-learn", BEST_SKLEARN) if n in found.seconds), default=None)
        least = found.seconds.get(FLOOR)
        row.append(ratio(min(others, default=None), mine, least))
        if with_sklearn:
            row.append(ratio(sklearn, mine, least))
        for floor in (FLOOR, PEAK):
            if floor in names:
                row.append(f"{found.seconds[floor] / mine:.0%}" if mine and floor in found.seconds else "–")
        rows.append(row)
    return markdown(head, rows)


def busy(results: dict[str, Any]) -> float | None:
    """The smallest share of a core that a contender got, where it is less than it should be; a child's is not known."""
    shares = [
        share
        for rows in results["sections"].values()
        for found in rows
        for name, share in found.cores.items()
        if name != BEST_SKLEARN
    ]
    least = min(shares, default=1.0)
    return least if least < 0.9 else None


def page(results: dict[str, Any]) -> str:
    """The whole page from what `run` returned."""
    about = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    blas = "; ".join(f"{name}: {library}" for name, library in about["blas"].items())
    parts = [
        "# Benchmarks",
        "Written by `chainrule bench`. Median µs of one training step, or of one call, with everybody timed in turn (A B C A B C …) "
        "in one process for each row; between turns the process waits until no thread spins any more. A fit starts from "
        "the same parameters with a new optimizer in every turn; compiling is not counted. “× peer” says how many times as fast "
        "chainrule is (its fastest form); the share of the floor is the time of a step's matrix products alone, in OpenBLAS, over chainrule's "
        "time; its own products are faster for many shapes, and for large layers by half again on a processor with a matrix unit "
        "(AMX), so that a whole step can take less than this floor. In "
        "parentheses: the ratio that a step would have if it took as long as these products. The share of the peak is the time of as "
        "many multiply-adds in registers, with nothing read or written, over chainrule's: what the vector units can do at most. No program "
        "reaches a ratio above chainrule's divided by this share, but on a matrix unit.",
        f"{about['processor']}, {about['cores']} cores; {about['system']}; Python {about['python']}; {versions}. "
        f"BLAS: {blas}. Load average when it began: {about['load']}.",
    ]
    if share := busy(results):
        parts.append(
            f"**The machine was busy: contenders got down to {share:.0%} of one core. These numbers are no good.** "
            "Waiting threads make it worst for those who use several."
        )
    for title, rows in results["sections"].items():
        for threads in sorted({found.problem.threads for found in rows}):
            these = [found for found in rows if found.problem.threads == threads]
            parts += [f"## {title}, {threads} thread{'s' * (threads > 1)}", timing(these, results["labels"][title])]
    if results["imports"]:
        parts += [
            "## Import time",
            markdown(["module", "ms"], [[name, digits(1e3 * s)] for name, s in results["imports"].items()]),
        ]
    for problem, peaks in results["memory"].items():
        rows = [[name, digits(found["loaded"]), digits(found["fit"])] for name, found in peaks.items()]
        parts += [
            f"## Peak memory of a fit, {problem}",
            markdown(["MiB", "once loaded", "added by data and fit"], rows),
        ]
    missing = dict.fromkeys(
        f"{name}: {why}"
        for rows in results["sections"].values()
        for found in rows
        for name, why in found.left_out.items()
    )
    if missing:
        parts += ["## Left out", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"
