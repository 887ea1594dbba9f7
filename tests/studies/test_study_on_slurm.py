"""Jobs of a study on Slurm: the resources they request, and a submission that Slurm refuses halfway. No job starts."""

from pathlib import Path

import pytest
from slurm_cluster.cluster import Cluster
from small_studies import MEASURE, write_study

from hbdist.errors import ConfigError
from hbdist.launch import Handle
from hbdist.studies.api import Study

pytest_plugins = ["slurm_cluster.fixture"]

HELD = {"cluster": "slurm", "nodes": 2, "hours": 0.5, "extra": {"hold": True}}
TWO_MEASURES = MEASURE.format(task="none") + MEASURE.format(task="other").replace("sentences", "more").replace(
    "@1", "@10"
)


def measures(resources: str) -> str:
    """Return two measures as TOML, the first with these resources."""
    return TWO_MEASURES.replace("[measure.columns]", f"resources = {resources}\n[measure.columns]", 1)


def test_an_evaluation_gets_the_resources_of_its_measure(slurm: Cluster, tmp_path: Path) -> None:
    study = Study.load(write_study(tmp_path, measure=measures("{ nodes = 1, hours = 0.25 }")))
    held = study.submit(**HELD)
    assert held.report

    def requested(handle: Handle) -> tuple[str, str]:
        fields = ("--noheader", "--array", "--format=%D %l", f"--jobs={handle.id}")
        nodes, limit = slurm.run("squeue", *fields, check=True).stdout.split()
        return nodes, limit

    assert {requested(handle) for handle in held.trainings} == {("2", "30:00")}
    by_measure = {handle.folder.name: requested(handle) for handle in held.evaluations}
    assert by_measure == {"sentences": ("1", "15:00"), "more": ("2", "30:00")}
    assert requested(held.report) == ("1", "30:00")
    assert {(status.state, status.problem) for status in study.status()} == {("pending", "JobHeldUser")}
    study.cancel()
    assert not slurm.run("squeue", "--noheader", check=True).stdout


def test_after_a_refusal_by_slurm_the_same_command_submits_the_rest(slurm: Cluster, tmp_path: Path) -> None:
    path = write_study(tmp_path, measure=measures('{ partition = "nowhere" }'))
    refused = r"invalid partition specified: nowhere.* 2 trainings and 0 evaluations were submitted before, and stay"
    with pytest.raises(ConfigError, match=refused):
        Study.load(path).submit(**HELD)
    write_study(tmp_path, measure=measures("{ }"))
    assert Study.load(path).submit(**HELD).text() == "started 0 trainings, 6 evaluations, and the report"
    Study.load(path).cancel()
    assert not slurm.run("squeue", "--noheader", check=True).stdout
