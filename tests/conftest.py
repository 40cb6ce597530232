"""Settings of the whole suite: property tests draw the same cases everywhere, and nothing measures time."""

from hypothesis import settings

settings.register_profile("same-everywhere", derandomize=True, deadline=None)
settings.load_profile("same-everywhere")
