"""A study on a real Slurm, from `sbatch slurm/sweep.sh` to its report."""

import json
import time
from pathlib import Path

import pytest
from launching import ROOT, lines, train
from slurm_cluster.cluster import Cluster
from small_studies import write_base, write_sentences, write_study

from hbdist.cli import main
from hbdist.studies.status import handles_of
from hbdist.studies.study import Study

pytest_plugins = ["slurm_cluster.fixture"]

SWEEP = str(ROOT / "slurm" / "sweep.sh")
FOUR = """
[grid]
"batch.mono_share" = [0.0, 1.0]
"loss.temperature" = [0.05, 0.02]
"""


def write(folder: Path, model: Path, shards: Path, axes: str) -> Study:
    write_base(folder, shards=shards, model=model)
    return Study.load(write_study(folder, axes=axes, task=write_sentences(folder / "sentences")))


def sweep(slurm: Cluster, study: Study, *options: str, timeout: float) -> None:
    """Submit as a user does, and wait until the study's last job has ended."""
    job = slurm.sbatch(f"--output={study.folder.parent}/sweep.log", SWEEP, str(study.path), "hours=0.5", *options)
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    deadline = time.monotonic() + timeout
    while not (study.folder / "report.html").is_file() or any(
        one.state in ("pending", "running") for one in handles_of(study)
    ):
        assert time.monotonic() < deadline, slurm.run("squeue", check=True).stdout
        time.sleep(0.5)


def test_a_sweep_trains_measures_and_reports(
    slurm: Cluster, tiny_model: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write(tmp_path, tiny_model, tiny_shards, '[grid]\n"batch.mono_share" = [0.0, 1.0]\n')
    sweep(slurm, study, "nodes=2", timeout=200)
    assert all(status.complete for status in study.status()), study.status()
    for run in study.runs:
        assert json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["world"] == 2
    assert main(["study", "submit", str(study.path), "--cluster", "slurm"]) == 0
    assert "nothing to start" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_runs_on_four_tasks_each_end_as_the_same_configs_do_here(
    slurm: Cluster, tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    study = write(tmp_path, tiny_model, tiny_shards, FOUR)
    sweep(slurm, study, "nodes=2", "tasks_per_node=2", timeout=600)
    assert all(status.complete for status in study.status())
    assert (study.folder / "report.html").is_file()
    for run in study.runs:
        here = tmp_path / "here" / run.name
        done = train(1, str(run.folder / "config.toml"), f"run.folder={here}")
        assert done.returncode == 0, done.stderr
        losses, theirs = ([step["loss"] for step in lines(one / "metrics.jsonl")] for one in (run.folder, here))
        assert losses == pytest.approx(theirs, rel=1e-5)
