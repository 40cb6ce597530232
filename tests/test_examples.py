"""Everything that the documentation shows is run: the examples as files, the README's Python as a doctest."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPECTED = {
    "and_gate.py": "all right: True",
    "absolute_value.py": "x = -3.0: relu(x) + relu(-x) = 3.0",
    "threshold_networks.py": "{0: 0, 1: 0, 3: 1, 5: 0, 3.5: 1}",
    "custom_activation.py": "gradient agrees with differences: True",
    "four_forms.py": "rows instead of tensors",
    "regression.py": "test RMSE",
    "classification.py": "the same after saving and loading: True",
    "worked_examples.py": "All fourteen agree.",
}


def test_every_example_is_listed():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXPECTED)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"examples/{name}" in readme for name in EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name):
    if name in ("regression.py", "classification.py"):
        pytest.importorskip("sklearn")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert EXPECTED[name] in done.stdout


def test_readme():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False, encoding="utf-8")
    assert result.attempted >= 15 and result.failed == 0


def test_readme_commands_use_flags_that_exist():
    from typer.main import get_command

    from chainrule.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "chainrule " in line]
    shown = [line.split("#")[0].split("chainrule ", 1)[1].split() for line in lines if line.startswith(("$ ", "chain"))]
    assert len(shown) >= 6
    for name, *words in shown:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known
