"""Checkpoints that are complete or absent: `checkpoints/000000012/`, and `latest`, a pointer that is written last.

`best` points at the best one, where the run says which that is (hbdist/training/model_selection.py); it is never deleted.

state.pt      parameters and AdamW's moments, whole, by name (loaded with weights_only: nothing in it can run)
state.json    step, seed, the manifest's fingerprint
"""

import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hbdist.errors import ResumeError
from hbdist.utils.files import write_atomically

VERSION = 2


@dataclass(frozen=True)
class Position:
    """Where a run is: all that the data need to go on from there."""

    step: int
    """Updates done; the next batch is the schedule's batch `step`."""
    seed: int
    fingerprint: str
    """Of the manifest the batches came from."""
    version: int = VERSION


def save(folder: Path, position: Position, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, point `latest` at it, and delete all but the newest `keep` and the best."""
    target = folder / f"{position.step:09d}"
    partial = folder / f".{target.name}.partial"
    for left in folder.glob(".*.partial"):  # of saves that were killed
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "state.pt").open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    write_atomically(partial / "state.json", json.dumps(asdict(position)))
    # A run saves only steps beyond the one that `latest` names: what stands here is from before it went back.
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    write_atomically(folder / "latest", target.name)
    until_now = sorted(path for path in folder.iterdir() if path.name.isdigit() and path.name <= target.name)
    for old in until_now[:-keep]:
        if old != best(folder):
            shutil.rmtree(old)
    return target


def best(folder: Path) -> Path | None:
    """The best checkpoint, or None where there is none."""
    pointer = folder / "best"
    target = folder / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None
    return target if target and (target / "state.json").is_file() else None


def steps(folder: Path) -> list[int]:
    """The steps of which there is a complete checkpoint."""
    return sorted(int(path.parent.name) for path in folder.glob("*/state.json") if path.parent.name.isdigit())


def point_at_best(folder: Path, step: int | None) -> None:
    """Let `best` name the checkpoint of this step; where it is gone, or there is none, nothing."""
    if step is not None and step in steps(folder):
        write_atomically(folder / "best", f"{step:09d}")
    else:
        (folder / "best").unlink(missing_ok=True)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None where there is none.

    Raises:
        ResumeError: `latest` points at a checkpoint that is gone.
    """
    pointer = folder / "latest"
    if not pointer.is_file():
        return None
    target = folder / pointer.read_text(encoding="utf-8").strip()
    if not (target / "state.json").is_file():
        raise ResumeError(
            f"{pointer} names {target.name}, which is not there. Put an existing checkpoint's name in it, or delete it"
            " to start the run again."
        )
    return target


def read_position(checkpoint: Path) -> Position:
    """Where a run is at this checkpoint.

    Raises:
        ResumeError: its state.json is damaged, or another version wrote it.
    """
    with _refusing_damage(checkpoint):
        values = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        version = values["version"]
    if version != VERSION:
        raise ResumeError(
            f"{checkpoint} has version {version}, and this hbdist reads version {VERSION}. Go on with the version"
            " that wrote it, or start another run folder."
        )
    with _refusing_damage(checkpoint):
        return Position(**values)


def load(checkpoint: Path) -> tuple[Position, dict[str, Any]]:
    """Position and state of a checkpoint.

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
        # torch's own words on what it does not unpickle are a page of advice on how to do it all the same.
        what = "state.pt holds something else than tensors" if isinstance(error, pickle.UnpicklingError) else error
        raise ResumeError(
            f"{checkpoint} cannot be read: {what}. Put an older checkpoint's name into"
            f" {checkpoint.parent / 'latest'}, or delete that file to start the run again."
        ) from None
