"""scikit-learn's own tests of its networks, with these in their place: the change of one import.

The independent source is the module of tests that the installed scikit-learn brings.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from sklearn import neural_network

import chainrule as cr

DIFFERENT = {  # test → why it is not for these estimators
    "test_fit": "sets and calls what is private",
    "test_gradient": "calls what is private",
    "test_learning_rate_warmstart": "looks at the private optimizer",
    "test_adaptive_learning_rate": "looks at the private optimizer",
    "test_n_iter_no_change": "looks at a private count",
    "test_n_iter_no_change_inf": "looks at a private count",
    "test_mlp_partial_fit_after_fit": "expects that partial_fit refuses early stopping",
    "test_mlp_diverging_loss": "expects nan where DivergenceError is raised",
    "test_nonfinite_params": "expects another text of the ValueError that is raised",
    "test_early_stopping_stratified": "expects True in the text of the error, for the class 1",
}


def with_ours_in_their_place() -> ModuleType:
    """The module of tests, with both names standing for chainrule's classes."""
    folder = Path(str(neural_network.__file__)).parent / "tests"
    spec = importlib.util.spec_from_file_location("their_tests", folder / "test_mlp.py")
    if spec is None or spec.loader is None or not (folder / "test_mlp.py").exists():
        pytest.skip("scikit-learn is installed without its tests", allow_module_level=True)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    names = ("MLPClassifier", "MLPRegressor")
    theirs = [getattr(neural_network, name) for name in names]
    try:
        for name in names:
            setattr(neural_network, name, getattr(cr, name))
        spec.loader.exec_module(module)
    finally:
        for name, kind in zip(names, theirs, strict=True):
            setattr(neural_network, name, kind)
    return module


@pytest.fixture
def global_random_seed():
    """What scikit-learn's own configuration of pytest has."""
    return 42


for _name, _test in vars(with_ours_in_their_place()).items():
    if _name.startswith("test_"):
        _reason = DIFFERENT.get(_name)
        globals()[_name] = pytest.mark.skip(reason=_reason)(_test) if _reason else _test
