"""Training jobs on a real Slurm: whatever happens to one, its run ends with the numbers of an undisturbed run."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, TIMEOUT, environment
from slurm_cluster.cluster import Cluster
from whole_runs import (
    assert_the_same_run,
    assert_the_same_steps,
    newest_checkpoint,
    pid_of_rank,
    steps_done,
    train_here,
    wait_for,
    wait_for_steps,
)

pytest_plugins = ["slurm_cluster.fixture"]

TRAIN = str(ROOT / "slurm/train.sh")
SMALL = [
    "model.dropout=0",
    "optimizer.lr=1e-4",
    "batch.size=16",
    "steps=40",
    "checkpoint.every=8",
    "run.log_batches=true",
]
EVENTFUL = ["steps=250", "checkpoint.every=50", "optimizer.lr=1e-5"]
"""Overrides of a run that lasts for five starts, with steps so small that rounding differences do not grow."""
ENDLESS = ["steps=100000", "checkpoint.every=100000", "optimizer.lr=3e-6", "optimizer.schedule=constant"]
"""Overrides of a long run: it saves only when interrupted, and its first steps do not depend on `steps`."""
SIGNAL = "--signal=USR2"
ALL_NODES = ["--partition=urgent", "--nodes=4", "--exclusive", "--wrap=true"]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    """Return a config and overrides for a run of seconds, on real text."""
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    return [str(ROOT / "launch/train/demo.toml"), *sources, *SMALL]


@pytest.fixture(scope="module")
def undisturbed(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the same run in one process, without Slurm."""
    return train_here(tmp_path_factory.mktemp("undisturbed") / "run", tiny)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of the run; the logs of its jobs are beside it."""
    return tmp_path / "run"


def submit(slurm: Cluster, folder: Path, arguments: list[str], *options: str, **variables: str) -> int:
    """Submit a training job of two nodes."""
    shape = ["--nodes=2", "--ntasks-per-node=1", f"--output={folder.parent}/%j.log"]
    return slurm.sbatch(*shape, *options, TRAIN, *arguments, f"run.folder={folder}", **variables)


def begin(slurm: Cluster, folder: Path, arguments: list[str], *options: str, steps: int = 10, **variables: str) -> int:
    """Submit a training job of two nodes and wait until it has done this many steps."""
    job = submit(slurm, folder, arguments, *options, **variables)
    wait_for_steps(folder, steps)
    return job


def wait_for_ten_more_steps(folder: Path) -> None:
    """Wait for ten more steps, of the next start if the last one has ended."""
    wait_for_steps(folder, steps_done(folder) + 10)


def finish(slurm: Cluster, job: int, timeout: float = TIMEOUT) -> str:
    """Wait until the job has ended well, and return everything that its starts have printed."""
    state, log = slurm.wait(job, timeout=timeout), slurm.output(job)
    assert state == "COMPLETED", log
    return log


def preempt(slurm: Cluster, output: Path) -> None:
    """Let a job of higher priority take all nodes for a moment."""
    urgent = slurm.sbatch(*ALL_NODES, f"--output={output}")
    assert slurm.wait(urgent) == "COMPLETED"


def resumed_after(log: str) -> list[int]:
    return [int(step) for step in re.findall(r"resuming after step (\d+)", log)]


def test_four_tasks_on_two_nodes_train_what_one_process_trains(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = submit(slurm, folder, tiny, "--ntasks-per-node=2")
    assert "× 4 over gloo" in finish(slurm, job)
    assert len(slurm.nodes_of(job)) == 2
    assert_the_same_run(folder, undisturbed)


@pytest.mark.timeout(900)
def test_a_run_that_is_preempted_signalled_cancelled_and_loses_a_node_ends_like_an_undisturbed_one(
    slurm: Cluster, tiny: list[str], folder: Path, tmp_path: Path
) -> None:
    arguments = [*tiny, *EVENTFUL]
    job = begin(slurm, folder, arguments)
    preempt(slurm, tmp_path / "urgent.log")
    wait_for_ten_more_steps(folder)
    slurm.run("scancel", SIGNAL, str(job), check=True)  # as Slurm does near the time limit
    wait_for(lambda: "queued again" in slurm.output(job), "the job to be queued again")
    assert newest_checkpoint(folder) == steps_done(folder)
    wait_for_ten_more_steps(folder)
    assert slurm.job(job)["Restarts"] == "2"
    slurm.run("scancel", str(job), check=True)
    assert slurm.wait(job) == "CANCELLED"
    log = slurm.output(job)
    assert "interrupted after step" in log
    assert log.count("queued again") == 1
    assert "PREEMPTED" in {state for state, _ in slurm.accounting(job)}

    again = submit(slurm, folder, arguments)
    wait_for_ten_more_steps(folder)
    slurm.restart_controller()
    wait_for_ten_more_steps(folder)
    assert slurm.job(again)["Restarts"] == "0"
    _, second = slurm.nodes_of(again)
    slurm.kill_node(second)
    log += finish(slurm, again)
    assert slurm.job(again)["Restarts"] == "1"
    assert second not in slurm.nodes_of(again)
    resumed = resumed_after(log)
    assert len(resumed) == 4
    assert resumed == sorted(resumed)
    assert_the_same_run(folder, train_here(tmp_path / "undisturbed", arguments))


@pytest.mark.slow
def test_a_job_told_of_its_time_limit_saves_and_is_requeued(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, [*tiny, "checkpoint.every=100"], steps=5)
    slurm.run("scancel", SIGNAL, str(job), check=True)
    log = finish(slurm, job)
    assert "interrupted after step" in log
    assert "queued again" in log
    assert len(resumed_after(log)) == 1
    assert slurm.job(job)["Restarts"] == "1"
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_job_that_loses_a_node_resumes_on_another(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny)
    _, second = slurm.nodes_of(job)
    slurm.kill_node(second)
    assert len(resumed_after(finish(slurm, job))) == 1
    assert second not in slurm.nodes_of(job)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_preempted_job_resumes_when_nodes_are_free(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path, tmp_path: Path
) -> None:
    job = begin(slurm, folder, tiny)
    preempt(slurm, tmp_path / "urgent.log")
    finish(slurm, job)
    assert slurm.job(job)["Restarts"] == "1"
    assert "PREEMPTED" in {state for state, _ in slurm.accounting(job)}
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_near_its_time_limit_is_requeued(slurm: Cluster, tiny: list[str], folder: Path, tmp_path: Path) -> None:
    # Slurm looks at time limits every half a minute since its controller's start, and one look ahead: here, of each start,
    # at the first look after 25 seconds.
    slurm.restart_controller()
    job = submit(slurm, folder, [*tiny, *ENDLESS], "--time=2", f"{SIGNAL}@65")
    wait_for(lambda: resumed_after(slurm.output(job)), "a second start")
    steps = resumed_after(slurm.output(job))[0] + 20
    wait_for_steps(folder, steps)
    assert int(slurm.job(job)["Restarts"]) >= 1
    slurm.run("scancel", str(job), check=True)
    assert slurm.wait(job) == "CANCELLED"
    assert "queued again" in slurm.output(job)
    assert_the_same_steps(folder, train_here(tmp_path / "undisturbed", [*tiny, *ENDLESS, f"steps={steps}"]))


@pytest.mark.slow
def test_a_cancelled_job_stays_cancelled_and_resumes_when_submitted_again(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny)
    slurm.run("scancel", str(job), check=True)
    assert slurm.wait(job) == "CANCELLED"
    assert "queued again" not in slurm.output(job)
    again = submit(slurm, folder, tiny)
    assert len(resumed_after(finish(slurm, again))) == 1
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_restarted_controller_disturbs_no_job(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny, steps=3)
    slurm.restart_controller()
    finish(slurm, job)
    assert slurm.job(job)["Restarts"] == "0"
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_without_scontrol_and_sacct_the_job_continues_as_a_new_one(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny, "--time=17", steps=5, PATH=slurm.path_without("scontrol", "sacct"))
    slurm.run("scancel", SIGNAL, str(job), check=True)
    assert slurm.wait(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "75:0"
    again = int(slurm.output(job).rpartition("submitted again, as job ")[2].split()[0])
    finish(slurm, again)
    assert slurm.job(again)["TimeLimit"] == "00:17:00"
    assert len(slurm.nodes_of(again)) == 2
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_an_unreported_dead_node_is_noticed_and_left(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny)
    dead = slurm.nodes_of(job)[1]
    slurm.kill_node(dead, told=False)
    finish(slurm, job)
    assert dead not in slurm.nodes_of(job)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_start_that_saved_nothing_is_not_requeued(slurm: Cluster, tiny: list[str], folder: Path) -> None:
    job = begin(slurm, folder, [*tiny, "checkpoint.every=100"], steps=3)
    os.kill(pid_of_rank(folder, 1), signal.SIGKILL)
    assert slurm.wait(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "1:0"
    log = slurm.output(job)
    assert "not queued again: this start added no checkpoint (the newest is none)" in log
    assert "task 1: Killed" in log


@pytest.mark.slow
def test_a_rank_that_dies_after_a_checkpoint_costs_only_the_steps_since(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny)
    os.kill(pid_of_rank(folder, 1), signal.SIGKILL)
    (step,) = resumed_after(finish(slurm, job))
    assert step >= 8
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_accelerate_on_each_node_trains_the_same_and_forwards_the_signal(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    arguments, two = [*tiny, "checkpoint.every=100"], "--ntasks-per-node=2"
    job = begin(slurm, folder, arguments, two, steps=5, HBDIST_LAUNCHER="accelerate")
    slurm.run("scancel", SIGNAL, str(job), check=True)
    log = finish(slurm, job)
    assert "× 4 over gloo" in log
    assert "interrupted after step" in log
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_an_evaluation_on_two_nodes_gives_the_scores_of_one_process(
    slurm: Cluster, tiny_model: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for language in ("en", "de"):
        sentences = [f"sentence {number} of sixty in {language}" for number in range(60)]
        (texts / f"{language}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    what = [str(tiny_model), "--task", f"parallel:{texts}", "--out"]
    job = slurm.sbatch(
        *("--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/log", str(ROOT / "slurm/evaluate.sh")),
        *(*what, str(tmp_path / "there")),
    )
    here = subprocess.Popen(
        [sys.executable, "-m", "hbdist.evaluation", *what, str(tmp_path / "here")], cwd=ROOT, env=environment()
    )
    assert here.wait(timeout=TIMEOUT) == 0
    finish(slurm, job)
    one, two = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("here", "there"))
    assert {**one, "seconds": None} == {**two, "seconds": None}
