"""Jobs of a real Slurm: whatever happens to one, its run ends with the numbers of a run that nothing happened to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import ROOT, TIMEOUT, environment, lines, outcome, train
from slurm_cluster.cluster import Cluster

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
LONG = ["steps=1500", "checkpoint.every=100", "optimizer.lr=1e-6"]
"""More than half a minute of training, and steps so small that differences by rounding do not grow over so many."""


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    """A config and overrides that make a run of seconds, on real text."""
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    return ["launch/train/demo.toml", *sources, *SMALL]


@pytest.fixture(scope="module")
def undisturbed(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process, without Slurm."""
    return local_run(tiny, tmp_path_factory.mktemp("undisturbed") / "run")


def local_run(arguments: list[str], folder: Path) -> Path:
    done = train(1, *arguments, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def submit(slurm: Cluster, folder: Path, arguments: list[str], *options: str, **variables: str) -> int:
    """A training job of two nodes, with its log beside the run's folder."""
    log = f"--output={folder.parent}/%j.log"
    shape = ["--nodes=2", "--ntasks-per-node=1", log, *options]
    return slurm.sbatch(*shape, TRAIN, *arguments, f"run.folder={folder}", **variables)


def assert_the_same_run(folder: Path, other: Path) -> None:
    assert outcome(folder)["state"] == "done"
    assert (folder / "model" / "model.safetensors").is_file()
    losses, theirs = ([step["loss"] for step in lines(one / "metrics.jsonl")] for one in (folder, other))
    assert losses == pytest.approx(theirs, rel=1e-5)
    assert lines(folder / "batches.jsonl") == lines(other / "batches.jsonl")


def wait_for_steps(folder: Path, steps: int) -> None:
    path = folder / "metrics.jsonl"
    wait_for(lambda: path.is_file() and path.read_text().count("\n") >= steps, f"{steps} steps in {folder}")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def test_four_tasks_on_two_nodes_train_what_one_process_trains(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    job = submit(slurm, tmp_path / "run", tiny, "--ntasks-per-node=2")
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    assert "× 4 over gloo" in slurm.output(job)
    assert len(slurm.nodes_of(job)) == 2
    assert_the_same_run(tmp_path / "run", undisturbed)


def test_a_job_that_is_told_of_its_limit_saves_and_goes_on_in_the_queue(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, [*tiny, "checkpoint.every=100"])
    wait_for_steps(folder, 5)
    slurm.run("scancel", "--signal=USR2", str(job), check=True)
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    said = slurm.output(job)
    assert "interrupted after step" in said
    assert "queued again" in said
    assert "resuming after step" in said
    assert slurm.job(job)["Restarts"] == "1"
    assert_the_same_run(folder, undisturbed)


def test_a_job_that_loses_a_node_goes_on_elsewhere(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, tiny)
    wait_for_steps(folder, 10)
    _, second = slurm.nodes_of(job)
    slurm.kill_node(second)
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    assert second not in slurm.nodes_of(job)
    assert "resuming after step" in slurm.output(job)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_preempted_job_goes_on_when_there_is_room(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, tiny)
    wait_for_steps(folder, 10)
    urgent = slurm.sbatch(
        "--partition=urgent", "--nodes=4", "--exclusive", "--wrap=sleep 1", f"--output={tmp_path}/urgent"
    )
    assert slurm.wait(urgent) == "COMPLETED"
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    assert slurm.job(job)["Restarts"] == "1"
    assert "PREEMPTED" in {state for state, _ in slurm.accounting(job)}
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_comes_near_its_time_limit_goes_on_in_the_queue(
    slurm: Cluster, tiny: list[str], tmp_path: Path
) -> None:
    folder, long = tmp_path / "run", [*tiny, *LONG]
    job = submit(slurm, folder, long, "--time=1", "--signal=USR2@30")
    assert slurm.wait(job, timeout=400) == "COMPLETED", slurm.output(job)
    assert int(slurm.job(job)["Restarts"]) >= 1
    assert_the_same_run(folder, local_run(long, tmp_path / "local"))


@pytest.mark.slow
def test_a_cancelled_job_stays_cancelled_and_goes_on_when_submitted_again(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, tiny)
    wait_for_steps(folder, 10)
    slurm.run("scancel", str(job), check=True)
    assert slurm.wait(job) == "CANCELLED"
    assert "queued again" not in slurm.output(job)
    again = submit(slurm, folder, tiny)
    assert slurm.wait(again) == "COMPLETED", slurm.output(again)
    assert "resuming after step" in slurm.output(again)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_controller_that_restarts_disturbs_no_job(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, tiny)
    wait_for_steps(folder, 3)
    slurm.restart_controller()
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    assert slurm.job(job)["Restarts"] == "0"
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_where_jobs_find_no_scontrol_and_no_sacct_the_rest_is_submitted_as_a_new_job(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, tiny, "--time=17", PATH=slurm.path_without("scontrol", "sacct"))
    wait_for_steps(folder, 5)
    slurm.run("scancel", "--signal=USR2", str(job), check=True)
    assert slurm.wait(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "75:0"
    again = int(slurm.output(job).rpartition("submitted again, as job ")[2].split()[0])
    assert slurm.wait(again) == "COMPLETED", slurm.output(again)
    assert slurm.job(again)["TimeLimit"] == "00:17:00"
    assert len(slurm.nodes_of(again)) == 2
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_node_whose_death_nobody_tells_is_noticed_and_left(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, tiny)
    wait_for_steps(folder, 10)
    dead = slurm.nodes_of(job)[1]
    slurm.kill_node(dead, told=False)
    assert slurm.wait(job, timeout=200) == "COMPLETED", slurm.output(job)
    assert dead not in slurm.nodes_of(job)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_start_that_saved_nothing_is_not_queued_again(slurm: Cluster, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, [*tiny, "checkpoint.every=100"])
    wait_for_steps(folder, 3)
    os.kill(rank_of(folder, 1), signal.SIGKILL)
    assert slurm.wait(job) == "FAILED"
    said = slurm.output(job)
    assert "not queued again: this start added no checkpoint (the newest is none)" in said
    assert "task 1: Killed" in said


@pytest.mark.slow
def test_a_rank_that_dies_after_a_checkpoint_costs_only_the_steps_since(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, tiny)
    wait_for_steps(folder, 10)
    os.kill(rank_of(folder, 1), signal.SIGKILL)
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_accelerate_on_each_node_trains_the_same_and_hears_the_signal(
    slurm: Cluster, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = submit(slurm, folder, [*tiny, "checkpoint.every=100"], "--ntasks-per-node=2", HBDIST_LAUNCHER="accelerate")
    wait_for_steps(folder, 5)
    slurm.run("scancel", "--signal=USR2", str(job), check=True)
    assert slurm.wait(job, timeout=240) == "COMPLETED", slurm.output(job)
    assert "× 4 over gloo" in slurm.output(job)
    assert "interrupted after step" in slurm.output(job)
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
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    one, two = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("here", "there"))
    assert {**one, "seconds": None} == {**two, "seconds": None}


def rank_of(folder: Path, rank: int) -> int:
    """The process that is this rank of the run in this folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            told, said = (path / "environ").read_bytes().split(b"\0"), (path / "cmdline").read_bytes()
        except OSError:
            continue
        if f"run.folder={folder}".encode() in said and f"RANK={rank}".encode() in told:
            return int(path.name)
    raise AssertionError(f"no process with RANK={rank} trains in {folder}")
