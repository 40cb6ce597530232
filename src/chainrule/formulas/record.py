"""What every formula record shares: a name, parameters, the formula as text, and the code, written once.

The code is a function `make(xp, real, **parameters)` that returns the value and its derivatives. `xp` holds
the functions that a formula may call and `real` makes its literals (`real(1)`), so the same lines serve
float32, float64, complex-step differentiation and, compiled, a training loop.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from numbers import Real
from typing import Any, Self, TypeVar, cast

import numpy as np

from ..arrays import Array, frozen, namespace
from ..errors import ParameterError, ShapeError, unknown_name

Function = Callable[..., Any]
Limit = tuple[str, Callable[[float], bool]]

ABOVE_0: Limit = ("above 0", partial(operator.lt, 0))
AT_LEAST_0: Limit = ("of at least 0", partial(operator.le, 0))


@dataclass(frozen=True, repr=False)
class Record:
    """A named formula.

    Attributes:
        name: how it is called in settings and files.
        make: (xp, real, **parameters) → the functions (value, first derivative, second derivative).
        formula: the value in SymPy's syntax, which the tests differentiate and compare with `make`.
        source: where it comes from: a seed and its equation, or a paper.
        parameters: sorted (name, number) pairs, such as (("slope", 0.01),).
        limits: what holds of a parameter, in words and as a function, by its name: {"slope": ("above 0", lambda v: v > 0)}.
    """

    name: str
    make: Callable[..., Any]
    formula: str = ""
    source: str = ""
    parameters: tuple[tuple[str, float], ...] = field(default=())
    limits: Mapping[str, Limit] = field(default_factory=dict, kw_only=True, hash=False)

    def __call__(self, *values: float, **named: float) -> Self:
        """The same formula with other parameters: `leaky_relu(0.2)`, `huber(delta=2)`.

        Raises:
            ParameterError: a parameter that the formula does not have, that is no number, or beyond its limit.
        """
        known = [name for name, _ in self.parameters]
        if len(values) > len(known):
            raise ParameterError(f"{self.name}: expected at most {len(known)} parameters, got {len(values)}.")
        given = dict(zip(known, values, strict=False))
        if twice := given.keys() & named.keys():
            raise ParameterError(f"{self.name}: expected each parameter once, got {', '.join(sorted(twice))} twice.")
        given |= named
        for name, value in given.items():
            if name not in known:
                raise unknown_name(f"{self.name}: parameter", name, known or ["(none)"])
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ParameterError(f"{self.name}: expected {name} to be a number, got {value!r}.")
        try:
            exact = {name: float(value) for name, value in given.items()}
        except OverflowError:
            raise ParameterError(f"{self.name}: expected finite parameters, got one that is too large.") from None
        for name, number in exact.items():
            if not math.isfinite(number):
                raise ParameterError(f"{self.name}: expected {name} to be a finite number, got {number}.")
        for name, (words, holds) in self.limits.items():
            if name in exact and not holds(exact[name]):
                raise ParameterError(f"{self.name}: expected {name} {words}, got {exact[name]:g}.")
        return replace(self, parameters=tuple((dict(self.parameters) | exact).items()))

    def on(self, z: Array) -> tuple[Function, ...]:
        """The functions bound to the kind of array that z is."""
        return _bind(self.make, self.parameters, namespace(z))

    def part(self, z: Array, k: int, what: str) -> Function:
        """The function number k of those, which a record of one's own may leave out; it cannot change its arguments.

        Raises:
            ParameterError: it does.
        """
        functions = self.on(z)
        if len(functions) <= k or functions[k] is None:
            raise ParameterError(
                f"{self}: expected a record with a {what}, got none. Return it too, as function {k + 1}."
            )
        function = functions[k]
        if self.make.__module__ and self.make.__module__.partition(".")[0] == __name__.partition(".")[0]:
            return function
        return lambda *arrays: function(*map(frozen, arrays))

    def shaped(self, what: str, found: Array, shape: tuple[int, ...]) -> Array:
        """What a function gave.

        Raises:
            ShapeError: it has another shape, as it can with a record of one's own.
        """
        if np.shape(found) != shape:
            raise ShapeError(f"{self}: expected a {what} of shape {shape}, got {np.shape(found)}.")
        return found

    def same(self, other: Record) -> bool:
        """Whether both have the same code, whatever their names and parameters."""
        return self.make is other.make

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its name where a module holds it, else part by part with its function.

        pickle refuses a function that it would not find again. A script's own functions other processes may not have:
        joblib sends their code, and pickle their name, which is the record's.
        """
        module, name = self.make.__module__, self.make.__qualname__.removesuffix(".make")
        found = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, Record) and found.same(self):
            if module != "__main__":
                return _find_again, (module, name, self.parameters)
            self.make.__qualname__ = f"{name}.make"  # where pickle finds it: the name itself is the record's
        return _put_together, (type(self), {f.name: getattr(self, f.name) for f in fields(self)})

    def __deepcopy__(self, memo: object) -> Self:
        """Itself, as nothing in it changes."""
        return self

    @property
    def spec(self) -> str:
        """The name with every parameter, exact: what files hold and `find` reads."""
        inner = ", ".join(f"{name}={repr(value).removesuffix('.0')}" for name, value in self.parameters)
        return f"{self.name}({inner})" if inner else self.name

    def __repr__(self) -> str:
        return self.spec

    def __str__(self) -> str:
        defaults = {p.name: p.default for p in inspect.signature(self.make).parameters.values()}
        changed = tuple(pair for pair in self.parameters if pair[1] != defaults.get(pair[0]))
        return replace(self, parameters=changed).spec


def _put_together(kind: type[Record], parts: dict[str, Any]) -> Record:
    """A record of its parts."""
    return kind(**parts)


def _find_again(module: str, name: str, parameters: tuple[tuple[str, float], ...]) -> Record:
    """The record that a module holds under its function's name, with other parameters."""
    record: Record = operator.attrgetter(name)(importlib.import_module(module))
    return replace(record, parameters=parameters)


@lru_cache(maxsize=512)
def _bind(
    make: Callable[..., tuple[Function, ...]], parameters: tuple[tuple[str, float], ...], where: Any
) -> tuple[Function, ...]:
    xp, real = where
    functions = make(xp, real, **{name: real(value) for name, value in parameters})
    if not isinstance(functions, tuple | list):
        raise ParameterError(
            f"{make.__name__}: expected the functions (value, first derivative, second derivative), got {functions!r:.60}."
        )
    return tuple(functions)


def default_parameters(make: Callable[..., Any], skip: int = 2) -> tuple[tuple[str, float], ...]:
    """The parameters of `make` beyond its first `skip`, with their defaults."""
    extra = list(inspect.signature(make).parameters.values())[skip:]
    for p in extra:
        if isinstance(p.default, bool) or not isinstance(p.default, Real):
            got = "none" if p.default is p.empty else repr(p.default)
            raise ParameterError(f"{make.__name__}: expected a number as default of the parameter {p.name}, got {got}.")
    return tuple((p.name, float(p.default)) for p in extra)


R = TypeVar("R", bound=Record)
T = TypeVar("T")


def find(where: str, given: R | str, kind: type[R], catalogue: Mapping[str, R]) -> R:
    """A record from a record, a name, or a name with parameters such as "huber(delta=2)" or "leaky_relu(0.2)".

    Raises:
        ParameterError: neither of them, or a name that the catalogue lacks.
    """
    if isinstance(given, kind):
        return given
    if not isinstance(given, str):
        raise ParameterError(f"{where}: expected a name or a {kind.__name__} record, got {given!r}.")
    record, values, named = looked_up(where, given, catalogue)
    return cast(R, record(*values, **named)) if values or named else record


def looked_up(where: str, given: str, catalogue: Mapping[str, T]) -> tuple[T, list[Any], dict[str, Any]]:
    """What a catalogue has by the name in "name" or "name(1, key=2)", and the values in brackets.

    Raises:
        ParameterError: an unknown name, or brackets that hold something other than values.
    """
    name, bracket, rest = given.strip().partition("(")
    name = name.strip()
    if name not in catalogue:
        raise unknown_name(where, name, catalogue)
    if not bracket:
        return catalogue[name], [], {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        values = [ast.literal_eval(a) for a in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise ParameterError(f"{where}: expected a form such as {name}(0.5), got {given!r}.") from None
    return catalogue[name], values, named
