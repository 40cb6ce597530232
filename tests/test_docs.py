"""The pages of docs/ name things that exist, and name everything that they promise to."""

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.cost import CostOptions
from chainrule.formulas import activations, aggregators, initializers, losses
from chainrule.inspection.graph import Graph
from chainrule.inspection.jacobians import CompactJacobian
from chainrule.inspection.paths import Path as NetworkPath
from chainrule.inspection.trace import LayerTrace, Trace

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
MATHEMATICS, NOTATION = PAGES["mathematics.md"], PAGES["notation.md"]
CLASSES = {"Trace": Trace, "LayerTrace": LayerTrace, "CompactJacobian": CompactJacobian, "Graph": Graph}
CLASSES |= {"Path": NetworkPath, "Aggregator": aggregators.Aggregator}


def code(text):
    """Everything in backticks, fenced blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def resolve(name):
    """What a dotted name stands for: from chainrule, one of its modules, or a class of inspection; fields count."""
    first, *rest = name.removeprefix("chainrule.").split(".")
    found = CLASSES.get(first) or getattr(cr, first, None) or importlib.import_module(f"chainrule.{first}")
    for part in rest:
        if part in getattr(found, "__dataclass_fields__", ()) or part in getattr(found, "_fields", ()):
            found = found.__dict__.get(part)
        elif inspect.ismodule(found) and not hasattr(found, part):
            found = importlib.import_module(f"{found.__name__}.{part}")
        else:
            found = getattr(found, part)
    return found


def keywords(function):
    """The names of the arguments that a function takes."""
    parameters = inspect.signature(function).parameters.values()
    options = CostOptions.__annotations__ if any(p.kind is p.VAR_KEYWORD for p in parameters) else ()
    return {p.name for p in parameters} | set(options)


API = sorted(
    {
        item
        for page in (MATHEMATICS, NOTATION)
        for item in code(page)
        if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(\(.*\))?", item) and not item.endswith((".py", ".md"))
    }
    | {"Network", "Dense", "Scale", "Dropout", "SGD", "Adam", "AdamW", "Schedule", "Plan", "Cost"}
)


@pytest.mark.parametrize("item", API)
def test_name_exists(item):
    name, bracket, _ = item.partition("(")
    found = resolve(name)
    if bracket:
        call = ast.parse(item, mode="eval").body
        assert isinstance(call, ast.Call)
        given = {keyword.arg for keyword in call.keywords}
        assert given <= keywords(found), given - keywords(found)


@pytest.mark.parametrize("item", [item for item in API if item.startswith("Trace.jacobian(")])
def test_jacobian_as_shown(item):
    """The call runs, with one row for each sample."""
    net = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dense(2, "softmax"), cr.Dense(2)])
    t = net.trace(np.ones((5, 3)), np.zeros((5, 2)))
    shown = item if "wrt" in item or "full" not in item else item.replace("(", '(wrt="W", layer=1, ')
    assert eval(shown, {"Trace": t, "l": 1, "m": 2}).shape[0] == 5


def test_names_are_found_and_wrong_ones_are_not():
    assert len(API) > 100 and {"Network.trace", "LayerTrace.dC_dz", "inspection.jacobians.between"} <= set(API)
    for wrong in ("Trace.dC_dw", "losses.hubert", "inspection.jacobians.among", "Nothing.at_all"):
        with pytest.raises((AttributeError, ImportError)):
            resolve(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page):
    known = {name for path in (ROOT / "tests").glob("*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    named = {item for item in code(PAGES[page]) if re.fullmatch(r"test_\w+", item)}
    assert named <= known


def test_every_field_of_a_trace_is_named():
    missing = {
        f"{kind.__name__}.{field.name}"
        for kind in (Trace, LayerTrace)
        for field in dataclasses.fields(kind)
        if f"`{kind.__name__}.{field.name}`" not in MATHEMATICS + NOTATION
    }
    assert not missing


@pytest.mark.parametrize("module", [activations, losses, aggregators, initializers])
def test_every_record_is_in_the_catalogue(module):
    catalogue = MATHEMATICS[MATHEMATICS.index("\n## 5.") : MATHEMATICS.index("\n## 6.")]
    assert set(module.CATALOGUE) <= set(code(catalogue))


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_links_lead_somewhere(page):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        assert there.is_file() or there.is_dir(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def numbers(text, pattern):
    """The numbers in the first column of every table row, ranges written out."""
    found = set()
    for row in re.findall(r"^\| ([^|]*) \|", text, flags=re.MULTILINE):
        for first, last in re.findall(rf"{pattern}(?:–{pattern})?", row):
            found |= set(range(int(first), int(last or first) + 1))
    return found


@pytest.mark.parametrize(
    ("source", "pattern", "count"),
    [
        ("002", r"\(7\.(\d+)\)", 50),
        ("002", r"(?:Concept|Notation|Definition|Clarification) (\d+)", 20),
        ("003", r"\((\d+)[ab]?\)", 21),
        ("004", r"\((\d+)\)", 24),
    ],
)
def test_every_numbered_equation_has_a_row(source, pattern, count):
    start = NOTATION.index(f"\n## {source}")
    section = NOTATION[start : NOTATION.find("\n## ", start + 1)] if source != "004" else NOTATION[start:]
    assert numbers(section, pattern) == set(range(1, count + 1))


def test_tables_have_as_many_cells_in_every_row():
    for name, page in PAGES.items():
        width = 0
        for line in page.splitlines():
            cells = line.count("|") if line.startswith("|") else 0
            assert not (width and cells) or cells == width, (name, line)
            width = cells
