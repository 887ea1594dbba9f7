"""A study on a real Slurm, from `sbatch slurm/sweep.sh` to its report."""

import json
from pathlib import Path

import pytest
from launching import ROOT
from slurm_cluster.cluster import Cluster
from small_studies import MEASURE, write_base, write_sentences, write_study
from whole_runs import losses, train_here, wait_for

from hbdist.cli import main
from hbdist.studies.api import Study

pytest_plugins = ["slurm_cluster.fixture"]

FOUR = """
[grid]
"batch.mono_share" = [0.0, 1.0]
"loss.temperature" = [0.05, 0.02]
"""
ON_FEWER = "resources = { nodes = 1, tasks_per_node = 1 }\n[measure.columns]"
"""Resources of evaluations in one process: they compute next to nothing here, but every process takes seconds to start."""


@pytest.mark.timeout(900)
def test_a_sweep_of_four_runs_on_four_tasks_each_ends_in_a_report_and_the_losses_of_one_process(
    slurm: Cluster, tiny_model: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_base(tmp_path, shards=tiny_shards, model=tiny_model)
    measure = MEASURE.format(task=write_sentences(tmp_path / "sentences"))
    path = write_study(tmp_path, axes=FOUR, measure=measure.replace("[measure.columns]", ON_FEWER))
    resources = ["nodes=2", "tasks_per_node=2", "hours=0.5"]
    job = slurm.sbatch(f"--output={tmp_path}/sweep.log", str(ROOT / "slurm/sweep.sh"), str(path), *resources)
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    study = Study.load(path)
    wait_for((study.folder / "report.html").is_file, "the report, which waits for all other jobs", timeout=600)
    assert len(study.runs) == 4
    assert all(status.complete for status in study.status()), study.status()
    for run in study.runs:
        assert json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))["world"] == 4
        here = train_here(tmp_path / "here" / run.name, [str(run.folder / "config.toml")])
        assert losses(run.folder) == pytest.approx(losses(here), rel=1e-5)
    capsys.readouterr()
    assert main(["study", "submit", str(path), "--cluster", "slurm"]) == 0
    assert "nothing to start" in capsys.readouterr().out
