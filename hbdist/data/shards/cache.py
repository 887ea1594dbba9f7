"""A bounded local cache of remote files, shared by all processes of a machine.

A file is named by the SHA-256 of its content, which is verified before it gets its name: what another run cached under
another digest is never served. Files appear by rename and so are whole; a process that is killed leaves at most a
`.partial`, which later evictions sweep, and a lock that the system releases.

Files are handed out open. Evicting removes a name only: by POSIX, an open file stays readable until it is closed, so no
reader ever loses one. What is evicted and still open takes room on the disk beyond the limit.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from hbdist.data.shards.remote import Remote
from hbdist.errors import ConfigError, DataError
from hbdist.utils.files import cache_folder

CACHE_GB = 50.0
LOCKS = 64
"""Lock files. Two digests may share one, and their downloads then wait for each other."""
STALE = 3600.0
"""Seconds after which a `.partial` belongs to nobody alive."""


@dataclass
class Cache:
    """Files by their SHA-256, in `folder`, of about `limit` bytes together; the longest unused go first.

    Sizes are added up when a process has added a 256th of the limit: so far each process may exceed it in between.
    """

    folder: Path
    limit: int
    _added: int | None = None
    """Bytes that this process put in since it last evicted; None: it never has."""

    @classmethod
    def of_machine(cls, gigabytes: float = CACHE_GB) -> Self:
        """`shards` in the cache of this machine. The folder is its own: what it does not know there, it evicts too."""
        return cls(cache_folder() / "shards", int(gigabytes * 1e9))

    def open(self, source: Remote, digest: str, *, size: int | None = None) -> int:
        """A descriptor, open for reading, of the file with this SHA-256, which is fetched if it is not here.

        Of several processes that want it, one fetches and the others wait.

        Args:
            source: where it is.
            digest: SHA-256 of its content, in hex.
            size: its bytes; unset: unknown.

        Raises:
            StoreError: the store did not answer or refused the request.
            DataError: the file is not there, or it is not the one with this SHA-256.
            ConfigError: the cache cannot be written.
        """
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DataError(
                f"{source} has, as its manifest says, the SHA-256 {digest[:80]!r}; expected 64 digits 0-9a-f."
            )
        if (file := self._standing(digest, size)) is not None:
            return file
        with self._usable():
            with self._locked(int(digest[:8], 16) % LOCKS):
                if (file := self._standing(digest, size)) is not None:
                    return file
                content = source.read_bytes(size=size)
                if (found := hashlib.sha256(content).hexdigest()) != digest:
                    raise DataError(
                        f"{source} has changed: its SHA-256 is {found[:12]}…, the manifest says {digest[:12]}…. Copy the"
                        " whole folder of shards there again."
                    )
                file = self._store(digest, content)
            self._bound(len(content))
        return file

    def _standing(self, digest: str, size: int | None) -> int | None:
        """The file if it is here; one that something cut since is as good as none."""
        try:
            file = os.open(self.folder / digest, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if size is not None and os.fstat(file).st_size != size:
            os.close(file)
            return None
        with suppress(OSError):  # another user's cache may be read, though not marked as used
            _mark_as_used(file)
        return file

    def _store(self, digest: str, content: bytes) -> int:
        partial = self.folder / f"{digest}.{uuid4().hex[:8]}.partial"
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # Open before it has its name: from then on another process may evict it.
            opened = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
            _mark_as_used(opened)
            partial.replace(self.folder / digest)
        finally:
            partial.unlink(missing_ok=True)
        return opened

    def _bound(self, added: int) -> None:
        self._added = None if self._added is None else self._added + added
        if self._added is not None and self._added < self.limit / 256:
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
        """When each file was last used (nanoseconds), its bytes and where it is; but not what another process is writing."""
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if not entry.name.startswith("lock-"):
                    state = entry.stat()
                    if not entry.name.endswith(".partial") or state.st_mtime < time.time() - STALE:
                        yield state.st_mtime_ns, state.st_size, Path(entry.path)

    @contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        # Never removed: whoever waits for a removed lock file, and whoever makes a new one, would both hold it.
        with (self.folder / f"lock-{number}").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise ConfigError(
                f"The cache of remote shards, {self.folder}, cannot be used: {error}. Give HBDIST_CACHE a folder on a local"
                " disk with room."
            ) from None


def _mark_as_used(file: int) -> None:
    # Not the time of a read, which many file systems do not keep; and not the kernel's clock, which stands for milliseconds.
    now = time.time_ns()
    os.utime(file, ns=(now, now))


def open_file(root: Path | Remote, path: str, digest: str, *, size: int | None = None, cache: Cache) -> int:
    """A descriptor, open for reading, of a file of a shard folder; of a remote one, of its copy in the cache.

    Only what comes over a network is compared with its digest.

    Raises:
        OSError: a local file cannot be opened.
        DataError, ConfigError: a remote one cannot be fetched or kept.
    """
    if not isinstance(root, Remote):
        return os.open(root / path, os.O_RDONLY | os.O_CLOEXEC)
    return cache.open(root / path, digest, size=size)
