"""Jobs on this workstation: a process that outlives whoever submitted, and starts each job's ranks when it is its turn."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from hbdist.launch.handle import CANCEL, LIVE, LOGS, STARTED, find_handle
from hbdist.runs.outcome import ENDED, INTERRUPTED, Outcome, note_outcome, read_outcome
from hbdist.runs.signals import STOP_SIGNALS
from hbdist.utils.files import write_atomically

PAUSE = 0.1
"""Seconds between two looks."""
MERCY = 30.0
"""Seconds that ranks have to end, first by themselves when another has failed, then after a SIGTERM."""
QUEUE = "queue.json"
"""In a submission's folder: what there is to do, see `Task`."""


@dataclass
class Task:
    """A job of this queue."""

    folder: str
    words: list[str]
    after: list[str]
    """Folders of the jobs that must have ended before."""
    after_any: bool
    """However they ended; else well."""
    ranks: list[subprocess.Popen[bytes]] = field(default_factory=list)
    slot: int = -1
    """Which part of the GPUs it has."""
    ending_since: float | None = None
    """When its ranks were told, or had, to end."""
    told: bool = False

    @property
    def place(self) -> Path:
        return Path(self.folder)

    def may_start(self) -> bool:
        """What it waits for has ended; if it ended badly, so has this."""
        for folder in self.after:
            handle = find_handle(folder)
            state = handle.state if handle else "unknown"
            if state in LIVE:
                return False
            if state != "done" and not self.after_any:
                self.end(Outcome("cancelled", 1, f"cancelled: {folder}, which it waited for, is {state}"))
        return not self.ended

    def end(self, outcome: Outcome) -> None:
        """Note how it ended, unless it has done so itself."""
        if not self.ended:
            note_outcome(self.place, outcome, ENDED)

    @property
    def cancelled(self) -> bool:
        return (self.place / CANCEL).exists()

    @property
    def ended(self) -> bool:
        return read_outcome(self.place, ENDED) is not None

    def start(self, slot: int, tasks: int, gpus: int, cpus: int | None) -> None:
        """Start its ranks, each with a log of its own."""
        self.slot = slot
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices = visible.split(",") if visible else [str(number) for number in range((slot + 1) * gpus)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        threads = str(cpus or max(1, (os.cpu_count() or 1) // tasks))
        shared = {"OMP_NUM_THREADS": threads} | dict(os.environ)
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(devices[slot * gpus : (slot + 1) * gpus])
        start = time.strftime("%Y%m%d-%H%M%S")
        (self.place / LOGS).mkdir(exist_ok=True)
        for rank in range(tasks):
            own = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{tasks}", "LOCAL_WORLD_SIZE": f"{tasks}"}
            own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
            environment = shared | (own if tasks > 1 else {})
            with (self.place / LOGS / f"{start}-rank{rank}.txt").open("ab") as log:
                command = [sys.executable, "-u", "-m", "hbdist.launch", "rank", self.folder, *self.words]
                self.ranks.append(
                    subprocess.Popen(
                        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                    )
                )
        write_atomically(self.place / STARTED, json.dumps({"ranks": [rank.pid for rank in self.ranks]}))

    def look(self) -> bool:
        """Whether all its ranks have ended; hurry them where one has failed or it is to end."""
        codes = [rank.poll() for rank in self.ranks]
        if all(code is not None for code in codes):
            worst = max(codes, key=lambda code: (code not in (0, INTERRUPTED), abs(code or 0)))
            if worst and self.cancelled:  # it has noted itself that it was interrupted
                note_outcome(self.place, Outcome("cancelled", 1, "cancelled"), ENDED)
            self.end(Outcome.of_status(worst or 0, f"its ranks ended with {codes}"))
            (self.place / STARTED).unlink(missing_ok=True)
            return True
        if any(code not in (None, 0, INTERRUPTED) for code in codes):
            self.ending_since = self.ending_since or time.monotonic()
        if self.ending_since and time.monotonic() - self.ending_since > MERCY:
            self.signal(signal.SIGKILL if self.told else signal.SIGTERM)
            self.ending_since, self.told = time.monotonic(), True
        return False

    def stop(self) -> None:
        """Tell its ranks to save and end."""
        if not self.told:
            self.signal(signal.SIGTERM)
            self.ending_since, self.told = time.monotonic(), True

    def signal(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            if rank.poll() is None:
                rank.send_signal(number)


class Queue:
    """The jobs of one submission, in their order, at most `at_once` at the same time."""

    def __init__(self, tasks: list[Task], *, at_once: int, ranks: int, gpus: int, cpus: int | None) -> None:
        self.waiting, self.running = tasks, list[Task]()
        self.at_once, self.ranks, self.gpus, self.cpus = at_once, ranks, gpus, cpus
        self.stopping = False

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Somebody wants this process to end."""
        self.stopping = True

    def run(self) -> None:
        """Until all have ended."""
        for number in STOP_SIGNALS:
            signal.signal(number, self.stop)
        while self.waiting or self.running:
            self.turn()
            time.sleep(PAUSE)

    def turn(self) -> None:
        """Look at all jobs once."""
        for task in self.waiting + self.running:
            if task.cancelled or self.stopping:
                task.stop()
            if task in self.waiting and task.cancelled:
                task.end(Outcome("cancelled", 1, "cancelled"))
            elif task in self.waiting and self.stopping:
                task.end(Outcome.interrupted("this workstation's queue was told to end"))
        self.running = [task for task in self.running if not task.look()]
        for task in list(self.waiting):
            slots = set(range(self.at_once)) - {one.slot for one in self.running}
            if slots and task.may_start():
                task.start(min(slots), self.ranks, self.gpus, self.cpus)
                self.running.append(task)
            if task.ended or task.ranks:
                self.waiting.remove(task)


def work_off(submission: str) -> int:
    """Run the jobs of a submission's queue."""
    values = json.loads(Path(submission, QUEUE).read_text(encoding="utf-8"))
    tasks = [Task(**task) for task in values.pop("tasks")]
    Queue(tasks, **values).run()
    return 0
