"""A model as one Python file that needs NumPy only: its own code, copied, and its numbers.

What the file computes is not written here. The classes of the columns and of the target are those of `tables`, with
`plain_table` in pyarrow's place; the checks are those of `arrays`; activations are traced (`engine.lowering`) and come out
as lines of NumPy.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import os
import re
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import arrays, errors
from ..arrays import Array
from ..core.architecture import PREDICT_ROWS
from ..core.layers import Dense
from ..engine.lowering import ELEMENT, Symbol, expression, in_order, number
from ..formulas.activations import Activation, identity, softmax
from ..tables import columns, read, targets
from . import plain_table
from .model import Classes, Exported, exported, formula, write

WIDTH = 116  # of lines of encoded numbers


def to_python(model: Any, path: str | os.PathLike[str] | None = None) -> str:
    """A model as the text of a Python file that imports NumPy and the standard library; with `path`, it is written there.

    Of a `TableModel` or an `Ensemble`, the file has `predict(columns)`: a dict or a DataFrame of raw columns → a dict of
    columns as the model's `predict` gives them. Values may be numbers, text, booleans and dates as Python or NumPy has
    them, None or NaN for gaps. `python FILE data.csv` prints predictions as CSV. The same of a `TabularClassifier` or a
    `TabularRegressor`, whose columns are x0, x1 … and y, or y0, y1 …, where they have no names.

    Of a `Network` or an `MLPRegressor` it has `predict(X)`; of an `MLPClassifier` `predict_proba(X)` too, or
    `decision_function(X)` with a loss of margins.

    The results are those of the model, to the rounding of its dtype. The file asks for Python 3.11 and NumPy 1.26 or
    newer. Unlike the model, it takes times of day and durations only as numbers of seconds, and in CSV files no
    decimal comma.

    Raises:
        ParameterError: a model that cannot be exported, or an activation that does what only arrays can.
        NotTrainedError: an estimator that is not fitted.
        OutputError: the file could not be written; what was there before is untouched.
    """
    parts = exported("to_python", model)
    text = "\n\n\n".join(part.strip("\n") for part in _parts(parts)) + "\n"
    write(path, text.encode())
    return text


def _parts(parts: Exported) -> list[str]:
    """What the file holds, top to bottom."""
    table = parts.encoder is not None
    body = [
        *map(source, (errors.ChainRuleError, errors.DataError, errors.ShapeError)),
        *map(source, (arrays.read_array, arrays.check_matrix)),
        *(_before(parts.encoder) if parts.encoder else []),
        *_network(parts),
        *_after(parts),
        "\n".join(_numbers(parts)),
        *([MAIN] if table else []),
    ]
    return [_head(parts, "\n".join(body)), *body]


def _head(parts: Exported, body: str) -> str:
    """The first lines, with what the body needs of the standard library."""
    names = [column.name for column in parts.encoder.columns] if parts.encoder else []
    call = f"predict({{{', '.join(f'{name!r}: [...]' for name in names)}}})" if names else "predict(X)"
    call = call.replace('"', r"\"")  # no name of a column may end the text that it stands in
    values = {
        "PREDICT_ROWS": PREDICT_ROWS,
        "NUMBER": columns.NUMBER,
        "ISO": columns.ISO,
        "WHOLE": columns.WHOLE,
        "WHOLE_TEXT": columns.WHOLE_TEXT,
        "LARGEST": columns.LARGEST,
        "DAY": columns.DAY,
        "GAPS": read.GAPS,
        "DELIMITERS": read.DELIMITERS,
        "PACKED": read.PACKED,
    }
    modules = ("base64", "collections", "csv", "datetime", "difflib", "gzip", "io", "math", "os", "re", "sys", "zlib")
    words = set(re.findall(r"\w+", body))
    abstract = [name for name in ("Iterable", "Mapping", "Sequence") if name in words]
    lines = [
        '"""Predictions of a neural network. This file needs NumPy only.',
        "",
        *textwrap.wrap(call, WIDTH, initial_indent="    ", subsequent_indent="        ", break_long_words=False),
        *(["    python THIS_FILE data.csv"] if names else []),
        "",
        "Written by chainrule, whose code it contains: Copyright (c) 2026, the chainrule authors; BSD 3-Clause licence.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        *(f"import {module}" for module in modules if re.search(rf"\b{module}\.", body)),
        *([f"from collections.abc import {', '.join(abstract)}"] if abstract else []),
        *(["from dataclasses import dataclass"] if "dataclass" in words else []),
        "from typing import Any",
        "",
        "import numpy as np",
        "import numpy.typing as npt",
        "",
        "Array = npt.NDArray[Any]",
        *(["Column = Class = Any", "Task = ClassKind = str"] if names else []),
        f"real = np.{parts.dtype}",
        *(f"{name} = {value!r}" for name, value in values.items() if name in words),
    ]
    return "\n".join(lines)


def source(thing: Any) -> str:
    """A function or a class as it is written here, with plain columns in the place of pyarrow's."""
    text = textwrap.dedent(inspect.getsource(thing))
    return text.replace("pa.ChunkedArray", "Sequence[Any]").replace("pa.Table", "Table")


def excerpt(cls: type, *names: str) -> str:
    """A dataclass with its fields and these of its methods and properties."""
    lines = inspect.getsource(cls).splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith(("    def ", "    @")))
    members: list[Any] = [cls.__dict__[name] for name in names]
    bodies = [inspect.getsource(getattr(member, "fget", member)).rstrip() for member in members]
    text = "\n".join(lines[:first]).rstrip() + "".join(f"\n\n{body}" for body in bodies)
    return text.replace("pa.Table", "Table")


def _before(encoder: columns.Encoder) -> list[str]:
    """From raw columns to the features."""
    plain = plain_table
    reading: list[Callable[..., Any]] = [
        plain.is_gap,
        plain.wrong,
        plain.numbers,
        plain._number,
        plain.as_text,
        plain.as_levels,
        plain._plain_text,
    ]
    reading += [plain._places, plain._truths, plain._dates, read.check_names]
    reading += [read.is_packed, read.opened, read.text_of, plain.read_csv]
    return [
        *map(
            source,
            (
                errors.did_you_mean,
                plain.Table,
                columns.check_size,
                *reading,
                columns.scaled,
                columns.waves,
                columns._days,
            ),
        ),
        *map(source, (columns.NumberColumn, columns.CategoryColumn, columns.BooleanColumn, columns.DateColumn)),
        excerpt(columns.Encoder, "feature_names", "encode"),
        "\n".join(
            ["ENCODER = Encoder(", "    (", *(f"        {column!r}," for column in encoder.columns), "    )", ")"]
        ),
    ]


def _network(parts: Exported) -> list[str]:
    """The activations, and the forward pass; of several networks, that of number 0, 1 …"""
    functions: dict[Activation, str] = {}
    lines = []
    at, also, given = ("[network]", ", network: int", ", network") if parts.averaged else ("", "", "")
    views = parts.architecture.views(parts.networks[0].theta)
    for k, (layer, p) in enumerate(zip(parts.architecture.layers, views, strict=True), 1):
        if p.W is None:
            continue
        lines.append(f"z = a @ W{k}{at}.T" if p.W.ndim == 2 else f"z = a * W{k}{at}")
        if isinstance(layer, Dense) and layer.ntk:
            lines.append(f"z *= {layer.factor!r}")
        if p.b is not None:
            lines.append(f"z += b{k}{at}")
        if layer.g not in functions and layer.g != identity:
            name = f"g_{layer.g.name}"
            functions[layer.g] = f"{name}_{k}" if name in functions.values() else name
        lines.append(f"a = {functions[layer.g]}(z)" if layer.g != identity else "a = z")
    written = [_function(name, formula("to_python", g), str(g)) for g, name in functions.items()]
    body = textwrap.indent("\n".join(lines), "    ")
    forward = (
        f'def forward(a: Array{also}) -> tuple[Array, Array]:\n    """The last z and ŷ (N, n_L)."""\n'
        f"{body}\n    return z, a"
    )
    helpers = [text for name, text in HELPERS.items() if any(f"{name}(" in function for function in written)]
    return [*helpers, *written, forward, OUTPUTS.replace("{also}", also).replace("{given}", given)]


def _function(name: str, result: Symbol, title: str) -> str:
    """An activation as lines of NumPy."""
    names: dict[Symbol, str] = {}
    lines = [f"def {name}(z: Array) -> Array:", f'    """{title}"""']
    for symbol in in_order([result]):
        if symbol.operation == "constant":
            names[symbol] = number(symbol.arguments[0])
        elif symbol.operation == "input":
            names[symbol] = symbol.arguments[0]
        else:
            names[symbol] = f"v{len(lines) - 1}"
            text = expression(symbol, names)
            own = symbol.operation in HELPERS
            lines.append(f"    {names[symbol]} = {text.removeprefix('xp.') if own else text.replace('xp.', 'np.')}")
    value = names[result] if result.rank == ELEMENT else f"np.full(z.shape, {names[result]})"
    return "\n".join([*lines, f"    return {value}"])


HELPERS = {
    "erf": "erf = np.vectorize(math.erf, otypes=[real])",
    "row_max": 'def row_max(z: Array) -> Array:\n    """Maximum over the last axis."""\n    return z.max(axis=-1, keepdims=True)',
    "row_sum": 'def row_sum(z: Array) -> Array:\n    """Sum over the last axis."""\n    return z.sum(axis=-1, keepdims=True)',
}

OUTPUTS = '''\
def outputs(X: Any{also}) -> tuple[Array, Array]:
    """The last z and ŷ (N, n_L) of checked rows X (N, n_0)."""
    X = check_matrix("predict", "X", X, INPUTS, np.dtype(real))
    with np.errstate(all="ignore"):
        passes = [forward(X[i : i + PREDICT_ROWS]{given}) for i in range(0, len(X), PREDICT_ROWS)]
    z, y_hat = (np.concatenate(parts) for parts in zip(*passes))
    return z, y_hat'''

TABLE_PREDICT = '''\
def predict(columns: Mapping[str, Sequence[Any]] | Table) -> dict[str, Any]:
    """Columns of predictions, and the probability of each class as "target=class", from raw columns by name."""
    X = ENCODER.encode(columns if isinstance(columns, Table) else Table(columns))
{answer}'''

ONE = """\
    z, y_hat = outputs(X)
    return TARGET.decode(y_hat.astype(np.float64), {decisions})"""

MEAN = """\
    y_hat = np.mean([outputs(X, network)[1].astype(np.float64) for network in range(NETWORKS)], axis=0)
    return TARGET.decode(y_hat)"""

MAIN = '''\
def main() -> None:
    """Print the predictions for the rows of a .csv file."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(f"usage: python {sys.argv[0]} data.csv")
    try:
        table = predict(read_csv(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    lines = csv.writer(sys.stdout, lineterminator="\\n")
    columns = [values.tolist() if isinstance(values, np.ndarray) else values for values in table.values()]
    try:
        lines.writerows([list(table), *zip(*columns)])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads them has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()'''


def _after(parts: Exported) -> list[str]:
    """From ŷ to what `predict` returns."""
    if parts.target is not None:
        output = parts.architecture.output_activation
        decisions = "z.argmax(axis=1)" if output.same(softmax) else "(z >= 0).astype(np.int64)"
        decisions = "None" if parts.target.task == "regression" else decisions
        answer = MEAN if parts.averaged else ONE.replace("{decisions}", decisions)
        return [
            source(targets._restore),
            excerpt(targets.Target, "values", "decisions", "decode"),
            f"TARGET = {parts.target!r}",
            TABLE_PREDICT.replace("{answer}", answer),
        ]
    if parts.classes is None:
        answer = "y_hat.ravel()" if parts.flat else "y_hat"
        return [_predict("predict", "ŷ (N,)" if parts.flat else "ŷ (N, n_L)", answer)]
    fields = {field.name: getattr(parts.classes, field.name) for field in dataclasses.fields(parts.classes)}
    fields["values"] = f"np.array({parts.classes.values.tolist()!r})"
    given = ", ".join(f"{name}={value}" for name, value in fields.items())
    second = "decision_function" if parts.classes.margins else "predict_proba"
    return [
        excerpt(Classes, "labels", "scores"),
        f"CLASSES = Classes({given})",
        _predict("predict", "Classes (N,), or labels 0 and 1 (N, k)", "CLASSES.labels(y_hat)"),
        _predict(second, "Numbers for each class", "CLASSES.scores(y_hat)"),
    ]


def _predict(name: str, what: str, answer: str) -> str:
    text = f'def {name}(X: Any) -> Array:\n    """{what}, from rows X (N, n_0)."""\n'
    return text + f"    _, y_hat = outputs(X)\n    return {answer}"


def _numbers(parts: Exported) -> list[str]:
    """The weights: little-endian bytes in base64; those of several networks as one array, network by network."""
    lines = [
        f"INPUTS = {parts.architecture.inputs}",
        *([f"NETWORKS = {len(parts.networks)}"] if parts.averaged else []),
        "",
        "",
        "def stored(text: str, *shape: int) -> Array:",
        '    """The numbers in base64 text."""',
        f'    return np.frombuffer(base64.b64decode(text), "<f{parts.dtype.itemsize}").reshape(shape).astype(real)',
        "",
        "",
    ]
    thetas = [network.theta for network in parts.networks]
    for k, each in enumerate(zip(*map(parts.architecture.views, thetas), strict=True), 1):
        for name, stack in zip("Wb", zip(*each, strict=True), strict=True):
            if stack[0] is not None:
                part = np.stack(stack) if parts.averaged else stack[0]
                lines.append(f"{name}{k} = stored({_encoded(part)}, {', '.join(map(str, part.shape))})")
    return lines


def _encoded(part: Array) -> str:
    little = part.astype(part.dtype.newbyteorder("<"))
    text = base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()
    if len(text) <= WIDTH:
        return repr(text)
    return '"""\n' + "\n".join(textwrap.wrap(text, WIDTH)) + '\n"""'
