"""ONNX: the network, or several, with what stands before and after it as one graph, weights inside.

Every activation is the record's own formula: it is run on symbols (`engine.lowering`), and these become operators.
The operators are those of opset 18, which onnxruntime has since 1.14.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from ..core.layers import Dense
from ..engine.lowering import ELEMENT, Symbol, in_order, trace
from ..errors import ParameterError, require
from ..formulas.activations import softmax
from ..tables.columns import (
    DAY,
    WHOLE_TEXT,
    BooleanColumn,
    CategoryColumn,
    DateColumn,
    Encoder,
    NumberColumn,
    Tails,
    scaled,
)
from ..tables.targets import Target
from .model import Classes, Exported, exported, formula
from .model import write as write_file

OPSET, OPSET_ML, IR = 18, 3, 8
FLOAT64 = np.dtype(float)
LARGEST_FILE = 2 * 10**9  # bytes of weights; protobuf ends at 2 GiB
OPERATORS = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "negative": "Neg",
    "maximum": "Max",
    "minimum": "Min",
    "greater": "Greater",
    "less": "Less",
    "greater_equal": "GreaterOrEqual",
    "less_equal": "LessOrEqual",
    "equal": "Equal",
    "bitwise_and": "And",
    "bitwise_or": "Or",
    "where": "Where",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "abs": "Abs",
    "sign": "Sign",
}
ZEROS = 6  # after the point of a level, which is the same with them: a graph cannot take them off
TRUTHS = {"greater", "less", "greater_equal", "less_equal", "equal", "not_equal", "bitwise_and", "bitwise_or"}


def to_onnx(model: Any, path: str | os.PathLike[str] | None = None) -> bytes:
    """A model as an ONNX file that the ONNX checker has passed; with `path`, it is written there.

    A `Network` has one input "X" (N, n_0), in its own dtype, and one output "y_hat" (N, n_L).

    A `TableModel` or an `Ensemble` has one input (N,) for each raw column, by its name: numbers as double, NaN for a
    gap (times of day and durations in seconds); true and false as double 1 and 0, NaN for a gap; categories as text,
    where any text that training did not know is a gap, and 4, 4.0 … 4.000000 are the same; dates as int64 milliseconds since 1970-01-01 in local time, −2⁶³ for a gap, which is what
    `dates.astype("datetime64[ms]").astype("int64")` gives. Its outputs (N,) are the columns that `predict` gives, by
    their names: numbers and probabilities as double, classes as text, int64, double or bool.
    Of an ensemble they follow from the mean of the members' outputs.

    A `TabularClassifier` or `TabularRegressor` is its `model_`, one of these. Columns without names are x0, x1 … there,
    and y, or y0, y1 …

    An `MLPRegressor` has "X" and "prediction"; an `MLPClassifier` has "X", "label", and "probabilities" in the order
    of `classes_`, or "margins" with a loss of margins.

    A graph raises no errors: what the library refuses (infinite numbers, text among numbers) must be kept from it.
    onnxruntime has no erf in float64, so that GELU takes that one function in float32.

    Raises:
        ParameterError: a model that cannot be exported, an activation that does what only arrays can, a column
            without a name or called like an output, or weights of more than 2 GB.
        NotTrainedError: an estimator that is not fitted.
        OutputError: the file could not be written; what was there before is untouched.
        MissingExtraError: onnx is not installed.
    """
    onnx = require("onnx", "onnx", "Exporting to ONNX")
    parts = exported("to_onnx", model)
    if (size := sum(network.theta.nbytes for network in parts.networks)) > LARGEST_FILE:
        raise ParameterError(
            f"to_onnx: expected weights of at most 2 GB, which is all a file may have, got {size:,} bytes."
        )
    graph = Graph(onnx, parts)
    if parts.encoder is None:
        X = graph.input("X", parts.dtype, (parts.architecture.inputs,), "samples are rows")
    else:
        X = graph.cast(encode(graph, parts.encoder), parts.dtype)
    decode(graph, parts, [forward(graph, parts, number, X) for number in range(len(parts.networks))])
    content = graph.content()
    write_file(path, content)
    return content


class Graph:
    """An ONNX graph being written. A call adds a node and returns the name of its result."""

    def __init__(self, onnx: Any, parts: Exported) -> None:
        self.onnx = onnx
        self._taken = {column.name for column in parts.encoder.columns} if parts.encoder else {"X"}
        self._taken |= {"y_hat", "prediction", "label", "probabilities", "margins"}
        if parts.target is not None:
            self._taken |= {*parts.target.names, *parts.target.columns}
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._numbers: dict[tuple[str, str], str] = {}

    def input(self, name: str, dtype: Any, shape: tuple[int, ...], meaning: str) -> str:
        """An input (N, *shape)."""
        if not name:
            raise ParameterError(
                "to_onnx: expected a name for every column, got an empty one. Rename it, and train again."
            )
        self.inputs[name] = self._value(name, dtype, shape, meaning)
        return name

    def output(self, name: str, value: str, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        """Give a value (N, *shape) out under a name."""
        if name in self.inputs or name in self.outputs:
            raise ParameterError(f"to_onnx: expected different columns and outputs, got {name!r} twice. Rename it.")
        self.outputs[name] = self._value(name, dtype, shape, "")
        self._nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))

    def _value(self, name: str, dtype: Any, shape: tuple[int, ...], meaning: str) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self._type(dtype), ["rows", *shape], meaning)

    def _type(self, dtype: Any) -> Any:
        """A NumPy type as ONNX has it; text is `object` there."""
        found = np.dtype(dtype)
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(object) if found.kind == "U" else found)

    def _fresh(self, name: str) -> str:
        """A name that no column and no other value has."""
        while name in self._taken:
            name += "'"
        self._taken.add(name)
        return name

    def __call__(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = self._fresh(f"{operator} {len(self._nodes)}")
        self._nodes.append(self.onnx.helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def constant(self, value: Any, name: str = "") -> str:
        """An array, or a list of texts."""
        name = self._fresh(name or f"constant {len(self._constants)}")
        array = np.asarray(value)
        if array.dtype.kind in "OU":
            array = array.astype(object)
        self._constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def number(self, value: float, dtype: np.dtype[Any]) -> str:
        """A number, kept once."""
        key = dtype.name, repr(value)
        if key not in self._numbers:
            self._numbers[key] = self.constant(np.array(value, dtype))
        return self._numbers[key]

    def cast(self, value: str, dtype: Any) -> str:
        """The same values in another type."""
        return self("Cast", value, to=self._type(dtype))

    def column(self, value: str) -> str:
        """(N,) as (N, 1)."""
        return self("Unsqueeze", value, self.whole(1))

    def whole(self, *values: int) -> str:
        """A vector of whole numbers."""
        return self.constant(np.array(values, np.int64))

    def pick(self, value: str, places: Sequence[int] | int) -> str:
        """Columns of (N, k): a matrix of several, or (N,) of one."""
        return self("Gather", value, self.constant(np.array(places, np.int64)), axis=1)

    def beside(self, parts: Sequence[str]) -> str:
        """Matrices side by side."""
        return parts[0] if len(parts) == 1 else self("Concat", *parts, axis=1)

    def formula(self, result: Symbol, inputs: Mapping[str, str], dtype: np.dtype[Any]) -> str:
        """The value of a traced formula."""
        names: dict[Symbol, str] = {}
        truths: set[str] = set()

        def number(value: float) -> str:
            return self.number(value, dtype)

        def real(value: str) -> str:  # true and false count as 1 and 0
            return self.cast(value, dtype) if value in truths else value

        def truth(value: str) -> str:
            return value if value in truths else self.cast(value, bool)

        for symbol in in_order([result]):
            if symbol.operation == "constant":
                names[symbol] = number(symbol.arguments[0])
                continue
            if symbol.operation == "input":
                names[symbol] = inputs[symbol.arguments[0]]
                continue
            given = [names[a] for a in symbol.arguments]
            if symbol.operation in ("bitwise_and", "bitwise_or"):
                given = [truth(value) for value in given]
            elif symbol.operation == "where":
                given = [truth(given[0]), real(given[1]), real(given[2])]
            else:
                given = [real(value) for value in given]
            if operator := OPERATORS.get(symbol.operation):
                names[symbol] = self(operator, *given)
            else:
                names[symbol] = COMPOSED[symbol.operation](self, number, dtype, *given)
            if symbol.operation in TRUTHS:
                truths.add(names[symbol])
        name = real(names[result])
        if result.rank != ELEMENT:  # one number for all
            name = self("Expand", name, self("Shape", next(iter(inputs.values()))))
        return name

    def content(self) -> bytes:
        """The file, checked."""
        helper = self.onnx.helper
        used = {name for node in self._nodes for name in node.input}
        constants = [constant for name, constant in self._constants.items() if name in used]
        outputs = list(self.outputs.values())
        graph = helper.make_graph(self._nodes, "chainrule", list(self.inputs.values()), outputs, constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", OPSET_ML)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="chainrule")
        self.onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString()
        return content


def _expm1(graph: Graph, number: Callable[[float], str], dtype: np.dtype[Any], z: str) -> str:
    """tanh(z/2) (eᶻ + 1), which keeps the digits of small z."""
    half = graph("Tanh", graph("Mul", z, number(0.5)))
    return graph("Mul", half, graph("Add", graph("Exp", z), number(1.0)))


def _log1p(graph: Graph, number: Callable[[float], str], dtype: np.dtype[Any], z: str) -> str:
    """ln(u) z/(u − 1) with u = 1 + z as it is rounded (Kahan); z where u is 1, ln(u) where it is z."""
    u = graph("Add", z, number(1.0))
    log = graph("Log", u)
    exact = graph("Mul", log, graph("Div", z, graph("Sub", u, number(1.0))))
    return graph("Where", graph("Equal", u, number(1.0)), z, graph("Where", graph("Equal", u, z), log, exact))


def _erf(graph: Graph, number: Callable[[float], str], dtype: np.dtype[Any], z: str) -> str:
    if dtype == np.float32:
        return graph("Erf", z)
    return graph.cast(graph("Erf", graph.cast(z, np.float32)), dtype)


COMPOSED: dict[str, Callable[..., str]] = {
    "expm1": _expm1,
    "log1p": _log1p,
    "erf": _erf,
    "not_equal": lambda graph, number, dtype, a, b: graph("Not", graph("Equal", a, b)),
    "row_max": lambda graph, number, dtype, z: graph("ReduceMax", z, graph.whole(-1), keepdims=1),
    "row_sum": lambda graph, number, dtype, z: graph("ReduceSum", z, graph.whole(-1), keepdims=1),
}


def forward(graph: Graph, parts: Exported, network: int, X: str) -> tuple[str, str]:
    """The last z and ŷ of network 0, 1 …: `core.architecture.forward` as nodes. Inactive, dropout leaves nothing."""
    architecture, theta = parts.architecture, parts.networks[network].theta
    of = f" of network {network}" if parts.averaged else ""
    z = a = X
    for number, (layer, p) in enumerate(zip(architecture.layers, architecture.views(theta), strict=True), 1):
        if p.W is None:
            continue
        W = graph.constant(p.W, f"W{number}{of}")
        b = [] if p.b is None else [graph.constant(p.b, f"b{number}{of}")]
        if isinstance(layer, Dense) and layer.ntk:
            a = graph("Mul", a, graph.number(layer.factor, theta.dtype))
        z = graph("Gemm", a, W, *b, transB=1) if p.W.ndim == 2 else graph("Mul", a, W)
        a = graph.formula(formula(f"to_onnx, {architecture.describe(number)}", layer.g), {"z": z}, theta.dtype)
    return z, a


# -- before the network -------------------------------------------------------------------------------------------------


def encode(graph: Graph, encoder: Encoder) -> str:
    """The features (N, n_0) in float64 from an input for each column: `Encoder.encode` as nodes."""
    numbers: list[tuple[NumberColumn, range, str]] = []
    blocks: list[tuple[Sequence[int], str]] = []  # which features, and their values
    stop = 0
    for column in encoder.columns:
        places = range(stop, stop := stop + len(column.features))
        if isinstance(column, NumberColumn):
            numbers.append((column, places, graph.input(column.name, float, (), "a number; NaN is a gap")))
        elif isinstance(column, BooleanColumn):
            blocks.append((places, _signs(graph, column)))
        elif isinstance(column, CategoryColumn):
            blocks.append((places, _levels(graph, column)))
        else:
            when = graph.input(column.name, np.int64, (), "milliseconds since 1970-01-01, local time; −2⁶³ is a gap")
            gap = graph("Equal", when, graph.constant(np.iinfo(np.int64).min))
            days = graph("Div", graph.cast(when, float), graph.number(DAY, FLOAT64))
            known = len(column.day.features)
            numbers.append((column.day, places[:known], graph("Where", gap, graph.number(np.nan, FLOAT64), days)))
            blocks.append((places[known:], _waves(graph, column, days, gap)))
    for tails in get_args(Tails):
        if alike := [given for given in numbers if given[0].tails == tails]:
            blocks += _numbers(graph, alike, tails)
    features = [place for places, _ in blocks for place in places]
    X = graph.beside([value for _, value in blocks])
    return X if features == sorted(features) else graph.pick(X, np.argsort(features).tolist())


def _numbers(
    graph: Graph, given: list[tuple[NumberColumn, range, str]], tails: Tails
) -> list[tuple[Sequence[int], str]]:
    """Numbers side by side, scaled, and then the indicators of their gaps."""
    x = graph.beside([graph.column(value) for _, _, value in given])
    gap = graph("IsNaN", x)
    values = {
        name: graph.constant(np.array([getattr(column, name) for column, _, _ in given]))
        for name in ("median", "center", "factor")
    }

    def write(symbols: Any, xp: Any) -> dict[str, Any]:
        x, center, factor = (symbols.input(name, ELEMENT) for name in ("x", "center", "factor"))
        return {"z": scaled(x, center, factor, tails)}

    z = graph.formula(trace(write)["z"], {"x": graph("Where", gap, values["median"], x)} | values, FLOAT64)
    blocks: list[tuple[Sequence[int], str]] = [([places[0] for _, places, _ in given], z)]
    marked = [k for k, (column, _, _) in enumerate(given) if column.gaps]
    if marked:
        blocks.append(([given[k][1][1] for k in marked], graph.cast(graph.pick(gap, marked), float)))
    return blocks


def _signs(graph: Graph, column: BooleanColumn) -> str:
    """(N, 1): +1 for true, −1 for false, 0 for a gap."""
    x = graph.column(graph.input(column.name, float, (), "1 is true, 0 is false, NaN is a gap"))
    one, two, zero = (graph.number(value, FLOAT64) for value in (1.0, 2.0, 0.0))
    return graph("Where", graph("IsNaN", x), zero, graph("Sub", graph("Mul", x, two), one))


def _levels(graph: Graph, column: CategoryColumn) -> str:
    """(N, k) from text (N,)."""
    text = graph.input(column.name, object, (), "text; what training did not know is a gap")
    places = dict(zip(column.levels, range(len(column.levels)), strict=True))
    whole = {level: k for level, k in places.items() if re.match(WHOLE_TEXT, f"{level}.0")}
    places |= {f"{level}.{'0' * zeros}": k for level, k in whole.items() for zeros in range(1, ZEROS + 1)}
    index = graph(
        "LabelEncoder",
        text,
        domain="ai.onnx.ml",
        keys_strings=list(places),
        values_int64s=list(places.values()),
        default_int64=len(column.levels),
    )
    return graph("Gather", graph.constant(column.codes), index, axis=0)


def _waves(graph: Graph, column: DateColumn, days: str, gap: str) -> str:
    """`tables.columns.waves`, with the month by whole numbers alone (Hinnant, "chrono-compatible date algorithms")."""

    def op(operator: str, a: str, b: float) -> str:
        return graph(operator, a, graph.number(b, FLOAT64))

    def floor(a: str, b: float) -> str:
        return graph("Floor", op("Div", a, b))

    whole = graph("Floor", days)
    since = op("Add", whole, 719468.0)  # days since 0000-03-01
    day = graph("Sub", since, op("Mul", floor(since, 146097.0), 146097.0))  # of the era of 400 years
    leaps = graph("Sub", graph("Add", graph("Sub", day, floor(day, 1460.0)), floor(day, 36524.0)), floor(day, 146096.0))
    year = floor(leaps, 365.0)
    before = graph("Sub", graph("Add", op("Mul", year, 365.0), floor(year, 4.0)), floor(year, 100.0))
    month = floor(op("Add", op("Mul", graph("Sub", day, before), 5.0), 2.0), 153.0)  # March is 0
    turns = [_rest(op, graph, op("Add", month, 2.0), 12.0), _rest(op, graph, op("Add", whole, 3.0), 7.0)]
    if column.hours:
        turns.append(graph("Sub", days, whole))
    angles = [op("Mul", turn, 2 * np.pi) for turn in turns]
    zero = graph.number(0.0, FLOAT64)
    waves = [  # the cosine as a sine: older versions of onnxruntime have no Cos in float64
        graph.column(graph("Where", gap, zero, graph("Sin", shifted)))
        for angle in angles
        for shifted in (angle, op("Add", angle, np.pi / 2))
    ]
    return graph.beside(waves)


def _rest(op: Callable[[str, str, float], str], graph: Graph, a: str, b: float) -> str:
    """(a mod b)/b."""
    return op("Div", graph("Sub", a, op("Mul", graph("Floor", op("Div", a, b)), b)), b)


# -- after the network --------------------------------------------------------------------------------------------------


def decode(graph: Graph, parts: Exported, passes: Sequence[tuple[str, str]]) -> None:
    """The outputs, from the last z and ŷ (N, n_L) of each network."""
    z, y_hat = passes[0]
    dtype, n = parts.dtype, parts.architecture.outputs
    if parts.target is not None:
        several = parts.architecture.output_activation.same(softmax)
        if parts.averaged:
            total = graph("Sum", *(graph.cast(y_hat, float) for _, y_hat in passes))
            mean = graph("Div", total, graph.number(float(len(passes)), FLOAT64))
            _columns(graph, parts.target, mean, 0.5, mean, several)
        else:
            _columns(graph, parts.target, graph.cast(z, float), 0.0, graph.cast(y_hat, float), several)
    elif parts.classes is not None:
        _answers(graph, parts.classes, y_hat, dtype, n)
    elif parts.flat:
        graph.output(parts.answer, graph.pick(y_hat, 0), dtype)
    else:
        graph.output(parts.answer, y_hat, dtype, (n,))


def _columns(graph: Graph, target: Target, score: str, bound: float, y_hat: str, several: bool) -> None:
    """`Target.decode` as nodes, in float64. The decision is the largest of `several` scores, else 1 from the bound on."""
    if target.task == "regression":
        y = graph("Mul", y_hat, graph.constant(np.array(target.scale)))
        y = graph("Add", y, graph.constant(np.array(target.mean)))
        for j, name in enumerate(target.names):
            graph.output(name, graph.pick(y, j), float)
        return
    values = np.array(target.values)
    one, least = (graph.number(value, FLOAT64) for value in (1.0, bound))
    for j, name in enumerate(target.names):
        if several:
            index = graph("ArgMax", score, axis=1, keepdims=0)
        else:
            index = graph.cast(graph("GreaterOrEqual", graph.pick(score, j), least), np.int64)
        graph.output(name, graph("Gather", graph.constant(values), index), values.dtype)
        for k, label in enumerate(target.classes):
            p = graph.pick(y_hat, k if several else j)
            graph.output(f"{name}={label}", graph("Sub", one, p) if k == 0 and not several else p, float)


def _answers(graph: Graph, classes: Classes, y_hat: str, dtype: np.dtype[Any], n: int) -> None:
    """What `MLPClassifier` answers."""
    threshold = graph.number(0.0 if classes.margins else 0.5, dtype)
    above = graph.cast(graph("Greater", y_hat, threshold), np.int64)
    if classes.several:
        graph.output("label", above, np.int64, (n,))
    else:
        index = graph.pick(above, 0) if n == 1 else graph("ArgMax", y_hat, axis=1, keepdims=0)
        graph.output("label", graph("Gather", graph.constant(classes.values), index), classes.values.dtype)
    if classes.margins:
        graph.output("margins", y_hat, dtype, (n,))
        return
    if n == 1:
        p = graph.beside([graph("Sub", graph.number(1.0, dtype), y_hat), y_hat])
    else:
        p = graph("Div", y_hat, graph("ReduceSum", y_hat, graph.whole(1))) if classes.normalised else y_hat
    graph.output("probabilities", p, dtype, (max(n, 2),))
