"""Collectives, those of the loss with their exact gradients; with a single process each of them is the identity.

Ranks may have different numbers of rows (16 pairs on 3 ranks are 6, 5, 5), so rows are padded to the largest share.

    B rows on this rank · P rows of the largest rank · W ranks · G rows of all ranks · D dimensions
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed these and warns at every use of the old names; older versions have only the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

_received = 0
_entered = 0


def entered() -> int:
    """Return the number of collectives that this process has entered so far: who has entered fewer keeps others waiting."""
    return _entered


def _enter() -> None:
    global _entered
    _entered += 1


def traffic() -> int:
    """Return the bytes this process has received so far through the loss's collectives, assuming ring collectives."""
    return _received


def _count_traffic(tensor: Tensor, share: float) -> None:
    global _received
    _received += round(tensor.numel() * tensor.element_size() * share)


def world_size(group: Any = None) -> int:
    """Return the number of ranks in a group, by default of the run; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank; 0 without torch.distributed."""
    return dist.get_rank() if world_size() > 1 else 0


def all_reduce_max(numbers: Tensor, group: Any = None) -> Tensor:
    """Return the element-wise maximum over ranks, without a gradient."""
    return _all_reduce(numbers, dist.ReduceOp.MAX, group)


def all_reduce_sum(numbers: Tensor, group: Any = None) -> Tensor:
    """Return the element-wise sum over ranks, without a gradient."""
    return _all_reduce(numbers, dist.ReduceOp.SUM, group)


def _all_reduce(numbers: Tensor, operation: Any, group: Any) -> Tensor:
    numbers = numbers.detach().clone()
    _enter()
    if world_size(group) > 1:
        dist.all_reduce(numbers, op=operation, group=group)
    return numbers


def broadcast_object(value: Any, group: Any = None) -> Any:
    """Return rank 0's value on all ranks; it must be small and picklable."""
    box = [value]
    _enter()
    if world_size(group) > 1:
        dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


def row_counts(own: int, device: torch.device) -> list[int]:
    """Return the number of rows on each rank, given the number on this one."""
    if world_size() == 1:
        return [own]
    _enter()
    counts = torch.empty(world_size(), dtype=torch.int64, device=device)
    _all_gather(counts, torch.tensor([own], device=device))
    return counts.tolist()


def scale_for_averaging(loss: Tensor, counts: list[int]) -> Tensor:
    """Return a rank's summed loss times W/G.

    DDP and ZeRO average gradients over the W ranks, which the factor W undoes: the gradient of the scaled losses is then
    that of the mean over the G rows of all ranks, however many each has. The number of ranks enters nowhere else.
    """
    return loss * (len(counts) / sum(counts))


def gather_rows(rows_BD: Tensor, counts: list[int]) -> Tensor:
    """Return the rows of all ranks, in rank order: [G, D].

    The backward pass gives each rank the sum, over all ranks, of the gradients of its own rows (reduce-scatter): the gradient
    of the sum of all ranks' losses, which is what makes W ranks equal to one.
    """
    return _GatherRows.apply(rows_BD, counts) if len(counts) > 1 and sum(counts) > 0 else rows_BD


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded_PD = _pad_rows(rows_BD, max(counts))
        _enter()
        all_WPD = padded_PD.new_empty((len(counts) * max(counts), *rows_BD.shape[1:]))
        _all_gather(all_WPD, padded_PD)
        _count_traffic(padded_PD, len(counts) - 1)
        if min(counts) == max(counts):
            return all_WPD
        return torch.cat([part[:count] for part, count in zip(all_WPD.split(max(counts)), counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_GD,) = gradients
        counts = ctx.counts
        # Vectors are sent in their own precision; a sum over many ranks would lose digits in bfloat16.
        padded = gradient_GD.to(torch.promote_types(gradient_GD.dtype, torch.float32)).contiguous()
        if min(counts) != max(counts):  # otherwise the largest tensor of a step would be copied for nothing
            padded = torch.cat([_pad_rows(part, max(counts)) for part in padded.split(counts)])
        _enter()
        own_PD = padded.new_empty((max(counts), *gradient_GD.shape[1:]))
        _reduce_scatter(own_PD, padded, op=dist.ReduceOp.SUM)
        _count_traffic(own_PD, len(counts) - 1)
        return own_PD[: counts[dist.get_rank()]].to(gradient_GD.dtype), None


def _pad_rows(rows: Tensor, length: int) -> Tensor:
    missing = length - len(rows)
    return torch.cat([rows, rows.new_zeros((missing, *rows.shape[1:]))]) if missing else rows.contiguous()


def combine_columns(partial: Tensor) -> Tensor:
    """Return log Σ_r exp(partial_r) over the ranks' log-sum-exps of each column, of any shape; without a gradient.

    Uses two collectives, a MAX and a SUM, of one or two numbers per column; gathering all queries would take D per column.
    """
    if world_size() == 1:
        return partial
    largest = all_reduce_max(partial)
    # A column without any term on any rank stays at −inf, and −inf − −inf would be NaN.
    total = all_reduce_sum(torch.exp(partial - largest.masked_fill(largest == -torch.inf, 0)))
    _count_traffic(largest, 4 * (1 - 1 / world_size()))
    return largest + total.log()
