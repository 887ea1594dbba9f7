"""How a run ended: outcome.json in its folder, which is the truth everywhere."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hbdist.errors import HbdistError
from hbdist.utils.files import write_atomically

FILE = "outcome.json"
INTERRUPTED = 75
"""Exit status of a run that has saved its state and is to be started again."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended; outcome.json holds it, and it is the truth everywhere."""

    state: Literal["done", "failed", "invalid", "interrupted", "cancelled"]
    """cancelled: a job that was taken out of the queue; no run's own outcome.json says so."""
    code: int
    message: str

    @classmethod
    def done(cls, message: str) -> "Outcome":
        return cls("done", 0, message)

    @classmethod
    def failed(cls, error: BaseException) -> "Outcome":
        return cls("failed", 1, f"{type(error).__name__}: {error}")

    @classmethod
    def invalid(cls, error: HbdistError) -> "Outcome":
        return cls("invalid", 2, str(error))

    @classmethod
    def interrupted(cls, message: str) -> "Outcome":
        return cls("interrupted", INTERRUPTED, message)

    @classmethod
    def of_status(cls, code: int, message: str) -> "Outcome":
        """That of a command that ended with this exit status."""
        match code:
            case 0:
                return cls.done(message)
            case 2:
                return cls("invalid", code, message)
            case _:
                return cls("interrupted" if code == INTERRUPTED else "failed", code, message)


def note_outcome(folder: Path, outcome: Outcome, name: str = FILE) -> None:
    """Write outcome.json (or another file like it), where there is a folder to hold it."""
    if folder.is_dir():
        write_atomically(folder / name, json.dumps(asdict(outcome)))


def outcome_of(folder: Path) -> str | None:
    """The state in a run folder's outcome.json, or None where it has not ended."""
    outcome = read_outcome(folder)
    return outcome.state if outcome else None


def read_outcome(folder: Path, name: str = FILE) -> Outcome | None:
    """What outcome.json (or another file like it) says, or None where there is none."""
    try:
        return Outcome(**json.loads((folder / name).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None


ENDED = "ended.json"
"""How a job ended, in its folder: what outcome.json is for a run, also of jobs that are no runs, or never got that far."""
