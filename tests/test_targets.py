"""Target columns: which task they pose, exact ways there and back, and the errors of unusable targets."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.errors import DataError, ModelFileError, ParameterError
from chainrule.tables.targets import Target, infer_target


def infer(task: Any = None, **columns: Any) -> Target:
    return infer_target(pa.table(columns), list(columns), task)


@pytest.mark.parametrize(
    ("values", "task", "units", "classes"),
    [
        (["b", "a", "b"], "binary", 1, ("a", "b")),
        ([True, False, True], "binary", 1, (False, True)),
        ([0, 1, 1, 0], "binary", 1, (0, 1)),
        ([10, 9, -1] * 5, "multiclass", 3, (-1, 9, 10)),
        (["b", "c", "a"] * 2, "multiclass", 3, ("a", "b", "c")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), "binary", 1, ("a", "b")),
        ([1, 2, 3, 4], "regression", 1, ()),
        (list(range(21)) * 9, "regression", 1, ()),
        ([0.0, 1.0] * 50, "binary", 1, (0.0, 1.0)),
        ([0.0, 1.5] * 50, "regression", 1, ()),
    ],
)
def test_one_column(values: Any, task: str, units: int, classes: tuple[Any, ...]) -> None:
    target = infer(y=values)
    assert (target.task, target.units, target.values) == (task, units, classes)
    assert [type(v) for v in target.values] == [type(v) for v in classes]


def test_task_overrules() -> None:
    assert infer("regression", y=[0, 1, 1, 0]).task == "regression"
    target = infer("classification", y=[1.0, 2.5, 1.0, 2.5, 10.0, 10.0])
    assert target.values == (1.0, 2.5, 10.0)
    assert target.encode(pa.table({"y": [10.0, 1.0]})).tolist() == [2, 0]
    assert infer("classification", y=["1", "2", "2", "3", "5+", "1", "1", "3"]).task == "multiclass"


@given(st.lists(st.text(min_size=1), min_size=2, max_size=5, unique=True), st.data())
def test_classes_there_and_back(names: list[str], data: st.DataObject) -> None:
    rows = names * 2 + data.draw(st.lists(st.sampled_from(names)))
    table = pa.table({"y": rows})
    target = Target.from_json(json.loads(json.dumps(infer_target(table, ["y"]).to_json())))
    labels = target.truth(table)
    assert [target.classes[k] for k in labels] == rows
    y = target.encode(table)
    if target.task == "binary":
        assert y.dtype == np.float64 and y.shape == (len(rows), 1) and (y[:, 0] == labels).all()
    else:
        assert y.dtype == np.int64 and (y == labels).all()
    y_hat = y if target.task == "binary" else np.eye(target.units)[y]
    decoded = pa.table(target.decode(y_hat)).to_pydict()
    assert decoded["y"] == rows and decoded[f"y={rows[0]}"][0] == 1.0 and len(decoded) == 1 + len(names)


def test_binary_probabilities_and_decisions() -> None:
    target = infer(y=[False, True, True])
    columns = target.decode(np.array([[0.25], [0.5]]))
    assert columns["y"] == [False, True]
    assert list(columns) == ["y", "y=false", "y=true"]
    np.testing.assert_array_equal(columns["y=false"], [0.75, 0.5])
    assert target.decode(np.array([[0.25], [0.5]]), np.array([1, 0]))["y"] == [True, False]


def test_multiclass_probabilities() -> None:
    columns = infer(y=[3, 1, 2] * 5).decode(np.array([[0.2, 0.7, 0.1]]))
    assert columns["y"] == [2] and [columns[f"y={k}"][0] for k in (1, 2, 3)] == [0.2, 0.7, 0.1]


def test_regression_standardises_and_maps_back() -> None:
    y = np.random.default_rng(0).normal(1e5, 300, (200, 2))
    table = pa.table({"a": y[:, 0], "b": y[:, 1].astype(np.float32)})
    target = infer_target(table, ["a", "b"])
    assert (target.task, target.units) == ("regression", 2)
    z = target.encode(table)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(z.std(axis=0), 1)
    np.testing.assert_allclose(np.column_stack(list(target.decode(z).values())), target.truth(table), rtol=1e-12)
    np.testing.assert_array_equal(target.truth(table)[:, 0], y[:, 0])
    divided = infer_target(table, ["a"], standardise=False)
    np.testing.assert_allclose(divided.encode(table)[:, 0], y[:, 0] / y[:, 0].mean(), rtol=1e-14)
    np.testing.assert_allclose(divided.decode(divided.encode(table))["a"], y[:, 0], rtol=1e-14)


@pytest.mark.parametrize("values", [((True, False), (False, True)), ((1, 0), (0, 1))])
def test_multilabel(values: tuple[Any, Any]) -> None:
    table = pa.table({"a": values[0], "b": values[1]})
    target = infer_target(table, ["a", "b"])
    assert (target.task, target.units) == ("multilabel", 2)
    np.testing.assert_array_equal(target.encode(table), [[1, 0], [0, 1]])
    columns = target.decode(np.array([[0.9, 0.2]]))
    assert columns["a"] == [values[0][0]] and columns["b"] == [values[0][1]]
    assert type(columns["a"][0]) is type(values[0][0]) and columns[f"b={target.classes[1]}"][0] == 0.2


@pytest.mark.parametrize(
    ("task", "columns", "words"),
    [
        (None, {"y": ["a", None, "b", None]}, "2 gaps .row 2, 4"),
        (None, {"y": [1.5, float("nan"), 2.5]}, "1 gap .row 2"),
        (None, {"y": [None, None]}, "2 gaps"),
        (None, {"y": []}, "expected rows"),
        (None, {"y": ["a\nb"] * 2}, r"got 'a\\nb' in every row"),
        (None, {"y": ["a", "a"]}, "at least two different values"),
        (None, {"y": [1.5, 1.5]}, "got 1.5 in every row"),
        (None, {"y": [1.5, float("inf")]}, "inf at row 2"),
        (None, {"y": [dt.date(2020, 1, 1), dt.date(2021, 1, 1)]}, "dates"),
        (None, {"y": [f"p{i}" for i in range(10)]}, "identifier"),
        (None, {"y": ["1", "2", "3", "4", "x"]}, "'x' at row 5.*--task classification"),
        (None, {"a": ["x", "y"], "b": [1, 2]}, "Train one model"),
        (None, {"a": [0, 1], "b": [1, 1]}, "'b': expected at least two"),
        ("classification", {"y": [i / 7 for i in range(10)]}, "--task regression"),
        ("classification", {"a": [1.5, 2], "b": [1, 0]}, "Train one model"),
        ("regression", {"y": ["1", "x"]}, "'x' at row 2"),
        ("regression", {"y": [True, False]}, "expected a number"),
    ],
)
def test_unusable_targets(task: Any, columns: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        infer(task, **columns)


def test_names_and_task() -> None:
    table = pa.table({"price": [1.0, 2.0]})
    for names, task, words in [
        (["prize"], None, "Did you mean 'price'"),
        (["price", "price"], None, "once"),
        ([], None, "at least one"),
        (["price"], "regresion", "Did you mean 'regression'"),
    ]:
        with pytest.raises(ParameterError, match=words):
            infer_target(table, names, task)  # type: ignore[arg-type]


def test_new_tables_are_checked() -> None:
    target = infer(colour=["red", "blue", "red"])
    with pytest.raises(DataError, match="'green' at row 2"):
        target.truth(pa.table({"colour": ["red", "green"]}))
    with pytest.raises(DataError, match=r"1 gap \(row 1"):
        target.encode(pa.table({"colour": [None, "red"]}))
    with pytest.raises(DataError, match="Did you mean 'Colour'"):
        target.encode(pa.table({"Colour": ["red"]}))
    with pytest.raises(DataError, match="'x' at row 2"):
        infer(y=[1.5, 2.5]).encode(pa.table({"y": ["1", "x"]}))


@pytest.mark.parametrize(
    "damage",
    [
        {"task": "ranking"},
        {"names": []},
        {"names": ["y", "z"]},
        {"classes": ["0"]},
        {"classes": ["0", "0"]},
        {"classes": ["a", "b"]},
        {"classes": [0, 1]},
        {"mean": [0.0]},
        {"more": 1},
        {"task": "regression"},
        {"task": "regression", "classes": [], "mean": [0.0], "scale": [0.0]},
        {"task": "regression", "classes": [], "mean": [0.0], "scale": [float("inf")]},
    ],
)
def test_damaged_json(damage: dict[str, Any]) -> None:
    record = infer(y=[0, 1, 0, 1]).to_json()
    assert Target.from_json(record).values == (0, 1)
    with pytest.raises(ModelFileError, match="target"):
        Target.from_json(record | damage)
