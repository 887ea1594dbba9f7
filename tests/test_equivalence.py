"""The second promise: the gradient of W ranks is the gradient of one process that holds the whole global batch.

Real gloo processes, DistributedDataParallel, float64, and the very step that training takes.
"""

import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from hbdist.batches import BatchCounts, Chunk, RankBatch
from hbdist.chunked import ContrastiveStep
from hbdist.config import Config
from hbdist.gather import sum_over_ranks, world_size

PAIRS, WORDS, LENGTH = 13, 50, 6
CACHES = ("never", "always")
CASES = list(itertools.product((0, 2), (False, True), ("none", "identity", "block"), (1, 3), CACHES))
"""hard negatives × symmetric × masks × chunks × gradient cache"""


class WordEncoder(nn.Module):
    """A mean of word vectors, normalised: small, and with a parameter that every text shares."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        generator = torch.Generator().manual_seed(0)
        self.words = nn.Parameter(torch.randn(WORDS, 8, generator=generator, dtype=torch.float64))

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        hidden_BD = (self.words[input_ids_BL] * attention_mask_BL[..., None]).sum(dim=1)
        hidden_BD = nn.functional.dropout(hidden_BD, self.dropout)
        return nn.functional.normalize(hidden_BD, dim=-1)


class Ranks:
    """What the step needs of an engine: this process's place, and plain DistributedDataParallel."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.world = world_size()
        self.rank = torch.distributed.get_rank() if self.world > 1 else 0

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def agree(self, flag: bool) -> bool:
        return bool(sum_over_ranks(torch.tensor(int(flag))))

    def hold(self) -> AbstractContextManager[None]:
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()


def make_config(hard: int, symmetric: bool, masks: str, cache: str) -> Config:
    values: dict[str, Any] = {
        "steps": 1,
        "data": {"shards": "none"},
        "model": {"name": "none"},
        "batch": {"size": PAIRS, "negatives": "block" if masks == "block" else "global"},
        "loss": {"temperature": 0.05, "symmetric": symmetric, "hard_negatives": hard, "gradient_cache": cache},
    }
    return Config.check(values, source="test")


def rank_batch(rank: int, world: int, hard: int, masks: str, chunks: int) -> RankBatch:
    """This rank's share of one fixed global batch: every world-th pair, so that shares differ in size."""
    generator = torch.Generator().manual_seed(1)
    query = torch.randint(0, WORDS, (PAIRS, LENGTH), generator=generator)
    document = torch.randint(0, WORDS, (PAIRS, LENGTH), generator=generator)
    negative = torch.randint(0, WORDS, (PAIRS, hard, LENGTH), generator=generator)
    identity = torch.arange(1, 3 * PAIRS + 1).reshape(PAIRS, 3)
    negative_identity = torch.zeros(PAIRS, hard, 3, dtype=torch.int64)
    negative_identity[..., 2] = 10**6 + torch.arange(PAIRS * hard).reshape(PAIRS, hard)
    if masks == "identity":
        identity[5, 1] = identity[9, 1] = identity[12, 1] = 777  # one passage, on several ranks
        identity[3, 0] = identity[4, 0] = 778
        if hard:
            negative_identity[2, 0, 2] = identity[7, 2]  # someone's own document is another's hard negative
            negative_identity[6, 1, 2] = 0  # a place without a hard negative
    mine = torch.arange(rank, PAIRS, world)
    block = torch.arange(PAIRS) % 3
    return RankBatch(
        step=0,
        query_chunks=make_chunks(query[mine], chunks),
        document_chunks=make_chunks(torch.cat([document[mine], negative[mine].reshape(-1, LENGTH)]), chunks),
        identity_BI=identity[mine],
        block_B=block[mine],
        negative_identity_NI=negative_identity[mine].reshape(-1, 3),
        negative_block_N=block[mine].repeat_interleave(hard),
        counts=BatchCounts({}, 0.0, 0, 1, 1, 0),
        ids=None,
    )


def make_chunks(ids_NL: Tensor, chunks: int) -> list[Chunk]:
    places = torch.randperm(len(ids_NL), generator=torch.Generator().manual_seed(2)).chunk(chunks)
    return [Chunk(ids_NL[place], torch.ones_like(ids_NL[place]), place) for place in places]


def gradients(dropout: float = 0.0) -> list[tuple[Tensor, Tensor, int]]:
    """(gradient, mean loss of the global batch, reductions of the gradient) of every case, on this rank."""
    found = []
    for hard, symmetric, masks, chunks, cache in CASES:
        encoder = WordEncoder(dropout)
        model = DistributedDataParallel(encoder, broadcast_buffers=False) if world_size() > 1 else encoder
        reductions = count_reductions(model)
        ranks = Ranks(model)
        step = ContrastiveStep(model, make_config(hard, symmetric, masks, cache), ranks, say=print)
        parts = step(rank_batch(ranks.rank, ranks.world, hard, masks, chunks))
        assert encoder.words.grad is not None
        found.append((encoder.words.grad.clone(), sum_over_ranks(parts.loss) / PAIRS, len(reductions)))
    return found


def count_reductions(model: nn.Module) -> list[None]:
    """A list that gets one longer at every reduction of this model's gradient; it has one parameter, so one bucket."""
    reductions: list[None] = []
    if isinstance(model, DistributedDataParallel):

        def hook(_state: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
            reductions.append(None)
            return allreduce_hook(None, bucket)  # type: ignore[arg-type]

        model.register_comm_hook(None, hook)
    return reductions


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_gradient_of_many_ranks_is_that_of_one(world: int) -> None:
    alone = gradients()
    for found in on_ranks(world, gradients):
        for case, (gradient, loss, reductions), (expected, expected_loss, _) in zip(CASES, found, alone, strict=True):
            error = (gradient - expected).norm() / expected.norm()
            assert error < 1e-12, f"{case}: gradient off by {error:.1e}"
            assert abs(loss - expected_loss) < 1e-12, case
            assert reductions == 1, f"{case}: the gradient was reduced {reductions} times"


def test_the_cases_differ_from_one_another() -> None:
    # Or the test above could pass with masks, blocks and negatives ignored everywhere.
    by_case = {case[:3]: gradient for case, (gradient, _, _) in zip(CASES, gradients(), strict=True)}
    for one, other in itertools.combinations(by_case, 2):
        assert (by_case[one] - by_case[other]).norm() > 1e-3, f"{one} equals {other}"


def test_dropout_is_the_same_in_both_passes() -> None:
    found = gradients(dropout=0.3)
    without = gradients()
    for place in range(0, len(CASES), 2):
        (one_pass, _, _), (two_passes, _, _) = found[place], found[place + 1]
        torch.testing.assert_close(two_passes, one_pass, rtol=1e-12, atol=1e-14)
        assert (one_pass - without[place][0]).norm() > 1e-3, "there was no dropout"
