"""Checkpoints, complete or absent: `checkpoints/000000012/`, and the pointer `latest`, which is written last.

The pointer `best` names the best checkpoint, if the run selects one (hbdist/training/model_selection.py); it is never deleted.

state.pt      parameters and AdamW's moments, unpartitioned, by name (loaded with weights_only: nothing in it can run)
state.json    step, seed, fingerprint of the manifest
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hbdist.errors import ResumeError
from hbdist.utils.files import write_atomically
from hbdist.utils.json_toml import read_json_object, read_text
from hbdist.utils.stored import read_stored

VERSION = 2
NAME = re.compile(r"[0-9]{9}")
"""Name of a checkpoint: the number of updates done."""


@dataclass(frozen=True)
class Position:
    """Position of a run in its data: all that is needed to resume there."""

    step: int
    """Updates done; the next batch is the schedule's batch number `step`."""
    seed: int
    fingerprint: str
    """Fingerprint of the manifest that the batches came from."""
    version: int = VERSION


def save(folder: Path, position: Position, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, point `latest` at it, and delete all but the newest `keep` and the best."""
    target = folder / f"{position.step:09d}"
    partial = folder / f".{target.name}.partial"
    for killed in folder.glob(".*.partial"):  # left by saves that were killed: a folder, or the file of a pointer
        if killed.is_dir():
            shutil.rmtree(killed, ignore_errors=True)
        else:
            killed.unlink(missing_ok=True)
    partial.mkdir(parents=True)
    with (partial / "state.pt").open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    write_atomically(partial / "state.json", json.dumps(asdict(position)))
    # A run saves only steps after the one that `latest` names: one of this step is from before the run was rolled back.
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    write_atomically(folder / "latest", target.name)
    until_now = sorted(path for path in folder.iterdir() if path.name.isdigit() and path.name <= target.name)
    for old in until_now[:-keep]:
        if old != best(folder):
            shutil.rmtree(old)
    return target


def best(folder: Path) -> Path | None:
    """Return the best checkpoint, or None if there is none.

    Raises:
        ResumeError: `best` is damaged.
    """
    name = _read_pointer(folder / "best")
    return folder / name if name and (folder / name / "state.json").is_file() else None


def _read_pointer(pointer: Path) -> str:
    """Return the name of the checkpoint in `latest` or `best`; empty if there is no such file.

    Raises:
        ResumeError: the file is damaged.
    """
    remedy = "Put an existing checkpoint's name in it, or delete it"
    remedy += " to start the run again." if pointer.name == "latest" else ": no checkpoint then counts as the best."
    name = read_text(pointer, error=ResumeError, remedy=remedy, default="").strip()
    if name and not NAME.fullmatch(name):
        raise ResumeError(f"{pointer} contains {name[:40]!r}, which is not the name of a checkpoint. {remedy}")
    return name


def steps(folder: Path) -> list[int]:
    """Return the steps that have a complete checkpoint."""
    return sorted(int(path.parent.name) for path in folder.glob("*/state.json") if path.parent.name.isdigit())


def point_at_best(folder: Path, step: int | None) -> None:
    """Make `best` name the checkpoint of this step, or no checkpoint if that one does not exist."""
    if step is not None and step in steps(folder):
        write_atomically(folder / "best", f"{step:09d}")
    else:
        (folder / "best").unlink(missing_ok=True)


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, or None if there is none.

    Raises:
        ResumeError: `latest` is damaged, or names a checkpoint that is gone.
    """
    pointer = folder / "latest"
    name = _read_pointer(pointer)
    if not name:
        return None
    target = folder / name
    if not (target / "state.json").is_file():
        raise ResumeError(
            f"{pointer} names {target.name}, which does not exist. Put an existing checkpoint's name in it, or delete it"
            " to start the run again."
        )
    return target


def read_position(checkpoint: Path) -> Position:
    """Read the position of a checkpoint.

    Raises:
        ResumeError: its state.json is damaged, or another version wrote it.
    """
    path, remedy = checkpoint / "state.json", _older(checkpoint)
    version = read_json_object(path, error=ResumeError, remedy=remedy).get("version")
    if version != VERSION:
        raise ResumeError(
            f"{checkpoint} has version {version}, and this hbdist reads version {VERSION}. Continue with the version"
            " that wrote it, or start a new run folder."
        )
    return read_stored(Position, path, error=ResumeError, remedy=remedy)


def load(checkpoint: Path) -> tuple[Position, dict[str, Any]]:
    """Load the position and the state of a checkpoint.

    Raises:
        ResumeError: its files are damaged, or another version wrote them.
    """
    position = read_position(checkpoint)
    with _refusing_damage(checkpoint):
        return position, torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True, mmap=True)


@contextmanager
def _refusing_damage(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        # torch's own message on an object that it refuses to unpickle is a page of advice on how to unpickle it anyway.
        what = "state.pt contains something other than tensors" if isinstance(error, pickle.UnpicklingError) else error
        raise ResumeError(f"{checkpoint} cannot be read: {what}. {_older(checkpoint)}") from None


def _older(checkpoint: Path) -> str:
    latest = checkpoint.parent / "latest"
    return f"Put an older checkpoint's name into {latest}, or delete that file to start the run again."
