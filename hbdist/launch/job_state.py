"""State of a job in one file of its folder, job.json, which several processes read and update.

Its keys are the fields of `Handle`, written at submission; `outcome`; `cancel`: a request to a local job's queue; `ranks`: ids
of a local job's processes while they run; `checkpoint`: the newest when the job last started. More in docs/contracts.md.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from hbdist.runs.outcome import Outcome, read_outcome
from hbdist.utils.files import locked, write_atomically
from hbdist.utils.stored import as_stored, read_stored_if_any

FILE = "job.json"
REMEDY = "Delete it; the job must then be submitted again."
NEW: dict[str, Any] = {"outcome": None, "cancel": False, "ranks": [], "checkpoint": ""}
"""State of a job that has not started."""


class JobFile(TypedDict, total=False):
    """Content of job.json."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # what another version wrote is kept

    folder: str
    cluster: str
    id: str
    command: Annotated[list[str], Field(min_length=1)]
    run: str | None
    submitted: float
    born: str
    outcome: dict[str, Any] | None
    cancel: bool
    ranks: list[int]
    checkpoint: str


ENDED, STARTED, CANCEL, BEGAN = "ended.json", "started.json", "cancel", "began.txt"
"""Files in which earlier versions kept the outcome, the ranks, the request to cancel and the checkpoint."""


def read_job(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's job.json; without a file, the state of a job that has not started.

    Raises:
        DataError: the file is damaged.
    """
    values: dict[str, Any] = dict(_read(folder / FILE))
    if "outcome" not in values:  # an earlier version's
        outcome = read_outcome(folder, ENDED)
        values |= {"outcome": asdict(outcome) if outcome else None, "ranks": _read(folder / STARTED).get("ranks", [])}
    return NEW | values


def update_job(folder: Path, /, *, unless_ended: bool = False, **changes: Any) -> None:
    """Change keys of a folder's job.json, if the folder exists."""
    if folder.is_dir():
        with locked(folder / FILE):
            values = read_job(folder)
            if not (unless_ended and values["outcome"]):
                write_atomically(folder / FILE, json.dumps(values | changes, indent=1))


def reset_job(folder: Path) -> None:
    """Forget how an earlier job of this folder ended."""
    for name in (ENDED, STARTED, CANCEL, BEGAN):
        (folder / name).unlink(missing_ok=True)
    if (folder / FILE).is_file():
        update_job(folder, **NEW)


def job_outcome(folder: Path) -> Outcome | None:
    """Return how the job of a folder ended; None if it has not."""
    outcome = read_job(folder)["outcome"]
    return as_stored(Outcome, outcome, where=f"{folder / FILE}, outcome,", remedy=REMEDY) if outcome else None


def end_job(folder: Path, outcome: Outcome) -> None:
    """Record how a job ended, unless its outcome is recorded already."""
    update_job(folder, unless_ended=True, outcome=asdict(outcome))


def cancel_job(folder: Path) -> None:
    """Record that a job was cancelled, whatever else it has recorded."""
    update_job(folder, outcome=asdict(Outcome.cancelled()))


def _read(path: Path) -> JobFile:
    return read_stored_if_any(JobFile, path, remedy=REMEDY) or {}
