"""The collectives of the loss path, each with its true gradient; with one process each of them is the identity.

Ranks may hold different numbers of rows (16 pairs on 3 ranks are 6, 5, 5), so rows travel padded to the largest share.

    B rows on this rank · P rows of the largest rank · W ranks · G rows of all ranks · D dimensions
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed them and warns at every use of the old names; older ones know only those.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

_received = 0


def traffic() -> int:
    """Bytes that this process has received so far in the collectives below, as a ring of ranks moves them."""
    return _received


def _count(tensor: Tensor, share: float) -> None:
    global _received
    _received += round(tensor.numel() * tensor.element_size() * share)


def world_size() -> int:
    """Ranks of this run; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place among the ranks; 0 where nothing is distributed."""
    return dist.get_rank() if world_size() > 1 else 0


def row_counts(own: int, device: torch.device) -> list[int]:
    """How many rows each rank holds, given how many this one does."""
    if world_size() == 1:
        return [own]
    counts = torch.empty(world_size(), dtype=torch.int64, device=device)
    _all_gather(counts, torch.tensor([own], device=device))
    return counts.tolist()


def gather_rows(rows_BD: Tensor, counts: list[int]) -> Tensor:
    """The rows of all ranks, in rank order: [G, D].

    Backward gives each rank the sum, over all ranks, of the gradients of its own rows (reduce-scatter): the gradient of
    the sum of all ranks' losses, which is what makes W ranks equal to one.
    """
    return _GatherRows.apply(rows_BD, counts) if len(counts) > 1 and sum(counts) > 0 else rows_BD


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_BD: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded_PD = _pad_rows(rows_BD, max(counts))
        all_WPD = padded_PD.new_empty((len(counts) * max(counts), *rows_BD.shape[1:]))
        _all_gather(all_WPD, padded_PD)
        _count(padded_PD, len(counts) - 1)
        if min(counts) == max(counts):
            return all_WPD
        return torch.cat([part[:count] for part, count in zip(all_WPD.split(max(counts)), counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_GD,) = gradients
        counts = ctx.counts
        # Vectors travel in their own precision; a sum over many ranks would lose digits in bfloat16.
        summed = torch.promote_types(gradient_GD.dtype, torch.float32)
        padded = gradient_GD.to(summed).contiguous()
        if min(counts) != max(counts):  # else the largest tensor of a step would be copied for nothing
            padded = torch.cat([_pad_rows(part, max(counts)) for part in padded.split(counts)])
        own_PD = padded.new_empty((max(counts), *gradient_GD.shape[1:]))
        _reduce_scatter(own_PD, padded, op=dist.ReduceOp.SUM)
        _count(own_PD, len(counts) - 1)
        return own_PD[: counts[dist.get_rank()]].to(gradient_GD.dtype), None


def _pad_rows(rows: Tensor, length: int) -> Tensor:
    missing = length - len(rows)
    return torch.cat([rows, rows.new_zeros((missing, *rows.shape[1:]))]) if missing else rows.contiguous()


def combine_columns(partial: Tensor) -> Tensor:
    """log Σ_r exp(partial_r) over the ranks' log-sum-exps of each column, of any shape; without a gradient.

    Two collectives, a MAX and a SUM, of a number or two a column, where gathering all queries would take D a column.
    """
    if world_size() == 1:
        return partial
    largest = partial.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    # A column that no rank has anything for stays at −inf, and −inf − −inf would be NaN.
    total = torch.exp(partial - largest.masked_fill(largest == -torch.inf, 0))
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    _count(largest, 4 * (1 - 1 / world_size()))
    return largest + total.log()


def max_over_ranks(numbers: Tensor) -> Tensor:
    """Return the element-wise maximum over all ranks, without a gradient."""
    numbers = numbers.detach().clone()
    if world_size() > 1:
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return numbers


def sum_over_ranks(numbers: Tensor) -> Tensor:
    """The element-wise sum over all ranks, without a gradient."""
    numbers = numbers.detach().clone()
    if world_size() > 1:
        dist.all_reduce(numbers, op=dist.ReduceOp.SUM)
    return numbers
