"""Feature columns: against scikit-learn and pandas, through JSON and back, and the errors of wrong content."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import RobustScaler, StandardScaler

from chainrule.errors import DataError, ModelFileError, ParameterError
from chainrule.export import plain_table
from chainrule.tables.columns import CategoryColumn, Encoder, as_levels, as_text, fit_encoder, kind_of


def encode(values: Any, new: Any = None, **settings: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """The matrix of one column "x" fitted on `values`, for `new` or the same values; and its feature names."""
    encoder, _ = fit_encoder(pa.table({"x": values}), ["x"], **settings)
    return encoder.encode(pa.table({"x": values if new is None else new})), encoder.feature_names


def chunk(values: Any, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (chunk([1, None]), "number"),
        (chunk([1.5], pa.float16()), "number"),
        (chunk([1], pa.decimal128(5, 2)), "number"),
        (chunk([dt.time(1, 2, 3)]), "number"),
        (chunk(["x"], pa.large_string()), "category"),
        (chunk(["x"]).dictionary_encode(), "category"),
        (chunk([True]), "boolean"),
        (chunk([dt.date(2020, 1, 1)]), "date"),
        (chunk([dt.datetime(2020, 1, 1)]), "date"),
    ],
)
def test_kinds(column: pa.ChunkedArray, kind: str) -> None:
    assert kind_of(column, "x") == kind
    assert np.isfinite(
        fit_encoder(pa.table({"x": column, "y": [1.0] * len(column)}), ["x", "y"])[0].encode(
            pa.table({"x": column, "y": [1.0] * len(column)})
        )
    ).all()


@given(
    st.lists(st.floats(-1e6, 1e6) | st.none(), min_size=1, max_size=40).filter(lambda v: any(x is not None for x in v))
)
def test_robust_scaling_is_that_of_realmlp_with_two_rules(values: list[float | None]) -> None:
    x = np.array([np.nan if v is None else v for v in values])
    z, names = encode(pa.array(values, pa.float64()))
    known, median = x[~np.isnan(x)], np.nanmedian(x)
    low, high = np.percentile(known, [25, 75])
    others = known[known != median]
    if low == high and len(others):
        low, high = np.percentile(others, [25, 75])
    scale = high - low if high > low else np.ptp(known) / 2
    t = (np.where(np.isnan(x), median, x) - median) / scale if scale > np.finfo(float).tiny else np.zeros_like(x)
    far = np.mean(np.abs(t[~np.isnan(x)]) > 6) > 0.01
    with np.errstate(over="ignore"):
        expected = 3 * np.arcsinh(np.clip(t, -1e9, 1e9) / 3) if far else t / np.hypot(1, t / 3)
        np.testing.assert_allclose(z[:, 0], expected, rtol=1e-9, atol=1e-12)
    assert len(names) == 1 + np.isnan(x).any() and (far or (np.abs(z[:, 0]) <= 3).all())


def test_far_values_are_told_apart_where_they_are_not_rare() -> None:
    rng = np.random.default_rng(0)
    areas = rng.pareto(2.5, 2000) * 50 + 50
    z = encode(areas)[0][:, 0]
    top = np.sort(areas)[-5:]
    assert np.ptp(np.sort(z)[-5:]) > 0.5 and (np.argsort(z) == np.argsort(areas)).all(), top
    rare = np.append(rng.normal(size=2000), [1e3, 1e6])
    assert encode(rare)[0].max() <= 3 and np.ptp(encode(rare)[0][-2:]) < 1e-3


def test_one_sentinel_among_zeros_leaves_the_others_apart() -> None:
    x = np.append(np.tile([0.0] * 12 + [1, 4, 9], 100), 99999.0)
    z = encode(x)[0][:, 0]
    assert np.diff(z[11:15]).min() > 0.1 and z[-1] <= 3
    assert set(encode(np.array([0.0, 0, 0, 0, 1] * 20))[0][:, 0]) == {0.0, 2 / np.hypot(1, 2 / 3)}  # as RealMLP has it


def test_scaling_against_scikit_learn() -> None:
    x = np.random.default_rng(0).lognormal(size=(500, 1))
    t = RobustScaler().fit_transform(x)
    np.testing.assert_allclose(encode(x[:, 0])[0], t / np.sqrt(1 + (t / 3) ** 2), rtol=1e-12)
    np.testing.assert_allclose(encode(x[:, 0], scaling="standard")[0], StandardScaler().fit_transform(x), atol=1e-12)
    np.testing.assert_array_equal(encode(x[:, 0], scaling="none")[0], x)


def test_gaps_in_numbers() -> None:
    z, names = encode([1.0, None, 2.0, float("nan"), 3.0])
    assert names == ("x", "x is missing")
    np.testing.assert_array_equal(z[[1, 3]], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(z[:, 1], [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(encode([1, 2, 3], [None, 2])[0], [[0], [0]])
    np.testing.assert_array_equal(encode([1, 2, 3], [None, 5], scaling="none")[0], [[2], [5]])
    np.testing.assert_array_equal(encode([4, 4, 4], [4, 1000])[0], [[0], [0]])


def test_times_are_seconds() -> None:
    times = [dt.time(0, 0, 1), dt.time(1, 0, 0, 500_000)]
    np.testing.assert_allclose(encode(times, scaling="none")[0][:, 0], [1, 3600.5])


@given(st.lists(st.sampled_from(["red", "green", "blue", "é=1"]) | st.none(), min_size=1, max_size=19))
def test_one_hot_against_pandas(values: list[str | None]) -> None:
    distinct = set(values) - {None}
    if len(distinct) < 3:
        return
    z, names = encode(pa.array(values, pa.string()))
    expected = pd.get_dummies(pd.Series(values, dtype=object), prefix="x", prefix_sep="=", dtype=float)
    np.testing.assert_array_equal(z, expected[list(names)].to_numpy())
    frequency = [values.count(name[2:]) for name in names]
    assert frequency == sorted(frequency, reverse=True) and len(names) == len(distinct)


def test_two_levels_are_signed_and_the_unknown_is_zero() -> None:
    z, names = encode(["b", "a", "b"], ["a", "b", "c", None])
    assert names == ("x=b",)
    np.testing.assert_array_equal(z[:, 0], [-1, 1, 0, 0])
    z, names = encode(["b", "a", "b", None], ["a", "b", "c", None])
    assert names == ("x=b",)  # a gap in training is like one later
    np.testing.assert_array_equal(z[:, 0], [-1, 1, 0, 0])


def test_categories_compare_as_text() -> None:
    z, names = encode([1, 2, 2, 3], ["3", "9", "1", "2"], categories=["x"])
    assert names == ("x=2", "x=1", "x=3")
    np.testing.assert_array_equal(z, [[0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(encode(["1", "2", "2", "c"], [1.0, float("nan")])[0], [[0, 1, 0], [0, 0, 0]])


def test_columns_of_a_categorical_type_are_categories() -> None:
    ages = pd.Series([*"1234567899", "10+"] * 3, dtype="category")
    assert len(encode(ages)[1]) == 10
    with pytest.raises(DataError, match=r"expected numbers, got the text '10\+' at row 11"):
        encode(ages.astype(str))


def test_thousands_separators_are_no_categories() -> None:
    prices = ["1,200", "950", "12,000.50", "-1,000"] * 5
    with pytest.raises(
        DataError, match=r"numbers, got the text '1,200' at row 1 \(and 14 more\). Remove thousands sep"
    ):
        encode(prices)
    assert len(encode(prices, categories=["x"])[1]) == 4
    assert len(encode(["1,20", "1,30", "a,b"] * 5)[1]) == 3


def test_a_value_has_one_text_whatever_its_type() -> None:
    numbers = [10**10, -(10**15) - 1, 2**53, 20_261_123_120_000, 0]
    for dtype in (np.int64, np.float64):
        assert as_text(pa.chunked_array([np.array(numbers, dtype)]), "x").to_pylist() == [str(n) for n in numbers]
    small = [7.0, 2.5, -0.0, np.nan, 1e300]
    for kind, last in ((pa.float64(), "1e+300"), (pa.float32(), "inf"), (pa.float16(), "inf")):
        column = pa.chunked_array([pa.array(np.array(small)).cast(kind, safe=False)])
        assert as_text(column, "x").to_pylist() == ["7", "2.5", "0", None, last]
    assert as_text(pa.chunked_array([pa.array([Decimal("2.50"), None])]), "x").to_pylist() == ["2.5", None]
    when = np.array(["2026-11-23T12:00:00"], "M8[s]")
    texts = {
        as_text(pa.chunked_array([when.astype(f"M8[{unit}]")]), "x")[0].as_py() for unit in ("s", "ms", "us", "ns")
    }
    assert len(texts) == 1


def test_what_is_left_out_is_said() -> None:
    n = 40
    table = pa.table({
        "id": [f"p{i}" for i in range(n)], "same": ["x"] * n, "flag": [True] * n,
        "many": [f"l{i // 4}" for i in range(n)], "n": range(n),
    })  # fmt: skip
    encoder, notes = fit_encoder(table, table.column_names, max_levels=3)
    assert encoder.feature_names == ("many=l0", "many=l1", "many=l2", "n") and encoder.text_names == ("many",)
    assert len(notes) == 4 and all(repr(name) in note for name, note in zip(table.column_names, notes, strict=False))
    assert len(fit_encoder(table, ["id"], categories=["id"])[0].feature_names) == n
    with pytest.raises(DataError, match=r"usable.*'same'.*'flag'"):
        fit_encoder(table, ["same", "flag"])


def test_booleans() -> None:
    z, names = encode([True, False, None], [None, True, False])
    assert names == ("x",)
    np.testing.assert_array_equal(z[:, 0], [0, 1, -1])


@pytest.mark.parametrize("hour", [0, 18])
def test_dates(hour: int) -> None:
    days = pd.to_datetime(["1969-12-31", "2020-02-29", "2024-07-01", None])
    when = days + pd.Timedelta(hours=hour)
    z, names = encode(pa.array(when, pa.timestamp("ns"), from_pandas=True), scaling="none")
    frame = dict(zip(names, z.T, strict=True))
    since = (when[:3] - pd.Timestamp(0)) / pd.Timedelta(days=1)
    np.testing.assert_allclose(frame["x: day"][:3], since)
    np.testing.assert_allclose(frame["x: month sin"][:3], np.sin(2 * np.pi * (days.month[:3] - 1) / 12))
    np.testing.assert_allclose(frame["x: weekday cos"][:3], np.cos(2 * np.pi * days.day_of_week[:3] / 7))
    assert ("x: hour sin" in frame) == (hour > 0)
    if hour:
        np.testing.assert_allclose(frame["x: hour sin"][:3], -1)
    assert frame["x: day is missing"].tolist() == [0, 0, 0, 1] and not z[3, 2:].any()


def test_a_time_zone_counts_as_local_time() -> None:
    utc = pa.array([dt.datetime(2020, 6, 1, 22), dt.datetime(2020, 6, 2, 10)], pa.timestamp("s"))
    local = pa.array([dt.datetime(2020, 6, 2, 0), dt.datetime(2020, 6, 2, 12)], pa.timestamp("s"))
    zoned = utc.cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("s", "Europe/Berlin"))
    np.testing.assert_array_equal(encode(zoned)[0], encode(local)[0])


TABLE = pa.table({
    "n": [0.1, 1 / 3, None, 1e-300], "c": ["a", "b", "c", None], "s": ["x", "y", "x", "x"],
    "b": [True, False, None, True], "d": [dt.date(2020, 1, 1), None, dt.date(2021, 5, 5), dt.date(2022, 1, 1)],
})  # fmt: skip


def test_json_round_trip_and_contract() -> None:
    encoder, _ = fit_encoder(TABLE, TABLE.column_names)
    back = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert back == encoder
    X = back.encode(TABLE.append_column("extra", pa.array([1, 2, 3, 4])))
    assert X.dtype == np.float64 and X.flags.c_contiguous and X.shape == (4, len(encoder.feature_names))
    np.testing.assert_array_equal(X[1:3], encoder.encode(TABLE.slice(1, 2)))
    assert encoder.encode(TABLE.slice(0, 0)).shape == (0, X.shape[1])
    empty = pa.table({name: pa.nulls(2) for name in TABLE.column_names})
    assert np.isfinite(encoder.encode(empty)).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r.pop("columns"),
        lambda r: r.update(more=1),
        lambda r: r["columns"][0].update(kind="image"),
        lambda r: r["columns"][0].update(more=1),
        lambda r: r["columns"][0].pop("median"),
        lambda r: r["columns"][0].update(median=float("nan")),
        lambda r: r["columns"][0].update(median="1"),
        lambda r: r["columns"][0].update(gaps=1),
        lambda r: r["columns"][1].update(levels="ab"),
        lambda r: r["columns"][1].update(levels=["a", 1]),
        lambda r: r["columns"][1].update(signed=True),
        lambda r: r["columns"][4].update(day=None),
        lambda r: r["columns"].append(r["columns"][0]),
    ],
)
def test_damaged_json(damage: Any) -> None:
    record = json.loads(json.dumps(fit_encoder(TABLE, TABLE.column_names)[0].to_json()))
    damage(record)
    with pytest.raises(ModelFileError, match="encoder"):
        Encoder.from_json(record)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, float("inf")], "'x'.*inf at row 2"),
        ([1e200], "1e.200 at row 1"),
        ([], "expected rows"),
        ([None, None], "left out: it has only gaps"),
        ([float("nan")] * 2, "only gaps"),
        ([[1], [2]], "list"),
        ([b"x", b"y"], "binary"),
        (["1", "2", "3", "4", None, "5", "6", "7", "8", "abc", "d"], "'abc' at row 10 .and 1 more.*--category x"),
    ],
)
def test_columns_that_cannot_be_fitted(values: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        encode(values)


def test_values_that_cannot_be_encoded() -> None:
    encoder, _ = fit_encoder(TABLE, TABLE.column_names)
    for name, values, words in [
        ("n", ["1", "x", "2", "y"], r"'n': expected numbers, got the text 'x' at row 2 .and 1 more"),
        ("n", [1.0, 2.0, -np.inf, 1.0], "'n'.*-inf at row 3"),
        ("n", [None, True, True, None], "'n': expected a number.*true or false.*row 2"),
        ("b", ["yes", "no", None, None], "'b': expected true or false.*yes.*row 1"),
        ("d", [1, 2, 3, 4], "'d': expected a date.*a number"),
        ("d", ["2020-01-31", None, "2021-02-30", "2022-01-01"], "'d': expected a date.*'2021-02-30', at row 3"),
        ("d", ["2020-01-31 05:06:07.8+01:00", "2020-01-31T05Z", "31.1.2020", None], "'31.1.2020', at row 3"),
        ("b", ["true", "False", None, "tRue"], "'b': expected true or false.*'tRue', at row 4"),
    ]:
        with pytest.raises(DataError, match=words):
            encoder.encode(TABLE.set_column(TABLE.column_names.index(name), name, pa.array(values)))
    with pytest.raises(DataError, match="Did you mean 'N'"):
        encoder.encode(TABLE.rename_columns(["N", "c", "s", "b", "d"]))
    np.testing.assert_array_equal(encode([1.0, 2.0, 4.0], ["4", " 1e0"])[0], encode([1.0, 2.0, 4.0], [4.0, 1.0])[0])


def test_settings() -> None:
    for names, settings, words in [
        (["m"], {}, "unknown name 'm'"),
        (["n", "n"], {}, "twice"),
        (["n"], {"scaling": "robbust"}, "Did you mean 'robust'"),
        (["n"], {"max_levels": 0}, "max_levels"),
        (["n"], {"categories": ["cc"]}, "unknown name 'cc'"),
    ]:
        with pytest.raises(ParameterError, match=words):
            fit_encoder(TABLE, names, **settings)  # type: ignore[arg-type]


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        CategoryColumn("x", ("a",), False).name = "y"  # type: ignore[misc]


def test_texts_that_look_like_dates_are_named():
    """In a file they are dates where they are written as ISO 8601 has it; in a frame a text stays a text."""
    days = [f"2024-{1 + i // 28:02d}-{1 + i % 28:02d}" for i in range(60)]
    for texts in (days, [f" {day[-1]}.{day[5:7]}.2024 1{i}:00" for i, day in enumerate(days)]):
        _, (note,) = fit_encoder(pa.table({"sold": texts, "x": range(60)}), ["sold", "x"])
        assert "'sold' is left out" in note and "pandas.to_datetime" in note
    for other in ("ab", "1.2.3.4.5", "12-34-", "1-2.2024", "2024-12-31x"):
        _, (note,) = fit_encoder(pa.table({"sold": [*days[1:], other], "x": range(60)}), ["sold", "x"])
        assert "Taken as a category" in note


def test_what_texts_may_be_is_said():
    """Numbers and dates in the wrong clothes, and levels that are not told apart."""
    _, (note,) = fit_encoder(pa.table({"a": [f"{i}.5" for i in range(60)], "x": range(60)}), ["a", "x"])
    assert "'a' is left out" in note and "give it a type of numbers (pandas.to_numeric)" in note
    _, (note,) = fit_encoder(pa.table({"d": ["31.12.2023", "1.1.2024", "2.1.2024"] * 20}), ["d"])
    assert "'d': its 3 dates are taken as categories. To have them as dates write 2024-12-31 in a file" in note
    assert fit_encoder(pa.table({"d": ["31.12.2023", "1.1.2024"] * 20}), ["d"], categories=["d"])[1] == ()
    _, (note,) = fit_encoder(pa.table({"c": [*"aaabbc" * 10, "d"]}), ["c"], max_levels=2)
    assert "only the 2 most frequent of 4 levels are told apart, 18% of its values have others" in note
    assert "--max-levels 4" in note


def test_levels_are_whole_numbers_or_text_as_it_is():
    texts = ["4.0", "4", "4.00", "-3.0", "0.0", "04.0", "04", "4.10", "v4.0", "4.0.0", ".0", "1e3", None]
    expected = ["4", "4", "4", "-3", "0", "04.0", "04", "4.10", "v4.0", "4.0.0", ".0", "1e3", None]
    assert as_levels(pa.chunked_array([texts]), "x").to_pylist() == expected
    assert plain_table.as_levels(texts, "x") == expected
