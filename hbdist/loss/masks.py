"""Documents of the global batch, and masks that decide which of them are candidates for which query.

A clash is a document that is the query's own document under another index. Clashes are rare, so they are found once, by
sorting, before any score is computed, and rows without a clash cost nothing. If clashes are frequent, identities are compared
element by element instead.

    B queries on this rank · b queries in a tile · G pairs in the global batch · H hard negatives in the global batch
    C = G + H documents, the pairs' own first · I identities: item, passage, text, query · M clashes · D dimensions
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NO_IDENTITY = 0
"""Identity value that means "none": it equals no other identity, not even itself."""
MASKED_LOGIT = -1e30
"""Logit of a masked document: exp(MASKED_LOGIT − x) is 0 for every logit x, and the difference of two is 0, not NaN."""
LISTED_CLASHES = 32
"""Mean number of clashes per query up to which they are listed (8 bytes each) rather than compared element by element."""


@dataclass(frozen=True)
class Candidates:
    """Documents of the global batch with their identities and blocks."""

    positive_GD: Tensor
    """Document of every pair."""
    identity_GI: Tensor
    """Item, passage and text of each document, and the text of its query: int64."""
    block_G: Tensor
    """Block of each pair: int64."""
    negative_HD: Tensor
    """Hard negatives of all pairs; H may be 0."""
    negative_identity_HI: Tensor
    """Identities of each hard negative: int64; all are NO_IDENTITY where a pair has too few hard negatives."""
    negative_block_H: Tensor
    """Block of the pair that each hard negative belongs to: int64."""


class Masks:
    """Masks of the scores [B, C]. Creating them synchronises with the device; applying them never does.

    Args:
        own_B: index among the G of each query's own document: int64.

    Attributes:
        in_scope: number of documents in scope, summed over queries, without the queries' own documents: scalar int64.
        masked: number of these that are masked because they are the query's own document under another index.
    """

    def __init__(self, own_B: Tensor, candidates: Candidates, *, block_scope: bool) -> None:
        self.own_B = own_B
        self.identity_CI = torch.cat([candidates.identity_GI, candidates.negative_identity_HI])
        self.block_C = torch.cat([candidates.block_G, candidates.negative_block_H]) if block_scope else None
        absent_C = (self.identity_CI == NO_IDENTITY).all(dim=1)
        absent_C[: len(candidates.identity_GI)] = False
        self.absent_A = absent_C.nonzero().squeeze(1)
        self.in_scope = self._count_in_scope(~absent_C)
        self.clash_M = self._find_clashes()
        if self.clash_M is not None:
            self.masked = torch.tensor(len(self.clash_M), device=own_B.device)
            # The first clash of each row, on the host, so that a tile selects its clashes without synchronising.
            edge_B = torch.arange(len(own_B) + 1, device=own_B.device) * len(self.identity_CI)
            self.first_clash_B: list[int] = torch.searchsorted(self.clash_M, edge_B).tolist()
        else:
            self.masked = torch.stack([self._compare(own_b).sum() for own_b in own_B.split(256)]).sum()

    def apply(self, logits_bC: Tensor, rows: slice, pieces: Sequence[slice]) -> None:
        """Set the logits of masked documents to MASKED_LOGIT.

        Args:
            logits_bC: the logits of these rows, contiguous.
            pieces: rows of `logits_bC` that are compared at a time where masks have an element per logit.
        """
        own_b = self.own_B[rows]
        logits_bC.scatter_(1, own_b[:, None], MASKED_LOGIT)
        if len(self.absent_A):
            logits_bC.index_fill_(1, self.absent_A, MASKED_LOGIT)
        for piece in pieces:
            if self.block_C is not None:
                other_block_rC = self.block_C[own_b[piece]][:, None] != self.block_C[None, :]
                logits_bC[piece].masked_fill_(other_block_rC, MASKED_LOGIT)
            if self.clash_M is None:
                logits_bC[piece].masked_fill_(self._compare(own_b[piece]), MASKED_LOGIT)
        if self.clash_M is not None:
            clash_m = self.clash_M[self.first_clash_B[rows.start] : self.first_clash_B[rows.stop]]
            if len(clash_m):
                logits_bC.view(-1).index_fill_(0, clash_m - rows.start * len(self.identity_CI), MASKED_LOGIT)

    def _count_in_scope(self, present_C: Tensor) -> Tensor:
        if self.block_C is None:
            return len(self.own_B) * (present_C.sum() - 1)
        sorted_C = self.block_C[present_C].sort().values
        block_B = self.block_C[self.own_B]
        end_B = torch.searchsorted(sorted_C, block_B, right=True)
        return (end_B - torch.searchsorted(sorted_C, block_B) - 1).sum()

    def _find_clashes(self) -> Tensor | None:
        """Return row · C + column of every clash in scope, ascending and unique: [M]; None if there may be too many."""
        order, first, count = [], [], []
        for identity_C in self.identity_CI.T.contiguous():
            own_identity_B = identity_C[self.own_B]
            sorted_C, order_C = identity_C.sort()
            order.append(order_C)
            first.append(torch.searchsorted(sorted_C, own_identity_B))
            end_B = torch.searchsorted(sorted_C, own_identity_B, right=True)
            count.append((end_B - first[-1]) * (own_identity_B != NO_IDENTITY))
        totals: list[int] = torch.stack(count).sum(dim=1).tolist()
        if sum(totals) > LISTED_CLASHES * len(self.own_B):
            return None
        row_B, width = torch.arange(len(self.own_B), device=self.own_B.device), len(self.identity_CI)
        clashes = []
        for order_C, first_B, count_B, total in zip(order, first, count, totals, strict=True):
            row_M = row_B.repeat_interleave(count_B, output_size=total)
            # The first clash of a row is at offset 0 from its first_B, the second at 1, and so on.
            offset_M = torch.arange(total, device=row_M.device) - (count_B.cumsum(0) - count_B)[row_M]
            clashes.append(row_M * width + order_C[first_B[row_M] + offset_M])
        clash_M = torch.cat(clashes).unique()
        row_M, column_M = clash_M // width, clash_M % width
        in_scope_M = column_M != self.own_B[row_M]
        if self.block_C is not None:
            in_scope_M &= self.block_C[self.own_B[row_M]] == self.block_C[column_M]
        return clash_M[in_scope_M]

    def _compare(self, own_b: Tensor) -> Tensor:
        """Return the clashes of some queries by comparing them with all documents: bool [b, C]."""
        same_bC = torch.zeros((len(own_b), len(self.identity_CI)), dtype=torch.bool, device=own_b.device)
        for identity_C in self.identity_CI.T:
            own_identity_b = identity_C[own_b]
            same_bC |= (own_identity_b[:, None] == identity_C[None, :]) & (own_identity_b != NO_IDENTITY)[:, None]
        if self.block_C is not None:
            same_bC &= self.block_C[own_b][:, None] == self.block_C[None, :]
        return same_bC.scatter_(1, own_b[:, None], value=False)
