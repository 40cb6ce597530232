"""The functions that formulas call as `xp` in compiled loops over float64 numbers."""

import numpy as np

from .elementary import build

globals().update(build(np.float64))
