"""Ranks of a training that are started one by one, without a launcher, so that a test can give each its own arguments."""

import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from launching import ROOT, TIMEOUT, command, environment


def free_port() -> int:
    """Return a port of this machine that no process listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class StartedRanks:
    """Processes of training ranks that meet at one port. Used as a context; at its end all of them are killed."""

    def __init__(self, folder: Path, world: int = 2) -> None:
        self.folder, self.world, self.port = folder, world, free_port()
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "StartedRanks":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def start(self, rank: int, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a rank and return its process; its output and errors go to `said`."""
        number = len(self.processes)
        of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(self.world)}
        meeting = {"WORLD_SIZE": str(self.world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
        with self._log(number).open("wb") as log:
            process = subprocess.Popen(
                command(1, *arguments),
                cwd=ROOT,
                env=environment() | of_rank | meeting | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    def end(self, number: int, *, timeout: float = TIMEOUT) -> tuple[int, str]:
        """Wait for the end of the process that was started as this one, counted from 0; return its status and its output."""
        status = self.processes[number].wait(timeout=timeout)
        return status, self.said(number)

    def said(self, number: int) -> str:
        """Return the output of a process so far."""
        return self._log(number).read_text(encoding="utf-8", errors="replace")

    def _log(self, number: int) -> Path:
        return self.folder / f"process{number}.txt"


def is_alive(pid: int) -> bool:
    """Check that a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and that are alive."""
    with suppress(OSError):
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in listed if is_alive(int(child))]
    return []


def variables_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def signal_all(pids: list[int], number: int) -> None:
    """Send a signal to processes, as far as they exist."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
