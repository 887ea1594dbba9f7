"""End of a rank whose launcher is gone: torchrun, accelerate, or the queue of this workstation.

A launcher that is killed cannot end its ranks. They would train on without anybody watching, or wait for one another and join
the next start at the same port. A rank that was started by hand or by Slurm has no such launcher, and ends with its shell,
its job, or not at all.
"""

import ctypes
import os
import signal
import sys
import threading
import time

import psutil

from hbdist.utils.processes import process_start

MARKS = ("HBDIST_START", "TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
"""Variables that a launcher sets for its ranks and does not have itself, or not with this value."""
LAUNCHERS = ("torchrun", "torch.distributed", "torch/distributed", "accelerate", "hbdist.launch")
"""Words of which a launcher's command line contains one."""
PAUSE_S = 0.5
"""Seconds between two checks that the launcher is alive."""
GRACE_S = 45.0
"""Seconds in which a rank without its launcher may finish its step and save."""
PR_SET_PDEATHSIG = 1
THREAD = "launcher watch"


def end_with_launcher() -> None:
    """End this process, from now on, when its launcher is gone: by SIGTERM, on which a run saves, and after GRACE_S at once.

    Call it first of all: what is imported afterwards takes seconds, in which a launcher can be killed. A second call does
    nothing.
    """
    if any(thread.name == THREAD for thread in threading.enumerate()):
        return
    launcher = _find_launcher()
    if launcher is None:
        return
    born = process_start(launcher.pid)
    if launcher.pid == os.getppid():
        _signal_when_parent_ends()
    threading.Thread(target=_watch, args=(launcher.pid, born), name=THREAD, daemon=True).start()


def _find_launcher() -> psutil.Process | None:
    """Return the nearest ancestor without the mark that this process was given; None if this process has no launcher."""
    mark = next((name for name in MARKS if name in os.environ), None)
    if mark is None:
        return None
    try:
        ancestors = psutil.Process().parents()
        launcher = next((one for one in ancestors if _read(one, mark) != os.environ[mark]), None)
        if launcher and any(word in " ".join(launcher.cmdline()) for word in LAUNCHERS):
            return launcher
        # Who has lost its parent is given to process 1, which is the launcher itself in some containers.
        if mark == "TORCHELASTIC_RUN_ID" and launcher and launcher.pid == 1 and len(ancestors) == 1:
            _end_now("before this rank had begun")
    except psutil.Error:
        return None
    return None


def _read(process: psutil.Process, variable: str) -> str:
    try:
        return process.environ().get(variable, "")
    except psutil.AccessDenied:
        return ""


def _signal_when_parent_ends() -> None:
    """Let the kernel send SIGTERM when the parent ends, which also works while an import keeps all threads waiting."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        return  # not Linux: the thread alone watches


def _watch(pid: int, born: str) -> None:
    while process_start(pid) == born:
        time.sleep(PAUSE_S)
    rank = os.environ.get("RANK", "0")
    print(f"hbdist, rank {rank}: the launcher (process {pid}) is gone: this rank ends", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    _end_now(f"and this rank has not ended within {GRACE_S:.0f} s")


def _end_now(when: str) -> None:
    print(f"hbdist, rank {os.environ.get('RANK', '0')}: the launcher is gone {when}", file=sys.stderr, flush=True)
    os._exit(1)
