"""Workspace of a build: the unfinished folder beside the final one, where finished work survives the builder's death."""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pydantic import TypeAdapter

from hbdist.data.shards.manifest import FILE
from hbdist.data.sources.rows import SourceUnavailableError
from hbdist.errors import HbdistError
from hbdist.utils.files import sha256
from hbdist.utils.json_toml import read_json_object
from hbdist.utils.workers import Result

WORK = ".build"
"""Folder, in an unfinished shard folder, of everything that is not part of the finished one."""
LOCK_S = 0.1
"""Seconds between two attempts to get the lock."""


@dataclass(frozen=True)
class Workspace:
    """An unfinished shard folder, which can be sent to other processes."""

    partial: Path
    inputs: str
    """Digest of the recipe and all its files."""

    def staged(self, dataset: str, language: str) -> Path:
        """Return the folder of the staged rows of a language."""
        return self.partial / WORK / "rows" / dataset / language

    def once(self, name: str, kind: type[Result], make: Callable[[Path, Path], Result]) -> Result:
        """Return `make(out, scratch)`, or the result that an earlier builder recorded if its files are intact.

        Args:
            kind: the type of the result, which is recorded as JSON.
            make: writes its files into the empty folder `out`, under their paths in the workspace; they are moved there
                when all are written. `scratch`, the folder around `out`, is deleted.
        """
        record = self.partial / WORK / "records" / f"{name}.json"
        adapter = TypeAdapter(kind)
        try:
            values = read_json_object(record)
            if all(sha256(self.partial / path) == digest for path, digest in values["files"].items()):
                return adapter.validate_python(values["result"])
        except (OSError, ValueError, KeyError):
            pass  # not finished, or damaged since: it is made again
        task = self.partial / WORK / "tasks" / uuid4().hex
        out = task / "out"
        out.mkdir(parents=True)
        try:
            result = make(out, task)
            files = {}
            for file in sorted(path for path in out.rglob("*") if path.is_file()):
                path = file.relative_to(out).as_posix()
                files[path] = sha256(file)
                (self.partial / path).parent.mkdir(parents=True, exist_ok=True)
                file.replace(self.partial / path)
            record.parent.mkdir(parents=True, exist_ok=True)
            values = {"files": files, "result": adapter.dump_python(result, mode="json")}
            (task / "record").write_text(json.dumps(values), encoding="utf-8")
            (task / "record").replace(record)  # not synced: a record that a power cut empties counts as missing
        finally:
            shutil.rmtree(task, ignore_errors=True)
        return result

    def finish(self, root: Path) -> None:
        """Rename the workspace to `root`, and delete the folder that it replaces."""
        shutil.rmtree(self.partial / WORK)
        aside = root.with_name(f".{root.name}.{uuid4().hex[:8]}.old")
        if root.exists():
            root.rename(aside)
        self.partial.rename(root)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def open_workspace(root: Path, inputs: str) -> Iterator[Workspace]:
    """Open the workspace for building `root` from these inputs, with the work that an earlier builder of both left.

    The workspaces of other inputs are deleted. So is this one if the user's input turns out to be wrong, but not if a
    source is unavailable. The caller must hold `build_lock(root)`.
    """
    partial = root.with_name(f".{root.name}.{inputs[:16]}.partial")
    for leftover in _beside(root, "partial"):
        if leftover != partial:
            shutil.rmtree(leftover)
    shutil.rmtree(partial / WORK / "tasks", ignore_errors=True)
    (partial / WORK).mkdir(parents=True, exist_ok=True)
    try:
        yield Workspace(partial, inputs)
    except SourceUnavailableError:
        raise
    except HbdistError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def build_lock(root: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one builder of `root` work at a time; the others call `waiting` every second until it is their turn.

    The lock ends with the last of the builder's processes, however it ends: its workers inherit the descriptor. (The
    package filelock would release the lock in them.)
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    path = root.with_name(f".{root.name}.lock")
    attempts = 0
    while True:
        with path.open("a") as file:
            if not _lock(file.fileno()):
                attempts += 1
                if attempts % round(1 / LOCK_S) == 0:
                    waiting()
                time.sleep(LOCK_S)
                continue
            if not _is_at(path, file.fileno()):
                continue  # deleted by its last owner: this lock is on a file that no other process can find
            try:
                _restore(root)
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: the user must not start two builders there
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _restore(root: Path) -> None:
    """Restore the folder that a builder had moved aside when it was killed between two renames; delete other leftovers."""
    for aside in _beside(root, "old"):
        if (aside / FILE).is_file() and not root.exists():
            aside.rename(root)
        else:
            shutil.rmtree(aside)


def _beside(root: Path, kind: str) -> list[Path]:
    """Return the folders of this kind that builders of `root` have made, without those of `root.x`."""
    name = re.compile(rf"\.{re.escape(root.name)}\.[0-9a-f]+\.{kind}")
    return [path for path in root.parent.iterdir() if name.fullmatch(path.name)]
