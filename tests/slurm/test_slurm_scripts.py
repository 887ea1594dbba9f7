"""Scripts in slurm/ on a real Slurm: the variables of every rank, refusals, and requeued jobs."""

import os
from pathlib import Path

import pytest
from launching import ROOT
from slurm_cluster.cluster import Cluster, RefusedError

pytest_plugins = ["slurm_cluster.fixture"]

TRAIN = str(ROOT / "slurm/train.sh")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--partition=nowhere"], "invalid partition specified: nowhere"),
        (["--nodes=2", "--gpus-per-node=5"], "Requested node configuration is not available"),
    ],
)
def test_a_request_that_the_cluster_cannot_meet_is_refused_at_once(
    options: list[str], sentence: str, slurm: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=sentence):
        slurm.sbatch(*options, TRAIN, "launch/train/demo.toml", f"run.folder={tmp_path}/run")


TINY = ["data.shards=TINY", "data.languages=[]", "batch.size=4", "batch.mono_block=batch", "validation.every=0"]
"""Data that exists, whether or not the demo's are built."""


@pytest.mark.parametrize(
    ("options", "arguments", "variables", "sentence"),
    [
        ([], ["run.folder=/dev/null/run", *TINY], {}, "/dev/null/run cannot be written"),
        ([], ["batch.sice=4"], {}, "unknown key batch.sice. Did you mean batch.size?"),
        (["--gpus-per-node=2"], [], {}, "a node has 2 GPUs, and --ntasks-per-node is 1"),
        ([], [], {"HBDIST_LAUNCHER": "mpirun"}, "HBDIST_LAUNCHER is mpirun"),
        ([], [], {"HBDIST_SITE": "nowhere.sh"}, "HBDIST_SITE names nowhere.sh, which does not exist"),
        (["--chdir=/tmp"], [], {}, "/tmp is not the project's folder"),
    ],
)
def test_an_impossible_job_ends_with_a_sentence(
    options: list[str],
    arguments: list[str],
    variables: dict[str, str],
    sentence: str,
    slurm: Cluster,
    tiny_shards: Path,
    tmp_path: Path,
) -> None:
    log = f"--output={tmp_path}/%j.log"
    arguments = [argument.replace("TINY", str(tiny_shards)) for argument in arguments]
    job = slurm.sbatch("--nodes=1", log, *options, TRAIN, "launch/train/demo.toml", *arguments, **variables)
    assert slurm.wait(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "2:0"
    log = slurm.output(job)
    assert sentence in log
    assert "Traceback" not in log


def test_a_sweep_without_a_study_says_how_to_submit_it(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.sbatch(f"--output={tmp_path}/log", str(ROOT / "slurm/sweep.sh"))
    assert slurm.wait(job) == "FAILED"
    assert slurm.job(job)["ExitCode"] == "2:0"
    assert "which study? Submit it as: sbatch slurm/sweep.sh STUDY.toml" in slurm.output(job)


SHOW = """
import os
names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT CUDA_VISIBLE_DEVICES SITE INSIDE"
print(*[os.environ.get(name, "-") for name in names.split()])
"""


@pytest.mark.parametrize("gpus", ["--gpus-per-node=2", "--gpus-per-task=1"])
def test_every_rank_knows_its_number_and_sees_the_gpus_of_its_node(gpus: str, slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "site.sh").write_text("export SITE=ours HBDIST_CONTAINER='env INSIDE=it'\n")
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\n. slurm/common.sh\non_all_ranks -c '{SHOW}'\n")
    shape = ["--nodes=2", "--ntasks-per-node=2", gpus, f"--output={tmp_path}/log"]
    job = slurm.sbatch(*shape, str(tmp_path / "job.sh"), HBDIST_SITE=str(tmp_path / "site.sh"))
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    there = f"127.0.0.1 {15_000 + job * 31 % 15_000}"
    devices = "0,1" if os.getuid() == 0 else "-"  # only root can make devices to pretend with
    expected = [f"{rank}: {rank} 4 {rank % 2} 2 {there} {devices} ours it" for rank in range(4)]
    assert sorted(slurm.output(job).splitlines()) == expected


def test_without_scontrol_the_job_continues_as_a_new_one_of_the_same_shape(slurm: Cluster, tmp_path: Path) -> None:
    show = "echo there: $SLURM_JOB_NUM_NODES $SLURM_NTASKS_PER_NODE $SLURM_GPUS_ON_NODE $SLURM_OF_THE_OLD $@"
    (tmp_path / "again.sh").write_text(f"#!/bin/bash\n#SBATCH --open-mode=append\n{show}\n")
    again = f"export SLURM_OF_THE_OLD=job\nqueue_again {tmp_path}/again.sh 'two words'"
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\n. slurm/common.sh\n{again}\n")
    shape = ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--time=17", f"--output={tmp_path}/%j.log"]
    job = slurm.sbatch(*shape, str(tmp_path / "job.sh"), PATH=slurm.path_without("scontrol", "sacct"))
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    new = int(slurm.output(job).partition("submitted again, as job ")[2].split()[0])
    assert slurm.wait(new) == "COMPLETED"
    assert slurm.job(new)["TimeLimit"] == "00:17:00"
    assert slurm.output(job).endswith("there: 2 2 2 two words\n")  # one log


def test_without_any_slurm_command_the_log_says_what_to_do(slurm: Cluster, tmp_path: Path) -> None:
    without = slurm.path_without("scontrol", "sacct", "squeue", "sbatch")
    (tmp_path / "job.sh").write_text(f"#!/bin/bash\nPATH={without}\n. slurm/common.sh\nqueue_again slurm/train.sh\n")
    job = slurm.sbatch(f"--output={tmp_path}/log", str(tmp_path / "job.sh"))
    assert slurm.wait(job) == "COMPLETED"
    assert "Slurm accepts no job from here. Submit the same again" in slurm.output(job)
