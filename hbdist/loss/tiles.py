"""Scores in tiles of some queries and all documents, and the arithmetic on tiles.

Element-wise operations copy what they work on, so they get a piece of a tile at a time: a few megabytes on a CPU, at least a
sixteenth of the tile on a GPU.

    B queries on this rank · b queries in a tile · C documents of the global batch, hard negatives last
    r queries of one element-wise pass over c documents · D dimensions
"""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from hbdist.loss.masks import MASKED_LOGIT, Masks
from hbdist.loss.shapes import piece_height, tile_height

PRODUCT_DOCUMENTS = 4096
"""Number of documents cast to float32 at once, where the device cannot multiply bfloat16 into float32."""
Buffer = tuple[Tensor, slice | None]
"""Buffer of a tile, and the rows of the tile it contains."""


class Scores:
    """Logits of one tile at a time, in one buffer.

    Args:
        parts: positives and hard negatives.
        reuse: the buffer of an earlier `Scores` of the same tensors.
    """

    def __init__(
        self, query_BD: Tensor, parts: tuple[Tensor, Tensor], tau: Tensor, masks: Masks, reuse: Buffer | None = None
    ) -> None:
        self.query_BD, self.parts, self.tau, self.masks = query_BD, parts, tau, masks
        self.multiplies_mixed = multiplies_into(tau.dtype, query_BD.dtype, query_BD.device)
        width = sum(len(part) for part in parts)
        height = tile_height(width)
        self.tiles = split_range(len(query_BD), height)
        self.buffer_bC, self.buffered_rows = reuse or (tau.new_empty((min(height, len(query_BD)), width)), None)

    def max_span(self) -> float:
        """Return an upper bound of the difference of two logits, from the vectors' norms. Synchronises with the device."""
        if not len(self.query_BD):
            return 0.0
        longest = [torch.linalg.vector_norm(part, dim=1).amax() for part in (self.query_BD, *self.parts) if len(part)]
        return float(2 * longest[0] * torch.stack(longest[1:]).amax() / self.tau)

    def document_blocks(self) -> Iterator[tuple[slice, int, slice]]:
        """Yield for each block of documents its columns in a tile, the number of its part, and its rows in that part."""
        start = 0
        for number, document_CD in enumerate(self.parts):
            for block in split_range(len(document_CD), PRODUCT_DOCUMENTS):
                yield slice(start + block.start, start + block.stop), number, block
            start += len(document_CD)

    def tile(self, rows: slice) -> Tensor:
        """Return s/τ of these queries, masked, without their own documents: [b, C]. The next call overwrites it."""
        logits_bC = self.buffer_bC[: rows.stop - rows.start]
        if rows != self.buffered_rows:
            query_bD = self.query_BD[rows]
            if not self.multiplies_mixed:
                query_bD = query_bD.to(self.tau.dtype) / self.tau
            for columns, number, block in self.document_blocks():
                multiply(query_bD, self.parts[number][block].T, out=logits_bC[:, columns])
            if self.multiplies_mixed:
                logits_bC.div_(self.tau)
            self.masks.apply(logits_bC, rows, row_blocks(logits_bC))
            self.buffered_rows = rows
        return logits_bC


def multiply(left: Tensor, right: Tensor, *, out: Tensor, add: bool = False) -> None:
    """Compute out = left @ right, or out += left @ right, summing in the precision of `out` whatever the factors' precision."""
    if left.dtype == right.dtype and multiplies_into(out.dtype, left.dtype, left.device):
        if add:
            out += torch.mm(left, right, out_dtype=out.dtype)
        else:
            torch.mm(left, right, out_dtype=out.dtype, out=out)
    else:
        torch.addmm(out, left.to(out.dtype), right.to(out.dtype), beta=int(add), out=out)


@cache
def multiplies_into(out: torch.dtype, factors: torch.dtype, device: torch.device) -> bool:
    """Return True if this device multiplies bfloat16 matrices into float32 without casting them first; tried once."""
    if (out, factors) != (torch.float32, torch.bfloat16):
        return False
    ones, product = torch.ones((16, 16), dtype=factors, device=device), torch.zeros((16, 32), device=device)
    try:
        torch.mm(ones, ones.T, out_dtype=out, out=product[:, 16:])  # a view, as the columns of a tile are
    except (RuntimeError, TypeError):
        return False
    return bool((product[:, 16:] == 16).all())


def log_sum_exp(
    logits_bc: Tensor, *, dim: int, masked: Callable[[slice], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return (max, log Σ exp) along a dimension, much faster on a CPU than torch.logsumexp, whose exp is not vectorised.

    `masked` returns a copy of some rows of the logits to use in their place.
    """
    if masked is None:
        largest = logits_bc.amax(dim=dim, keepdim=True)
    else:
        maxima = [masked(rows).amax(dim=dim, keepdim=True) for rows in row_blocks(logits_bc)]
        largest = torch.cat(maxima) if dim == 1 else torch.cat(maxima).amax(dim=0, keepdim=True)
    total = torch.zeros_like(largest)
    for rows in row_blocks(logits_bc):
        lines = rows if dim == 1 else slice(None)
        # Without a name for the copy: it would outlive the next one's creation.
        total[lines] += (
            (logits_bc[rows].sub(largest[lines]) if masked is None else masked(rows).sub_(largest[lines]))
            .exp_()
            .sum(dim=dim, keepdim=True)
        )
    return largest.squeeze(dim), (largest + total.log_()).squeeze(dim)


def row_and_column_log_sum_exp(logits_bc: Tensor, *, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (max of each row, log Σ exp of each row, of each of the first columns), with one exp per logit.

    Correct as long as no two unmasked logits are further apart than exp can represent in their precision: 87 in float32.
    """
    largest_b1 = logits_bc.amax(dim=1, keepdim=True)
    maximum, row_b1 = largest_b1.amax(), torch.zeros_like(largest_b1)
    share_b, column_g = (largest_b1 - maximum).exp_().squeeze(1), logits_bc.new_zeros(columns)
    for rows in row_blocks(logits_bc):
        exp_rc = logits_bc[rows].sub(largest_b1[rows]).exp_()
        row_b1[rows] = exp_rc.sum(dim=1, keepdim=True)
        column_g.addmv_(exp_rc[:, :columns].T, share_b[rows])
        del exp_rc  # or it would outlive the creation of the next one
    column_g = (maximum + column_g.log_()).clamp_(min=MASKED_LOGIT)
    return largest_b1.squeeze(1), (largest_b1 + row_b1.log_()).squeeze(1), column_g


def row_blocks(logits_bc: Tensor) -> list[slice]:
    """Return the rows of each element-wise pass."""
    rows, columns = logits_bc.shape
    return split_range(rows, piece_height(rows, columns, on_cpu=logits_bc.device.type == "cpu"))


def split_range(length: int, size: int) -> list[slice]:
    """Return consecutive slices of at most `size` that cover `length`."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
