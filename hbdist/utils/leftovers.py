"""Temporary files and folders beside what is being written: their names, and the removal of those whose writer is dead.

A killed process cannot remove its temporary files. Their names say who writes them, so that the next to work in the folder can:
`.NAME.MACHINE-PROCESS-BORN-RANDOM.partial`.
"""

import hashlib
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from hbdist.utils.processes import machine_id, process_start

ABANDONED_AFTER = 600.0
"""Seconds without a change after which a temporary file of another machine counts as left behind."""
_MARKED = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-(\w+)-[0-9a-f]{8}\.partial")
_UNMARKED = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
"""Temporary files of earlier versions, whose names do not say who writes them."""


def temporary_path(path: Path) -> Path:
    """Return a new path beside `path` for writing it, with a name that says that this process does."""
    writer = f"{_machine()}-{os.getpid()}-{process_start(os.getpid())}"
    return path.with_name(f".{path.name}.{writer}-{uuid4().hex[:8]}.partial")


def remove_leftovers(folder: Path, *, below: bool = False) -> None:
    """Remove the temporary files and folders of dead writers from a folder.

    Args:
        below: also from all folders in it.
    """
    for path in sorted(folder.rglob(".*.partial") if below else folder.glob(".*.partial")):
        with suppress(OSError):  # removed by another process, or on a read-only disk
            if _is_left_behind(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_left_behind(path: Path) -> bool:
    marked = _MARKED.fullmatch(path.name)
    if marked and marked[1] == _machine():
        return process_start(int(marked[2])) != marked[3]
    known = marked or (_UNMARKED.fullmatch(path.name) and path.is_file())
    return bool(known) and time.time() - path.stat().st_mtime > ABANDONED_AFTER


def _machine() -> str:
    return hashlib.sha256(machine_id().encode()).hexdigest()[:8]
