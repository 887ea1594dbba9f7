"""Local cache of remote files, bounded in size and shared by all processes of a machine.

A file is named by the SHA-256 of its content, which is verified before the file gets its name: content that another run
cached under another digest is never served. Files appear by rename and are therefore complete; a killed process leaves
at most a `.partial`, which later evictions remove, and a lock that the operating system releases.

Files are handed out open. Evicting removes a name only: by POSIX, an open file stays readable until it is closed, so no
reader ever loses one. Files that are evicted while open take disk space beyond the limit.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Self
from uuid import uuid4

from hbdist.data.shards.remote import Remote
from hbdist.errors import ConfigError, DataError
from hbdist.utils.files import cache_folder

CACHE_GB = 50.0
"""Default limit of the cache of remote shards, in gigabytes."""
LOCKS = 64
"""Number of download locks. Two digests may share one; their downloads then wait for each other."""
STALE = 3600.0
"""Seconds after which a `.partial` is taken for a leftover of a killed process."""


@dataclass
class Cache:
    """Files by their SHA-256, in a folder, of about `limit` bytes together; the least recently used are evicted first.

    A process evicts when it has added a 256th of the limit: each process may exceed the limit by that much in between.
    """

    given: Path | None
    """The folder; None: that of this machine, which is asked for only when a file is: local shards need none."""
    limit: int
    _added: float = inf
    """Bytes that this process has added since it last evicted; infinite if it never has."""

    @classmethod
    def of_machine(cls, gigabytes: float = CACHE_GB) -> Self:
        """Return the cache of this machine. It owns its whole folder: unknown files in it are evicted too."""
        return cls(None, int(gigabytes * 1e9))

    @cached_property
    def folder(self) -> Path:
        """The folder.

        Raises:
            ConfigError: this user has no home folder, and $HBDIST_CACHE is not set.
        """
        return self.given or cache_folder() / "shards"

    def open(self, source: Remote, digest: str, *, size: int | None = None) -> int:
        """Return a descriptor, open for reading, of the file with this SHA-256; download the file if it is not cached.

        If several processes request a file, one downloads it and the others wait.

        Raises:
            StoreError: the store did not answer or refused the request.
            DataError: the file does not exist, or its SHA-256 is another.
            ConfigError: the cache cannot be written.
        """
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DataError(
                f"{source} has, according to its manifest, the SHA-256 {digest[:80]!r}; expected 64 digits 0-9a-f."
            )
        if (file := self._open_cached(digest, size)) is not None:
            return file
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(int(digest[:8], 16) % LOCKS):
                if (file := self._open_cached(digest, size)) is not None:
                    return file
                content = source.read_bytes(size=size)
                if (found := hashlib.sha256(content).hexdigest()) != digest:
                    raise DataError(
                        f"{source} has changed: its SHA-256 is {found[:12]}…, the manifest says {digest[:12]}…. Copy the"
                        " whole folder of shards there again."
                    )
                file = self._store(digest, content)
            self._evict(len(content))
        except OSError as error:
            raise ConfigError(
                f"The cache of remote shards, {self.folder}, cannot be used: {error}. Give HBDIST_CACHE a folder on a local"
                " disk with free space."
            ) from None
        return file

    def _open_cached(self, digest: str, size: int | None) -> int | None:
        """Open the file if it is cached; one that has been truncated since counts as absent."""
        try:
            file = os.open(self.folder / digest, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if size is not None and os.fstat(file).st_size != size:
            os.close(file)
            return None
        with suppress(OSError):  # another user's cache may be read, but not marked as used
            _mark_as_used(file)
        return file

    def _store(self, digest: str, content: bytes) -> int:
        partial = self.folder / f"{digest}.{uuid4().hex[:8]}.partial"
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # Opened before it gets its name: from then on, another process may evict it.
            descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
            _mark_as_used(descriptor)
            partial.replace(self.folder / digest)
        finally:
            partial.unlink(missing_ok=True)
        return descriptor

    def _evict(self, added: int) -> None:
        """Remove files until the limit is met, if this process has added enough since it last did so."""
        self._added += added
        if self._added < self.limit / 256:
            return
        self._added = 0
        with self._locked(LOCKS):
            files = sorted(self._files())
            excess = sum(size for _, size, _ in files) - self.limit
            for _, size, path in files:
                if excess <= 0:
                    return
                path.unlink(missing_ok=True)
                excess -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Yield (time of last use in nanoseconds, bytes, path) of all files but those that are still being written."""
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if not entry.name.startswith("lock-"):
                    state = entry.stat()
                    if not entry.name.endswith(".partial") or state.st_mtime < time.time() - STALE:
                        yield state.st_mtime_ns, state.st_size, Path(entry.path)

    @contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        # Lock files are never removed: a process that waits for a removed one and a process that creates a new one
        # would both own the lock.
        with (self.folder / f"lock-{number}").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _mark_as_used(file: int) -> None:
    # Not the access time, which many file systems do not record; and not the kernel's clock, whose ticks are milliseconds.
    now = time.time_ns()
    os.utime(file, ns=(now, now))


def open_file(root: Path | Remote, path: str, digest: str, *, size: int | None = None, cache: Cache) -> int:
    """Return a descriptor, open for reading, of a file of a shard folder; for a remote folder, of its copy in the cache.

    Only files that come over a network are compared with their digests.

    Raises:
        OSError: a local file cannot be opened.
        DataError, ConfigError: a remote file cannot be downloaded or cached.
    """
    if not isinstance(root, Remote):
        return os.open(root / path, os.O_RDONLY | os.O_CLOEXEC)
    return cache.open(root / path, digest, size=size)
