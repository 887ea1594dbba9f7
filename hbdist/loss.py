"""The contrastive loss: a pure function of gathered tensors and masks. No collective hides in it.

    L = 1/B Σ_i [ −s_ii/τ + log Σ_{j ∈ C(i)} exp(s_ij/τ) ],   s_ij = cos(q_i, d_j)

C(i): the candidates of query i, which are its own document and all others of its scope that are not masked. A document
is masked for a query if it is the query's own document under another number: the same item, the same passage or the same
text (a translation of an item is the same item).

    B queries on this rank · G pairs in the global batch · H hard negatives in the global batch · D dimensions
    I = 3 identities of a document: item, passage, text
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

NO_IDENTITY = 0
"""Stands for "none" among identities: it equals nothing, not even itself."""


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
    """int64, as above; a place without a hard negative has the text identity NO_IDENTITY."""
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


def identity_mask(identity_BI: Tensor, other_CI: Tensor) -> Tensor:
    """Whether two documents are the same by any identity that both have: bool [B, C]."""
    same_BC = torch.zeros((len(identity_BI), len(other_CI)), dtype=torch.bool, device=identity_BI.device)
    for mine_B, theirs_C in zip(identity_BI.T, other_CI.T, strict=True):
        same_BC |= (mine_B[:, None] == theirs_C[None, :]) & (mine_B != NO_IDENTITY)[:, None]
    return same_BC


def info_nce(
    query_BD: Tensor,
    own_B: Tensor,
    candidates: Candidates,
    *,
    temperature: float,
    block_scope: bool = False,
    combine_columns: Callable[[Tensor], Tensor] | None = None,
) -> LossParts:
    """InfoNCE of this rank's queries against the documents of the global batch (van den Oord et al. 2018, eq. 4).

    Args:
        query_BD: unit vectors of this rank's queries.
        own_B: int64, where each query's own document stands among the G.
        candidates: all documents.
        temperature: τ.
        block_scope: candidates are those of the query's own block only.
        combine_columns: makes the loss symmetric, L = (L_q→d + L_d→q)/2. It is given, for each of the G documents, the
            log-sum-exp over this rank's queries, and returns it over all ranks' queries: [G] → [G].

    Returns:
        Sums over this rank's queries. `loss` is a sum, not a mean.
    """
    rows = torch.arange(len(query_BD), device=query_BD.device)
    mine_BI, block_B = candidates.identity_GI[own_B], candidates.block_G[own_B]

    def scores(document_CD: Tensor, identity_CI: Tensor, block_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        same_BC = identity_mask(mine_BI, identity_CI)
        scope_BC = block_B[:, None] == block_C[None, :] if block_scope else torch.ones_like(same_BC)
        return query_BD @ document_CD.T / temperature, same_BC, scope_BC

    logits_BG, same_BG, scope_BG = scores(candidates.positive_GD, candidates.identity_GI, candidates.block_G)
    same_BG[rows, own_B] = False
    logits_BG = logits_BG.masked_fill(same_BG | ~scope_BG, -torch.inf)

    logits_BH, same_BH, scope_BH = scores(
        candidates.negative_HD, candidates.negative_identity_HI, candidates.negative_block_H
    )
    scope_BH &= (candidates.negative_identity_HI != NO_IDENTITY).any(dim=1)[None, :]
    logits_BH = logits_BH.masked_fill(same_BH | ~scope_BH, -torch.inf)

    logits_BC = torch.cat([logits_BG, logits_BH], dim=1)
    loss = cross_entropy(logits_BC, own_B, reduction="sum")
    if combine_columns is not None:
        column_G = combine_columns(torch.logsumexp(logits_BG, dim=0))
        loss = (loss + (column_G[own_B] - logits_BG[rows, own_B]).sum()) / 2

    candidate_BC = torch.cat([scope_BG & ~same_BG, scope_BH & ~same_BH], dim=1)
    positive_B1 = logits_BG[rows, own_B][:, None]
    return LossParts(
        loss,
        correct=((logits_BC >= positive_B1).sum(dim=1) == 1).sum(),
        candidates=candidate_BC.sum(),
        masked=(scope_BG & same_BG).sum() + (scope_BH & same_BH).sum(),
    )
