"""scikit-learn estimators, trained and inspected by the core.

MLPClassifier and MLPRegressor are its own with more to choose: `vocabulary` says scikit-learn's words in the core's,
`base` is what both share, `exchange` goes to scikit-learn's own models and back. TabularClassifier and
TabularRegressor are `table_model` for data frames: `frames` brings them in, `tabular` is what both share.
"""

from .classifier import MLPClassifier as MLPClassifier
from .regressor import MLPRegressor as MLPRegressor
from .tabular_classifier import TabularClassifier as TabularClassifier
from .tabular_regressor import TabularRegressor as TabularRegressor
