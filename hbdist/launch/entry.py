"""Entry of a training: what can be wrong with the input is found before torch is imported, which takes seconds."""

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from hbdist.config.config import DEFAULT_CONFIG, Config, describe, refuse_another_run, split_arguments
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.launcher import check_launcher, find_zero
from hbdist.distributed.orphans import end_with_launcher
from hbdist.distributed.rendezvous import read_rank_and_world
from hbdist.distributed.zero import Zero
from hbdist.errors import HbdistError, RunError
from hbdist.runs.lock import RunLock
from hbdist.runs.outcome import Outcome, outcome_state, write_outcome
from hbdist.runs.plan import Plan

USAGE = """usage: accelerate launch [--config_file launch/accelerate/X.yaml] hbdist/train.py CONFIG.toml [key=value ...]

Trains as the config says; a run whose folder contains a checkpoint resumes from it."""
REPORT_GRACE_S = 1.0
"""Seconds that rank 0 has to report an error that all ranks meet: launchers end all ranks as soon as one has ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit status: 0 done, 1 failed, 2 invalid input, 75 interrupted with its state saved."""
    end_with_launcher()
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--help" in arguments or "-h" in arguments:
        print(f"{USAGE} Keys:\n\n{describe()}")
        return 0
    try:
        path, overrides = split_arguments(arguments)
        if path is None:
            return _fail(f"no config is given. The demo's is {DEFAULT_CONFIG}.\n{USAGE} --help lists all keys.", 2)
        config = Config.load(path, overrides)
        manifest, zero = check(config)
        return _meet_and_train(config, manifest, zero)
    except HbdistError as error:
        return _fail(str(error), 2, reported=error.reported)
    except RunError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C before it could save anything", 130)
    except Exception as error:
        traceback.print_exc()
        _tell_launcher(f"{type(error).__name__}: {error}")
        return 1


def _meet_and_train(config: Config, manifest: Manifest, zero: Zero | None) -> int:
    # Imports torch, and no more: ranks that do not belong together are refused before the other libraries are imported.
    from hbdist.distributed.meeting import meet_for_training

    meeting = meet_for_training(config, zero)
    with meeting.watchdog.guard():
        # By name, because it is a layer above this one.
        return int(import_module("hbdist.train").train(config, manifest, meeting).code)


def check(config: Config, environment: Mapping[str, str] = os.environ) -> tuple[Manifest, Zero | None]:
    """Check what can be checked without torch; return the manifest of the data, and DeepSpeed's settings if there are any.

    Rank 0 records a mistake in the run's folder, unless the folder belongs to another run or another process.

    Raises:
        HbdistError: config, launcher, data or plan are wrong, or do not fit together.
    """
    rank, world = read_rank_and_world(environment)
    check_launcher(config.engine, environment, max_grad_norm=config.optimizer.max_grad_norm)
    zero = find_zero(config.engine, environment)
    refuse_another_run(config)
    try:
        manifest = Manifest.load(config.data.shards)
        Plan.of(config, manifest, ranks=world, zero=zero)
    except HbdistError as error:
        if rank == 0:
            _record(Path(config.run.folder), error)
        raise
    return manifest, zero


def _record(folder: Path, error: HbdistError) -> None:
    try:
        lock = RunLock.claim(folder)
    except (HbdistError, OSError):
        return  # another process works on it, or it cannot be written: the mistake at hand is the one to report
    try:
        if outcome_state(folder) != "done":
            write_outcome(folder, Outcome.invalid(error))
    finally:
        lock.release()


def _fail(message: str, status: int, *, reported: bool = False) -> int:
    """Print a message once for all ranks, hand it to the launcher, and return the status.

    Args:
        reported: rank 0 has the same message. Without it, another rank prints too, if nobody ends it before.
    """
    rank = os.environ.get("RANK", "0")
    _tell_launcher(f"hbdist: {message}")
    if rank != "0":
        time.sleep(REPORT_GRACE_S)
    if rank == "0" or not reported:
        print(f"hbdist{f', rank {rank}' if rank != '0' else ''}: {message}", file=sys.stderr, flush=True)
    return status


def _tell_launcher(message: str) -> None:
    """Write the file that torchrun and accelerate look for when a rank has failed: they show its message."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        cause = {"message": message, "extraInfo": {"timestamp": int(time.time())}}
        try:
            Path(path).write_text(json.dumps({"message": cause}), encoding="utf-8")
        except OSError:
            return
