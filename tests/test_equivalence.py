"""The second promise: the gradient of W ranks is the gradient of one process that holds the whole global batch.

Real gloo processes, DistributedDataParallel, float64, and the very step that training takes.
"""

import itertools
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hbdist.batches import BatchCounts, Chunk, RankBatch
from hbdist.chunked import contrastive_step
from hbdist.config import Config
from hbdist.gather import sum_over_ranks, world_size

PAIRS, WORDS, LENGTH = 13, 50, 6
CASES = list(itertools.product((0, 2), (False, True), ("none", "identity", "block"), (1, 3)))
"""hard negatives × symmetric × masks × chunks"""


class WordEncoder(nn.Module):
    """A mean of word vectors, normalised: small, and with a parameter that every text shares."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.words = nn.Parameter(torch.randn(WORDS, 8, generator=generator, dtype=torch.float64))

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        hidden_BD = (self.words[input_ids_BL] * attention_mask_BL[..., None]).sum(dim=1)
        return nn.functional.normalize(hidden_BD, dim=-1)


def make_config(hard: int, symmetric: bool, masks: str) -> Config:
    values: dict[str, Any] = {
        "steps": 1,
        "data": {"shards": "none"},
        "model": {"name": "none"},
        "batch": {"size": PAIRS, "negatives": "block" if masks == "block" else "global"},
        "loss": {"temperature": 0.05, "symmetric": symmetric, "hard_negatives": hard},
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


def gradients(rank: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """(gradient, mean loss of the global batch) of every case, on this rank or on the only process."""
    world = world_size()
    rank = torch.distributed.get_rank() if world > 1 else 0
    found = []
    for hard, symmetric, masks, chunks in CASES:
        encoder = WordEncoder()
        model = DistributedDataParallel(encoder, broadcast_buffers=False) if world > 1 else encoder
        parts = contrastive_step(
            model,
            rank_batch(rank, world, hard, masks, chunks),
            make_config(hard, symmetric, masks),
            rank=rank,
            world=world,
            backward=lambda loss: loss.backward(),
        )
        assert encoder.words.grad is not None
        found.append((encoder.words.grad.clone(), sum_over_ranks(parts.loss) / PAIRS))
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_gradient_of_many_ranks_is_that_of_one(world: int) -> None:
    alone = gradients()
    for found in on_ranks(world, gradients):
        for case, (gradient, loss), (expected, expected_loss) in zip(CASES, found, alone, strict=True):
            error = (gradient - expected).norm() / expected.norm()
            assert error < 1e-12, f"{case}: gradient off by {error:.1e}"
            assert abs(loss - expected_loss) < 1e-12, case


def test_the_cases_differ_from_one_another() -> None:
    # Or the test above could pass with masks, blocks and negatives ignored everywhere.
    by_case = {case[:3]: gradient for case, (gradient, _) in zip(CASES, gradients(), strict=True)}
    for one, other in itertools.combinations(by_case, 2):
        assert (by_case[one] - by_case[other]).norm() > 1e-3, f"{one} equals {other}"
