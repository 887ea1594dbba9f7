"""Scripts in slurm/ on clusters with other settings: whole nodes, an empty environment, no venv, unusual folders."""

from pathlib import Path

import pytest
from launching import ROOT
from slurm_cluster.cluster import Cluster
from whole_runs import wait_for_steps

pytest_plugins = ["slurm_cluster.fixture"]

TRAIN = str(ROOT / "slurm/train.sh")
SHOW = "import os; print(os.environ.get('SLURM_CPUS_PER_TASK', '-'), os.environ.get('MASTER_PORT', '-'))"


def job_of(folder: Path, *lines: str) -> str:
    """Write a script that begins like those in slurm/."""
    path = folder / "job.sh"
    path.write_text("\n".join(["#!/bin/bash", ". slurm/common.sh", *lines]) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("options", "cpus"),
    [
        (["--exclusive"], "2"),  # of four on a node, for two ranks
        (["--cpus-per-task=1", "--exclusive"], "1"),
        ([], "1"),
        (["--exclusive", "--export=NONE"], "2"),  # then srun passes nothing on by itself
    ],
)
def test_ranks_share_the_cpus_of_their_node(options: list[str], cpus: str, slurm: Cluster, tmp_path: Path) -> None:
    script = job_of(tmp_path, f'on_all_ranks -c "{SHOW}"')
    shape = ["--nodes=2", "--ntasks-per-node=2", f"--output={tmp_path}/log", f"--chdir={ROOT}"]
    job = slurm.sbatch(*shape, *options, script)
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    port = 15_000 + job * 31 % 15_000
    assert sorted(slurm.output(job).splitlines()) == [f"{rank}: {cpus} {port}" for rank in range(4)]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"HBDIST_VENV": "/no/such/venv"}, "HBDIST_VENV is /no/such/venv, and there is no /no/such/venv/bin/python"),
        ({"HBDIST_VENV": "", "PATH": "WITHOUT"}, "there is no python: no"),
    ],
)
def test_a_missing_python_is_reported_with_a_sentence(
    variables: dict[str, str], sentence: str, slurm: Cluster, tmp_path: Path
) -> None:
    project = tmp_path / "a project"  # which has no .venv
    project.mkdir()
    (project / "slurm").symlink_to(ROOT / "slurm")
    without = {key: slurm.path_without("python") if value == "WITHOUT" else value for key, value in variables.items()}
    job = slurm.sbatch(f"--output={tmp_path}/log", TRAIN, cwd=project, **without)
    assert slurm.wait(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "2:0"
    assert sentence in slurm.output(job)


@pytest.mark.slow
def test_a_job_is_refused_and_not_requeued_while_another_works_on_its_run(
    slurm: Cluster, tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a run"
    data = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    long = ["batch.size=16", "steps=100000", "checkpoint.every=2", "optimizer.lr=1e-6", "model.dropout=0"]
    train = [f"--output={tmp_path}/%j.log", TRAIN, "launch/train/demo.toml", *data, *long, f"run.folder={folder}"]
    first = slurm.sbatch(*train)
    wait_for_steps(folder, 2)
    second = slurm.sbatch("--nodes=2", *train)
    assert slurm.wait(second) == "FAILED"
    assert slurm.job(second)["ExitCode"] == "2:0"
    log = slurm.output(second)
    assert f"{folder} is being worked on by job {first}, process " in log
    assert "queued again" not in log
    assert slurm.job(first)["JobState"] == "RUNNING"
    slurm.run("scancel", str(first), check=True)


def test_a_sweep_on_a_whole_node_says_that_the_jobs_of_a_study_use_no_container(slurm: Cluster, tmp_path: Path) -> None:
    options = ["--exclusive", f"--output={tmp_path}/log", str(ROOT / "slurm/sweep.sh"), str(tmp_path / "none.toml")]
    job = slurm.sbatch(*options, HBDIST_CONTAINER="env")
    assert slurm.wait(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "2:0"
    log = slurm.output(job)
    assert f"the jobs of a study run in {ROOT}/.venv/bin/python, not in HBDIST_CONTAINER" in log
    assert "none.toml does not exist" in log
