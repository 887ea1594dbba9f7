"""Gradient of one global batch, in one pass or in two (the gradient cache of Gao et al. 2021, arXiv 2101.06983).

One pass: encode all chunks, gather, score, backward; all activations are kept at once. Two passes: encode without
gradients, gather, score, and keep only the gradient of each vector; then encode each chunk again and propagate its vectors'
gradient back. The gradient is the same, for a third more time and the memory of one chunk.

    B pairs on this rank · N hard negatives on this rank · D dimensions
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from hbdist.config.config import Config
from hbdist.distributed.engine import Engine
from hbdist.errors import RunError
from hbdist.loss.contrastive import score_globally
from hbdist.loss.infonce import LossParts
from hbdist.loss.masks import Candidates
from hbdist.loss.shapes import score_bytes, vector_bytes
from hbdist.training.activations import ActivationBudget, describe_remedy, is_out_of_memory
from hbdist.training.batch import Chunk, RankBatch


class ContrastiveStep:
    """Computation of the gradients of global batches, which accumulate in the model.

    Args:
        model: model returned by `Engine.prepare`.
        report: called with the memory per token and the resulting choice, at the first step and when the choice changes.
    """

    def __init__(self, model: nn.Module, config: Config, engine: Engine, *, report: Callable[[str], None]) -> None:
        self.model, self.config, self.engine, self.report = model, config, engine, report
        self.device = engine.device
        self.budget: ActivationBudget | None = None
        self.one_pass: bool | None = None
        self.temperature = config.loss.temperature
        """Value of τ in the last step."""
        self.document_sum_D = torch.zeros(0)
        """Sum of the vectors of this rank's documents in the last step, without hard negatives: float64."""

    @property
    def seen(self) -> dict[str, Any]:
        """Numbers of the last step beside its sums, for `StepMeter.measure`."""
        return {"temperature": self.temperature, "document_sum_D": self.document_sum_D}

    def __call__(self, batch: RankBatch) -> LossParts:
        """Add the gradient of the global batch's mean loss and return this rank's sums. A collective.

        Raises:
            RunError: the memory does not suffice; the message names a size that would fit.
        """
        try:
            return self._add_gradient(batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            size = self.config.loss.chunk_tokens
            raise RunError(
                f"step {batch.step + 1}: {describe_remedy(self.budget, size, one_pass=self.one_pass)}"
            ) from None

    def _add_gradient(self, batch: RankBatch) -> LossParts:
        seed = f"{self.config.seed}/{batch.step}/{self.engine.rank}"
        one_pass = self._takes_one_pass(batch, seed)
        # Filler chunks are encoded like any other, but none of their vectors is used.
        chunks = batch.chunks + self._filler_chunks(batch.chunks)
        return (self._in_one_pass if one_pass else self._in_two_passes)(batch, chunks, seed)

    @torch.no_grad()
    def evaluate(self, batch: RankBatch) -> LossParts:
        """Return this rank's sums for a batch, without gradient and dropout. A collective."""
        chunks = batch.chunks + self._filler_chunks(batch.chunks)
        self.model.eval()
        vectors, tau = self._encode_all(chunks, seed="")
        self.model.train()
        return self._score(batch, vectors, tau)[0]

    def _filler_chunks(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Return chunks of one text that bring this rank to as many passes as any other, if ranks run in lockstep."""
        if not self.engine.lockstep:
            return []
        first = chunks[0]
        filler = Chunk(first.input_ids_BL[:1], first.attention_mask_BL[:1], first.index_B[:1])
        return [filler] * (self.engine.all_reduce_max(len(chunks)) - len(chunks))

    def _encode(self, chunk: Chunk, number: int, seed: str) -> tuple[Tensor, Tensor | float]:
        """Return the vectors of a chunk, [B, D], and τ. Dropout depends only on seed and number of the chunk."""
        torch.manual_seed(_hash(f"dropout/{seed}/{number}"))
        return self.model(chunk.input_ids_BL.to(self.device), chunk.attention_mask_BL.to(self.device))

    def _encode_all(self, chunks: Sequence[Chunk], seed: str) -> tuple[list[Tensor], Tensor | float]:
        encoded = [self._encode(chunk, number, seed) for number, chunk in enumerate(chunks)]
        return [vector_BD for vector_BD, _ in encoded], encoded[-1][1]

    def _in_one_pass(self, batch: RankBatch, chunks: Sequence[Chunk], seed: str) -> LossParts:
        vectors, tau = self._encode_all(chunks, seed)
        parts, loss = self._score(batch, vectors, tau)
        unused = sum(vector_BD.sum() * 0 for vector_BD in vectors[len(batch.chunks) :])
        self.engine.backward(loss + unused)
        return parts

    def _in_two_passes(self, batch: RankBatch, chunks: Sequence[Chunk], seed: str) -> LossParts:
        with torch.no_grad():
            vectors, tau = self._encode_all(chunks, seed)
        vectors = [vector_BD.requires_grad_() for vector_BD in vectors]
        if isinstance(tau, Tensor):
            tau = tau.detach().requires_grad_()
        parts, loss = self._score(batch, vectors, tau)
        loss.backward()
        for number, (chunk, cached_BD) in enumerate(zip(chunks, vectors, strict=True)):
            last = number + 1 == len(chunks)
            with nullcontext() if last else self.engine.no_sync():
                vector_BD, tau_again = self._encode(chunk, number, seed)
                surrogate = (vector_BD * (0 if cached_BD.grad is None else cached_BD.grad)).sum()
                if isinstance(tau, Tensor) and tau.grad is not None:
                    surrogate = surrogate + tau_again * (tau.grad if last else 0)
                self.engine.backward(surrogate)
        return parts

    def _score(self, batch: RankBatch, vectors: Sequence[Tensor], tau: Tensor | float) -> tuple[LossParts, Tensor]:
        """Return this rank's sums, and the loss whose gradient it contributes to that of the global batch's mean loss."""
        queries = len(batch.query_chunks)
        query_BD = restore_order(batch.query_chunks, vectors[:queries])
        documents_D = restore_order(batch.document_chunks, vectors[queries : len(batch.chunks)])
        document_BD, negative_ND = (
            documents_D[: len(batch.block_B)],
            batch.place_negatives(documents_D[len(batch.block_B) :]),
        )
        self.document_sum_D = document_BD.detach().to(torch.float64).sum(dim=0)
        self.temperature = float(tau.detach() if isinstance(tau, Tensor) else tau)
        identity_BI, block_B = batch.identity_BI.to(self.device), batch.block_B.to(self.device)
        identity_NI, block_N = batch.negative_identity_NI.to(self.device), batch.negative_block_N.to(self.device)
        # The mean is over the pairs that were read, which may be fewer than batch.size.
        return score_globally(
            query_BD,
            Candidates(document_BD, identity_BI, block_B, negative_ND, identity_NI, block_N),
            hard_negatives=self.config.loss.hard_negatives,
            temperature=tau,
            symmetric=self.config.loss.symmetric,
            block_scope=self.config.batch.own_block_only,
            margin=self.config.loss.margin,
        )

    def _takes_one_pass(self, batch: RankBatch, seed: str) -> bool:
        match self.config.loss.gradient_cache:
            case "never":
                return True
            case "always":
                return False
            case "auto":
                return self._chooses_one_pass(batch, seed)
            case _:
                assert_never(self.config.loss.gradient_cache)

    def _chooses_one_pass(self, batch: RankBatch, seed: str) -> bool:
        if self.budget is None:
            self.budget = self._measure(batch, seed)
        tokens = sum(chunk.input_ids_BL.numel() for chunk in batch.chunks)
        # All ranks must choose alike: the two ways call DDP and the collectives in different orders.
        one_pass = not self.engine.any_rank(not self.budget.fits(tokens))
        if one_pass != self.one_pass:
            self.one_pass = one_pass
            passes = "one pass" if one_pass else "two passes (gradient cache)"
            self.report(f"{self.budget}: a step's {tokens:,} tokens per rank take {passes}")
        return one_pass

    def _loss_bytes(self, batch: RankBatch, dimensions: int) -> int:
        """Return the bytes of vectors, gradients and scores that the loss allocates while all activations are kept."""
        settings, queries, texts = self.config.loss, len(batch.block_B), sum(len(one.index_B) for one in batch.chunks)
        documents = self.config.batch.size * (1 + settings.hard_negatives)
        how = {
            "margin": settings.margin is not None,
            "on_cpu": self.device.type == "cpu",
        }
        vectors = vector_bytes(texts, documents, dimensions, ranks=self.engine.world)
        return vectors + score_bytes(queries, documents, **how)

    def _measure(self, batch: RankBatch, seed: str) -> ActivationBudget:
        chunks, widths = batch.chunks, set[int]()
        # The chunk with the longest texts: attention may keep more per token the longer they are.
        number = max(range(len(chunks)), key=lambda number: chunks[number].input_ids_BL.shape[1])

        def forward() -> Tensor:
            vector_BD = self._encode(chunks[number], number, seed)[0]
            widths.add(vector_BD.shape[1])
            return vector_BD

        # Without synchronisation: this forward pass has no backward, and DDP would wait for one.
        with self.engine.no_sync():
            tokens = chunks[number].input_ids_BL.numel()
            budget = ActivationBudget.measure(self.model, forward, tokens=tokens, device=self.device)
        return budget.reserve(self._loss_bytes(batch, *widths))


def restore_order(chunks: Sequence[Chunk], vectors: Sequence[Tensor]) -> Tensor:
    """Return the vectors of all chunks in the order of their texts: [B, D]."""
    index_B = torch.cat([chunk.index_B for chunk in chunks])
    return torch.cat(list(vectors))[torch.argsort(index_B).to(vectors[0].device)]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
