"""The contrastive loss: a pure function of gathered tensors and masks. No collective hides in it.

    L = 1/B Σ_i [ −s_ii/τ + log Σ_{j ∈ C(i)} exp(s_ij/τ) ],   s_ij = cos(q_i, d_j)

C(i): the candidates of query i, which are its own document and all others of its scope that are not masked. A document
is masked for a query if it is the query's own document under another number: the same item, the same passage or the same
text (a translation of an item is the same item).

The scores are never whole. They are made in tiles, twice: once for the sums over rows (and, for the symmetric loss, over
columns), once more for the gradient. Each query's own document is kept out of the sums, so with o_i = log Σ_{j≠i} exp(s_ij/τ)

    loss_i = log(1 + exp(o_i − s_ii/τ)),   1 − p_ii = σ(o_i − s_ii/τ)

hold all their digits late in training, where p_ii is so near to one that 1 − p_ii, taken literally, is rounding noise.

    B queries on this rank · G pairs in the global batch · H hard negatives in the global batch · D dimensions
    I = 3 identities of a document: item, passage, text · b × t queries and documents of one tile
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

NO_IDENTITY = 0
"""Stands for "none" among identities: it equals nothing, not even itself."""
TILE_QUERIES, TILE_DOCUMENTS = 1024, 2048
"""b and t: scores that are in memory at once. 8 MB in float32, near the caches of a CPU and enough work for a GPU."""

CombineColumns = Callable[[Tensor], Tensor]
"""log-sum-exps of each column over this rank's queries → over all ranks' queries: [G] → [G]."""


@dataclass(frozen=True)
class Candidates:
    """The documents of the global batch and what is known of them."""

    positive_GD: Tensor
    """The document of every pair."""
    identity_GI: Tensor
    """int64: item, passage and text of each."""
    block_G: Tensor
    """int64: the block of each pair."""
    negative_HD: Tensor
    """Hard negatives of all pairs; H may be 0."""
    negative_identity_HI: Tensor
    """int64, as above; a place without a hard negative has NO_IDENTITY thrice."""
    negative_block_H: Tensor
    """int64: the block of the pair each belongs to."""


@dataclass(frozen=True)
class LossParts:
    """Sums over this rank's queries; adding them over all ranks gives the global batch's."""

    loss: Tensor
    """Sum of the queries' losses, with its graph."""
    correct: Tensor
    """Queries whose own document scores above all their other candidates."""
    candidates: Tensor
    """Candidates of all queries, their own documents included."""
    masked: Tensor
    """Documents in scope that were masked because they are the query's own."""


def info_nce(
    query_BD: Tensor,
    own_B: Tensor,
    candidates: Candidates,
    *,
    temperature: float | Tensor,
    block_scope: bool = False,
    combine_columns: CombineColumns | None = None,
) -> LossParts:
    """InfoNCE of this rank's queries against the documents of the global batch (van den Oord et al. 2018, eq. 4).

    Sums and gradients are in float32, or in float64 if the vectors are; memory beside the vectors is that of one tile.

    Args:
        query_BD: unit vectors of this rank's queries.
        own_B: int64, where each query's own document stands among the G.
        candidates: all documents.
        temperature: τ; a tensor of one number gets its gradient too.
        block_scope: candidates are those of the query's own block only.
        combine_columns: makes the loss symmetric, L = (L_q→d + L_d→q)/2, where L_d→q has the B positives for columns. It
            is called once, in the forward pass, on every rank.

    Returns:
        Sums over this rank's queries. `loss` is a sum, not a mean. Under a symmetric loss its gradient is that of the sum
        over *all* ranks with respect to what this rank holds, so it must be scaled alike on all ranks.
    """
    problem = _Problem(own_B, candidates, block_scope, combine_columns)
    tau = torch.as_tensor(temperature, dtype=_precision(query_BD), device=query_BD.device)
    return LossParts(*_InfoNCE.apply(query_BD, candidates.positive_GD, candidates.negative_HD, tau, problem))


def identity_mask(identity_BI: Tensor, other_CI: Tensor) -> Tensor:
    """Whether two documents are the same by any identity that both have: bool [B, C]."""
    same_BC = torch.zeros((len(identity_BI), len(other_CI)), dtype=torch.bool, device=identity_BI.device)
    for mine_B, theirs_C in zip(identity_BI.T, other_CI.T, strict=True):
        same_BC |= (mine_B[:, None] == theirs_C[None, :]) & (mine_B != NO_IDENTITY)[:, None]
    return same_BC


@dataclass(frozen=True)
class _Problem:
    """All that has no gradient: who may be scored against whom."""

    own_B: Tensor
    candidates: Candidates
    block_scope: bool
    combine_columns: CombineColumns | None

    def masks(self, rows: slice, columns: slice, *, hard: bool) -> tuple[Tensor, Tensor]:
        """Which places of a tile are other candidates, and which are masked as the query's own: two bool [b, t]."""
        known, own_b = self.candidates, self.own_B[rows]
        identity = known.negative_identity_HI if hard else known.identity_GI
        block = known.negative_block_H if hard else known.block_G
        same_bt = identity_mask(known.identity_GI[own_b], identity[columns])
        scope_bt = torch.ones_like(same_bt)
        if self.block_scope:
            scope_bt &= known.block_G[own_b][:, None] == block[columns][None, :]
        if hard:
            scope_bt &= (identity[columns] != NO_IDENTITY).any(dim=1)[None, :]
        else:
            place_t = torch.arange(columns.start, columns.stop, device=own_b.device)
            scope_bt &= own_b[:, None] != place_t[None, :]
        return scope_bt & ~same_bt, scope_bt & same_bt


@dataclass(frozen=True)
class _Tile:
    """The scores of some queries and some documents."""

    rows: slice
    columns: slice
    hard: bool
    """The documents are hard negatives."""
    logits_bt: Tensor
    """s/τ of other candidates; −inf elsewhere."""
    masked: int


def _tiles(
    query_BD: Tensor, positive_GD: Tensor, negative_HD: Tensor, tau: Tensor, problem: _Problem
) -> Iterator[_Tile]:
    for hard, document_CD in ((False, positive_GD), (True, negative_HD)):
        for columns in _slices(len(document_CD), TILE_DOCUMENTS):
            document_tD = document_CD[columns].to(tau.dtype) / tau
            for rows in _slices(len(query_BD), TILE_QUERIES):
                other_bt, masked_bt = problem.masks(rows, columns, hard=hard)
                logits_bt = query_BD[rows].to(tau.dtype) @ document_tD.T
                yield _Tile(rows, columns, hard, logits_bt.masked_fill_(~other_bt, -torch.inf), int(masked_bt.sum()))


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _precision(vectors: Tensor) -> torch.dtype:
    return torch.promote_types(vectors.dtype, torch.float32)


class _InfoNCE(torch.autograd.Function):
    """(loss, correct, candidates, masked), the first with a gradient. Scores are made once here and once in backward."""

    @staticmethod
    def forward(
        ctx: Any, query_BD: Tensor, positive_GD: Tensor, negative_HD: Tensor, tau: Tensor, problem: _Problem
    ) -> tuple[Tensor, ...]:
        own_B = problem.own_B
        own_logit_B = (query_BD.to(tau.dtype) * positive_GD[own_B].to(tau.dtype)).sum(dim=1) / tau
        others_B = torch.full_like(own_logit_B, -torch.inf)
        best_B = others_B.clone()
        # Of each column: the sum over other queries, and the positive itself, which only its own rank knows.
        columns_2G = others_B.new_full((2, len(positive_GD)), -torch.inf)
        columns_2G[1, own_B] = own_logit_B
        counted, masked = len(query_BD), 0
        for tile in _tiles(query_BD, positive_GD, negative_HD, tau, problem):
            rows, logits_bt = tile.rows, tile.logits_bt
            others_B[rows] = torch.logaddexp(others_B[rows], logits_bt.logsumexp(dim=1))
            best_B[rows] = torch.maximum(best_B[rows], logits_bt.amax(dim=1))
            if problem.combine_columns and not tile.hard:
                column_t = columns_2G[0, tile.columns]
                columns_2G[0, tile.columns] = torch.logaddexp(column_t, logits_bt.logsumexp(dim=0))
            counted += int((logits_bt > -torch.inf).sum())
            masked += tile.masked
        loss = softplus(others_B - own_logit_B, threshold=50).sum()
        if problem.combine_columns:
            columns_2G = problem.combine_columns(columns_2G)
            loss = (loss + softplus(columns_2G[0, own_B] - own_logit_B, threshold=50).sum()) / 2
        ctx.save_for_backward(query_BD, positive_GD, negative_HD, tau, own_logit_B, others_B, columns_2G)
        ctx.problem = problem
        # A tie is a miss, and two ways to multiply the same vectors differ in the last digits.
        rounding = 8 * torch.finfo(tau.dtype).eps / tau
        counts = ((own_logit_B - best_B > rounding).sum(), torch.tensor(counted), torch.tensor(masked))
        ctx.mark_non_differentiable(*counts)
        return loss, *counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_BD, positive_GD, negative_HD, tau, own_logit_B, others_B, columns_2G = ctx.saved_tensors
        problem: _Problem = ctx.problem
        own_B, symmetric = problem.own_B, problem.combine_columns is not None
        share = gradients[0] / (2 if symmetric else 1)
        row_B, column_G = torch.logaddexp(others_B, own_logit_B), columns_2G.logsumexp(dim=0)
        by_query_BD = torch.zeros_like(query_BD, dtype=tau.dtype)
        by_document = [torch.zeros_like(part, dtype=tau.dtype) for part in (positive_GD, negative_HD)]
        by_tau = torch.zeros_like(tau)
        for tile in _tiles(query_BD, positive_GD, negative_HD, tau, problem):
            rows, columns, logits_bt = tile.rows, tile.columns, tile.logits_bt
            weight_bt = torch.exp(logits_bt - row_B[rows, None])
            if ctx.needs_input_grad[3]:
                by_tau += _moment(weight_bt, logits_bt, own_logit_B[rows, None])
            if symmetric and not tile.hard:
                of_column_bt = torch.exp(logits_bt - column_G[None, columns])
                if ctx.needs_input_grad[3]:
                    by_tau += _moment(of_column_bt, logits_bt, columns_2G[1, None, columns])
                weight_bt += of_column_bt
            document_tD = (negative_HD if tile.hard else positive_GD)[columns].to(tau.dtype)
            by_query_BD[rows] += weight_bt @ document_tD
            by_document[tile.hard][columns] += weight_bt.T @ query_BD[rows].to(tau.dtype)
        # 1 − p_ii from the others alone: it is right to the last digit when p_ii is nearly 1.
        missing_B = torch.sigmoid(others_B - own_logit_B)
        if symmetric:
            missing_B = missing_B + torch.sigmoid(columns_2G[0, own_B] - own_logit_B)
        by_query_BD -= missing_B[:, None] * positive_GD[own_B].to(tau.dtype)
        by_document[0].index_add_(0, own_B, -missing_B[:, None] * query_BD.to(tau.dtype))
        scale = share / tau
        return (
            (by_query_BD * scale).to(query_BD.dtype),
            (by_document[0] * scale).to(positive_GD.dtype),
            (by_document[1] * scale).to(negative_HD.dtype),
            -by_tau * scale,
            None,
        )


def _moment(weight_bt: Tensor, logits_bt: Tensor, own_logit: Tensor) -> Tensor:
    """Σ w (s/τ − s_own/τ) over the candidates of a tile: a number, from differences that do not cancel."""
    return torch.where(weight_bt > 0, weight_bt * (logits_bt - own_logit), 0).sum()
