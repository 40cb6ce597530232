"""A record's formula text, differentiated by SymPy and evaluated with 50 digits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from ..arrays import Array
from ..formulas.losses import Loss
from ..formulas.record import Record


@lru_cache(maxsize=256)
def parsed(formula: str, parameters: tuple[tuple[str, float], ...], variable: str, n: int) -> list[Any]:
    """A formula and its derivatives as SymPy expressions: three, or of a formula over a row the n values and n × n slopes.

    The symbols are `variable` and y, or z1 … zn and y1 … yn. It gives none where SymPy is missing or cannot read it.
    """
    try:
        sympy = import_module("sympy")
        given = {name: sympy.Float(value, 60) for name, value in parameters}
        if "[" not in formula:
            names = {name: sympy.Symbol(name, real=True) for name in (variable, "y")}
            text = sympy.sympify(formula, locals=names | given)
            return [sympy.diff(text, names[variable], order) for order in range(3)]
        z, y = (sympy.symbols(f"{name}1:{n + 1}", real=True) for name in "zy")
        row, target = sympy.IndexedBase("z"), sympy.Symbol("y")
        j, k = sympy.symbols("j k", integer=True)
        text = sympy.sympify(formula, locals={"z": row, "j": j, "k": k, "n": n, "y": target} | given).doit()
        at = {row[m + 1]: z[m] for m in range(n)}
        values = [text.subs(k, i + 1).subs(at).subs(target, y[i]) for i in range(n)]
        return [values, [[value.diff(symbol) for symbol in z] for value in values]]
    except Exception:  # a text that is no formula is no witness
        return []


def unread(records: Iterable[Record]) -> list[Record]:
    """Those of some activations and losses whose formula text SymPy cannot read."""
    named = {record: "y_hat" if isinstance(record, Loss) else "z" for record in records if record.formula}
    return [record for record, name in named.items() if not parsed(record.formula, record.parameters, name, 1)]


def evaluate(text: Any, values: dict[str, float]) -> Any:
    """Expressions, in lists or alone, with 50 digits; NaN where one is no number or far out, where it would cost minutes."""
    if isinstance(text, list):
        return [evaluate(part, values) for part in text]
    if any(abs(value) > (30 if name.startswith("z") else 1e6) for name, value in values.items()):
        return np.nan
    sympy = import_module("sympy")
    at = {s: sympy.Float(float(values[s.name]), 60) for s in text.free_symbols if s.name in values}
    try:
        return float(sympy.re(text.subs(at).evalf(50)))
    except (TypeError, ValueError):
        return np.nan


def by_formula(record: Record, at: dict[str, Array]) -> list[Array]:
    """A record's value and its derivatives by the first variable, shaped as its functions give them; NaN where unknown.

    `at` holds z, or ŷ and y, (M, n) by name. An elementwise text gives three arrays (M, n). A text over rows gives the
    value, and the Jacobians (M, n, n) of an activation or the derivative (M, n) of a loss that is summed over outputs.
    """
    x, *targets = at.values()
    text = parsed(record.formula, record.parameters, next(iter(at)), x.shape[1] if "[" in record.formula else 1)
    if "[" not in record.formula:
        places = [dict(zip(at, place, strict=True)) for place in zip(*(v.flat for v in at.values()), strict=True)]
        return [np.array([evaluate(part, place) for place in places]).reshape(x.shape) for part in text]
    letters = dict(zip("zy", at.values(), strict=False))
    rows = [{f"{c}{k}": value for c, v in letters.items() for k, value in enumerate(v[i], 1)} for i in range(len(x))]
    result = [np.array([evaluate(part, row) for row in rows]) for part in text]
    return [result[0], result[1].sum(axis=1)] if targets and result else result
