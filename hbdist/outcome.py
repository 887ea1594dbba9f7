"""How a run ended: outcome.json in its folder, which is the truth everywhere."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hbdist.atomic import write_atomically
from hbdist.errors import HbdistError


@dataclass(frozen=True)
class Outcome:
    """How a run ended; outcome.json holds it, and it is the truth everywhere."""

    state: Literal["done", "failed", "invalid", "interrupted"]
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
        return cls("interrupted", 75, message)


def note_outcome(folder: Path, outcome: Outcome) -> None:
    """Write outcome.json, where there is a run folder to hold it."""
    if folder.is_dir():
        write_atomically(folder / "outcome.json", json.dumps(asdict(outcome)))


def outcome_of(folder: Path) -> str | None:
    """The state in a run folder's outcome.json, or None where it has not ended."""
    path = folder / "outcome.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["state"]) if path.is_file() else None
