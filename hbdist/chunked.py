"""The gradient of one global batch, in one pass or in two (the gradient cache of Gao et al. 2021, arXiv 2101.06983).

One pass: encode all chunks, gather, score, backward; all activations are kept at once. Two passes: encode without
gradients, gather, score, and keep only the gradient of each vector; then encode each chunk again and send its vectors'
gradient back. The same gradient, for a third more time and the memory of one chunk.

    B pairs on this rank · N hard negatives on this rank · D dimensions
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from hbdist.batches import Chunk, RankBatch
from hbdist.config import Config
from hbdist.gather import combine_columns, gather_rows, row_counts
from hbdist.loss import Candidates, LossParts, info_nce
from hbdist.memory import ActivationBudget


class Gradients(Protocol):
    """What the step needs of an engine."""

    @property
    def rank(self) -> int:
        """This process's place."""

    @property
    def world(self) -> int:
        """How many there are."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's loss; ranks are averaged, unless it is held."""

    def hold(self) -> AbstractContextManager[None]:
        """Forward and backward passes inside are not averaged over the ranks yet: one outside, later, does it for all."""

    def agree(self, flag: bool) -> bool:
        """Whether the flag is up on any rank; all ranks call it."""


class ContrastiveStep:
    """Accumulates the gradient of global batches into a model.

    Args:
        model: as the engine prepared it.
        say: told how much memory a token takes and what follows from it, at first and whenever that changes.
    """

    def __init__(self, model: nn.Module, config: Config, engine: Gradients, *, say: Callable[[str], None]) -> None:
        self.model = model
        self.config = config
        self.engine = engine
        self.say = say
        self.device = next(model.parameters()).device
        self.budget: ActivationBudget | None = None
        self.one_pass: bool | None = None

    def __call__(self, batch: RankBatch) -> LossParts:
        """The gradient of the global batch's mean loss; returns this rank's sums."""
        encode = ChunkEncoder(self.model, self.device, seed=f"{self.config.seed}/{batch.step}/{self.engine.rank}")
        if self._takes_one_pass(batch.chunks, encode):
            return self._in_one_pass(batch, encode)
        return self._in_two_passes(batch, encode)

    def _in_one_pass(self, batch: RankBatch, encode: "ChunkEncoder") -> LossParts:
        vectors = [encode(number, chunk) for number, chunk in enumerate(batch.chunks)]
        parts = self._score(batch, vectors)
        self.engine.backward(self._of_the_mean(parts.loss))
        return parts

    def _in_two_passes(self, batch: RankBatch, encode: "ChunkEncoder") -> LossParts:
        chunks = batch.chunks
        with torch.no_grad():
            vectors = [encode(number, chunk) for number, chunk in enumerate(chunks)]
        for vector_BD in vectors:
            vector_BD.requires_grad_()
        parts = self._score(batch, vectors)
        self._of_the_mean(parts.loss).backward()
        for number, (chunk, vector_BD) in enumerate(zip(chunks, vectors, strict=True)):
            with nullcontext() if number + 1 == len(chunks) else self.engine.hold():
                assert vector_BD.grad is not None
                self.engine.backward((encode(number, chunk) * vector_BD.grad).sum())
        return parts

    def _of_the_mean(self, loss: Tensor) -> Tensor:
        # Whoever reduces the ranks' gradients (DDP, ZeRO) averages them: the one place where the number of ranks enters.
        return loss * (self.engine.world / self.config.batch.size)

    def _score(self, batch: RankBatch, vectors: Sequence[Tensor]) -> LossParts:
        """The loss of this rank's queries against the documents of all ranks, from the vectors of its chunks."""
        queries = len(batch.query_chunks)
        query_BD = in_place_order(batch.query_chunks, vectors[:queries])
        document_BD, negative_ND = in_place_order(batch.document_chunks, vectors[queries:]).split(
            [len(batch.block_B), len(batch.negative_block_N)]
        )
        counts = row_counts(len(query_BD), self.device)
        negative_counts = [count * self.config.loss.hard_negatives for count in counts]
        candidates = Candidates(
            positive_GD=gather_rows(document_BD, counts),
            identity_GI=gather_rows(batch.identity_BI.to(self.device), counts),
            block_G=gather_rows(batch.block_B.to(self.device), counts),
            negative_HD=gather_rows(negative_ND, negative_counts),
            negative_identity_HI=gather_rows(batch.negative_identity_NI.to(self.device), negative_counts),
            negative_block_H=gather_rows(batch.negative_block_N.to(self.device), negative_counts),
        )
        return info_nce(
            query_BD,
            sum(counts[: self.engine.rank]) + torch.arange(len(query_BD), device=self.device),
            candidates,
            temperature=self.config.loss.temperature,
            block_scope=self.config.batch.negatives == "block",
            combine_columns=combine_columns if self.config.loss.symmetric else None,
        )

    def _takes_one_pass(self, chunks: Sequence[Chunk], encode: "ChunkEncoder") -> bool:
        asked = self.config.loss.gradient_cache
        if asked != "auto":
            return asked == "never"
        if self.budget is None:
            self.budget = self._measure(chunks, encode)
        tokens = sum(chunk.input_ids_BL.numel() for chunk in chunks)
        # One answer for all: the two ways call DDP and the gathers in another order.
        one_pass = not self.engine.agree(not self.budget.fits(tokens))
        if one_pass != self.one_pass:
            self.one_pass = one_pass
            how = "one pass" if one_pass else "two passes (gradient cache)"
            self.say(f"{self.budget}: {tokens:,} tokens of a step on a rank are done in {how}")
        return one_pass

    def _measure(self, chunks: Sequence[Chunk], encode: "ChunkEncoder") -> ActivationBudget:
        # The longest texts: attention may keep more a token the longer they are.
        number = max(range(len(chunks)), key=lambda place: chunks[place].input_ids_BL.shape[1])
        # Inside hold: this forward pass has no backward, and DDP would wait for one.
        with self.engine.hold():
            return ActivationBudget.measure(
                self.model,
                lambda: encode(number, chunks[number]),
                tokens=chunks[number].input_ids_BL.numel(),
                device=self.device,
            )


class ChunkEncoder:
    """Encodes the chunks of one step; dropout follows from (seed, step, rank, number of the chunk) alone."""

    def __init__(self, model: nn.Module, device: torch.device, *, seed: str) -> None:
        self.model = model
        self.device = device
        self.seed = seed

    def __call__(self, number: int, chunk: Chunk) -> Tensor:
        """The vectors of a chunk's texts: [B, D]. A number gives the same dropout whenever it is used."""
        torch.manual_seed(_seed(f"dropout/{self.seed}/{number}"))
        return self.model(chunk.input_ids_BL.to(self.device), chunk.attention_mask_BL.to(self.device))


def in_place_order(chunks: Sequence[Chunk], vectors: Sequence[Tensor]) -> Tensor:
    """The vectors of all chunks in the order of their texts' places: [B, D]."""
    places = torch.cat([chunk.places_B for chunk in chunks])
    return torch.cat(list(vectors))[torch.argsort(places).to(vectors[0].device)]


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
