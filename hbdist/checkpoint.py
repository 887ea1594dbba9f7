"""Checkpoints that are complete or absent: `checkpoints/000000012/`, and `latest`, a pointer that is written last.

state.pt      tensors of model and optimizer (loaded with weights_only: nothing in it can run)
state.json    step, seed, the manifest's fingerprint
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hbdist.atomic import write_atomically
from hbdist.errors import ResumeError


@dataclass(frozen=True)
class Position:
    """Where a run is: all that the data need to go on from there."""

    step: int
    """Updates done; the next batch is the schedule's batch `step`."""
    seed: int
    fingerprint: str
    """Of the manifest the batches came from."""
    version: int = 1


def save(folder: Path, position: Position, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint, point `latest` at it, and delete all but the newest `keep`."""
    target = folder / f"{position.step:09d}"
    if (target / "state.json").is_file():  # of this very step, from before an interruption
        write_atomically(folder / "latest", target.name)
        return target
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "state.pt").open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    write_atomically(partial / "state.json", json.dumps(asdict(position)))
    partial.replace(target)
    write_atomically(folder / "latest", target.name)
    for old in sorted(path for path in folder.iterdir() if path.name.isdigit())[:-keep]:
        shutil.rmtree(old)
    return target


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


def load(checkpoint: Path) -> tuple[Position, dict[str, Any]]:
    """Position and state of a checkpoint.

    Raises:
        ResumeError: its files are damaged, or another version wrote them.
    """
    try:
        position = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ResumeError(
            f"{checkpoint} cannot be read: {error}. Put an older checkpoint's name into"
            f" {checkpoint.parent / 'latest'}, or delete that file to start the run again."
        ) from None
    if position.get("version") != 1:
        raise ResumeError(
            f"{checkpoint} has version {position.get('version')}, and this hbdist reads version 1. Go on with the version"
            " that wrote it, or start another run folder."
        )
    return Position(**position), state
