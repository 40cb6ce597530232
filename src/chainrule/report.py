"""What a user is told after training: metrics on rows that the network has not seen, beside two baselines."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .arrays import Array
from .ensemble import Ensemble
from .errors import require
from .formulas.losses import find_loss, quantile
from .table_model import Part, Problem, TableModel

Metrics = dict[str, float]
BASELINE_ROWS = 50_000  # the baselines learn from at most so many rows


def score(model: TableModel | Ensemble, y_hat: Array, decisions: Array | None, truth: Array, s: Array) -> Metrics:
    """Weighted metrics of an output ŷ (N, units) like the model's, and of decisions by class, against the truth in the
    table's units.

    Classification: error_rate, log_loss, and auc with two classes (left out where only one occurs).
    Regression: rmse, mae and r2; with several targets their averages, then each target's rmse. First the pinball loss of
    a model that was trained for a quantile, which the others say nothing about, and the share of rows below it.
    """
    m = require("sklearn.metrics", "table", "Metrics")
    target, loss = model.target, find_loss("metrics", model.loss)
    if decisions is None:
        y = y_hat * np.array(target.scale) + np.array(target.mean)
        result = {}
        if loss.same(quantile):
            tau = dict(loss.parameters)["tau"]
            below = np.average((truth <= y).mean(axis=1), weights=s)
            result = {"pinball": m.mean_pinball_loss(truth, y, sample_weight=s, alpha=tau), "share below": below}
        result |= {
            "rmse": m.root_mean_squared_error(truth, y, sample_weight=s),
            "mae": m.mean_absolute_error(truth, y, sample_weight=s),
        }
        if len(truth) > 1:
            result["r2"] = m.r2_score(truth, y, sample_weight=s)
        if len(target.names) > 1:
            each = m.root_mean_squared_error(truth, y, sample_weight=s, multioutput="raw_values")
            result |= {f"rmse {name}": value for name, value in zip(target.names, each, strict=True)}
    elif target.task == "multiclass":
        p = y_hat / y_hat.sum(axis=1, keepdims=True)  # float32 probabilities sum to 1 only to seven digits
        result = {
            "error_rate": m.zero_one_loss(truth, decisions, sample_weight=s),
            "log_loss": m.log_loss(truth, p, labels=np.arange(target.units), sample_weight=s),
        }
    else:
        columns, chosen = truth.reshape(y_hat.shape), decisions.reshape(y_hat.shape)
        parts = [_binary(m, y_hat[:, j], chosen[:, j], columns[:, j], s) for j in range(target.units)]
        shared = [name for name in parts[0] if all(name in part for part in parts)]
        result = {name: float(np.mean([part[name] for part in parts])) for name in shared}
    return {name: float(value) for name, value in result.items()}


def _binary(m: Any, p: Array, decisions: Array, truth: Array, s: Array) -> Metrics:
    result = {
        "error_rate": m.zero_one_loss(truth, decisions, sample_weight=s),
        "log_loss": m.log_loss(truth, p, labels=[0, 1], sample_weight=s),
    }
    if len(set(truth[s > 0].tolist())) == 2:
        result["auc"] = m.roc_auc_score(truth, p, sample_weight=s)
    return result


def evaluate(model: TableModel | Ensemble, part: Part) -> Metrics:
    """The metrics of a model on rows with their targets (`TableModel.part`)."""
    return score(model, model.outputs(part.X), model.decisions(part.X), part.truth, part.s)


def baselines(problem: Problem, test: Part) -> dict[str, Metrics]:
    """The same metrics of a constant and of a linear model, fitted on the training and validation rows.

    The linear model gets the numbers standardised, without clips and logarithms, which only suit networks.
    """
    linear = require("sklearn.linear_model", "table", "Baselines")
    dummy = require("sklearn.dummy", "table", "Baselines")
    target = problem.model.target
    parts = [part for part in (problem.train, problem.valid) if part is not None]
    encoder = problem.model.encoder.linear
    X, X_test = np.concatenate([encoder.encode(part.table) for part in parts]), encoder.encode(test.table)
    mean, spread = X.mean(axis=0), X.std(axis=0)
    X, X_test = ((part - mean) / np.where(spread > 0, spread, 1.0) for part in (X, X_test))
    y, s = (np.concatenate([getattr(part, name) for part in parts]) for name in ("y", "s"))
    if len(X) > BASELINE_ROWS:
        some = np.linspace(0, len(X) - 1, BASELINE_ROWS).astype(int)
        X, y, s = X[some], y[some], s[some]
    if target.task == "regression":
        loss = find_loss("baselines", problem.model.loss)
        tau = dict(loss.parameters)["tau"] if loss.same(quantile) else None
        constant = dummy.DummyRegressor(strategy="mean" if tau is None else "quantile", quantile=tau)
        learners = {"constant": constant, "linear": linear.LinearRegression()}
    else:
        constant = dummy.DummyClassifier(strategy="prior")
        learners = {"constant": constant, "linear": linear.LogisticRegression(max_iter=500)}
    result = {}
    for name, learner in learners.items():
        if target.task == "regression":
            y_hat = learner.fit(X, y, sample_weight=s).predict(X_test).reshape(len(X_test), -1)
            result[name] = score(problem.model, y_hat, None, test.truth, test.s)
            continue
        if target.task == "multiclass":
            y_hat = _probabilities(learner, X, y.argmax(axis=1), s, X_test, target.units)
        else:
            columns = [_probabilities(learner, X, column, s, X_test, 2)[:, 1] for column in y.T]
            y_hat = np.column_stack(columns)
        result[name] = score(problem.model, y_hat, target.decisions(y_hat), test.truth, test.s)
    return result


def _probabilities(learner: Any, X: Array, labels: Array, s: Array, X_test: Array, classes: int) -> Array:
    """P (N, classes) of a classifier; a class that it has not seen has probability 0, a single one probability 1."""
    p = np.zeros((len(X_test), classes))
    seen = np.unique(labels[s > 0]).astype(int)
    if len(seen) == 1:
        p[:, seen[0]] = 1
    else:
        with warnings.catch_warnings():  # of many classes in few rows, and of the iterations
            warnings.simplefilter("ignore", UserWarning)
            learner.fit(X[s > 0], labels[s > 0], sample_weight=s[s > 0])
        p[:, learner.classes_.astype(int)] = learner.predict_proba(X_test)
    return p
