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


def world_size() -> int:
    """Ranks of this run; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


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
        return torch.cat([part[:count] for part, count in zip(all_WPD.split(max(counts)), counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_GD,) = gradients
        counts = ctx.counts
        padded = torch.cat([_pad_rows(part, max(counts)) for part in gradient_GD.split(counts)])
        own_PD = padded.new_empty((max(counts), *gradient_GD.shape[1:]))
        _reduce_scatter(own_PD, padded, op=dist.ReduceOp.SUM)
        return own_PD[: counts[dist.get_rank()]], None


def _pad_rows(rows: Tensor, length: int) -> Tensor:
    missing = length - len(rows)
    return torch.cat([rows, rows.new_zeros((missing, *rows.shape[1:]))]) if missing else rows.contiguous()


def combine_columns(partial_G: Tensor) -> Tensor:
    """log Σ_r exp(partial_r) over the ranks' log-sum-exps of each column: [G].

    Two collectives of G numbers, a MAX and a SUM, where gathering all queries would take G·D.
    """
    return _CombineColumns.apply(partial_G) if world_size() > 1 else partial_G


class _CombineColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial_G: Tensor) -> Tensor:
        largest_G = partial_G.clone()
        dist.all_reduce(largest_G, op=dist.ReduceOp.MAX)
        sum_G = torch.exp(partial_G - largest_G)
        dist.all_reduce(sum_G, op=dist.ReduceOp.SUM)
        whole_G = largest_G + sum_G.log()
        ctx.save_for_backward(torch.exp(partial_G - whole_G))
        return whole_G

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (share_G,) = ctx.saved_tensors
        # Each rank's loss uses only its own columns; the others' wishes for them are elsewhere.
        total_G = gradients[0].contiguous().clone()
        dist.all_reduce(total_G, op=dist.ReduceOp.SUM)
        return total_G * share_G


def sum_over_ranks(numbers: Tensor) -> Tensor:
    """The element-wise sum over all ranks, without a gradient."""
    numbers = numbers.detach().clone()
    if world_size() > 1:
        dist.all_reduce(numbers, op=dist.ReduceOp.SUM)
    return numbers
