"""Lock file of a run folder, `running.json`: rank 0 owns the folder, and a second process is refused while the first is alive.

The lock of a killed owner does not count: its process is looked up on its machine, its job in Slurm's queue; where neither is
possible, the owner counts as dead when its last heartbeat is old.

A living owner can be taken for dead (its machine slept, its file system was away), so that another start has its folder. It
looks at every heartbeat, and before each checkpoint, whether the folder is still its own, and stops if it is not.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hbdist.errors import ConfigError, DataError, ResumeError
from hbdist.utils.files import create, identity, locked, remove_unchanged
from hbdist.utils.leftovers import remove_leftovers
from hbdist.utils.processes import machine_id, process_start
from hbdist.utils.slurm import own_job, state_of
from hbdist.utils.stored import read_stored_if_any

FILE = "running.json"
HEARTBEAT_S = 30.0
"""Seconds between two heartbeats, which update the file's modification time."""
DEAD_AFTER = 600.0
"""Seconds without a heartbeat after which an owner on another machine counts as dead."""


@dataclass(frozen=True)
class LockOwner:
    """Process that owns a run folder."""

    host: str
    machine: str
    """Identity of the boot of the machine and of the container, within which the process id is valid."""
    pid: int
    born: str
    """Time at which the process began (see `processes.process_start`), because process ids are reused."""
    job: str = ""
    """Slurm's number of the job; empty outside of Slurm."""
    restarts: int = 0
    """Number of times that Slurm had put the job back into the queue."""

    @classmethod
    def here(cls) -> "LockOwner":
        """Return this process."""
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(host, machine_id(), os.getpid(), process_start(os.getpid()), own_job(), restarts)

    @property
    def name(self) -> str:
        """Description for messages."""
        return f"{f'job {self.job}, ' if self.job else ''}process {self.pid} on {self.host}"

    def alive(self, path: Path) -> bool:
        """Check that the owner is alive, as far as can be known from here; `path` is its running.json."""
        if self.machine == machine_id():
            return bool(process_start(self.pid)) and process_start(self.pid) == self.born
        if self.job and self.job == own_job() and self.restarts != LockOwner.here().restarts:
            return False  # Slurm starts a job again only after it has ended
        state = state_of(self.job) if self.job else None
        return _has_recent_heartbeat(path) if state is None else state == "running"


class RunLock:
    """Ownership of a run folder by this process, from `claim` to `release`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.owner = LockOwner.here()
        self._taken_by: LockOwner | None = None
        self._released = threading.Event()

    @classmethod
    def claim(cls, folder: Path) -> "RunLock":
        """Take ownership of the folder.

        Raises:
            ConfigError: the folder is not writable.
            ResumeError: another process that is still alive owns the folder.
        """
        lock = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            while True:
                seen = identity(lock.path)
                refuse_while_locked(folder)  # may ask Slurm, which takes seconds
                if lock._take(seen) and owner_of(folder) == lock.owner:
                    break  # else another process was quicker
            remove_leftovers(folder, below=True)
        except OSError as error:
            raise ConfigError(
                f"{folder} cannot be written: {error.strerror}. Set run.folder to a folder that this machine can write to."
            ) from None
        threading.Thread(target=lock._send_heartbeats, name="run lock", daemon=True).start()
        return lock

    def release(self) -> None:
        """Give up ownership; calling it twice does no harm."""
        self._released.set()
        if owner_of(self.path.parent) == self.owner:
            with suppress(OSError):  # on a failing disk the file stays, and does not count once this process has ended
                self.path.unlink(missing_ok=True)

    def refuse_if_lost(self, *, look: bool = False) -> None:
        """Check that the folder is still this process's: as known from the last heartbeat, or by a `look` at the file.

        Raises:
            ResumeError: another process has taken it over.
        """
        if look:
            self._look()
        if self._taken_by:
            raise ResumeError(
                f"{self.path.parent} has been taken over by {self._taken_by.name}, which took {self.owner.name} for dead (it"
                " did not answer for a while). This start ends here and writes nothing more; the other one goes on."
            )

    def _take(self, seen: tuple[int, int] | None) -> bool:
        """Put this owner into the place of the file that was seen, or of none; False if another process was quicker."""
        with locked(self.path):
            return (seen is None or remove_unchanged(self.path, seen)) and create(self.path, self._content)

    @property
    def _content(self) -> str:
        return json.dumps(asdict(self.owner))

    def _look(self) -> None:
        try:
            seen, found = identity(self.path), owner_of(self.path.parent)
            if found and found != self.owner:
                self._taken_by = found
            elif not found:  # deleted or damaged by someone: nobody else owns it
                self._take(seen)
            else:
                os.utime(self.path)
        except OSError:
            return  # a file system may be away for a while

    def _send_heartbeats(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            self._look()


def refuse_while_locked(folder: Path) -> LockOwner | None:
    """Return the dead owner of a folder, None if it has no owner.

    Raises:
        ResumeError: another process that is still alive owns the folder.
    """
    owner = owner_of(folder)
    if owner and owner.alive(folder / FILE):
        raise ResumeError(
            f"{folder} is being worked on by {owner.name}. Wait until it has ended, stop it"
            f"{f' (scancel {owner.job})' if owner.job else ''}, or give this run a folder of its own (run.folder=…)."
        )
    return owner


def owner_of(folder: Path) -> LockOwner | None:
    """Return the owner in a folder's running.json, alive or dead; None if there is none."""
    try:
        return read_stored_if_any(LockOwner, folder / FILE)
    except DataError:  # a lock that nobody can read is nobody's
        return None


def _has_recent_heartbeat(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < DEAD_AFTER
    except FileNotFoundError:
        return False
