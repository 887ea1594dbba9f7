"""Disks that fail: full, read-only, or with writes that end in an error."""

import ctypes
import os
import resource
import subprocess
import time
from pathlib import Path

from injection import ERRORS, at_change, fail_with
from kills import struck
from material import STEPS, Way
from trial import Skipped, Trial, scenario

CLONE_NEWNS = 0x00020000
ROOM_KB = 64 * 1024
"""Size of a disk with enough room."""


def mount_disk(place: Path, kilobytes: int) -> None:
    """Mount an empty disk of this size, for this process and those that it starts, until they end."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() or libc.unshare(CLONE_NEWNS):
        raise Skipped("mounting needs root")
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place))


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"mount {' '.join(arguments)}: {done.stderr.strip()}")


def _size_kb(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024


def _check_failed_start(trial: Trial, way: Way, *, named: str, prepare: object = None) -> bool:
    """Start the run on a failing disk: it is refused with a sentence, or done all the same; return True if refused."""
    start = trial.start(way, prepare=prepare)  # type: ignore[arg-type]
    status = trial.wait(start)
    trial.wait_until_gone(start)
    if status == 0:
        trial.check_done(way)
        return False
    trial.check_refused(start, status, named=named)
    return True


@scenario("failing disk", share=3, short=True)
def full_disk(trial: Trial) -> str:
    """Fill the disk at any moment of the run; with more room it goes on as if nothing had been."""
    way = trial.rng.choice([Way(), Way(2)])
    needed = _size_kb(trial.material.reference(way) / "run")
    size = int(needed * trial.rng.uniform(0.01, 0.9))
    trial.details |= {"way": way.name, "kilobytes": size, "needed": needed}
    mount_disk(trial.place, size)
    refused = _check_failed_start(trial, way, named="space|disk|full")
    _mount("-o", f"remount,size={ROOM_KB}k", str(trial.place))
    return trial.finish(way) if refused else "missed"


@scenario("failing disk", share=2)
def limited_file_size(trial: Trial) -> str:
    """Limit the size of files, so that writes fail in their midst."""
    way = trial.rng.choice([Way(), Way(2)])
    limit = trial.details["bytes"] = trial.rng.randint(20_000, 3_000_000)
    trial.details["way"] = way.name

    def prepare(_rank: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    refused = _check_failed_start(trial, way, named="large|limit|cannot be written", prepare=prepare)
    return trial.finish(way) if refused else "missed"


@scenario("failing disk")
def read_only_folder(trial: Trial) -> str:
    """Start on a read-only disk; then on one that becomes read-only after a step."""
    way = trial.rng.choice([Way(), Way(2)])
    mount_disk(trial.place, ROOM_KB)
    if trial.rng.random() < 0.4:
        trial.details |= {"way": way.name, "after step": -1}
        _mount("-o", "remount,ro", str(trial.place))
        _check_failed_start(trial, way, named="read-only|Read-only|written")
    else:
        step = trial.rng.randint(0, STEPS - 1)
        trial.details |= {"way": way.name, "after step": step}
        start = trial.start(way)
        if trial.wait_for(lambda: trial.run.is_dir() and trial.steps_done() >= step, start):
            while _is_busy(trial.place):
                time.sleep(0.001)
        status = trial.wait(start)
        trial.wait_until_gone(start)
        if status:
            trial.check_refused(start, status, named="read-only|Read-only|written")
    _mount("-o", "remount,rw", str(trial.place))
    return trial.finish(way)


def _is_busy(place: Path) -> bool:
    """Make the disk read-only; True if that failed because a file is just being written."""
    return bool(subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True, check=False).returncode)


@scenario("failing disk", share=4)
def change_that_fails(trial: Trial) -> str:
    """Let one change of a file by rank 0 fail, or it and all after it."""
    way = trial.rng.choice([Way(), Way(2)])
    changes = trial.material.changes(trial.material.reference(way))
    number, error = trial.rng.randint(1, len(changes)), trial.rng.choice(ERRORS)
    for_ever = trial.rng.random() < 0.5
    trial.details |= {"way": way.name, "change": number, "error": os.strerror(error), "for ever": for_ever}

    def prepare(rank: int) -> None:
        if rank == 0:
            at_change(trial.run, number, fail_with(error), trial.folder / "struck", for_ever=for_ever)

    refused = _check_failed_start(trial, way, named="", prepare=prepare)
    result = trial.finish(way) if refused else "equal"
    return result if struck(trial) else "missed"
