"""The errors that a user can meet. Each message says what was found, what was expected and what to do.

A fault of the program itself is an `assert` instead.
"""

import re

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/\"'<>?#]*@")
_SIGNED = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>?]*\?)[^\s\"'<>#]*"
    r"(?:signature|sig|token|credential|accesskeyid|password|secret|key)=[^\s\"'<>#]*",
    re.IGNORECASE,
)
HIDDEN = "***"


def without_secrets(text: str) -> str:
    """Return a text whose addresses have no user, no password and no signed query: these are for the store alone."""
    return _SIGNED.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


class HbdistError(ValueError):
    """Mistake in the user's input. Its message is the whole report, without secrets; no traceback is shown."""

    reported = False
    """True if rank 0 has the same error, and prints it for all."""

    def __str__(self) -> str:
        return without_secrets(super().__str__())


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
