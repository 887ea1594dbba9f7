"""Jobs on a real Slurm, submitted through Submitit: whatever happens to one, its run ends with the same numbers."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from jobs import overrides, printed
from launching import ROOT, TIMEOUT
from slurm_cluster.cluster import Cluster
from whole_runs import assert_the_same_run, assert_the_same_steps, train_here, wait_for, wait_for_steps

import hbdist
from hbdist.errors import ConfigError, ResumeError
from hbdist.launch import Command, Handle, JobError, Resources, find_handle, submit_all
from hbdist.launch.job import limit_threads
from hbdist.launch.rank import become_a_rank
from hbdist.launch.snapshot import outside_of_jobs
from hbdist.runs.lock import refuse_while_locked

pytest_plugins = ["slurm_cluster.fixture"]

ON_CPUS = {"hours": 1.0, "memory": "500M"}
LONG = ("steps=60", "checkpoint.every=100")
ENDLESS = ("steps=100000", "checkpoint.every=100000", "optimizer.lr=3e-6", "optimizer.schedule=constant")
"""Overrides of a long run: it saves only when interrupted, and its first steps do not depend on `steps`."""


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def keys(tiny_model: Path, tiny_shards: Path) -> list[str]:
    return [str(ROOT / "launch/train/demo.toml"), *overrides(tiny_model, tiny_shards)]


@pytest.fixture(scope="module")
def undisturbed(keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train an undisturbed run of 60 steps in one process."""
    return train_here(tmp_path_factory.mktemp("undisturbed") / "run", [*keys, *LONG])


def begin_soon(slurm: Cluster, handle: Handle) -> None:
    """Wait until a requeued job has started again, which it does once its old credentials have expired, after seconds."""

    def begun() -> bool:
        fields = slurm.job(int(handle.id))
        return fields["Restarts"] != "0" and fields["JobState"] in ("RUNNING", "COMPLETED")

    wait_for(begun, "a second start")


def test_a_job_told_to_stop_saves_and_resumes_and_no_other_process_takes_its_run(
    slurm: Cluster, keys: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = (*keys, *LONG, f"run.folder={folder}")
    handle = hbdist.submit(*arguments, nodes=2, **ON_CPUS)
    wait_for_steps(folder, 5)
    assert find_handle(folder) == handle
    assert handle.state == "running"
    with pytest.raises(ResumeError, match=rf"job {handle.id} \(.*run\) is running already"):
        hbdist.submit(*arguments, cluster="local")
    with pytest.raises(
        ResumeError, match=rf"worked on by job {handle.id}, process \d+ on node1\. Wait .*scancel {handle.id}"
    ):
        refuse_while_locked(folder)

    slurm.run("scancel", "--signal=USR2", handle.id, check=True)
    wait_for(lambda: "interrupted after step" in printed(handle), "a checkpoint")
    assert handle.state in ("running", "pending")
    begin_soon(slurm, handle)
    assert handle.result(timeout=TIMEOUT).message.startswith("trained 60 steps"), printed(handle)
    assert handle.state == "done"
    assert "resuming after step" in printed(handle)
    assert_the_same_run(folder, undisturbed)


def test_a_submission_from_inside_a_job_inherits_none_of_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {"SLURM_NTASKS": "8", "SRUN_DEBUG": "1", "SBATCH_ARRAY_INX": "1", "SUBMITIT_FOLDER": "x", "RANK": "3"}
    kept = {"SLURM_CONF": "slurm.conf", "SBATCH_ACCOUNT": "mine", "HOME": "/home/me"}
    for name, value in {**hidden, **kept, "SBATCH_PARTITION": "slow"}.items():
        monkeypatch.setenv(name, value)
    with outside_of_jobs(Resources(partition="fast")):
        assert not {*hidden, "SBATCH_PARTITION"} & set(os.environ)
        assert kept.items() <= os.environ.items()
    with outside_of_jobs(Resources()):
        assert os.environ["SBATCH_PARTITION"] == "slow"
    assert os.environ["RANK"] == "3"


@pytest.mark.parametrize(("gpus", "local"), [("", ("1", "2")), ("0,1", ("1", "2")), ("1", ("0", "1"))])
def test_a_task_becomes_the_rank_that_slurm_assigns(gpus: str, local: tuple[str, str]) -> None:
    step = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}
    where = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[07-08]"}
    of_the_submitter = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "1"}
    environment = {**step, **where, **of_the_submitter, "CUDA_VISIBLE_DEVICES": gpus}
    assert become_a_rank(environment) == 3
    assert (environment["RANK"], environment["WORLD_SIZE"]) == ("3", "4")
    assert (environment["LOCAL_RANK"], environment["LOCAL_WORLD_SIZE"]) == local
    assert environment["MASTER_ADDR"] == "gpu07"
    assert 1024 < int(environment["MASTER_PORT"]) < 32768
    alone = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "WORLD_SIZE": "4"}
    assert become_a_rank(alone) == 0
    assert "WORLD_SIZE" not in alone


def test_a_task_uses_as_many_threads_as_it_has_cpus_unless_the_user_says_otherwise() -> None:
    environment = {"SLURM_CPUS_PER_TASK": "7"}
    limit_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "7"
    chosen = {"SLURM_CPUS_PER_TASK": "7", "OMP_NUM_THREADS": "2"}
    limit_threads(chosen)
    assert chosen["OMP_NUM_THREADS"] == "2"


@pytest.mark.slow
def test_two_nodes_with_two_tasks_each_train_what_one_process_trains(
    slurm: Cluster, keys: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    handle = hbdist.submit(*keys, *LONG, f"run.folder={tmp_path}/run", nodes=2, tasks_per_node=2, **ON_CPUS)
    assert handle.result(timeout=TIMEOUT).code == 0, printed(handle)
    assert slurm.job(int(handle.id))["NumNodes"] == "2"
    assert "the CPU × 4 over gloo" in printed(handle)
    assert len(handle.logs) == 4
    assert_the_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_preempted_job_resumes(slurm: Cluster, keys: list[str], undisturbed: Path, tmp_path: Path) -> None:
    handle = hbdist.submit(*keys, *LONG, "checkpoint.every=5", f"run.folder={tmp_path}/run", nodes=4, **ON_CPUS)
    wait_for_steps(tmp_path / "run", 11)
    urgent = slurm.sbatch("--partition=urgent", "--nodes=4", "--exclusive", "--wrap=sleep 1")
    assert slurm.wait(urgent) == "COMPLETED"
    begin_soon(slurm, handle)
    assert handle.result(timeout=TIMEOUT).code == 0, printed(handle)
    assert "resuming after step" in printed(handle)
    assert_the_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_near_its_time_limit_saves_and_resumes(slurm: Cluster, keys: list[str], tmp_path: Path) -> None:
    # Slurm looks at time limits every half a minute since its controller's start, and one look ahead: here, of each start,
    # at the first look after 25 seconds.
    slurm.restart_controller()
    folder = tmp_path / "run"
    two_minutes = {"hours": 2 / 60, "signal_delay_s": 65, "memory": "500M"}
    handle = hbdist.submit(*keys, *ENDLESS, f"run.folder={folder}", nodes=2, **two_minutes)
    wait_for(lambda: "resuming after step" in printed(handle), "a second start")
    assert int(slurm.job(int(handle.id))["Restarts"]) >= 1
    assert handle.state == "running"
    steps = int(printed(handle).partition("resuming after step ")[2].split()[0]) + 20
    wait_for_steps(folder, steps)
    handle.cancel()
    assert slurm.wait(int(handle.id)) == "CANCELLED"
    assert_the_same_steps(folder, train_here(tmp_path / "undisturbed", [*keys, *ENDLESS, f"steps={steps}"]))


@pytest.mark.slow
def test_a_job_that_loses_a_node_names_it_and_resumes_on_another(
    slurm: Cluster, keys: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    handle = hbdist.submit(*keys, *LONG, "checkpoint.every=5", f"run.folder={folder}", nodes=2, **ON_CPUS)
    wait_for_steps(folder, 11)
    _, second = slurm.nodes_of(int(handle.id))
    slurm.kill_node(second, told=False)
    start = time.monotonic()
    wait_for(lambda: f"rank 1 ({second}, process" in printed(handle), "the name of the lost rank")
    assert time.monotonic() - start < 15
    slurm.run("scontrol", "update", f"nodename={second}", "state=down", "reason=killed", check=True)
    assert handle.result(timeout=TIMEOUT).code == 0, printed(handle)
    assert second not in slurm.nodes_of(int(handle.id))
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_job_that_loses_a_rank_before_it_has_saved_anything_fails_and_says_which(
    slurm: Cluster, keys: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    handle = hbdist.submit(*keys, "steps=5000", "checkpoint.every=5000", f"run.folder={folder}", nodes=2, **ON_CPUS)
    wait_for_steps(folder, 2)
    os.kill(rank_pid(folder, rank=1), signal.SIGKILL)
    with pytest.raises(JobError, match=r"is failed: rank 1 \(node\d, process \d+\) is gone: it was killed or crashed"):
        handle.result(timeout=30)
    assert "not put back into the queue: this start has added no checkpoint" in printed(handle)
    assert not (folder / "running.json").exists()


@pytest.mark.slow
def test_jobs_without_scontrol_are_submitted_anew(
    slurm: Cluster, keys: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    path = f"export PATH={slurm.path_without('scontrol', 'sacct')}"
    handle = hbdist.submit(*keys, *LONG, f"run.folder={folder}", nodes=2, setup=[path], **ON_CPUS)
    wait_for_steps(folder, 5)
    slurm.run("scancel", "--signal=USR2", handle.id, check=True)
    wait_for(lambda: (find_handle(folder) or handle).id != handle.id, "a new job")
    again = find_handle(folder)
    assert again is not None
    assert again.result(timeout=TIMEOUT).code == 0, printed(again)
    assert_the_same_run(folder, undisturbed)


@pytest.mark.slow
def test_a_cancelled_job_saves_and_is_not_requeued(slurm: Cluster, keys: list[str], tmp_path: Path) -> None:
    folders = [tmp_path / "by handle", tmp_path / "by hand"]
    by_handle, by_hand = [hbdist.submit(*keys, "steps=5000", f"run.folder={folder}", **ON_CPUS) for folder in folders]
    for folder in folders:
        wait_for_steps(folder, 2)
    by_handle.cancel()
    slurm.run("scancel", by_hand.id, check=True)
    for handle, state in ((by_handle, "cancelled"), (by_hand, "interrupted")):
        assert slurm.wait(int(handle.id)) == "CANCELLED"
        assert handle.state == state
        assert "not put back into the queue" in printed(handle)
        assert (handle.folder / "checkpoints" / "latest").is_file()
    with pytest.raises(JobError, match="is cancelled"):
        by_handle.result()
    again = hbdist.submit(*keys, "steps=5000", f"run.folder={folders[0]}", **ON_CPUS)
    wait_for(lambda: "resuming after step" in printed(again), "going on")
    again.cancel()


@pytest.mark.slow
def test_an_array_respects_its_limit_and_jobs_of_another_wait_for_their_own(
    slurm: Cluster, tiny_shards: Path, tmp_path: Path
) -> None:
    keys = (f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]", "batch.size=16")
    good = Command(("plan", "launch/train/demo.toml", *keys))
    wrong = Command((*good.words, "batch.sice=4"))
    resources = Resources(**ON_CPUS, nodes=2)
    names = ["a", "b", "c"]
    first = submit_all([good, wrong, good], resources, names=names, folder=tmp_path, at_once=1)
    assert [handle.id.partition("_")[2] for handle in first] == ["0", "1", "2"]
    then = submit_all([good] * 3, resources, names=[f"after/{name}" for name in names], folder=tmp_path, after=first)
    mixed = submit_all([good] * 2, resources, names=["x", "y"], folder=tmp_path, after=[first[2], first[1]])
    (last,) = submit_all([good], resources, names=["last"], folder=tmp_path, after=[*then, *mixed], after_any=True)
    most = 0
    while last.state in ("pending", "running"):
        most = max(most, sum(handle.state == "running" for handle in first))
    assert most == 1
    assert [handle.state for handle in first] == ["done", "invalid", "done"]
    assert [handle.state for handle in then] == ["done", "cancelled", "done"]
    assert [handle.state for handle in mixed] == ["done", "cancelled"]
    assert last.state == "done"
    assert "unknown key batch.sice" in printed(first[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere.* Check partition"),
        ({"gpus_per_node": 5}, "Requested node configuration is not available"),
        ({"extra": {"no-such-option": 1}}, "no-such-option"),
    ],
)
def test_a_request_that_the_cluster_cannot_meet_is_refused_with_a_sentence(
    resources: dict[str, Any], sentence: str, slurm: Cluster, keys: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"sbatch refuses the job: .*{sentence}"):
        hbdist.submit(*keys, f"run.folder={tmp_path}/run", hours=1.0, **resources)
    assert find_handle(tmp_path / "run") is None


def rank_pid(folder: Path, *, rank: int) -> int:
    """Return the process id of this rank of the run in this folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables, words = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
        except OSError:
            continue
        of_submitit = b"submitit.core._submit" in words and str(folder.parent).encode() in words
        if of_submitit and f"SLURM_PROCID={rank}\0".encode() in variables:
            return int(path.name)
    raise AssertionError(f"no process of rank {rank} trains in {folder}")
