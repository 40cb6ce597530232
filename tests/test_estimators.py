"""The estimators against scikit-learn's own: its checks, its results from the same start, and what it lacks.

The independent sources are scikit-learn's estimators and its battery of checks, and differences of the reported loss.
"""

from __future__ import annotations

import inspect
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.metrics import RocCurveDisplay, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.estimator_checks import parametrize_with_checks

import chainrule as cr
from chainrule import MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor
from chainrule.errors import DataError, ParameterError
from estimator_checks import weights_are_no_repetitions
from own import softsign

THEIRS = {MLPClassifier: neural_network.MLPClassifier, MLPRegressor: neural_network.MLPRegressor}
IRIS, SPECIES = load_iris(return_X_y=True)
IRIS = scale(IRIS)
PATIENTS, PROGRESS = load_diabetes(return_X_y=True, scaled=False)
PATIENTS, PROGRESS = scale(PATIENTS[:150]), PROGRESS[:150] / 100
LABELS = np.column_stack([SPECIES == 0, IRIS[:, 1] > 0, IRIS[:, 2] > 0.5]).astype(int)


@pytest.fixture(autouse=True)
def _few_epochs():
    """Most fits here are cut short on purpose; one test sees that this is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def iris(**settings):
    """A small classifier."""
    return MLPClassifier(**{"hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 0} | settings)


def diabetes(**settings):
    """A small regressor."""
    return MLPRegressor(**{"hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 0} | settings)


# -- scikit-learn's checks --------------------------------------------------------------------------------------------

CONFIGURATIONS = [
    kind(**settings)
    for kind in (MLPClassifier, MLPRegressor)
    for settings in (
        {"hidden_layer_sizes": (8,), "learning_rate_init": 0.02, "max_iter": 60},
        {"hidden_layer_sizes": (8,), "solver": "lbfgs", "max_iter": 60},
        {
            "hidden_layer_sizes": (8, 4),
            "solver": "sgd",
            "learning_rate": "adaptive",
            "learning_rate_init": 0.05,
            "max_iter": 60,
        },
        {
            "hidden_layer_sizes": (8,),
            "solver": "sgd",
            "learning_rate": "invscaling",
            "power_t": 0.1,
            "clip_norm": 10.0,
            "learning_rate_init": 0.05,
            "max_iter": 60,
        },
        {
            "hidden_layer_sizes": (8,),
            "early_stopping": True,
            "learning_rate_init": 0.02,
            "max_iter": 60,
            "validation_fraction": 0.3,
        },
        {"hidden_layer_sizes": (16,), "dropout": 0.1, "learning_rate_init": 0.02, "max_iter": 60, "clip_norm": 5.0},
        {"hidden_layer_sizes": (8,), "activation": "mish", "batch_size": 8, "learning_rate_init": 0.02, "max_iter": 30},
        {"hidden_layer_sizes": (), "solver": "lbfgs", "max_iter": 60},
        {
            "hidden_layer_sizes": (8, 4),
            "activation": ["tanh", "leaky_relu(0.1)"],
            "learning_rate_init": 0.02,
            "max_iter": 60,
        },
    )
] + [
    MLPClassifier((8,), loss="hinge", solver="lbfgs", max_iter=60),
    MLPClassifier((8,), class_weight="balanced", learning_rate_init=0.02, max_iter=60, label_smoothing=0.05),
    MLPRegressor("huber", (8,), learning_rate_init=0.02, max_iter=60),
]


def expected_failures(estimator):
    """Where a weight is not the same as a repetition, and why."""
    return weights_are_no_repetitions(
        {
            "the validation rows are drawn by their number": estimator.early_stopping,
            "dropout masks are drawn by the row's number": bool(estimator.dropout),
            "the learning rate falls with the number of rows": estimator.learning_rate == "invscaling",
            "mini-batches are drawn by the row's number": estimator.batch_size != "auto",
        }
    )


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(CONFIGURATIONS, expected_failed_checks=expected_failures)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# -- scikit-learn's own results ---------------------------------------------------------------------------------------

PROBLEMS = {
    "binary": (MLPClassifier, IRIS, SPECIES == 1, {}),
    "multiclass": (MLPClassifier, IRIS, np.array(["setosa", "versicolor", "virginica"])[SPECIES], {}),
    "multilabel": (MLPClassifier, IRIS, LABELS, {}),
    "regression": (MLPRegressor, PATIENTS, PROGRESS, {}),
    "poisson": (MLPRegressor, PATIENTS, PROGRESS, {"loss": "poisson"}),
}


def pair(problem, weights=None, **settings):
    """Ours and theirs, fitted alike; both draw the same starting weights from a random state."""
    kind, X, y, options = PROBLEMS[problem]
    settings = {"hidden_layer_sizes": (5,), "random_state": 3, "alpha": 0.1} | options | settings
    return tuple(estimator(**settings).fit(X, y, sample_weight=weights) for estimator in (kind, THEIRS[kind])), X, y


@pytest.mark.parametrize("activation", ["logistic", "tanh", "relu", "identity"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_lbfgs_agrees(problem, activation):
    (ours, theirs), _, _ = pair(problem, solver="lbfgs", max_iter=12, activation=activation)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-6)
    assert ours.n_iter_ == theirs.n_iter_ and ours.out_activation_ == theirs.out_activation_
    for one, other in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_lbfgs_with_weights_finds_the_same_minimum(problem):
    weights = np.random.default_rng(1).uniform(0.2, 3, 150)
    (ours, theirs), _, _ = pair(problem, weights, solver="lbfgs", max_iter=300, hidden_layer_sizes=(), tol=1e-6)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-6)


SOLVERS = [
    {"solver": "adam", "learning_rate_init": 0.01, "epsilon": 1e-13},
    {"solver": "adam", "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-13},
    {"solver": "sgd", "learning_rate_init": 0.05},
    {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.05},
    {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.05},
    {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.2, "learning_rate_init": 0.05, "max_iter": 5},
    {"solver": "sgd", "learning_rate": "adaptive", "tol": 1e3, "n_iter_no_change": 1, "max_iter": 7},
]


@pytest.mark.parametrize("settings", SOLVERS, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_epochs_in_the_same_order_agree(problem, settings):
    """Without a penalty, which scikit-learn divides by the rows of the batch and chainrule by all rows, and with an ε
    too small to matter, which scikit-learn adds to √v and chainrule, as Kingma & Ba do, to √v̂.
    """
    (ours, theirs), _, _ = pair(problem, **{"shuffle": False, "batch_size": 32, "alpha": 0.0, "max_iter": 1} | settings)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-7)
    assert (ours.n_iter_, ours.t_) == (theirs.n_iter_, theirs.t_)
    for one, other in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("problem", ["binary", "regression"])
def test_early_stopping_agrees(problem):
    """Of the same rows held out; 150 − 15 rows are one batch."""
    settings = {"early_stopping": True, "n_iter_no_change": 3, "learning_rate_init": 0.02, "max_iter": 40}
    (ours, theirs), _, _ = pair(problem, **settings)
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-4)
    assert ours.best_validation_score_ == pytest.approx(theirs.best_validation_score_, rel=1e-4)
    assert ours.n_iter_ == theirs.n_iter_ < 40 and ours.best_loss_ is theirs.best_loss_ is None
    assert len(ours.validation_loss_curve_) == ours.n_iter_


def test_calls_of_partial_fit_agree():
    settings = {"hidden_layer_sizes": (5,), "shuffle": False, "random_state": 2, "alpha": 0.0, "epsilon": 1e-13}
    ours, theirs = MLPClassifier(**settings), THEIRS[MLPClassifier](**settings)
    for rows in (slice(0, 60), slice(60, 150), slice(20, 70)):
        for estimator in (ours, theirs):
            estimator.partial_fit(IRIS[rows], SPECIES[rows], classes=[0, 1, 2])
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-5)
    assert ours.t_ == theirs.t_ == 200 and ours.n_iter_ == theirs.n_iter_ == 1
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-7)


@pytest.mark.parametrize("kind", THEIRS)
def test_parameters_and_attributes_are_theirs(kind):
    ours, theirs = (inspect.signature(cls).parameters for cls in (kind, THEIRS[kind]))
    assert {name: (p.default, p.kind) for name, p in ours.items() if name in theirs} == {
        name: (p.default, p.kind) for name, p in theirs.items()
    }
    positional = [name for name, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(positional)] == positional
    X = pd.DataFrame(IRIS, columns=list("abcd"))
    for settings in ({}, {"solver": "lbfgs"}, {"early_stopping": True}):
        one, other = (cls(max_iter=3, **settings).fit(X, SPECIES) for cls in (kind, THEIRS[kind]))
        public = {name for name in vars(other) if not name.startswith("_")}
        missing = {name for name in public if not hasattr(one, name)}
        assert not missing
        for name in ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "n_iter_", "t_", "loss"):
            assert getattr(one, name) == getattr(other, name), name
        assert list(one.feature_names_in_) == list("abcd")
        for name in ("coefs_", "intercepts_"):
            assert [part.shape for part in getattr(one, name)] == [part.shape for part in getattr(other, name)]


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_step_goes_down_the_reported_loss(outputs):
    """Differences of ½ · mean over outputs of the squares, which is what `loss_` reports, against one step of SGD."""
    y = np.column_stack([PROGRESS, PATIENTS[:, 0], PATIENTS[:, 1] ** 2])[:, :outputs]
    y = y[:, 0] if outputs == 1 else y
    eta, settings = 0.125, {"momentum": 0.0, "shuffle": False, "alpha": 3.0, "activation": "tanh", "warm_start": True}
    model = diabetes(solver="sgd", learning_rate_init=eta, max_iter=1, hidden_layer_sizes=(3,), **settings)
    model.fit(PATIENTS, y)
    before = pickle.loads(pickle.dumps(model))
    start = [part.copy() for part in before.coefs_]
    model.fit(PATIENTS, y)

    def loss(coefs):
        before.coefs_ = coefs
        squares = np.mean((before.predict(PATIENTS) - y) ** 2)
        return 0.5 * squares + 0.5 * 3.0 / len(y) * sum((part**2).sum() for part in coefs)

    assert model.loss_ == pytest.approx(loss(start), rel=1e-12)
    for layer, place in ((0, (4, 1)), (0, (0, 2)), (1, (1, 0)), (1, (2, outputs - 1))):
        ends = []
        for sign in (1, -1):
            moved = [part.copy() for part in start]
            moved[layer][place] += sign * 1e-5
            ends.append(loss(moved))
        slope = (ends[0] - ends[1]) / 2e-5
        assert (start[layer][place] - model.coefs_[layer][place]) / eta == pytest.approx(slope, rel=1e-6, abs=1e-9)


# -- what scikit-learn lacks ------------------------------------------------------------------------------------------


def test_class_weights_are_sample_weights():
    kept = SPECIES < 2
    X, y = IRIS[kept][:70], SPECIES[kept][:70]  # 50 and 20 rows
    plain = iris().fit(X, y, sample_weight=np.where(y == 1, 5.0, 1.0))
    weighed = iris(class_weight={1: 5.0}).fit(X, y)
    np.testing.assert_array_equal(weighed.network_.theta, plain.network_.theta)
    balanced = iris(class_weight="balanced").fit(X, y)
    by_hand = iris().fit(X, y, sample_weight=np.where(y == 1, 70 / 40, 70 / 100))
    np.testing.assert_allclose(balanced.network_.theta, by_hand.network_.theta, rtol=1e-12)
    in_parts = iris(class_weight="balanced").partial_fit(X[:10], y[:10], classes=[0, 1]).partial_fit(X[10:], y[10:])
    assert in_parts._seen.tolist() == [50, 20]
    iris(class_weight=[{0: 1, 1: 2}] * 3).fit(IRIS, LABELS)


@pytest.mark.parametrize("loss", ["hinge", "binary_cross_entropy", "squared", "squared_error", "huber(0.5)",
                                  "categorical_cross_entropy_logits", "binary_cross_entropy_logits"])  # fmt: skip
@pytest.mark.parametrize("y", [SPECIES == 0, SPECIES, LABELS], ids=["binary", "multiclass", "multilabel"])
def test_losses_of_classes(loss, y):
    model = iris(loss=loss, solver="lbfgs", max_iter=60)
    if y.ndim == 2 and loss.startswith("categorical"):
        with pytest.raises(ParameterError, match="each output on its own"):
            model.fit(IRIS, y)
        return
    assert model.fit(IRIS, y).score(IRIS, y) > 0.9
    if loss == "hinge":
        assert not hasattr(model, "predict_proba") and len(model.decision_function(IRIS)) == 150
        return
    p = model.predict_proba(IRIS)
    assert not hasattr(model, "decision_function") and (p >= 0).all()
    assert p.shape == (150, 2 if y.dtype == bool else 3)
    if y.ndim == 1:
        np.testing.assert_allclose(p.sum(axis=1), 1)
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(model.predict_log_proba(IRIS), np.log(p))


@pytest.mark.parametrize("loss", ["absolute", "huber(delta=2)", "quantile(0.9)", "log_cosh", "gamma", "poisson_log"])
def test_losses_of_numbers(loss):
    model = diabetes(loss=loss, solver="lbfgs", max_iter=100).fit(PATIENTS, PROGRESS)
    cost = model.network_.cost(PATIENTS, PROGRESS, loss=loss, penalty=1e-4 / 150)
    assert model.loss_ == pytest.approx(cost, rel=1e-9)
    if loss.startswith("quantile"):
        assert np.mean(model.predict(PATIENTS) >= PROGRESS) == pytest.approx(0.9, abs=0.06)
    with pytest.raises(ParameterError, match="loss"):
        iris(loss="gamma").fit(IRIS, SPECIES)


def test_activations_and_dropout_of_each_layer():
    settings = {"hidden_layer_sizes": (5, 4, 3), "activation": [softsign, "logistic", "leaky_relu(0.2)"]}
    model = clone(iris(**settings, dropout=[0.2, 0, 0.1])).fit(IRIS, SPECIES)
    assert [str(layer) for layer in model.network_.architecture.layers] == [
        "Dense 4 → 5, softsign", "Dropout 0.2", "Dense 5 → 4, sigmoid", "Dense 4 → 3, leaky_relu(slope=0.2)",
        "Dropout 0.1", "Dense 3 → 3, softmax",
    ]  # fmt: skip
    assert [part.shape for part in model.coefs_] == [(4, 5), (5, 4), (4, 3), (3, 3)] and model.n_layers_ == 5
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(IRIS), model.predict_proba(IRIS))
    for wrong, match in (({"activation": ["tanh"]}, "one for each hidden layer"), ({"dropout": [0.1]}, "dropout"),
                         ({"activation": "tanhh"}, "Did you mean"), ({"hidden_layer_sizes": (3, 0)}, "> 0"),
                         ({"hidden_layer_sizes": (3.5, 3)}, r"whole numbers of at least 1, got \[3.5, 3\]"),
                         ({"dropout": 1.5}, "dropout"), ({"solver": "newton"}, "'solver' parameter"),
                         ({"solver": "lbfgs", "dropout": 0.1}, "without dropout")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            iris(**{"hidden_layer_sizes": (3, 3)} | wrong).fit(IRIS, SPECIES)


def test_own_validation_set():
    X, y, held_out = IRIS[::2], SPECIES[::2], (IRIS[1::2], SPECIES[1::2])
    watched = iris(learning_rate_init=0.05).fit(X, y, validation=held_out)
    plain = iris(learning_rate_init=0.05).fit(X, y)
    np.testing.assert_array_equal(watched.network_.theta, plain.network_.theta)  # curves alone decide nothing
    assert watched.validation_scores_[-1] == watched.score(*held_out)
    options = {"loss": "categorical_cross_entropy", "penalty": 1e-4 / 75}
    assert watched.validation_loss_curve_[-1] == pytest.approx(watched.network_.cost(*held_out, **options))
    stopped = iris(early_stopping=True, n_iter_no_change=2, learning_rate_init=0.2, max_iter=200, tol=0)
    stopped.fit(X, y, validation=(*held_out, np.ones(75)))
    assert stopped.n_iter_ < 200 and stopped.score(*held_out) == stopped.best_validation_score_
    assert stopped.best_validation_score_ == max(stopped.validation_scores_)
    for wrong, match in ((IRIS, "validation as"), ((IRIS, SPECIES + 5), "not in")):
        with pytest.raises(ValueError, match=match):
            iris().fit(X, y, validation=wrong)
    with pytest.raises(ParameterError, match="solver"):
        iris(solver="lbfgs").fit(X, y, validation=held_out)


@pytest.mark.parametrize("scoring", ["loss", "f1_macro", "neg_log_loss", "roc_auc_ovr"])
def test_early_stopping_on_any_metric(scoring):
    from sklearn.metrics import get_scorer

    held_out = IRIS[1::2], SPECIES[1::2]
    model = iris(early_stopping=True, scoring=scoring, max_iter=30, learning_rate_init=0.05)
    model.fit(IRIS[::2], SPECIES[::2], validation=held_out)
    now = (
        -model.network_.cost(*held_out, penalty=1e-4 / 75)
        if scoring == "loss"
        else get_scorer(scoring)(model, *held_out)
    )
    assert now == pytest.approx(model.best_validation_score_) and model.best_validation_score_ == max(
        model.validation_scores_
    )
    assert not hasattr(model, "_known")


def test_callbacks_time_and_clipping(capsys):
    rows = []
    model = iris(callbacks=[rows.append, lambda row: row["epoch"] == 3], verbose=True).fit(IRIS, SPECIES)
    assert model.n_iter_ == 3 == len(rows) and rows[-1]["train_cost"] == model.loss_
    assert capsys.readouterr().out.splitlines()[2] == f"Iteration 3, loss = {model.loss_:.8f}"
    lbfgs = iris(callbacks=lambda row: row["epoch"] == 4, solver="lbfgs").fit(IRIS, SPECIES)
    assert lbfgs.n_iter_ == 4 == len(lbfgs.loss_curve_)
    for settings in ({"n_iter_no_change": 10**6, "engine": "array"}, {"solver": "lbfgs", "tol": 0}):
        assert iris(time_limit=0.05, max_iter=10**6, **settings).fit(IRIS, SPECIES).n_iter_ < 10**6
    step = diabetes(solver="sgd", momentum=0.0, learning_rate_init=1.0, clip_norm=0.01, max_iter=1, batch_size=150)
    start = diabetes(solver="sgd", momentum=0.0, learning_rate_init=1e-300, max_iter=1, batch_size=150)
    change = step.fit(PATIENTS, PROGRESS).network_.theta - start.fit(PATIENTS, PROGRESS).network_.theta
    assert np.linalg.norm(change) == pytest.approx(0.01)


@pytest.mark.parametrize("settings", [{}, {"solver": "sgd"}, {"solver": "sgd", "learning_rate": "invscaling"}], ids=str)
def test_warm_start_keeps_the_optimizers_state(settings):
    settings = settings | {"shuffle": False, "batch_size": 40, "warm_start": True}
    whole = iris(max_iter=5, **settings).fit(IRIS, SPECIES)
    parts = iris(max_iter=2, **settings).fit(IRIS, SPECIES)
    parts = pickle.loads(pickle.dumps(parts)).set_params(max_iter=3).fit(IRIS, SPECIES)
    np.testing.assert_array_equal(parts.network_.theta, whole.network_.theta)
    assert parts.loss_curve_ == whole.loss_curve_ and parts.t_ == whole.t_ == 750
    parts.set_params(solver="lbfgs").fit(IRIS, SPECIES)  # another solver begins with the weights alone
    parts.set_params(solver="adam", activation="mish").fit(IRIS, SPECIES)
    with pytest.raises(ParameterError, match="warm_start=False"):
        parts.set_params(hidden_layer_sizes=(7,)).fit(IRIS, SPECIES)
    with pytest.raises(ParameterError, match="same classes"):
        parts.set_params(hidden_layer_sizes=(6,)).fit(IRIS[:100], SPECIES[:100])


def test_adaptive_learning_rate_over_calls():
    model = iris(solver="sgd", learning_rate="adaptive", tol=1e3, n_iter_no_change=1, learning_rate_init=0.1)
    for _ in range(7):
        model.partial_fit(IRIS, SPECIES, classes=[0, 1, 2])
    assert model._continuation.drops == 3


def test_early_stopping_over_calls_of_partial_fit():
    model = diabetes(early_stopping=True, n_iter_no_change=3, learning_rate_init=0.3, max_iter=1)
    held_out = PATIENTS[100:], PROGRESS[100:]
    calls = 0
    while calls < 200 and not getattr(model, "stalled_", False):
        model.partial_fit(PATIENTS[:100], PROGRESS[:100], validation=held_out)
        calls += 1
    assert 3 < calls < 200 and len(model.validation_scores_) == calls
    assert model.score(*held_out) == pytest.approx(max(model.validation_scores_)) == model.best_validation_score_
    split = iris(early_stopping=True)
    for _ in range(3):
        split.partial_fit(IRIS, SPECIES, classes=[0, 1, 2])
    assert len(split.validation_scores_) == 3 and split.t_ == 3 * 135


def test_partial_fit_of_labels_and_outputs():
    labels = iris(learning_rate_init=0.05)
    numbers = diabetes(learning_rate_init=0.05)
    targets = np.column_stack([PROGRESS, PATIENTS[:, 0]])
    for _ in range(60):
        labels.partial_fit(IRIS, LABELS)
        numbers.partial_fit(PATIENTS, targets)
    assert labels.predict(IRIS).shape == (150, 3) and labels.score(IRIS, LABELS) > 0.8
    assert numbers.predict(PATIENTS).shape == (150, 2) and numbers.score(PATIENTS, targets) > 0.5
    with pytest.raises(AttributeError, match="partial_fit"):
        iris(solver="lbfgs").partial_fit  # noqa: B018
    with pytest.raises(ValueError, match="classes must be passed"):
        iris().partial_fit(IRIS, SPECIES)
    with pytest.raises(ValueError, match="same as on last call"):
        iris().partial_fit(IRIS, SPECIES, classes=[0, 1, 2]).partial_fit(IRIS, SPECIES, classes=[0, 1])
    with pytest.raises(ValueError, match="not in"):
        iris().partial_fit(IRIS[:99], SPECIES[:99], classes=[0, 1]).partial_fit(IRIS, SPECIES)


def test_looking_inside():
    model = iris(hidden_layer_sizes=(6, 5), activation="tanh", dropout=0.1).fit(IRIS, SPECIES)
    first = np.tanh(IRIS @ model.coefs_[0] + model.intercepts_[0])
    second = np.tanh(first @ model.coefs_[1] + model.intercepts_[1])
    np.testing.assert_allclose(model.hidden(IRIS, 1), first, rtol=1e-12)
    np.testing.assert_allclose(model.hidden(sparse.csr_matrix(IRIS))[1], second, rtol=1e-12)
    gradients = model.input_gradients(IRIS[:4])
    moved = IRIS[:4] + 1e-6 * np.eye(4)[2]
    slopes = (model.predict_proba(moved) - model.predict_proba(IRIS[:4])) / 1e-6
    np.testing.assert_allclose(gradients[:, :, 2], slopes, atol=1e-5)
    trace = model.trace(IRIS, SPECIES)
    options = {"loss": "categorical_cross_entropy", "penalty": 1e-4 / 150}
    assert trace.cost == pytest.approx(model.network_.cost(IRIS, SPECIES, **options))
    assert "∂C/∂W" in str(model.explain(IRIS[:5], SPECIES[:5], "W", 1, (0, 1)))
    assert model.verify(IRIS[:20], SPECIES[:20]).ok
    for layer in (0, 3, True):
        with pytest.raises(ParameterError, match="from 1 to 2"):
            model.hidden(IRIS, layer)
    for method in (model.hidden, model.input_gradients, model.predict):
        with pytest.raises(ValueError, match="features"):
            method(IRIS[:, :2])
        with pytest.raises(NotFittedError):
            getattr(iris(), method.__name__)(IRIS)


def test_weights_may_be_set():
    model, other = iris().fit(IRIS, SPECIES), iris(random_state=7).fit(IRIS, SPECIES)
    assert isinstance(model.coefs_, list) and not hasattr(iris(), "coefs_")
    other.coefs_, other.intercepts_ = model.coefs_, model.intercepts_
    np.testing.assert_array_equal(other.predict_proba(IRIS), model.predict_proba(IRIS))
    other.coefs_[1] = np.zeros((6, 3))
    other.intercepts_[-1] = np.log([0.5, 0.3, 0.2])
    np.testing.assert_allclose(other.predict_proba(IRIS), np.tile([0.5, 0.3, 0.2], (150, 1)))
    with pytest.raises(ValueError, match="read-only"):
        other.coefs_[0][0, 0] = 1.0
    before = other.network_.theta.copy()
    zeros = np.zeros((4, 6))
    for parts, words in (
        ([zeros, np.zeros((2, 2))], "shape"),
        ([zeros], "expected 2 arrays, one for each layer, got 1"),
        ([zeros, np.zeros((6, 3)), zeros], "got 3"),
    ):
        with pytest.raises(ValueError, match=words):
            other.coefs_ = parts
        np.testing.assert_array_equal(other.network_.theta, before)


# -- data and surroundings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_dtype_and_sparse_rows(dtype, solver):
    X = np.where(np.abs(PATIENTS) > 0.5, PATIENTS, 0).astype(dtype)
    dense = diabetes(solver=solver).fit(X, PROGRESS.astype(dtype))
    assert dense.predict(X).dtype == dense.coefs_[0].dtype == dtype
    for form in (sparse.csr_array(X), sparse.csc_matrix(X), sparse.coo_array(X)):
        model = diabetes(solver=solver).fit(form, PROGRESS.astype(dtype))
        np.testing.assert_array_equal(model.network_.theta, dense.network_.theta)
        np.testing.assert_array_equal(model.predict(form), dense.predict(X))
    huge = sparse.csr_array((10**6, 10**5))
    with pytest.raises(ParameterError, match="partial_fit"):
        diabetes().fit(huge, np.zeros(10**6))


def test_sparse_labels_with_early_stopping():
    models = [iris(early_stopping=True).fit(IRIS, Y) for Y in (LABELS, sparse.csr_matrix(LABELS))]
    np.testing.assert_array_equal(models[1].network_.theta, models[0].network_.theta)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_keep_their_names(library):
    frames = pytest.importorskip(library)
    X = frames.DataFrame({name: IRIS[:, k] for k, name in enumerate("abcd")})
    if not hasattr(StandardScaler().fit(X), "feature_names_in_"):
        pytest.skip(f"this scikit-learn does not see the names in a {library} frame")
    model = iris().fit(X, SPECIES, validation=(X, SPECIES))
    assert list(model.feature_names_in_) == list("abcd") and model.hidden(X, 1).shape == (150, 6)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[["b", "a", "c", "d"]])


def test_warnings_and_errors():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        iris(max_iter=2).fit(IRIS, SPECIES)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 2"):
        iris(max_iter=2, solver="lbfgs").fit(IRIS, SPECIES)
    with pytest.warns(UserWarning, match="It is going to be clipped"):
        iris(batch_size=1000).fit(IRIS, SPECIES)
    with pytest.warns(DataConversionWarning):
        iris().fit(IRIS, SPECIES[:, None])

    def interrupt(row):
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted by user"):
        model = iris(callbacks=interrupt).fit(IRIS, SPECIES)
    assert model.predict(IRIS).shape == (150,)
    with pytest.raises(cr.DivergenceError, match="expected finite numbers"):
        diabetes(solver="sgd", learning_rate_init=1e6, max_iter=50).fit(PATIENTS, PROGRESS * 1e6)
    with pytest.raises(DataError, match="at least 0"):
        diabetes(loss="poisson").fit(PATIENTS, -PROGRESS)
    with pytest.raises(ValueError, match="validation set is too small"):
        diabetes(early_stopping=True, validation_fraction=0.005).fit(PATIENTS, PROGRESS)


FAILING = {
    "weights": lambda model: model.fit(IRIS, SPECIES % 2, -np.ones(150)),
    "columns and classes": lambda model: model.fit(IRIS[:, :2], SPECIES + 5, np.zeros(150)),
    "validation of one call": lambda model: model.partial_fit(IRIS, SPECIES, validation=(IRIS[:, :2], SPECIES)),
    "a callback": lambda model: model.set_params(callbacks=lambda row: 1 / 0).partial_fit(IRIS, SPECIES),
    "a callback in a warm start": lambda model: model.set_params(callbacks=lambda row: 1 / 0, warm_start=True).fit(
        IRIS, SPECIES
    ),
    "L-BFGS with a validation set": lambda model: model.set_params(solver="lbfgs").fit(
        IRIS, SPECIES, validation=(IRIS, SPECIES)
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_fit_that_fails_changes_nothing(name):
    model = iris(early_stopping=True, class_weight="balanced").partial_fit(IRIS, SPECIES, classes=[0, 1, 2])
    fitted = {k: pickle.dumps(value) for k, value in vars(model).items() if k not in model.get_params()}
    probabilities = model.predict_proba(IRIS)
    with pytest.raises((ValueError, ZeroDivisionError)):
        FAILING[name](model)
    assert fitted == {k: pickle.dumps(value) for k, value in vars(model).items() if k not in model.get_params()}
    np.testing.assert_array_equal(model.predict_proba(IRIS), probabilities)


def test_parameters_count_from_the_next_fit():
    for loss, other in (("log_loss", "hinge"), ("hinge", "log_loss")):
        model = iris(loss=loss).fit(IRIS, SPECIES)
        before = model.predict(IRIS), hasattr(model, "predict_proba")
        model.set_params(loss=other, activation="tanh", hidden_layer_sizes=(3,))
        np.testing.assert_array_equal(model.predict(IRIS), before[0])
        assert hasattr(model, "predict_proba") == before[1]
        assert model.verify(IRIS, SPECIES).ok
    model = iris().fit(IRIS, SPECIES).set_params(activation="tanh")
    np.testing.assert_allclose(model.to_sklearn().predict_proba(IRIS), model.predict_proba(IRIS), rtol=1e-6)


def test_classes_that_a_part_of_the_rows_lacks():
    """A class without a weight has 1, and a warm start counts the rows that it gets."""
    some = SPECIES > 0
    model = iris(class_weight={0: 5.0}).partial_fit(IRIS, SPECIES, classes=[0, 1, 2])
    model.partial_fit(IRIS[some], SPECIES[some], validation=(IRIS[some], SPECIES[some]))
    plain = iris().partial_fit(IRIS, SPECIES, np.where(some, 1.0, 5.0), classes=[0, 1, 2])
    plain.partial_fit(IRIS[some], SPECIES[some], np.ones(100))
    np.testing.assert_allclose(model.coefs_[0], plain.coefs_[0], rtol=1e-12)
    labels = np.column_stack([SPECIES == 0, SPECIES > 0]).astype(int)
    weighted = iris(class_weight=[{1: 3.0}, {0: 2.0}]).fit(IRIS, labels, validation=(IRIS[some], labels[some]))
    same = iris().fit(IRIS, labels, np.where(some, 1.0, 6.0))
    np.testing.assert_allclose(weighted.coefs_[0], same.coefs_[0], rtol=1e-12)
    for wrong in ([{0: 1.0}], {0: 1.0}):
        with pytest.raises(ParameterError, match=r"class_weight: expected 'balanced' or a list of 2"):
            iris(class_weight=wrong).fit(IRIS, labels)

    seen = np.r_[0:50, 50:53, 100:103]
    warm = iris(class_weight="balanced", warm_start=True).fit(IRIS, SPECIES)
    by_hand = iris(warm_start=True).fit(IRIS, SPECIES, np.ones(150))
    weights = np.r_[np.full(50, 56 / 150), np.full(6, 56 / 9)]
    warm.fit(IRIS[seen], SPECIES[seen])
    by_hand.fit(IRIS[seen], SPECIES[seen], weights)
    np.testing.assert_allclose(warm.coefs_[0], by_hand.coefs_[0], rtol=1e-10)


def test_a_scorer_judges_the_validation_rows():
    def score(estimator, X, y):
        return float(np.mean(estimator.predict(X.copy()) == y))

    model, plain = (iris(early_stopping=True, scoring=scoring).fit(IRIS, SPECIES) for scoring in (score, None))
    assert model.validation_scores_ == plain.validation_scores_
    with pytest.raises(ParameterError, match="validation rows as they are, got asked for other rows"):
        iris(early_stopping=True, scoring=lambda e, X, y: score(e, X[::-1], y)).fit(IRIS, SPECIES)


def test_in_company():
    """Pipelines, searches, calibration, and other processes."""
    search = GridSearchCV(
        make_pipeline(StandardScaler(), iris()), {"mlpclassifier__activation": ["mish", "tanh"]}, cv=2
    ).fit(IRIS, SPECIES)
    assert search.best_estimator_.score(IRIS, SPECIES) == search.score(IRIS, SPECIES)
    for model in (iris(max_iter=30), iris(loss="hinge", max_iter=30)):
        p = CalibratedClassifierCV(model, cv=2).fit(IRIS, SPECIES).predict_proba(IRIS)
        np.testing.assert_allclose(p.sum(axis=1), 1)
    here = cross_val_score(iris(), IRIS, SPECIES, cv=3)
    np.testing.assert_array_equal(cross_val_score(iris(), IRIS, SPECIES, cv=3, n_jobs=2), here)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor])
def test_methods_have_their_names(kind):
    """Which scikit-learn's response methods are chosen by."""
    for name, method in inspect.getmembers(kind, callable):
        if not name.startswith("_"):
            assert method.__name__ == name


@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_scores_of_two_classes_in_company(loss):
    """What asks by name for probabilities or margins: metrics of ranks, curves, stacks and calibration."""
    y = np.where(IRIS[:, 0] > 0, "long", "short")  # the second class is the one that is scored
    X = IRIS[:, 1:]
    model = iris(max_iter=30, loss=loss).fit(X, y)
    ranks = model.decision_function(X) if loss == "hinge" else model.predict_proba(X)[:, 1]
    auc = roc_auc_score(y == "short", ranks)
    assert auc > 0.9 and RocCurveDisplay.from_estimator(model, X, y).roc_auc == pytest.approx(auc)
    assert (cross_val_score(model, X, y, cv=2, scoring="roc_auc") > 0.9).all()
    assert StackingClassifier([("one", clone(model))], cv=2).fit(X, y).score(X, y) > 0.8
    assert CalibratedClassifierCV(clone(model), cv=2).fit(X, y).score(X, y) > 0.8
    stopped = clone(model).set_params(early_stopping=True, scoring="roc_auc").fit(X, y)
    assert max(stopped.validation_scores_) == stopped.best_validation_score_ <= 1


def test_compiled_engine():
    pytest.importorskip("numba")
    targets = np.column_stack([PROGRESS, PATIENTS[:, 0]])
    settings = {
        "solver": "sgd",
        "learning_rate": "invscaling",
        "power_t": 0.1,
        "clip_norm": 10.0,
        "learning_rate_init": 0.05,
    }
    array, compiled = (
        diabetes(engine=engine, threads=1, **settings).fit(PATIENTS, targets) for engine in ("array", "compiled")
    )
    np.testing.assert_allclose(compiled.network_.theta, array.network_.theta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(compiled.predict(PATIENTS), array.predict(PATIENTS), rtol=1e-9)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_to_scikit_learn_and_back(problem):
    (ours, theirs), X, y = pair(problem, max_iter=5, activation="logistic")
    method = "predict_proba" if hasattr(ours, "predict_proba") else "predict"
    for one, other in ((ours, ours.to_sklearn()), (theirs, type(ours).from_sklearn(theirs))):
        np.testing.assert_allclose(getattr(one, method)(X), getattr(other, method)(X), rtol=1e-12)
        assert other.score(X, y) == pytest.approx(one.score(X, y)) and one.loss_ == other.loss_
        other.set_params(warm_start=True).fit(X, y)
        assert other.loss_ < one.loss_
    assert not hasattr(type(ours).from_sklearn(type(theirs)()), "coefs_")
    assert type(type(ours)().to_sklearn()) is type(theirs)
    for wrong in ({"activation": "mish"}, {"activation": ["tanh", "relu"], "hidden_layer_sizes": (3, 3)}):
        with pytest.raises(ParameterError, match="to_sklearn"):
            type(ours)(**wrong).to_sklearn()
    with pytest.raises(ParameterError, match="from_sklearn"):
        type(ours).from_sklearn(StandardScaler())


def test_what_scikit_learn_would_make_something_else_of():
    for loss in ("binary_cross_entropy", "hinge"):
        with pytest.raises(ParameterError, match=f"to_sklearn: expected an output that scikit-learn has.*{loss}"):
            iris(loss=loss).fit(IRIS, SPECIES).to_sklearn()
    model = iris(early_stopping=True, warm_start=True, max_iter=30).fit(IRIS, SPECIES)
    further = model.to_sklearn().set_params(max_iter=1).fit(IRIS, SPECIES)
    assert further.score(IRIS, SPECIES) >= model.score(IRIS, SPECIES) - 0.1
