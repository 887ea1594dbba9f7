"""The contrastive loss: a pure function of gathered tensors and masks. No collective hides in it.

    L = 1/B Σ_i [ −s_ii/τ + log Σ_{j ∈ C(i)} exp(s_ij/τ) ],   s_ij = cos(q_i, d_j)

C(i): the candidates of query i, which are its own document and all others of its scope that are not masked. A document
is masked for a query if it is the query's own document under another number: the same item, the same passage or the same
text (a translation of an item is the same item), or if it answers a query of the same text. With a margin, it is also masked
where it scores so far above the query's own document that it is likely an unlabelled answer.

The scores are never whole. They are made in tiles of some queries and all documents. The sums over a row are complete
within its tile, so its gradient follows at once; only the symmetric loss must see all rows before it knows the sums over
columns, and makes the scores once more in the backward pass. Each query's own document is kept out of the sums, so with
o_i = log Σ_{j≠i} exp(s_ij/τ)

    loss_i = log(1 + exp(o_i − s_ii/τ)),   1 − p_ii = σ(o_i − s_ii/τ)

hold all their digits late in training, where p_ii is so near to one that 1 − p_ii, taken literally, is rounding noise.

    B queries on this rank · b queries of a tile · G pairs in the global batch · H hard negatives in the global batch
    C = G + H documents · r queries of one element-wise pass · D dimensions
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from hbdist.loss.masks import FAR, Candidates, Masks
from hbdist.loss.tiles import Scores, log_sum_exp, log_sum_exps, multiply, pieces

ONE_EXP_SPAN = 60.0
"""Up to which span of the logits (2/τ of unit vectors) one exp of each serves rows and columns both: float32's exp holds
87, and the log-sum-exp of ten million documents adds 16. Beyond it, each has its own."""

CombineColumns = Callable[[Tensor], Tensor]
"""log-sum-exps of each column over this rank's queries → over all ranks' queries: [G] → [G]."""


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
    suspected: Tensor = field(default_factory=lambda: torch.tensor(0))
    """Further ones that were masked because they score above the query's own document by more than the margin."""


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
    """InfoNCE of this rank's queries against the documents of the global batch (van den Oord et al. 2018, eq. 4).

    Sums and gradients are in float32, or in float64 if the vectors are. Memory beside the vectors and their gradients is
    that of one tile of scores. bfloat16 vectors are multiplied into float32; where the device does that by itself, the
    weights of the gradient are rounded to bfloat16 for the product (each by at most 1/256 of itself), never the sums.

    Args:
        query_BD: unit vectors of this rank's queries.
        own_B: int64, where each query's own document stands among the G.
        candidates: all documents.
        temperature: τ; a tensor of one number gets its gradient too.
        block_scope: candidates are those of the query's own block only.
        combine_columns: makes the loss symmetric, L = (L_q→d + L_d→q)/2, where L_d→q has the B positives for columns. It
            is called twice in the forward pass on every rank: for the positives' own scores, and for the sums.
        margin: a document with s_ij > s_ii + margin is no candidate of query i: it is likely a right answer that nobody
            labelled (GTE, arXiv 2308.03281; Qwen3-Embedding, arXiv 2506.05176, has 0.1). In the symmetric loss, neither is
            a query with s_ij > s_jj + margin one of document j. The mask is a constant for the gradient.

    Returns:
        Sums over this rank's queries. `loss` is a sum, not a mean. Under a symmetric loss its gradient is that of the sum
        over *all* ranks with respect to what this rank holds, so it must be scaled alike on all ranks.
    """
    tau = torch.as_tensor(temperature, dtype=torch.promote_types(query_BD.dtype, torch.float32), device=query_BD.device)
    masks = Masks(own_B, candidates, block_scope=block_scope)
    problem = _Problem(masks, margin, combine_columns, torch.is_grad_enabled())
    loss, correct, suspected = _InfoNCE.apply(query_BD, candidates.positive_GD, candidates.negative_HD, tau, problem)
    counted = len(own_B) + masks.in_scope - masks.masked - suspected
    return LossParts(loss, correct, counted, masks.masked, suspected)


@dataclass(frozen=True)
class _Problem:
    """All that has no gradient."""

    masks: Masks
    margin: float | None
    combine_columns: CombineColumns | None
    grad_enabled: bool


class _Sums:
    """The log-sum-exp of each row's other candidates and, for the symmetric loss, of each column's."""

    def __init__(self, scores: Scores, problem: _Problem) -> None:
        own_B, positive_GD = problem.masks.own_B, scores.parts[0]
        self.own_B, self.combine = own_B, problem.combine_columns
        self.own_logit_B = scores.tau.new_empty(len(own_B))
        for rows in scores.tiles:
            products_bD = scores.query_BD[rows].to(scores.tau.dtype) * positive_GD[own_B[rows]]
            self.own_logit_B[rows] = products_bD.sum(dim=1) / scores.tau
        self.others_B = torch.full_like(self.own_logit_B, FAR)
        self.best_B = self.others_B.clone()
        # Of each column: the positive itself, which only its own rank knows at first, and the sum over other queries.
        self.own_logit_G = self.others_B.new_full((len(positive_GD),), FAR)
        self.own_logit_G[own_B] = self.own_logit_B
        if self.combine:
            self.own_logit_G = self.combine(self.own_logit_G)
        self.others_G = torch.full_like(self.own_logit_G, FAR)
        self.margin = None if problem.margin is None else problem.margin / scores.tau
        self.suspected = torch.zeros((), dtype=torch.int64, device=own_B.device)
        self.one_exp = self.combine is not None and problem.margin is None and scores.span() < ONE_EXP_SPAN

    def add(self, rows: slice, logits_bC: Tensor) -> None:
        """Take in a tile."""
        if self.one_exp:
            self.best_B[rows], self.others_B[rows], column_G = log_sum_exps(logits_bC, columns=len(self.others_G))
            self.others_G = torch.logaddexp(self.others_G, column_G)
            return
        row_bC = self._below(logits_bC, self.own_logit_B[rows, None])
        self.suspected += (row_bC != logits_bC).sum() if self.margin is not None else 0
        self.best_B[rows], self.others_B[rows] = log_sum_exp(row_bC, dim=1)
        if self.combine:
            column_bG = self._below(logits_bC[:, : len(self.others_G)], self.own_logit_G)
            self.others_G = torch.logaddexp(self.others_G, log_sum_exp(column_bG, dim=0)[1])

    def to_weights(self, rows: slice, logits_bC: Tensor) -> None:
        """Put the loss's derivative with respect to each logit, but the own ones, in the logits' place."""
        row_b1 = torch.logaddexp(self.others_B[rows], self.own_logit_B[rows])[:, None]
        column_G = torch.logaddexp(self.others_G, self.own_logit_G)
        for few in pieces(logits_bC):
            logits_rC = logits_bC[few]
            weight_rC = self._below(logits_rC, self.own_logit_B[rows][few, None]).sub(row_b1[few]).exp_()
            if self.one_exp:
                # exp(x − row) + exp(x − column) = exp(x − row) · (1 + exp(row − column))
                weight_rC[:, : len(column_G)] *= torch.outer(row_b1[few, 0].exp(), column_G.neg().exp()).add_(1)
            elif self.combine:
                column_rG = self._below(logits_rC[:, : len(column_G)], self.own_logit_G)
                weight_rC[:, : len(column_G)] += column_rG.sub(column_G).exp_()
            logits_rC.copy_(weight_rC)

    def missing(self, rows: slice) -> Tensor:
        """1 − p_ii from the others alone, of the row and of the own document's column: [b]."""
        own_b = self.own_B[rows]
        missing_b = torch.sigmoid(self.others_B[rows] - self.own_logit_B[rows])
        if self.combine:
            missing_b += torch.sigmoid(self.others_G[own_b] - self.own_logit_G[own_b])
        return missing_b

    def loss(self) -> Tensor:
        """The sum of the queries' losses."""
        loss = softplus(self.others_B - self.own_logit_B, threshold=50).sum()
        if self.combine:
            self.others_G = self.combine(self.others_G)
            by_column_B = softplus(self.others_G[self.own_B] - self.own_logit_B, threshold=50)
            loss = (loss + by_column_B.sum()) / 2
        return loss

    def _below(self, logits: Tensor, own: Tensor) -> Tensor:
        return logits if self.margin is None else logits.masked_fill(logits > own + self.margin, FAR)


class _Gradients:
    """What goes back to the vectors and to τ, but for the factor that all share."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.by_query_BD = torch.zeros_like(scores.query_BD, dtype=scores.tau.dtype)
        self.by_document = [torch.zeros_like(part, dtype=scores.tau.dtype) for part in scores.parts]
        self.by_tau = torch.zeros_like(scores.tau)

    @property
    def all(self) -> tuple[Tensor, ...]:
        """Of queries, positives, hard negatives and τ."""
        return self.by_query_BD, *self.by_document, self.by_tau

    def add(self, rows: slice, sums: _Sums) -> None:
        """Take in a tile; its logits are used up."""
        scores, weight_bC = self.scores, self.scores.tile(rows)
        scores.standing = None
        sums.to_weights(rows, weight_bC)
        query_bD, by_query_bD, own_b = scores.query_BD[rows], self.by_query_BD[rows], sums.own_B[rows]
        if scores.mixes:
            weight_bC = weight_bC.to(query_bD.dtype)
        for columns, number, run in scores.runs():
            multiply(weight_bC[:, columns], scores.parts[number][run], out=by_query_bD, add=True)
            multiply(weight_bC[:, columns].T, query_bD, out=self.by_document[number][run], add=True)
        missing_b1 = sums.missing(rows)[:, None]
        by_query_bD -= missing_b1 * scores.parts[0][own_b]
        self.by_document[0].index_add_(0, own_b, missing_b1 * query_bD, alpha=-1)
        # A logit is s/τ, so −τ ∂L/∂τ = Σ_ij logit · ∂L/∂logit, which is Σ_i q_i · ∂L/∂q_i.
        self.by_tau -= (by_query_bD * query_bD).sum() / scores.tau


class _InfoNCE(torch.autograd.Function):
    """(loss, correct, suspected), the first with a gradient."""

    @staticmethod
    def forward(
        ctx: Any, query_BD: Tensor, positive_GD: Tensor, negative_HD: Tensor, tau: Tensor, problem: _Problem
    ) -> tuple[Tensor, ...]:
        scores = Scores(query_BD, (positive_GD, negative_HD), tau, problem.masks)
        sums = _Sums(scores, problem)
        wanted = problem.grad_enabled and any(ctx.needs_input_grad)
        gradients = _Gradients(scores) if wanted and not problem.combine_columns else None
        for rows in scores.tiles:
            sums.add(rows, scores.tile(rows))
            if gradients:
                gradients.add(rows, sums)
        loss = sums.loss()
        if gradients:
            ctx.save_for_backward(*gradients.all, tau)
        elif wanted:
            ctx.save_for_backward(query_BD, positive_GD, negative_HD, tau)
            ctx.sums, ctx.kept = sums, (scores.buffer_bC, scores.standing)
        ctx.problem = problem
        ctx.dtypes = [tensor.dtype for tensor in (query_BD, positive_GD, negative_HD, tau)]
        # A tie is a miss, and two ways to multiply the same vectors differ in the last digits.
        rounding = 8 * torch.finfo(tau.dtype).eps / tau
        counts = (sums.own_logit_B - sums.best_B > rounding).sum(), sums.suspected
        ctx.mark_non_differentiable(*counts)
        return loss, *counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.problem.combine_columns:
            *made, tau = ctx.saved_tensors
            scale = gradients[0] / tau
            return *((one * scale).to(dtype) for one, dtype in zip(made, ctx.dtypes, strict=True)), None
        query_BD, positive_GD, negative_HD, tau = ctx.saved_tensors
        scores = Scores(query_BD, (positive_GD, negative_HD), tau, ctx.problem.masks, ctx.kept)
        ctx.kept = None  # used up below, and a graph may be gone through twice
        making = _Gradients(scores)
        # From the last tile on, for it still stands.
        for rows in reversed(scores.tiles):
            making.add(rows, ctx.sums)
        scale = gradients[0] / (2 * tau)
        return *(one.mul_(scale).to(dtype) for one, dtype in zip(making.all, ctx.dtypes, strict=True)), None
