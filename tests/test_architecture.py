"""The shape of the code: what may import what, what `import chainrule` loads, and which names are public.

The independent sources are the syntax trees of the modules, a fresh interpreter, and the lists written here.
"""

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import chainrule as cr
from chainrule.core.layers import Layer
from chainrule.training.optimizers import Optimizer

ROOT = Path(cr.__file__).parent

ORDER = [  # a module may import from the groups before its own
    ["errors"],
    ["arrays"],
    ["counter"],
    ["disk", "plain"],
    ["formulas.record"],
    ["formulas.functions"],
    ["formulas.activations"],
    ["formulas.losses", "formulas.aggregators", "formulas.initializers"],
    ["core.layers"],
    ["core.architecture"],
    ["core.cost"],
    ["core.backward"],
    ["inspection.jacobians", "inspection.curvature", "inspection.paths", "inspection.collapse", "inspection.graph"],
    ["inspection.expression"],
    ["inspection.per_sample"],
    ["inspection.trace"],
    ["inspection.numeric", "inspection.formula_text", "inspection.rewritten", "inspection.problem"],
    ["inspection.checks", "inspection.torch_witness"],
    ["inspection.factors"],
    ["inspection.verify"],
    ["inspection.derivation"],
    ["training.optimizers", "training.schedules", "training.metrics"],
    ["engine.*"],
    ["training.loop"],
    ["training.lbfgs"],
    ["files"],
    ["tables.*"],
    ["network"],
    ["table_model"],
    ["ensemble"],
    ["report"],
    ["plots"],
    ["estimators", "estimators.*"],
    ["export", "export.*"],
    [""],  # the package, with the public names
    ["bench.*"],
    ["cli.*"],
    ["__main__"],
]
TABLES_MAY_USE = {"errors", "arrays", "counter", "disk", "plain"}
EMPTY = {"formulas", "core", "inspection", "training", "tables", "engine"}  # packages that only say what they hold

HEAVY = ["scipy", "sklearn", "matplotlib", "torch", "pyarrow", "numba", "pandas", "typer", "rich", "safetensors"]

PUBLIC = [
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "Aggregator",
    "ChainRuleError",
    "DataError",
    "DivergenceError",
    "MissingExtraError",
    "ModelFileError",
    "NotTrainedError",
    "OutputError",
    "ParameterError",
    "ShapeError",
    "Check",
    "Cost",
    "Dense",
    "Dropout",
    "Gradients",
    "Initializer",
    "Loss",
    "MLPClassifier",
    "MLPRegressor",
    "Network",
    "Penalty",
    "Plan",
    "Report",
    "Run",
    "Scale",
    "Schedule",
    "Snapshot",
    "TabularClassifier",
    "TabularRegressor",
    "activation",
    "activations",
    "aggregator",
    "aggregators",
    "initializer",
    "initializers",
    "load_snapshot",
    "loss",
    "losses",
    "save_snapshot",
    "schedule",
    "verify_pair",
]


def modules():
    """Name (without the package's) and file of every module."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


NAMES = dict(modules())


def group(name):
    """The place of a module in the order."""
    for number, names in enumerate(ORDER):
        if name in names or f"{name.partition('.')[0]}.*" in names:
            return number
    raise AssertionError(f"{name} has no place in the order of modules: add it to ORDER")


def imported(name, path):
    """The modules of the package that a module imports, wherever in it the import stands."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "chainrule":
                    yield alias.name.partition(".")[2]
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level == 0:
            top, _, base = (node.module or "").partition(".")
            if top != "chainrule":
                continue
        else:
            parents = package.split(".") if package else []
            assert node.level - 1 <= len(parents), f"{name} imports from outside the package"
            base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
        for alias in node.names:
            inner = f"{base}.{alias.name}".lstrip(".")
            yield inner if inner in NAMES else base


def test_resolution_of_imports_is_right():
    """Spot checks of the test's own reading."""
    assert {"arrays", "core.architecture", "files", "counter"} <= set(imported("network", NAMES["network"]))
    assert {"formulas.record", "arrays", "errors"} <= set(imported("formulas.losses", NAMES["formulas.losses"]))
    assert "formulas.losses" in set(imported("", NAMES[""]))
    assert len(NAMES) > 25 and all(name == "" or "__init__" not in name for name in NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != ""])
def test_modules_import_only_from_those_before_them(name):
    found = set(imported(name, NAMES[name]))
    if name in EMPTY:
        assert not found, f"{name}/__init__.py imports {found}"
        return
    family = name.partition(".")[0] if f"{name.partition('.')[0]}.*" in ORDER[group(name)] else None
    for other in found:
        if family and other.partition(".")[0] == family:
            continue  # within tables, the benchmark and the command line
        assert other not in EMPTY, f"{name} imports a package as a whole"
        assert group(other) < group(name), f"{name} imports {other}, which does not stand before it"
        assert family != "tables" or other in TABLES_MAY_USE, f"{name} imports {other}"


def test_modules_do_not_import_each_other_in_a_circle():
    """Within the groups that may, too."""
    graph = {name: {other for other in imported(name, path) if other} for name, path in NAMES.items() if name}
    while free := {name for name, others in graph.items() if not others & graph.keys() - {name}}:
        graph = {name: others for name, others in graph.items() if name not in free}
    assert not graph


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    environment = {"PYTHONPATH": str(ROOT.parent), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return set(result.stdout.split())


def test_import_loads_nothing_heavy():
    loaded = loaded_by("import chainrule")
    assert {"chainrule", "numpy"} <= loaded
    assert not loaded & set(HEAVY)


def test_training_and_prediction_load_nothing_heavy():
    """They are loaded when they are used, and the test sees it when they are."""
    fit = (
        "import chainrule as cr; cr.Network(1, [cr.Dense(2, {!r}), cr.Dense(1)]).fit([[1.0], [2.0]], [1, 2], epochs=1)"
    )
    assert not loaded_by(fit.format("tanh")) & set(HEAVY)
    assert loaded_by(fit.format("gelu")) & set(HEAVY) == {"scipy"}


def test_public_names():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    named = [alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(name for name in named if name and not name.startswith("_")) == sorted(PUBLIC)
    beyond = {
        name for name, value in vars(cr).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert beyond <= set(PUBLIC)
    assert cr.__version__.count(".") == 2


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_a_docstring_of_their_own(name):
    thing = getattr(cr, name)
    documented = inspect.getdoc(thing)
    assert documented and len(documented) > 20
    if inspect.isclass(thing):
        assert not documented.startswith(f"{name}("), "the signature that dataclasses put in the place of a docstring"


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isclass(getattr(cr, name))])
def test_public_methods_have_a_docstring(name):
    cls = getattr(cr, name)
    documented_once = {*vars(Layer), *vars(Optimizer)}  # what layers and optimizers share
    for attribute, value in vars(cls).items():
        method = inspect.isfunction(value) or isinstance(value, property | staticmethod)
        if method and not attribute.startswith("_") and attribute not in documented_once:
            assert inspect.getdoc(getattr(cls, attribute)), attribute


def test_every_module_says_what_it_is():
    for name, path in NAMES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name or "chainrule"
