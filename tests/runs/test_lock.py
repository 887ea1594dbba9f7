"""A run's folder belongs to one living process: claims are made by real processes, some of which are killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from hbdist.errors import ConfigError, ResumeError
from hbdist.runs.lock import DEAD_AFTER, FILE, LockOwner, RunLock, owner_of, refuse_while_locked

CLAIM = """
import sys, time
from pathlib import Path
from hbdist.errors import ResumeError
from hbdist.runs.lock import RunLock
try:
    hold = RunLock.claim(Path(sys.argv[1]))
except ResumeError as error:
    print(error, flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
    hold.release()
"""


@contextmanager
def claiming(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that claims the folder, says so or why not, and keeps it until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def holder(tmp_path: Path) -> LockOwner:
    """This very process, with nothing of a job that the tests may run in."""
    return replace(LockOwner.here(), job="", restarts=0)


def put(folder: Path, holder: LockOwner, *, age: float = 0) -> None:
    (folder / FILE).write_text(json.dumps(asdict(holder)), encoding="utf-8")
    os.utime(folder / FILE, times=(time.time() - age,) * 2)


def assert_free(folder: Path) -> None:
    """This process can take the folder, has it then, and can give it back."""
    hold = RunLock.claim(folder)
    assert owner_of(folder) == LockOwner.here()
    hold.release()
    assert owner_of(folder) is None


def test_a_second_start_is_refused_by_name_until_the_first_has_ended(tmp_path: Path) -> None:
    with claiming(tmp_path) as first:
        assert said(first) == "held\n"
        with claiming(tmp_path) as second:
            assert f"is being worked on by process {first.pid} on " in said(second)
        first.communicate()
        assert not (tmp_path / FILE).exists()
    assert_free(tmp_path)


def test_a_killed_holder_counts_as_dead_at_once(tmp_path: Path) -> None:
    with claiming(tmp_path) as first:
        assert said(first) == "held\n"
        first.kill()
    assert owner_of(tmp_path) is not None
    assert_free(tmp_path)


def test_a_process_that_was_given_the_number_of_a_dead_one_holds_nothing(tmp_path: Path, holder: LockOwner) -> None:
    put(tmp_path, holder)
    with pytest.raises(ResumeError, match=f"worked on by process {os.getpid()} on"):
        refuse_while_locked(tmp_path)
    earlier = replace(holder, born="1")
    put(tmp_path, earlier)
    assert refuse_while_locked(tmp_path) == earlier
    assert_free(tmp_path)


@pytest.mark.parametrize(("age", "lives"), [(0, True), (DEAD_AFTER - 60, True), (DEAD_AFTER + 60, False)])
def test_on_another_machine_the_last_sign_of_life_decides(
    age: float, lives: bool, tmp_path: Path, holder: LockOwner
) -> None:
    put(tmp_path, replace(holder, machine="another", host="node7"), age=age)
    if lives:
        with pytest.raises(ResumeError, match=rf"worked on by process {os.getpid()} on node7"):
            RunLock.claim(tmp_path)
    else:
        assert_free(tmp_path)


def test_a_job_that_slurm_starts_again_is_the_same_run(
    tmp_path: Path, holder: LockOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, replace(holder, machine="another", job="17_3", restarts=0))
    monkeypatch.setenv("PATH", "")  # no Slurm to ask
    with pytest.raises(ResumeError, match=r"job 17_3, process .*\(scancel 17_3\)"):
        refuse_while_locked(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(ResumeError):
        refuse_while_locked(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert_free(tmp_path)


def test_of_many_starts_at_once_one_gets_the_folder_of_a_dead_holder(tmp_path: Path, holder: LockOwner) -> None:
    put(tmp_path, replace(holder, born="1"))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = [said(process) for process in started]
    for process in started:
        process.communicate(timeout=30)
    assert answers.count("held\n") == 1
    assert sum("is being worked on by" in answer for answer in answers) == 3
    assert list(tmp_path.iterdir()) == []


def test_who_lost_the_folder_does_not_take_the_next_ones_file(tmp_path: Path, holder: LockOwner) -> None:
    hold = RunLock.claim(tmp_path)
    other = replace(holder, pid=1, host="node7")
    put(tmp_path, other)
    hold.release()
    assert owner_of(tmp_path) == other


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run cannot be written: Not a directory\. Set run\.folder"):
        RunLock.claim(tmp_path / "file" / "run")
