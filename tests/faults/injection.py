"""Faults at exact moments: Python's audit hooks see every change of a file that a process is about to make.

So "kill rank 0 at the 57th change of a file in the run's folder" is a trial that can be repeated, and a run's few hundred
changes can be gone through. Nothing in the product knows of it.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT)
Act = Callable[[str], None]
"""What happens at the chosen change; called with its path."""


def count_changes(folder: Path, report: Path) -> None:
    """Write, when this process ends, what each change of a file below the folder was, one a line."""
    seen: list[str] = []
    descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and (path := _changed(event, arguments, folder)):
            seen.append(path)
            os.write(descriptor, f"{event} {path}\n".encode())

    sys.addaudithook(hook)


def at_change(folder: Path, number: int, act: Act, report: Path, *, for_ever: bool = False) -> None:
    """Call `act` just before change `number`, from 1, that this process makes below the folder, and note which it was.

    Args:
        for_ever: call it at every later change too.
    """
    count = 0
    descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in CHANGES and (path := _changed(event, arguments, folder)):
            count += 1
            if count == number:
                os.write(descriptor, f"{event} {path}\n".encode())
            if count == number or (for_ever and count > number):
                act(path)

    sys.addaudithook(hook)


def _changed(event: str, arguments: tuple[Any, ...], folder: Path) -> str:
    """Return the path that an event changes below the folder, relative to it; "" if it changes none."""
    if event == "open":
        path, mode, flags = arguments
        if not (set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return ""
    else:
        path = arguments[0]
    if isinstance(path, int):
        return ""
    text = os.fsdecode(path)
    if not os.path.isabs(text):
        # shutil.rmtree removes by name, in a folder that it has open.
        in_open_folder = event in ("os.remove", "os.rmdir") and arguments[1] not in (-1, None)
        text = f"{os.readlink(f'/proc/self/fd/{arguments[1]}')}/{text}" if in_open_folder else os.path.abspath(text)
    return text.removeprefix(f"{folder}/") if text.startswith(f"{folder}/") else ""


def die(_path: str) -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_with(pids: Path) -> Act:
    """Return an act that kills all ranks of a start, and then this process."""

    def act(path: str) -> None:
        for file in pids.iterdir():
            other = int(file.read_text() or 0)
            if other not in (0, os.getpid()):
                os.kill(other, signal.SIGKILL)
        die(path)

    return act


def fail_with(number: int) -> Act:
    """Return an act that makes the change fail with an errno."""

    def act(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    return act
