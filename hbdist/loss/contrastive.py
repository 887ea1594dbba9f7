"""Contrastive loss of a global batch that is spread over ranks, for hbdist's own step and for any other DDP or ZeRO training.

B pairs on this rank · K hard negatives per pair · N = B·K hard negatives on this rank · G pairs on all W ranks
I identities per document · D dimensions
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize as to_unit_length

from hbdist.distributed.collectives import combine_columns, gather_rows, rank, row_counts, scale_for_averaging
from hbdist.loss.infonce import LossParts, info_nce
from hbdist.loss.masks import NO_IDENTITY, Candidates

ANY_NEGATIVE = torch.iinfo(torch.int64).min
"""Identity of a hard negative about which nothing is known: the document exists, and it is no query's own document."""


def score_globally(
    query_BD: Tensor,
    own: Candidates,
    *,
    hard_negatives: int,
    temperature: float | Tensor,
    symmetric: bool = False,
    block_scope: bool = False,
    margin: float | None = None,
) -> tuple[LossParts, Tensor]:
    """Score this rank's queries against the documents of all ranks. A collective.

    Args:
        query_BD: unit vectors of this rank's queries.
        own: documents of this rank: those of its B pairs, and the N hard negatives, those of the first pair first.
        hard_negatives: K, the same on every rank.
        temperature, block_scope, margin: see `info_nce`.
        symmetric: take the mean of query → document and document → query.

    Returns:
        Sums over this rank's queries, see `info_nce`; and the loss to propagate back: W/G times their loss.

    Raises:
        ValueError: no rank has a pair.
    """
    counts, own_rank = row_counts(len(query_BD), query_BD.device), rank()
    if sum(counts) == 0:
        raise ValueError("no rank has a pair; skip the empty batch on all ranks")
    negative_counts = [count * hard_negatives for count in counts]
    assert (len(query_BD), len(own.negative_HD)) == (counts[own_rank], negative_counts[own_rank])
    negatives = own.negative_HD, own.negative_identity_HI, own.negative_block_H
    parts = info_nce(
        query_BD,
        sum(counts[:own_rank]) + torch.arange(len(query_BD), device=query_BD.device),
        Candidates(
            *(gather_rows(rows, counts) for rows in (own.positive_GD, own.identity_GI, own.block_G)),
            *(gather_rows(rows, negative_counts) for rows in negatives),
        ),
        temperature=temperature,
        block_scope=block_scope,
        combine_columns=combine_columns if symmetric else None,
        margin=margin,
    )
    return parts, scale_for_averaging(parts.loss, counts)


def contrastive_loss(
    query: Tensor,
    document: Tensor,
    *,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.05,
    symmetric: bool = False,
    identity: Tensor | None = None,
    margin: float | None = None,
    normalize: bool = True,
) -> Tensor:
    """Return the InfoNCE of the pairs of all ranks, for a loop that averages gradients over ranks, as DDP and ZeRO do.

        L = 1/G Σ_i [ −s_ii/τ + log Σ_{j ∈ C(i)} exp(s_ij/τ) ],   i over the G pairs of all ranks

    C(i) are the documents and hard negatives of all ranks, except those masked. Each rank returns W/G times the sum over its
    own queries, so that the mean of the returned values over the W ranks is L, and the mean of their gradients is the
    gradient of L, however many pairs each rank has. Without torch.distributed, W = 1. A collective.

    A complete training loop under DDP::

        model = DistributedDataParallel(encoder)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for queries, documents in batches:  # this rank's share of each batch
            query, document = model(torch.cat([queries, documents])).chunk(2)
            loss = contrastive_loss(query, document, symmetric=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    All vectors of a batch must have their graphs at once; `hbdist.training.step` has the gradient cache for larger batches.

    Args:
        query, document: [B, D], pair by pair. B may differ between ranks, and may be 0.
        negatives: [B, K, D], hard negatives of each query, which are candidates of all queries.
        temperature: τ; a parameter with one element is trained, and its gradient averaged like all others.
        symmetric: take the mean of L and of the same loss from documents (without hard negatives) to queries.
        identity: int64 [B], or [B, I] for several kinds. Documents that share an identity of one kind are the same, and are
            not negatives of one another's queries; 0 means no identity.
        margin: also mask documents that score above a query's own by more than this, see `info_nce`.
        normalize: scale the vectors to unit length first, so that s is the cosine.

    Raises:
        ValueError: a shape, a type or the temperature is not as above, or no rank has a pair.
    """
    _check(query, document, negatives, temperature, identity)
    negative_ND = query.new_empty((0, query.shape[1])) if negatives is None else negatives.flatten(0, 1)
    if normalize:
        query, document, negative_ND = (to_unit_length(vectors, dim=1) for vectors in (query, document, negative_ND))
    none_B = torch.full((len(query),), NO_IDENTITY, dtype=torch.int64, device=query.device)
    identity_BI = none_B if identity is None else identity
    if identity_BI.ndim == 1:
        identity_BI = identity_BI[:, None]
    any_negative_NI = identity_BI.new_full((len(negative_ND), identity_BI.shape[1]), ANY_NEGATIVE)
    _, loss = score_globally(
        query,
        Candidates(
            *(document, identity_BI, torch.zeros_like(none_B)),
            *(negative_ND, any_negative_NI, none_B.new_zeros(len(negative_ND))),
        ),
        hard_negatives=0 if negatives is None else negatives.shape[1],
        temperature=temperature,
        symmetric=symmetric,
        margin=margin,
    )
    return loss


def _check(
    query: Tensor, document: Tensor, negatives: Tensor | None, temperature: float | Tensor, identity: Tensor | None
) -> None:
    """Refuse input that would fail later, or be misread."""
    if query.ndim != 2 or not query.is_floating_point():
        raise ValueError(f"query is {_describe(query)}; expected vectors, floating point [B, D]")
    if document.shape != query.shape or document.dtype != query.dtype:
        raise ValueError(
            f"document is {_describe(document)} and query {_describe(query)}; give one document per query, with the same"
            " shape and type"
        )
    if negatives is not None and (
        negatives.ndim != 3
        or (negatives.shape[0], negatives.shape[2]) != tuple(query.shape)
        or negatives.dtype != query.dtype
    ):
        raise ValueError(
            f"negatives is {_describe(negatives)} and query {_describe(query)}; give the K hard negatives of each query,"
            " [B, K, D]"
        )
    if identity is not None and (
        identity.ndim not in (1, 2) or len(identity) != len(query) or identity.dtype != torch.int64
    ):
        raise ValueError(
            f"identity is {_describe(identity)} for {len(query)} documents; give int64 numbers, [B] or [B, I], with 0 for a"
            " document that has none"
        )
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1:
            raise ValueError(f"temperature is {_describe(temperature)}; give a number, or a tensor with one element")
    elif not temperature > 0:
        raise ValueError(f"temperature is {temperature}; give a number above 0 (0.01 to 0.1 is usual)")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
