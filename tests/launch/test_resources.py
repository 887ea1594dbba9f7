"""What a job may use is checked where it is written down."""

from dataclasses import replace
from typing import Any

import pytest

from hbdist.errors import ConfigError
from hbdist.launch import Resources


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"cluster": "lsf"}, r"cluster = 'lsf', which is none\. It is \"slurm\", \"local\" or \"debug\""),
        ({"nodes": 0}, "nodes = 0, and it is a whole number from 1"),
        ({"nodes": 2.0}, "nodes = 2.0, and it is a whole number"),
        ({"cpus_per_task": True}, "cpus_per_task = True"),
        ({"gpus_per_node": -1}, "gpus_per_node = -1, and it is a whole number from 0"),
        ({"hours": 0}, "hours = 0, and it is a number above 0"),
        ({"hours": "12:00:00"}, "hours = '12:00:00', and it is a number"),
        ({"memory": 64}, "memory = 64, and it is text"),
        ({"gpus_per_node": 8, "tasks_per_node": 1}, "a rank trains on one GPU. Leave tasks_per_node out"),
        ({"cluster": "local", "nodes": 2}, "this one machine. Set nodes = 1"),
        ({"hours": 0.03}, "told to stop as soon as it starts"),
        ({"setup": "module load cuda"}, "it is a list of lines"),
        ({"extra": {"ntasks_per_node": 4}}, "'ntasks_per_node', which follows from tasks_per_node"),
        ({"extra": {"--time": "1:00"}}, "'--time', which follows from hours"),
        ({"gpus": 8}, r"unknown key gpus\. .*gpus_per_node"),
        ({"partitions": "a"}, r"unknown key partitions\. Did you mean partition\?"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_its_place(table: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^study.toml: .*{sentence}"):
        Resources.read(table, source="study.toml")


def test_ranks_are_gpus_unless_there_are_none() -> None:
    assert Resources(gpus_per_node=8).tasks == 8
    assert Resources(tasks_per_node=3).tasks == 3
    assert Resources().tasks == 1


def test_a_table_becomes_options_of_sbatch() -> None:
    table = {"nodes": 4, "gpus_per_node": 8, "hours": 1.51, "partition": "gpu", "setup": ["module load cuda"]}
    options = Resources.read(table | {"cpus_per_task": 7, "extra": {"--mail_type": "END"}}, source="s").sbatch()
    assert (options["nodes"], options["ntasks_per_node"], options["time"], options["partition"]) == (4, 8, 91, "gpu")
    assert options["srun_args"] == ["--kill-on-bad-exit=1", "--cpus-per-task=7"]
    assert options["additional_parameters"] == {"requeue": True, "kill-on-invalid-dep": "yes", "mail-type": "END"}
    assert "account" not in options
    assert "gpus_per_node" not in replace(Resources(), nodes=2).sbatch()
