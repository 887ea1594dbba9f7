"""Lock of a run folder: real processes claim it, and some of them are killed."""

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
from hbdist.utils.files import identity

CLAIM = """
import sys, time
from pathlib import Path
from hbdist.errors import ResumeError
from hbdist.runs.lock import RunLock
try:
    lock = RunLock.claim(Path(sys.argv[1]))
except ResumeError as error:
    print(error, flush=True)
else:
    print("claimed", flush=True)
    sys.stdin.read()
    lock.release()
"""


@contextmanager
def claiming(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that claims the folder, prints the result, and owns it until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def output(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def owner(tmp_path: Path) -> LockOwner:
    """Describe this process, without the job that the tests may run in."""
    return replace(LockOwner.here(), job="", restarts=0)


def write_lock(folder: Path, owner: LockOwner, *, age: float = 0) -> None:
    (folder / FILE).write_text(json.dumps(asdict(owner)), encoding="utf-8")
    os.utime(folder / FILE, times=(time.time() - age,) * 2)


def assert_free(folder: Path) -> None:
    """Check that this process can claim and release the folder."""
    lock = RunLock.claim(folder)
    assert owner_of(folder) == LockOwner.here()
    lock.release()
    assert owner_of(folder) is None


def test_a_second_start_is_refused_until_the_first_has_ended_and_names_it(tmp_path: Path) -> None:
    with claiming(tmp_path) as first:
        assert output(first) == "claimed\n"
        with claiming(tmp_path) as second:
            assert f"is being worked on by process {first.pid} on " in output(second)
        first.communicate()
        assert not (tmp_path / FILE).exists()
    assert_free(tmp_path)


def test_a_killed_owner_counts_as_dead_at_once(tmp_path: Path) -> None:
    with claiming(tmp_path) as first:
        assert output(first) == "claimed\n"
        first.kill()
    assert owner_of(tmp_path) is not None
    assert_free(tmp_path)


def test_a_process_that_reuses_the_id_of_a_dead_owner_is_not_the_owner(tmp_path: Path, owner: LockOwner) -> None:
    write_lock(tmp_path, owner)
    with pytest.raises(ResumeError, match=f"worked on by process {os.getpid()} on"):
        refuse_while_locked(tmp_path)
    earlier = replace(owner, born="1")
    write_lock(tmp_path, earlier)
    assert refuse_while_locked(tmp_path) == earlier
    assert_free(tmp_path)


@pytest.mark.parametrize(("age", "lives"), [(0, True), (DEAD_AFTER - 60, True), (DEAD_AFTER + 60, False)])
def test_the_last_heartbeat_decides_about_an_owner_on_another_machine(
    age: float, lives: bool, tmp_path: Path, owner: LockOwner
) -> None:
    write_lock(tmp_path, replace(owner, machine="another", host="node7"), age=age)
    if lives:
        with pytest.raises(ResumeError, match=rf"worked on by process {os.getpid()} on node7"):
            RunLock.claim(tmp_path)
    else:
        assert_free(tmp_path)


def test_a_job_that_slurm_starts_again_takes_over_its_own_folder(
    tmp_path: Path, owner: LockOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock(tmp_path, replace(owner, machine="another", job="17_3", restarts=0))
    monkeypatch.setenv("PATH", "")  # no Slurm to ask
    with pytest.raises(ResumeError, match=r"job 17_3, process .*\(scancel 17_3\)"):
        refuse_while_locked(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(ResumeError):
        refuse_while_locked(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert_free(tmp_path)


def test_one_of_many_simultaneous_starts_gets_the_folder_of_a_dead_owner(tmp_path: Path, owner: LockOwner) -> None:
    write_lock(tmp_path, replace(owner, born="1"))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = [output(process) for process in started]
    for process in started:
        process.communicate(timeout=30)
    assert answers.count("claimed\n") == 1
    assert sum("is being worked on by" in answer for answer in answers) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_lost_the_folder_does_not_delete_the_next_owners_lock(tmp_path: Path, owner: LockOwner) -> None:
    lock = RunLock.claim(tmp_path)
    other = replace(owner, pid=1, host="node7")
    write_lock(tmp_path, other)
    lock.release()
    assert owner_of(tmp_path) == other


def test_an_unwritable_folder_is_reported_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run cannot be written: Not a directory\. Set run\.folder"):
        RunLock.claim(tmp_path / "file" / "run")


def test_a_crash_while_the_lock_was_taken_is_overcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f".{FILE}.lock").write_text("1\nnode7\n", encoding="utf-8")
    monkeypatch.setattr("hbdist.utils.files.STALE_AFTER", 0.3)
    assert_free(tmp_path)
    assert list(tmp_path.iterdir()) == []


RACE = """
import json, sys
from pathlib import Path
from hbdist.errors import ResumeError
from hbdist.runs.lock import RunLock
root, me, racers, trials = Path(sys.argv[1]), *map(int, sys.argv[2:])
def wait_for_others(name):
    (root / f"{name}-{me}").touch()
    while not all((root / f"{name}-{other}").exists() for other in range(racers)):
        pass
held, locks = [], []
for trial in range(trials):
    wait_for_others(f"start-{trial}")
    try:
        locks.append(RunLock.claim(root / f"run{trial}"))
        held.append(trial)
    except ResumeError:
        pass
    wait_for_others(f"end-{trial}")
(root / f"held-{me}.json").write_text(json.dumps(held))
"""


@pytest.mark.timeout(120)
def test_three_starts_on_a_dead_lock_never_leave_two_holders(tmp_path: Path, owner: LockOwner) -> None:
    racers, trials = 3, 60
    for trial in range(trials):
        (tmp_path / f"run{trial}").mkdir()
        write_lock(tmp_path / f"run{trial}", replace(owner, born="1"))
    started = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), *map(str, (number, racers, trials))])
        for number in range(racers)
    ]
    assert [process.wait(timeout=110) for process in started] == [0] * racers
    held = [json.loads((tmp_path / f"held-{number}.json").read_text()) for number in range(racers)]
    assert sorted(trial for one in held for trial in one) == list(range(trials))


def test_a_start_that_slept_between_its_look_and_its_claim_takes_nothing(tmp_path: Path, owner: LockOwner) -> None:
    write_lock(tmp_path, replace(owner, born="1"))
    sleeper, seen = RunLock(tmp_path), identity(tmp_path / FILE)
    with claiming(tmp_path) as first:
        assert output(first) == "claimed\n"
        assert not sleeper._take(seen)
        held_by = owner_of(tmp_path)
        assert held_by is not None
        assert held_by.pid == first.pid


def test_an_owner_that_was_taken_for_dead_notices_at_its_next_heartbeat(
    tmp_path: Path, owner: LockOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbdist.runs.lock.HEARTBEAT_S", 0.05)
    lock = RunLock.claim(tmp_path)
    time.sleep(0.2)
    lock.refuse_if_lost(look=True)
    other = replace(owner, pid=1, host="node7")
    write_lock(tmp_path, other)
    time.sleep(0.5)
    with pytest.raises(ResumeError, match=r"has been taken over by process 1 on node7"):
        lock.refuse_if_lost()
    lock.release()
    assert owner_of(tmp_path) == other


@pytest.mark.parametrize("content", [None, "", "{half"])
def test_a_lock_that_was_deleted_or_damaged_is_written_again(content: str | None, tmp_path: Path) -> None:
    lock = RunLock.claim(tmp_path)
    (tmp_path / FILE).unlink() if content is None else (tmp_path / FILE).write_text(content)
    lock.refuse_if_lost(look=True)
    assert owner_of(tmp_path) == lock.owner
    lock.release()
    assert list(tmp_path.iterdir()) == []
