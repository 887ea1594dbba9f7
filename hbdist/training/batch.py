"""One rank's part of a global batch."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """The texts of one forward pass."""

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    places_B: Tensor
    """int64: where each stands among this rank's queries, or documents."""


@dataclass(frozen=True)
class BatchCounts:
    """What is known of a batch before any of it is encoded: the global batch's make-up, and this rank's share of tokens."""

    pools: dict[str, int]
    """Pairs of each language pair in the global batch."""
    mono_share: float
    """Share of monolingual pairs in the global batch."""
    repeats: int
    """Pairs of the global batch that stand in it more than once, beyond the first."""
    tokens: int
    """This rank's real tokens."""
    padded_tokens: int
    """The same with padding."""
    truncated: int
    """This rank's texts that were cut."""
    unreadable: tuple[str, ...] = ()
    """Why pairs that were dealt to this rank could not be read, a sentence each; they are not in its batch."""


@dataclass(frozen=True)
class RankBatch:
    """This rank's part of one global batch."""

    step: int
    query_chunks: list[Chunk]
    document_chunks: list[Chunk]
    """Places 0 … B − 1 are the pairs' own documents; the hard negatives follow, K a pair."""
    identity_BI: Tensor
    block_B: Tensor
    negative_identity_NI: Tensor
    """N = B·K; a place without a hard negative has NO_IDENTITY thrice and an empty text."""
    negative_block_N: Tensor
    counts: BatchCounts
    ids: list[str] | None
    """The ids of the global batch, in its order, where they are to be logged."""

    @property
    def chunks(self) -> list[Chunk]:
        """All of this rank's texts: queries, then documents."""
        return self.query_chunks + self.document_chunks
