"""Which rows train, which validate, which test: a function of the seed, the sizes and the classes only."""

from __future__ import annotations

import numpy as np

from ..arrays import Array, check_count
from ..counter import Purpose, check_seed, permutation
from ..errors import DataError, ParameterError, ShapeError


def split_rows(
    n: int, seed: int, valid_fraction: float, test_fraction: float, labels: Array | None = None
) -> tuple[Array, Array, Array]:
    """Sorted row numbers (train, valid, test), together 0..n-1, each row in one of them.

    A part whose fraction is 0 is empty. With integer `labels` (n,) each class is shared out in proportion, to the
    nearest row; a class with at least as many rows as there are parts is in every part, and a rarer one is always
    in the training rows. Too few rows for that are shared out as if they had no labels.

    Raises:
        ParameterError: fractions outside 0 ≤ f < 1, or a sum of 1 or more.
        ShapeError: not one label per row.
        DataError: fewer rows than parts.
    """
    check_seed("Splitting rows", seed)
    for name, fraction in (("validation", valid_fraction), ("test", test_fraction)):
        if not 0 <= fraction < 1:
            raise ParameterError(
                f"Splitting rows: expected a {name} fraction of at least 0 and below 1, got {fraction}."
            )
    if not valid_fraction + test_fraction < 1:
        raise ParameterError(
            f"Splitting rows: expected validation and test fractions that sum to less than 1, got {valid_fraction} "
            f"and {test_fraction}. Leave some rows for training."
        )
    parts = 1 + (valid_fraction > 0) + (test_fraction > 0)
    if n < parts:
        raise DataError(
            f"Splitting rows: expected at least {parts} rows, one for each part, got {n}. "
            "Add rows, or set the validation or test fraction to 0."
        )
    if labels is not None and labels.shape != (n,):
        raise ShapeError(f"Splitting rows: expected {n} labels, one per row, got shape {labels.shape}.")

    order = permutation(n, seed, Purpose.SPLIT)
    groups = np.zeros(n, dtype=np.int64) if labels is None else labels[order]
    order = order[np.argsort(groups, kind="stable")]  # the rows class by class, shuffled within each
    counts = np.unique(groups, return_counts=True)[1]
    valid, test = _shares(counts, valid_fraction, parts), _shares(counts, test_fraction, parts)
    while (crowded := valid + test >= counts).any():  # leave one row of every class for training
        larger = crowded & (valid >= test)
        valid, test = valid - larger, test - (crowded & ~larger)
    if labels is not None and ((valid_fraction > 0 and not valid.any()) or (test_fraction > 0 and not test.any())):
        return split_rows(n, seed, valid_fraction, test_fraction)

    # Within each class the first rows validate, the next ones test, the rest train.
    position = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    in_valid = position < np.repeat(valid, counts)
    in_test = ~in_valid & (position < np.repeat(valid + test, counts))
    return np.sort(order[~in_valid & ~in_test]), np.sort(order[in_valid]), np.sort(order[in_test])


def fold_rows(n: int, seed: int, folds: int, labels: Array | None = None) -> tuple[Array, ...]:
    """Sorted row numbers of each of `folds` parts of 0..n-1, whose sizes differ by at most one.

    With integer `labels` (n,) each class is dealt out in turn, so that the parts have equal shares of it.

    Raises:
        ParameterError: folds below 2.
        DataError: fewer rows than folds.
    """
    check_seed("Splitting rows", seed)
    check_count("Splitting rows", "folds", folds)
    if folds < 2:
        raise ParameterError(
            f"Splitting rows: expected at least 2 folds, got {folds}. Leave folds out for one network."
        )
    if n < folds:
        raise DataError(f"Splitting rows: expected at least {folds} rows, one for each fold, got {n}. Add rows.")
    order = permutation(n, seed, Purpose.SPLIT)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    return tuple(np.sort(order[k::folds]) for k in range(folds))


def _shares(counts: Array, fraction: float, parts: int) -> Array:
    """How many rows of each class: rounded so that the total is right, at least one where the class allows it."""
    share = np.diff(np.rint(np.cumsum(counts) * fraction), prepend=0).astype(np.int64)
    return np.maximum(share, (fraction > 0) & (counts >= parts))
