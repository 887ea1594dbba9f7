"""Rank, world size and rendezvous address of this process, from a launcher's variables or from SLURM's."""

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hbdist.errors import ConfigError

FIRST_PORT, PORTS = 15_000, 15_000
"""Range of ports for SLURM's tasks, below those that systems hand out by themselves."""


def read_rank_and_world(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return this process's rank and the world size: by RANK and WORLD_SIZE, else by SLURM, else (0, 1).

    Raises:
        ConfigError: they do not fit together.
    """
    names = ("RANK", "WORLD_SIZE")
    if "WORLD_SIZE" not in environment and "RANK" not in environment:
        # Unlike SLURM_NTASKS, which a batch script that runs once has too, this is set by srun alone.
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
        if names[1] not in environment:
            return 0, 1
    rank, world = (environment.get(name, "") for name in names)
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError(
            f"{names[0]}={rank} and {names[1]}={world} do not fit together. Set both as a launcher does, or neither."
        )
    return int(rank), int(world)


def gpu_index(environment: Mapping[str, str], gpus: int) -> int:
    """Return which of the machine's GPUs a rank uses: LOCAL_RANK, else SLURM_LOCALID, modulo the number of GPUs."""
    return int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0"))) % gpus


def rendezvous_address(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return address and port of rank 0: MASTER_ADDR and MASTER_PORT, else the first node of SLURM's step and a port
    computed from the job's number.

    Raises:
        ConfigError: neither is there.
    """
    if "MASTER_ADDR" in environment and environment.get("MASTER_PORT", "").isdecimal():
        return environment["MASTER_ADDR"], environment["MASTER_PORT"]
    nodes, job = environment.get("SLURM_STEP_NODELIST", ""), environment.get("SLURM_JOB_ID", "")
    if not (nodes and job.isdecimal()):
        raise ConfigError(
            "Several processes were started, but there is no rendezvous address: MASTER_ADDR and MASTER_PORT are not set."
            " Start them with `accelerate launch`, `torchrun` or `srun`, which set it."
        )
    step = environment.get("SLURM_STEP_ID", "0")
    number = int(job) * 31 + (int(step) if step.isdecimal() else 0)
    return first_node(nodes), str(FIRST_PORT + number % PORTS)


def local_address(host: str, port: int) -> str:
    """Return the address of this machine in the network by which it reaches a host; empty if it reaches none."""
    for family, _, _, _, address in _resolve(host, port):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # of a datagram socket: nothing is sent
            return str(probe.getsockname()[0])
    return ""


def _resolve(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError:
        return []


def first_node(nodes: str) -> str:
    """Return the first node of a SLURM list ("gpu[07-09,12],cpu1" → "gpu07"), and the loopback address for a single node."""
    if "," not in nodes and "[" not in nodes:
        return "127.0.0.1"  # a machine need not know itself by its name
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    assert found, f"a node list that begins with nothing: {nodes!r}"
    return "".join(part or "" for part in found.groups())
