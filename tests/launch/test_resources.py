"""Resources: wrong values are refused where they are written down."""

import os
from pathlib import Path
from typing import Any

import pytest

from hbdist.errors import ConfigError
from hbdist.launch import Resources
from hbdist.launch.snapshot import outside_of_jobs


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"cluster": "lsf"}, r"cluster = 'lsf': input should be 'slurm', 'local' or 'debug'"),
        ({"nodes": 0}, "nodes = 0: input should be greater than or equal to 1"),
        ({"nodes": 2.0}, "nodes = 2.0: input should be a valid integer"),
        ({"cpus_per_task": True}, "cpus_per_task = True: input should be a valid integer"),
        ({"gpus_per_node": -1}, "gpus_per_node = -1: input should be greater than or equal to 0"),
        ({"hours": 0}, "hours = 0: input should be greater than 0"),
        ({"hours": "12:00:00"}, "hours = '12:00:00': input should be a valid number"),
        ({"memory": 64}, "memory = 64: input should be a valid string"),
        ({"gpus_per_node": 8, "tasks_per_node": 1}, "a rank trains on one GPU. Leave tasks_per_node out"),
        ({"cluster": "local", "nodes": 2}, "runs on this machine alone. Set nodes = 1"),
        ({"hours": 0.03}, "told to stop as soon as it starts"),
        (
            {"setup": "module load cuda"},
            "setup = 'module load cuda': input should be a valid list. setup: Lines of shell",
        ),
        ({"extra": {"ntasks_per_node": 4}}, "'ntasks_per_node', which follows from tasks_per_node"),
        ({"extra": {"--time": "1:00"}}, "'--time', which follows from hours"),
        ({"gpus": 8}, r"unknown key gpus\. .*gpus_per_node"),
        ({"partitions": "a"}, r"unknown key partitions\. Did you mean partition\?"),
    ],
)
def test_a_mistake_is_refused_with_its_source_its_key_and_its_value(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^study.toml: .*{sentence}"):
        Resources.read(table, source="study.toml")


def test_there_is_one_rank_per_gpu() -> None:
    assert Resources(gpus_per_node=8).tasks == 8
    assert Resources(tasks_per_node=3).tasks == 3
    assert Resources().tasks == 1


def test_resources_become_options_of_sbatch() -> None:
    table = {"nodes": 4, "gpus_per_node": 8, "hours": 1.51, "partition": "gpu", "setup": ["module load cuda"]}
    options = Resources.read(table | {"cpus_per_task": 7, "extra": {"--mail_type": "END"}}, source="s").sbatch()
    assert (options["nodes"], options["ntasks_per_node"], options["time"], options["partition"]) == (4, 8, 91, "gpu")
    assert options["srun_args"] == ["--kill-on-bad-exit=1", "--cpus-per-task=7"]
    assert options["additional_parameters"] == {"requeue": True, "kill-on-invalid-dep": "yes", "mail-type": "END"}
    assert "account" not in options
    assert "gpus_per_node" not in Resources(nodes=2).sbatch()


@pytest.mark.parametrize(("extra", "wckeys"), [({}, []), ({"wckey": "mine"}, ["#SBATCH --wckey=mine"])])
def test_a_batch_script_has_no_wckey_unless_one_is_asked_for(
    extra: dict[str, str], wckeys: list[str], tmp_path: Path
) -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    script = _make_sbatch_string("true", str(tmp_path), **Resources(extra=extra).sbatch())
    assert "#SBATCH --nodes=1" in script
    assert [line for line in script.splitlines() if "wckey" in line] == wckeys


def test_the_wckey_of_the_environment_is_heeded_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_WCKEY", "mine")
    with outside_of_jobs(Resources()):
        assert os.environ["SBATCH_WCKEY"] == "mine"
    with outside_of_jobs(Resources(extra={"--wckey": "other"})):
        assert "SBATCH_WCKEY" not in os.environ


def test_the_constructor_refuses_a_mistake_too() -> None:
    with pytest.raises(ConfigError, match=r"^nodes = 0: "):
        Resources(nodes=0)
