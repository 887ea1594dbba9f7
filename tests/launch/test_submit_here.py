"""Jobs on this workstation and in this process: real processes and files, states that any other process can read."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import overrides, printed
from launching import ROOT, outcome
from whole_runs import (
    assert_the_same_run,
    assert_the_same_steps,
    newest_checkpoint,
    train_here,
    wait_for,
    wait_for_steps,
)

import hbdist
from hbdist.errors import ConfigError, ResumeError
from hbdist.launch import Command, JobError, Resources, find_handle, submit_all

HERE = Resources(cluster="local")
QUICK = Command(("plan", "launch/train/demo.toml"))
"""Command that reads shards, prints, and ends within a second."""
WRONG = Command(("plan", "launch/train/demo.toml", "batch.sice=4"))


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def quick(tiny_shards: Path) -> Command:
    keys = [f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]", "batch.size=16"]
    return Command((*QUICK.words, *keys))


def test_a_job_outlives_the_submitting_process_and_is_found_again_in_its_folder(quick: Command, tmp_path: Path) -> None:
    code = (
        "import sys; from hbdist.launch import *; here = Resources(cluster='local'); folder, *words = sys.argv[1:];"
        "print(submit_all([Command(tuple(words))], here, names=['look'], folder=folder)[0].id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *quick.words], capture_output=True, text=True, check=True
    )
    handle = find_handle(tmp_path / "look")
    assert handle is not None
    assert handle.id == done.stdout.strip()
    assert handle.state in ("pending", "running", "done")
    assert handle.result(timeout=60).code == 0
    assert handle.state == "done"
    assert "pairs" in printed(handle)
    assert find_handle(tmp_path / "nothing") is None


def test_a_job_waits_for_others_and_is_cancelled_if_they_fail(quick: Command, tmp_path: Path) -> None:
    first = submit_all([quick, WRONG], HERE, names=["good", "bad"], folder=tmp_path, at_once=2)
    paired = submit_all([quick] * 2, HERE, names=["after-good", "after-bad"], folder=tmp_path, after=first, at_once=2)
    (last,) = submit_all([quick], HERE, names=["last"], folder=tmp_path, after=[*first, *paired], after_any=True)
    assert last.result(timeout=60).state == "done"
    assert [handle.state for handle in [*first, *paired]] == ["done", "invalid", "done", "cancelled"]
    with pytest.raises(
        JobError, match=r"after-bad\) is cancelled: .*/bad, which it waited for, is invalid.*logs are in"
    ):
        paired[1].result()
    with pytest.raises(JobError, match=r"is invalid: hbdist plan .* ended with status 2"):
        first[1].result()
    assert "unknown key batch.sice. Did you mean batch.size?" in printed(first[1])


def test_a_job_runs_the_code_as_it_was_at_submission(quick: Command, tmp_path: Path) -> None:
    before = submit_all([quick], HERE, names=["before"], folder=tmp_path)
    (handle,) = submit_all([quick], HERE, names=["look"], folder=tmp_path / "later", after=before)
    (submission,) = (tmp_path / "later" / "submissions").iterdir()
    copy = submission / "code" / "hbdist" / "runs" / "plan.py"
    assert copy.read_bytes() == (ROOT / "hbdist" / "runs" / "plan.py").read_bytes()
    with copy.open("a") as file:
        file.write("print('this is the copy')\n")
    assert handle.result(timeout=60).state == "done"
    assert "this is the copy" in printed(handle)
    assert "this is the copy" not in printed(before[0])
    record = json.loads((submission / "submission.json").read_text())
    assert record["in"] == str(ROOT)
    assert record["resources"]["cluster"] == "local"
    assert record["commands"] == [shlex.join(("hbdist", *quick.words))]


def test_a_job_can_be_cancelled_while_waiting_or_running_and_resumes_when_submitted_again(
    quick: Command, tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    endless = ["steps=5000", "checkpoint.every=5000", "optimizer.lr=1e-5", "optimizer.schedule=constant"]
    keys = ["launch/train/demo.toml", *overrides(tiny_model, tiny_shards), *endless]
    folder = tmp_path / "long"
    train = Command(("train", *keys, f"run.folder={folder}"))
    long, waiting = submit_all([train, quick], HERE, names=["long", "waiting"], folder=tmp_path)
    wait_for_steps(folder, 2)
    assert (long.state, waiting.state) == ("running", "pending")
    with pytest.raises(ResumeError, match=rf"process {long.id} .* is running already"):
        submit_all([quick], HERE, names=["long"], folder=tmp_path)
    with pytest.raises(TimeoutError, match=r"is running after 0\.1 s"):
        long.result(timeout=0.1)
    waiting.cancel()
    wait_for(lambda: waiting.state == "cancelled", "the waiting job to be cancelled")
    long.cancel()
    wait_for(lambda: long.state == "cancelled", "the running job to be cancelled")
    # It has saved before it ended.
    assert outcome(folder)["state"] == "interrupted"
    saved = newest_checkpoint(folder)

    (again,) = submit_all([train], HERE, names=["long"], folder=tmp_path)
    wait_for_steps(folder, saved + 10)
    assert again.state == "running"
    assert f"resuming after step {saved} " in printed(again)
    again.cancel()
    wait_for(lambda: again.state == "cancelled", "the second job to be cancelled")
    assert_the_same_steps(folder, train_here(tmp_path / "undisturbed", [*keys, f"steps={saved + 10}"]))


def test_two_ranks_train_what_one_process_trains_and_resume_after_a_kill(
    tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    keys = overrides(tiny_model, tiny_shards)
    alone = hbdist.submit("launch/train/demo.toml", *keys, f"run.folder={tmp_path}/alone", cluster="debug")
    assert alone.state == "done"
    folder = tmp_path / "run"
    arguments = ("launch/train/demo.toml", *keys, "steps=12", f"run.folder={folder}")
    handle = hbdist.submit(*arguments, cluster="local", tasks_per_node=2)
    wait_for_steps(folder, 4)
    with pytest.raises(ResumeError, match="is running already"):
        hbdist.submit(*arguments, cluster="debug")
    rank = json.loads((folder / "job.json").read_text())["ranks"][1]
    os.kill(rank, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(JobError, match=rf"failed: rank 1 \(.*process {rank}\) is gone: it was killed or crashed"):
        handle.result(timeout=60)
    assert time.monotonic() - start < 20
    assert len(handle.logs) == 2

    again = hbdist.submit(*arguments, cluster="debug", tasks_per_node=2)
    assert again.result(timeout=0).message.startswith("trained 12 steps")
    assert_the_same_run(folder, tmp_path / "alone")
    with pytest.raises(ResumeError, match=r"holds another run: optimizer\.lr = 0\.0001 there, 0\.5 here"):
        hbdist.submit(*arguments, "optimizer.lr=0.5", cluster="local")


def test_contradictory_arguments_are_refused_with_a_sentence(
    quick: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="2 commands and 1 different names"):
        submit_all([quick, quick], HERE, names=["a", "a"], folder=tmp_path)
    with pytest.raises(ConfigError, match="at_once = 0"):
        submit_all([quick], HERE, names=["a"], folder=tmp_path, at_once=0)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be created: Not a directory"):
        submit_all([quick], HERE, names=["a"], folder=tmp_path / "file")
    with pytest.raises(ConfigError, match=r"submit: unknown key gpus\."):
        hbdist.submit(cluster="local", gpus=8)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="sbatch and srun are not on PATH"):
        submit_all([quick], Resources(), names=["a"], folder=tmp_path)
