"""The commands: they read, call the library, and print. Nothing is computed here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .. import __version__
from ..disk import replace_all, replacing
from ..ensemble import Ensemble, Folds, fit_each, load, member_of, notes_of, prepare_folds
from ..errors import MissingExtraError, OutputError, ParameterError, unknown_name
from ..files import MODEL_FILE, model_file
from ..network import Run
from ..plain import json_text
from ..table_model import Problem, Settings, TableModel, fit, prepare
from . import display
from .display import console
from .settings_file import read_settings, settings_text

app = typer.Typer(
    help="Dense neural networks with nothing hidden. Add --debug to any command for a full traceback.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
DEFAULT = Settings()
PICTURE = "learning_curve.png"
FILES = (MODEL_FILE, PICTURE, "metrics.json", "history.jsonl", "settings.toml")  # in the folder of a run
Source = Annotated[
    str,
    typer.Argument(
        help="A .csv, .csv.gz or .parquet file, or digits, breast_cancer, diabetes, wine, iris.", show_default=False
    ),
]
Model = Annotated[Path, typer.Argument(help="A folder that train wrote, or its model file.", show_default=False)]
Data, Net, Training, Output = "Data", "Network", "Training", "Output"


def _version(asked: bool) -> None:
    if asked:
        print(f"chainrule {__version__}")
        raise typer.Exit()


def _stoppable(command: Callable[..., None]) -> Callable[..., None]:
    """Let Ctrl-C end a command with a sentence."""

    @functools.wraps(command)
    def run(*arguments: Any, **named: Any) -> None:
        try:
            command(*arguments, **named)
        except KeyboardInterrupt:
            print("Stopped. Nothing was written.", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _preset(context: typer.Context, path: Path | None) -> None:
    """Let the values of a settings file stand in the place of the defaults."""
    if path is not None:
        context.default_map = read_settings(path)


@app.command()
@_stoppable
def train(
    source: Source,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            help="Defaults from a TOML file with these flags' names as keys, as train writes it.",
            rich_help_panel=Data,
            callback=_preset,
            is_eager=True,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", "-t", help="Target column; repeat it, or use commas, for several.", rich_help_panel=Data
        ),
    ] = None,
    valid: Annotated[str | None, typer.Option(help="Validation rows from this file.", rich_help_panel=Data)] = None,
    test: Annotated[str | None, typer.Option(help="Test rows from this file.", rich_help_panel=Data)] = None,
    valid_fraction: Annotated[
        float, typer.Option(help="Share of rows for validation.", rich_help_panel=Data)
    ] = DEFAULT.valid_fraction,
    test_fraction: Annotated[
        float, typer.Option(help="Share of rows for the test.", rich_help_panel=Data)
    ] = DEFAULT.test_fraction,
    folds: Annotated[
        int | None,
        typer.Option(
            help="So many networks, each validated on another part of the rows; predictions are averaged.",
            rich_help_panel=Data,
        ),
    ] = None,
    weight: Annotated[str | None, typer.Option(help="Column of sample weights.", rich_help_panel=Data)] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Column to leave out; repeat it, or use commas.", rich_help_panel=Data)
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Column of numbers to treat as categories.", rich_help_panel=Data)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification or regression; by default from the target.", rich_help_panel=Data)
    ] = None,
    scaling: Annotated[
        str, typer.Option(help="Of numbers: robust, standard, none.", rich_help_panel=Data)
    ] = DEFAULT.scaling,
    max_levels: Annotated[
        int, typer.Option(help="Most frequent categories kept in a column.", rich_help_panel=Data)
    ] = DEFAULT.max_levels,
    hidden: Annotated[
        str, typer.Option(help="Hidden sizes, such as 64,64; none for a linear model.", rich_help_panel=Net)
    ] = ",".join(map(str, DEFAULT.hidden)),
    activation: Annotated[
        str | None,
        typer.Option(
            help="One for all hidden layers, or one for each, with commas. (default: selu; mish for regression)",
            rich_help_panel=Net,
        ),
    ] = None,
    dropout: Annotated[
        float, typer.Option(help="Dropout rate after each hidden layer.", rich_help_panel=Net)
    ] = DEFAULT.dropout,
    scale_layer: Annotated[
        bool, typer.Option(help="A trainable factor for each input.", rich_help_panel=Net)
    ] = DEFAULT.scale_layer,
    ntk: Annotated[bool, typer.Option(help="Neural tangent parametrisation.", rich_help_panel=Net)] = DEFAULT.ntk,
    init: Annotated[
        str | None,
        typer.Option(
            help="Starting weights, such as he_normal (default: normal; by activation with --no-ntk).",
            rich_help_panel=Net,
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel=Net)] = DEFAULT.dtype,
    loss: Annotated[
        str | None,
        typer.Option(
            help="Such as absolute, 'huber(delta=2)', 'quantile(0.9)', poisson. (default: cross-entropy; squared)",
            rich_help_panel=Training,
        ),
    ] = None,
    aggregate: Annotated[
        str,
        typer.Option(
            help="Of the samples' losses: mean, sum, 'tilted(1)', 'cvar(0.1)', max.", rich_help_panel=Training
        ),
    ] = DEFAULT.aggregate,
    average_outputs: Annotated[
        bool, typer.Option(help="A row's loss is the mean over its targets, not their sum.", rich_help_panel=Training)
    ] = DEFAULT.average_outputs,
    label_smoothing: Annotated[
        float | None, typer.Option(help="ε (default: 0.1 for cross-entropies).", rich_help_panel=Training)
    ] = None,
    l1: Annotated[float, typer.Option(help="Penalty l1·Σ|w|.", rich_help_panel=Training)] = DEFAULT.l1,
    l2: Annotated[float, typer.Option(help="Penalty l2/2·Σw².", rich_help_panel=Training)] = DEFAULT.l2,
    optimizer: Annotated[
        str, typer.Option(help="sgd, momentum, nesterov, adam, adamw.", rich_help_panel=Training)
    ] = DEFAULT.optimizer,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="η (default: 0.04; 0.03 for regression; 0.002 with --no-ntk).",
            rich_help_panel=Training,
        ),
    ] = None,
    momentum: Annotated[
        float, typer.Option(help="Of momentum and nesterov.", rich_help_panel=Training)
    ] = DEFAULT.momentum,
    beta1: Annotated[float, typer.Option(help="Of adam and adamw.", rich_help_panel=Training)] = DEFAULT.beta1,
    beta2: Annotated[float, typer.Option(help="Of adam and adamw.", rich_help_panel=Training)] = DEFAULT.beta2,
    eps: Annotated[float, typer.Option(help="Of adam and adamw.", rich_help_panel=Training)] = DEFAULT.eps,
    weight_decay: Annotated[float, typer.Option(help="Of adamw.", rich_help_panel=Training)] = DEFAULT.weight_decay,
    schedule: Annotated[
        str,
        typer.Option(
            help="constant, 'step(10)', inverse_time, cosine, warmup, warmup_cosine, coslog4, flat_cos.",
            rich_help_panel=Training,
        ),
    ] = DEFAULT.schedule,
    batch_size: Annotated[int, typer.Option(help="Rows in one step.", rich_help_panel=Training)] = DEFAULT.batch_size,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the rows. (default: 256; from 10 000 training rows 96, in a regression 64)",
            rich_help_panel=Training,
        ),
    ] = None,
    sampling: Annotated[
        str, typer.Option(help="shuffle, sequential, replacement.", rich_help_panel=Training)
    ] = DEFAULT.sampling,
    drop_last: Annotated[
        bool, typer.Option(help="Of shuffled rows, leave out the short batch at the end.", rich_help_panel=Training)
    ] = DEFAULT.drop_last,
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient.", rich_help_panel=Training)
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(
            help="Decides the best epoch: cost, error_rate, brier, rmse, mae. (default: brier; rmse; with another --loss, cost)",
            rich_help_panel=Training,
        ),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better one.", rich_help_panel=Training)
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="How much better counts as better for --patience.", rich_help_panel=Training)
    ] = DEFAULT.tolerance,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop after so many seconds.", rich_help_panel=Training)
    ] = None,
    starts: Annotated[
        int, typer.Option(help="Random starts, of which the best is kept.", rich_help_panel=Training)
    ] = DEFAULT.starts,
    seed: Annotated[
        int, typer.Option(help="Of split, start, order and dropout.", rich_help_panel=Training)
    ] = DEFAULT.seed,
    engine: Annotated[
        str,
        typer.Option(help="auto, array (NumPy) or compiled; auto compiles long trainings.", rich_help_panel=Training),
    ] = DEFAULT.engine,
    threads: Annotated[
        int | None, typer.Option(help="That share a compiled step. (default: the cores)", rich_help_panel=Training)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the results. (default: a new chainrule-NAME)", rich_help_panel=Output
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model in --out.", rich_help_panel=Output)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON line an epoch, then one with the result.", rich_help_panel=Output),
    ] = False,
) -> None:
    """Train a network on a table, and write the model with its metrics."""
    from ..tables.read import bundled_target, read_table

    given = locals()
    names = {f.name for f in dataclasses.fields(Settings)} - {"hidden", "activation"}
    settings = Settings(
        **{name: given[name] for name in names},
        hidden=_sizes(hidden),
        activation=tuple(_several([activation] if activation else [])),
    )
    began = time.perf_counter()
    categories = _several(category)
    table = read_table(source, categories)
    known = table.column_names
    if (named := _several(category, known)) != categories:  # a comma in a column's name
        categories, table = named, read_table(source, named)
    targets = _several(target, known) or [name for name in [bundled_target(source)] if name]
    if not targets:
        raise ParameterError(f"train: expected --target COLUMN for {source}, got none. Name the column to predict.")
    texts = [*categories, *(field.name for field in table.schema if str(field.type).endswith("string"))]
    given_rows: dict[str, Any] = {
        "test": None if test is None else read_table(test, texts),
        "ignore": _several(ignore, known),
        "categories": categories,
        "weight": weight,
    }
    in_folds: Folds | None = None
    if folds is None:
        validation = None if valid is None else read_table(valid, texts)
        problems: tuple[Problem, ...] = (prepare(table, targets, settings, valid=validation, **given_rows),)
    elif valid is None:
        in_folds = prepare_folds(table, targets, settings, **given_rows)
        problems = in_folds.problems
    else:
        raise ParameterError("train: expected either --valid or --folds, which hold rows out themselves, got both.")
    del table, given_rows
    folder, made = _claim(out, source, overwrite)
    try:
        if not as_json:
            display.before(problems, source)
        training = time.perf_counter()

        def train_one(number: int, problem: Problem) -> Run:
            fold = {} if in_folds is None else {"fold": number + 1}
            with display.progress(problem, as_json, fold) as (on_epoch, on_progress):
                return fit(problem, on_epoch, on_progress)

        runs = fit_each(problems, train_one)
        training_seconds = time.perf_counter() - training
        model = problems[0].model if in_folds is None else in_folds.ensemble(len(runs))
        result = _measure(model, problems[0], in_folds, runs)
        result |= {"rows": display.row_counts(problems[0]), "parameters": problems[0].model.network.P}
        result |= _ending(runs[0]) if in_folds is None else {"folds": [_ending(run) for run in runs]}
        result |= {
            "training_seconds": round(training_seconds, 3),
            "seconds": round(time.perf_counter() - began, 3),
            "source": source,
            "chainrule": __version__,
        }
        used = settings_text(
            settings,
            {"target": targets, "valid": valid, "test": test, "weight": weight, "ignore": _several(ignore, known)}
            | {"category": categories},
        )
        _write(folder, model, runs, result, used)
    except BaseException:
        _release(made)
        raise
    if as_json:
        display.print_json({"result": result, "out": str(folder)})
    else:
        display.after(runs, result, folder, split=folds is None and valid is None)
    if runs[-1].reason == "interrupted":
        raise typer.Exit(130)


@app.command()
@_stoppable
def predict(
    model: Model,
    source: Source,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the predictions. (default: standard output)")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", help="csv, parquet or jsonl. (default: from the name of --out, else csv)"),
    ] = None,
) -> None:
    """Write predictions, with the probability of each class."""
    import pyarrow as pa

    from ..tables.read import PACKED, read_table, write_table

    formats = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".json": "jsonl"}
    if format is None:
        name = "" if out is None else out.name.lower()
        format = "csv" if out is None else formats.get(Path(name.removesuffix(PACKED)).suffix)
        if format is None or (format == "parquet" and name.endswith(PACKED)):
            raise ParameterError(
                f"predict: expected --out with an ending of {', '.join(formats)}, text also with .gz, got {out}. Add --format."
            )
    if format not in formats.values():
        raise unknown_name("predict, format", format, ["csv", "parquet", "jsonl"])
    loaded = load(model)
    _spare(out, source, model_file(model))
    table = pa.table(loaded.predict(read_table(source, loaded.text_names)))
    write_table(table, sys.stdout.buffer if out is None else out, format)  # type: ignore[arg-type]
    if out is not None:
        console.print(f"{table.num_rows:,} predictions in {escape(str(out))}")


@app.command()
@_stoppable
def evaluate(
    model: Model,
    source: Source,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the metrics of a model on a table that has the target."""
    from ..report import evaluate as metrics_of
    from ..tables.read import read_table

    loaded = load(model)
    part = loaded.part(read_table(source, loaded.text_names))
    metrics = metrics_of(loaded, part)
    if as_json:
        display.print_json({"rows": len(part.X)} | metrics)
    else:
        display.metrics({source: metrics}, f"{len(part.X):,} rows")


@app.command()
@_stoppable
def explain(
    model: Model,
    source: Source,
    row: Annotated[int, typer.Option(help="Which row, counted from 1.")] = 1,
    fold: Annotated[int, typer.Option(help="Which network of a model trained on folds, counted from 1.")] = 1,
    what: Annotated[
        str | None, typer.Option(help="output, cost, W, b or x (default: cost with a target, else output).")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer of W or b, counted from 1.")] = None,
    index: Annotated[str | None, typer.Option(help="Of W: unit,input; of b: unit; of x: column. From 0.")] = None,
    form: Annotated[str, typer.Option(help="Vectors as row or column.")] = "row",
    layout: Annotated[str, typer.Option(help="Of derivatives: denominator or numerator.")] = "denominator",
    digits: Annotated[int, typer.Option(help="Significant digits.")] = 6,
    format: Annotated[str, typer.Option("--format", "-f", help="text, latex or html.")] = "text",
) -> None:
    """Derive a number of one row: its output, its cost, or a derivative, factor by factor."""
    from ..table_model import explain as derive
    from ..tables.read import read_table

    if format not in ("text", "latex", "html"):
        raise unknown_name("explain, format", format, ["text", "latex", "html"])
    loaded = _network_of(model, fold)
    table = read_table(source, loaded.text_names)
    if not 1 <= row <= table.num_rows:
        raise ParameterError(f"explain: expected a row from 1 to {table.num_rows}, got {row}.")
    try:
        place = None if index is None else tuple(int(part) for part in index.split(","))
    except ValueError:
        raise ParameterError(f"explain: expected an index such as 0,1, got {index!r}.") from None
    derivation, moves = derive(loaded, table.slice(row - 1, 1), what, layer, place, form, layout, digits)
    print(getattr(derivation, format)())
    if format == "text" and what is None:
        display.moves(moves)


@app.command()
@_stoppable
def export(
    model: Model,
    to: Annotated[str, typer.Option(help="onnx, or python: one file that needs NumPy only.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.", show_default=False)],
) -> None:
    """Write a model with its preprocessing for other programs."""
    from ..export import to_onnx, to_python

    if to not in ("onnx", "python"):
        raise unknown_name("export, to", to, ["onnx", "python"])
    _spare(out, model_file(model))
    loaded = load(model)
    if to == "onnx":
        to_onnx(loaded, out)
    else:
        to_python(loaded, out)
    console.print(escape(str(out)))


@app.command()
@_stoppable
def verify(
    model: Model,
    source: Source,
    rows: Annotated[int, typer.Option(help="How many rows to check on, from the first.")] = 64,
    fold: Annotated[int, typer.Option(help="Which network of a model trained on folds, counted from 1.")] = 1,
) -> None:
    """Check every formula of a model on its data against independent witnesses; exit status 1 if one is wrong."""
    from ..table_model import verify as check
    from ..tables.read import read_table

    if rows < 1:
        raise ParameterError(f"verify: expected rows of at least 1, got {rows}.")
    loaded = _network_of(model, fold)
    report = check(loaded, read_table(source, loaded.text_names).slice(0, rows))
    print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
@_stoppable
def bench(
    section: Annotated[
        list[str] | None,
        typer.Option(
            "--section", "-s", help="What to measure; repeat it for several, or all. (default: the main ones)"
        ),
    ] = None,
    threads: Annotated[str, typer.Option(help="Threads for everybody, such as 1,2; each is a run of its own.")] = "1",
    turns: Annotated[int, typer.Option(help="Of each contender; the median counts.")] = 7,
    only: Annotated[list[str] | None, typer.Option(help="Only this contender; repeat it for several.")] = None,
    costs: Annotated[bool, typer.Option(help="Import times and memory too.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the page. (default: standard output)")
    ] = None,
) -> None:
    """Measure speed beside scikit-learn, PyTorch, JAX, Keras and onnxruntime, in turn, on this machine."""
    from ..bench import MAIN, SECTIONS, page, run

    if out is not None:
        _prove(out.parent)  # before the measurements
    sections = list(SECTIONS) if section == ["all"] else _several(section) or list(MAIN)
    results = run(
        sections,
        _threads(threads),
        turns,
        only or None,
        costs,
        lambda line: display.status.print(line, markup=False),
    )
    text = page(results)
    if out is None:
        print(text)
        return
    with replacing(out) as stream:
        stream.write(text.encode())


def _threads(given: str) -> list[int]:
    try:
        return [int(count) for count in given.split(",")]
    except ValueError:
        raise ParameterError(f"bench, threads: expected numbers such as 1,2, got {given!r}.") from None


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path("chainrule-demo"),
    seed: Annotated[int, typer.Option(help="Of the starting weights.")] = 0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", help="η of plain gradient descent.")] = 0.1,
    epochs: Annotated[int, typer.Option(help="Passes over the four rows.")] = 1000,
) -> None:
    """Train the AND function on a 2-3-1 network, one sample at a time, and draw what it learned."""
    import numpy as np

    from .. import SGD, Dense, Network, plots

    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 0, 0, 1])
    start = {"init": "normal", "bias_init": "normal"}
    network = Network(2, [Dense(3, "tanh", **start), Dense(1, "tanh", **start)], seed=seed)  # type: ignore[arg-type]
    run = network.fit(
        X, y, loss="squared", optimizer=SGD(learning_rate), epochs=epochs, batch_size=1, sampling="sequential"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{out}: expected a folder that can be written to ({error.strerror}). Choose another --out."
        ) from None
    plots.save(plots.surface(network, "AND, learned by a 2-3-1 tanh network"), out / "and.png")
    plots.save(plots.learning_curve(run, "AND: mean squared error"), out / "learning_curve.png")
    display.demo(network, X, y, run, out)


def _several(values: list[str] | None, known: Sequence[str] = ()) -> list[str]:
    """Repeated flags and commas as one list; brackets and the name of a known column hold together."""
    names: list[str] = []
    for value in values or []:
        if value in known:
            names.append(value)
            continue
        depth, name = 0, ""
        for character in value + ",":
            depth += (character == "(") - (character == ")")
            if character == "," and depth <= 0:
                names += [name.strip()] if name.strip() else []
                name = ""
            else:
                name += character
    return names


def _sizes(hidden: str) -> tuple[int, ...]:
    if hidden.strip().lower() in ("", "none", "0"):
        return ()
    try:
        return tuple(int(size) for size in hidden.replace("x", ",").replace("-", ",").split(","))
    except ValueError:
        raise ParameterError(f"train, hidden: expected sizes such as 64,64, got {hidden!r}.") from None


def _spare(out: Path | None, *inputs: str | Path) -> None:
    """Raise OutputError where a command would write over what it reads."""
    if out is not None and out.exists() and any(Path(file).exists() and out.samefile(file) for file in inputs):
        raise OutputError(f"{out}: expected another file than the command reads. Choose another --out.")


def _network_of(model: Path, fold: int) -> TableModel:
    """The model in a file, or that of one fold, counted from 1."""
    loaded = load(model)
    folds = len(loaded.members) if isinstance(loaded, Ensemble) else 1
    if not 1 <= fold <= folds:
        raise ParameterError(f"{model}: expected a fold from 1 to {folds}, got {fold}.")
    return member_of(loaded, fold - 1)


def _prove(folder: Path) -> None:
    """Raise OutputError or OSError where a folder cannot be written to."""
    check = folder / ".chainrule-check"
    with replacing(check):
        pass
    check.unlink()


def _claim(out: Path | None, source: str, overwrite: bool) -> tuple[Path, list[Path]]:
    """The output folder, made and proven writable before any training, and the folders that were made for it.

    Raises:
        OutputError: it holds a model already, or cannot be written to.
    """
    if out is None:
        name, number = f"chainrule-{Path(Path(source).name.removesuffix('.gz')).stem}", 1
        out = Path(name)
        while out.exists():
            number += 1
            out = Path(f"{name}-{number}")
    elif (out / MODEL_FILE).exists() and not overwrite:
        raise OutputError(f"{out}: holds a model already. Choose another --out, or pass --overwrite to replace it.")
    for name in FILES:
        if (out / name).is_dir():
            raise OutputError(f"{out / name}: expected a file or none, got a directory. Choose another --out.")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        _prove(out)
    except OSError as error:
        _release(made)
        reason = error.strerror or "not writable"
        raise OutputError(
            f"{out}: expected a folder that can be written to ({reason}). Choose another --out."
        ) from None
    return out, made


def _release(made: list[Path]) -> None:
    """Remove the folders that were made, as far as nothing is in them."""
    with contextlib.suppress(OSError):
        for folder in made:
            folder.rmdir()


def _measure(
    model: TableModel | Ensemble, problem: Problem, folds: Folds | None, runs: Sequence[Run]
) -> dict[str, Any]:
    """Metrics on the test rows and on those for validation, of the baselines too; with what there is to note."""
    from ..report import baselines, evaluate, score

    notes = [*problem.notes, *notes_of(runs)]
    result: dict[str, Any] = {"test": None, "validation": None, "baselines": None, "notes": notes}
    try:
        if problem.test is not None:
            result["test"] = evaluate(model, problem.test)
        if folds is not None:
            rows, y_hat = folds.out_of_fold(len(runs))
            truth, s = folds.rows.truth[rows], folds.rows.s[rows]
            decisions = None if model.target.task == "regression" else model.target.decisions(y_hat)
            result["validation"] = score(model, y_hat, decisions, truth, s)
        elif problem.valid is not None:
            result["validation"] = evaluate(model, problem.valid)
        if problem.test is not None:
            result["baselines"] = baselines(problem, problem.test)
    except KeyboardInterrupt:
        notes.append("Interrupted while the metrics were computed; the model was kept.")
    return result


def _ending(run: Run) -> dict[str, Any]:
    return {
        "epochs": len(run.history),
        "best_epoch": run.best_epoch,
        "ended_by": run.reason,
        "engine": run.engine,
        "starts": run.starts,
    }


def _write(
    folder: Path, model: TableModel | Ensemble, runs: Sequence[Run], result: dict[str, Any], settings: str
) -> None:
    """Write the five files, all or none."""
    from .. import plots

    several = isinstance(model, Ensemble)
    rows = [({"fold": fold} if several else {}) | row for fold, run in enumerate(runs, 1) for row in run.history]
    content = {
        "metrics.json": (json_text(result, indent=2) + "\n").encode(),
        "history.jsonl": "".join(json_text(row) + "\n" for row in rows).encode(),
        "settings.toml": settings.encode(),
        MODEL_FILE: model.to_bytes(),
    }
    title = f"Learning curve, {Path(result['source']).name}" + (f", fold 1 of {len(runs)}" if several else "")
    try:
        content[PICTURE] = plots.png(plots.learning_curve(runs[0], title))
    except MissingExtraError as error:  # matplotlib is an extra: without it there is a model, but no picture
        display.status.print(f"No picture: {error}", markup=False)
    replace_all({folder / name: data for name, data in content.items()})
