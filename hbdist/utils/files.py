"""Files and folders that are complete or absent and stay so after a power cut, locks, checksums and the cache folder.

What is written here is on the disk before it gets its name, and the name is on the disk before the function returns.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import SoftFileLock, Timeout

from hbdist.errors import ConfigError, WriteError
from hbdist.utils.leftovers import temporary_path

LONGEST_NAME = 255
"""Bytes of the longest name of a file or folder."""
STALE_AFTER = 30.0
"""Seconds after which the lock of a file counts as left behind by a crash. Locks are held for milliseconds."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_ERRORS = (*NO_ROOM, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
"""Codes of errors that concern the disk, not the program."""


def sync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        # Some network file systems cannot sync folders; their servers keep the order of operations.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def sync_tree(folder: Path) -> None:
    """Bring a folder and all that is in it to the disk; what is there already costs next to nothing."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with suppress(FileNotFoundError):  # another program's temporary file
                sync(Path(parent, name))
        sync(Path(parent))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Give errors of a full or read-only disk inside, of whatever library, a message that says what to do.

    Raises:
        WriteError: the disk has no room for `path`, or cannot be written.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        # torch's zip writer says only that a position is wrong; safetensors raises an error of its own.
        texts = {"inline_container": errno.ENOSPC, "No space left on device": errno.ENOSPC, "Read-only": errno.EROFS}
        code = next((number for text, number in texts.items() if text in str(error)), code)
        if code not in DISK_ERRORS:
            raise
        raise WriteError(code, f"{path} cannot be written: {os.strerror(code)}. {_remedy(path, code)}") from None


@contextmanager
def naming_disk_errors(place: Path) -> Iterator[None]:
    """Give errors of the disk inside, in whatever place below or outside of `place`, a message that says what to do.

    Raises:
        WriteError: the disk has no room, is read-only or fails.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else place
        verb = "written" if error.errno in (*NO_ROOM, errno.EROFS) else "read or written"
        remedy = _remedy(path, error.errno)
        raise WriteError(error.errno, f"{path} cannot be {verb}: {os.strerror(error.errno)}. {remedy}") from None


def _remedy(path: Path, code: int) -> str:
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    if code == errno.EIO:
        return f"Check the disk of {folder} (the system's log says more), or use a folder on another, and start again."
    if code not in NO_ROOM:
        return f"Make {folder} and what is in it writable for this user, or use another folder."
    free = shutil.disk_usage(folder).free
    limit = "the quota or the limit on the size of a file" if code != errno.ENOSPC else "the disk"
    return (
        f"{free / 1e6:,.1f} MB are free in {folder}: check {limit}, make room there or use a folder on another disk, and start"
        " again; a run resumes from its newest checkpoint."
    )


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write that gets its name once the block has succeeded and its content is on disk."""
    partial = temporary_path(path)
    with writing(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; once the block has succeeded and all of it is on disk, it replaces the folder `path`.

    Only one process at a time may write the same folder. Nothing of a block that fails stays.
    """
    partial = temporary_path(path)
    shutil.rmtree(path.with_name(f".{path.name}.partial"), ignore_errors=True)  # left by a kill of an earlier version
    try:
        with writing(path):
            partial.mkdir(parents=True)
            yield partial
            sync_tree(partial)
            shutil.rmtree(path, ignore_errors=True)
            partial.replace(path)
            sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8) so that readers see the old content or the new one, never a part of it."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def create(path: Path, content: str) -> bool:
    """Create a file that does not exist yet, complete at once; return False if it exists, whoever else creates it."""
    partial = temporary_path(path)
    try:
        partial.write_text(content, encoding="utf-8")
        sync(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            if path.exists():  # a file system without hard links: here another process may come in between
                return False
            partial.replace(path)
        sync(path.parent)
        return True
    finally:
        partial.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells this file from one that replaces it or changes it later; None if there is no file."""
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return state.st_ino, state.st_mtime_ns


def remove_unchanged(path: Path, seen: tuple[int, int] | None) -> bool:
    """Remove a file only if it is still the one whose `identity` was seen, whatever other processes do with its name.

    Looking and then unlinking could remove the file that another process has put there in between.
    """
    aside = temporary_path(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    try:
        if identity(aside) == seen:
            return True
        with suppress(OSError):  # it is another process's: give it back, unless a third one has come
            os.link(aside, path)
        return False
    finally:
        aside.unlink(missing_ok=True)


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
    seen = identity(lock)
    if seen and time.time() - seen[1] / 1e9 > STALE_AFTER:
        remove_unchanged(lock, seen)


def check_path(path: Path) -> Path:
    """Return `path` if it can be a path at all, whether or not there is anything.

    Raises:
        ValueError: it has a null byte, half of a surrogate pair, or a name of more than 255 bytes.
    """
    try:
        too_long = max((len(os.fsencode(part)) for part in path.parts), default=0) > LONGEST_NAME
    except UnicodeEncodeError:
        raise ValueError(f"{str(path)[:40]!a} has half of a surrogate pair, which no file has in its name") from None
    if too_long or "\0" in str(path):
        what = f"a name of more than {LONGEST_NAME} bytes" if too_long else "a null byte"
        raise ValueError(f"{str(path)[:40]!a}… has {what}, which no file has in its path")
    return path


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return $HBDIST_CACHE, else $XDG_CACHE_HOME/hbdist, else ~/.cache/hbdist.

    Raises:
        ConfigError: it would be in a home folder, and this user has none, as in many containers.
    """
    own, shared = os.environ.get("HBDIST_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(shared) if shared else Path.home() / ".cache") / "hbdist"
    except RuntimeError:  # no HOME, and the user's id is not in the passwd database
        raise ConfigError(
            f"A cache is needed, but the user with the id {os.getuid()} has no home folder (HOME is not set, and the id is not"
            " in the passwd database). Set the environment variable HBDIST_CACHE to a folder that can be written."
        ) from None
