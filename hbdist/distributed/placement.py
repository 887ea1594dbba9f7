"""Placement of the ranks on GPUs or on CPUs: one decision for all ranks, made by rank 0 from what each of them sees.

Were each rank to decide alone, a node whose GPU is dead would wait over gloo for ranks that wait over NCCL.
"""

from collections.abc import Sequence
from itertools import groupby

from hbdist.distributed.identity import Identity
from hbdist.errors import ConfigError

CPU = None
"""Placement of a rank that computes on the CPU; a number is that of its GPU, among those that it sees."""


def place(ranks: Sequence[Identity], *, on_cpu: bool = False) -> list[int | None]:
    """Return the GPU of each rank, by its index among those that the rank sees; CPU for all ranks, or for none.

    A rank that sees one GPU has it for itself, as with Slurm's --gpus-per-task=1. Otherwise a rank's number on its node is the
    index of its GPU.

    Args:
        ranks: all ranks, with the GPUs that they see.
        on_cpu: compute on CPUs, whatever GPUs there are.

    Raises:
        ConfigError: some ranks see GPUs and others none, or a node has fewer GPUs than ranks.
    """
    if on_cpu or not any(one.gpus for one in ranks):
        return [CPU] * len(ranks)
    without = [one for one in ranks if not one.gpus]
    if without:
        seen = next(one for one in ranks if one.gpus)
        others = f" and {len(without) - 1} more ranks" if len(without) > 1 else ""
        raise ConfigError(
            f"{without[0].name}{others} sees no GPU, {seen.name} sees {seen.gpus}. All must compute alike: mend the GPU or its"
            f" driver on {without[0].host} (nvidia-smi), start without that node, or set engine.device=cpu."
        )
    places: dict[int, int | None] = {}
    for _, node in groupby(sorted(ranks, key=lambda one: (one.machine, one.rank)), key=lambda one: one.machine):
        places |= _place_on_node(list(node))
    return [places[one.rank] for one in ranks]


def _place_on_node(ranks: Sequence[Identity]) -> dict[int, int | None]:
    """Return the GPU of each rank of a node, all of which see some."""
    places: dict[int, int | None] = {}
    used: dict[object, Identity] = {}
    for number, one in enumerate(ranks):
        number = number if one.local_rank is None else one.local_rank
        index = 0 if one.gpus == 1 else number
        # The only GPU that a rank sees is known by its identity; among several, by its index.
        gpu = one.gpu if one.gpus == 1 and one.gpu else index
        if index >= one.gpus or gpu in used:
            raise ConfigError(
                f"{one.host} has {len(ranks)} ranks, and {one.name} sees {one.gpus} GPU{'s' * (one.gpus > 1)}:"
                f" {f'it would share one with {used[gpu].name}' if gpu in used else 'there is none for it'}. Start as many"
                " ranks as there are GPUs, give each rank its own (--gpus-per-task=1), or set engine.device=cpu to compute"
                " on the CPUs."
            )
        used[gpu] = one
        places[one.rank] = index
    return places
