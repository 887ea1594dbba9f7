"""Identity of processes and machines, and the files that a process may have open."""

import os
import resource
import socket
from pathlib import Path

import psutil

OPEN_FILES = 65_536
"""Most files that a process needs to have open."""


def machine_id() -> str:
    """Return an identity of this boot of this machine, and of this container; the host name where the system gives none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_start(pid: int) -> str:
    """Return when a process of this machine began, in clock ticks since boot; empty if there is no such process.

    Process ids are reused; together with this time they are unique. psutil's create_time is no substitute: it is a time of day,
    and moves when the system clock is corrected, so another process that compares it later could take a living one for dead.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "" if Path("/proc/self/stat").exists() or not psutil.pid_exists(pid) else "unknown"
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def raise_open_files_limit() -> int:
    """Raise the number of files that this process may have open to OPEN_FILES, or as far as the system lets it; return it.

    The usual limit, 1024, is a default of shells that the process itself may raise.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = OPEN_FILES if hard == unlimited else min(hard, OPEN_FILES)
    if soft == unlimited or soft >= wanted:
        return OPEN_FILES if soft == unlimited else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has a lower limit than it says
        return soft
    return wanted
