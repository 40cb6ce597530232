"""Splits: a partition, reproducible, of the sizes asked for, with every class where it fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule.errors import DataError, ParameterError, ShapeError
from chainrule.tables.split import fold_rows, split_rows

FRACTIONS = st.sampled_from([0.0, 0.1, 0.2, 0.45])


@given(st.integers(3, 300), st.integers(0, 2**63 - 1), FRACTIONS, FRACTIONS, st.integers(0, 8))
def test_every_row_is_in_one_part(n: int, seed: int, valid: float, test: float, classes: int) -> None:
    labels = np.random.default_rng(n).geometric(0.3, n) % classes if classes else None
    parts = split_rows(n, seed, valid, test, labels)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    assert len(parts[0]) > 0
    for part, fraction in zip(parts[1:], (valid, test), strict=True):
        assert (len(part) > 0) == (fraction > 0)
        assert abs(len(part) - n * fraction) <= 1 + classes
    for part, again in zip(parts, split_rows(n, seed, valid, test, labels), strict=True):
        np.testing.assert_array_equal(part, again)


@given(st.lists(st.integers(3, 40), min_size=2, max_size=12), st.integers(0, 1000))
def test_each_class_is_in_every_part_in_proportion(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 7, counts))
    train, valid, test = split_rows(len(labels), seed, 0.1, 0.2, labels)
    for label, count in zip(np.arange(len(counts)) * 7, counts, strict=True):
        for part, fraction in ((train, 0.7), (valid, 0.1), (test, 0.2)):
            got = (labels[part] == label).sum()
            assert got >= 1 and abs(got - count * fraction) < 2.01


def test_sizes_without_and_with_labels() -> None:
    assert [len(part) for part in split_rows(1000, 0, 0.1, 0.2)] == [700, 100, 200]
    labels = np.arange(1000) % 3
    assert [len(part) for part in split_rows(1000, 0, 0.1, 0.2, labels)] == [700, 100, 200]


def test_rare_classes_stay_in_training() -> None:
    labels = np.array([0] * 50 + [1] * 2 + [2])
    for seed in range(20):
        train, _, _ = split_rows(53, seed, 0.2, 0.4, labels)
        assert set(labels[train]) == {0, 1, 2}


def test_the_seed_matters_and_the_rows_are_shuffled() -> None:
    a, b = split_rows(100, 0, 0.0, 0.2)[2], split_rows(100, 1, 0.0, 0.2)[2]
    assert a.tolist() != b.tolist() and a.tolist() != list(range(20)) and a.tolist() != list(range(80, 100))
    hits = np.zeros(10)
    for seed in range(2000):
        hits[split_rows(10, seed, 0.0, 0.3)[2]] += 1
    assert abs(hits / 2000 - 0.3).max() < 0.05


def test_few_rows() -> None:
    assert [len(part) for part in split_rows(3, 0, 0.1, 0.1)] == [1, 1, 1]
    assert [len(part) for part in split_rows(1, 0, 0.0, 0.0)] == [1, 0, 0]
    assert [len(part) for part in split_rows(4, 0, 0.1, 0.1, np.array([0, 1, 0, 1]))] == [2, 1, 1]
    with pytest.raises(DataError, match=r"at least 3 rows.*got 2"):
        split_rows(2, 0, 0.1, 0.1)


@pytest.mark.parametrize("fractions", [(-0.1, 0.0), (0.0, 1.0), (0.5, 0.5), (float("nan"), 0.1)])
def test_fractions(fractions: tuple[float, float]) -> None:
    with pytest.raises(ParameterError, match="fraction"):
        split_rows(10, 0, *fractions)


def test_labels_and_seed() -> None:
    with pytest.raises(ShapeError, match="10 labels"):
        split_rows(10, 0, 0.1, 0.1, np.zeros(9, dtype=int))
    with pytest.raises(ParameterError, match="seed"):
        split_rows(10, -1, 0.1, 0.1)


@given(st.integers(2, 12), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_folds_are_a_partition_with_equal_shares_of_each_class(folds: int, counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    n = len(labels)
    if n < folds:
        with pytest.raises(DataError, match=f"at least {folds} rows"):
            fold_rows(n, seed, folds, labels)
        return
    for given_labels in (labels, None):
        parts = fold_rows(n, seed, folds, given_labels)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(n))
        assert len(parts) == folds and all((np.diff(part) > 0).all() for part in parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    each = np.array([np.bincount(labels[part], minlength=len(counts)) for part in fold_rows(n, seed, folds, labels)])
    assert (each.max(axis=0) - each.min(axis=0) <= 1).all()


def test_folds_that_are_none() -> None:
    for folds, error in ((1, "at least 2"), (0, "whole number"), (2.5, "whole number")):
        with pytest.raises(ParameterError, match=error):
            fold_rows(10, 0, folds)  # type: ignore[arg-type]
    assert any((a != b).any() for a, b in zip(fold_rows(20, 0, 2), fold_rows(20, 1, 2), strict=True))
