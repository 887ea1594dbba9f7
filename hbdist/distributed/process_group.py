"""The ranks that share an evaluation: who this process is among them, and what they tell one another.

What travels is small and lies in main memory (counts, the best candidates, an error), so it goes over gloo, also between
ranks with GPUs. Training has its own, `hbdist.distributed.engine`; the two can live in one process.
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

from hbdist.distributed.rendezvous import meeting_point, place
from hbdist.distributed.watchdog import Watchdog
from hbdist.errors import HbdistError

PATIENCE = timedelta(days=1)
"""How long a rank waits for the others: one may finish its share of a large corpus hours before the last. Of one that dies,
`hbdist.distributed.watchdog` tells within seconds."""

NEWS = 2.0
"""Seconds in which that is known."""


@dataclass(frozen=True)
class ProcessGroup:
    """One process alone, or one rank of several. All methods but `is_main` are collectives: all ranks call them, in the
    same order."""

    rank: int = 0
    world: int = 1
    group: Any = None
    """Of torch.distributed, over gloo; None for a process alone."""

    @classmethod
    def of_training(cls) -> "ProcessGroup":
        """The ranks of the process group that this process has joined already; alone where it has joined none. A
        collective, to be called once: it makes a gloo group of the same ranks."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=PATIENCE))

    @property
    def is_main(self) -> bool:
        """This is rank 0, which alone writes results and prints."""
        return self.rank == 0

    def all_reduce_sum(self, array: np.ndarray) -> np.ndarray:
        """The element-wise sum over ranks. Of whole numbers, it does not depend on their number."""
        return self._reduced(array, dist.ReduceOp.SUM)

    def all_reduce_max(self, array: np.ndarray) -> np.ndarray:
        """The element-wise maximum over ranks."""
        return self._reduced(array, dist.ReduceOp.MAX)

    def all_gather_object(self, value: Any) -> list[Any]:
        """What each rank gave, in their order, on all ranks. For what can be pickled, and is small."""
        if self.group is None:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """What rank 0 gave, on all ranks."""
        box = [value]
        if self.group is not None:
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def barrier(self) -> None:
        """All ranks reach this point before any goes on."""
        if self.group is not None:
            dist.barrier(group=self.group)

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """What the user has to mend on one rank ends all of them with the same error. No collectives inside.

        Raises:
            HbdistError: that of the first rank that met one.
        """
        met: HbdistError | None = None
        try:
            yield
        except HbdistError as error:
            met = error
        first = next((error for error in self.all_gather_object(met) if error is not None), None)
        if first is not None:
            raise first

    def _reduced(self, array: np.ndarray, operation: Any) -> np.ndarray:
        if self.group is None:
            return array
        tensor = torch.from_numpy(np.array(array, order="C"))
        dist.all_reduce(tensor, op=operation, group=self.group)
        return tensor.numpy()


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[ProcessGroup]:
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
        yield ProcessGroup()
        return
    assert not dist.is_initialized(), "this process is a rank already: use ProcessGroup.of_training"
    # By the environment, as torchrun has opened the port already and says so there.
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = meeting_point(environment)
    dist.init_process_group("gloo", init_method="env://", rank=rank, world_size=world, timeout=PATIENCE)
    ranks = ProcessGroup(rank, world, dist.group.WORLD)
    watchdog = Watchdog.join(rank, world, ranks.broadcast_object)
    try:
        yield ranks
        # None leaves while others still speak with it.
        ranks.barrier()
        watchdog.leave()
    except Exception as error:
        # A connection that breaks does not say whose it was.
        lost = watchdog.lost_within(NEWS) if isinstance(error, RuntimeError) else ""
        watchdog.leave("" if lost else f"{type(error).__name__}: {error}")
        if lost:
            raise RuntimeError(lost) from None
        raise
    finally:
        dist.destroy_process_group()
