"""Starts of a run or a command as processes that a trial can hurt, and the watch over all that they leave running.

A start costs seconds of imports. So the campaign imports everything once and forks: its launcher does what torchrun does (one
process per rank, in a session of its own; when one fails, SIGTERM to the others and SIGKILL 30 s later). Some trials use the
true `accelerate launch` all the same.
"""

import ctypes
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from atexit import _run_exitfuncs
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from launching import ROOT, command, environment

from hbdist.utils.processes import process_start

LAUNCHER_GRACE_S = 30.0
"""Seconds that torchrun gives ranks after SIGTERM."""
PR_SET_CHILD_SUBREAPER = 36
Prepare = Callable[[int], None]
"""Function called in each rank's process before anything else, with its rank."""


def adopt_orphans() -> None:
    """Become the parent of all descendants whose parent dies, so that none can escape the watch."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@dataclass
class Start:
    """One start: its launcher (for one rank the rank itself), and where its output goes."""

    pid: int
    ranks: int
    pids: Path
    """Folder with one file per rank, which holds its process id."""
    log: Path
    true_launcher: bool = False
    run_folder: Path | None = None
    statuses: dict[int, int] = field(default_factory=dict)
    """Exit status of each ended process that this one has become the parent of."""

    def pid_of(self, rank: int, *, timeout: float = 60.0) -> int:
        """Wait for a rank's process and return its id."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self._find(rank)
            if found:
                return found
            self.reap()
            if self.pid in self.statuses:
                break
            time.sleep(0.002)
        raise LookupError(f"no process of rank {rank}")

    def _find(self, rank: int) -> int:
        if self.ranks == 1:
            return self.pid
        if not self.true_launcher:
            text = (self.pids / str(rank)).read_text() if (self.pids / str(rank)).is_file() else ""
            return int(text or 0)
        for process in alive_descendants():
            try:
                if process.environ().get("RANK") == str(rank) and process.ppid() == self.pid:
                    return int(process.pid)
            except psutil.Error:
                continue
        return 0

    def reap(self) -> None:
        """Collect the statuses of processes that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.statuses[pid] = os.waitstatus_to_exitcode(status)

    def wait(self, timeout: float) -> int | None:
        """Return the launcher's exit status, or None if it still runs after this many seconds."""
        deadline = time.monotonic() + timeout
        while True:
            self.reap()
            if self.pid in self.statuses:
                return self.statuses[self.pid]
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)

    def wait_until_gone(self, timeout: float) -> float | None:
        """Return the seconds until no process of this start is left; None if one still lives after `timeout`."""
        started = time.monotonic()
        while True:
            self.reap()
            if not alive_descendants():
                return time.monotonic() - started
            if time.monotonic() - started > timeout:
                return None
            time.sleep(0.02)

    @property
    def output(self) -> str:
        """All that the start's processes have printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""


def alive_descendants() -> list[psutil.Process]:
    """Return this process's descendants that are neither zombies nor gone."""
    return [process for process in psutil.Process().children(recursive=True) if process_start(process.pid)]


def kill(*pids: int) -> None:
    """Kill processes, at once and without a chance to clean up."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def start_run(
    folder: Path,
    arguments: Sequence[str],
    *,
    ranks: int,
    variables: Mapping[str, str],
    prepare: Prepare | None = None,
    port: int = 0,
) -> Start:
    """Fork a launcher that trains on this many ranks, at a free port unless one is given.

    Args:
        folder: where logs and process ids go.
    """
    start = _new_start(folder, ranks)
    script = str(ROOT / "hbdist/train.py")
    port = port or free_port()

    def rank_process(rank: int) -> None:
        of_rank = {} if ranks == 1 else _variables_of(rank, ranks, port)
        _become(start.log, dict(variables) | of_rank, [script, *arguments])
        if prepare:
            prepare(rank)
        runpy.run_path(script, run_name="__main__")

    start.pid = _fork(lambda: rank_process(0)) if ranks == 1 else _fork(lambda: _launch(rank_process, start))
    return start


def start_command(
    folder: Path, words: Sequence[str], *, variables: Mapping[str, str], prepare: Prepare | None = None
) -> Start:
    """Fork `hbdist WORDS`."""
    start = _new_start(folder, 1)

    def process() -> None:
        _become(start.log, variables, ["hbdist", *words])
        if prepare:
            prepare(0)
        runpy.run_module("hbdist", run_name="__main__")

    start.pid = _fork(process)
    return start


def start_truly(
    folder: Path, arguments: Sequence[str], *, ranks: int, variables: Mapping[str, str], launch: str = "two"
) -> Start:
    """Start the run as a user does, by `accelerate launch`."""
    start = _new_start(folder, ranks)
    start.true_launcher = True
    with start.log.open("ab") as log:
        started = subprocess.Popen(
            command(ranks, *arguments, launch=launch),
            cwd=ROOT,
            env=environment() | dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    start.pid = started.pid
    started.returncode = 0  # `reap` collects it
    return start


def _new_start(folder: Path, ranks: int) -> Start:
    number = len(list(folder.glob("start-*.log")))
    pids = folder / f"start-{number}.pids"
    pids.mkdir(parents=True)
    log = folder / f"start-{number}.log"
    log.touch()
    return Start(0, ranks, pids, log)


def _variables_of(rank: int, ranks: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {name: str(value) for name, value in numbers.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_RUN_ID": "none",
    }


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _fork(work: Callable[[], None]) -> int:
    """Fork a process in a session of its own that does the work and ends as a Python interpreter would."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        signal.alarm(0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()  # type: ignore[attr-defined]
            _run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    raise AssertionError


def _become(log: Path, variables: Mapping[str, str], arguments: list[str]) -> None:
    """Take over the output, environment and arguments that a new process would have."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    os.environ.update(variables)
    tempfile.tempdir = None
    sys.argv = arguments
    os.chdir(ROOT)


def _launch(rank_process: Callable[[int], None], start: Start) -> None:
    """Start all ranks and wait for them as torchrun does; end with status 1 if any fails."""
    alive: dict[int, int] = {}
    asked: float | None = None
    failed = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = asked or time.monotonic()
        for pid in alive:
            os.kill(pid, signal.SIGTERM)

    for rank in range(start.ranks):
        pid = _fork(lambda rank=rank: rank_process(rank))  # type: ignore[misc]
        alive[pid] = rank
        (start.pids / str(rank)).write_text(str(pid))
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            alive.pop(pid, None)
            failed = failed or status != 0
            if status and asked is None:
                stop(0, None)
            continue
        if asked and time.monotonic() - asked > LAUNCHER_GRACE_S:
            kill(*alive)
        time.sleep(0.02)
    sys.exit(int(failed))
