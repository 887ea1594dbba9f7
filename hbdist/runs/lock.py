"""Whose a run's folder is while the run lives: `running.json` in it, kept by rank 0.

A second start is refused as long as the first lives. A holder that was killed does not count: its process is looked for on
its machine, its job in Slurm's queue, and where neither can be done it counts as dead once its sign of life is old.
"""

import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from hbdist.errors import ConfigError, ResumeError
from hbdist.utils.files import write_atomically
from hbdist.utils.processes import born, machine
from hbdist.utils.slurm import own_job, state_of

FILE = "running.json"
BEAT = 30.0
"""Seconds between two signs of life, the file's time."""
DEAD_AFTER = 600.0
"""Seconds without one after which a holder on another machine counts as dead."""


@dataclass(frozen=True)
class LockOwner:
    """A process that has a run folder to itself."""

    host: str
    machine: str
    """What tells where its process id means something: the boot of the machine, and the container."""
    pid: int
    born: str
    """When the process began, as the system counts it: a process id is given again."""
    job: str = ""
    """Slurm's number of the job; empty outside of Slurm."""
    restarts: int = 0
    """How often Slurm had put the job back into the queue."""

    @classmethod
    def here(cls) -> "LockOwner":
        """This process."""
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(host, machine(), os.getpid(), born(os.getpid()), own_job(), restarts)

    @property
    def name(self) -> str:
        """Who it is, in words."""
        return f"{f'job {self.job}, ' if self.job else ''}process {self.pid} on {self.host}"

    def alive(self, path: Path) -> bool:
        """Whether it lives, as far as can be known from here; `path` is its running.json."""
        if self.machine == machine():
            return bool(born(self.pid)) and born(self.pid) == self.born
        if self.job and self.job == own_job() and self.restarts != LockOwner.here().restarts:
            return False  # Slurm starts a job again only when it has ended
        state = state_of(self.job) if self.job else None
        return _fresh(path) if state is None else state == "running"


def _fresh(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < DEAD_AFTER
    except FileNotFoundError:
        return False


class RunLock:
    """A run folder held by this process from `claim` to `release`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._ended = threading.Event()

    @classmethod
    def claim(cls, folder: Path) -> "RunLock":
        """Take the folder.

        Raises:
            ConfigError: nothing can be written there.
            ResumeError: another process holds it, and lives.
        """
        hold, mine = cls(folder), folder / f".{FILE}.{uuid4().hex[:8]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(mine, json.dumps(asdict(LockOwner.here())))
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written: {error.strerror}. Set run.folder to a folder that this machine can write to."
            ) from None
        try:
            while not _link(mine, hold.path):
                _clear(hold.path, refuse_while_locked(folder))
        finally:
            mine.unlink(missing_ok=True)
        threading.Thread(target=hold._beat, name="hold", daemon=True).start()
        return hold

    def release(self) -> None:
        """Give the folder back; once is enough, twice does no harm."""
        self._ended.set()
        if _read(self.path) == LockOwner.here():
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                os.utime(self.path)
            except OSError:
                continue  # a file system that is away for a while


def refuse_while_locked(folder: Path) -> LockOwner | None:
    """The dead holder of a folder, if there is one.

    Raises:
        ResumeError: a living process holds it.
    """
    holder = owner_of(folder)
    if holder and holder.alive(folder / FILE):
        raise ResumeError(
            f"{folder} is being worked on by {holder.name}. Wait until it has ended, stop it"
            f"{f' (scancel {holder.job})' if holder.job else ''}, or give this run a folder of its own (run.folder=…)."
        )
    return holder


def owner_of(folder: Path) -> LockOwner | None:
    """Who has put itself down as the holder of a run folder, alive or not."""
    return _read(folder / FILE)


def _read(path: Path) -> LockOwner | None:
    try:
        return LockOwner(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name, unless that name is taken: one of many succeeds, also over NFS."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if target.exists():
            return False
        source.rename(target)
    return True


def _clear(path: Path, dead: LockOwner | None) -> None:
    """Take a dead holder's file away; if another start was quicker, and this is its file, put it back."""
    aside = path.with_name(f".{FILE}.{uuid4().hex[:8]}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != dead:
        _link(aside, path)
    aside.unlink(missing_ok=True)
