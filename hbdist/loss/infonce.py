"""InfoNCE loss: a pure function of gathered tensors and masks, without any collective of its own.

    L = 1/B Σ_i [ −s_ii/τ + log Σ_{j ∈ C(i)} exp(s_ij/τ) ],   s_ij = cos(q_i, d_j)

C(i) are the candidates of query i: its own document and every other document in its scope that is not masked. A document
is masked for a query if it is the query's own document under another index: the same item, the same passage or the same
text (a translation of an item is the same item), or if it answers a query with the same text. With a margin, a document is
also masked if it scores so far above the query's own document that it is probably an unlabelled answer.

The full score matrix never exists. Scores are computed in tiles of some queries and all documents. The sums over a row are
complete within its tile, so its gradient follows at once; only the symmetric loss must see all rows before it knows the sums
over columns, and computes the scores again in the backward pass. Each query's own document is kept out of the sums, so that
with o_i = log Σ_{j≠i} exp(s_ij/τ)

    loss_i = log(1 + exp(o_i − s_ii/τ)),   1 − p_ii = σ(o_i − s_ii/τ)

stay exact late in training, when p_ii is so close to 1 that 1 − p_ii, computed directly, would be rounding noise.

    B queries on this rank · b queries in a tile · G pairs in the global batch · H hard negatives in the global batch
    C = G + H documents · r queries of one element-wise pass · D dimensions
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from hbdist.loss.masks import MASKED_LOGIT, Candidates, Masks
from hbdist.loss.tiles import Scores, log_sum_exp, multiply, row_and_column_log_sum_exp, row_blocks

ONE_EXP_SPAN = 60.0
"""Span of the logits (2/τ for unit vectors) up to which one exp per logit serves both rows and columns: exp in float32
reaches 87, and the log-sum-exp of ten million documents adds 16. Beyond it, rows and columns have an exp each."""

CombineColumns = Callable[[Tensor], Tensor]
"""Function from each column's log-sum-exp over this rank's queries to that over all ranks' queries: [G] → [G]."""


@dataclass(frozen=True)
class LossParts:
    """Sums over this rank's queries; added over all ranks they are those of the global batch."""

    loss: Tensor
    """Sum of the queries' losses, with its graph."""
    correct: Tensor
    """Number of queries whose own document scores above all their other candidates."""
    candidates: Tensor
    """Number of candidates of all queries, their own documents included."""
    masked: Tensor
    """Number of documents in scope that are masked because they are the query's own."""
    suspected: Tensor = field(default_factory=lambda: torch.tensor(0))
    """Number of further documents masked because they score above the query's own by more than the margin."""


def info_nce(
    query_BD: Tensor,
    own_B: Tensor,
    candidates: Candidates,
    *,
    temperature: float | Tensor,
    block_scope: bool = False,
    combine_columns: CombineColumns | None = None,
    margin: float | None = None,
) -> LossParts:
    """Return the InfoNCE of this rank's queries against the global batch's documents (van den Oord et al. 2018, eq. 4).

    Sums and gradients are in float32, or in float64 if the vectors are. Memory beside the vectors and their gradients is
    that of one tile of scores. bfloat16 vectors are multiplied into float32; where the device does that natively, the
    weights of the gradient are rounded to bfloat16 for the product (each by at most 1/256 of itself), never the sums.

    Args:
        query_BD: unit vectors of this rank's queries.
        own_B: index among the G of each query's own document: int64.
        candidates: all documents.
        temperature: τ; a tensor with one element receives its gradient too.
        block_scope: restrict the candidates to those of the query's own block.
        combine_columns: makes the loss symmetric, L = (L_q→d + L_d→q)/2, where L_d→q has the B positives as columns. It
            is called twice in the forward pass on every rank: for the positives' own scores, and for the sums.
        margin: a document with s_ij > s_ii + margin is not a candidate of query i: it is probably a correct answer that
            nobody labelled (GTE, arXiv 2308.03281; Qwen3-Embedding, arXiv 2506.05176, uses 0.1). In the symmetric loss, a
            query with s_ij > s_jj + margin is not a candidate of document j either. The mask is constant for the gradient.

    Returns:
        Sums over this rank's queries. `loss` is a sum, not a mean. Under a symmetric loss its gradient is that of the sum
        over *all* ranks with respect to this rank's vectors, so it must be scaled equally on all ranks.
    """
    tau = torch.as_tensor(temperature, dtype=torch.promote_types(query_BD.dtype, torch.float32), device=query_BD.device)
    masks = Masks(own_B, candidates, block_scope=block_scope)
    problem = _Problem(masks, margin, combine_columns, torch.is_grad_enabled())
    loss, correct, suspected = _InfoNCE.apply(query_BD, candidates.positive_GD, candidates.negative_HD, tau, problem)
    counted = len(own_B) + masks.in_scope - masks.masked - suspected
    return LossParts(loss, correct, counted, masks.masked, suspected)


@dataclass(frozen=True)
class _Problem:
    """Inputs of the loss that have no gradient."""

    masks: Masks
    margin: float | None
    combine_columns: CombineColumns | None
    grad_enabled: bool


class _Sums:
    """Log-sum-exp of each row's other candidates and, for the symmetric loss, of each column's."""

    def __init__(self, scores: Scores, problem: _Problem) -> None:
        own_B, positive_GD = problem.masks.own_B, scores.parts[0]
        self.own_B, self.combine = own_B, problem.combine_columns
        self.own_logit_B = scores.tau.new_empty(len(own_B))
        for rows in scores.tiles:
            products_bD = scores.query_BD[rows].to(scores.tau.dtype) * positive_GD[own_B[rows]]
            self.own_logit_B[rows] = products_bD.sum(dim=1) / scores.tau
        self.others_B = torch.full_like(self.own_logit_B, MASKED_LOGIT)
        self.best_B = self.others_B.clone()
        # Of each column: the positive itself, which at first only its own rank has, and the sum over other queries.
        self.own_logit_G = self.others_B.new_full((len(positive_GD),), MASKED_LOGIT)
        self.own_logit_G[own_B] = self.own_logit_B
        if self.combine:
            self.own_logit_G = self.combine(self.own_logit_G)
        self.others_G = torch.full_like(self.own_logit_G, MASKED_LOGIT)
        self.margin = None if problem.margin is None else problem.margin / scores.tau
        self.suspected = torch.zeros((), dtype=torch.int64, device=own_B.device)
        self.one_exp = self.combine is not None and problem.margin is None and scores.max_span() < ONE_EXP_SPAN

    def add(self, rows: slice, logits_bC: Tensor) -> None:
        if self.one_exp:
            columns = len(self.others_G)
            self.best_B[rows], self.others_B[rows], column_G = row_and_column_log_sum_exp(logits_bC, columns=columns)
            self.others_G = torch.logaddexp(self.others_G, column_G)
            return
        own_b1, logits_bG = self.own_logit_B[rows, None], logits_bC[:, : len(self.others_G)]
        by_row = by_column = None
        if self.margin is not None:
            margin = self.margin
            for piece in row_blocks(logits_bC):
                self.suspected += (logits_bC[piece] > own_b1[piece] + margin).sum()

            def by_row(piece: slice) -> Tensor:
                return self._copy_masked(logits_bC[piece], own_b1[piece])

            def by_column(piece: slice) -> Tensor:
                return self._copy_masked(logits_bG[piece], self.own_logit_G)

        self.best_B[rows], self.others_B[rows] = log_sum_exp(logits_bC, dim=1, masked=by_row)
        if self.combine:
            self.others_G = torch.logaddexp(self.others_G, log_sum_exp(logits_bG, dim=0, masked=by_column)[1])

    def to_weights(self, rows: slice, logits_bC: Tensor) -> None:
        """Replace each logit, except the own ones, by the loss's derivative with respect to it."""
        row_b1 = torch.logaddexp(self.others_B[rows], self.own_logit_B[rows])[:, None]
        column_G = torch.logaddexp(self.others_G, self.own_logit_G)
        for piece in row_blocks(logits_bC):
            self._to_weights(logits_bC[piece], self.own_logit_B[rows][piece, None], row_b1[piece], column_G)

    def _to_weights(self, logits_rC: Tensor, own_r1: Tensor, row_r1: Tensor, column_G: Tensor) -> None:
        """Do that in one piece, in place: with at most one copy of it, in a function so that none outlives its piece."""
        columns, by_column_rG = len(column_G), None
        if self.combine and not self.one_exp:
            by_column_rG = self._copy_masked(logits_rC[:, :columns], self.own_logit_G).sub_(column_G).exp_()
        if self.margin is not None:
            logits_rC.masked_fill_(logits_rC > own_r1 + self.margin, MASKED_LOGIT)
        logits_rC.sub_(row_r1).exp_()
        if by_column_rG is not None:
            logits_rC[:, :columns] += by_column_rG
        elif self.one_exp:
            # exp(x − row) + exp(x − column) = exp(x − row) · (1 + exp(row − column))
            logits_rC[:, :columns] *= torch.outer(row_r1[:, 0].exp(), column_G.neg().exp()).add_(1)

    def own_complement(self, rows: slice) -> Tensor:
        """Return 1 − p_ii, computed from the others alone, of each row plus that of the own document's column: [b]."""
        own_b = self.own_B[rows]
        complement_b = torch.sigmoid(self.others_B[rows] - self.own_logit_B[rows])
        if self.combine:
            complement_b += torch.sigmoid(self.others_G[own_b] - self.own_logit_G[own_b])
        return complement_b

    def loss(self) -> Tensor:
        loss = softplus(self.others_B - self.own_logit_B, threshold=50).sum()
        if self.combine:
            self.others_G = self.combine(self.others_G)
            by_column_B = softplus(self.others_G[self.own_B] - self.own_logit_B, threshold=50)
            loss = (loss + by_column_B.sum()) / 2
        return loss

    def _copy_masked(self, logits: Tensor, own: Tensor) -> Tensor:
        """Return a copy of the logits in which those that exceed their own by more than the margin are masked."""
        if self.margin is None:
            return logits.clone()
        return logits.masked_fill(logits > own + self.margin, MASKED_LOGIT)


class _GradientSums:
    """Gradients of the vectors and of τ, up to a common factor."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.by_query_BD = torch.zeros_like(scores.query_BD, dtype=scores.tau.dtype)
        self.by_document = [torch.zeros_like(part, dtype=scores.tau.dtype) for part in scores.parts]
        self.by_tau = torch.zeros_like(scores.tau)

    @property
    def all(self) -> tuple[Tensor, ...]:
        """Gradients of queries, positives, hard negatives and τ."""
        return self.by_query_BD, *self.by_document, self.by_tau

    def add(self, rows: slice, sums: _Sums) -> None:
        """Add a tile; its logits are overwritten."""
        scores, weight_bC = self.scores, self.scores.tile(rows)
        scores.buffered_rows = None
        sums.to_weights(rows, weight_bC)
        query_bD, by_query_bD, own_b = scores.query_BD[rows], self.by_query_BD[rows], sums.own_B[rows]
        for columns, number, block in scores.document_blocks():
            weight_bc = weight_bC[:, columns]
            if scores.multiplies_mixed:
                weight_bc = weight_bc.to(query_bD.dtype)
            multiply(weight_bc, scores.parts[number][block], out=by_query_bD, add=True)
            multiply(weight_bc.T, query_bD, out=self.by_document[number][block], add=True)
        complement_b1 = sums.own_complement(rows)[:, None]
        by_query_bD -= complement_b1 * scores.parts[0][own_b]
        self.by_document[0].index_add_(0, own_b, complement_b1 * query_bD, alpha=-1)
        # A logit is s/τ, so −τ ∂L/∂τ = Σ_ij logit · ∂L/∂logit, which is Σ_i q_i · ∂L/∂q_i.
        self.by_tau -= (by_query_bD * query_bD).sum() / scores.tau


class _InfoNCE(torch.autograd.Function):
    """Autograd function that returns (loss, correct, suspected), the first with a gradient."""

    @staticmethod
    def forward(
        ctx: Any, query_BD: Tensor, positive_GD: Tensor, negative_HD: Tensor, tau: Tensor, problem: _Problem
    ) -> tuple[Tensor, ...]:
        scores = Scores(query_BD, (positive_GD, negative_HD), tau, problem.masks)
        sums = _Sums(scores, problem)
        needs_gradient = problem.grad_enabled and any(ctx.needs_input_grad)
        gradients = _GradientSums(scores) if needs_gradient and not problem.combine_columns else None
        for rows in scores.tiles:
            sums.add(rows, scores.tile(rows))
            if gradients:
                gradients.add(rows, sums)
        loss = sums.loss()
        if gradients:
            ctx.save_for_backward(*gradients.all, tau)
        elif needs_gradient:
            ctx.save_for_backward(query_BD, positive_GD, negative_HD, tau)
            ctx.sums, ctx.reuse = sums, (scores.buffer_bC, scores.buffered_rows)
        ctx.problem = problem
        ctx.dtypes = [tensor.dtype for tensor in (query_BD, positive_GD, negative_HD, tau)]
        # A tie counts as a miss, and two ways to multiply the same vectors differ in the last digits.
        rounding = 8 * torch.finfo(tau.dtype).eps / tau
        counts = (sums.own_logit_B - sums.best_B > rounding).sum(), sums.suspected
        ctx.mark_non_differentiable(*counts)
        return loss, *counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.problem.combine_columns:
            *computed, tau = ctx.saved_tensors
            scale = gradients[0] / tau
            return *((tensor * scale).to(dtype) for tensor, dtype in zip(computed, ctx.dtypes, strict=True)), None
        query_BD, positive_GD, negative_HD, tau = ctx.saved_tensors
        scores = Scores(query_BD, (positive_GD, negative_HD), tau, ctx.problem.masks, ctx.reuse)
        ctx.reuse = None  # overwritten below, and backward may be called twice on a retained graph
        gradient_sums = _GradientSums(scores)
        # Backwards, because the last tile is still in the buffer.
        for rows in reversed(scores.tiles):
            gradient_sums.add(rows, ctx.sums)
        scale = gradients[0] / (2 * tau)
        summed = zip(gradient_sums.all, ctx.dtypes, strict=True)
        return *(tensor.mul_(scale).to(dtype) for tensor, dtype in summed), None
