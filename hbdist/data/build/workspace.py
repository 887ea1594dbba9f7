"""The folder that a build works in beside the one it makes: what is finished there survives the death of the builder."""

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
from typing import TypeVar
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from hbdist.data.shards.manifest import FILE
from hbdist.data.sources.rows import SourceUnavailableError
from hbdist.errors import HbdistError
from hbdist.utils.files import sha256

Result = TypeVar("Result")
WORK = ".build"
"""Folder, in an unfinished shard folder, of all that is not part of the finished one."""
LOCK_S = 0.1
"""How often a builder looks whether it is its turn."""


@dataclass(frozen=True)
class Workplace:
    """An unfinished shard folder. Can be sent to other processes."""

    partial: Path

    def staged(self, dataset: str, language: str) -> Path:
        """Where the rows of a language are."""
        return self.partial / self.staged_name(dataset, language)

    @staticmethod
    def staged_name(dataset: str, language: str) -> str:
        return f"{WORK}/rows/{dataset}/{language}"

    def once(self, name: str, kind: type[Result], make: Callable[[Path, Path], Result]) -> Result:
        """`make(out, scratch)`, or what came of it when an earlier builder had finished it and its files are intact.

        `make` writes its files under the empty folder `out`, each where it belongs in the unfinished shard folder;
        they get there when all are written. `scratch`, the folder around `out`, is deleted.
        """
        record = self.partial / WORK / "records" / f"{name}.json"
        if (result := self._recorded(record, kind)) is not None:
            return result
        task = self.partial / WORK / "tasks" / uuid4().hex
        out = task / "out"
        out.mkdir(parents=True)
        try:
            result = make(out, task)
            files = {}
            for file in sorted(path for path in out.rglob("*") if path.is_file()):
                place = file.relative_to(out).as_posix()
                files[place] = sha256(file)
                (self.partial / place).parent.mkdir(parents=True, exist_ok=True)
                file.replace(self.partial / place)
            record.parent.mkdir(parents=True, exist_ok=True)
            values = {"files": files, "result": TypeAdapter(kind).dump_python(result, mode="json")}
            (task / "record").write_text(json.dumps(values), encoding="utf-8")
            (task / "record").replace(record)  # not synced: one that a power cut empties is as good as none
        finally:
            shutil.rmtree(task, ignore_errors=True)
        return result

    def finish(self, root: Path) -> None:
        """Make the folder the one at `root`, in the place of what is there."""
        shutil.rmtree(self.partial / WORK)
        aside = root.with_name(f".{root.name}.{uuid4().hex[:8]}.old")
        if root.exists():
            root.rename(aside)
        self.partial.rename(root)
        shutil.rmtree(aside, ignore_errors=True)

    def _recorded(self, record: Path, kind: type[Result]) -> Result | None:
        try:
            values = json.loads(record.read_text(encoding="utf-8"))
            files = values["files"].items()
            if all(sha256(self.partial / place) == digest for place, digest in files):
                return TypeAdapter(kind).validate_python(values["result"])
        except (OSError, ValueError, KeyError, ValidationError):
            pass  # not finished, or damaged since: it is made again
        return None


@contextmanager
def workplace(root: Path, inputs: str) -> Iterator[Workplace]:
    """The workplace of the build of `root` from these inputs, with what an earlier builder of the same left there.

    What builders of something else left is deleted; so is this workplace if the user's input turns out to be wrong, but
    not if a source cannot be had just now. To be used by the holder of `locked(root)`.
    """
    partial = root.with_name(f".{root.name}.{inputs[:16]}.partial")
    for leftover in _beside(root, "partial"):
        if leftover != partial:
            shutil.rmtree(leftover)
    shutil.rmtree(partial / WORK / "tasks", ignore_errors=True)
    (partial / WORK).mkdir(parents=True, exist_ok=True)
    try:
        yield Workplace(partial)
    except SourceUnavailableError:
        raise
    except HbdistError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _restore(root: Path) -> None:
    """Put back the folder that a builder, killed between two renames, had put aside; delete what is no longer wanted."""
    for aside in _beside(root, "old"):
        if (aside / FILE).is_file() and not root.exists():
            aside.rename(root)
        else:
            shutil.rmtree(aside)


def _beside(root: Path, kind: str) -> list[Path]:
    """The folders of this kind that builders of `root` made, and not those of `root.x`."""
    name = re.compile(rf"\.{re.escape(root.name)}\.[0-9a-f]+\.{kind}")
    return [path for path in root.parent.iterdir() if name.fullmatch(path.name)]


@contextmanager
def locked(root: Path, *, waiting: Callable[[], None]) -> Iterator[None]:
    """One builder of `root` at a time; the others call `waiting` every second until it is their turn.

    The lock ends with the last of the builder's processes, however it ends.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    path = root.with_name(f".{root.name}.lock")
    patience = 0
    while True:
        with path.open("a") as file:
            if not _lock(file.fileno()):
                patience += 1
                if patience % round(1 / LOCK_S) == 0:
                    waiting()
                time.sleep(LOCK_S)
                continue
            if not _is_at(path, file.fileno()):
                continue  # its last holder deleted it: this lock is on a file that nobody else will find
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
        return True  # a file system without locks: whoever builds there sees to it that nobody else does
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
