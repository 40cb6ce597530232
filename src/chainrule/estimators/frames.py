"""Data frames and arrays as Arrow tables, the form in which the preprocessing takes them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ..arrays import Array
from ..errors import DataError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

SPARSE_LIMIT = 4 * 2**30  # bytes of a sparse X when made dense


def dense(X: Any, remedy: str) -> Array:
    """X as a dense array.

    Raises:
        ParameterError: a sparse one that would take more than 4 GiB.
    """
    if not sparse.issparse(X):
        return np.asarray(X)
    size = X.shape[0] * X.shape[1] * X.dtype.itemsize
    if size > SPARSE_LIMIT:
        raise ParameterError(
            f"expected a sparse X of at most {SPARSE_LIMIT / 2**30:g} GiB when made dense, got {size / 2**30:.1f}. "
            f"{remedy}"
        )
    return np.asarray(X.toarray())


def is_frame(X: Any) -> bool:
    """Whether X has rows and columns of their own types: pandas, polars, pyarrow, and what exports Arrow streams."""
    return (_is_pandas(X) or hasattr(X, "__arrow_c_stream__")) and len(getattr(X, "shape", ())) == 2


def _is_pandas(X: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(X, pandas.DataFrame)


def familiar(X: Any) -> Any:
    """A frame as one of pandas or of pyarrow, whose names every version of scikit-learn reads."""
    import pyarrow as pa

    return X if _is_pandas(X) else pa.table(X)


def missing(values: Array) -> Array:
    """Which of an array of objects are gaps: None, NaN, and those of pandas."""
    if (pandas := sys.modules.get("pandas")) is not None:
        return np.asarray(pandas.isna(values))
    gaps = [value is None or value != value for value in values.ravel()]
    return np.reshape(gaps, values.shape)


def column_names(X: Any, what: str) -> list[str]:
    """The names of the columns of a frame; those that are no text become text, and arrays have x0, x1 …

    Raises:
        DataError: a name occurs twice, or there are no columns.
    """
    if not is_frame(X):
        return [f"x{j}" for j in range(X.shape[1])]
    X = familiar(X)
    names = [str(name) for name in (X.columns if _is_pandas(X) else X.column_names)]
    if not names:
        raise DataError(f"{what}: expected at least one column, got none. Pass the columns to learn from.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{what}: expected different column names, got {twice[0]!r} more than once. Rename one of them."
        )
    return names


def table_of(X: Any, names: Sequence[str]) -> pa.Table:
    """A frame, or an array (N, n), as an Arrow table with these column names; NaN becomes a gap.

    Raises:
        DataError: a column mixes kinds of values. TypeError: it holds objects that are none of a table's values.
    """
    import pyarrow as pa

    if is_frame(X) and not _is_pandas(X):
        columns = [_plain(column) for column in familiar(X).columns]
    else:
        parts = (X.iloc[:, j] for j in range(X.shape[1])) if _is_pandas(X) else np.asarray(X).T
        columns = [_column(values, name) for values, name in zip(parts, names, strict=True)]
    return pa.table(columns, names=list(names))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of an Arrow stream: NaN as gaps, and text in a form that all functions of Arrow take."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(column), None, column)
    if str(kind) == "string_view":
        return column.cast(pa.large_string())
    if pa.types.is_dictionary(kind) and str(kind.value_type) == "string_view":
        texts = (chunk.dictionary.cast(pa.large_string()).take(chunk.indices) for chunk in column.chunks)
        return pa.chunked_array(texts, pa.large_string())
    return column


def _column(values: Any, name: str) -> Any:
    """A column of pandas or of an array as Arrow has it; categories that Arrow has no text for, such as the intervals
    of `pandas.cut`, by their names."""
    import pyarrow as pa

    if np.iscomplexobj(values):
        raise DataError(
            f"Column {name!r}: expected real numbers, got complex ones. Pass .real and .imag as two columns."
        )
    try:
        column = pa.array(values, from_pandas=True)
        if pa.types.is_dictionary(column.type) and isinstance(column.type.value_type, pa.BaseExtensionType):
            column = pa.array(values.cat.rename_categories(str), from_pandas=True)
        return column
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        pass
    except UnicodeEncodeError as error:
        raise DataError(f"Column {name!r}: expected text in Unicode, got half of a character ({error}).") from None
    try:  # numbers of several types, or written as text
        objects = np.array(values, dtype=object)
        return pa.array(np.where(missing(objects), np.nan, objects).astype(np.float64), from_pandas=True)
    except TypeError as error:
        raise TypeError(
            f"Column {name!r}: expected numbers, text, dates or true/false, got something else ({error}). Convert it."
        ) from None
    except ValueError:
        raise DataError(
            f"Column {name!r}: expected values of one kind, got text beside others. Convert it, such as by astype(str)."
        ) from None
