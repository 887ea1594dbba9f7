"""Handle of a submitted job: its state, its outcome, its logs. Any process finds it in the job's folder, at any later time."""

import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from hbdist.launch.command import Command
from hbdist.launch.job_state import cancel_job, job_outcome, read_job, update_job
from hbdist.runs.outcome import Outcome, read_outcome
from hbdist.utils.processes import process_start
from hbdist.utils.slurm import TIMEOUT, reason_of, state_of

LOGS = "logs"
State = Literal["pending", "running", "done", "failed", "invalid", "interrupted", "cancelled", "unknown"]
LIVE = ("pending", "running")
LONGEST_PAUSE = 10.0
"""Most seconds between two checks of a job's state."""
LOST_AFTER = 3
"""Number of checks in a row without any information after which a job counts as lost."""


class JobError(RuntimeError):
    """Unsuccessful job; the message says how it ended and where its logs are."""


@dataclass(frozen=True)
class Handle:
    """One submitted command. `find_handle(folder)` returns it again."""

    folder: Path
    """Folder of the job; for a training, the folder of its run."""
    cluster: str
    id: str
    """Slurm's number ("17", or "17_3" in an array), else the id of the process that runs the job."""
    command: Command
    run: Path | None
    """Folder of the run that it trains; None if it trains none."""
    submitted: float
    """Time of the submission, in seconds since 1970."""
    born: str = ""
    """Time at which that process began (see `processes.process_start`)."""

    def write(self) -> Self:
        """Write it into the job's folder."""
        # Relative to each other, so that a folder may be moved.
        run = os.path.relpath(self.run, self.folder) if self.run else None
        values = asdict(self) | {"folder": str(self.folder), "command": list(self.command.words), "run": run}
        update_job(self.folder, **values)
        return self

    @property
    def outcome(self) -> Outcome | None:
        """Recorded outcome: the run's, else the job's; None until it has ended."""
        run, job = read_outcome(self.run) if self.run else None, job_outcome(self.folder)
        saved_when_cancelled = job and job.state == "cancelled" and not (run and run.state == "done")
        return job if saved_when_cancelled else run or job

    @property
    def state(self) -> State:
        """State from the recorded outcome and from the scheduler, which may have started it again. Takes seconds at worst."""
        outcome = self.outcome
        if outcome and outcome.state in ("done", "invalid", "cancelled"):
            return outcome.state
        now = self._scheduled_state()
        return outcome.state if outcome and now not in LIVE else now

    def _scheduled_state(self) -> State:
        if self.cluster == "slurm":
            state = state_of(self.id)
            return "unknown" if state is None or state == "gone" else state
        if not self.born or process_start(int(self.id)) != self.born:
            return "interrupted"
        job = read_job(self.folder)
        return "running" if job["ranks"] else "interrupted" if job["outcome"] else "pending"

    @property
    def reason(self) -> str:
        """Reason why it waits, if Slurm gives one (`slurm.reason_of`); else empty."""
        return reason_of(self.id) if self.cluster == "slurm" else ""

    def result(self, timeout: float | None = None) -> Outcome:
        """Wait until it has ended, and return its outcome.

        Raises:
            JobError: it ended badly, or nothing knows of it any more.
            TimeoutError: it has not ended after `timeout` seconds.
        """
        start, pause, unknown = time.monotonic(), 0.2, 0
        while (state := self.state) in LIVE or (state == "unknown" and unknown < LOST_AFTER):
            unknown = unknown + 1 if state == "unknown" else 0
            left = timeout - (time.monotonic() - start) if timeout is not None else pause
            if left <= 0:
                raise TimeoutError(f"{self} is {state} after {timeout:g} s. Its logs are in {self.folder / LOGS}.")
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE)
        outcome = self.outcome
        if state == "done":
            return outcome or Outcome.done(f"{self} is done")
        reason = f": {outcome.message}" if outcome else ""
        raise JobError(f"{self} is {state}{reason}. Its logs are in {self.folder / LOGS}.")

    def cancel(self) -> None:
        """Take it out of the queue, or make it stop: a run saves first. A job that has ended stays as it is."""
        if self.state not in (*LIVE, "unknown"):
            return
        if self.cluster == "slurm":
            subprocess.run(["scancel", self.id], capture_output=True, timeout=TIMEOUT, check=False)
            cancel_job(self.folder)
        else:
            update_job(self.folder, cancel=True)

    @property
    def logs(self) -> list[Path]:
        """Logs of its ranks, one file per rank and start, oldest start first."""
        return sorted((self.folder / LOGS).glob("*-rank*.txt"), key=lambda path: path.name)

    def __str__(self) -> str:
        return f"{'job' if self.cluster == 'slurm' else 'process'} {self.id} ({self.folder})"


def find_handle(folder: str | Path) -> Handle | None:
    """Return the newest job of a folder; None if it has none."""
    folder = Path(folder).absolute()
    job = read_job(folder)
    if "id" not in job:
        return None
    run = Path(os.path.normpath(folder / job["run"])) if job["run"] else None
    command = Command(tuple(job["command"]))
    return Handle(folder, job["cluster"], job["id"], command, run, job["submitted"], job.get("born", ""))
