"""Atomic file writes, locks between processes, checksums and the cache folder."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import SoftFileLock, Timeout

from hbdist.utils.leftovers import temporary_path

STALE_AFTER = 30.0
"""Seconds after which the lock of a file counts as left behind by a crash. Locks are held for milliseconds."""


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write that gets its name once the block has succeeded and its content is on disk."""
    partial = temporary_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) so that readers see the old content or the new one, never a part of it."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes, on any machine, from reading and then changing this file; only for milliseconds.

    The lock is a file beside it that exists only while the lock is held. Unlike flock, this works on every file system that
    machines share: Lustre is often mounted without flock, or with one that is local to each machine.
    """
    lock = SoftFileLock(path.with_name(f".{path.name}.lock"), timeout=1)
    while not lock.is_locked:
        try:
            lock.acquire()
        except Timeout:
            _remove_if_stale(Path(lock.lock_file))
    try:
        yield
    finally:
        lock.release()


def _remove_if_stale(lock: Path) -> None:
    with suppress(FileNotFoundError):
        if time.time() - lock.stat().st_mtime > STALE_AFTER:
            lock.unlink()


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return $HBDIST_CACHE, else $XDG_CACHE_HOME/hbdist, else ~/.cache/hbdist."""
    if own := os.environ.get("HBDIST_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "hbdist"
