"""Settings of the whole suite: property tests draw the same cases everywhere, and nothing measures time."""

import os

# Two test processes with two BLAS threads each would wait for one another on two cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("same-everywhere", derandomize=True, deadline=None)
settings.load_profile("same-everywhere")
