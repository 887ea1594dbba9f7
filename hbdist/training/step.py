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

from hbdist.config.config import Config
from hbdist.distributed.collectives import row_counts
from hbdist.loss.contrastive import score_globally
from hbdist.loss.infonce import LossParts
from hbdist.training.activations import ActivationBudget
from hbdist.training.batch import Chunk, RankBatch


class Gradients(Protocol):
    """What the step needs of an engine."""

    @property
    def rank(self) -> int:
        """This process's place."""

    @property
    def world(self) -> int:
        """How many there are."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's loss; ranks are averaged, unless it is held."""

    def no_sync(self) -> AbstractContextManager[None]:
        """Forward and backward passes inside are not averaged over the ranks yet: one outside, later, does it for all."""

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is up on any rank; all ranks call it."""

    @property
    def lockstep(self) -> bool:
        """Ranks must make equal numbers of forward and backward passes."""

    def all_reduce_max(self, number: int) -> int:
        """The largest of the ranks' numbers; all ranks call it."""


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
        self.device = engine.device
        self.budget: ActivationBudget | None = None
        self.one_pass: bool | None = None
        self.temperature = config.loss.temperature
        """τ of the last step."""

    def __call__(self, batch: RankBatch) -> LossParts:
        """The gradient of the global batch's mean loss; returns this rank's sums."""
        encode = ChunkEncoder(self.model, self.device, seed=f"{self.config.seed}/{batch.step}/{self.engine.rank}")
        one_pass = self._takes_one_pass(batch.chunks, encode)
        # What makes up the numbers is encoded like any chunk, and no vector of it is used.
        chunks = batch.chunks + self._idle_chunks(batch.chunks)
        return (self._in_one_pass if one_pass else self._in_two_passes)(batch, chunks, encode)

    @torch.no_grad()
    def without_gradient(self, batch: RankBatch) -> LossParts:
        """This rank's sums for a batch that nothing is learned from: no gradient, no dropout."""
        encode = ChunkEncoder(self.model, self.device, seed="")
        self.model.eval()
        encoded = [encode(number, chunk) for number, chunk in enumerate(batch.chunks + self._idle_chunks(batch.chunks))]
        self.model.train()
        return self._score(batch, [vector_BD for vector_BD, _ in encoded], encoded[-1][1])[0]

    def _idle_chunks(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """As many chunks of one text as the rank with the most has more: where ranks meet in every pass, all must come."""
        if not self.engine.lockstep:
            return []
        one = chunks[0]
        idle = Chunk(one.input_ids_BL[:1], one.attention_mask_BL[:1], one.places_B[:1])
        return [idle] * (self.engine.all_reduce_max(len(chunks)) - len(chunks))

    def _in_one_pass(self, batch: RankBatch, chunks: Sequence[Chunk], encode: "ChunkEncoder") -> LossParts:
        encoded = [encode(number, chunk) for number, chunk in enumerate(chunks)]
        vectors, tau = [vector_BD for vector_BD, _ in encoded], encoded[-1][1]
        parts, loss = self._score(batch, vectors, tau)
        unused = sum(vector_BD.sum() * 0 for vector_BD in vectors[len(batch.chunks) :])
        self.engine.backward(loss + unused)
        return parts

    def _in_two_passes(self, batch: RankBatch, chunks: Sequence[Chunk], encode: "ChunkEncoder") -> LossParts:
        with torch.no_grad():
            encoded = [encode(number, chunk) for number, chunk in enumerate(chunks)]
        vectors, tau = [vector_BD.requires_grad_() for vector_BD, _ in encoded], encoded[-1][1]
        if isinstance(tau, Tensor):
            tau = tau.detach().requires_grad_()
        parts, loss = self._score(batch, vectors, tau)
        loss.backward()
        for number, (chunk, cached_BD) in enumerate(zip(chunks, vectors, strict=True)):
            last = number + 1 == len(chunks)
            with nullcontext() if last else self.engine.no_sync():
                vector_BD, again = encode(number, chunk)
                sent_back = (vector_BD * (0 if cached_BD.grad is None else cached_BD.grad)).sum()
                if isinstance(tau, Tensor) and tau.grad is not None:
                    sent_back = sent_back + again * (tau.grad if last else 0)
                self.engine.backward(sent_back)
        return parts

    def _score(self, batch: RankBatch, vectors: Sequence[Tensor], tau: Tensor | float) -> tuple[LossParts, Tensor]:
        """From the vectors of this rank's chunks: its sums, and what it must send back for the global batch's mean loss."""
        queries = len(batch.query_chunks)
        query_BD = in_place_order(batch.query_chunks, vectors[:queries])
        document_BD, negative_ND = in_place_order(batch.document_chunks, vectors[queries : len(batch.chunks)]).split(
            [len(batch.block_B), len(batch.negative_block_N)]
        )
        self.temperature = float(tau.detach() if isinstance(tau, Tensor) else tau)
        counts = row_counts(len(query_BD), self.device)
        parts = score_globally(
            query_BD,
            document_BD,
            negative_ND,
            identity_BI=batch.identity_BI.to(self.device),
            block_B=batch.block_B.to(self.device),
            negative_identity_NI=batch.negative_identity_NI.to(self.device),
            negative_block_N=batch.negative_block_N.to(self.device),
            hard_negatives=self.config.loss.hard_negatives,
            temperature=tau,
            symmetric=self.config.loss.symmetric,
            block_scope=self.config.batch.negatives == "block",
            margin=self.config.loss.margin,
            counts=counts,
        )
        # Of the pairs that were read, which may be fewer than batch.size. Whoever reduces the ranks' gradients (DDP, ZeRO)
        # averages them: the one place where the number of ranks enters.
        return parts, parts.loss * (self.engine.world / sum(counts))

    def _takes_one_pass(self, chunks: Sequence[Chunk], encode: "ChunkEncoder") -> bool:
        asked = self.config.loss.gradient_cache
        if asked != "auto":
            return asked == "never"
        if self.budget is None:
            self.budget = self._measure(chunks, encode)
        tokens = sum(chunk.input_ids_BL.numel() for chunk in chunks)
        # One answer for all: the two ways call DDP and the gathers in another order.
        one_pass = not self.engine.any_rank(not self.budget.fits(tokens))
        if one_pass != self.one_pass:
            self.one_pass = one_pass
            how = "one pass" if one_pass else "two passes (gradient cache)"
            self.say(f"{self.budget}: {tokens:,} tokens of a step on a rank are done in {how}")
        return one_pass

    def _measure(self, chunks: Sequence[Chunk], encode: "ChunkEncoder") -> ActivationBudget:
        # The longest texts: attention may keep more a token the longer they are.
        number = max(range(len(chunks)), key=lambda place: chunks[place].input_ids_BL.shape[1])
        # Inside hold: this forward pass has no backward, and DDP would wait for one.
        with self.engine.no_sync():
            return ActivationBudget.measure(
                self.model,
                lambda: encode(number, chunks[number])[0],
                tokens=chunks[number].input_ids_BL.numel(),
                device=self.device,
            )


class ChunkEncoder:
    """Encodes the chunks of one step; dropout follows from (seed, step, rank, number of the chunk) alone."""

    def __init__(self, model: nn.Module, device: torch.device, *, seed: str) -> None:
        self.model = model
        self.device = device
        self.seed = seed

    def __call__(self, number: int, chunk: Chunk) -> tuple[Tensor, Tensor | float]:
        """The vectors of a chunk's texts, [B, D], and τ. A number gives the same dropout whenever it is used."""
        torch.manual_seed(_seed(f"dropout/{self.seed}/{number}"))
        return self.model(chunk.input_ids_BL.to(self.device), chunk.attention_mask_BL.to(self.device))


def in_place_order(chunks: Sequence[Chunk], vectors: Sequence[Tensor]) -> Tensor:
    """The vectors of all chunks in the order of their texts' places: [B, D]."""
    places = torch.cat([chunk.places_B for chunk in chunks])
    return torch.cat(list(vectors))[torch.argsort(places).to(vectors[0].device)]


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
