"""State of a job from those of Slurm's commands that exist. (With a real Slurm: tests/launch/test_submit_slurm.py.)"""

import os
from pathlib import Path

import pytest

from hbdist.utils import slurm
from hbdist.utils.slurm import batched_squeue, may_requeue, own_job, reason_of, state_of

UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
DOWN = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


def make_commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    """Make a PATH that has only these commands."""
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("commands", "state"),
    [
        ({"squeue": "echo RUNNING"}, "running"),
        ({"squeue": "echo SUSPENDED"}, "running"),
        ({"squeue": "echo CONFIGURING"}, "running"),
        ({"squeue": "echo PENDING", "sacct": "echo RUNNING"}, "pending"),
        ({"squeue": UNKNOWN, "scontrol": "echo 'JobId=17 JobName=a JobState=NODE_FAIL Reason=x'"}, "interrupted"),
        ({"squeue": DOWN, "sacct": "echo 'CANCELLED by 1000'"}, "cancelled"),
        ({"squeue": "true", "scontrol": UNKNOWN, "sacct": "echo OUT_OF_MEMORY"}, "failed"),
        ({"sacct": "echo COMPLETED"}, "done"),
        ({"squeue": UNKNOWN}, "gone"),
        ({"squeue": "true", "scontrol": UNKNOWN, "sacct": "true"}, "gone"),
        ({"squeue": DOWN, "scontrol": DOWN, "sacct": DOWN}, None),
        ({}, None),
    ],
)
def test_the_state_comes_from_the_first_command_that_knows_the_job(
    commands: dict[str, str], state: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_commands(tmp_path, monkeypatch, **commands)
    assert state_of("17") == state


def test_one_call_of_squeue_answers_for_many_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    lists = f"""echo "$@" >>{calls}
case "$*" in
*--user=*) printf '17 RUNNING None\n18_2 PENDING Nodes required for job are DOWN, DRAINED\n19_[3-5] PENDING None\n' ;;
*--jobs=20) echo COMPLETED ;;
*) {UNKNOWN} ;;
esac"""
    make_commands(tmp_path, monkeypatch, squeue=lists)
    with batched_squeue():
        assert not calls.exists()
        with batched_squeue():
            assert [state_of(job) for job in ("17", "18_2", "17", "18_2")] == ["running", "pending"] * 2
        assert reason_of("18_2") == "Nodes required for job are DOWN, DRAINED"
        assert [reason_of(job) for job in ("17", "19_[3-5]", "21")] == ["", "", ""]
        assert [state_of(job) for job in ("17", "20", "21")] == ["running", "done", "gone"]
    assert len(calls.read_text().splitlines()) == 3
    assert state_of("17") == "gone"


def test_without_a_list_each_job_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_commands(tmp_path, monkeypatch, squeue=f"case $* in *--user=*) {DOWN} ;; *) echo RUNNING ;; esac")
    with batched_squeue():
        assert state_of("17") == "running"


def test_a_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_commands(tmp_path, monkeypatch, squeue="exec /bin/sleep 60", sacct="echo RUNNING")
    monkeypatch.setattr(slurm, "TIMEOUT", 0.2)
    assert state_of("17") == "running"


def test_a_users_own_format_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_commands(tmp_path, monkeypatch, squeue='echo "${SQUEUE_FORMAT-RUNNING}"')
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    assert state_of("17") == "running"


@pytest.mark.parametrize(("word", "may"), [("RUNNING", True), ("COMPLETING", False), ("CANCELLED", False)])
def test_only_a_running_job_may_be_requeued(
    word: str, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_commands(tmp_path, monkeypatch, squeue=f"echo {word}")
    assert may_requeue("17") is may
    os.unlink(tmp_path / "squeue")
    assert may_requeue("17")


def test_a_job_of_an_array_is_named_by_both_numbers() -> None:
    array = {"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}
    assert own_job(array) == "17_2"
    assert own_job({"SLURM_JOB_ID": "19"}) == "19"
    assert own_job({}) == ""
