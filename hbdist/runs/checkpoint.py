"""Checkpoints, complete or absent: `checkpoints/000000012/`, and the pointer `latest`, which is written last.

The pointer `best` names the best checkpoint, if the run selects one (hbdist/training/model_selection.py); it is never deleted.

state.pt           parameters and AdamW's moments, unpartitioned, by name (loaded with weights_only: nothing in it can run)
state.json         step, seed, fingerprint of the manifest
checksums.sha256   SHA-256 of both, as `sha256sum --check` reads it; earlier versions wrote none
"""

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from hbdist.errors import DataError, NotFiniteError, ResumeError
from hbdist.utils.files import atomic_folder, sha256, write_atomically
from hbdist.utils.json_toml import read_json_object, read_text
from hbdist.utils.stored import read_stored

CHECKSUMS = "checksums.sha256"
VERSION = 2
NAME = re.compile(r"[0-9]{9}")
"""Name of a checkpoint: the number of updates done."""


class DamagedCheckpointError(ResumeError):
    """Checkpoint whose files are not as they were written; an older one may stand in for it."""


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
    """Write a checkpoint, point `latest` at it, and delete all but the newest `keep` and the best.

    The checkpoint is on the disk before `latest` names it.

    Raises:
        NotFiniteError: a number in the state is infinite or NaN; nothing is written.
        WriteError: the disk is full; nothing of this checkpoint stays.
    """
    refuse_non_finite(state, step=position.step, before="its checkpoint is written")
    target = folder / f"{position.step:09d}"
    for killed in folder.glob(".*.partial"):  # left by saves that were killed: a folder, or the file of a pointer
        if killed.is_dir():
            shutil.rmtree(killed, ignore_errors=True)
        else:
            killed.unlink(missing_ok=True)
    # A run saves only steps after the one that it resumed from: one of this step is from before the run was rolled back.
    with atomic_folder(target) as partial:
        with (partial / "state.pt").open("wb") as file:
            hashing = _HashingFile(file)
            torch.save(dict(state), hashing)  # type: ignore[arg-type]  # torch only writes and flushes
        description = json.dumps(asdict(position)).encode()
        (partial / "state.json").write_bytes(description)
        digests = {"state.pt": hashing.digest.hexdigest(), "state.json": hashlib.sha256(description).hexdigest()}
        (partial / CHECKSUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    write_atomically(folder / "latest", target.name)
    until_now = sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.name <= target.name)
    for old in until_now[:-keep]:
        if old != best(folder):
            shutil.rmtree(old)
    return target


class _HashingFile:
    """File for torch.save whose content is hashed as it is written, so that no byte is read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def refuse_non_finite(state: Mapping[str, Any], *, step: int, before: str) -> None:
    """Check that all numbers in nested mappings of tensors are finite.

    Args:
        before: what would be done with the numbers, for the error message.

    Raises:
        NotFiniteError: one is not; the message names its tensor.
    """
    for name, value in _tensors(state):
        if value.is_floating_point() and value.numel() and not torch.isfinite(torch.stack(torch.aminmax(value))).all():
            bad = (~torch.isfinite(value)).nonzero()
            raise NotFiniteError(
                f"step {step}: {name} has {len(bad)} numbers that are not finite, the first at"
                f" {bad[0].tolist()} of {list(value.shape)} (found before {before}). What was saved before is unharmed. `hbdist"
                f" replay RUN --step {step}` shows the step; a lower optimizer.lr, more optimizer.warmup_steps or a higher"
                " loss.temperature usually helps. If they come from the model that the run starts from, give another model."
            )


def _tensors(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{name} ")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def best(folder: Path) -> Path | None:
    """Return the best checkpoint, or None if there is none."""
    name = _pointer(folder / "best")
    return folder / name if name and (folder / name / "state.json").is_file() else None


def steps(folder: Path) -> list[int]:
    """Return the steps that have a complete checkpoint."""
    return sorted(int(path.parent.name) for path in folder.glob("*/state.json") if NAME.fullmatch(path.parent.name))


def point_at_best(folder: Path, step: int | None) -> None:
    """Make `best` name the checkpoint of this step, or no checkpoint if that one does not exist."""
    if step is not None and step in steps(folder):
        write_atomically(folder / "best", f"{step:09d}")
    else:
        (folder / "best").unlink(missing_ok=True)


def latest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, or None if there is none.

    Raises:
        ResumeError: `latest` names none, and there is none that could stand in for it.
    """
    return next(iter(to_resume_from(folder)[0]), None)


def to_resume_from(folder: Path) -> tuple[list[Path], str]:
    """Return the checkpoint that `latest` names and those before it, the newest first; none in a new run.

    The second value says what is wrong with `latest`, if it names no complete checkpoint.

    Raises:
        ResumeError: `latest` names none, and there is none that could stand in for it.
    """
    pointer = folder / "latest"
    if not pointer.exists():
        return [], ""
    name, complete = _pointer(pointer), [f"{step:09d}" for step in reversed(steps(folder))]
    usable = [folder / one for one in complete if not name or one <= name]
    if not usable:
        raise ResumeError(
            f"{pointer} names {name or 'no checkpoint'}, which does not exist. Put an existing checkpoint's name in it, or"
            " delete it to start the run again."
        )
    if usable[0].name == name:
        return usable, ""
    return (
        usable,
        f"{pointer} names {name or 'no checkpoint'}, which does not exist: {usable[0].name} is the newest before.",
    )


def _pointer(path: Path) -> str:
    """Return the name in a pointer; empty if there is none, or what it contains is no name."""
    try:
        name = read_text(path, default="").strip()
    except DataError:
        return ""
    return name if NAME.fullmatch(name) else ""


def read_position(checkpoint: Path) -> Position:
    """Read the position of a checkpoint.

    Raises:
        DamagedCheckpointError: its state.json is damaged.
        ResumeError: another version wrote it.
    """
    path, remedy = checkpoint / "state.json", _older(checkpoint)
    version = read_json_object(path, error=DamagedCheckpointError, remedy=remedy).get("version")
    if version != VERSION:
        raise ResumeError(
            f"{checkpoint} has version {version}, and this hbdist reads version {VERSION}. Continue with the version"
            " that wrote it, or start a new run folder."
        )
    position = read_stored(Position, path, error=DamagedCheckpointError, remedy=remedy)
    if f"{position.step:09d}" != checkpoint.name:
        raise DamagedCheckpointError(f"{path} is damaged: it is of step {position.step}. {remedy}")
    return position


def load(checkpoint: Path, *, verify: bool = True) -> tuple[Position, dict[str, Any]]:
    """Load the position and the state of a checkpoint.

    Args:
        verify: compare its files with their checksums, if it has any, or else look for numbers that are not finite.

    Raises:
        DamagedCheckpointError: its files are damaged.
        ResumeError: another version wrote them.
    """
    if verify and has_checksums(checkpoint):
        with _refusing_damage(checkpoint):
            _verify(checkpoint)
    position = read_position(checkpoint)
    with _refusing_damage(checkpoint):
        state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(state, dict):
            raise ValueError(f"state.pt contains a {type(state).__name__}")
        if verify and not has_checksums(checkpoint):
            refuse_non_finite(state, step=position.step, before="it is loaded")
        return position, state


def has_checksums(checkpoint: Path) -> bool:
    """Check that a checkpoint has checksums; those of earlier versions have none."""
    return (checkpoint / CHECKSUMS).is_file()


def _verify(checkpoint: Path) -> None:
    rows = [line.split("  ") for line in (checkpoint / CHECKSUMS).read_text(encoding="ascii").split("\n") if line]
    if sorted(row[-1] for row in rows) != ["state.json", "state.pt"]:
        raise ValueError(f"{CHECKSUMS} does not list its files")
    for expected, name in rows:
        found = sha256(checkpoint / name)
        if found != expected:
            raise ValueError(f"{name} has SHA-256 {found[:12]}…, and {expected[:12]}… was written")


@contextmanager
def _refusing_damage(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except ResumeError:
        raise
    except (
        *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, RecursionError),
        *(pickle.UnpicklingError, NotFiniteError),
    ) as error:
        # torch's own message on an object that it refuses to unpickle is a page of advice on how to unpickle it anyway.
        what = "state.pt contains something other than tensors" if isinstance(error, pickle.UnpicklingError) else error
        raise DamagedCheckpointError(f"{checkpoint} cannot be read: {what}. {_older(checkpoint)}") from None


def _older(checkpoint: Path) -> str:
    latest = checkpoint.parent / "latest"
    return f"Put an older checkpoint's name into {latest}, or delete that file to start the run again."
