"""Outcome of a run, recorded in outcome.json in its folder, whatever a launcher makes of its exit status."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hbdist.errors import DataError, HbdistError, RunError, without_secrets
from hbdist.utils.files import write_atomically
from hbdist.utils.stored import read_stored_if_any

FILE = "outcome.json"
INTERRUPTED = 75
"""Exit status of a run that has saved its state and should be started again."""


@dataclass(frozen=True)
class Outcome:
    """End of a run or a job: its state, its exit status and a sentence."""

    state: Literal["done", "failed", "invalid", "interrupted", "cancelled"]
    """State at the end. Only jobs are "cancelled"; a run that was cancelled has saved and is "interrupted"."""
    code: int
    message: str

    @classmethod
    def done(cls, message: str) -> "Outcome":
        return cls("done", 0, message)

    @classmethod
    def failed(cls, error: BaseException) -> "Outcome":
        message = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        return cls("failed", 1, message)

    @classmethod
    def invalid(cls, error: HbdistError) -> "Outcome":
        return cls("invalid", 2, str(error))

    @classmethod
    def interrupted(cls, message: str) -> "Outcome":
        return cls("interrupted", INTERRUPTED, message)

    @classmethod
    def cancelled(cls, message: str = "cancelled") -> "Outcome":
        return cls("cancelled", 1, message)

    @classmethod
    def of_status(cls, code: int, message: str) -> "Outcome":
        """Return the outcome of a command that ended with this exit status."""
        states = {0: "done", 2: "invalid", INTERRUPTED: "interrupted"}
        return cls(states.get(code, "failed"), code, message)  # type: ignore[arg-type]


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write outcome.json, if the run's folder exists."""
    if folder.is_dir():
        write_atomically(folder / FILE, json.dumps(asdict(outcome) | {"message": without_secrets(outcome.message)}))


def outcome_state(folder: Path) -> str | None:
    """Return the state in a run's outcome.json; None if the run has not ended, or if the file is damaged: the run then ends
    once more, and writes it again."""
    with suppress(DataError):
        outcome = read_outcome(folder)
        return outcome.state if outcome else None
    return None


def read_outcome(folder: Path, name: str = FILE) -> Outcome | None:
    """Read a run's outcome.json; None if the run has not ended.

    Raises:
        DataError: the file is damaged.
    """
    remedy = f"Delete {name}; the next start of the run or the job writes it again."
    return read_stored_if_any(Outcome, folder / name, remedy=remedy)
