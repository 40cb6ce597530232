"""Settings of the whole suite: property tests draw the same cases everywhere, and nothing measures time."""

import os
import tempfile

# Two test processes with two BLAS threads each would wait for one another on two cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Passes are compiled once for a run of the suite, which the processes share, and never taken from an earlier one.
os.environ.setdefault("CHAINRULE_CACHE", tempfile.mkdtemp(prefix="chainrule-tests-"))

from hypothesis import settings

settings.register_profile("same-everywhere", derandomize=True, deadline=None)
settings.load_profile("same-everywhere")
