"""From a formula to a loop: a record's functions are run once on symbols, and what they did is written as Python.

The text has one loop over numbers, without temporaries, branches or calls back; Numba compiles it (`passes`). A value
that a formula uses twice is computed once. As the text is made anew from the record at every start, code compiled for
an older formula can never run: other formula, other text.

Three shapes of loops come out:

- `flat`: elementwise formulas, one loop over the numbers of an array;
- `rowwise`: formulas with `row_max` or `row_sum`, and sums of losses over the outputs of a sample. The loops run over
  the units outside and over the samples inside, on transposed copies;
- `unrolled`: the same for a few units, one loop over the samples in which each unit has its own lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NUMBER, ROW, ELEMENT = 0, 1, 2  # a value is one for all, one for each sample, or one for each sample and unit

UNARY = ("exp", "expm1", "log", "log1p", "sqrt", "tanh", "erf", "abs", "sign")
OPERATORS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "greater": ">",
    "less": "<",
    "greater_equal": ">=",
    "less_equal": "<=",
    "equal": "==",
    "not_equal": "!=",
    "bitwise_and": "&",
    "bitwise_or": "|",
}
REDUCTIONS = {"row_max": -math.inf, "row_sum": 0.0}  # with their values of no elements
ROWS_KEPT = 8  # row values that a rowwise loop may keep
# what these do to two truth values, as NumPy does: True + True is True
_LOGIC = {"add": "bitwise_or", "maximum": "bitwise_or", "multiply": "bitwise_and", "minimum": "bitwise_and"}
_COMPARISONS = ("greater", "less", "greater_equal", "less_equal", "equal", "not_equal")
_UFUNCS = {"true_divide": "divide", "absolute": "abs", "logical_and": "bitwise_and", "logical_or": "bitwise_or"}


class Untraceable(Exception):
    """A formula asks of its argument what only an array has; the array engine runs it."""


@dataclass(eq=False)
class Symbol:
    """A value in a formula: an input, a constant, or what an operation gives.

    Attributes:
        graph: where it belongs; the same operation on the same values is the same symbol there.
        operation, arguments: what it is. rank: NUMBER, ROW or ELEMENT. phase: how many row reductions come before it.
    """

    graph: Graph
    operation: str
    arguments: tuple[Any, ...]
    rank: int
    phase: int

    __hash__ = object.__hash__

    @property
    def is_truth(self) -> bool:
        """Whether the value is true or false."""
        if self.operation in _COMPARISONS:
            return True
        chosen = self.arguments[1:] if self.operation == "where" else self.arguments
        return self.operation in ("bitwise_and", "bitwise_or", "where") and all(a.is_truth for a in chosen)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Symbol:
        name = _UFUNCS.get(ufunc.__name__, ufunc.__name__)
        if method != "__call__" or options:
            raise Untraceable(f"numpy.{ufunc.__name__} with options")
        if name == "square":
            return self.graph.apply("multiply", self, self)
        if name in ("maximum", "minimum", *UNARY, *OPERATORS):
            return self.graph.apply(name, *inputs)
        if name in ("negative", "power"):
            return -self if name == "negative" else self.graph.symbol(inputs[0]) ** inputs[1]
        raise Untraceable(f"numpy.{ufunc.__name__}")

    def __bool__(self) -> bool:
        raise Untraceable("a decision by value; write xp.where")

    def __neg__(self) -> Symbol:
        return self.graph.apply("negative", self)

    def __abs__(self) -> Symbol:
        return self.graph.apply("abs", self)

    def __pow__(self, exponent: Any) -> Symbol:
        if isinstance(exponent, Symbol):
            raise Untraceable("a power with an exponent that is not a number")
        power = float(exponent)
        if power == 0.5:
            return self.graph.apply("sqrt", self)
        if power != int(power) or not 0 < abs(power) <= 16:
            return self.graph.apply("power", self, power)
        result = self
        for _ in range(int(abs(power)) - 1):
            result = self.graph.apply("multiply", result, self)
        return result if power > 0 else self.graph.apply("divide", 1.0, result)


def _operator(name: str, swapped: bool = False) -> Callable[[Symbol, Any], Symbol]:
    def method(self: Symbol, other: Any) -> Symbol:
        return self.graph.apply(name, other, self) if swapped else self.graph.apply(name, self, other)

    return method


for _name, _method in (("add", "add"), ("subtract", "sub"), ("multiply", "mul"), ("divide", "truediv")):
    setattr(Symbol, f"__{_method}__", _operator(_name))
    setattr(Symbol, f"__r{_method}__", _operator(_name, swapped=True))
for _name, _method in (("greater", "gt"), ("less", "lt"), ("greater_equal", "ge"), ("less_equal", "le")):
    setattr(Symbol, f"__{_method}__", _operator(_name))
for _name, _method in (("equal", "eq"), ("not_equal", "ne"), ("bitwise_and", "and"), ("bitwise_or", "or")):
    setattr(Symbol, f"__{_method}__", _operator(_name))


@dataclass
class Graph:
    """The symbols of one formula, in the order in which they came up."""

    symbols: dict[tuple[Any, ...], Symbol] = field(default_factory=dict)

    def input(self, name: str, rank: int) -> Symbol:
        """An argument of the formula."""
        return self._node("input", (name,), rank, 0)

    def symbol(self, value: Any) -> Symbol:
        """A symbol, or the constant that a number is."""
        if isinstance(value, Symbol):
            return value
        try:
            return self._node("constant", (float(value),), NUMBER, 0)
        except (TypeError, ValueError):
            raise Untraceable(f"{value!r} in a formula") from None

    def apply(self, operation: str, *values: Any) -> Symbol:
        """The result of an operation."""
        arguments = tuple(self.symbol(value) for value in values)
        if all(a.is_truth for a in arguments):
            operation = _LOGIC.get(operation, operation)
        if operation == "multiply":  # by 1, as the identity's derivative is
            for one, other in (arguments, arguments[::-1]):
                if one.operation == "constant" and one.arguments[0] == 1.0:
                    return other
        rank, phase = max(a.rank for a in arguments), max(a.phase for a in arguments)
        if operation not in REDUCTIONS:
            return self._node(operation, arguments, rank, phase)
        if rank == NUMBER and operation == "row_sum" and arguments[0].arguments != (0.0,):
            raise Untraceable("xp.row_sum of what is the same for all units, whose number it does not know")
        if rank != ELEMENT:  # one number in each row
            return arguments[0]
        return self._node(operation, arguments, ROW, phase + 1)

    def _node(self, operation: str, arguments: tuple[Any, ...], rank: int, phase: int) -> Symbol:
        key = (operation, *(id(a) if isinstance(a, Symbol) else repr(a) for a in arguments))
        if key not in self.symbols:
            self.symbols[key] = Symbol(self, operation, arguments, rank, phase)
        return self.symbols[key]


class Functions:
    """What a formula may call, on symbols: the names of `arrays.Namespace`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        for name in (*UNARY, *REDUCTIONS, "maximum", "minimum", "where"):
            setattr(self, name, self._function(name))

    def _function(self, name: str) -> Callable[..., Symbol]:
        return lambda *values: self._graph.apply(name, *values)

    def zeros_like(self, z: Any) -> Symbol:
        """0."""
        return self._graph.symbol(0.0)

    def ones_like(self, z: Any) -> Symbol:
        """1."""
        return self._graph.symbol(1.0)

    def __getattr__(self, name: str) -> Any:
        raise Untraceable(f"xp.{name}")


def trace(write: Callable[[Graph, Functions], Mapping[str, Any]]) -> dict[str, Symbol]:
    """The outputs, by name, of a formula that `write` runs on symbols of a new graph.

    Raises:
        Untraceable: it does what no loop over numbers does.
    """
    graph = Graph()
    try:
        return {name: graph.symbol(value) for name, value in write(graph, Functions(graph)).items()}
    except Untraceable:
        raise
    except Exception as error:  # whatever a formula of one's own does with its arguments, no loop does it
        raise Untraceable(f"{type(error).__name__}: {error}") from error


# -- text -------------------------------------------------------------------------------------------------------------


def in_order(outputs: Sequence[Symbol]) -> list[Symbol]:
    """The operations that the outputs need, each after its arguments."""
    done: dict[Symbol, None] = {}

    def visit(symbol: Symbol) -> None:
        if symbol in done:
            return
        for argument in symbol.arguments:
            if isinstance(argument, Symbol):
                visit(argument)
        done[symbol] = None

    for output in outputs:
        visit(output)
    return list(done)


def number(value: float) -> str:
    """A constant as text, of the loop's own type: a Python literal would widen float32."""
    return f"real({value!r})" if math.isfinite(value) else f"real({'-' if value < 0 else ''}np.{abs(value)!r})"


def expression(symbol: Symbol, names: Mapping[Symbol, str]) -> str:
    """One operation on named values."""
    arguments = [names[a] for a in symbol.arguments]
    if symbol.operation in OPERATORS:
        return f"{arguments[0]} {OPERATORS[symbol.operation]} {arguments[1]}"
    if symbol.operation == "negative":
        return f"-{arguments[0]}"
    if symbol.operation == "power":
        return f"{arguments[0]} ** {arguments[1]}"
    return f"xp.{symbol.operation}({', '.join(arguments)})"


def flat(inputs: Mapping[str, str], outputs: Mapping[str, Symbol]) -> list[str]:
    """The lines of one number's computation: `inputs` says where each is read, `outputs` where each is written."""
    names: dict[Symbol, str] = {}
    lines = []
    for symbol in in_order(list(outputs.values())):
        if symbol.operation == "constant":
            names[symbol] = number(symbol.arguments[0])
        elif symbol.operation == "input":
            names[symbol] = inputs[symbol.arguments[0]]
        elif symbol.operation in REDUCTIONS:
            raise Untraceable(f"xp.{symbol.operation} in an elementwise formula")
        else:
            names[symbol] = f"v{len(names)}"
            lines.append(f"{names[symbol]} = {expression(symbol, names)}")
    return lines + [f"{place} = {names[symbol]}" for place, symbol in outputs.items()]


def rowwise(inputs: Mapping[str, str], outputs: Mapping[str, Symbol], first: int) -> tuple[list[str], int]:
    """The lines that compute one block of `rows` samples with n units, and how many temporary arrays are taken then.

    `inputs` says where each input is read for unit k and sample i, `outputs` where each output is written. What one
    loop hands to the next is kept in `kept`: row values in kept[r, i], values of units in kept[ROWS_KEPT + j n + k, i],
    where the numbers j below `first` are taken.
    """
    order = in_order(list(outputs.values()))
    last_use: dict[Symbol, int] = {}
    for symbol in order:
        used_in = symbol.phase - 1 if symbol.operation in REDUCTIONS else symbol.phase
        for argument in symbol.arguments:
            if isinstance(argument, Symbol):
                last_use[argument] = max(last_use.get(argument, 0), used_in)

    names: dict[Symbol, str] = {}
    rows = 0
    for symbol in order:
        if symbol.operation == "constant":
            names[symbol] = number(symbol.arguments[0])
        elif symbol.operation == "input":
            names[symbol] = inputs[symbol.arguments[0]]
        elif symbol.rank == ROW:
            names[symbol], rows = f"kept[{rows}, i]", rows + 1
        elif last_use.get(symbol, 0) > symbol.phase:
            names[symbol], first = kept(first), first + 1
    if rows > ROWS_KEPT:
        raise Untraceable(f"more than {ROWS_KEPT} reductions over rows")

    lines: list[str] = []
    for phase in range(max(symbol.phase for symbol in order) + 1):
        here = [s for s in order if s.phase == phase and s.operation not in ("constant", "input", *REDUCTIONS)]
        reductions = [s for s in order if s.phase == phase + 1 and s.operation in REDUCTIONS]
        written = {place: s for place, s in outputs.items() if s.phase == phase}
        per_row = [f"{names[s]} = {expression(s, names)}" for s in here if s.rank == ROW]
        per_row += [f"{place} = {names[s]}" for place, s in written.items() if s.rank == ROW]
        per_row += [f"{names[s]} = {number(REDUCTIONS[s.operation])}" for s in reductions]
        body = []
        local = dict(names)
        for symbol in here:
            if symbol.rank == ELEMENT:
                local[symbol] = f"v{len(local)}"
                body.append(f"{local[symbol]} = {expression(symbol, local)}")
                if symbol in names:
                    body.append(f"{names[symbol]} = {local[symbol]}")
        body += [f"{place} = {local[s]}" for place, s in written.items() if s.rank != ROW]
        for s in reductions:
            total, value = names[s], local[s.arguments[0]]
            body.append(
                f"{total} = " + (f"xp.maximum({total}, {value})" if s.operation == "row_max" else f"{total} + {value}")
            )
        lines += loop("for i in range(rows):", per_row)
        lines += loop("for k in range(n):", loop("for i in range(rows):", body))
    return lines, first


def unrolled(
    inputs: Mapping[str, Sequence[str]], outputs: Sequence[tuple[Symbol, Sequence[str]]], units: int
) -> list[str]:
    """The lines that compute one sample of so many units.

    `inputs` and `outputs` say where each is read and written: a place for each unit, or one for the row.
    """
    names: dict[Symbol, Sequence[str]] = {}
    lines = []
    for symbol in in_order([symbol for symbol, _ in outputs]):
        if symbol.operation == "constant":
            names[symbol] = [number(symbol.arguments[0])]
        elif symbol.operation == "input":
            names[symbol] = inputs[symbol.arguments[0]]
        else:
            first = f"v{len(names)}"
            names[symbol] = [f"{first}_{k}" for k in range(units)] if symbol.rank == ELEMENT else [first]
            if symbol.operation in REDUCTIONS:
                of_row, *others = each(names[symbol.arguments[0]], units)
                for other in others:
                    of_row = (
                        f"xp.maximum({of_row}, {other})" if symbol.operation == "row_max" else f"{of_row} + {other}"
                    )
                lines.append(f"{first} = {of_row}")
                continue
            arguments = {a: each(names[a], units) for a in symbol.arguments}
            for k, name in enumerate(names[symbol]):
                lines.append(f"{name} = {expression(symbol, {a: of_units[k] for a, of_units in arguments.items()})}")
    for symbol, places in outputs:
        lines += [f"{place} = {name}" for place, name in zip(places, each(names[symbol], len(places)), strict=True)]
    return lines


def each(names: Sequence[str], units: int) -> Sequence[str]:
    """A name for each unit; what has only one is the same for all."""
    return names if len(names) == units else [names[0]] * units


def kept(j: int) -> str:
    """Where the j-th temporary array has the value of unit k and sample i."""
    return f"kept[{ROWS_KEPT} + {j} * n + k, i]"


def loop(head: str, body: Sequence[str]) -> list[str]:
    """The lines of a loop, or none where it has nothing to do."""
    return [head, *(f"    {line}" for line in body)] if body else []
