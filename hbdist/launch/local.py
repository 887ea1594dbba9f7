"""Queue of jobs on this workstation: a process that outlives the submitting one and starts the ranks of each job in turn."""

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from types import FrameType
from uuid import uuid4

from hbdist.launch.handle import LIVE, LOGS, find_handle
from hbdist.launch.job_state import cancel_job, end_job, read_job, update_job
from hbdist.launch.snapshot import SUBMISSION
from hbdist.runs.outcome import INTERRUPTED, Outcome
from hbdist.runs.signals import STOP_SIGNALS
from hbdist.utils.stored import read_stored


@dataclass(frozen=True)
class StoredJob:
    """Entry of a queue in submission.json."""

    folder: str
    words: list[str]
    after: list[str]
    after_any: bool


@dataclass(frozen=True)
class StoredQueue:
    """Queue in submission.json."""

    jobs: list[StoredJob]
    at_once: int
    ranks: int
    gpus: int
    cpus: int | None


@dataclass(frozen=True)
class Submission:
    """Part of submission.json that the queue needs."""

    queue: StoredQueue


PAUSE = 0.1
"""Seconds between two checks of all jobs."""
GRACE = 30.0
"""Seconds of grace after a rank fails, before the others get SIGTERM; and once more before SIGKILL."""


@dataclass
class QueuedJob:
    """A job of this queue."""

    folder: Path
    words: list[str]
    after: list[str]
    """Folders of the jobs that must have ended before this one starts."""
    after_any: bool
    """Start however those jobs ended; otherwise only if they ended well."""
    ranks: list[Popen[bytes]] = field(default_factory=list)
    slot: int = -1
    """Index of its part of the GPUs."""
    ending_since: float | None = None
    """Time since which its ranks should be ending; None while they should run."""
    signalled: bool = False
    cancelled: bool = False
    ended: bool = False

    def read(self) -> None:
        """Read whether it has been cancelled, and whether it has ended."""
        job = read_job(self.folder)
        self.cancelled, self.ended = job["cancel"], job["outcome"] is not None

    def end(self, outcome: Outcome) -> None:
        """Record its outcome, unless it has done so itself."""
        end_job(self.folder, outcome)
        self.ended = True

    def may_start(self) -> bool:
        """Check that the jobs before it have ended; end it too if one of them ended badly."""
        for folder in self.after:
            handle = find_handle(folder)
            state = handle.state if handle else "unknown"
            if state in LIVE:
                return False
            if state != "done" and not self.after_any:
                self.end(Outcome.cancelled(f"cancelled: {folder}, which it waited for, is {state}"))
        return not self.ended

    def start(self, slot: int, ranks: int, gpus: int, cpus: int | None) -> None:
        """Start its ranks, each with a log of its own."""
        self.slot = slot
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = visible.split(",") if visible else [str(number) for number in range((slot + 1) * gpus)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"OMP_NUM_THREADS": str(cpus or max(1, (os.cpu_count() or 1) // ranks))} | dict(os.environ)
        shared["HBDIST_START"] = uuid4().hex
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(devices[slot * gpus : (slot + 1) * gpus])
        if ranks > 1:
            shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
            shared |= {"WORLD_SIZE": f"{ranks}", "LOCAL_WORLD_SIZE": f"{ranks}"}
        start = time.strftime("%Y%m%d-%H%M%S")
        (self.folder / LOGS).mkdir(exist_ok=True)
        command = [sys.executable, "-u", "-m", "hbdist.launch", "rank", str(self.folder), *self.words]
        for rank in range(ranks):
            environment = shared | ({"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} if ranks > 1 else {})
            with (self.folder / LOGS / f"{start}-rank{rank}.txt").open("ab") as log:
                process = Popen(command, env=environment, stdin=DEVNULL, stdout=log, stderr=STDOUT)
            self.ranks.append(process)
        update_job(self.folder, ranks=[rank.pid for rank in self.ranks])

    def has_ended(self) -> bool:
        """Check that all its ranks have ended; signal them if they take too long after one has failed or a stop."""
        codes = [rank.poll() for rank in self.ranks]
        if all(code is not None for code in codes):
            worst = max(codes, key=lambda code: (code not in (0, INTERRUPTED), abs(code or 0)))
            if worst and self.cancelled:  # it has recorded itself as interrupted
                cancel_job(self.folder)
            self.end(Outcome.of_status(worst or 0, f"its ranks ended with {codes}"))
            update_job(self.folder, ranks=[])
            return True
        if any(code not in (None, 0, INTERRUPTED) for code in codes):
            self.ending_since = self.ending_since or time.monotonic()
        if self.ending_since and time.monotonic() - self.ending_since > GRACE:
            self.signal_ranks(signal.SIGKILL if self.signalled else signal.SIGTERM)
        return False

    def signal_ranks(self, number: signal.Signals) -> None:
        """Make its ranks end; by SIGTERM, they save first."""
        self.ending_since, self.signalled = time.monotonic(), True
        for rank in self.ranks:
            if rank.poll() is None:
                rank.send_signal(number)


class Queue:
    """The jobs of one submission, in their order, at most `at_once` at the same time."""

    def __init__(self, jobs: list[QueuedJob], *, at_once: int, ranks: int, gpus: int, cpus: int | None) -> None:
        self.waiting, self.running = jobs, list[QueuedJob]()
        self.at_once, self.shape = at_once, (ranks, gpus, cpus)
        self.stopped = False

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal that asks this process to end."""
        self.stopped = True

    def run(self) -> None:
        """Run until all jobs have ended."""
        for number in STOP_SIGNALS:
            signal.signal(number, self.stop)
        while self.waiting or self.running:
            self.check_all()
            time.sleep(PAUSE)

    def check_all(self) -> None:
        """Check every job once: stop, end or start it."""
        for job in self.waiting + self.running:
            job.read()
            if (job.cancelled or self.stopped) and not job.signalled:
                job.signal_ranks(signal.SIGTERM)
            if job in self.waiting and job.cancelled:
                job.end(Outcome.cancelled())
            elif job in self.waiting and self.stopped:
                job.end(Outcome.interrupted("this workstation's queue was told to end"))
        self.running = [job for job in self.running if not job.has_ended()]
        for job in list(self.waiting):
            slots = set(range(self.at_once)) - {one.slot for one in self.running}
            if slots and job.may_start():
                job.start(min(slots), *self.shape)
                self.running.append(job)
            if job.ended or job.ranks:
                self.waiting.remove(job)


def run_queue(submission: str) -> None:
    """Run the jobs of a submission's queue."""
    queue = read_stored(Submission, Path(submission, SUBMISSION), remedy="Submit again.").queue
    Queue(
        [QueuedJob(Path(job.folder), job.words, job.after, job.after_any) for job in queue.jobs],
        at_once=queue.at_once,
        ranks=queue.ranks,
        gpus=queue.gpus,
        cpus=queue.cpus,
    ).run()
