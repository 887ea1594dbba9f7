"""Resuming a run: which checkpoint all ranks continue from, and what is dropped of the logs."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hbdist.data.shards.manifest import Manifest, differences
from hbdist.distributed.engine import Engine
from hbdist.errors import DataError, ResumeError
from hbdist.runs import checkpoint, logs
from hbdist.runs.checkpoint import DamagedCheckpointError

Say = Callable[[str], None]
"""Function that prints a line on rank 0."""


def find_checkpoints(folder: Path, engine: Engine, manifest: Manifest, *, say: Say) -> list[Path]:
    """Return the checkpoints that a run can resume from, the newest first, none in a new run. A collective: it checks that
    all ranks see the same ones, and that their data are these.

    Raises:
        ResumeError: they were trained on other data, or ranks see different data or checkpoints.
    """
    found, problem = checkpoint.to_resume_from(folder / "checkpoints")
    this_sees = (manifest.fingerprint, [path.name for path in found])
    main_sees = engine.broadcast_object(this_sees)
    if engine.any_rank(this_sees != main_sees):
        raise ResumeError(
            f"Ranks see different shards or checkpoints: rank 0 {main_sees}, this one {this_sees}. Put {manifest.root} and"
            f" {folder} where all nodes see the same files."
        )
    if problem:
        say(problem)
    for path in found:
        try:
            trained_on = checkpoint.read_position(path).fingerprint
        except DamagedCheckpointError:  # `load_newest` reports it
            continue
        if trained_on != manifest.fingerprint:
            raise ResumeError(
                f"{path} was trained on shards with fingerprint {trained_on[:12]}, and {manifest.root} has"
                f" {manifest.fingerprint[:12]}: {_what_changed(folder, manifest)} The batches would differ. Build the same"
                " shards again, or start a new run with run.folder=… ."
            )
    return found


def _what_changed(folder: Path, manifest: Manifest) -> str:
    try:
        changes = differences(Manifest.load(folder), manifest)
    except DataError:
        return "what changed is not known."
    return " ".join(changes[:3]) + (f" And {len(changes) - 3} more groups." if len(changes) > 3 else "")


def load_newest(found: Sequence[Path], engine: Engine, *, say: Say) -> tuple[int, dict[str, Any] | None]:
    """Load the first of these checkpoints that no rank finds damaged: the number of updates done, and the state of model and
    optimizer; 0 and None if there are none. A collective: all ranks take the same one.

    Raises:
        ResumeError: all of them are damaged.
    """
    problem = ""
    for path in found:
        try:
            # One rank of each node compares the checksums: they are of the same files.
            position, state = checkpoint.load(path, verify=os.environ.get("LOCAL_RANK", "0") == "0")
            error = ""
        except DamagedCheckpointError as damage:
            error = str(damage)
        if not engine.any_rank(bool(error)):
            say(f"resuming after step {position.step} from {path}")
            if not checkpoint.has_checksums(path):
                say("an earlier version of hbdist wrote it, without checksums: altered bytes cannot be noticed")
            return position.step, state
        problem = problem or error or f"{path} cannot be read on another node."
        if error and not engine.is_main:
            print(f"hbdist, rank {engine.rank}: {error}", file=sys.stderr, flush=True)
        say(
            (error or f"{path} cannot be read on another node.")
            + " The checkpoint before it is tried." * (path != found[-1])
        )
    if problem:
        raise ResumeError(f"None of {len(found)} checkpoints can be read. {problem}")
    return 0, None


def cut_logs(folder: Path, step: int, *, say: Say) -> None:
    """Drop what was logged after the checkpoint: those steps will be repeated. Say what is damaged or missing before it."""
    for name in logs.LOGS:
        path = folder / name
        last, damaged = logs.cut(path, step) if path.is_file() else (0, 0)
        if damaged:
            say(f"{path}: {damaged} damaged lines at its end are removed")
        if last < step and (name == logs.METRICS or (name == logs.BATCHES and path.is_file())):
            say(
                f"{path} ends at step {last}, and the checkpoint is of step {step}: the lines between are lost, and stay so;"
                " training does not need them"
            )
    for scores in folder.glob("evaluation/step-*[0-9]"):
        if int(scores.name.rpartition("-")[2]) > step:
            shutil.rmtree(scores)
