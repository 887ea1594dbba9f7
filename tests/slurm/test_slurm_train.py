"""Jobs of a real Slurm: whatever happens to one, its run ends with the numbers of a run that nothing happened to."""

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
"""Time for five starts, and steps so small that differences by rounding do not grow over so many."""
ENDLESS = ["steps=100000", "checkpoint.every=100000", "optimizer.lr=3e-6", "optimizer.schedule=constant"]
"""Only an interruption saves, and the first steps do not depend on how many there are."""
SIGNAL = "--signal=USR2"
ALL_NODES = ["--partition=urgent", "--nodes=4", "--exclusive", "--wrap=true"]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    """A config and overrides that make a run of seconds, on real text."""
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    return [str(ROOT / "launch/train/demo.toml"), *sources, *SMALL]


@pytest.fixture(scope="module")
def undisturbed(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process, without Slurm."""
    return train_here(tmp_path_factory.mktemp("undisturbed") / "run", tiny)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The run's, with the logs of its jobs beside it."""
    return tmp_path / "run"


def submit(slurm: Cluster, folder: Path, arguments: list[str], *options: str, **variables: str) -> int:
    """A training job of two nodes."""
    shape = ["--nodes=2", "--ntasks-per-node=1", f"--output={folder.parent}/%j.log"]
    return slurm.sbatch(*shape, *options, TRAIN, *arguments, f"run.folder={folder}", **variables)


def begin(slurm: Cluster, folder: Path, arguments: list[str], *options: str, steps: int = 10, **variables: str) -> int:
    """A training job of two nodes that has done so many steps."""
    job = submit(slurm, folder, arguments, *options, **variables)
    wait_for_steps(folder, steps)
    return job


def go_on(folder: Path) -> None:
    """Wait for ten more steps: those of the next start, where the last one has ended."""
    wait_for_steps(folder, steps_done(folder) + 10)


def finish(slurm: Cluster, job: int, timeout: float = TIMEOUT) -> str:
    """Wait until the job has ended well; returns all that its starts printed."""
    state, said = slurm.wait(job, timeout=timeout), slurm.output(job)
    assert state == "COMPLETED", said
    return said


def preempt(slurm: Cluster, log: Path) -> None:
    """Somebody more important takes all nodes, for a moment."""
    urgent = slurm.sbatch(*ALL_NODES, f"--output={log}")
    assert slurm.wait(urgent) == "COMPLETED"


def resumed_after(said: str) -> list[int]:
    return [int(step) for step in re.findall(r"resuming after step (\d+)", said)]


def test_four_tasks_on_two_nodes_train_what_one_process_trains(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = submit(slurm, folder, tiny, "--ntasks-per-node=2")
    assert "× 4 over gloo" in finish(slurm, job)
    assert len(slurm.nodes_of(job)) == 2
    assert_the_same_run(folder, undisturbed)


@pytest.mark.timeout(900)
def test_one_run_that_all_of_it_happens_to_ends_as_if_nothing_had(
    slurm: Cluster, tiny: list[str], folder: Path, tmp_path: Path
) -> None:
    arguments = [*tiny, *EVENTFUL]
    job = begin(slurm, folder, arguments)
    preempt(slurm, tmp_path / "urgent.log")
    go_on(folder)
    slurm.run("scancel", SIGNAL, str(job), check=True)  # as Slurm does near the time limit
    wait_for(lambda: "queued again" in slurm.output(job), "the job to be queued again")
    assert newest_checkpoint(folder) == steps_done(folder)
    go_on(folder)
    assert slurm.job(job)["Restarts"] == "2"
    slurm.run("scancel", str(job), check=True)
    assert slurm.wait(job) == "CANCELLED"
    said = slurm.output(job)
    assert "interrupted after step" in said
    assert said.count("queued again") == 1
    assert "PREEMPTED" in {state for state, _ in slurm.accounting(job)}

    again = submit(slurm, folder, arguments)
    go_on(folder)
    slurm.restart_controller()
    go_on(folder)
    assert slurm.job(again)["Restarts"] == "0"
    _, second = slurm.nodes_of(again)
    slurm.kill_node(second)
    said += finish(slurm, again)
    assert slurm.job(again)["Restarts"] == "1"
    assert second not in slurm.nodes_of(again)
    resumed = resumed_after(said)
    assert len(resumed) == 4
    assert resumed == sorted(resumed)
    assert_the_same_run(folder, train_here(tmp_path / "undisturbed", arguments))


@pytest.mark.slow
def test_a_job_that_is_told_of_its_limit_saves_and_goes_on_in_the_queue(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, [*tiny, "checkpoint.every=100"], steps=5)
    slurm.run("scancel", SIGNAL, str(job), check=True)
    said = finish(slurm, job)
    assert "interrupted after step" in said
    assert "queued again" in said
    assert len(resumed_after(said)) == 1
    assert slurm.job(job)["Restarts"] == "1"
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_job_that_loses_a_node_goes_on_elsewhere(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny)
    _, second = slurm.nodes_of(job)
    slurm.kill_node(second)
    assert len(resumed_after(finish(slurm, job))) == 1
    assert second not in slurm.nodes_of(job)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_preempted_job_goes_on_when_there_is_room(
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
def test_a_job_that_comes_near_its_time_limit_goes_on_in_the_queue(
    slurm: Cluster, tiny: list[str], folder: Path, tmp_path: Path
) -> None:
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
def test_a_cancelled_job_stays_cancelled_and_goes_on_when_submitted_again(
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
def test_a_controller_that_restarts_disturbs_no_job(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny, steps=3)
    slurm.restart_controller()
    finish(slurm, job)
    assert slurm.job(job)["Restarts"] == "0"
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_where_jobs_find_no_scontrol_and_no_sacct_the_rest_is_submitted_as_a_new_job(
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
def test_a_node_whose_death_nobody_tells_is_noticed_and_left(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    job = begin(slurm, folder, tiny)
    dead = slurm.nodes_of(job)[1]
    slurm.kill_node(dead, told=False)
    finish(slurm, job)
    assert dead not in slurm.nodes_of(job)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_start_that_saved_nothing_is_not_queued_again(slurm: Cluster, tiny: list[str], folder: Path) -> None:
    job = begin(slurm, folder, [*tiny, "checkpoint.every=100"], steps=3)
    os.kill(pid_of_rank(folder, 1), signal.SIGKILL)
    assert slurm.wait(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "1:0"
    said = slurm.output(job)
    assert "not queued again: this start added no checkpoint (the newest is none)" in said
    assert "task 1: Killed" in said


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
def test_accelerate_on_each_node_trains_the_same_and_hears_the_signal(
    slurm: Cluster, tiny: list[str], undisturbed: Path, folder: Path
) -> None:
    arguments, two = [*tiny, "checkpoint.every=100"], "--ntasks-per-node=2"
    job = begin(slurm, folder, arguments, two, steps=5, HBDIST_LAUNCHER="accelerate")
    slurm.run("scancel", SIGNAL, str(job), check=True)
    said = finish(slurm, job)
    assert "× 4 over gloo" in said
    assert "interrupted after step" in said
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
