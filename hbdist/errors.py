"""The errors that a user can meet. Each message says what was found, what was expected and what to do.

A fault of the program itself is an `assert` instead.
"""


class HbdistError(ValueError):
    """Mistake in the user's input. Its message is the whole report; no traceback is shown."""

    reported = False
    """True if rank 0 has the same error, and prints it for all."""


class ConfigError(HbdistError):
    """Impossible request in a config, an override, a recipe or a study."""


class DataError(HbdistError):
    """Missing, damaged or mislabelled shards, manifest, model folder or evaluation data."""


class ResumeError(HbdistError):
    """Run folder whose run this config cannot continue."""


class RunError(Exception):
    """Failure that no change of the input explains, but whose message is the whole report all the same: status 1."""


class NotFiniteError(RunError, FloatingPointError):
    """Infinities or NaNs among the numbers of a run."""


class WriteError(RunError, OSError):
    """File that could not be written, because the disk is full or read-only."""

    def __str__(self) -> str:
        return str(self.strerror)


class RankLostError(RunError, RuntimeError):
    """Rank that has died, is stopped or has never come."""
