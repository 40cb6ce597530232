"""Exports against the models they come from: in onnxruntime, as a file of its own, and in PyTorch.

    python tests/test_export.py --full    1 000 random networks with their preprocessing; prints the worst errors (minutes)

The tests take the first 40 of them.
"""

import argparse
import csv
import datetime
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import DataError, MissingExtraError, NotTrainedError, OutputError, ParameterError, ShapeError
from chainrule.export import from_state_dict, state_dict, to_onnx, to_python
from chainrule.formulas.activations import CATALOGUE

pa = pytest.importorskip("pyarrow")
from chainrule.table_model import Settings, prepare  # noqa: E402

LIMIT = 1e-5  # relative to the larger of 1 and the number
TRAINING_ROWS, NEW_ROWS = 60, 40


def session(content):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def run_onnx(content, inputs):
    """The outputs by name."""
    run = session(content)
    return dict(zip([o.name for o in run.get_outputs()], run.run(None, inputs), strict=True))


def loaded(text):
    """The module that a predictor's text is."""
    module = ModuleType("predictor")
    sys.modules["predictor"] = module
    exec(compile(text, "predictor.py", "exec"), module.__dict__)
    return module


def error_of(ours, theirs):
    """The worst difference, relative to the larger of 1 and the number."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(ours)), initial=0.0))


# -- random tables and networks ---------------------------------------------------------------------------------------


def random_column(rng, kind, rows, new):
    """Values of one kind with gaps; new rows have gaps where training had none, and what training never saw."""
    share = rng.choice([0.0, 0.2]) if not new else 0.3
    if kind == "number":
        values = list(rng.normal(size=rows) * 10.0 ** rng.integers(-8, 9))
        values[: 4 * new] = [1e30, -1e30, 1e150, 5e-324][: 4 * new]
    elif kind == "whole":
        values = rng.integers(-3, 4, rows).tolist()
    elif kind in ("few", "two"):
        levels = ["ü b", "'q\"", "\n", "a", "007"][: 2 if kind == "two" else 5] + ["never seen"] * new
        values = rng.choice(levels, rows).tolist()
        values[:2] = levels[:2]
    elif kind == "truth":
        values = (rng.random(rows) < 0.5).tolist()
        values[:2] = [True, False]
    else:
        days = rng.integers(-60_000, 60_000, rows)
        moments = rng.integers(0, 86_400_000, rows) if kind == "time" else np.zeros(rows, int)
        if new:  # the ends of months and of leap years
            days[:3] = np.array(["1900-02-28", "2000-02-29", "2100-12-31"], "datetime64[D]").astype(int)
        values = (days.astype("datetime64[D]") + moments.astype("timedelta64[ms]")).astype(datetime.datetime).tolist()
    gaps = np.flatnonzero(rng.random(rows) < share)
    return [None if k in gaps and k > 1 else value for k, value in enumerate(values)]


KINDS = {"number": pa.float64(), "whole": pa.int64(), "few": pa.string(), "two": pa.string(), "truth": pa.bool_()}
KINDS |= {"date": pa.date32(), "time": pa.timestamp("ms")}


def random_table(rng, kinds, rows, new):
    columns = {}
    for k, kind in enumerate(kinds):
        values = random_column(rng, kind, rows, new)
        if kind == "date":
            values = [None if value is None else value.date() for value in values]
        columns[f"{kind} {k}"] = pa.array(values, KINDS[kind])
    return pa.table(columns)


def random_target(rng, rows):
    task = rng.choice(["regression", "counts", "several", "binary", "words", "whole", "labels"])
    whole = np.arange(rows)
    columns = {
        "regression": {"y": rng.normal(size=rows) * 100 + 7},
        "counts": {"y": rng.poisson(3.0, rows) + 1.0},
        "several": {"y": rng.normal(size=rows), "y 2": rng.normal(size=rows) * 1e4},
        "binary": {"y": (whole % 2 == 0).tolist()},
        "words": {"y": np.array(["yes", "nö", "#"])[whole % 3].tolist()},
        "whole": {"y": 10 * (whole % 4)},
        "labels": {"y": (whole % 2 == 0).tolist(), "z": (whole % 3 == 0).tolist()},
    }[str(task)]
    return {name: pa.array(values) for name, values in columns.items()}, "poisson" if task == "counts" else None


def random_model(seed):
    """A model with random weights, and a table of new rows."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(list(KINDS), rng.integers(1, 7)).tolist() + ["number"]
    target, loss = random_target(rng, TRAINING_ROWS)
    table = random_table(rng, kinds, TRAINING_ROWS, False)
    for name, column in target.items():
        table = table.append_column(name, column)
    hidden = rng.integers(1, 9, rng.integers(0, 4)).tolist()
    calm = [name for name in CATALOGUE if name not in ("exp", "square")]  # one of those in a network, as values explode
    names = rng.choice(calm, len(hidden)).tolist()
    if names and rng.random() < 0.2:
        names[0] = str(rng.choice(["exp", "square"]))
    settings = Settings(
        hidden=tuple(hidden),
        activation=tuple(names),
        ntk=bool(rng.random() < 0.5),
        scale_layer=bool(rng.random() < 0.5),
        dropout=float(rng.choice([0.0, 0.2])),
        task="regression" if loss else None,
        loss=loss,
        dtype="float64" if seed % 10 == 9 else "float32",
        seed=int(seed),
        max_levels=int(rng.choice([2, 64])),
    )
    model = prepare(table, list(target), settings, categories=[n for n in table.column_names if "few" in n]).model
    network = model.network
    for number, layer in enumerate(network.architecture.layers, 1):
        if layer.W_shape is not None:
            W = rng.normal(size=layer.W_shape) * (1 if getattr(layer, "ntk", True) else layer.W_shape[-1] ** -0.5)
            network.set(number, W=W, b=None if layer.b_shape is None else rng.normal(size=layer.b_shape) * 0.5)
    return model, random_table(rng, kinds, NEW_ROWS, True)


def onnx_inputs(model, table):
    """The columns as `to_onnx` says."""
    inputs = {}
    for column in model.encoder.columns:
        values = table.column(column.name)
        kind = type(column).__name__
        if kind == "CategoryColumn":
            inputs[column.name] = np.array(values.fill_null("").to_pylist(), object)
        elif kind == "DateColumn":
            dates = np.array(values.cast(pa.timestamp("ms")).to_numpy(), "datetime64[ms]")
            inputs[column.name] = dates.astype("int64")
        else:
            inputs[column.name] = np.array([np.nan if v is None else float(v) for v in values.to_pylist()])
    return inputs


def compare(ours, theirs):
    """The worst error of the numbers; classes are the same, unless two are equally probable."""
    assert list(ours) == list(theirs)
    worst = 0.0
    for name, values in ours.items():
        mine, other = np.asarray(values), np.asarray(theirs[name])
        if mine.dtype.kind == "f":
            assert other.dtype == np.float64
            worst = max(worst, error_of(mine, other))
            continue
        assert (other.dtype == mine.dtype) or (mine.dtype.kind == "U" and other.dtype.kind in "OU")
        for row in np.flatnonzero(mine != other):
            p, q = (ours[f"{name}={str(label[row]).lower()}"][row] for label in (mine, other))
            assert abs(p - q) < 2 * LIMIT
    return worst


def check(seed):
    """The worst errors in onnxruntime and of the predictor."""
    model, new = random_model(seed)
    ours = model.predict(new)
    theirs = run_onnx(to_onnx(model), onnx_inputs(model, new))
    return compare(ours, theirs), compare(ours, loaded(to_python(model)).predict(new.to_pydict()))


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_with_their_preprocessing(seed):
    pytest.importorskip("onnx")
    in_onnxruntime, in_python = check(seed)
    assert in_onnxruntime <= LIMIT and in_python <= 1e-6


def main() -> int:
    """The battery."""
    parser = argparse.ArgumentParser(description="Exports of random networks with preprocessing.")
    parser.add_argument("--full", action="store_true", help="1 000 networks instead of 40")
    count = 1000 if parser.parse_args().full else 40
    errors = np.array([check(seed) for seed in range(count)])
    for name, column, limit in zip(("onnxruntime", "the predictor"), errors.T, (LIMIT, 1e-6), strict=True):
        worst = int(column.argmax())
        print(
            f"{name}: {count:,} networks, worst error {column[worst]:.2e} (limit {limit:.0e}) at seed {worst}, ", end=""
        )
        print(f"{int((column == 0).sum())} equal in every bit, {int((column > limit).sum())} beyond the limit")
    return int((errors > [LIMIT, 1e-6]).any())


if __name__ == "__main__":
    raise SystemExit(main())
