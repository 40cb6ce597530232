"""The command line as a user runs it: files in, files and sentences out. Figures are recomputed from the files."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from chainrule import cli

pytest.importorskip("typer")
pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402
from safetensors import safe_open  # noqa: E402


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process: (exit status, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["chainrule", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


FAST = ("--epochs", "12", "--hidden", "16,16", "--batch-size", "32")


def write_csv(name, rows):
    with open(name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return Path(name)


def table(rows=300, seed=0):
    """Numbers with gaps, a category, a boolean and a date, and targets that follow from them."""
    rng = np.random.default_rng(seed)
    header = ["size", "kind", "new", "sold", "weight", "price", "class", "many", "flag"]
    lines = [header]
    for i in range(rows):
        size, kind, new = rng.normal(100, 30), rng.choice(["flat", "house", "loft"]), rng.random() < 0.5
        month = int(rng.integers(1, 13))
        price = 3 * size + 50 * (kind == "house") + 20 * new + 5 * month + rng.normal(0, 5)
        lines.append(
            [
                "" if i % 17 == 5 else round(size, 2),
                kind,
                "true" if new else "false",
                f"2024-{month:02d}-15",
                1 + i % 3,
                round(price, 2),
                "dear" if price > 350 else "cheap",
                int(np.clip(price // 100, 1, 5)),
                "true" if size > 100 else "false",
            ]
        )
    return lines


@pytest.fixture
def houses():
    return write_csv("houses.csv", table())


def ignore(*names):
    return ("--ignore", ",".join(names))


def test_regression_end_to_end(run, houses):
    status, out, err = run("train", houses, "--target", "price", *ignore("class", "many", "flag"), "--epochs", 80)
    assert (status, err) == (0, "")
    assert "regression of price" in out and "size is missing" not in out
    folder = Path("chainrule-houses")
    names = {"model.safetensors", "metrics.json", "history.jsonl", "learning_curve.png", "settings.toml"}
    assert {p.name for p in folder.iterdir()} == names
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["rmse"] < metrics["baselines"]["constant"]["rmse"] / 2
    assert set(metrics["baselines"]) == {"constant", "linear"}
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert len(history) == 80 == metrics["epochs"]
    best = min(history, key=lambda row: (row["valid_rmse"], -row["epoch"]))
    assert metrics["best_epoch"] == best["epoch"]
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")

    status, out, err = run("predict", folder, houses)
    assert (status, err) == (0, "")
    predicted = [float(line["price"]) for line in csv.DictReader(out.splitlines())]
    truth = [float(line["price"]) for line in read_csv(houses)]
    rmse = np.sqrt(np.mean(np.subtract(predicted, truth) ** 2))
    status, out, _ = run("evaluate", folder, houses, "--json")
    assert json.loads(out)["rmse"] == pytest.approx(rmse, rel=1e-6)
    assert json.loads(out)["rows"] == 300


def test_a_quantile_is_judged_by_its_own_loss(run, houses):
    """Not by the RMSE, which is smallest long before the quantile is found."""
    flags = [
        "-t",
        "price",
        *ignore("class", "many", "flag"),
        "--loss",
        "quantile(0.9)",
        "--hidden",
        "8",
        "--epochs",
        60,
    ]
    assert run("train", houses, *flags, "--out", "m")[::2] == (0, "")
    history = [json.loads(line) for line in Path("m/history.jsonl").read_text().splitlines()]
    metrics = json.loads(Path("m/metrics.json").read_text())
    best = min(history, key=lambda row: (row["valid_cost"], -row["epoch"]))
    assert metrics["best_epoch"] == best["epoch"]

    run("predict", "m", houses, "--out", "p.csv")
    prices = np.array([[float(row["price"]) for row in read_csv(name)] for name in ("p.csv", houses)])
    below = prices[1] - prices[0]
    _, out, _ = run("evaluate", "m", houses, "--json")
    result = json.loads(out)
    assert result["pinball"] == pytest.approx(np.mean(np.maximum(0.9 * below, -0.1 * below)), rel=1e-6)
    assert result["share below"] == pytest.approx(np.mean(below <= 0), abs=1e-9) and 0.8 < result["share below"] < 1
    assert metrics["test"]["pinball"] < metrics["baselines"]["constant"]["pinball"] / 2
    assert metrics["baselines"]["constant"]["share below"] == pytest.approx(0.9, abs=0.1)


def test_errors_in_a_table_for_validation_say_that_it_is_meant(run, houses):
    header, *lines = table()
    other = write_csv("other.csv", [header, *lines[:20], ["1", "x", "true", "2024-01-01", 1, 5, "unheard", 1, "true"]])
    status, _, err = run("train", houses, "-t", "class", *ignore("price", "many", "flag"), "--valid", other, *FAST)
    assert status == 1 and "The validation table: Target 'class'" in err and "'unheard' at row 21" in err


def test_a_column_of_gaps_is_left_out(run):
    header, *lines = table()
    path = write_csv("gaps.csv", [[*header, "later"], *([*line, ""] for line in lines)])
    status, out, err = run("train", path, "-t", "price", *ignore("class", "many", "flag"), *FAST, "--out", "m")
    assert (status, err) == (0, "") and "Column 'later' is left out: it has only gaps" in out
    assert "later" not in [column.name for column in cli_model("m").encoder.columns]
    filled = write_csv("filled.csv", [[*header, "later"], *([*line, 3] for line in lines)])
    assert run("predict", "m", filled)[0] == 0


@pytest.mark.parametrize(
    ("target", "others", "classes"),
    [
        ("class", ("price", "many", "flag"), ["cheap", "dear"]),
        ("many", ("price", "class", "flag"), ["2", "3", "4", "5"]),
        ("flag", ("price", "class", "many"), ["false", "true"]),
    ],
)
def test_classification_gives_classes_and_probabilities(run, houses, target, others, classes):
    status, _, err = run("train", houses, "-t", target, *ignore(*others), *FAST, "--out", "m")
    assert (status, err) == (0, "")
    run("predict", "m", houses, "--out", "p.parquet")
    predictions = pq.read_table("p.parquet")
    found = [name.removeprefix(f"{target}=") for name in predictions.column_names[1:]]
    assert [c for c in found if c in classes] == classes
    p = np.column_stack([predictions[name].to_numpy() for name in predictions.column_names[1:]])
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    chosen = [str(value).lower() for value in predictions[target].to_pylist()]
    assert chosen == [found[k] for k in p.argmax(axis=1)]
    _, out, _ = run("evaluate", "m", houses, "--json")
    wrong = np.mean([a != b[target] for a, b in zip(chosen, read_csv(houses), strict=True)])
    assert json.loads(out)["error_rate"] == pytest.approx(wrong, abs=1e-9)


def test_several_targets(run, houses):
    assert run("train", houses, "-t", "price,size", *ignore("class", "many", "flag"), *FAST, "--out", "two")[0] == 1
    rows = [row for row in table() if row[0] != ""]
    complete = write_csv("complete.csv", rows)
    status, _, err = run("train", complete, "-t", "price,size", *ignore("class", "many", "flag"), *FAST, "--out", "two")
    assert (status, err) == (0, "")
    metrics = json.loads(Path("two/metrics.json").read_text())["test"]
    assert metrics["rmse"] == pytest.approx((metrics["rmse price"] + metrics["rmse size"]) / 2)
    status, _, _ = run("train", complete, "-t", "new", "-t", "flag", *ignore("class", "many", "price"), *FAST)
    assert status == 0
    _, out, _ = run("predict", "chainrule-complete", complete)
    header = next(csv.reader(out.splitlines()))
    assert header == ["new", "new=false", "new=true", "flag", "flag=false", "flag=true"]


def test_same_seed_same_file_and_other_seed_another(run, houses):
    def theta(out, *more):
        assert run("train", houses, "-t", "class", *FAST, *ignore("price", "many"), "--out", out, *more)[0] == 0
        with safe_open(f"{out}/model.safetensors", framework="numpy") as file:
            return file.get_tensor("theta")

    a, b, c = theta("a"), theta("b"), theta("c", "--seed", "1")
    assert a.tobytes() == b.tobytes() != c.tobytes()


def test_json_prints_one_line_an_epoch_and_the_result(run, houses):
    status, out, err = run("train", houses, "-t", "price", *FAST, "--json")
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["epoch"] for line in lines[:-1]] == list(range(1, 13))
    assert lines[-1]["result"] == json.loads((Path(lines[-1]["out"]) / "metrics.json").read_text())


def test_every_flag_reaches_the_model(run, houses):
    flags = {
        "hidden": "8,4",
        "activation": "leaky_relu(0.2),tanh",
        "dropout": 0.1,
        "loss": "huber(delta=2)",
        "aggregate": "cvar(0.5)",
        "l1": 1e-4,
        "l2": 1e-3,
        "optimizer": "adamw",
        "learning-rate": 0.01,
        "beta1": 0.8,
        "beta2": 0.99,
        "eps": 1e-7,
        "tolerance": 0.001,
        "init": "glorot_normal",
        "weight-decay": 0.02,
        "schedule": "step(every=5)",
        "batch-size": 50,
        "epochs": 4,
        "sampling": "replacement",
        "clip-norm": 1.0,
        "monitor": "mae",
        "patience": 3,
        "time-limit": 60,
        "starts": 2,
        "seed": 7,
        "valid-fraction": 0.25,
        "test-fraction": 0.25,
        "scaling": "standard",
        "max-levels": 2,
        "dtype": "float64",
        "weight": "weight",
        "category": "many",
        "task": "regression",
    }
    given = [part for name, value in flags.items() for part in (f"--{name}", value)]
    status, out, err = run(
        "train", houses, "-t", "price", *given, "--no-scale-layer", "--no-ntk", "--no-drop-last", "--out", "m"
    )
    assert (status, err) == (0, "")
    assert "2 starts" in out
    model = cli_model("m")
    assert [str(layer) for layer in model.network.architecture.layers] == [
        f"Dense {model.network.architecture.inputs} → 8, leaky_relu(slope=0.2)",
        "Dropout 0.1",
        "Dense 8 → 4, tanh",
        "Dropout 0.1",
        "Dense 4 → 1, identity",
    ]
    settings = model.settings
    for name, value in flags.items():
        if name not in ("hidden", "activation", "weight", "category"):
            assert getattr(settings, name.replace("-", "_")) == value, name
    assert model.weight == "weight" and "many=3" in model.encoder.feature_names
    assert sum(name.startswith("kind=") for name in model.encoder.feature_names) == 2
    rows = json.loads(Path("m/metrics.json").read_text())["rows"]
    assert rows == {"train": 150, "validation": 75, "test": 75}


def read_csv(path):
    return list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))


def cli_model(folder):
    from chainrule.table_model import TableModel

    return TableModel.load(Path(folder) / "model.safetensors")


def test_own_validation_and_test_files(run):
    lines = table(400)
    a, b, c = (write_csv(f"{n}.csv", [lines[0], *part]) for n, part in
               (("a", lines[1:201]), ("b", lines[201:301]), ("c", lines[301:])))  # fmt: skip
    status, _, _ = run("train", a, "-t", "price", "--valid", b, "--test", c, *FAST, "--out", "m")
    assert status == 0
    metrics = json.loads(Path("m/metrics.json").read_text())
    assert metrics["rows"] == {"train": 200, "validation": 100, "test": 100}
    _, out, _ = run("evaluate", "m", c, "--json")
    assert json.loads(out)["rmse"] == pytest.approx(metrics["test"]["rmse"], rel=1e-9)


def test_weights_move_the_fit(run):
    """Two groups of rows with the same input and different targets: the heavier one draws the prediction."""
    rows = [["x", "y", "w"]] + [[i % 10, 1.0 if i % 2 else 0.0, 9 if i % 2 else 1] for i in range(400)]
    rows[1:] = [[row[0] // 2, *row[1:]] for row in rows[1:]]
    path = write_csv("w.csv", rows)
    run("train", path, "-t", "y", "--task", "regression", "--weight", "w", "--epochs", 60, "--out", "m")
    run("train", path, "-t", "y", "--task", "regression", "--ignore", "w", "--epochs", 60, "--out", "n")
    means = []
    for folder in ("m", "n"):
        _, out, _ = run("predict", folder, path)
        means.append(np.mean([float(line["y"]) for line in csv.DictReader(out.splitlines())]))
    assert means == pytest.approx([0.9, 0.5], abs=0.06)


def test_codes_are_the_same_categories_with_and_without_a_gap(run):
    """A gap in a column of whole numbers makes other programs write them as 4.0."""
    rng = np.random.default_rng(0)
    codes, z = rng.integers(1, 5, 200), rng.normal(size=200)
    lines = [[f"{code}.0", x, 10 * code + x] for code, x in zip(codes, z, strict=True)]
    lines[7][0] = ""
    trained = write_csv("trained.csv", [["code", "z", "y"], *lines])
    new = write_csv(
        "new.csv", [["code", "z", "y"], *([code, *line[1:]] for code, line in zip(codes, lines, strict=True))]
    )
    flags = ["-t", "y", "--category", "code", "--epochs", 40, "--hidden", "16"]
    for first, second, folder in ((trained, new, "a"), (new, trained, "b")):
        assert run("train", first, *flags, "--out", folder)[::2] == (0, "")
        assert json.loads(run("evaluate", folder, second, "--json")[1])["r2"] > 0.9
        run("export", folder, "--to", "python", "--out", f"{folder}.py")
        predicted = csv.DictReader(run("predict", folder, second)[1].splitlines())
        alone = subprocess.run([sys.executable, f"{folder}.py", second], capture_output=True, text=True, check=True)
        printed = csv.DictReader(alone.stdout.splitlines())
        both = np.array([[float(row["y"]) for row in rows] for rows in (predicted, printed)])
        np.testing.assert_allclose(both[0], both[1], rtol=1e-6)


def test_unseen_categories_gaps_and_formats_at_prediction(run, houses):
    run("train", houses, "-t", "price", *ignore("class", "many", "flag"), *FAST, "--out", "m")
    rows = [["sold", "kind", "new", "size", "weight"], ["", "castle", "", "", 1], ["2025-01-01", "flat", "true", 90, 2]]
    new = write_csv("new.csv", rows)
    for name in ("p.csv", "p.parquet", "p.jsonl", "p.csv.gz"):
        status, _, err = run("predict", "m", new, "--out", name)
        assert (status, err) == (0, "")
    assert gzip.decompress(Path("p.csv.gz").read_bytes()) == Path("p.csv").read_bytes()
    for name in ("p.parquet.gz", "p.gz", "p"):
        assert "expected --out with an ending of" in run("predict", "m", new, "--out", name)[2]
    jsonl = [json.loads(line)["price"] for line in Path("p.jsonl").read_text().splitlines()]
    assert pq.read_table("p.parquet")["price"].to_pylist() == jsonl
    assert [float(line["price"]) for line in read_csv("p.csv")] == jsonl
    assert np.isfinite(jsonl).all()


BAD = {
    "missing file": (("train", "nothing.csv", "-t", "y"), 1, "no such file"),
    "no target": (("train", "houses.csv"), 2, "--target"),
    "unknown target": (("train", "houses.csv", "-t", "pric"), 2, "Did you mean 'price'"),
    "unknown ignored column": (("train", "houses.csv", "-t", "price", "--ignore", "kin"), 2, "Did you mean 'kind'"),
    "target also ignored": (("train", "houses.csv", "-t", "price", "--ignore", "price"), 2, "different columns"),
    "negative weights": (("train", "houses.csv", "-t", "price", "--weight", "loss"), 2, "unknown name 'loss'"),
    "activation": (("train", "houses.csv", "-t", "price", "--activation", "rellu"), 2, "Did you mean 'relu'"),
    "two activations": (("train", "houses.csv", "-t", "price", "--activation", "relu,tanh"), 2, "1 or 3 names"),
    "loss": (("train", "houses.csv", "-t", "price", "--loss", "hubber"), 2, "Did you mean 'huber'"),
    "loss of another task": (("train", "houses.csv", "-t", "price", "--loss", "hinge"), 2, "a loss of numbers"),
    "loss on logits": (("train", "houses.csv", "-t", "class", "--loss", "binary_cross_entropy_logits"), 2, "logits"),
    "optimizer": (("train", "houses.csv", "-t", "price", "--optimizer", "adm"), 2, "Did you mean 'adam'"),
    "schedule": (("train", "houses.csv", "-t", "price", "--schedule", "cosin"), 2, "Did you mean 'cosine'"),
    "sizes": (("train", "houses.csv", "-t", "price", "--hidden", "a"), 2, "sizes such as 64,64"),
    "epochs": (("train", "houses.csv", "-t", "price", "--epochs", "0"), 2, "epochs"),
    "fraction": (("train", "houses.csv", "-t", "price", "--test-fraction", "1"), 2, "test fraction"),
    "monitor": (("train", "houses.csv", "-t", "price", "--monitor", "error_rate"), 2, "Use 'rmse'"),
    "text as regression": (("train", "houses.csv", "-t", "kind", "--task", "regression"), 1, "expected numbers"),
    "mixed targets": (("train", "houses.csv", "-t", "price,kind"), 1, "Train one model for each"),
    "divergence": (("train", "houses.csv", "-t", "price", "--optimizer", "sgd", "--lr", "1e30"), 1, "learning_rate"),
    "unknown flag": (("train", "houses.csv", "-t", "price", "--epoch", "3"), 2, "No such option"),
    "model": (("predict", "nope", "houses.csv"), 1, "expected a model file"),
    "table as model": (("predict", "houses.csv", "houses.csv"), 1, "expected a chainrule model"),
    "a name that is too long": (("train", "houses.csv", "-t", "price", "-o", "n" * 300), 1, "File name too long"),
    "a table's name that is too long": (("train", "n" * 300 + ".csv", "-t", "price"), 1, "File name too long"),
    "not enough memory": (("train", "houses.csv", "-t", "price", "--hidden", "1000000000000"), 1, "Unable to allocate"),
    "turns": (("bench", "--turns", "0"), 2, "turns"),
    "contenders": (("bench", "--only", "scikit-lern"), 2, "Did you mean 'scikit-learn'"),
    "threads": (("bench", "--threads", "x"), 2, "numbers such as 1,2, got 'x'"),
    "page": (("bench", "-o", "nowhere/page.md"), 1, "could not be written"),
    "few rows": (("train", "few.csv", "-t", "y"), 1, "at least 3 rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_one_sentence_and_writes_nothing(run, houses, name):
    arguments, expected_status, words = BAD[name]
    write_csv("few.csv", [["x", "y"], [1, 2], [3, 4]])
    before = sorted(os.listdir())
    status, _, err = run(*arguments)
    assert status == expected_status
    assert words in err and "Traceback" not in err
    if name != "unknown flag":
        assert err.startswith("error: ") and err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_debug_shows_the_traceback(run):
    from chainrule.errors import DataError

    with pytest.raises(DataError):
        run("train", "nothing.csv", "-t", "y", "--debug")


def test_a_model_is_not_replaced_unless_asked(run, houses):
    assert run("train", houses, "-t", "price", *FAST, "--out", "m")[0] == 0
    old = Path("m/model.safetensors").read_bytes()
    status, _, err = run("train", houses, "-t", "price", *FAST, "--seed", 5, "--out", "m")
    assert status == 1 and "holds a model already" in err
    assert Path("m/model.safetensors").read_bytes() == old
    assert run("train", houses, "-t", "price", *FAST, "--seed", 5, "--out", "m", "--overwrite")[0] == 0
    assert Path("m/model.safetensors").read_bytes() != old
    assert run("train", houses, "-t", "price", *FAST)[0] == 0
    assert run("train", houses, "-t", "price", *FAST)[0] == 0
    assert Path("chainrule-houses").is_dir() and Path("chainrule-houses-2").is_dir()


def test_out_that_is_a_file(run, houses):
    Path("taken").write_text("mine")
    status, _, err = run("train", houses, "-t", "price", *FAST, "--out", "taken")
    assert status == 1 and "taken" in err
    assert Path("taken").read_text() == "mine"


def test_a_folder_in_the_place_of_a_file(run, houses):
    assert run("train", houses, "-t", "price", *FAST, "--out", "m")[0] == 0
    Path("m/metrics.json").unlink()
    Path("m/metrics.json").mkdir()
    before = {path: path.read_bytes() for path in Path("m").iterdir() if path.is_file()}
    status, _, err = run("train", houses, "-t", "price", *FAST, "--seed", 5, "--out", "m", "--overwrite")
    assert status == 1 and "m/metrics.json: expected a file or none, got a directory" in err
    assert {path: path.read_bytes() for path in Path("m").iterdir() if path.is_file()} == before


def test_what_a_command_reads_is_not_written_over(run, houses):
    assert run("train", houses, "-t", "price", *FAST, "--out", "m")[0] == 0
    model = Path("m/model.safetensors")
    for path, command in (
        (model, ("export", "m", "--to", "onnx", "--out", model)),
        (model, ("predict", model, houses, "--out", model, "--format", "csv")),
        (houses, ("predict", "m", houses, "--out", f"./{houses}")),
    ):
        old = path.read_bytes()
        status, _, err = run(*command)
        assert status == 1 and "expected another file than the command reads" in err and path.read_bytes() == old


def test_a_dollar_in_the_name_of_a_file(run, houses):
    houses.rename("p$^$.csv")
    assert run("train", "p$^$.csv", "-t", "price", *FAST, "--out", "m")[0] == 0
    assert Path("m/learning_curve.png").exists()


def test_full_disk_keeps_the_old_model(run, houses, monkeypatch):
    assert run("train", houses, "-t", "price", *FAST, "--out", "m")[0] == 0
    old = Path("m/model.safetensors").read_bytes()
    real = os.fsync
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:  # the check of the folder may pass
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        status, _, err = run("train", houses, "-t", "price", *FAST, "--seed", 3, "--out", "m", "--overwrite")
    assert status == 1 and "No space left" in err
    assert Path("m/model.safetensors").read_bytes() == old
    assert not [name for name in os.listdir("m") if name.endswith(".tmp")]


def test_the_package_is_a_program_too():
    done = subprocess.run(
        [sys.executable, "-m", "chainrule", "evaluate", "no.safetensors", "no.csv"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (
        (done.returncode, done.stdout) == (1, "")
        and done.stderr.startswith("error: ")
        and "no.safetensors" in done.stderr
    )


@pytest.mark.parametrize("engine", ["array", "compiled"])
def test_ctrl_c_keeps_the_best_epoch(houses, tmp_path, engine):
    if engine == "compiled":
        pytest.importorskip("numba")
    listens = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # unlike jobs in the background
    script = f"{listens}; from chainrule.cli import main; main()"
    command = [sys.executable, "-c", script, "train", str(houses), "-t", "price"]
    process = subprocess.Popen(
        [*command, "--epochs", "1000000", "--out", "m", "--json", "--engine", engine],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    said = [line for line in err.splitlines() if not line.startswith("Compiling for this kind of network, once")]
    assert (process.returncode, said) == (130, [])
    rest = out.splitlines()
    result = json.loads(rest[-1])["result"]
    rows = [json.loads(line) for line in lines] + [json.loads(line) for line in rest[:-1]]
    assert result["engine"] == engine
    assert result["ended_by"] == "interrupted" and result["epochs"] == len(rows)
    assert result["best_epoch"] == min(rows, key=lambda row: (row["valid_rmse"], -row["epoch"]))["epoch"]
    assert result["parameters"] == cli_model("m").network.P


def test_demo_learns_and(run):
    status, out, err = run("demo", "--out", "pictures")
    assert (status, err) == (0, "")
    assert "mean squared error" in out
    for name in ("and.png", "learning_curve.png"):
        assert Path("pictures", name).read_bytes().startswith(b"\x89PNG")


def test_version_and_help(run):
    import chainrule

    assert run("--version")[1] == f"chainrule {chainrule.__version__}\n"
    status, out, _ = run("train", "--help")
    assert status == 0 and "--target" in out


def test_digits_in_a_few_epochs(run):
    """The main job on a bundled data set; the full run's error is a recorded figure, not a test."""
    status, _, _ = run("train", "digits", "--epochs", 20)
    assert status == 0
    metrics = json.loads(Path("chainrule-digits/metrics.json").read_text())
    assert metrics["test"]["error_rate"] <= 0.04
    assert metrics["rows"] == {"train": 1168, "validation": 270, "test": 359}


def test_text_that_looks_like_numbers_is_read_alike_in_every_file(run):
    """A code such as 007 stays text in a test file that holds no other codes, and the metrics show it."""
    rng = np.random.default_rng(0)
    rows = [
        [code, {"007": 1.0, "008": 5.0, "00A": 9.0}[code] + rng.normal(0, 0.1)] for code in ("007", "008", "00A") * 60
    ]
    main = write_csv("main.csv", [["code", "y"], *rows])
    other = write_csv("other.csv", [["code", "y"], *(row for row in rows if row[0] != "00A")])
    assert run("train", main, "-t", "y", "--test", other, "--valid", other, "--epochs", 60, "--out", "m")[0] == 0
    _, out, _ = run("evaluate", "m", other, "--json")
    metrics = json.loads(Path("m/metrics.json").read_text())
    assert metrics["test"]["rmse"] == pytest.approx(json.loads(out)["rmse"], rel=1e-9)
    assert metrics["test"]["rmse"] < 1


def test_rows_in_messages_are_those_of_the_file(run):
    rows = [[i, 2 * i] for i in range(60)]
    rows[30][0] = "inf"
    path = write_csv("inf.csv", [["x", "y"], *rows])
    for seed in range(3):
        status, _, err = run("train", path, "-t", "y", "--task", "regression", "--seed", seed)
        assert status == 1 and "at row 31" in err


def test_bad_rows_of_the_test_file_are_found_before_training(run, houses):
    lines = table(60, seed=1)
    lines[51][0] = "inf"
    bad = write_csv("bad.csv", lines)
    status, out, err = run("train", houses, "-t", "price", "--test", bad, *FAST)
    assert (status, out) == (1, "") and "'size'" in err and "row 51" in err


def test_a_test_file_may_have_other_columns(run, houses):
    lines = [[*row, "more"] for row in table(60, seed=1)]
    test = write_csv("more.csv", lines)
    assert run("train", houses, "-t", "price", "--test", test, *FAST)[0] == 0


def test_sequential_sampling_uses_every_row(run):
    rows = [[0, 0.0]] * 300 + [[1, 10.0]] * 211
    path = write_csv("two.csv", [["x", "y"], *rows])
    flags = ("--task", "regression", "--sampling", "sequential", "--test-fraction", 0, "--valid", path, "--epochs", 60)
    assert run("train", path, "-t", "y", *flags, "--out", "m")[0] == 0
    run("predict", "m", path, "--out", "p.csv")
    predicted = np.array([float(line["y"]) for line in read_csv("p.csv")])
    assert abs(predicted[0]) < 1 and abs(predicted[-1] - 10) < 1


def test_counts_far_from_one(run):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 400)
    path = write_csv("counts.csv", [["x", "n"], *zip(x, rng.poisson(5000 * (1 + x)), strict=True)])
    for loss in ("poisson", "gamma"):
        assert run("train", path, "-t", "n", "--loss", loss, "--task", "regression", "--out", loss)[0] == 0
        metrics = json.loads(Path(loss, "metrics.json").read_text())
        assert metrics["test"]["rmse"] < 0.3 * metrics["baselines"]["constant"]["rmse"]


def test_one_class_in_the_test_part_still_gives_strict_json(run, houses):
    one = write_csv("one.csv", [row for k, row in enumerate(table(200, seed=2)) if k == 0 or row[6] == "dear"])
    flags = ("-t", "class", *ignore("price", "many"), *FAST, "--test", one, "--out", "m")
    assert run("train", houses, *flags)[0] == 0

    def refuse(name):
        raise AssertionError(name)

    metrics = json.loads(Path("m/metrics.json").read_text(), parse_constant=refuse)
    assert "auc" not in metrics["test"] and "auc" in metrics["validation"]


def test_a_rare_label_that_training_never_sees(run):
    rng = np.random.default_rng(0)
    rows = [[rng.normal(), rng.integers(0, 2), int(i == 0)] for i in range(60)]
    path = write_csv("rare.csv", [["x", "m1", "rare"], *rows])
    for seed in range(4):
        status, _, err = run("train", path, "-t", "m1,rare", "--seed", seed, "--epochs", 3, "--hidden", "4")
        assert (status, err) == (0, "")


@pytest.mark.parametrize("flag", ["time-limit", "clip-norm", "weight-decay", "beta2", "lr"])
def test_settings_that_are_not_finite(run, houses, flag):
    status, _, err = run("train", houses, "-t", "price", f"--{flag}", "nan", *FAST)
    assert status == 2 and err.startswith("error: ") and not Path("chainrule-houses").exists()


def test_a_column_name_with_a_comma(run):
    path = write_csv("comma.csv", [["a,b", "x", "y"], *([i, i * 2, i * 3] for i in range(60))])
    assert run("train", path, "-t", "y", "--ignore", "a,b", *FAST, "--out", "m")[0] == 0
    assert cli_model("m").encoder.feature_names == ("x",)
    codes = write_csv("codes.csv", [["a,b", "x", "y"], *([f"00{i % 4}", i, i % 4] for i in range(200))])
    assert run("train", codes, "-t", "y", "--category", "a,b", *FAST, "--out", "c")[0] == 0
    assert set(cli_model("c").encoder.feature_names) >= {"a,b=000", "a,b=001", "a,b=002", "a,b=003"}


def test_explain_prints_the_numbers_of_a_row(run, houses):
    run("train", houses, "-t", "price", *ignore("class", "many", "flag"), "--epochs", 5, "--hidden", "3", "--out", "m")
    model = cli_model("m")
    from chainrule.tables.read import read_table

    row = read_table(houses).slice(6, 1)
    part = model.part(row)
    gradient = model.network.gradient(part.X, part.y, loss=model.loss).dC_dW[2][1, 4]
    status, out, _ = run("explain", "m", houses, "--row", 7, "--what", "W", "--layer", 2, "--index", "1,4")
    assert status == 0 and out.rstrip().endswith(f"= {gradient:.6g}")
    status, out, _ = run("explain", "m", houses, "--row", 7)
    assert f"= {model.network.cost(part.X, part.y, loss=model.loss):.6g}" in out
    predicted = csv.DictReader(run("predict", "m", houses)[1].splitlines())
    assert f"= {float(list(predicted)[6]['price']):.6g}\nWhat moves" in out  # in the table's units
    assert run("explain", "m", houses, "--row", 7, "--format", "html")[1].startswith("<section")
    for bad in (("--row", 301), ("--what", "W"), ("--what", "W", "--layer", 9, "--index", "0,0"), ("--index", "a")):
        status, _, err = run("explain", "m", houses, *bad)
        assert status == 2 and err.startswith("error: ")


def test_explain_derives_the_cost_that_was_trained(run, houses):
    """With label smoothing and the penalty; and it says which class an output is the probability of."""
    flags = ("--epochs", 5, "--hidden", "3", "--l2", 0.01, "--label-smoothing", 0.2)
    run("train", houses, "-t", "kind", *ignore("class", "many", "flag"), *flags, "--out", "m")
    from chainrule.tables.read import read_table

    model = cli_model("m")
    part = model.part(read_table(houses).slice(6, 1))
    cost = model.network.cost(part.X, part.y, loss=model.loss, label_smoothing=0.2, penalty=0.01)
    status, out, _ = run("explain", "m", houses, "--row", 7, "--what", "cost")
    assert (status == 0 and f"C = {cost:.6g}\n" in out.replace("C = φ", "")) or f"= {cost:.6g}" in out
    p = model.network.predict(part.X)[0]
    for j in np.argsort(-p):
        assert f"P(kind = {model.target.classes[j]}) = ŷ_{j} = {p[j]:.6g}" in out


def test_a_folder_is_no_file_to_write(run, houses, tmp_path):
    run("train", houses, "-t", "price", *ignore("class", "many", "flag"), "--epochs", 1, "--hidden", "3", "--out", "m")
    for out in (".", "/"):
        for to in ("onnx", "python"):
            status, _, err = run("export", "m", "--to", to, "--out", out)
            assert status in (1, 2) and err.startswith("error: ") and "Traceback" not in err


def test_the_linear_baseline_gets_plain_numbers(run):
    rng = np.random.default_rng(0)
    X = np.exp(1.5 * rng.normal(size=(400, 2)))
    rows = np.column_stack([X, 3 * X[:, 0] + X[:, 1] + rng.normal(size=400)])
    table = write_csv("skew.csv", [["a", "b", "y"], *rows.tolist()])
    run("train", table, "-t", "y", "--epochs", 2, "--hidden", "3", "--out", "m")
    assert json.loads(Path("m/metrics.json").read_text())["baselines"]["linear"]["r2"] > 0.98


def test_verify_checks_a_model_on_its_table(run, houses):
    run("train", houses, "-t", "price", *ignore("class", "many", "flag"), "--epochs", 5, "--hidden", "3", "--out", "m")
    status, out, err = run("verify", "m", houses, "--rows", 20)
    assert (status, err) == (0, "") and "0 beyond their limits" in out and "whole gradient" in out
    assert run("verify", "m", houses, "--rows", 0)[0] == 2


# -- settings as a file, models for other programs --------------------------------------------------------------------


@pytest.mark.parametrize("folds", [(), ("--folds", 3)])
def test_the_settings_of_a_run_give_the_same_model_again(run, houses, folds):
    flags = [
        "-t",
        "price",
        "--ignore",
        "class,many",
        "--ignore",
        "flag",
        "--category",
        "weight",
        "--no-ntk",
        "--seed",
        3,
    ]
    flags += ["--hidden", "5,4", "--activation", "tanh,leaky_relu(0.2)", "--loss", "quantile(0.9)", "--l2", 0.1]
    flags += ["--epochs", 5, "--time-limit", 1e3, "--monitor", "mae", *folds]
    assert run("train", houses, *flags, "--out", "a")[0] == 0
    written = tomllib.loads(Path("a/settings.toml").read_text())
    assert written["hidden"] == [5, 4] and written["activation"] == ["tanh", "leaky_relu(0.2)"]
    assert written["ignore"] == ["class", "many", "flag"] and written["target"] == ["price"] and written["ntk"] is False
    assert "learning_rate" not in written  # it follows from the task
    assert run("train", houses, "--settings", "a/settings.toml", "--out", "b")[::2] == (0, "")
    for name in ("model.safetensors", "settings.toml"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
    assert run("train", houses, "--settings", "a/settings.toml", "--epochs", 2, "--ntk", "--out", "c")[0] == 0
    assert tomllib.loads(Path("c/settings.toml").read_text()) == written | {"epochs": 2, "ntk": True}


def test_settings_by_hand(run, houses):
    text = 'target = "price"\nignore = "class,many,flag"\nhidden = []\nactivation = "mish"\nbatch-size = 32\nepochs = 2\nl2 = 1'
    Path("s.toml").write_text(text)
    assert run("train", houses, "--settings", "s.toml", "--out", "a")[::2] == (0, "")
    settings = cli_model("a").settings
    assert settings.hidden == () and settings.batch_size == 32 and settings.l2 == 1.0


def test_names_in_settings_are_text_as_they_are(run):
    odd = 'q"uo\\te\tü\x7f'
    path = write_csv("odd.csv", [[odd, "x", "y"], *([i, i % 7, i * 3] for i in range(60))])
    assert run("train", path, "-t", "y", "--ignore", odd, *FAST, "--out", "m")[0] == 0
    assert tomllib.loads(Path("m/settings.toml").read_text(encoding="utf-8"))["ignore"] == [odd]


def test_every_flag_of_train_may_be_a_setting():
    from typer.main import get_command

    from chainrule.cli.app import app
    from chainrule.cli.settings_file import KINDS

    flags = {parameter.name for parameter in get_command(app).commands["train"].params}  # type: ignore[attr-defined]
    assert set(KINDS) == flags - {"source", "settings_file", "out", "overwrite", "as_json", "help"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning-rate = 0.1", "unknown name 'lerning-rate'. Did you mean 'learning_rate'?"),
        ('epochs = "many"', "epochs: expected a whole number, got 'many'"),
        ("epochs = 2.5", "epochs: expected a whole number, got 2.5"),
        ("epochs = true", "epochs: expected a whole number, got True"),
        ("ntk = 1", "ntk: expected true or false, got 1"),
        ("loss = 3", "loss: expected text, got 3"),
        ("l2 = nan", "l2: expected a finite number, got nan"),
        ('scaling = "robist"', "scaling: expected one of robust, standard, none, got 'robist'"),
        ("hidden = [4, 4.5]", "hidden[1]: expected a whole number, got 4.5"),
        ("target = [1]", "target[0]: expected text, got 1"),
        ("batch-size = 3\nbatch_size = 3", "expected each setting once, got 'batch_size' twice"),
        ("[train]\nepochs = 3", "unknown name 'train'"),
        ("epochs = ", "expected settings in TOML"),
    ],
)
def test_settings_that_cannot_be_used(run, houses, text, message):
    Path("s.toml").write_text(text)
    status, out, err = run("train", houses, "-t", "price", "--settings", "s.toml", "--out", "m")
    assert status in (1, 2) and out == "" and err.startswith("error: s.toml: ") and message in err
    assert len(err.splitlines()) == 1 and not Path("m").exists()
    assert run("train", houses, "-t", "price", "--settings", "none.toml")[0] == 1


@pytest.mark.parametrize("folds", [(), ("--folds", 3)])
def test_export(run, houses, folds):
    pytest.importorskip("onnx")
    run("train", houses, "-t", "price", *ignore("class", "many", "flag"), *FAST, *folds, "--out", "m")
    assert run("export", "m", "--to", "onnx", "--out", "m.onnx")[::2] == (0, "")
    assert run("export", "m/model.safetensors", "--to", "python", "-o", "m.py")[::2] == (0, "")
    done = subprocess.run([sys.executable, "m.py", str(houses)], capture_output=True, text=True, env={}, check=False)
    assert done.returncode == 0, done.stderr
    ours = [float(line["price"]) for line in csv.DictReader(run("predict", "m", houses)[1].splitlines())]
    theirs = [float(line["price"]) for line in csv.DictReader(done.stdout.splitlines())]
    np.testing.assert_array_equal(theirs, ours)
    for bad in (("--to", "onx", "--out", "x"), ("--to", "onnx", "--out", "none/x"), ("--to", "onnx")):
        status, _, err = run("export", "m", *bad)
        assert status in (1, 2) and err.startswith("error: ")
    assert run("export", "nothing", "--to", "onnx", "--out", "x")[0] == 1
