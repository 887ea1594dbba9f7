"""One rank's share of a global batch: flat, as a data worker sends it, and cut into chunks, as the step takes it.

A flat batch is a handful of NumPy arrays, however many chunks it has. Tensors would travel between processes as one file
descriptor each, of which a process has few.

B pairs on this rank, or texts of one chunk · L tokens of each, padded · K hard negatives per pair · N = B·K places for hard
negatives · M of them that have a text · I identities per document
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from hbdist.models.tokenizer import flatten, make_chunks, pad_flat


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
    negatives: int = 0
    """Number of this rank's hard negatives: at most K per pair, fewer if the data have fewer."""
    unreadable: tuple[str, ...] = ()
    """Error message of each pair that was dealt to this rank and could not be read; these pairs are not in its batch."""


@dataclass(frozen=True)
class FlatTexts:
    """Tokens of a rank's queries, or of its documents, chunk after chunk."""

    ids: np.ndarray
    """Tokens of all texts: int32."""
    lengths: np.ndarray
    """Number of tokens of each text: int64."""
    index: np.ndarray
    """Index of each text among the queries, or among the documents: int64."""
    chunk_sizes: np.ndarray
    """Number of texts of each chunk: int64."""

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], chunk_tokens: int) -> Self:
        """Put texts into chunks of at most `chunk_tokens` tokens."""
        chunks = make_chunks(ids, chunk_tokens)
        order = [index for chunk in chunks for index in chunk]
        flat, lengths = flatten([ids[index] for index in order])
        return cls(flat, lengths, np.array(order, np.int64), np.array([len(chunk) for chunk in chunks], np.int64))

    @property
    def padded_tokens(self) -> int:
        """Number of tokens with padding. The first text of a chunk is its longest."""
        first = np.cumsum(self.chunk_sizes) - self.chunk_sizes
        return int((self.lengths[first] * self.chunk_sizes).sum())

    def cut(self, pad_token_id: int) -> list[Chunk]:
        """Return the chunks as tensors."""
        ends = np.cumsum(self.chunk_sizes)[:-1]
        lengths, indexes = np.split(self.lengths, ends), np.split(self.index, ends)
        ids = np.split(self.ids, np.cumsum([of_chunk.sum() for of_chunk in lengths])[:-1])
        return [
            Chunk(*pad_flat(*tokens, pad_token_id), torch.from_numpy(index_B))
            for tokens, index_B in zip(zip(ids, lengths, strict=True), indexes, strict=True)
        ]


@dataclass(frozen=True)
class FlatBatch:
    """This rank's share of one global batch without tensors. See `RankBatch`."""

    step: int
    queries: FlatTexts
    documents: FlatTexts
    identity_BI: np.ndarray
    block_B: np.ndarray
    negative_identity_NI: np.ndarray
    negative_place_M: np.ndarray
    counts: BatchCounts
    ids: list[str] | None

    def cut(self, pad_token_id: int) -> "RankBatch":
        """Return the batch as tensors, in chunks."""
        block_B = torch.from_numpy(self.block_B)
        return RankBatch(
            step=self.step,
            query_chunks=self.queries.cut(pad_token_id),
            document_chunks=self.documents.cut(pad_token_id),
            identity_BI=torch.from_numpy(self.identity_BI),
            block_B=block_B,
            negative_identity_NI=torch.from_numpy(self.negative_identity_NI),
            negative_block_N=block_B.repeat_interleave(len(self.negative_identity_NI) // len(block_B)),
            counts=self.counts,
            ids=self.ids,
            negative_place_M=torch.from_numpy(self.negative_place_M),
        )


@dataclass(frozen=True)
class RankBatch:
    """This rank's share of one global batch."""

    step: int
    query_chunks: list[Chunk]
    document_chunks: list[Chunk]
    """Chunks of the documents: indices 0 … B − 1 are the pairs' own, and the M hard negatives that have a text follow."""
    identity_BI: Tensor
    block_B: Tensor
    negative_identity_NI: Tensor
    """Identities of the hard negatives, K per pair; a missing one has only NO_IDENTITY."""
    negative_block_N: Tensor
    counts: BatchCounts
    ids: list[str] | None
    """Ids of the global batch, in its order, if they are to be logged."""
    negative_place_M: Tensor | None = None
    """Place, among the N, of each hard negative that has a text: int64; None: all have one."""

    @property
    def chunks(self) -> list[Chunk]:
        """All of this rank's texts: queries, then documents."""
        return self.query_chunks + self.document_chunks

    def place_negatives(self, negative_MD: Tensor) -> Tensor:
        """Return the vectors of all places for hard negatives, [N, D]: zeros, which are masked, where there is no text."""
        if self.negative_place_M is None or len(negative_MD) == len(self.negative_block_N):
            return negative_MD
        empty_ND = negative_MD.new_zeros(len(self.negative_block_N), negative_MD.shape[1])
        return empty_ND.index_copy(0, self.negative_place_M.to(negative_MD.device), negative_MD)
