"""The three errors a user can meet. Each message says what was found, what was expected and what to do.

Whatever is the program's own fault is an `assert` instead.
"""


class HbdistError(ValueError):
    """Something in the user's input is wrong; the message is the whole report, no traceback is shown."""


class ConfigError(HbdistError):
    """A config, an override or a recipe asks for something that cannot be."""


class DataError(HbdistError):
    """Shards, a manifest, a model folder or evaluation data are missing, damaged or not what they claim to be."""


class ResumeError(HbdistError):
    """A run folder holds a run that this config cannot continue."""
