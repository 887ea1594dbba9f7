"""The errors that a user can meet. Each message says what was found, what was expected and what to do.

A fault of the program itself is an `assert` instead.
"""


class HbdistError(ValueError):
    """Mistake in the user's input. Its message is the whole report; no traceback is shown."""


class ConfigError(HbdistError):
    """Impossible request in a config, an override, a recipe or a study."""


class DataError(HbdistError):
    """Missing, damaged or mislabelled shards, manifest, model folder or evaluation data."""


class ResumeError(HbdistError):
    """Run folder whose run this config cannot continue."""
