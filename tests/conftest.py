"""Settings of the whole suite."""

from hypothesis import settings

# Times vary on shared machines, and a suite that finds something new on every run cannot guard a merge.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")
