"""Rank of a task of a Slurm step: the variables by which torch and accelerate find the other ranks."""

import os
from collections.abc import Mapping, MutableMapping

from hbdist.distributed.rendezvous import read_rank_and_world, rendezvous_address

OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def become_a_rank(environment: MutableMapping[str, str] = os.environ) -> int:
    """Set the variables of this task's rank, none if it is the only task, and return the rank.

    Variables of a rank that came with the submitter's environment are dropped.
    """
    for name in OF_A_RANK:
        environment.pop(name, None)
    rank, world = read_rank_and_world(environment)
    if world == 1:
        return rank
    local_rank, local_world = int(environment["SLURM_LOCALID"]), world // int(environment["SLURM_STEP_NUM_NODES"])
    gpus = environment.get("CUDA_VISIBLE_DEVICES", "")
    if gpus and "," not in gpus:
        local_rank, local_world = 0, 1  # Slurm has given each task a GPU of its own, invisible to the others
    address, port = _meeting_point(environment)
    values = (rank, local_rank, world, local_world, address, port)
    environment.update({name: str(value) for name, value in zip(OF_A_RANK, values, strict=True)})
    return rank


def accelerate_options(environment: Mapping[str, str] = os.environ) -> str:
    """Return the options of an `accelerate launch` that starts all ranks of this task's node."""
    nodes = int(environment["SLURM_STEP_NUM_NODES"])
    address, port = _meeting_point({name: environment[name] for name in environment if name not in OF_A_RANK})
    options = {
        "num_processes": nodes * int(environment["HBDIST_RANKS_PER_NODE"]),
        "num_machines": nodes,
        "machine_rank": environment["SLURM_NODEID"],
        "main_process_ip": address,
        "main_process_port": port,
    }
    return " ".join(f"--{name} {value}" for name, value in options.items())


def _meeting_point(environment: Mapping[str, str]) -> tuple[str, str]:
    address, port = rendezvous_address(environment)
    return environment.get("HBDIST_MASTER_ADDR", address), port
