"""Exports against the models they come from: in onnxruntime, as a file of its own, and in PyTorch.

    python tests/test_export.py --full    1 000 random networks with their preprocessing; prints the worst errors (minutes)

The tests take the first 40 of them; every third is an ensemble of two to five. With onnxruntime 1.32 the worst error of the 1 000 is
5.7e-7 (limit 1e-5); the predictor's is 2.2e-16, and 993 are equal in every bit.
"""

import argparse
import builtins
import csv
import datetime
import dis
import gzip
import subprocess
import sys
import types
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import DataError, MissingExtraError, NotTrainedError, OutputError, ParameterError, ShapeError
from chainrule.export import from_state_dict, state_dict, to_onnx, to_python
from chainrule.formulas.activations import CATALOGUE

pa = pytest.importorskip("pyarrow")
from chainrule.ensemble import Ensemble  # noqa: E402
from chainrule.table_model import Settings, fit, prepare  # noqa: E402
from chainrule.tables.read import read_table  # noqa: E402

LIMIT = 1e-5  # relative to the larger of 1 (of a regression: the target's standard deviation) and the number
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


def error_of(ours, theirs, unit=1.0):
    """The worst difference, relative to the larger of the unit and the number."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.max(np.abs(ours - theirs) / np.maximum(unit, np.abs(ours)), initial=0.0))


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
    """A model with random weights, an ensemble for every third seed, and a table of new rows."""
    rng = np.random.default_rng(seed)
    kinds = [*rng.choice(list(KINDS), rng.integers(1, 7)).tolist(), "number"]
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
    if seed % 3:
        randomise(rng, model.network)
    else:
        layers, dtype = model.network.architecture.layers, model.network.dtype
        networks = [
            cr.Network(len(model.encoder.feature_names), layers, dtype=dtype) for _ in range(rng.integers(2, 6))
        ]
        model = Ensemble(tuple(replace(model, network=randomise(rng, network)) for network in networks))
    return model, random_table(rng, kinds, NEW_ROWS, True)


def randomise(rng, network):
    """Give a network random weights."""
    for number, layer in enumerate(network.architecture.layers, 1):
        if layer.W_shape is not None:
            W = rng.normal(size=layer.W_shape) * (1 if getattr(layer, "ntk", True) else layer.W_shape[-1] ** -0.5)
            network.set(number, W=W, b=None if layer.b_shape is None else rng.normal(size=layer.b_shape) * 0.5)
    return network


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


def compare(ours, theirs, target):
    """The worst error of the numbers; classes are the same, unless two are equally probable."""
    assert list(ours) == list(theirs)
    worst, units = 0.0, dict(zip(target.names, target.scale, strict=False))
    for name, values in ours.items():
        mine, other = np.asarray(values), np.asarray(theirs[name])
        if mine.dtype.kind == "f":
            assert other.dtype == np.float64
            worst = max(worst, error_of(mine, other, units.get(name, 1.0)))
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
    alone = loaded(to_python(model)).predict(new.to_pydict())
    return compare(ours, theirs, model.target), compare(ours, alone, model.target)


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_with_their_preprocessing(seed):
    pytest.importorskip("onnx")
    in_onnxruntime, in_python = check(seed)
    assert in_onnxruntime <= LIMIT and in_python <= 1e-6


# -- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_activation(name, dtype):
    """In onnxruntime and as lines of NumPy, from the least to the largest numbers."""
    z = np.array([0.0, -0.0, 1e-30, 1e-6, 0.3, 1, 3, 10, 19.99, 20.01, 80], dtype)
    net = cr.Network(2, [cr.Dense(2, name)], dtype=dtype).set(1, W=np.eye(2))
    X = np.column_stack([np.concatenate([z, -z]), np.concatenate([-z, z])])
    ours = net.predict(X)
    limit = 1e-6 if dtype == "float32" or name == "gelu" else 1e-14  # onnxruntime has erf in float32 only
    np.testing.assert_allclose(run_onnx(to_onnx(net), {"X": X})["y_hat"], ours, rtol=limit, atol=limit)
    np.testing.assert_allclose(loaded(to_python(net)).predict(X), ours, rtol=1e-7, atol=1e-15)


@cr.activation("z*(z > 0) + log(1 + z**2) - expm1(-z**2) + Abs(z)**1.5")
def everything(xp, real):
    """Every operation that a formula may have and the catalogue has not."""
    zero, half, one = real(0), real(0.5), real(1)

    def g(z):
        bent = z * (z > zero) + xp.log1p(z * z) - xp.expm1(-z * z) + abs(z) ** 1.5 + z**-2 * half
        odd = xp.where((z != one) & (z > -one) | (z <= -real(2)), bent, xp.sqrt(xp.abs(z)) + xp.sign(z))
        return odd + xp.log(one + z**4) * (z >= zero) + xp.where(z > zero, z, zero) * (z < one)

    return g, lambda z, a: z, lambda z, a: z


def test_an_activation_of_ones_own():
    net = cr.Network(3, [cr.Dense(5, everything), cr.Dense(2, everything, bias=False)], seed=1)
    X = np.random.default_rng(0).normal(size=(200, 3))
    ours = net.predict(X)
    np.testing.assert_allclose(run_onnx(to_onnx(net), {"X": X})["y_hat"], ours, rtol=1e-11)
    np.testing.assert_allclose(loaded(to_python(net)).predict(X), ours, rtol=1e-11)


def test_constant_activations_have_the_shape_of_their_input():
    @cr.activation("1")
    def one(xp, real):
        return tuple(lambda z, a=None: xp.ones_like(z) for _ in range(3))

    net = cr.Network(3, [cr.Dense(2, one)])
    X = np.ones((4, 3))
    assert (run_onnx(to_onnx(net), {"X": X})["y_hat"] == np.ones((4, 2))).all()
    assert (loaded(to_python(net)).predict(X) == np.ones((4, 2))).all()


def test_an_activation_that_cannot_be_traced():
    @cr.activation("z")
    def sorts(xp, real):
        return lambda z: np.sort(z), lambda z, a: z, lambda z, a: z

    for export in (to_onnx, to_python):
        pytest.importorskip("onnx")
        with pytest.raises(ParameterError, match=r"expected activations of arithmetic .*, got sorts"):
            export(cr.Network(1, [cr.Dense(2, sorts)]))


def test_the_onnx_checker_passes_and_weights_are_inside():
    onnx = pytest.importorskip("onnx")
    net = cr.Network(3, [cr.Scale(), cr.Dense(4, "softmax", ntk=True)], dtype="float32")
    model = onnx.load_from_string(to_onnx(net))
    onnx.checker.check_model(model, full_check=True)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(stored["W2"], net.W(2))
    assert not any(t.external_data for t in model.graph.initializer)


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known():
    """A model of every kind of column, and its table."""
    rng = np.random.default_rng(5)
    table = random_table(rng, KINDS, TRAINING_ROWS, False)
    target = pa.array((np.arange(TRAINING_ROWS) % 2).tolist())
    model = prepare(table.append_column("y", target), ["y"], Settings(hidden=(4,))).model
    last = len(model.network.architecture.layers)
    model.network.set(last, W=rng.normal(size=(1, 4)))
    return model, table


def test_names_that_columns_and_the_graph_would_share():
    pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=60) for name in ("W1", "Concat 5", "constant 0", "X", "b2", "label")}
    table = pa.table(columns | {"y_hat": rng.normal(size=60)})
    model = prepare(table, ["y_hat"], Settings(hidden=(4,))).model
    found = run_onnx(to_onnx(model), columns)["y_hat"]
    np.testing.assert_allclose(found, model.predict(table)["y_hat"], rtol=1e-6)
    clash = pa.table({"y": ["a", "b"] * 30, "y=a": rng.normal(size=60)})
    with pytest.raises(ParameterError, match="'y=a' twice"):
        to_onnx(prepare(clash, ["y"], Settings(hidden=(4,))).model)


def test_features_of_the_same_name():
    """Columns are told apart by their places."""
    rng = np.random.default_rng(0)
    x = np.where(np.arange(60) % 5 == 0, np.nan, rng.normal(size=60))
    table = pa.table(
        {
            "x": pa.array(x, from_pandas=True),
            "x is missing": rng.normal(size=60),
            "c": rng.choice(["a", "b", "d"], 60).tolist(),
            "c=a": rng.normal(size=60),
            "t": pa.array(np.arange(60).astype("datetime64[D]")),
            "t: day": rng.normal(size=60),
            "y": rng.normal(size=60),
        }
    )
    model = prepare(table, ["y"], Settings(hidden=())).model
    model.network.set(2, W=rng.normal(size=(1, model.network.architecture.inputs)))
    ours = model.predict(table)["y"]
    np.testing.assert_allclose(run_onnx(to_onnx(model), onnx_inputs(model, table))["y"], ours, atol=1e-6)
    np.testing.assert_array_equal(loaded(to_python(model)).predict(table.to_pydict())["y"], ours)


def test_times_with_a_zone_count_as_local_times():
    moments = np.datetime64("2024-01-01T20:00") + np.arange(60) * np.timedelta64(3, "h")
    column = pa.array(moments.astype("datetime64[ms]"), pa.timestamp("ms", tz="+05:30"))
    table = pa.table({"t": column, "y": np.random.default_rng(0).normal(size=60)})
    model = prepare(table, ["y"], Settings(hidden=())).model
    model.network.set(2, W=np.ones((1, model.network.architecture.inputs)))
    predictor, ours = loaded(to_python(model)), model.predict(table)["y"]
    for columns in (table.to_pydict(), table.to_pandas()):
        np.testing.assert_array_equal(predictor.predict(columns)["y"], ours)
    local = (moments + np.timedelta64(330, "m")).astype("datetime64[ms]").astype("int64")
    np.testing.assert_allclose(run_onnx(to_onnx(model), {"t": local})["y"], ours, atol=1e-6)


def test_names_that_would_end_the_text_they_stand_in():
    rng = np.random.default_rng(0)
    odd = ['"""\nraise SystemExit', "\\", "'\\'''", "\\N{no", "ü\t"]
    target = 'y"""\\'
    table = pa.table({name: rng.normal(size=60) for name in odd} | {target: ["\\'", '"""'] * 30})
    model = prepare(table, [target], Settings(hidden=(4,))).model
    assert loaded(to_python(model)).predict(table.to_pydict()).keys() == model.predict(table).keys()


def test_frames_and_other_values(known):
    """pandas and NumPy have other types for the same; text stands for numbers, truths and dates."""
    model, table = known
    predictor, ours = loaded(to_python(model)), model.predict(table)
    frame = table.to_pandas()
    texts = {name: [None if v is None else str(v) for v in table[name].to_pylist()] for name in table.column_names}
    arrays = {name: np.asarray(frame[name]) for name in frame}
    for columns in (frame, texts, arrays, frame.convert_dtypes()):
        assert (predictor.predict(columns)["y=1"] == ours["y=1"]).all()


def test_numbers_as_categories_are_their_text():
    rng = np.random.default_rng(0)
    values = [0.1, 3, -2, 1e-3, 1e9, 1e10, 9999999999, 1e18, 1e-6, 9e-7, 1e15, 16777216, 123456789, -0.0]
    values = np.concatenate([values, rng.normal(size=500) * 10.0 ** rng.integers(-9, 13, 500)])
    for dtype in (pa.float64(), pa.float32(), pa.int64(), pa.float16()):
        values = values[np.abs(values) < 6e4] if dtype == pa.float16() else values
        numbers = pa.array(values.astype(int) if dtype == pa.int64() else values.astype(dtype.to_pandas_dtype()), dtype)
        table = pa.table({"c": numbers, "y": rng.normal(size=len(values))})
        model = prepare(table, ["y"], Settings(hidden=(), max_levels=1000), categories=["c"]).model
        model.network.set(2, W=rng.normal(size=(1, model.network.architecture.inputs)))
        found = loaded(to_python(model)).predict({"c": numbers.to_numpy()})
        np.testing.assert_array_equal(found["y"], model.predict(table)["y"])
    when = np.array(["2020-01-01T10:00:00", "2021-05-05T00:00:00"], "M8[s]")[rng.integers(0, 2, 50)]
    table = pa.table({"c": when, "y": rng.normal(size=50)})
    model = prepare(table, ["y"], Settings(hidden=()), categories=["c"]).model
    model.network.set(2, W=np.ones((1, 1)))
    ours = model.predict(table)["y"]
    assert len(set(ours)) == 2
    for other in (when, when.astype("M8[ns]"), when.tolist()):
        np.testing.assert_array_equal(loaded(to_python(model)).predict({"c": other})["y"], ours)


def test_what_the_predictor_refuses(known):
    model, table = known
    predictor, columns = loaded(to_python(model)), table.to_pydict()
    with pytest.raises(DataError) as ours:
        model.predict(table.rename_columns(["Number 0", *table.column_names[1:]]))
    renamed = {name.replace("number", "Number"): values for name, values in columns.items()}
    with pytest.raises(predictor.DataError) as theirs:
        predictor.predict(renamed)
    assert str(theirs.value) == str(ours.value).replace("'Number 0'?", "'Number 0'?") and "Did you mean" in str(
        ours.value
    )
    with pytest.raises(predictor.DataError, match="'number 0': expected a number in every row, got 'x' at row 2"):
        predictor.predict(columns | {"number 0": [1.0, "x"] * 30})
    for bad in ([True] * 60, [datetime.date(2020, 1, 1)] * 60, [[1]] * 60, [np.datetime64("2020", "ns")] * 60):
        with pytest.raises(predictor.DataError, match="expected a number in every row"):
            predictor.predict(columns | {"number 0": bad})
    with pytest.raises(predictor.DataError, match=r"finite numbers \(up to 1e\+150\), got inf at row 1"):
        predictor.predict(columns | {"number 0": np.full(60, np.inf)})
    with pytest.raises(predictor.DataError, match="expected true or false in every row, got '1' at row 1"):
        predictor.predict(columns | {"truth 4": [1] * 60})
    for bad in ("soon", 20200101, "20200101", "2020", "today", "2020-02-30"):
        with pytest.raises(predictor.DataError, match=f"expected a date in every row, got '{bad}' at row 1"):
            predictor.predict(columns | {"date 5": [bad] * 60})
    with pytest.raises(predictor.DataError, match=r"equally many rows, got \[59, 60\]"):
        predictor.predict(columns | {"number 0": [1.0] * 59})
    with pytest.raises(predictor.DataError, match="equally many rows"):
        predictor.predict({})
    for bad in (np.ones((3, 7)), [[1, 2]], {0: [1.0]}):
        with pytest.raises(predictor.DataError, match=f"column names that are text, .* {type(bad).__name__}"):
            predictor.predict(bad)
    for bad in (1.5, "text"):
        with pytest.raises(predictor.DataError, match=f"'number 0': expected a list of values, got {bad!r}"):
            predictor.predict(columns | {"number 0": bad})


def test_frames_of_polars(known):
    polars = pytest.importorskip("polars")
    model, table = known
    found = loaded(to_python(model)).predict(polars.from_arrow(table))
    np.testing.assert_array_equal(found["y=1"], model.predict(table)["y=1"])


def test_the_predictor_runs_alone(known, tmp_path):
    """In an interpreter that finds NumPy, but not chainrule; from a CSV file to CSV."""
    model, table = known
    path, data = tmp_path / "predictor.py", tmp_path / "data.csv"
    text = to_python(model, path)
    assert path.read_text(encoding="utf-8") == text
    names = table.column_names
    with data.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, delimiter=";")
        lines.writerow(names)
        for row in zip(*(table[name].to_pylist() for name in names), strict=True):
            lines.writerow(
                ["NA" if value is None else repr(value) if isinstance(value, float) else value for value in row]
            )
    code = (
        f"import runpy, sys; sys.argv = [{str(path)!r}, {str(data)!r}]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert not {'chainrule', 'pyarrow', 'scipy', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env={}, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = list(csv.DictReader(done.stdout.splitlines()))
    ours = model.predict(table)
    assert list(printed[0]) == list(ours) and [int(row["y"]) for row in printed] == ours["y"]
    assert [float(row["y=1"]) for row in printed] == ours["y=1"].tolist()
    predictor, content = loaded(text), data.read_bytes()
    packed = tmp_path / "data.csv.gz"
    packed.write_bytes(gzip.compress(content))
    assert vars(predictor.read_csv(str(packed))) == vars(predictor.read_csv(str(data)))
    packed.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(predictor.DataError, match="got something else"):
        predictor.read_csv(str(packed))
    head, *body = content.splitlines(keepends=True)
    data.write_bytes(head + b"".join(body) * (100_000 // len(body)))  # more than a pipe holds
    with subprocess.Popen([sys.executable, str(path), str(data)], stdout=-1, stderr=-1, env={}) as reading:
        assert reading.stdout is not None and reading.stderr is not None
        reading.stdout.readline()
        reading.stdout.close()
        assert reading.stderr.read() == b""
    for bad, message in [
        (content + b"1;2\r\n", "expected 7 fields at row 61, got 2"),
        (content.replace(b"whole 1", b"number 0", 1), "expected different column names, got 'number 0' more than once"),
        (content.splitlines()[0], "expected column names and rows of data, got no rows"),
        (b"", "expected column names and rows of data, got no rows"),
        (b"\xff" + content, "expected a table of text in UTF-8"),
    ]:
        data.write_bytes(bad)
        with pytest.raises(predictor.DataError, match=f"Reading .*data.csv: {message}"):
            predictor.read_csv(str(data))
    for arguments in ([], ["--help"], [str(data)], [str(tmp_path / "none.csv")]):
        failed = subprocess.run(
            [sys.executable, str(path), *arguments], capture_output=True, text=True, env={}, check=False
        )
        assert failed.returncode == 1 and failed.stderr.startswith(("usage: ", "error: ")) and failed.stdout == ""


# -- estimators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("binary", {}),
        ("multiclass", {}),
        ("multilabel", {}),
        ("regression", {}),
        ("several", {}),
        ("binary", {"loss": "hinge"}),
        ("multiclass", {"loss": "hinge"}),
        ("multilabel", {"loss": "hinge"}),
        ("multiclass", {"loss": "binary_cross_entropy"}),
    ],
)
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_estimators(kind, settings):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = {
        "binary": np.array(["no", "yes"])[(X[:, 0] > 0).astype(int)],
        "multiclass": (X[:, 0] > 0).astype(int) + 2 * (X[:, 1] > 0),
        "multilabel": (X[:, :3] > 0).astype(int),
        "regression": X[:, 0],
        "several": X[:, :2],
    }[kind]
    regression = kind in ("regression", "several")
    cls = cr.MLPRegressor if regression else cr.MLPClassifier
    model = cls(hidden_layer_sizes=(5,), solver="lbfgs", max_iter=30, alpha=1, random_state=0, **settings)
    model.fit(X.astype("float32") if kind == "binary" else X, y)
    given = X.astype(model.network_.dtype)
    predictor, found = loaded(to_python(model)), run_onnx(to_onnx(model), {"X": given})
    limit = 1e-6
    if regression:
        np.testing.assert_allclose(found["prediction"], model.predict(given), atol=limit)
        np.testing.assert_array_equal(predictor.predict(given), model.predict(given))
        return
    scores = "decision_function" if settings.get("loss") == "hinge" else "predict_proba"
    ours = getattr(model, scores)(given)
    np.testing.assert_allclose(getattr(predictor, scores)(given), ours, atol=1e-7)
    np.testing.assert_allclose(list(found.values())[1], ours.reshape(60, -1), atol=limit)
    for labels in (found["label"], predictor.predict(given)):
        np.testing.assert_array_equal(labels, model.predict(given))


TARGETS = {
    "one number": {"price": lambda x: x * 100 + 7},
    "two numbers": {"low": lambda x: x, "high": lambda x: 1e4 * x**2},
    "two texts": {"y": lambda x: np.array(["no", "yes"])[(x > 0).astype(int)]},
    "truths": {"y": lambda x: x > 0.5},
    "three numbers as classes": {"y": lambda x: np.array([1.0, 2.0, 5.0])[(x > -0.5).astype(int) + (x > 0.5)]},
    "labels": {"a": lambda x: (x > 0).astype(int), "b": lambda x: (x > 0.5).astype(int)},
}


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("kind", TARGETS)
def test_estimators_of_frames(kind, folds):
    """With folds, of ensembles."""
    pytest.importorskip("onnx")
    pytest.importorskip("sklearn")
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(3)
    table, new = (random_table(rng, KINDS, TRAINING_ROWS, later) for later in (False, True))
    y = pd.DataFrame({name: make(rng.normal(size=TRAINING_ROWS)) for name, make in TARGETS[kind].items()})
    cls = cr.TabularRegressor if kind in ("one number", "two numbers") else cr.TabularClassifier
    model = cls(hidden=(6,), epochs=4, folds=folds, random_state=0).fit(table.to_pandas(), y.squeeze())
    frame, target = new.to_pandas(), model.target_
    alone = loaded(to_python(model)).predict(frame)
    in_onnxruntime = run_onnx(to_onnx(model), onnx_inputs(model.model_, new))
    for theirs, limit in ((alone, 1e-12), (in_onnxruntime, LIMIT)):
        assert compare(model.model_.predict(new), theirs, target) <= limit
        answers = np.column_stack([theirs[name] for name in target.names])
        if target.task == "regression":
            unit = max(target.scale)
            np.testing.assert_allclose(answers.squeeze(), model.predict(frame), rtol=limit, atol=limit * unit)
            continue
        np.testing.assert_array_equal(answers.squeeze(), model.predict(frame))
        labels = target.classes[1:] if target.task == "multilabel" else target.classes
        p = np.column_stack([theirs[f"{name}={label}"] for name in target.names for label in labels])
        np.testing.assert_allclose(p, model.predict_proba(frame), rtol=0, atol=max(limit, 1e-6))  # ours add up to 1


def test_an_ensemble_of_one_decides_on_its_probabilities():
    """In float32 the logit −1e−9 is below 0, and its probability is ½, from which on it is a yes."""
    pytest.importorskip("onnx")
    table = pa.table({"x": np.arange(60.0), "y": [0, 1] * 30})
    model = prepare(table, ["y"], Settings(hidden=())).model
    last = len(model.network.architecture.layers)
    model.network.set(last, W=np.zeros((1, 1)), b=np.full(1, -1e-9))
    for one, decision in ((model, 0), (Ensemble((model,)), 1)):
        ours = one.predict(table)
        theirs = (run_onnx(to_onnx(one), {"x": np.arange(60.0)}), loaded(to_python(one)).predict(table.to_pydict()))
        for found in (ours, *theirs):
            assert set(found["y"]) == {decision} and (found["y=1"] == 0.5).all()


def test_members_that_do_not_go_together():
    pytest.importorskip("onnx")
    table = pa.table({"x": np.arange(60.0), "y": [0, 1] * 30})
    one, other = (prepare(table, ["y"], Settings(hidden=hidden)).model for hidden in ((4,), (5,)))
    for export in (to_onnx, to_python):
        for members, count in (((), 0), ((one, other), 2)):
            with pytest.raises(ParameterError, match=f"same preprocessing, target and layers, got {count} different"):
                export(Ensemble(members))


def test_what_is_no_model():
    pytest.importorskip("onnx")
    for export in (to_onnx, to_python):
        with pytest.raises(ParameterError, match=r"expected a Network, .*, got dict"):
            export({})
        for cls in (cr.MLPRegressor, cr.TabularRegressor):
            with pytest.raises(NotTrainedError, match=f"fitted {cls.__name__}"):
                export(cls())


def test_files_are_whole_or_not_there(tmp_path):
    pytest.importorskip("onnx")
    net = cr.Network(1, [cr.Dense(1)])
    assert to_onnx(net, tmp_path / "net.onnx") == (tmp_path / "net.onnx").read_bytes()
    for export in (to_onnx, to_python):
        with pytest.raises(OutputError):
            export(net, tmp_path / "none" / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_onnx_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"chainrule\[onnx\]\""):
        to_onnx(cr.Network(1, [cr.Dense(1)]))


def test_the_predictor_of_a_network_checks_its_rows():
    net = cr.Network(2, [cr.Dense(3, "gelu"), cr.Dense(1)], dtype="float32")
    predictor = loaded(to_python(net))
    X = np.random.default_rng(0).normal(size=(5000, 2))  # more than one pass
    np.testing.assert_allclose(predictor.predict(X), net.predict(X), rtol=1e-5, atol=1e-6)
    for bad, ours in ((np.ones((2, 3)), ShapeError), ([[np.nan, 1]], DataError), (np.ones((0, 2)), ShapeError)):
        with pytest.raises(ours) as expected:
            net.predict(bad)
        with pytest.raises(getattr(predictor, ours.__name__)) as found:
            predictor.predict(bad)
        assert str(found.value) == str(expected.value)


def globals_of(code: types.CodeType) -> set[str]:
    """What a piece of code and those in it take from their module."""
    own = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return own.union(*(globals_of(part) for part in code.co_consts if isinstance(part, types.CodeType)))


def test_the_predictors_files_have_all_that_they_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1.0, 2.0] * 10, "c": ["a", "b"] * 10, "t": [True, False] * 10})
    frame["d"] = pandas.date_range("2024-01-01", periods=20)
    table = cr.TabularRegressor(hidden=(2,), epochs=1).fit(frame, np.arange(20.0))
    network = cr.Network(2, [cr.Dense(2, "mish"), cr.Dense(1)])
    for model in (table, network, cr.MLPClassifier((2,), solver="lbfgs").fit(frame[["n"]], frame["c"])):
        text = to_python(model)
        predictor = loaded(text)
        assert globals_of(compile(text, "predictor", "exec")) <= {*vars(predictor), *dir(builtins)}
    assert predictor.predict_proba(np.array([[1.0]], object)).shape == (1, 2)


def test_codes_with_a_zero_are_the_same_categories_in_a_graph():
    pandas = pytest.importorskip("pandas")
    codes = np.array(["1", "2", "3"] * 20)
    model = cr.TabularRegressor(hidden=(4,), epochs=20, categories=["code"], random_state=0)
    model.fit(pandas.DataFrame({"code": codes}), codes.astype(float))
    graph = session(to_onnx(model))
    plain, dotted = (graph.run(None, {"code": np.array(texts, object)})[0] for texts in (["1", "3"], ["1.0", "3.000"]))
    np.testing.assert_array_equal(dotted, plain)
    assert plain[0] != plain[1]
    prices = np.array(["1.00", "2.00", "2.50", "10.00"] * 20)
    model = cr.TabularRegressor(hidden=(4,), epochs=20, random_state=0).fit(
        pandas.DataFrame({"price": prices}), np.unique(prices, return_inverse=True)[1]
    )
    found = session(to_onnx(model)).run(None, {"price": prices[:4].astype(object)})[0]
    np.testing.assert_allclose(found, model.predict(pandas.DataFrame({"price": prices[:4]})), rtol=1e-5)


def test_texts_of_dates_are_read_as_the_library_reads_a_file(tmp_path):
    """Local time, whatever offset it has; and a graph needs a name for every input."""
    rows = [f"2023-01-{1 + i % 28:02d}T{i % 24:02d}:30:00+{i % 12:02d}:00" for i in range(60)]
    path = tmp_path / "times.csv"
    path.write_text("t,y\n" + "".join(f"{row},{i % 24}\n" for i, row in enumerate(rows)))
    problem = prepare(read_table(path), ["y"], Settings(hidden=(8,), epochs=30))
    fit(problem)
    model = problem.model
    predictor = loaded(to_python(model))
    ours = model.predict(read_table(path))["y"]
    assert np.std(ours) > 1
    np.testing.assert_allclose(predictor.predict({"t": rows})["y"], ours, rtol=1e-6)
    np.testing.assert_allclose(predictor.predict(predictor.read_csv(str(path)))["y"], ours, rtol=1e-6)
    frame = pytest.importorskip("pandas").DataFrame({"": np.arange(30.0), "b": np.arange(30.0) ** 2})
    with pytest.raises(ParameterError, match="a name for every column"):
        to_onnx(cr.TabularRegressor(hidden=(3,), epochs=2).fit(frame, frame["b"]))


# -- PyTorch ----------------------------------------------------------------------------------------------------------


def test_weights_for_pytorch_and_back():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    layers = [
        cr.Scale(),
        cr.Dropout(0.3),
        cr.Dense(7, "tanh", ntk=True, bias_init="normal"),
        cr.Dense(6),
        cr.Scale(),
        cr.Dense(5, "leaky_relu(0.2)", bias=False),
        cr.Dropout(0.5),
        cr.Dense(3, "softmax", bias_init="normal"),
    ]
    net = cr.Network(4, layers, seed=2)
    rng = np.random.default_rng(0)
    for number in (1, 5):
        net.set(number, W=rng.normal(size=net.W(number).shape))
    module = nn.Sequential(
        nn.Dropout(0.3), nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 6), nn.Linear(6, 5, bias=False), nn.LeakyReLU(0.2),
        nn.Dropout(0.5), nn.Linear(5, 3), nn.Softmax(-1),
    ).double().eval()  # fmt: skip
    state = state_dict(net)
    assert state["1.weight"].shape == (7, 4) and list(state) == list(module.state_dict())
    module.load_state_dict({name: torch.from_numpy(part) for name, part in state.items()})
    X = rng.normal(size=(50, 4))
    theirs = module(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(net.predict(X), theirs, rtol=0, atol=1e-12)

    other = cr.Network(4, layers, seed=3)
    assert from_state_dict(other, module.state_dict()) is other
    np.testing.assert_allclose(other.predict(X), theirs, rtol=0, atol=1e-12)
    assert (other.W(1) == 1).all()
    half = from_state_dict(cr.Network(4, layers, dtype="float32"), module.float().state_dict())
    np.testing.assert_allclose(half.predict(X), theirs, atol=1e-6)


def test_state_in_another_order():
    """A file of safetensors has its parts in the order of their names as text: 10 before 2."""
    layers = [cr.Dense(4, "tanh") for _ in range(7)]
    net, other = cr.Network(4, layers, seed=1), cr.Network(4, layers, seed=2)
    by_text = dict(sorted(state_dict(net).items()))
    assert list(by_text)[2] == "10.bias"
    np.testing.assert_array_equal(from_state_dict(other, by_text).theta, net.theta)
    body = {f"body.{name}": part for name, part in by_text.items() if name.split(".")[0] != "0"}
    with pytest.raises(ParameterError, match=r"expected the layers in their order, got 'body\.10\.bias'"):
        from_state_dict(other, {"head.weight": by_text["0.weight"], "head.bias": by_text["0.bias"]} | body)
    with pytest.raises(ParameterError, match="unknown name 0"):
        from_state_dict(other, {0: 1.0})


def test_state_that_does_not_fit():
    net = cr.Network(2, [cr.Dense(3, "tanh"), cr.Dense(1, bias=False)])
    before, good = net.theta.copy(), state_dict(net)
    assert list(good) == ["0.weight", "0.bias", "2.weight"]
    bad = [
        (good | {"2.bias": np.ones(1)}, ParameterError, "layer 2 .*expected weight, got weight and bias of '2'"),
        (good | {"1.running_mean": np.ones(1)}, ParameterError, "unknown name '1.running_mean'"),
        (good | {"4.weight": np.ones((1, 1))}, ParameterError, "expected 2 linear layers, .* got 3"),
        (good | {"2.weight": np.ones((3, 1))}, ShapeError, r"expected weight of shape \(1, 3\), got \(3, 1\)"),
        (good | {"2.weight": np.full((1, 3), np.nan)}, DataError, "finite"),
        (good | {"2.weight": [["a", "b", "c"]]}, DataError, "numbers"),
        ({name: part for name, part in good.items() if name != "0.bias"}, ParameterError, "expected weight and bias"),
    ]
    for state, error, message in bad:
        with pytest.raises(error, match=message):
            from_state_dict(net, {name: np.asarray(part) for name, part in state.items()})
    assert (net.theta == before).all()
    with pytest.raises(ParameterError, match="dense layer after the last scale layer"):
        state_dict(cr.Network(2, [cr.Dense(3, "tanh"), cr.Scale(init="normal")]))


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
