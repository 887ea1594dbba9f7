"""Process groups: rank and world from a launcher's environment, and collectives between real gloo processes."""

import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch.distributed as dist
from ranks import on_ranks

from hbdist.distributed.process_group import ProcessGroup
from hbdist.distributed.rendezvous import first_node, gpu_index, read_rank_and_world, rendezvous_address
from hbdist.errors import ConfigError, DataError

SLURM = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "41"}


def test_a_process_without_a_launcher_is_alone() -> None:
    assert read_rank_and_world({}) == (0, 1)
    # In a batch script, which runs once for all tasks.
    assert read_rank_and_world({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == (0, 1)


def test_a_launchers_rank_takes_precedence_over_slurms() -> None:
    assert read_rank_and_world(SLURM) == (3, 4)
    assert read_rank_and_world(SLURM | {"RANK": "1", "WORLD_SIZE": "2"}) == (1, 2)


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "first", "WORLD_SIZE": "2"}],
)
def test_ranks_that_do_not_fit_together_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="do not fit together"):
        read_rank_and_world(environment)


def test_a_ranks_gpu_follows_from_the_launchers_local_rank_or_slurms() -> None:
    assert gpu_index({}, 4) == 0
    assert gpu_index(SLURM | {"SLURM_LOCALID": "3"}, 4) == 3
    assert gpu_index(SLURM | {"SLURM_LOCALID": "3", "LOCAL_RANK": "1"}, 4) == 1
    assert gpu_index({"LOCAL_RANK": "5"}, 4) == 1


def test_ranks_meet_at_the_launchers_address_or_on_slurms_first_node() -> None:
    assert rendezvous_address(SLURM | {"MASTER_ADDR": "here", "MASTER_PORT": "7"}) == ("here", "7")
    address, port = rendezvous_address(SLURM)
    assert address == "gpu07"
    assert 1024 < int(port) < 32_768
    assert rendezvous_address(SLURM | {"SLURM_STEP_ID": "1"}) != (address, port)
    with pytest.raises(ConfigError, match="there is no rendezvous address"):
        rendezvous_address({"RANK": "0", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node3", "127.0.0.1"),
        ("node[1-2]", "node1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("a,b", "a"),
        ("rack[10,12]-ib", "rack10-ib"),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_the_collectives_of_one_process_are_identities() -> None:
    ranks = ProcessGroup()
    assert ranks.is_main
    assert ranks.all_gather_object("x") == ["x"]
    assert ranks.broadcast_object(5) == 5
    assert ranks.all_reduce_sum(np.array([1, 2])).tolist() == [1, 2]
    with pytest.raises(DataError, match="broken"), ranks.raise_together():
        raise DataError("broken")


def call_collectives() -> dict[str, object]:
    ranks = ProcessGroup.of_training()
    own = np.array([[ranks.rank, 10]])
    results: dict[str, object] = {
        "is_main": ranks.is_main,
        "sum": ranks.all_reduce_sum(own).tolist(),
        "max": ranks.all_reduce_max(own / 2).tolist(),
        "own": own.tolist(),
        "gather": ranks.all_gather_object({"rank": ranks.rank}),
        "broadcast_object": ranks.broadcast_object(f"of {ranks.rank}"),
    }
    try:
        with ranks.raise_together():
            if ranks.rank == 1:
                raise DataError("only rank 1 sees this")
    except DataError as error:
        results["error"] = str(error)
    ranks.barrier()
    assert dist.get_world_size() == ranks.world
    return results


def test_collectives_give_the_same_result_on_all_ranks() -> None:
    first, second, third = on_ranks(3, call_collectives)
    assert [one.pop("is_main") for one in (first, second, third)] == [True, False, False]
    assert [one.pop("own") for one in (first, second, third)] == [[[0, 10]], [[1, 10]], [[2, 10]]]
    assert first == second == third
    assert first == {
        "sum": [[3, 30]],
        "max": [[1.0, 5.0]],
        "gather": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
        "broadcast_object": "of 0",
        "error": "only rank 1 sees this",
    }


DYING = """
import os, signal
from hbdist.distributed.process_group import join_process_group
with join_process_group() as ranks:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.all_gather_object("all here?")
"""


def test_a_rank_that_dies_ends_the_others_which_name_it() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DYING],
            env=os.environ | meeting | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [one.communicate(timeout=100)[1] for one in started]
    assert [one.returncode for one in started] == [1, -9]
    assert re.search(r"RankLostError: rank 1 \(.*\) is gone", errors[0])
