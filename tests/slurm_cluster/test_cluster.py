"""Emulated cluster: it runs jobs, accounts for them, loses and regains nodes, and leaves nothing behind."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from slurm_cluster.cluster import ROOT, Cluster, home
from slurm_cluster.daemons import HERE, processes

pytest_plugins = ["slurm_cluster.fixture"]


def test_two_nodes_run_four_tasks_with_gpus_of_their_own(slurm: Cluster, tmp_path: Path) -> None:
    tell = "srun --label bash -c 'echo $SLURMD_NODENAME $SLURM_LOCALID'"
    shape = ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", f"--output={tmp_path}/out"]
    job = slurm.sbatch(*shape, f"--wrap=echo GPUs $SLURM_GPUS_ON_NODE; {tell}")
    assert slurm.wait(job) == "COMPLETED"
    one, two = slurm.nodes_of(job)
    assert sorted(slurm.output(job).splitlines()) == [
        f"0: {one} 0",
        f"1: {one} 1",
        f"2: {two} 0",
        f"3: {two} 1",
        "GPUs 2",
    ]
    assert slurm.accounting(job) == [("COMPLETED", "0:0")]


def test_a_job_on_a_dead_node_starts_again_on_another(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.sbatch(
        "--open-mode=append", f"--output={tmp_path}/out", '--wrap=hostname; [ -n "$SLURM_RESTART_COUNT" ] || sleep 60'
    )
    slurm.wait(job, "RUNNING")
    (node,) = slurm.nodes_of(job)
    slurm.kill_node(node)
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    assert slurm.nodes_of(job) != [node]
    assert ("NODE_FAIL", "0:0") in slurm.accounting(job)
    slurm.start_node(node)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_second_cluster_has_its_own_jobs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    cluster = Cluster.up(home(f"beside-{os.getpid()}"), nodes=1)
    try:
        job = cluster.sbatch(f"--output={tmp_path}/out", "--wrap=sleep 60")
        cluster.wait(job, "RUNNING")
        assert cluster.run("squeue", "--noheader", "--format=%i", check=True).stdout.split() == [str(job)]
    finally:
        cluster.down()
    assert not cluster.folder.exists()
    assert not processes(cluster.folder)
    assert not processes(cluster.folder, tasks=True)


@pytest.mark.slow
def test_a_cluster_whose_owner_has_ended_is_stopped_by_the_next_one(slurm: Cluster) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    left = Cluster.up(home(f"left-{os.getpid()}"), nodes=1, owner=int(gone.stdout))
    Cluster.up(home(f"next-{os.getpid()}"), nodes=1).down()
    assert not left.folder.exists()
    assert slurm.folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
@pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv") or not shutil.which("python3", path=os.defpath),
    reason="needs root, and setpriv to become another user",
)
def test_any_user_can_start_a_cluster() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.chown(folder, "nobody", "nogroup")
        Path(folder).chmod(0o755)  # munged wants the way to its socket open for all
        shutil.copytree(HERE, Path(folder, "slurm_cluster"))
        verb = f"python3 {folder}/slurm_cluster --folder {folder}/it"
        job = f"{verb} up && . {folder}/it/env.sh && srun --nodes=4 hostname && {verb} down"
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "-i", f"PATH={os.defpath}"]
        done = subprocess.run(
            [*user, "bash", "-c", job], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 5, done.stdout
