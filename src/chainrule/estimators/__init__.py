"""scikit-learn estimators: its MLPClassifier and MLPRegressor with more to choose, trained and inspected by the core.

`vocabulary` says scikit-learn's words in the core's, `base` is what both share, `exchange` goes to scikit-learn's own
models and back.
"""

from .classifier import MLPClassifier as MLPClassifier
from .regressor import MLPRegressor as MLPRegressor
