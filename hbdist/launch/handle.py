"""What was submitted: its state, its end, its logs; found again in its folder, by any process, at any time later."""

import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from hbdist.launch.command import Command
from hbdist.runs.outcome import ENDED, Outcome, note_outcome, read_outcome
from hbdist.utils.files import write_atomically
from hbdist.utils.processes import born
from hbdist.utils.slurm import TIMEOUT, reason_of, state_of

JOB, STARTED, CANCEL = "job.json", "started.json", "cancel"
"""In a job's folder: the handle; what a local one runs as; the wish that a local one ends."""
LOGS = "logs"
State = Literal["pending", "running", "done", "failed", "invalid", "interrupted", "cancelled", "unknown"]
LIVE = ("pending", "running")
LONGEST_WAIT = 10.0
"""Seconds between two looks at a job that takes long."""
LOST = 3
"""Looks in a row at which nobody knows of a job, after which it counts as lost."""


class JobError(RuntimeError):
    """A job did not end well; the message says how it ended and where its logs are."""


@dataclass(frozen=True)
class Handle:
    """One submitted command. `find_handle(folder)` gives it back."""

    folder: Path
    """The job's: of a training that of its run, which holds its outcome.json."""
    cluster: str
    id: str
    """Slurm's number ("17", or "17_3" of an array), else the id of the process that runs the job."""
    command: Command
    run: Path | None
    """The run that it trains; None where it trains none."""
    submitted: float
    """Seconds since 1970."""
    born: str = ""
    """When that process began, as the system counts it."""

    def write(self) -> Self:
        """Put it down in the job's folder."""
        # Relative to each other, so that a folder may be moved.
        run = os.path.relpath(self.run, self.folder) if self.run else None
        values = asdict(self) | {"folder": str(self.folder), "command": list(self.command.words), "run": run}
        write_atomically(self.folder / JOB, json.dumps(values, indent=1))
        return self

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, as it said itself: the run's outcome.json first; None where it has not."""
        run, job = read_outcome(self.run) if self.run else None, read_outcome(self.folder, ENDED)
        saved_when_cancelled = job and job.state == "cancelled" and not (run and run.state == "done")
        return job if saved_when_cancelled else run or job

    @property
    def state(self) -> State:
        """As the job itself says; else, and whether it has been started again, as its scheduler says. Seconds, at worst."""
        outcome = self.outcome
        if outcome and outcome.state in ("done", "invalid", "cancelled"):
            return outcome.state
        now = self._scheduled()
        if now in LIVE or not outcome:
            return now
        return outcome.state

    def _scheduled(self) -> State:
        if self.cluster == "slurm":
            state = state_of(self.id)
            return "unknown" if state is None or state == "gone" else state
        if not self.born or born(int(self.id)) != self.born:
            return "interrupted"
        if (self.folder / STARTED).is_file():
            return "running"
        return "interrupted" if self.outcome else "pending"

    @property
    def reason(self) -> str:
        """Why it waits, where Slurm says so (`squeue.reason_of`); else empty."""
        return reason_of(self.id) if self.cluster == "slurm" else ""

    def result(self, timeout: float | None = None) -> Outcome:
        """How it ended, once it has ended well.

        Raises:
            JobError: it ended otherwise, or nobody knows of it any more.
            TimeoutError: after `timeout` seconds it has not ended.
        """
        begun, pause, unknown = time.monotonic(), 0.2, 0
        while (state := self.state) in LIVE or (state == "unknown" and unknown < LOST):
            unknown = unknown + 1 if state == "unknown" else 0
            left = timeout - (time.monotonic() - begun) if timeout is not None else pause
            if left <= 0:
                raise TimeoutError(f"{self} is {state} after {timeout:g} s. Its logs are in {self.folder / LOGS}.")
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_WAIT)
        outcome = self.outcome
        if state == "done":
            return outcome or Outcome.done(f"{self} is done")
        said = f": {outcome.message}" if outcome else ""
        raise JobError(f"{self} is {state}{said}. Its logs are in {self.folder / LOGS}.")

    def cancel(self) -> None:
        """Take it out of the queue, or tell it to end: a run saves first. What has ended stays as it is."""
        if self.state not in (*LIVE, "unknown"):
            return
        if self.cluster == "slurm":
            subprocess.run(["scancel", self.id], capture_output=True, timeout=TIMEOUT, check=False)
            note_outcome(self.folder, Outcome("cancelled", 1, "cancelled"), ENDED)
        else:
            (self.folder / CANCEL).touch()

    @property
    def logs(self) -> list[Path]:
        """What its ranks print, one file each, oldest start first."""
        return sorted((self.folder / LOGS).glob("*-rank*.txt"), key=lambda path: path.name)

    def __str__(self) -> str:
        return f"{'job' if self.cluster == 'slurm' else 'process'} {self.id} ({self.folder})"


def find_handle(folder: str | Path) -> Handle | None:
    """The newest job of a folder; None where there is none."""
    try:
        values = json.loads((Path(folder) / JOB).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    run = Path(os.path.normpath(Path(folder, values["run"]).absolute())) if values["run"] else None
    return Handle(
        **values | {"folder": Path(folder).absolute(), "run": run, "command": Command(tuple(values["command"]))}
    )
