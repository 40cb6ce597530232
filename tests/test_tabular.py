"""TabularClassifier and TabularRegressor: scikit-learn's checks, `chainrule train`'s own results, frames, folds, files.

The independent sources are scikit-learn's battery of checks, differences of losses written out here, and the command.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from chainrule import TabularClassifier, TabularRegressor, cli, ensemble
from chainrule.errors import DataError, ModelFileError, ParameterError
from chainrule.table_model import Settings, TableModel, prepare
from chainrule.tables.read import read_table
from estimator_checks import weights_are_no_repetitions

IRIS, SPECIES = load_iris(return_X_y=True)
NAMED = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
LABELS = np.column_stack([SPECIES == 0, IRIS[:, 1] > 3, IRIS[:, 2] > 4.5]).astype(int)
PATIENTS, PROGRESS = (part[:150] for part in load_diabetes(return_X_y=True, scaled=False))
SMALL = {"hidden": (8,), "epochs": 10, "random_state": 0}


def houses(rows=200, seed=0):
    """Numbers with gaps, a category with gaps, booleans, dates and whole numbers, and targets that follow from them."""
    rng = np.random.default_rng(seed)
    size, kind = rng.normal(100, 30, rows), rng.choice(["flat", "house", "loft"], rows).astype(object)
    new, month = rng.random(rows) < 0.5, rng.integers(1, 13, rows)
    price = 3 * size + 50 * (kind == "house") + 20 * new + 5 * month + rng.normal(0, 5, rows)
    size[::17], kind[5::23] = np.nan, None
    sold = pd.to_datetime([f"2024-{m:02d}-15" for m in month])
    frame = pd.DataFrame({"size": size, "kind": kind, "new": new, "sold": sold, "rooms": rng.integers(1, 6, rows)})
    return frame, price


HOUSES, PRICES = houses()
DEAR = np.where(PRICES > 350, "dear", "cheap")


def tabular_pair(**settings):
    """A small classifier and a small regressor, fitted on the houses."""
    return (
        TabularClassifier(**SMALL | settings).fit(HOUSES, DEAR),
        TabularRegressor(**SMALL | settings).fit(HOUSES, PRICES),
    )


# -- scikit-learn's checks --------------------------------------------------------------------------------------------

ALL_ROWS = {"valid_fraction": 0.0, "batch_size": 10**6}
CONFIGURATIONS = [
    kind(**{"hidden": (8,), "epochs": 20, "batch_size": 64, "dtype": "float64"} | settings)
    for kind, own in (
        (TabularClassifier, {"class_weight": "balanced", "label_smoothing": 0.0}),
        (TabularRegressor, {"loss": "huber(delta=2)", "average_outputs": True}),
    )
    for settings in (
        {"dtype": "float32"},
        {"monitor": "cost", "patience": 10, "tolerance": 1e-4} | own,
        {"dropout": 0.05, "hidden": (16,), "clip_norm": 5.0, "starts": 2, "valid_fraction": 0.3},
        {"folds": 2, "epochs": 60},
        {"scale_layer": False, "ntk": False, "optimizer": "adamw", "learning_rate": 0.05, "activation": "relu"},
        {**ALL_ROWS, "epochs": 100, "scaling": "none"},
        {**ALL_ROWS, "epochs": 60, "scaling": "standard", "l2": 1e-4, "hidden": (8, 4), "activation": ("tanh", "mish")},
        {"optimizer": "nesterov", "ntk": False, "learning_rate": 0.02, "schedule": "cosine", "sampling": "replacement"},
    )
]


def expected_failures(estimator):
    """Where a weight is not the same as a repetition, and why."""
    weights = weights_are_no_repetitions(
        {
            "the validation rows are drawn by their number": bool(estimator.valid_fraction or estimator.folds),
            "dropout masks are drawn by the row's number": bool(estimator.dropout),
            "mini-batches are drawn by the row's number": estimator.batch_size < 10**6,
            "means, medians and quartiles of columns count rows": estimator.scaling != "none",
        }
    )
    digits = "the check asks for 1e-7, and products in float32 may differ in their last digit with the number of rows"
    return weights | ({"check_methods_subset_invariance": digits} if estimator.dtype == "float32" else {})


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=expected_failures)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# -- the same as chainrule train --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_parameters_are_those_of_the_settings(kind):
    renamed = {"task", "test_fraction", "seed", *(["label_smoothing"] if kind is TabularRegressor else [])}
    own = {"random_state", "categories", *(["class_weight"] if kind is TabularClassifier else [])}
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)} | {"activation": None}
    given = kind().get_params()
    assert given.keys() - own == defaults.keys() - renamed
    assert all(given[name] == defaults[name] for name in given.keys() - own)
    documented = (TabularRegressor.__doc__ or "") + (kind.__doc__ or "")
    assert all(f"{name}:" in documented or f"{name}," in documented for name in given)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `chainrule` in an empty folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["chainrule", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize(("kind", "target"), [(TabularRegressor, PRICES), (TabularClassifier, DEAR)])
def test_the_same_network_as_chainrule_train(command, kind, target, folds):
    HOUSES.assign(y=target).to_csv("houses.csv", index=False)
    more = () if folds is None else ("--folds", folds)
    settings = ("--hidden", 8, "--epochs", 10, "--seed", 4, "--test-fraction", 0, "--category", "rooms")
    status, _, err = command("train", "houses.csv", "-t", "y", *settings, *more, "--out", "m")
    assert (status, err) == (0, "")
    model = kind(hidden=(8,), epochs=10, random_state=4, categories=["rooms"], folds=folds).fit(HOUSES, target)
    theirs = kind.load("m/model.safetensors")
    assert len(theirs.networks_) == len(model.networks_) == (folds or 1)
    for one, other in zip(model.networks_, theirs.networks_, strict=True):
        np.testing.assert_array_equal(one.theta, other.theta)
        assert one.seed == other.seed
    assert list(theirs.feature_names_in_) == list(model.feature_names_in_) == list(HOUSES.columns)
    np.testing.assert_array_equal(theirs.predict(HOUSES), model.predict(HOUSES))
    model.save("own.safetensors")
    status, out, err = command("predict", "own.safetensors", "houses.csv")
    assert (status, err) == (0, "")
    rows = list(csv.DictReader(out.splitlines()))
    if kind is TabularRegressor:
        np.testing.assert_allclose([float(row["y"]) for row in rows], model.predict(HOUSES), rtol=1e-12)
    else:
        assert [row["y"] for row in rows] == model.predict(HOUSES).tolist()
        p = [[float(row[f"y={label}"]) for label in model.classes_] for row in rows]
        np.testing.assert_allclose(p, model.predict_proba(HOUSES), rtol=1e-12)
    assert command("evaluate", "own.safetensors", "houses.csv")[0] == 0


def test_folds_on_the_command_line(command):
    import json

    HOUSES.assign(y=PRICES).to_csv("houses.csv", index=False)
    fast = ("--hidden", 8, "--epochs", 6)
    status, out, err = command("train", "houses.csv", "-t", "y", *fast, "--folds", 3, "--starts", 2, "--out", "m")
    assert (status, err) == (0, "") and "3 folds" in out and "Fold 3: 2 starts" in out and "usually" not in out
    metrics = json.loads(Path("m/metrics.json").read_text())
    assert len(metrics["folds"]) == 3 and metrics["rows"] == {"train": 106, "validation": 54, "test": 40}
    history = [json.loads(line) for line in Path("m/history.jsonl").read_text().splitlines()]
    assert [(row["fold"], row["epoch"]) for row in history] == [(k, n) for k in (1, 2, 3) for n in range(1, 7)]
    model = ensemble.load("m/model.safetensors")
    table = read_table("houses.csv")
    values = [member.predict(table)["y"] for member in model.members]
    np.testing.assert_allclose(model.predict(table)["y"], np.mean(values, axis=0), rtol=1e-12)
    outputs = set()
    for fold in (1, 2, 3):
        status, out, _ = command("explain", "m", "houses.csv", "--what", "output", "--fold", fold)
        assert status == 0
        outputs.add(out)
    assert len(outputs) == 3
    assert command("verify", "m", "houses.csv", "--fold", 2, "--rows", 10)[0] == 0
    assert "from 1 to 3, got 4" in command("verify", "m", "houses.csv", "--fold", 4)[2]
    for wrong, words in ((("--folds", 1), "at least 2 folds"), (("--folds", 999), "at least 999 rows"),
                         (("--folds", 3, "--valid", "houses.csv"), "either --valid or --folds")):  # fmt: skip
        status, _, err = command("train", "houses.csv", "-t", "y", *fast, *wrong, "--out", "n")
        assert status and words in err and err.count("\n") == 1 and not Path("n").exists()
    status, out, _ = command("train", "houses.csv", "-t", "y", *fast, "--folds", 2, "--json", "--out", "n")
    assert [json.loads(line).get("fold") for line in out.splitlines()] == [1] * 6 + [2] * 6 + [None]
    for valid, told in (((), True), (("--valid", "houses.csv"), False)):
        out = command("train", "houses.csv", "-t", "y", *fast, *valid)[1]
        assert ("With so few rows --folds 5" in out) == told
    with pytest.raises(ModelFileError, match="ensemble of 3"):
        TableModel.load("m/model.safetensors")


# -- data in ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["polars", "pyarrow", "object"])
def test_frames_of_all_libraries_give_the_same_predictions(library):
    if library == "polars":
        polars = pytest.importorskip("polars")
        frame = polars.from_pandas(HOUSES.astype({"kind": "category"}))
        frame = frame.with_columns(polars.col("size").fill_null(float("nan")))  # its NaN is not its null
        labels, numbers = polars.Series("y", DEAR.tolist()), polars.Series("y", PRICES)
    elif library == "pyarrow":
        frame = pa.Table.from_pandas(HOUSES, preserve_index=False)
        labels, numbers = pa.chunked_array([DEAR.tolist()]), pa.chunked_array([PRICES])
    else:
        frame, labels, numbers = HOUSES.astype(object), DEAR.tolist(), PRICES.tolist()
    pandas = tabular_pair()
    others = TabularClassifier(**SMALL).fit(frame, labels), TabularRegressor(**SMALL).fit(frame, numbers)
    for one, other in zip(pandas, others, strict=True):
        assert list(other.feature_names_in_) == list(HOUSES.columns)
        np.testing.assert_array_equal(one.network_.theta, other.network_.theta)
        for X in (HOUSES, frame):
            np.testing.assert_array_equal(one.predict(X), other.predict(X))


def test_lazy_frames_are_to_be_collected():
    polars = pytest.importorskip("polars")
    with pytest.raises(DataError, match=r"Pass X.collect\(\)"):
        TabularClassifier(**SMALL).fit(polars.LazyFrame({"a": [1, 2]}), [1, 2])


def test_what_columns_become():
    model = TabularRegressor(**SMALL, categories=["rooms"], valid_fraction=0.0).fit(HOUSES, PRICES)
    names = model.encoder_.feature_names
    assert names[:2] == ("size", "size is missing") and "kind=house" in names and "new" in names
    assert {"sold: day", "sold: month sin", "rooms=3"} <= set(names) and "rooms" not in names
    by_position = TabularRegressor(**SMALL, categories=[4], valid_fraction=0.0).fit(HOUSES, PRICES)
    assert by_position.encoder_ == model.encoder_


def test_arrays_sparse_rows_and_gaps():
    X = np.where(IRIS > 2, IRIS, 0.0)
    dense = TabularClassifier(**SMALL).fit(X, SPECIES)
    assert dense.n_features_in_ == 4 and not hasattr(dense, "feature_names_in_")
    for form in (sparse.csr_array(X), sparse.csc_matrix(X), X.tolist(), X.astype(np.float32).astype(object)):
        other = TabularClassifier(**SMALL).fit(form, SPECIES)
        np.testing.assert_allclose(other.predict_proba(form), dense.predict_proba(X), atol=1e-5)
    gaps = IRIS.copy()
    gaps[::5, 1] = np.nan
    assert TabularClassifier(**SMALL).fit(gaps, SPECIES).encoder_.feature_names[1:3] == ("x1", "x1 is missing")
    text = np.column_stack([NAMED, IRIS[:, 0].astype(object)])
    assert TabularClassifier(**SMALL | {"epochs": 40}).fit(text, SPECIES).score(text, SPECIES) > 0.9
    with pytest.raises(ParameterError, match="sparse X of at most 4 GiB"):
        TabularRegressor(**SMALL).fit(sparse.csr_array((10**6, 10**5)), np.zeros(10**6))


@pytest.mark.parametrize("y", [NAMED, NAMED.astype(object), SPECIES, SPECIES.astype(float), SPECIES - 1.0, SPECIES == 0,
                               pd.Series(NAMED, name="x0", dtype="category"), pd.Series(SPECIES, dtype="Int64"), 10 * SPECIES.astype(np.uint8)],
                         ids=lambda y: str(y.dtype))  # fmt: skip
def test_labels_of_every_type(y, tmp_path):
    model = TabularClassifier(**SMALL | {"epochs": 60}).fit(IRIS, y)
    np.testing.assert_array_equal(model.classes_, np.unique(np.asarray(y)))
    nullable = str(y.dtype) == "Int64"  # which scikit-learn makes floats
    assert (nullable or model.classes_.dtype == np.asarray(y).dtype) and model.score(IRIS, y) > 0.9
    p = model.predict_proba(IRIS)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], model.predict(IRIS))
    assert log_loss(y, p) < 0.6
    model.save(tmp_path / "model")
    again = TabularClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(again.classes_, model.classes_)
    np.testing.assert_array_equal(again.predict(IRIS), model.predict(IRIS))


@pytest.mark.parametrize("dtype", [int, bool, float])
@pytest.mark.parametrize("folds", [None, 2])
def test_several_labels_and_several_numbers(dtype, folds, tmp_path):
    y = pd.DataFrame(LABELS.astype(dtype), columns=["a", "b", "c"])
    model = TabularClassifier(**SMALL | {"epochs": 60}, folds=folds).fit(IRIS, y)
    assert model.target_.task == "multilabel" and model.target_.names == ("a", "b", "c")
    assert model.predict(IRIS).dtype == dtype and model.score(IRIS, y) > 0.7
    np.testing.assert_array_equal(model.predict(IRIS), model.predict_proba(IRIS) >= 0.5)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(TabularClassifier.load(tmp_path / "model").predict(IRIS), model.predict(IRIS))
    numbers = TabularRegressor(**SMALL | {"epochs": 60}, folds=folds).fit(PATIENTS[:, 1:], PATIENTS[:, :2])
    assert numbers.predict(PATIENTS[:, 1:]).shape == (150, 2) and numbers.target_.names == ("y0", "y1")
    assert TabularClassifier(**SMALL).fit(IRIS, sparse.csr_array(LABELS)).predict(IRIS).shape == (150, 3)
    with pytest.warns(DataConversionWarning):
        TabularRegressor(**SMALL).fit(IRIS, SPECIES[:, None])
    TabularRegressor(**SMALL).fit(IRIS, pd.DataFrame({"t": SPECIES}))  # a frame of one column is meant so


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_gradient_is_that_of_the_reported_loss(outputs, average):
    """One step of plain gradient descent on all rows against differences of the loss, which is written out here."""
    y = np.column_stack([PROGRESS, PATIENTS[:, 2], PATIENTS[:, 3] ** 2])[:, :outputs]
    y, s = y[:, 0] if outputs == 1 else y, np.random.default_rng(0).uniform(0.5, 2, len(y))
    eta = 0.125
    plain = {"optimizer": "sgd", "schedule": "constant", "scale_layer": False, "ntk": False, "activation": "tanh"}
    plain |= {"hidden": (3,), "dtype": "float64", "average_outputs": average, "random_state": 0, **ALL_ROWS}
    fits = [
        TabularRegressor(**plain, learning_rate=rate, epochs=epochs).fit(PATIENTS, y, sample_weight=s)
        for rate, epochs in ((eta, 1), (eta, 2))
    ]
    before, after = (model.network_.theta for model in fits)
    mean = np.average(y, axis=0, weights=s)
    standard = (y - mean) / np.sqrt(np.average((y - mean) ** 2, axis=0, weights=s))
    standard = standard.reshape(len(y), outputs)
    model = fits[0]
    X = model.encoder_.encode(pa.table({f"x{j}": column for j, column in enumerate(PATIENTS.T)}))

    def loss(theta):
        W1, b1, W2, b2 = np.split(theta, np.cumsum([30, 3, 3 * outputs]))
        y_hat = np.tanh(X @ W1.reshape(3, 10).T + b1) @ W2.reshape(outputs, 3).T + b2
        squares = (y_hat - standard) ** 2
        return np.average(squares.mean(axis=1) if average else squares.sum(axis=1), weights=s)

    assert fits[1].runs_[0].history[1]["train_cost"] == pytest.approx(loss(before), rel=1e-12)
    assert model.trace(PATIENTS, y, s).cost == pytest.approx(loss(before), rel=1e-12)
    moves = 1e-5 * np.eye(len(before))
    slopes = np.array([loss(before + move) - loss(before - move) for move in moves]) / 2e-5
    np.testing.assert_allclose((before - after) / eta, slopes, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.trace(PATIENTS, y, s).dC_dtheta, slopes, rtol=1e-6, atol=1e-8)


def test_class_weights_are_sample_weights():
    kept = SPECIES < 2
    X, y = IRIS[kept][:70], NAMED[kept][:70]  # 50 and 20 rows
    theta = TabularClassifier(**SMALL).fit(X, y, sample_weight=np.where(y == "versicolor", 5.0, 1.0)).network_.theta
    weighed = TabularClassifier(**SMALL, class_weight={"versicolor": 5.0}).fit(X, y)
    np.testing.assert_array_equal(weighed.network_.theta, theta)
    balanced = TabularClassifier(**SMALL, class_weight="balanced").fit(X, y)
    by_hand = TabularClassifier(**SMALL).fit(X, y, sample_weight=np.where(y == "versicolor", 70 / 40, 70 / 100))
    np.testing.assert_allclose(balanced.network_.theta, by_hand.network_.theta, rtol=1e-6)
    TabularClassifier(**SMALL, class_weight=[{0: 1, 1: 2}] * 3).fit(IRIS, LABELS)
    with pytest.raises(ValueError, match="class"):
        TabularClassifier(**SMALL, class_weight={"oak": 2}).fit(X, y)


def test_own_validation_set():
    a, b = slice(0, 120), slice(120, 200)
    model = TabularRegressor(**SMALL | {"epochs": 30}).fit(HOUSES[a], PRICES[a], validation=(HOUSES[b], PRICES[b]))
    run = model.runs_[0]
    errors = [row["valid_rmse"] for row in run.history]
    assert run.best_epoch == 30 - np.argmin(errors[::-1]) and run.history[0]["step"] == 1  # 120 rows are one batch
    assert run.best_score == min(errors)
    rmse = np.sqrt(np.mean((model.predict(HOUSES[b]) - PRICES[b]) ** 2)) / model.target_.scale[0]
    assert rmse == pytest.approx(run.best_score, rel=1e-5)
    weighed = TabularRegressor(**SMALL).fit(
        HOUSES[a], PRICES[a], np.ones(120), validation=(HOUSES[b], PRICES[b], np.arange(80))
    )
    rmse = np.sqrt(np.average((weighed.predict(HOUSES[b]) - PRICES[b]) ** 2, weights=np.arange(80)))
    assert rmse / weighed.target_.scale[0] == pytest.approx(weighed.runs_[0].best_score, rel=1e-5)


def test_every_row_is_predicted_by_the_network_that_did_not_learn_from_it():
    classifier, regressor = tabular_pair(folds=4, dtype="float64", epochs=40)
    for model in (classifier, regressor):
        y = DEAR if model is classifier else PRICES
        method = model.predict_proba if model is classifier else model.predict
        each = [member.outputs(model.encoder_.encode(pa.Table.from_pandas(HOUSES))) for member in model.model_.members]
        each = [model._values(y_hat) for y_hat in each]
        by = np.array(
            [np.isclose(values, model.out_of_fold_, rtol=1e-9).reshape(200, -1).all(axis=1) for values in each]
        )
        assert (by.sum(axis=0) == 1).all() and (by.sum(axis=1) == 50).all()
        np.testing.assert_allclose(method(HOUSES), np.mean(each, axis=0), rtol=1e-12)
        for member, run, rows in zip(model.model_.members, model.runs_, by, strict=True):
            assert run.history[0]["step"] == 1
            part = member.part(pa.Table.from_pandas(HOUSES[rows].assign(y=y[rows]), preserve_index=False))
            cost = member.network.cost(part.X, part.y, loss=member.loss)
            assert cost == pytest.approx(run.history[run.best_epoch - 1]["valid_cost"], rel=1e-9)
    shares = [np.mean(DEAR[rows] == "dear") for rows in by]  # of the regression, whose folds do not look at classes
    assert len(set(shares)) > 1
    assert classifier.out_of_fold_.shape == (200, 2) and regressor.out_of_fold_.shape == (200,)
    assert np.mean(classifier.classes_[classifier.out_of_fold_.argmax(axis=1)] == DEAR) > 0.8
    assert tabular_pair()[0].out_of_fold_ is None and not hasattr(classifier, "decision_function")


def test_folds_share_what_they_can():
    table = pa.Table.from_pandas(HOUSES.assign(y=PRICES), preserve_index=False)
    settings = Settings(hidden=(4,), folds=3, time_limit=6.0, seed=5)
    folds = ensemble.prepare_folds(table, ["y"], settings)
    assert [problem.plan.time_limit for problem in folds.problems] == [2.0] * 3
    assert (
        [problem.model.network.seed for problem in folds.problems]
        == [5, 6, 7]
        == [problem.plan.seed for problem in folds.problems]
    )
    assert len({id(problem.model.encoder) for problem in folds.problems}) == 1
    assert len(folds.rows.X) == 160 and len(folds.problems[0].test.X) == 40
    for problem, rows in zip(folds.problems, folds.held_out, strict=True):
        np.testing.assert_array_equal(problem.valid.X, folds.rows.X[rows])
        np.testing.assert_array_equal(problem.train.X, np.delete(folds.rows.X, rows, axis=0))
    with pytest.raises(ParameterError, match="prepare_folds"):
        prepare(table, ["y"], settings)


def test_the_engine_is_chosen_for_all_folds_together():
    """300 epochs of 4 steps on 5 layers take 0.3 ms a step by `choose`'s estimate: 0.4 s for one fold, 4 s for ten."""
    pytest.importorskip("numba")
    table = pa.Table.from_pandas(HOUSES.assign(y=PRICES), preserve_index=False)
    settings = Settings(hidden=(4, 4, 4), epochs=300, batch_size=36, folds=2)
    few, many = (ensemble.prepare_folds(table, ["y"], dataclasses.replace(settings, folds=folds)) for folds in (2, 10))
    assert {problem.plan.engine for problem in few.problems} == {"array"}
    assert {problem.plan.engine for problem in many.problems} == {"compiled"}
    chosen = ensemble.prepare_folds(table, ["y"], dataclasses.replace(settings, folds=10, engine="array"))
    assert {problem.plan.engine for problem in chosen.problems} == {"array"}
    few_rows = table.slice(0, 39)  # four folds of 4 steps an epoch, one of 3
    for epochs in range(300, 1500, 50):
        settings = Settings(hidden=(4,), epochs=epochs, batch_size=8, folds=5, test_fraction=0.0)
        assert len({p.plan.engine for p in ensemble.prepare_folds(few_rows, ["y"], settings).problems}) == 1


def test_an_interrupt_keeps_the_networks_that_have_an_epoch(monkeypatch):
    from chainrule.table_model import fit

    calls = []

    def interrupted(problem):
        calls.append(problem)

        def on_epoch(row):
            if len(calls) == 2 and row["epoch"] == 3:
                raise KeyboardInterrupt

        return fit(problem, on_epoch)

    monkeypatch.setattr(ensemble, "fit", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = TabularRegressor(**SMALL, folds=4).fit(HOUSES, PRICES)
    assert len(model.networks_) == 2 and [len(run.history) for run in model.runs_] == [10, 3]
    assert np.isnan(model.out_of_fold_).sum() == 100 and np.isfinite(model.predict(HOUSES)).all()


# -- what is inside ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [None, 2])
def test_looking_inside(folds, tmp_path):
    for model, y in zip(tabular_pair(folds=folds, dtype="float64", l2=1e-3), (DEAR, PRICES), strict=True):
        trace = model.trace(HOUSES, y)
        assert trace[1].a.shape == (200, len(model.encoder_.feature_names))
        smoothing = 0.1 if y is DEAR else 0.0
        part = ensemble.member_of(model.model_, 0).part(pa.Table.from_pandas(HOUSES.assign(y=y)))
        cost = model.network_.cost(part.X, part.y, penalty=1e-3, label_smoothing=smoothing)
        assert trace.cost == pytest.approx(cost, rel=1e-12)
        assert "∂C/∂W" in str(model.explain(HOUSES[:3], y[:3], "W", 2, (0, 1)))
        assert model.verify(HOUSES[:10], y[:10]).ok
        if folds:
            assert model.trace(HOUSES, y, member=1).cost != trace.cost
        with pytest.raises(ParameterError, match=f"from 0 to {(folds or 1) - 1}"):
            model.trace(HOUSES, y, member=folds or 1)
        model.save(tmp_path / "model")
        assert type(model).load(tmp_path / "model").trace(HOUSES, y).cost == pytest.approx(trace.cost, rel=1e-12)


def test_decisions_are_made_on_the_logits():
    binary, _ = tabular_pair()
    z = binary.decision_function(HOUSES)
    np.testing.assert_allclose(binary.predict_proba(HOUSES)[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-5)
    np.testing.assert_array_equal(binary.predict(HOUSES), binary.classes_[(z >= 0).astype(int)])
    several = TabularClassifier(**SMALL).fit(IRIS, NAMED)
    z = several.decision_function(IRIS)
    np.testing.assert_allclose(several.predict_log_proba(IRIS), z - np.log(np.exp(z).sum(axis=1))[:, None], atol=1e-5)


# -- files, copies and company ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [None, 2])
def test_copies_and_files(folds, tmp_path):
    for model, other in zip(tabular_pair(folds=folds, dropout=0.1), (TabularRegressor, TabularClassifier), strict=True):
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(HOUSES), model.predict(HOUSES))
        assert clone(model).get_params() == model.get_params() and not hasattr(clone(model), "network_")
        path = tmp_path / "model.safetensors"
        model.save(path)
        loaded = type(model).load(tmp_path)  # the folder of a run
        np.testing.assert_array_equal(loaded.predict(HOUSES), model.predict(HOUSES))
        assert loaded.get_params() == model.get_params() and loaded.n_features_in_ == 5
        assert loaded.encoder_ == model.encoder_ and loaded.target_ == model.target_
        np.testing.assert_array_equal(
            loaded.set_params(epochs=2).fit(HOUSES, DEAR == "dear").predict(HOUSES).shape, 200
        )
        with pytest.raises(ModelFileError, match="expected a model for"):
            other.load(path)
        with pytest.raises(NotFittedError):
            clone(model).save(path)
    for size in (0, 40, path.stat().st_size - 8):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ModelFileError):
            TabularRegressor.load(path)


def test_columns_of_a_file_count_by_name_whatever_they_are_called(tmp_path):
    """Also x0, x1 …, which are the names of an array's columns."""
    frame = pd.DataFrame({"x0": IRIS[:, 0], "x1": 100 * IRIS[:, 1], "y": IRIS[:, 0]})
    model = TabularRegressor(**SMALL).fit(frame[["x0", "x1"]], frame["y"])
    model.save(tmp_path / "m.safetensors")
    loaded = TabularRegressor.load(tmp_path / "m.safetensors")
    expected = model.predict(frame[["x0", "x1"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the model may as well be one of an array
        np.testing.assert_array_equal(loaded.predict(frame[["x1", "x0"]]), expected)
        np.testing.assert_array_equal(loaded.predict(pa.table(frame[["x1", "x0"]])), expected)
    np.testing.assert_array_equal(loaded.predict(frame[["x0", "x1"]].to_numpy()), expected)


def test_in_company():
    """Pipelines, searches, column transformers, calibration, learning curves, and other processes."""
    model = TabularClassifier(**SMALL | {"epochs": 30})
    columns = make_column_transformer((StandardScaler(), ["size"]), remainder="passthrough").set_output(
        transform="pandas"
    )
    pipeline = make_pipeline(columns, model)
    search = GridSearchCV(pipeline, {"tabularclassifier__dropout": [0.0, 0.1]}, cv=2).fit(HOUSES, DEAR)
    assert search.score(HOUSES, DEAR) > 0.8
    for folds in (None, 2):
        p = CalibratedClassifierCV(clone(model).set_params(folds=folds), cv=2).fit(HOUSES, DEAR).predict_proba(HOUSES)
        np.testing.assert_allclose(p.sum(axis=1), 1)
    _, _, scores = learning_curve(model, HOUSES, DEAR, train_sizes=[0.5, 1.0], cv=2)
    assert scores.shape == (2, 2) and np.isfinite(scores).all()
    numbers = TabularRegressor(**SMALL, folds=2)
    here = cross_val_score(numbers, HOUSES, PRICES, cv=2)
    np.testing.assert_array_equal(cross_val_score(numbers, HOUSES, PRICES, cv=2, n_jobs=2), here)


# -- bad input --------------------------------------------------------------------------------------------------------


def test_columns_at_prediction():
    _, model = tabular_pair()
    first = model.predict(HOUSES)
    unseen = HOUSES.assign(kind="castle")
    zeros = model.encoder_.encode(pa.Table.from_pandas(unseen))
    at = [j for j, name in enumerate(model.encoder_.feature_names) if name.startswith("kind=")]
    assert len(at) == 3 and not zeros[:, at].any() and np.isfinite(model.predict(unseen)).all()
    bad = {
        "renamed": HOUSES.rename(columns={"size": "area"}),
        "missing": HOUSES.drop(columns="size"),
        "reordered": HOUSES[HOUSES.columns[::-1]],
        "more": HOUSES.assign(extra=1),
    }
    for X in bad.values():
        with pytest.raises(
            DataError, match=r"feature names(?s:.)*in their order: X\[list\(model.feature_names_in_\)\]"
        ):
            model.predict(X)
    with pytest.raises(DataError, match=r"Column 'size': expected numbers, got the text 'big' at row 1"):
        model.predict(HOUSES.assign(size="big"))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        np.testing.assert_array_equal(model.predict(HOUSES.to_numpy()), first)
    plain = TabularRegressor(**SMALL).fit(IRIS, SPECIES)
    with pytest.raises(ValueError, match="X has 3 features"):
        plain.predict(IRIS[:, :3])


def test_columns_of_no_use():
    X = HOUSES.assign(same="x", gone=None, one=3.0, id=[f"house number {i}" for i in range(200)])
    with pytest.warns(UserWarning, match="left out") as said:
        model = TabularRegressor(**SMALL).fit(X, PRICES)
    assert model.notes_ == tuple(str(warning.message) for warning in said)
    assert [note.split("'")[1] for note in model.notes_] == ["same", "gone", "id"]
    assert list(model.feature_names_in_) == list(X.columns) and np.isfinite(model.predict(X)).all()
    assert (
        model.encoder_.encode(pa.table(X.assign(gone=1.0)))[:, model.encoder_.feature_names.index("one")] == 0
    ).all()


FAILING = {
    "folds and labels": lambda m: m.set_params(folds=1000).fit(HOUSES, np.where(DEAR == "dear", "A", "B")),
    "other columns": lambda m: m.fit(HOUSES[["size"]], np.where(DEAR == "dear", 1, 0), np.zeros(200)),
    "training": lambda m: m.set_params(learning_rate=1e30, optimizer="sgd").fit(HOUSES[["size"]], DEAR),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_fit_that_fails_changes_nothing(name):
    model = TabularClassifier(**SMALL).fit(HOUSES, DEAR)
    before = model.predict(HOUSES), model.predict_proba(HOUSES)
    with pytest.raises((ValueError, ArithmeticError)):
        FAILING[name](model)
    np.testing.assert_array_equal(model.predict(HOUSES), before[0])
    np.testing.assert_array_equal(model.predict_proba(HOUSES), before[1])
    assert list(model.feature_names_in_) == list(HOUSES.columns) and model.runs_


def test_columns_of_y_keep_their_names_and_order():
    Y = pd.DataFrame({"p": PRICES, "q": -PRICES})
    for wrong in (
        lambda: TabularRegressor(**SMALL).fit(HOUSES, Y, validation=(HOUSES, Y[["q", "p"]])),
        lambda: TabularRegressor(**SMALL).fit(HOUSES, Y).trace(HOUSES, Y[["q", "p"]]),
    ):
        with pytest.raises(DataError, match=r"y: expected the columns \['p', 'q'\] in this order, got \['q', 'p'\]"):
            wrong()
    named = TabularRegressor(**SMALL).fit(HOUSES, Y.set_axis(["size", "size_"], axis=1))
    assert named.target_.names == ("size_", "size__") and named.predict(HOUSES).shape == (200, 2)
    with pytest.raises(DataError, match="y: expected different column names, got 'p' more than once"):
        TabularRegressor(**SMALL).fit(HOUSES, Y.set_axis(["p", "p"], axis=1))


def test_numbers_beside_text_in_a_list_stay_numbers():
    rows = [[float(x), "u" if x > 0 else "v"] for x in IRIS[:, 0] - 5.8]
    model = TabularClassifier(**SMALL).fit(rows, SPECIES)
    assert model.encoder_.feature_names == ("x0", "x1=v")
    np.testing.assert_array_equal(model.predict(rows), model.predict(np.array(rows, dtype=object)))


def test_objects_as_numbers():
    X = pd.DataFrame({"x": np.array([1, pd.NA, 2.5, "3", None] * 40, dtype=object), "z": IRIS[0, 0]})
    model = TabularRegressor(**SMALL).fit(X, PRICES)
    np.testing.assert_array_equal(
        model.predict(X), model.predict(X.assign(x=pd.to_numeric(X["x"].astype("string"), errors="coerce")))
    )
    huge = X.assign(x=np.array([10**30, 1, 2, 3, 4] * 40, dtype=object))
    assert np.isfinite(TabularRegressor(**SMALL).fit(huge, PRICES).predict(huge)).all()


@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
def test_messages_name_parameters():
    X = pd.DataFrame({"it's": ["1", "2", "3", "4", "x"] * 30, "z": IRIS[:, 0]})
    with pytest.raises(DataError, match=r"""take it as a category \(categories=\["it's"\]\)"""):
        TabularClassifier(**SMALL).fit(X, SPECIES)
    with pytest.raises(DataError, match=r"leave it out \(X.drop\(columns=\['z'\]\)\)"):
        TabularClassifier(**SMALL).fit(X[["z"]].assign(z=[[1]] * 150), SPECIES)
    with pytest.raises(DataError, match=r"ask for numbers \(TabularRegressor\)"):
        TabularClassifier(**SMALL).fit(X[["z"]], np.arange(150))
    with pytest.warns(UserWarning, match=r"\(categories=\['an id'\]\) it is kept"):
        model = TabularClassifier(**SMALL).fit(X[["z"]].assign(**{"an id": [f"p{k}" for k in range(150)]}), SPECIES)
    assert "--category" not in model.notes_[0]


def test_intervals_are_categories():
    rooms, edges = np.arange(200) % 9, [-1, 2, 5, 8]
    binned = pd.DataFrame({"rooms": pd.cut(rooms, edges)})
    named = binned.astype(str)
    model = TabularClassifier(**SMALL).fit(binned, rooms > 5)
    np.testing.assert_array_equal(
        model.predict_proba(binned), TabularClassifier(**SMALL).fit(named, rooms > 5).predict_proba(named)
    )
    assert model.score(binned, rooms > 5) == 1
    binned.loc[0, "rooms"] = None
    assert np.isfinite(model.predict_proba(binned)).all()


BAD = {
    "width of the validation set": (lambda m: m.fit(IRIS, SPECIES, validation=(IRIS[:, :2], SPECIES)), "X has 2 features"),
    "columns of the validation set": (lambda m: m.fit(HOUSES, DEAR, validation=(HOUSES[["new"]], DEAR)), "in their order"),
    "validation": (lambda m: m.fit(IRIS, SPECIES, validation=IRIS), "validation as"),
    "validation and folds": (lambda m: m.set_params(folds=2).fit(IRIS, SPECIES, validation=(IRIS, SPECIES)), "either"),
    "weights of the validation rows only": (
        lambda m: m.fit(IRIS, SPECIES, validation=(IRIS, SPECIES, SPECIES)), "weights of the training rows too"),
    "labels never seen": (
        lambda m: m.fit(IRIS[:100], NAMED[:100], validation=(IRIS, NAMED)), r"classes seen in training.*got 'virginica'"),
    "labels never seen, inside": (lambda m: m.fit(IRIS, SPECIES).trace(IRIS, SPECIES + 1), "got '3' at row 101"),
    "negative weights": (lambda m: m.fit(IRIS, SPECIES, -np.ones(150)), "at least 0, got -1.0 at row 0"),
    "weights that are all zero": (lambda m: m.fit(IRIS, SPECIES, np.zeros(150)), "zero"),
    "weights of a fold that are all zero": (
        lambda m: m.set_params(folds=150).fit(IRIS, SPECIES, np.arange(150)), "fold .*: expected some sample weight"),
    "more classes than rows allow": (lambda m: m.fit(IRIS[:20], list("abcdefghijklmnopqrst")), "expected a few classes, got 20"),
    "one class": (lambda m: m.fit(IRIS, ["b"] * 150), "at least two classes, got one class, 'b'"),
    "one class of several labels": (lambda m: m.fit(IRIS, LABELS * [1, 1, 0]), "'y2': expected at least two different"),
    "several columns of classes": (lambda m: m.fit(IRIS, np.column_stack([SPECIES, SPECIES])), "MultiOutputClassifier"),
    "gaps in y": (lambda m: m.fit(IRIS, [None, *NAMED[1:]]), "none in row 1"),
    "gaps in y of pandas": (lambda m: m.fit(IRIS, pd.Series([*NAMED[:149], pd.NA], dtype="string")), "none in row 150"),
    "gaps in numbers of y": (lambda m: m.fit(IRIS, [*SPECIES[:149], np.nan]), "none in row 150"),
    "no y": (lambda m: m.fit(IRIS, None), "requires y"),
    "infinite": (lambda m: m.fit(IRIS / 0, SPECIES), "infinity"),
    "columns of one name": (lambda m: m.fit(HOUSES.rename(columns={"size": "new"}), DEAR), "'new'"),
    "twice the same names": (lambda m: m.fit(pd.concat([HOUSES, HOUSES], axis=1), DEAR), "'size' more than once"),
    "no columns": (lambda m: m.fit(HOUSES[[]], DEAR), "at least one column, got none"),
    "complex column": (lambda m: m.fit(HOUSES.assign(new=1j), DEAR), "Column 'new': expected real numbers"),
    "half of a character": (lambda m: m.fit(np.full((150, 1), "\ud800", object), SPECIES), "Column 'x0'.*Unicode"),
    "negative weights of classes": (
        lambda m: m.set_params(class_weight={0: -1.0}).fit(IRIS, SPECIES), "class_weight: .*at least 0"),
    "unknown classes with weights": (lambda m: m.set_params(class_weight={7: 1.0}).fit(IRIS, SPECIES), "class_weight"),
    "mixed column": (lambda m: m.fit(HOUSES.assign(new=["x", 1] * 100), DEAR), "Column 'new'.*values of one kind"),
    "type of a column": (lambda m: m.fit(HOUSES.assign(new=[[1]] * 200), DEAR), "Column 'new'.*list"),
    "one row": (lambda m: m.fit(HOUSES[:1], DEAR[:1]), "at least 2 rows"),
    "categories": (lambda m: m.set_params(categories=["kin"]).fit(HOUSES, DEAR), "Did you mean 'kind'"),
    "epochs": (lambda m: m.set_params(epochs=2.5).fit(IRIS, SPECIES), "TabularClassifier.epochs"),
    "hidden": (lambda m: m.set_params(hidden=(4, 0)).fit(IRIS, SPECIES), "at least 1"),
    "activation": (lambda m: m.set_params(activation="rellu").fit(IRIS, SPECIES), "Did you mean 'relu'"),
    "loss": (lambda m: m.set_params(loss="poisson").fit(IRIS, SPECIES), "loss of probabilities"),
    "folds": (lambda m: m.set_params(folds=1).fit(IRIS, SPECIES), "at least 2 folds"),
    "seed": (lambda m: m.set_params(random_state=-1).fit(IRIS, SPECIES), "seed"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
def test_bad_input(name):
    call, words = BAD[name]
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=words):
        call(TabularClassifier(**SMALL))


def test_dates_are_no_target():
    with pytest.raises(DataError, match="y: expected numbers, got dates"):
        TabularRegressor(**SMALL).fit(IRIS, pd.date_range("2020", periods=150))


def test_settings_of_numpy_and_seeds():
    odd = TabularClassifier(hidden=np.array([8]), epochs=np.int64(10), dropout=np.float32(0), random_state=np.int32(0))
    np.testing.assert_array_equal(
        odd.fit(IRIS, SPECIES).network_.theta, TabularClassifier(**SMALL).fit(IRIS, SPECIES).network_.theta
    )
    for categories in ("kind", ["kind"], None):
        assert TabularClassifier(**SMALL, categories=categories).fit(HOUSES, DEAR).score(HOUSES, DEAR) > 0.5
    assert TabularClassifier(**SMALL | {"hidden": 8}).fit(IRIS, SPECIES).network_.P == odd.network_.P
    drawn = [
        TabularClassifier(**SMALL | {"random_state": np.random.RandomState(3)}).fit(IRIS, SPECIES).network_.theta
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*drawn)


def test_dates_of_all_kinds():
    days = [dt.date(2020, 1, 1) + dt.timedelta(days=k) for k in range(150)]
    y = np.array([day.weekday() >= 5 for day in days])
    frames = [
        pd.DataFrame({"day": days}),
        pd.DataFrame({"day": pd.to_datetime(days)}),
        pa.table({"day": days}),
        np.array(days, dtype=object)[:, None],
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models = [TabularClassifier(**SMALL | {"epochs": 80}).fit(frame, y) for frame in frames]
    assert all(model.score(frame, y) == 1 for model, frame in zip(models, frames, strict=True))
