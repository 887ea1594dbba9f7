"""One rank's share of a global batch.

B pairs on this rank, or texts of one chunk · L tokens of each, padded · K hard negatives per pair · I identities per document
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Texts of one forward pass."""

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    index_B: Tensor
    """Index of each text among this rank's queries, or among its documents: int64."""


@dataclass(frozen=True)
class BatchCounts:
    """Numbers known before a batch is encoded: the global batch's composition, and this rank's tokens."""

    pools: dict[str, int]
    """Number of pairs of each language pair in the global batch."""
    mono_share: float
    """Share of monolingual pairs in the global batch."""
    repeats: int
    """Number of pairs in the global batch that repeat an earlier pair of it."""
    tokens: int
    """Number of this rank's real tokens."""
    padded_tokens: int
    """Number of this rank's tokens with padding."""
    truncated: int
    """Number of this rank's texts that were cut."""
    unreadable: tuple[str, ...] = ()
    """Error message of each pair that was dealt to this rank and could not be read; these pairs are not in its batch."""


@dataclass(frozen=True)
class RankBatch:
    """This rank's share of one global batch."""

    step: int
    query_chunks: list[Chunk]
    document_chunks: list[Chunk]
    """Chunks of the documents: indices 0 … B − 1 are the pairs' own, and the hard negatives follow, K per pair."""
    identity_BI: Tensor
    block_B: Tensor
    negative_identity_NI: Tensor
    """Identities of the N = B·K hard negatives; a missing one has only NO_IDENTITY and an empty text."""
    negative_block_N: Tensor
    counts: BatchCounts
    ids: list[str] | None
    """Ids of the global batch, in its order, if they are to be logged."""

    @property
    def chunks(self) -> list[Chunk]:
        """All of this rank's texts: queries, then documents."""
        return self.query_chunks + self.document_chunks
