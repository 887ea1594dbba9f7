"""Process group of an evaluation: the ranks that share it, and their collectives.

The data are small and in main memory (counts, the best candidates, an error), so they are sent over gloo even between ranks
with GPUs. Training has its own group, in `hbdist.distributed.engine`; one process can be in both.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hbdist.distributed import collectives
from hbdist.distributed.identity import software
from hbdist.distributed.meeting import Meeting
from hbdist.errors import HbdistError

TIMEOUT = timedelta(days=1)
"""Timeout of collectives: one rank may finish its share of a large corpus hours before the last. The watchdog reports a dead
rank within seconds."""
TIMEOUT_S = 60.0
"""Seconds in which the ranks must meet, unless the command says otherwise."""


@dataclass(frozen=True)
class ProcessGroup:
    """One process alone, or one rank of several. All methods are collectives: all ranks call them in the same order."""

    rank: int = 0
    world: int = 1
    group: Any = None
    """Group of torch.distributed, over gloo; None for a process alone."""
    on_cpu: bool = False
    """True if ranks compute on CPUs even where there are GPUs."""

    @classmethod
    def of_training(cls, *, on_cpu: bool = False) -> "ProcessGroup":
        """Return a gloo group of the training's ranks, or a process alone without a group. A collective; call it once."""
        if collectives.world_size() == 1:
            return cls(on_cpu=on_cpu)
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=TIMEOUT), on_cpu)

    @property
    def is_main(self) -> bool:
        """True on rank 0, the only rank that writes results and prints; not a collective."""
        return self.rank == 0

    @property
    def device(self) -> str:
        """Device of this rank's computations; not a collective."""
        return "cpu" if self.on_cpu or not torch.cuda.is_available() else "cuda"

    def all_reduce_sum(self, array: np.ndarray) -> np.ndarray:
        """Return the element-wise sum over ranks. For integers it does not depend on the number of ranks."""
        return array if self.group is None else collectives.all_reduce_sum(_tensor(array), self.group).numpy()

    def all_reduce_max(self, array: np.ndarray) -> np.ndarray:
        """Return the element-wise maximum over ranks."""
        return array if self.group is None else collectives.all_reduce_max(_tensor(array), self.group).numpy()

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in rank order, on all ranks; they must be small and picklable."""
        if self.group is None:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value on all ranks."""
        return value if self.group is None else collectives.broadcast_object(value, self.group)

    def barrier(self) -> None:
        """Wait until all ranks reach this point."""
        if self.group is not None:
            dist.barrier(group=self.group)

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Raise a user error of one rank on all ranks, when the block ends. No collective may be called inside.

        Raises:
            HbdistError: the error of the first rank that raised one.
        """
        own: HbdistError | None = None
        try:
            yield
        except HbdistError as error:
            own = error
        first = next((error for error in self.all_gather_object(own) if error is not None), None)
        if first is not None:
            raise first


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))


@contextmanager
def join_process_group(
    settings: Mapping[str, str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    on_cpu: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[ProcessGroup]:
    """Join the ranks that a launcher started (accelerate launch, torchrun, srun), or run alone without a launcher.

    Args:
        settings: what must be the same on all ranks, besides the software.
        timeout_s: seconds in which the ranks must meet.
        on_cpu: compute on CPUs, whatever GPUs there are.

    Raises:
        ConfigError: the launcher's variables do not fit together, ranks differ, or there are fewer GPUs than ranks.
        RankLostError: another rank died or has not come; the message names it.
    """
    assert not dist.is_initialized(), "this process is already a rank: use ProcessGroup.of_training"
    meeting = Meeting.of(software() | dict(settings or {}), timeout_s=timeout_s, on_cpu=on_cpu, environment=environment)
    with meeting.watchdog.guard():
        meeting.join(timeout=TIMEOUT, within_s=timeout_s, backend="gloo")
    if meeting.world == 1:
        yield ProcessGroup(on_cpu=meeting.gpu is None)
        return
    ranks = ProcessGroup(meeting.own.rank, meeting.world, dist.group.WORLD, meeting.gpu is None)
    try:
        with meeting.watchdog.guard():
            yield ranks
            # No rank may leave while others still communicate with it.
            ranks.barrier()
            meeting.watchdog.leave()
    finally:
        dist.destroy_process_group()
