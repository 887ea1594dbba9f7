"""The documents of the global batch, and which of them are candidates of which query.

A clash is a query and a document that is its own under another number. Clashes are rare, so they are found by sorting, once,
before any score is made, and scores without one cost nothing. Where they are many, identities are compared place by place.

    B queries on this rank · b queries of a tile · G pairs in the global batch · H hard negatives in the global batch
    C = G + H documents, the pairs' own first · I identities: item, passage, text, query · M clashes · D dimensions
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NO_IDENTITY = 0
"""Stands for "none" among identities: it equals nothing, not even itself."""
FAR = -1e30
"""The logit of what is no candidate: exp(FAR − x) is 0 for every logit x, and FAR − FAR is 0 where −inf would make NaN."""
LISTED_CLASHES = 32
"""Clashes a query, on average, up to which they are listed (8 bytes each) and not compared place by place."""


@dataclass(frozen=True)
class Candidates:
    """The documents of the global batch and what is known of them."""

    positive_GD: Tensor
    """The document of every pair."""
    identity_GI: Tensor
    """int64: item, passage and text of each, and the text of its query."""
    block_G: Tensor
    """int64: the block of each pair."""
    negative_HD: Tensor
    """Hard negatives of all pairs; H may be 0."""
    negative_identity_HI: Tensor
    """int64, as above; a place without a hard negative has NO_IDENTITY throughout."""
    negative_block_H: Tensor
    """int64: the block of the pair each belongs to."""


class Masks:
    """Which places of the scores [B, C] hold another candidate. To make them waits for the device; to use them never does.

    Attributes:
        in_scope: documents in scope of all queries, the queries' own left out: one number, int64.
        masked: how many of these are masked, because they are the query's own under another number.
    """

    def __init__(self, own_B: Tensor, known: Candidates, *, block_scope: bool) -> None:
        """`own_B`, int64: where each query's own document stands among the G."""
        self.own_B = own_B
        self.identity_CI = torch.cat([known.identity_GI, known.negative_identity_HI])
        self.block_C = torch.cat([known.block_G, known.negative_block_H]) if block_scope else None
        absent_C = (self.identity_CI == NO_IDENTITY).all(dim=1)
        absent_C[: len(known.identity_GI)] = False
        self.absent_A = absent_C.nonzero().squeeze(1)
        self.in_scope = self._count_in_scope(~absent_C)
        self.place_M = self._find_clashes()
        if self.place_M is not None:
            self.masked = torch.tensor(len(self.place_M), device=own_B.device)
            # Where the clashes of each row begin, known to the host, so that a tile finds its own without waiting.
            edge_B = torch.arange(len(own_B) + 1, device=own_B.device) * len(self.identity_CI)
            self.begin_B: list[int] = torch.searchsorted(self.place_M, edge_B).tolist()
        else:
            masked = [self._clashes_of(own_b).sum() for own_b in own_B.split(256)]
            self.masked = torch.stack(masked).sum()

    def fill(self, logits_bC: Tensor, rows: slice) -> None:
        """Set to FAR what is no other candidate of these queries; `logits_bC` is contiguous."""
        own_b = self.own_B[rows]
        logits_bC.scatter_(1, own_b[:, None], FAR)
        if len(self.absent_A):
            logits_bC.index_fill_(1, self.absent_A, FAR)
        if self.block_C is not None:
            logits_bC.masked_fill_(self.block_C[own_b][:, None] != self.block_C[None, :], FAR)
        if self.place_M is None:
            logits_bC.masked_fill_(self._clashes_of(own_b), FAR)
        else:
            place_m = self.place_M[self.begin_B[rows.start] : self.begin_B[rows.stop]]
            if len(place_m):
                logits_bC.view(-1).index_fill_(0, place_m - rows.start * len(self.identity_CI), FAR)

    def _count_in_scope(self, present_C: Tensor) -> Tensor:
        if self.block_C is None:
            return len(self.own_B) * (present_C.sum() - 1)
        sorted_C = self.block_C[present_C].sort().values
        mine_B = self.block_C[self.own_B]
        last_B = torch.searchsorted(sorted_C, mine_B, right=True)
        return (last_B - torch.searchsorted(sorted_C, mine_B) - 1).sum()

    def _find_clashes(self) -> Tensor | None:
        """Places (row · C + column) of all clashes in scope, each once, ascending: [M]; None where they may be too many."""
        order, first, count = [], [], []
        for theirs_C in self.identity_CI.T.contiguous():
            mine_B = theirs_C[self.own_B]
            sorted_C, order_C = theirs_C.sort()
            order.append(order_C)
            first.append(torch.searchsorted(sorted_C, mine_B))
            last_B = torch.searchsorted(sorted_C, mine_B, right=True)
            count.append((last_B - first[-1]) * (mine_B != NO_IDENTITY))
        totals: list[int] = torch.stack(count).sum(dim=1).tolist()
        if sum(totals) > LISTED_CLASHES * len(self.own_B):
            return None
        row_B, width = torch.arange(len(self.own_B), device=self.own_B.device), len(self.identity_CI)
        places = []
        for order_C, first_B, count_B, total in zip(order, first, count, totals, strict=True):
            row_M = row_B.repeat_interleave(count_B, output_size=total)
            # The first clash of each row is 0 steps from its first_B, the second 1, and so on.
            step_M = torch.arange(total, device=row_M.device) - (count_B.cumsum(0) - count_B)[row_M]
            places.append(row_M * width + order_C[first_B[row_M] + step_M])
        place_M = torch.cat(places).unique()
        row_M, column_M = place_M // width, place_M % width
        wanted_M = column_M != self.own_B[row_M]
        if self.block_C is not None:
            wanted_M &= self.block_C[self.own_B[row_M]] == self.block_C[column_M]
        return place_M[wanted_M]

    def _clashes_of(self, own_b: Tensor) -> Tensor:
        """The same, of some queries, by comparing all: bool [b, C]."""
        same_bC = torch.zeros((len(own_b), len(self.identity_CI)), dtype=torch.bool, device=own_b.device)
        for theirs_C in self.identity_CI.T:
            mine_b = theirs_C[own_b]
            same_bC |= (mine_b[:, None] == theirs_C[None, :]) & (mine_b != NO_IDENTITY)[:, None]
        if self.block_C is not None:
            same_bC &= self.block_C[own_b][:, None] == self.block_C[None, :]
        return same_bC.scatter_(1, own_b[:, None], value=False)
