"""What a user is told after training: metrics on rows that the network has not seen, beside two baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import Array
from .errors import require
from .table_model import Problem, TableModel
from .tables.targets import Target

if TYPE_CHECKING:
    import pyarrow as pa

Metrics = dict[str, float]
BASELINE_ROWS = 50_000  # the baselines learn from at most so many rows


def score(target: Target, y_hat: Array, truth: Array, s: Array) -> Metrics:
    """Weighted metrics of an output ŷ (N, units) against the truth in the table's own units.

    Classification: error_rate, log_loss, and auc with two classes (left out where only one occurs).
    Regression: rmse, mae and r2; with several targets their averages, then each target's rmse.
    """
    m = require("sklearn.metrics", "table", "Metrics")
    if target.task == "regression":
        y = y_hat * np.array(target.scale) + np.array(target.mean)
        result = {
            "rmse": m.root_mean_squared_error(truth, y, sample_weight=s),
            "mae": m.mean_absolute_error(truth, y, sample_weight=s),
        }
        if len(truth) > 1:
            result["r2"] = m.r2_score(truth, y, sample_weight=s)
        if len(target.names) > 1:
            each = m.root_mean_squared_error(truth, y, sample_weight=s, multioutput="raw_values")
            result |= {f"rmse {name}": value for name, value in zip(target.names, each, strict=True)}
    elif target.task == "multiclass":
        labels = np.arange(target.units)
        y_hat = y_hat / y_hat.sum(axis=1, keepdims=True)  # float32 probabilities sum to 1 only to seven digits
        result = {
            "error_rate": m.zero_one_loss(truth, y_hat.argmax(axis=1), sample_weight=s),
            "log_loss": m.log_loss(truth, y_hat, labels=labels, sample_weight=s),
        }
    else:
        columns = truth.reshape(y_hat.shape)
        parts = [_binary(m, y_hat[:, j], columns[:, j], s) for j in range(target.units)]
        result = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
    return {name: float(value) for name, value in result.items()}


def _binary(m: Any, p: Array, truth: Array, s: Array) -> Metrics:
    result = {
        "error_rate": m.zero_one_loss(truth, p >= 0.5, sample_weight=s),
        "log_loss": m.log_loss(truth, p, labels=[0, 1], sample_weight=s),
    }
    seen = set(truth[s > 0].tolist())
    return result | {"auc": m.roc_auc_score(truth, p, sample_weight=s) if len(seen) == 2 else float("nan")}


def evaluate(model: TableModel, table: pa.Table) -> Metrics:
    """The metrics of a model on a table that has the target columns.

    Raises:
        DataError: a column is missing or holds something else than in training.
    """
    return score(model.target, model.outputs(table), model.target.truth(table), model.weights(table))


def baselines(problem: Problem, test: pa.Table) -> dict[str, Metrics]:
    """The same metrics of a constant and of a linear model, fitted on the training and validation rows."""
    import pyarrow as pa

    linear = require("sklearn.linear_model", "table", "Baselines")
    dummy = require("sklearn.dummy", "table", "Baselines")
    model, target = problem.model, problem.model.target
    table = pa.concat_tables(
        [part.select(test.column_names) for part in (problem.parts.train, problem.parts.valid) if part is not None],
        promote_options="permissive",
    )
    if table.num_rows > BASELINE_ROWS:
        table = table.take(np.linspace(0, table.num_rows - 1, BASELINE_ROWS).astype(int))
    X, y, s = model.encoder.encode(table), target.encode(table), model.weights(table)
    X_test, truth, s_test = model.encoder.encode(test), target.truth(test), model.weights(test)
    if target.task == "regression":
        learners = {"constant": dummy.DummyRegressor(), "linear": linear.LinearRegression()}
    else:
        learners = {
            "constant": dummy.DummyClassifier(strategy="prior"),
            "linear": linear.LogisticRegression(max_iter=500),
        }
    result = {}
    for name, learner in learners.items():
        if target.task == "regression":
            y_hat = learner.fit(X, y, sample_weight=s).predict(X_test).reshape(len(X_test), -1)
        elif target.task == "multiclass":
            y_hat = learner.fit(X, y, sample_weight=s).predict_proba(X_test)
        else:
            y_hat = np.column_stack(
                [learner.fit(X, column, sample_weight=s).predict_proba(X_test)[:, 1] for column in y.T]
            )
        result[name] = score(target, y_hat, truth, s_test)
    return result
