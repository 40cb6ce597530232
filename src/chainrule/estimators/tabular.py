"""`TabularClassifier` and `TabularRegressor`: scikit-learn's words for what `chainrule train` does with a table."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from .. import ensemble
from ..arrays import Array, check_weights
from ..ensemble import Ensemble, Folds, member_of
from ..errors import DataError, ModelFileError, ParameterError, did_you_mean
from ..inspection.derivation import Derivation
from ..inspection.trace import Trace
from ..network import Network, Run
from ..plain import from_plain
from ..table_model import Part, Problem, Settings, TableModel, cost_of, prepare
from ..tables.columns import Encoder
from ..tables.targets import Target
from .frames import column_names, dense, familiar, is_frame, missing, table_of
from .vocabulary import whole

WEIGHTS = "sample_weight"  # the name of their column


class Tabular(BaseEstimator):  # type: ignore[misc]
    """The common part of `TabularClassifier` and `TabularRegressor`."""

    hidden: Any
    activation: Any
    categories: Any
    folds: int | None
    random_state: Any

    n_features_in_: int
    model_: TableModel | Ensemble
    runs_: list[Run]
    notes_: tuple[str, ...]
    out_of_fold_: Array | None

    _task: ClassVar[Literal["classification", "regression"]]

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Store what `__init__` got, each argument under its name and as it is."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    # -- what a classifier and a regressor do differently --------------------------------------------------------

    def _note_classes(self, y: Array) -> None:
        """Take note of the classes of the training."""

    def _as_column(self, y: Array) -> Array:
        """Targets (N,) as the table has them."""
        raise NotImplementedError

    def _class_weights(self, y: Array) -> Callable[[Array], Array] | None:
        """What gives the rows of targets their classes' weights (N,), learned from the training's y; None for ones."""
        return None

    def _values(self, y_hat: Array) -> Array:
        """The network's outputs (N, units) as probabilities, or as numbers in the target's units."""
        raise NotImplementedError

    # -- training ------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None, validation: Any = None) -> Self:
        """Train on the rows of X, a data frame or an array (N, n), and y (N,) or (N, k); returns the estimator.

        Args:
            sample_weight: (N,), at least 0.
            validation: (X, y) or (X, y, weights), by which epochs are compared, in the place of a part of X.

        Raises:
            ValueError: a parameter, X or y does not fit. DivergenceError (ArithmeticError): training produced a
                number that is not finite; the message names the first one. The estimator is as before then.

        Warns:
            UserWarning: a column is left out, or the training was interrupted or started again.
        """
        with whole(self), in_parameters():
            self._train(X, y, sample_weight, validation)
        for note in self.notes_:
            warnings.warn(note, UserWarning, stacklevel=2)
        return self

    def _train(self, X: Any, y: Any, sample_weight: Any, validation: Any) -> None:
        settings = self._settings()
        if validation is not None and settings.folds is not None:
            raise ParameterError("fit: expected either validation or folds, which hold rows out, got both.")
        X, y, names = self._checked(X, y, reset=True)
        self._note_classes(y)
        names = self._target_names(y, names)
        factors = self._class_weights(y)
        weights = self._weights(sample_weight, y, factors)
        table = self._table(X)
        choices: dict[str, Any] = {
            "categories": self._category_names(),
            "weight": None if weights is None else _free(WEIGHTS, [*self._features(), *names]),
        }
        whole = _with(table, self._columns(y, names) | _column(choices["weight"], weights))
        folds: Folds | None = None
        if settings.folds is None:
            held_out = None
            if validation is not None:
                held_out = self._held_out(validation, names, factors, choices["weight"])
            problems: tuple[Problem, ...] = (prepare(whole, names, settings, valid=held_out, **choices),)
        else:
            folds = ensemble.prepare_folds(whole, names, settings, **choices)
            problems = folds.problems
        runs = ensemble.fit_each(problems)
        notes = problems[0].notes + tuple(ensemble.notes_of(runs))

        # The weights were an argument, so that no table for prediction has them.
        models = [
            dataclasses.replace(problem.model, weight=None, features=tuple(table.column_names))
            for problem in problems[: len(runs)]
        ]
        self.model_ = models[0] if folds is None else Ensemble(tuple(models))
        self.runs_, self.out_of_fold_ = runs, None
        if folds is not None:
            rows, y_hat = folds.out_of_fold(len(runs))
            values = self._values(y_hat)
            self.out_of_fold_ = np.full((len(y), *values.shape[1:]), np.nan)
            self.out_of_fold_[rows] = values
        if runs[-1].reason == "interrupted":
            notes += ("Training interrupted by user.",)
        self.notes_ = tuple(map(unflagged, notes))

    def _settings(self) -> Settings:
        """The parameters as `chainrule train` has them.

        Raises:
            ParameterError: a value of another type.
        """
        seed, hidden, names = self.random_state, self.hidden, self.activation
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        given: dict[str, Any] = {name: getattr(self, name) for name in self._get_param_names()} | {
            "task": self._task,
            "test_fraction": 0.0,
            "seed": int(seed),
            "hidden": (hidden,) if isinstance(hidden, int | np.integer) else hidden,
            "activation": () if names is None else (names,) if isinstance(names, str) else names,
        }
        fields = {field.name: field.default for field in dataclasses.fields(Settings)}
        values = {name: _plain(given.get(name, default)) for name, default in fields.items()}
        try:
            settings: Settings = from_plain(Settings, values, type(self).__name__)
        except ModelFileError as error:
            raise ParameterError(str(error)) from None
        return settings

    def _checked(self, X: Any, y: Any, reset: bool = False) -> tuple[Any, Array, list[str]]:
        """X with as many rows as y, y as an array (N,) or (N, k), and the names of its columns if it has some."""
        if y is None:
            raise ParameterError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y is None."
            )
        X = self._rows(X, reset, least=2 if reset else 1)
        names = column_names(y, "y") if is_frame(y) else [y.name] if isinstance(getattr(y, "name", None), str) else []
        numeric = self._task == "regression"
        if numeric and not sparse.issparse(y) and np.asarray(y).dtype.kind in "mM":
            raise DataError("y: expected numbers, got dates or durations. Turn them into a number, such as days.")
        checks: dict[str, Any] = {"dtype": np.float64 if numeric else None, "ensure_all_finite": numeric}
        y = dense(y, "Pass a dense y.") if sparse.issparse(y) else y
        y = check_array(y, ensure_2d=False, input_name="y", estimator=self, **checks)
        if y.dtype.kind in "Of" and (gaps := missing(y)).any():
            row = int(np.argwhere(gaps)[0][0])
            raise DataError(f"y: expected a value in every row, got none in row {row + 1}. Remove such rows.")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=not names)
        check_consistent_length(X, y)
        return X, y, names

    def _rows(self, X: Any, reset: bool = False, least: int = 1) -> Any:
        """X as a frame or a dense array, with the columns of the training; `reset` takes note of its columns.

        Raises:
            ValueError: not the columns of the training, or too few rows.
        """
        if hasattr(X, "collect") and not is_frame(X):
            raise DataError(f"X: expected rows, got {type(X).__name__}, which has none yet. Pass X.collect().")
        if isinstance(X, list | tuple) and np.asarray(X).dtype.kind == "U":
            X = np.array(X, dtype=object)  # numbers beside text stay numbers
        if is_frame(X):
            column_names(X, "X")
        try:
            if not is_frame(X):
                checks: dict[str, Any] = {"dtype": None, "accept_sparse": True, "ensure_all_finite": "allow-nan"}
                X = validate_data(self, X, reset=reset, ensure_min_samples=least, **checks)
                return dense(X, "Leave out columns.")
            X = validate_data(self, familiar(X), reset=reset, skip_check_array=True)
        except ValueError as error:
            if reset or not hasattr(self, "feature_names_in_"):
                raise
            fix = "Pass the columns of the training in their order: X[list(model.feature_names_in_)]."
            raise DataError(f"{str(error).rstrip()}\n{fix}") from None
        if X.shape[0] < least:
            raise DataError(f"X: expected at least {least} rows, got {X.shape[0]} sample(s). Add rows.")
        return X

    def _features(self) -> list[str]:
        """The columns' names in the table."""
        return [str(name) for name in getattr(self, "feature_names_in_", map("x{}".format, range(self.n_features_in_)))]

    def _table(self, X: Any) -> Any:
        """X as a table. Columns x0, x1 … of a model from a file may have been named so; then they count by name."""
        names = self._features()
        given = column_names(X, "X") if "feature_names_in_" not in vars(self) else []
        return table_of(X, given if sorted(given) == sorted(names) else names)

    def _target_names(self, y: Array, names: Sequence[str]) -> list[str]:
        """Names for the columns of y that no feature has."""
        count = 1 if y.ndim == 1 else y.shape[1]
        if len(names) != count:
            names = ["y"] if count == 1 else [f"y{j}" for j in range(count)]
        free: list[str] = []
        for name in names:
            free.append(_free(name, [*self._features(), *free]))
        return free

    def _columns(self, y: Array, names: Sequence[str], given: Sequence[str] = ()) -> dict[str, Array]:
        """The columns of y by the names of the training, where `given` are its own, if it has some."""
        columns = y.reshape(len(y), -1).T
        if len(columns) != len(names):
            raise DataError(f"y: expected {len(names)} columns as in training, got {len(columns)}.")
        if sorted(given) == sorted(names) and list(given) != list(names):
            raise DataError(f"y: expected the columns {list(names)} in this order, got {list(given)}. Reorder them.")
        return {name: self._as_column(column) for name, column in zip(names, columns, strict=True)}

    def _category_names(self) -> list[str]:
        """The columns to be taken as categories; a number is a position."""
        names = self._features()
        chosen = [self.categories] if isinstance(self.categories, str) else self.categories or ()
        given = [names[k] if isinstance(k, int | np.integer) and 0 <= k < len(names) else k for k in chosen]
        for name in given:
            if name not in names:
                raise ParameterError(f"categories: there is no column {name!r}.{did_you_mean(str(name), names)}")
        return given

    def _weights(self, given: Any, y: Array, factors: Callable[[Array], Array] | None) -> Array | None:
        """The weights of rows times those of their classes; None if there are neither."""
        weights = None
        if given is not None:
            weights = check_weights("fit", _check_sample_weight(given, y, dtype=np.float64), len(y))
        if factors is None:
            return weights
        by_class = check_weights("fit, class_weight", factors(y), len(y))
        return by_class if weights is None else weights * by_class

    def _held_out(
        self, validation: Any, names: Sequence[str], factors: Callable[[Array], Array] | None, column: str | None
    ) -> Any:
        """The validation rows as a table like that of the training."""
        if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
            raise ParameterError("fit: expected validation as (X, y) or (X, y, weights), got something else.")
        X, y, given = self._checked(*validation[:2])
        weights = self._weights(validation[2] if len(validation) == 3 else None, y, factors)
        if weights is not None and column is None:
            raise ParameterError(
                "fit: expected weights of the training rows too, got them of the validation rows only."
            )
        return _with(self._table(X), self._columns(y, names, given) | _column(column, weights))

    # -- prediction ----------------------------------------------------------------------------------------------

    def _encoded(self, X: Any) -> Array:
        """Checked rows as the networks have them (N, n_0)."""
        check_is_fitted(self)
        with in_parameters():
            return self.encoder_.encode(self._table(self._rows(X)))

    # -- what is inside ------------------------------------------------------------------------------------------

    @property
    def encoder_(self) -> Encoder:
        """How the columns of X become numbers."""
        return self._fitted().encoder

    @property
    def target_(self) -> Target:
        """How y becomes what the networks learn, and back."""
        return self._fitted().target

    @property
    def networks_(self) -> tuple[Network, ...]:
        """The network, or that of each fold."""
        model = self._fitted()
        return tuple(member.network for member in (model.members if isinstance(model, Ensemble) else (model,)))

    @property
    def network_(self) -> Network:
        """The network; with folds that of the first, see `networks_`."""
        return self.networks_[0]

    def _fitted(self) -> TableModel | Ensemble:
        if "model_" not in vars(self):
            raise AttributeError(f"This {type(self).__name__} is not fitted yet; call fit first.")
        return self.model_

    def trace(self, X: Any, y: Any, sample_weight: Any = None, *, member: int = 0) -> Trace:
        """`Network.trace` of these rows, with the cost of the training; `member` is the fold whose network it is."""
        model, part = self._part(X, y, member)
        return model.network.trace(part.X, part.y, sample_weight=sample_weight, **cost_of(model).options)

    def explain(
        self, X: Any, y: Any, what: Any, *place: Any, sample_weight: Any = None, member: int = 0, **choices: Any
    ) -> Derivation:
        """`Network.explain` of one number (what, layer, index), with the cost of the training; see `trace`."""
        model, part = self._part(X, y, member)
        options: dict[str, Any] = {**cost_of(model).options, **choices}
        return model.network.explain(part.X, part.y, what, *place, sample_weight=sample_weight, **options)

    def verify(self, X: Any, y: Any, sample_weight: Any = None, seed: int = 0, *, member: int = 0) -> Any:
        """`Network.verify`: every formula of the network against independent witnesses, on these rows; see `trace`."""
        model, part = self._part(X, y, member)
        options: dict[str, Any] = dict(cost_of(model).options)
        return model.network.verify(part.X, part.y, sample_weight=sample_weight, seed=seed, **options)

    def _part(self, X: Any, y: Any, member: int) -> tuple[TableModel, Part]:
        """A member, and rows with their targets as its network has them."""
        check_is_fitted(self)
        X, y, given = self._checked(X, y)
        table = _with(self._table(X), self._columns(y, self.target_.names, given))
        model = member_of(self.model_, member)
        return model, model.part(table)

    # -- files and scikit-learn ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as a file that `chainrule predict` reads: networks, preprocessing and settings, no pickle.

        Raises:
            OutputError: it could not be written; what was there before is untouched.
        """
        check_is_fitted(self)
        self.model_.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` or `chainrule train` wrote. `runs_`, `out_of_fold_`, `categories` and weights are not in it.

        Raises:
            ModelFileError: missing, damaged, or the model of another task.
        """
        model = ensemble.load(path)
        first = member_of(model, 0)
        if (first.target.task == "regression") != (cls._task == "regression"):
            raise ModelFileError(f"{path}: expected a model for {cls._task}, got one for {first.target.task}.")
        kept = {name: value for name, value in vars(first.settings).items() if name in cls._get_param_names()}
        estimator = cls(**kept | {"random_state": first.settings.seed, "activation": first.settings.activation or None})
        estimator.model_, estimator.n_features_in_ = model, len(first.features)
        if list(first.features) != estimator._features():  # the training had a frame
            estimator.feature_names_in_ = np.array(first.features, dtype=object)
        estimator._restore(first.target)
        return estimator

    def _restore(self, target: Target) -> None:
        """The fitted attributes that a model file has."""

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags


def unflagged(text: str) -> str:
    """A message with what an estimator has in the place of the flags of `chainrule train`."""
    drop, take = "X.drop(columns=[{!r}])", "categories=[{!r}]"
    words = {"--ignore": drop, "--category": take, "--task": "Tabular{}"}

    def word(found: re.Match[str]) -> str:
        flag, value = shlex.split(found[1])
        value = {"regression": "Regressor", "classification": "Classifier"}[value] if flag == "--task" else value
        return f"({words[flag].format(value)})"

    return re.sub(r"""\(((?:--ignore|--category|--task) (?:'[^']*'|"[^"]*"|[^\s'")]+)+)\)""", word, text)


@contextmanager
def in_parameters() -> Iterator[None]:
    """Errors of the data `unflagged`."""
    try:
        yield
    except (DataError, ParameterError) as error:
        raise type(error)(unflagged(str(error))) from None


def _plain(value: Any) -> Any:
    """A parameter as JSON has it: numbers of NumPy as Python's, sequences as lists."""
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(item) for item in value] if isinstance(value, tuple | list | np.ndarray) else value


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, with as many underscores as make it another than those taken."""
    while name in taken:
        name += "_"
    return name


def _column(name: str | None, values: Array | None) -> dict[str, Array]:
    return {} if name is None or values is None else {name: values}


def _with(table: Any, columns: dict[str, Array]) -> Any:
    """A table with further columns."""
    for name, values in columns.items():
        table = table.append_column(name, [values])
    return table
