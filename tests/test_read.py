"""Tables in and out: formats, gaps, and one clear sentence for each kind of broken file."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import datasets

from chainrule.errors import DataError, OutputError, ParameterError
from chainrule.tables.read import BUNDLED, GAPS, bundled_target, read_table, write_table


def file(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found_and_quotes_are_respected(tmp_path: Path, delimiter: str) -> None:
    lines = [["a", '"b, ; | c"', "d"], ["1", '"x, ; | y"', "2.5"], ["3", '"two\nlines"', "4.5"]]
    table = read_table(file(tmp_path, "\n".join(delimiter.join(line) for line in lines) + "\n", "t.txt"))
    assert table.to_pydict() == {"a": [1, 3], "b, ; | c": ["x, ; | y", "two\nlines"], "d": [2.5, 4.5]}


def test_decimal_comma_after_semicolons(tmp_path: Path) -> None:
    assert read_table(file(tmp_path, "a;b\n1,5;x\n2,25;y\n")).to_pydict() == {"a": [1.5, 2.25], "b": ["x", "y"]}
    late = read_table(file(tmp_path, "a;b\n" + "1;x\n" * 300 + "3,5;y\n"))
    assert late.column("a").to_pylist() == [1.0] * 300 + [3.5]
    codes = read_table(file(tmp_path, 'a;b\n0.5;"1,2"\n1.25;x\n'))
    assert codes.to_pydict() == {"a": [0.5, 1.25], "b": ["1,2", "x"]}
    assert read_table(file(tmp_path, "a;b\n1,5;0.5\n2;1.25\n")).to_pydict() == {"a": [1.5, 2.0], "b": [0.5, 1.25]}
    assert read_table(file(tmp_path, "a;b\n1,5;2,5\n"), text=["b"]).to_pydict() == {"a": [1.5], "b": ["2,5"]}
    with pytest.raises(
        DataError, match=r"expected decimal commas in all columns, got points in the column 'b', which may"
    ):
        read_table(file(tmp_path, "a;b\n1,5;1.234\n2;2.5\n"))
    assert read_table(file(tmp_path, "a;b\n1.5;x\n2.25;y\n")).column("a").to_pylist() == [1.5, 2.25]


@pytest.mark.parametrize(("delimiter", "name"), [(",", "t.csv"), ("\t", "t.tsv"), ("|", "t.txt")])
def test_decimal_commas_after_other_delimiters(tmp_path: Path, delimiter: str, name: str) -> None:
    """1,203 may be a thousand and more, unless a number beside it has a comma that can only be a decimal one."""

    def read(*rows: str) -> dict[str, list[object]]:
        lines = [delimiter.join(f'"{value}"' for value in row.split()) for row in rows]
        return read_table(file(tmp_path, "\n".join(lines) + "\n", name)).to_pydict()

    assert read("a b", "1,5 x", "2 y") == {"a": [1.5, 2.0], "b": ["x", "y"]}
    assert read("a b", "1,203 0,5", "2,5 1") == {"a": [1.203, 2.5], "b": [0.5, 1.0]}
    assert read("a b", "1,203 0,25", "2,500 1") == {"a": [1.203, 2.5], "b": [0.25, 1.0]}
    assert read("a b", "1,203 7", "2,500 1") == {"a": ["1,203", "2,500"], "b": [7, 1]}
    assert read("a b", "1,5 x", "blue y") == {"a": ["1,5", "blue"], "b": ["x", "y"]}


def test_times_of_which_some_have_an_offset(tmp_path: Path) -> None:
    """Local times all of them, as in the exported predictor; a date that there is not stays a text."""
    rows = ["1000-03-03", "2024-01-05T10:11Z", "2024-01-05 10:11:12.5+02:00", "NA"]
    column = read_table(file(tmp_path, "d,x\n" + "".join(f"{row},1\n" for row in rows))).column("d")
    texts = [None if v is None else str(v) for v in column.to_pylist()]
    assert texts == ["1000-03-03 00:00:00", "2024-01-05 10:11:00", "2024-01-05 10:11:12.500000", None]
    wrong = read_table(file(tmp_path, "d,x\n2021-02-30T10:00Z,1\n2021-03-01,1\n"))
    assert wrong.column("d").to_pylist() == ["2021-02-30T10:00Z", "2021-03-01"]


def test_string_views_of_parquet(tmp_path: Path) -> None:
    table = pa.table({"c": pa.array(["a", None, "b"], pa.string_view()), "x": [1, 2, 3]})
    pq.write_table(table, tmp_path / "v.parquet")
    found = read_table(tmp_path / "v.parquet")
    assert found.to_pydict() == table.to_pydict() and found.take([2, 0]).column("c").to_pylist() == ["b", "a"]


def test_empty_lines_of_one_column(tmp_path: Path) -> None:
    """pyarrow leaves them out, and predictions would not fit the rows any more."""
    with pytest.raises(DataError, match=r"in every line of a file of one column, got an empty line 3\. Write NA"):
        read_table(file(tmp_path, "x\n1\n\n3\n"))
    assert read_table(file(tmp_path, "\nx\n1\nNA\n3\n\n\n")).to_pydict() == {"x": [1, None, 3]}


@pytest.mark.parametrize("name", ["t.csv.gz", "T.TSV.GZ"])
def test_packed_text(tmp_path: Path, name: str) -> None:
    lines = "\ufeffa\tb\n1\tx, y\n2,5\tz\n" if "TSV" in name else "a;b\n1;x, y\n2,5;z\n"
    packed = gzip.compress(lines.encode())
    table = read_table(file(tmp_path, packed, name))
    assert table.to_pydict() == {"a": [1, 2.5], "b": ["x, y", "z"]}
    for damaged in (packed[:-12], packed[:20] + b"\0\0" + packed[22:], b"a;b\n1;2\n"):
        with pytest.raises(DataError, match=name):
            read_table(file(tmp_path, damaged, name))
    broken = gzip.compress(b"a,b\n1,2\n3,4,5\n")
    with pytest.raises(DataError, match="2 fields in line 3, got 3"):
        read_table(file(tmp_path, broken, name.replace("TSV", "CSV")))


def test_wide_tables(tmp_path: Path) -> None:
    names = [f"a column with a long name {i}" for i in range(20_000)]
    table = read_table(file(tmp_path, ",".join(names) + "\n" + ",".join("1" * 20_000) + "\n"))
    assert table.column_names == names and table.column(19_999).to_pylist() == [1]


def test_gaps_in_numbers_and_text(tmp_path: Path) -> None:
    rows = "".join(f"{gap},{gap},1\n" for gap in GAPS)
    table = read_table(file(tmp_path, f"n,s,k\n{rows}7,x, ?\n-1,-,1\n"))
    assert table.column("n").to_pylist() == [None] * len(GAPS) + [7, -1]
    assert table.column("s").to_pylist() == [None] * len(GAPS) + ["x", "-"]
    assert table.column("k").to_pylist() == [1] * len(GAPS) + [None, 1]


def test_times_are_local_as_they_are_in_a_frame_with_a_zone(tmp_path: Path) -> None:
    zoned = file(
        tmp_path, "t,u\n2023-01-01 05:00:00+09:00,1\n,2\n2023-07-01 05:30:00-03:00,3\n2023-07-01 05:30:00.5Z,4\n"
    )
    found = [None if t is None else t.isoformat() for t in read_table(zoned).column("t").to_pylist()]
    assert found == ["2023-01-01T05:00:00", None, "2023-07-01T05:30:00", "2023-07-01T05:30:00.500000"]


def test_byte_order_mark_spaces_in_names_and_text_columns(tmp_path: Path) -> None:
    path = file(tmp_path, b"\xef\xbb\xbfzip, n\n007,1\n010,2\n")
    assert read_table(path).to_pydict() == {"zip": [7, 10], "n": [1, 2]}
    assert read_table(path, text=("zip", "elsewhere")).column("zip").to_pylist() == ["007", "010"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["empty file"]),
        ("\n\n", ["only empty lines"]),
        ("a,b", ["only the column names"]),
        ("\na,b\n\n", ["only the column names"]),
        ("a,b,a,c,c\n1,2,3,4,5\n", ["'a', 'c' more than once"]),
        (",a,b,\n0,1,2,3\n", ["column 1, 4", "index=False"]),
        ("a,b\n1,2\n\n3\n4,5\n", ["2 fields in line 4, got 1"]),
        ('a,b\n1,"x\ny"\n3,4,5\n', ["2 fields in line 4, got 3"]),
        ('a,b\n1,"2\n3,4\n5,6\n', ["line 2", "double a quote"]),
        ("a,b\n1,x\n2,é\n".encode("latin-1"), ["0xe9", "line 3, byte 3", "UTF-8"]),
        ("a,é\n1,x\n".encode("latin-1"), ["0xe9", "line 1"]),
        ("a,b\n1,2\n".encode("utf-16"), ["0xff", "line 1, byte 1"]),
    ],
)
def test_broken_text_files(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    path = file(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_table(path)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in ["t.csv", *words]), message


def test_errors_of_the_source(tmp_path: Path) -> None:
    file(tmp_path, "a\n1\n", "housing.csv")
    for source, words in {
        "iriss": "Did you mean 'iris'",
        tmp_path / "hosing.csv": "Did you mean 'housing.csv'",
        tmp_path: "directory",
        file(tmp_path, "x", "t.xlsx"): "'.xlsx'",
        file(tmp_path, "a,b\n1,2\n", "t.parquet"): "expected a Parquet file",
        file(tmp_path, b"", "u.pq"): "empty file",
    }.items():
        with pytest.raises(DataError, match=words):
            read_table(source)


def test_parquet(tmp_path: Path) -> None:
    table = pa.table({"a": [1, None], "b": ["x", "y"]})
    pq.write_table(table.append_column("__index_level_0__", pa.array([5, 9])), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").equals(table)
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "twice.pq")
    with pytest.raises(DataError, match="'a' more than once"):
        read_table(tmp_path / "twice.pq")
    pq.write_table(table.slice(0, 0), tmp_path / "none.pq")
    with pytest.raises(DataError, match="only the column names"):
        read_table(tmp_path / "none.pq")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled(name: str) -> None:
    table, bunch = read_table(name), getattr(datasets, f"load_{name}")()
    assert bundled_target(name) == table.column_names[-1] == "target"
    assert table.select(range(bunch.data.shape[1])).to_pandas().to_numpy().tolist() == bunch.data.tolist()
    if name in ("wine", "iris", "breast_cancer"):
        assert table.column("target").to_pylist() == bunch.target_names[bunch.target].tolist()
    else:
        assert table.column("target").to_pylist() == bunch.target.tolist()


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_write_and_read_back(tmp_path: Path, format: str) -> None:
    table = pa.table({"a": [1, None, 3], "b": ['x, "y"', "é\nz", None], "c": [0.1, 1e-300, -2.5]})
    path = tmp_path / f"t.{format}"
    write_table(table, path, format)  # type: ignore[arg-type]
    assert read_table(path).equals(table)
    stream = io.BytesIO()
    write_table(table, stream, format)  # type: ignore[arg-type]
    assert not stream.closed and stream.getvalue() == path.read_bytes()
    assert os.listdir(tmp_path) == [path.name]


def test_write_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_table(pa.table({"a": [0.1, math.nan], "b": ["é", None]}), path, "jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"a": 0.1, "b": "é"},
        {"a": None, "b": None},
    ]


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, "old")
    with pytest.raises(DataError, match="csv"):
        write_table(pa.table({"a": [[1]]}), path, "csv")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match=r"t\.csv.*No space left"):
        write_table(pa.table({"a": [1]}), path, "csv")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["t.csv"]
    with pytest.raises(OutputError, match="No such file"):
        write_table(pa.table({"a": [1]}), tmp_path / "none" / "t.csv", "csv")
    with pytest.raises(ParameterError, match="parquet"):
        write_table(pa.table({"a": [1]}), path, "xml")  # type: ignore[arg-type]


def test_a_device_is_written_not_replaced() -> None:
    write_table(pa.table({"a": [1]}), os.devnull, "csv")
    assert not Path(os.devnull).is_file()


def test_importing_the_modules_loads_no_optional_dependency() -> None:
    code = (
        "import sys\nfrom chainrule.tables import columns, read, split, targets\n"
        "sys.exit(bool({'pyarrow', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
