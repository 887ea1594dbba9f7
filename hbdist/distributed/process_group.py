"""The ranks that share an evaluation: who this process is among them, and what they tell one another.

What travels is small and lies in main memory (counts, the best candidates, an error), so it goes over gloo, also between
ranks with GPUs. Training has its own, `hbdist.distributed.engine`; the two can live in one process.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from hbdist.distributed.watchdog import Peers
from hbdist.errors import ConfigError, HbdistError

PATIENCE = timedelta(days=1)
"""How long a rank waits for the others: one may finish its share of a large corpus hours before the last. Of one that dies,
`hbdist.distributed.watchdog` tells within seconds."""

NEWS = 2.0
"""Seconds in which that is known."""

FIRST_PORT, PORTS = 15_000, 15_000
"""Where SLURM's tasks meet: below the ports that systems hand out by themselves."""


@dataclass(frozen=True)
class Ranks:
    """One process alone, or one rank of several. All methods but `is_main` are collectives: all ranks call them, in the
    same order."""

    rank: int = 0
    world: int = 1
    group: Any = None
    """Of torch.distributed, over gloo; None for a process alone."""

    @classmethod
    def of_training(cls) -> "Ranks":
        """The ranks of the process group that this process has joined already; alone where it has joined none. A
        collective, to be called once: it makes a gloo group of the same ranks."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=PATIENCE))

    @property
    def is_main(self) -> bool:
        """This is rank 0, which alone writes results and prints."""
        return self.rank == 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The element-wise sum over ranks. Of whole numbers, it does not depend on their number."""
        return self._reduced(array, dist.ReduceOp.SUM)

    def max(self, array: np.ndarray) -> np.ndarray:
        """The element-wise maximum over ranks."""
        return self._reduced(array, dist.ReduceOp.MAX)

    def gather(self, value: Any) -> list[Any]:
        """What each rank gave, in their order, on all ranks. For what can be pickled, and is small."""
        if self.group is None:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def from_main(self, value: Any) -> Any:
        """What rank 0 gave, on all ranks."""
        box = [value]
        if self.group is not None:
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def wait(self) -> None:
        """All ranks reach this point before any goes on."""
        if self.group is not None:
            dist.barrier(group=self.group)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What the user has to mend on one rank ends all of them with the same error. No collectives inside.

        Raises:
            HbdistError: that of the first rank that met one.
        """
        met: HbdistError | None = None
        try:
            yield
        except HbdistError as error:
            met = error
        first = next((error for error in self.gather(met) if error is not None), None)
        if first is not None:
            raise first

    def _reduced(self, array: np.ndarray, operation: Any) -> np.ndarray:
        if self.group is None:
            return array
        tensor = torch.from_numpy(np.array(array, order="C"))
        dist.all_reduce(tensor, op=operation, group=self.group)
        return tensor.numpy()


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """The ranks that a launcher started (accelerate launch, torchrun, srun); a process alone where none did.

    Chooses this rank's GPU where there are any.

    Raises:
        ConfigError: what the launcher says does not fit together.
        RuntimeError: another rank died; the message names it.
    """
    rank, world = place(environment)
    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0"))) % gpus)
    if world == 1:
        yield Ranks()
        return
    assert not dist.is_initialized(), "this process is a rank already: use Ranks.of_training"
    # By the environment, as torchrun has opened the port already and says so there.
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = meeting_point(environment)
    dist.init_process_group("gloo", init_method="env://", rank=rank, world_size=world, timeout=PATIENCE)
    ranks = Ranks(rank, world, dist.group.WORLD)
    peers = Peers.join(rank, world, ranks.from_main)
    try:
        yield ranks
        # None leaves while others still speak with it.
        ranks.wait()
        peers.leave()
    except Exception as error:
        # A connection that breaks does not say whose it was.
        lost = peers.lost_within(NEWS) if isinstance(error, RuntimeError) else ""
        peers.leave("" if lost else f"{type(error).__name__}: {error}")
        if lost:
            raise RuntimeError(lost) from None
        raise
    finally:
        dist.destroy_process_group()


def place(environment: Mapping[str, str]) -> tuple[int, int]:
    """This process's rank and how many there are, as RANK and WORLD_SIZE say, else as SLURM does; (0, 1) where none do.

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
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise ConfigError(
            f"{names[0]}={rank} and {names[1]}={world} do not fit together. Set both as a launcher does, or neither."
        )
    return int(rank), int(world)


def meeting_point(environment: Mapping[str, str]) -> tuple[str, str]:
    """Address and port of rank 0: MASTER_ADDR and MASTER_PORT, else the first node of SLURM's step and a port that
    follows from the job.

    Raises:
        ConfigError: neither is there.
    """
    if "MASTER_ADDR" in environment and environment.get("MASTER_PORT", "").isdigit():
        return environment["MASTER_ADDR"], environment["MASTER_PORT"]
    nodes, job = environment.get("SLURM_STEP_NODELIST", ""), environment.get("SLURM_JOB_ID", "")
    if not (nodes and job.isdigit()):
        raise ConfigError(
            "Several processes were started, and nothing says where they meet: MASTER_ADDR and MASTER_PORT are not set."
            " Start them with `accelerate launch`, `torchrun` or `srun`, which say it."
        )
    step = environment.get("SLURM_STEP_ID", "0")
    number = int(job) * 31 + (int(step) if step.isdigit() else 0)
    return first_node(nodes), str(FIRST_PORT + number % PORTS)


def first_node(nodes: str) -> str:
    """The first name of a list as SLURM writes it: "gpu[07-09,12],cpu1" → "gpu07"; of a single one, the loopback."""
    if "," not in nodes and "[" not in nodes:
        return "127.0.0.1"  # a machine need not know itself by its name
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    assert found, f"a node list that begins with nothing: {nodes!r}"
    return "".join(part or "" for part in found.groups())
