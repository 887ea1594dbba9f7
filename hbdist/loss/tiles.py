"""Scores in tiles of some queries and all documents, and the arithmetic on them.

On a CPU, what is done to each score is done to a few megabytes after another; a GPU gets a tile at once.

    B queries on this rank · b queries of a tile · C documents of the global batch, hard negatives last · t documents of one
    product · r queries of one element-wise pass over c documents · D dimensions
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from hbdist.loss.masks import FAR, Masks
from hbdist.loss.shapes import tile_height

PRODUCT_DOCUMENTS = 4096
"""t: documents that are brought to float32 at once, where the device cannot multiply bfloat16 into float32."""
CACHED_SCORES = 2**20
"""r × c on a CPU: 4 MB in float32, which stays near the cores from one element-wise operation to the next."""


class Scores:
    """The logits of one tile after another, in one buffer."""

    def __init__(
        self,
        query_BD: Tensor,
        parts: tuple[Tensor, Tensor],
        tau: Tensor,
        masks: Masks,
        kept: tuple[Tensor, slice] | None = None,
    ) -> None:
        """`kept`: the buffer of others like these, and the tile that stands in it."""
        self.query_BD, self.parts, self.tau, self.masks = query_BD, parts, tau, masks
        self.mixes = multiplies_into(tau.dtype, query_BD.dtype, query_BD.device)
        width = sum(len(part) for part in parts)
        height = tile_height(width)
        self.tiles = slices(len(query_BD), height)
        self.standing: slice | None = None
        if kept:
            self.buffer_bC, self.standing = kept
        else:
            self.buffer_bC = tau.new_empty((min(height, len(query_BD)), width))

    def span(self) -> float:
        """How far two logits can be apart, by the lengths of the vectors. Waits for the device."""
        if not len(self.query_BD):
            return 0.0
        longest = [torch.linalg.vector_norm(one, dim=1).amax() for one in (self.query_BD, *self.parts) if len(one)]
        return float(2 * longest[0] * torch.stack(longest[1:]).amax() / self.tau)

    def runs(self) -> Iterator[tuple[slice, int, slice]]:
        """Runs of documents: their columns of a tile, the part they are of (positives, hard negatives), the rows there."""
        start = 0
        for number, document_CD in enumerate(self.parts):
            for run in slices(len(document_CD), PRODUCT_DOCUMENTS):
                yield slice(start + run.start, start + run.stop), number, run
            start += len(document_CD)

    def tile(self, rows: slice) -> Tensor:
        """s/τ of these queries and all other candidates, FAR elsewhere: [b, C]. It stands until the next is made."""
        logits_bC = self.buffer_bC[: rows.stop - rows.start]
        if rows != self.standing:
            query_bD = self.query_BD[rows]
            if not self.mixes:
                query_bD = query_bD.to(self.tau.dtype) / self.tau
            for columns, number, run in self.runs():
                multiply(query_bD, self.parts[number][run].T, out=logits_bC[:, columns])
            if self.mixes:
                logits_bC.div_(self.tau)
            self.masks.fill(logits_bC, rows)
            self.standing = rows
        return logits_bC


def multiply(one: Tensor, other: Tensor, *, out: Tensor, add: bool = False) -> None:
    """out = one @ other, or out += one @ other, summed in the precision of `out`, whatever that of the factors."""
    if one.dtype == other.dtype and multiplies_into(out.dtype, one.dtype, one.device):
        if add:
            out += torch.mm(one, other, out_dtype=out.dtype)
        else:
            torch.mm(one, other, out_dtype=out.dtype, out=out)
    else:
        torch.addmm(out, one.to(out.dtype), other.to(out.dtype), beta=int(add), out=out)


@cache
def multiplies_into(out: torch.dtype, factors: torch.dtype, device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices into float32 without a float32 copy of them; tried once."""
    if (out, factors) != (torch.float32, torch.bfloat16):
        return False
    one, found = torch.ones((16, 16), dtype=factors, device=device), torch.zeros((16, 32), device=device)
    try:
        torch.mm(one, one.T, out_dtype=out, out=found[:, 16:])  # a tile's columns are a view, as here
    except (RuntimeError, TypeError):
        return False
    return bool((found[:, 16:] == 16).all())


def log_sum_exp(logits_bc: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """(max, log Σ exp) along a dimension, many times as fast on a CPU as torch.logsumexp, whose exp is not vectorised."""
    largest = logits_bc.amax(dim=dim, keepdim=True)
    total = torch.zeros_like(largest)
    for few in pieces(logits_bc):
        lines = few if dim == 1 else slice(None)
        total[lines] += logits_bc[few].sub(largest[lines]).exp_().sum(dim=dim, keepdim=True)
    return largest.squeeze(dim), (largest + total.log_()).squeeze(dim)


def log_sum_exps(logits_bc: Tensor, *, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """(max of each row, log Σ exp of each row, of each of the first columns), by one exp of each logit.

    Right as long as no two logits, but those that stand for no candidate, are further apart than exp can take in their
    precision: 87 in float32.
    """
    largest_b1 = logits_bc.amax(dim=1, keepdim=True)
    most, row_b1 = largest_b1.amax(), torch.zeros_like(largest_b1)
    share_b, column_g = (largest_b1 - most).exp_().squeeze(1), logits_bc.new_zeros(columns)
    for few in pieces(logits_bc):
        exp_rc = logits_bc[few].sub(largest_b1[few]).exp_()
        row_b1[few] = exp_rc.sum(dim=1, keepdim=True)
        column_g.addmv_(exp_rc[:, :columns].T, share_b[few])
    return largest_b1.squeeze(1), (largest_b1 + row_b1.log_()).squeeze(1), (most + column_g.log_()).clamp_(min=FAR)


def pieces(logits_bc: Tensor) -> list[slice]:
    """Rows for one element-wise pass after another. A GPU has them all at once."""
    rows, columns = logits_bc.shape
    return slices(rows, max(CACHED_SCORES // max(columns, 1), 1) if logits_bc.device.type == "cpu" else max(rows, 1))


def slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
