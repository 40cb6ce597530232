"""Passes: the loops of one record, each compiled alone, once, and kept on disk.

A pass is a text that `lowering` writes, in a file of its own, named by the hash of that text, of the functions that it calls and
of the compiler's version. Numba compiles it in a fraction of a second and keeps the machine code beside it; the
next process loads that in milliseconds. Another formula is another text and another file, so no stale code can run.
The files may be read, and be deleted at any time.

    forward   z ← z + b, a ← g(z)                              n units of (rows, step), b (n,)
    in_place  z ← g(z + b)                                     the same, where nobody reads z
    backward  δ ← δ ⊙ g′(z, a), or g's own contraction         n units of (rows, step)
    value     L ← Σ_d ℒ                                        (rows,), float64
    slope     δ ← w ∂ℒ/∂ŷ, 0 where w is 0                      (rows, n), w (rows,)
    loss_and_slope  both at once, where w does not depend on L
    update    θ, slots ← the optimizer's rule of θ, scale g    (count,) each; counted up, so that no index may be negative
"""

from __future__ import annotations

import dis
import hashlib
import importlib
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache, wraps
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

from ..disk import replacing
from ..formulas.activations import Activation
from ..formulas.aggregators import Aggregator
from ..formulas.losses import Loss
from ..training.optimizers import Continued, Optimizer
from . import elementary, memory
from .kernel import COEFFICIENTS
from .lowering import (
    ELEMENT,
    NUMBER,
    ROW,
    ROWS_KEPT,
    Symbol,
    Untraceable,
    flat,
    in_order,
    kept,
    loop,
    rowwise,
    trace,
    unrolled,
)

FEW = 4  # units up to which a rowwise pass has lines of its own for each: for 8 LLVM finds no vector loop
BLOCK = 128  # samples in one block of a rowwise pass
SLOTS = 4  # vectors of state that an update rule may have; each is an argument, as LLVM must see that they are apart


class Pass(NamedTuple):
    """A pass before its compilation.

    Attributes:
        name, arguments, body: the function; arguments by name, with p for a pointer to numbers, d for one to float64,
            r for a number, i for a whole number.
        temporaries: arrays of scratch that it needs, each of n × BLOCK numbers.
        units: the only n that it is for, or 0.
        estimates: whether a division in float32 may be an estimate and a Newton step on x86, right to about 2⁻²², but
            for the last few of a part, which are divided as ever; no divisor may be 0 or infinite.
    """

    name: str
    arguments: Mapping[str, str]
    body: Sequence[str]
    temporaries: int = 0
    units: int = 0
    estimates: bool = False

    def scratch(self, n: int) -> int:
        """The numbers of scratch that the pass needs for rows of n."""
        return (ROWS_KEPT + self.temporaries * n) * BLOCK if self.temporaries else 0


# -- what may be kept -------------------------------------------------------------------------------------------------

Made = TypeVar("Made")


def lasting(record: object) -> bool:
    """Whether a record is this package's own, so that nothing that its formula names can change while it runs."""
    if isinstance(record, Continued):  # whose rule is the other's
        record = record.optimizer
    module: str = getattr(record, "make", type(record)).__module__ or ""  # exec has none
    return module.partition(".")[0] == __name__.partition(".")[0]


def once(function: Callable[..., Made]) -> Callable[..., Made]:
    """A function of a record whose results are kept; of a record from elsewhere they are made anew each time."""
    known = lru_cache(maxsize=1024)(function)

    @wraps(function)
    def found(record: Hashable, *others: Hashable) -> Made:
        return (known if lasting(record) else function)(record, *others)

    return found


# -- from records to passes -------------------------------------------------------------------------------------------


FORTH = {"z": "p", "a": "p", "b": "p", "kept": "p", "rows": "i", "n": "i", "step": "i"}


def forward(g: Activation, units: int = 0) -> Pass:
    """z ← z + b, a ← g(z); without a where that is z itself."""
    a = trace(lambda graph, xp: {"a": functions(g, xp)[0](graph.input("z", ELEMENT))})["a"]
    if g.rowwise:
        affine = elementwise(["z[i, k] = z[i, k] + b[k]"])
        rows, temporaries = by_rows(["z"], [], {"a": a}, units)
        return Pass("forward", FORTH, [*affine, *rows], temporaries, units)
    body = ["x = z[i, k] + b[k]", "z[i, k] = x"]
    if a.operation != "input":
        body += flat({"z": "x"}, {"a[i, k]": a})
    return Pass("forward", FORTH, elementwise(body))


def in_place(g: Activation, units: int = 0) -> Pass:
    """z ← g(z + b), of a g that works on numbers."""
    a = trace(lambda graph, xp: {"a": functions(g, xp)[0](graph.input("z", ELEMENT))})["a"]
    body = ["x = z[i, k] + b[k]", *flat({"z": "x"}, {"z[i, k]": a})]
    return Pass("in_place", FORTH, elementwise(body))


@once
def keeps(g: Activation) -> bool:
    """Whether a = z, so that no pass is needed."""
    return trace(lambda graph, xp: {"a": functions(g, xp)[0](graph.input("z", ELEMENT))})["a"].operation == "input"


@once
def reads_z(g: Activation) -> bool:
    """Whether the way back asks for z; else a may be written over it."""
    return any(s.operation == "input" and s.arguments[0] == "z" for s in in_order([dC_dz(g)]))


def dC_dz(g: Activation) -> Symbol:
    """∂C/∂z in terms of ∂C/∂a (delta), z and a."""

    def write(graph: Any, xp: Any) -> dict[str, Any]:
        dC_da, z, a = (graph.input(name, ELEMENT) for name in ("delta", "z", "a"))
        if g.rowwise:
            return {"delta": functions(g, xp)[2](dC_da, z, a)}
        return {"delta": dC_da * functions(g, xp)[1](z, a)}

    return trace(write)["delta"]


def backward(g: Activation, units: int = 0) -> Pass:
    """δ ← ∂C/∂z from δ = ∂C/∂a."""
    arguments = {"delta": "p", "z": "p", "a": "p", "kept": "p", "rows": "i", "n": "i", "step": "i"}
    delta = dC_dz(g)
    if g.rowwise:
        return Pass("backward", arguments, *by_rows(["delta", "z", "a"], [], {"delta": delta}, units), units)
    places = {name: f"{name}[i, k]" for name in ("delta", "z", "a")}
    return Pass("backward", arguments, elementwise(flat(places, {"delta[i, k]": delta})))


def value(loss: Loss, units: int = 0) -> Pass:
    """L ← Σ_d ℒ(z, y); z is ŷ, or the logits for a loss that is one of them."""
    arguments = {"z": "p", "y": "p", "L": "d", "kept": "p", "rows": "i", "n": "i"}

    def write(graph: Any, xp: Any) -> dict[str, Any]:
        return {"L": xp.row_sum(functions(loss, xp)[0](graph.input("z", ELEMENT), graph.input("y", ELEMENT)))}

    return Pass("value", arguments, *by_rows(["z", "y"], [], trace(write), units), units)


def slope(loss: Loss, units: int = 0) -> Pass:
    """δ ← w ∂L/∂z, and 0 where w is 0, whatever the loss is there."""
    arguments = {"z": "p", "y": "p", "w": "p", "delta": "p", "kept": "p", "rows": "i", "n": "i"}

    def write(graph: Any, xp: Any) -> dict[str, Any]:
        z, y, w = graph.input("z", ELEMENT), graph.input("y", ELEMENT), graph.input("w", ROW)
        return {"delta": xp.where(w == 0.0, 0.0, w * functions(loss, xp)[1](z, y))}

    return Pass("slope", arguments, *by_rows(["z", "y"], ["w"], trace(write), units), units)


def loss_and_slope(loss: Loss, units: int = 0) -> Pass:
    """`value` and `slope` in one: what they share is computed once."""
    arguments = {"z": "p", "y": "p", "w": "p", "L": "d", "delta": "p", "kept": "p", "rows": "i", "n": "i"}

    def write(graph: Any, xp: Any) -> dict[str, Any]:
        z, y, w = graph.input("z", ELEMENT), graph.input("y", ELEMENT), graph.input("w", ROW)
        value, derivative, _ = functions(loss, xp)
        return {"L": xp.row_sum(value(z, y)), "delta": xp.where(w == 0.0, 0.0, w * derivative(z, y))}

    return Pass("loss_and_slope", arguments, *by_rows(["z", "y"], ["w"], trace(write), units), units)


def update(optimizer: Optimizer) -> Pass:
    """θ, slots ← the rule."""
    arguments = {"theta": "p", "g": "p", **{f"slot_{k}": "p" for k in range(SLOTS)}, "coefficients": "d"}
    arguments |= {"eta": "r", "scale": "r", "count": "i"}
    slots, constants = optimizer.slots, len(optimizer.coefficients(1))

    def write(graph: Any, xp: Any) -> dict[str, Any]:
        theta, g, eta = (graph.input(*given) for given in (("theta", ELEMENT), ("g", ELEMENT), ("eta", NUMBER)))
        state = [graph.input(name, ELEMENT) for name in slots]
        numbers = [graph.input(f"coefficient {j}", NUMBER) for j in range(constants)]
        new = optimizer.rule(xp, float)(theta, g, eta, *state, *numbers)
        return dict(zip(("theta", *slots), new, strict=True))

    new = trace(write)
    places = {"theta": "theta[j]", "g": "(scale * g[j])", "eta": "eta"}
    places |= {name: f"slot_{k}[j]" for k, name in enumerate(slots)}
    places |= {f"coefficient {j}": f"coefficient_{j}" for j in range(constants)}
    lines = flat(places, {places[name]: symbol for name, symbol in new.items()})
    head = [f"coefficient_{j} = real(coefficients[{j}])" for j in range(constants)]
    return Pass("update", arguments, [*head, *loop("for j in range(count):", lines)], estimates=lasting(optimizer))


def functions(record: Activation | Loss, xp: Any) -> tuple[Callable[..., Any], ...]:
    """A record's functions on symbols."""
    return tuple(record.make(xp, float, **dict(record.parameters)))


def elementwise(body: Sequence[str]) -> list[str]:
    """A loop over samples i and units k."""
    return loop("for i in range(rows):", loop("for k in range(n):", body))


def by_rows(
    elements: Sequence[str], per_row: Sequence[str], outputs: Mapping[str, Symbol], units: int
) -> tuple[list[str], int]:
    """A rowwise formula of inputs by name, for so many units or (0) for any, and how many temporary arrays it needs."""
    return (one_by_one(elements, per_row, outputs, units), 0) if units else in_blocks(elements, per_row, outputs)


def one_by_one(elements: Sequence[str], per_row: Sequence[str], outputs: Mapping[str, Symbol], units: int) -> list[str]:
    """A loop over samples."""
    rows = {name: [f"{name}[i]"] for name in (*per_row, *outputs)}
    units_of = {name: [f"{name}[i, {k}]" for k in range(units)] for name in (*elements, *outputs)}
    results = [(s, (rows if s.rank == ROW else units_of)[name]) for name, s in outputs.items()]
    return loop("for i in range(rows):", unrolled(rows | units_of, results, units))


def in_blocks(elements: Sequence[str], per_row: Sequence[str], outputs: Mapping[str, Symbol]) -> tuple[list[str], int]:
    """Blocks of samples, on transposed copies of the inputs; and how many arrays they need."""
    places = {name: kept(j) for j, name in enumerate(elements)}
    copies = [f"{places[name]} = {name}[at + i, k]" for name in elements]
    first = len(places)
    written: dict[str, Symbol] = {}
    results = []
    for name, symbol in outputs.items():
        if symbol.rank == ROW:
            written[f"{name}[at + i]"] = symbol
        else:
            written[kept(first)] = symbol
            results.append(f"{name}[at + i, k] = {kept(first)}")
            first += 1
    inputs = places | {name: f"{name}[at + i]" for name in per_row}
    lines, first = rowwise(inputs, written, first)
    body = ["rows = min(BLOCK, samples - at)", *elementwise(copies), *lines, *elementwise(results)]
    return ["samples = rows", *loop("for at in range(0, samples, BLOCK):", body)], first


# -- from passes to machine code --------------------------------------------------------------------------------------

_SHAPES = {
    "b": "(n,)",
    "L": "(rows,)",
    "w": "(rows,)",
    "theta": "(count,)",
    "g": "(count,)",
    "coefficients": f"({COEFFICIENTS},)",
} | {f"slot_{k}": "(count,)" for k in range(SLOTS)}


def text(given: Pass, dtype: str) -> str:
    """The Python module of a pass."""
    shapes = _SHAPES | {"kept": f"({ROWS_KEPT} + {given.temporaries} * n, BLOCK)"}
    types = {"p": "types.CPointer(number)", "d": "types.CPointer(types.float64)", "r": "number", "i": "types.int64"}
    pointers = [name for name, kind in given.arguments.items() if kind in "pd"]
    used = [name for name in pointers if name != "kept" or given.temporaries]
    matrix = f"(rows, {given.units or ('step' if 'step' in given.arguments else 'n')})"
    views = [f"{name} = carray({name}_, {shapes.get(name, matrix)})" for name in used]
    names = ", ".join(f"{name}_" if name in pointers else name for name in given.arguments)
    signature = ", ".join(types[kind] for kind in given.arguments.values())
    flags = {"contract", "nsz"}
    if given.estimates and dtype == "float32":
        flags |= {"arcp", "ninf"}
    lines = [
        f'"""Written by chainrule from a formula: {given.name}, {dtype}."""',
        "import numpy as np",
        "from numba import carray, cfunc, types",
        f"from chainrule.engine import {dtype} as xp",
        "from chainrule.engine.memory import widest",
        f"real, number, BLOCK = np.{dtype}, types.{dtype}, {BLOCK}",
        f"@cfunc(types.void({signature}), cache=True, error_model='numpy', fastmath=set({sorted(flags)}))",
        f"def {given.name}({names}):",
        *(f"    {line}" for line in ["widest()", *views, *given.body]),
    ]
    return "\n".join(lines) + "\n"


class Compiled(NamedTuple):
    """A compiled pass: where its code is, and how much scratch it needs for rows of n."""

    address: int
    scratch: Callable[[int], int]


def compile(given: Pass, dtype: str) -> Compiled:
    """The machine code of a pass, compiled now or loaded from the disk.

    Raises:
        numba.core.errors.NumbaError: the compiler refuses it.
    """
    return Compiled(int(loaded(text(given, dtype), given.name).address), given.scratch)


def ready(kind: Callable[..., Pass], record: Activation | Loss, dtype: str, n: int) -> Compiled:
    """The pass of a record for n units, which of few has lines of its own for each.

    Raises:
        Untraceable, numba.core.errors.NumbaError: the record is no loop over numbers.
    """
    rowwise = isinstance(record, Loss) or record.rowwise
    return made(record, kind, dtype, n if rowwise and n <= FEW else 0)


@once
def made(record: Any, kind: Callable[..., Pass], dtype: str, *units: int) -> Compiled:
    """`compile(kind(record, *units), dtype)`."""
    return compile(kind(record, *units), dtype)


def ready_update(optimizer: Optimizer, dtype: str) -> Compiled:
    """The optimizer's compiled rule.

    Raises:
        Untraceable, numba.core.errors.NumbaError: the rule is no loop over numbers.
    """
    if isinstance(optimizer, Continued):  # whose rule is the other's
        return ready_update(optimizer.optimizer, dtype)
    return made(optimizer, update, dtype)


def aggregate(phi: Aggregator) -> int:
    """The address of (L, s, dC_dL, φ, mean_weight, rows), all float64: φ and ∂φ/∂L of a batch, by φ's own function.

    φ looks at all samples at once, sorts and takes quantiles, so its function is compiled as it stands; the text has
    the hash of all that it is made of.

    Raises:
        ImportError, AttributeError: it cannot be imported by its name.
        Untraceable: it names what may change unseen.
        numba.core.errors.NumbaError: the compiler refuses it.
    """
    module, name = phi.make.__module__, phi.make.__qualname__
    if module == "__main__":
        raise ImportError("it stands in a script, and only those of a module are compiled")
    found = getattr(importlib.import_module(module), name)
    if getattr(found, "make", found) is not phi.make:
        raise ImportError(f"{module} holds another {name}")
    code = hashlib.sha256("\n".join(makes_up(phi.make)).encode()).hexdigest()
    parameters = "".join(f", {value!r}" for _, value in phi.parameters)
    source = f'''"""Written by chainrule: the aggregate {phi.name} from {module}, code {code}."""
from types import FunctionType
from numba import carray, cfunc, njit, types
from {module} import {name} as found
def compiled(function):
    code, near = function.__code__, dict(function.__globals__)
    helpers = [n for n in code.co_names if isinstance(near.get(n), FunctionType) and near[n] is not function]
    near |= {{n: compiled(near[n]) for n in helpers}}
    return njit(FunctionType(code, near, function.__name__, function.__defaults__, function.__closure__))
phi = compiled(getattr(found, "make", found))
vector, number = types.CPointer(types.float64), types.float64
@cfunc(types.void(vector, vector, vector, vector, number, types.int64), cache=True, error_model="numpy")
def aggregate(L_, s_, dC_dL_, value_, mean_weight, rows):
    value, gradient = phi(carray(L_, (rows,)), carray(s_, (rows,)), mean_weight{parameters})
    carray(value_, (1,))[0] = value
    carray(dC_dL_, (rows,))[:] = gradient
'''
    return int(loaded(source, "aggregate").address)


def makes_up(function: Callable[..., Any], *callers: Callable[..., Any]) -> Iterator[str]:
    """What a function does, as text: its code, the functions that it calls, and the numbers that it names.

    Raises:
        Untraceable: it names something else, which may change unseen, or calls itself.
    """
    if function in callers:
        raise Untraceable(f"{function.__name__} calls itself")
    codes = [function.__code__]
    for code in codes:
        numbers = [repr(value) for value in code.co_consts if not isinstance(value, CodeType)]
        yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {numbers}"
        codes += [value for value in code.co_consts if isinstance(value, CodeType)]
    yield repr(function.__defaults__)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    named = [
        function.__globals__.get(instruction.argval)
        for code in codes
        for instruction in dis.get_instructions(code)
        if instruction.opname == "LOAD_GLOBAL"
    ]
    for value in (*cells, *named):
        if isinstance(value, FunctionType):
            yield from makes_up(value, *callers, function)
        elif isinstance(value, int | float | complex | str | tuple | np.generic):
            yield repr(value)
        elif not (value is None or value is np or value is math):
            raise Untraceable(f"{function.__name__} names {value!r:.40}, which may change unseen")


@lru_cache(maxsize=1024)
def loaded(source: str, name: str) -> Any:
    """The function `name` of a module's text, which stays loaded."""
    path = directory() / f"{name}_{hashlib.sha256((source + surroundings()).encode()).hexdigest()[:24]}.py"
    if not path.exists():
        with replacing(path) as stream:
            stream.write(source.encode())
    spec = importlib.util.spec_from_file_location(f"chainrule_passes.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where Numba looks for it
    spec.loader.exec_module(module)
    return getattr(module, name)


@lru_cache(maxsize=1)
def surroundings() -> str:
    """What a pass depends on besides its text."""
    texts = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (elementary, memory)]
    return f"{texts[0]}{texts[1]}\n{numba.__version__} {np.__version__} {sys.version}"


@lru_cache(maxsize=1)
def directory() -> Path:
    """Where passes are kept: CHAINRULE_CACHE, or the user's cache directory, or a temporary one if that is read-only."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache")
    path = Path(os.environ.get("CHAINRULE_CACHE") or home / "chainrule") / "passes"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="chainrule-passes-"))
