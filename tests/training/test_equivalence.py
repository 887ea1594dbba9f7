"""Equivalence: the gradient of W ranks is the gradient of one process with the full global batch.

Real gloo processes with the engine and step of training, under DistributedDataParallel and DeepSpeed at all stages of ZeRO,
are compared with one process in float64. In float32 the bound is rounding; if the strategy computes in float64 too, 1e-10.
"""

import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from hbdist.config.config import Config
from hbdist.distributed.collectives import all_reduce_sum
from hbdist.distributed.engine import Engine
from hbdist.training.batch import BatchCounts, Chunk, RankBatch
from hbdist.training.module import TrainingModule
from hbdist.training.optimizer import make_optimizer
from hbdist.training.step import ContrastiveStep

PAIRS, WORDS, LENGTH, WIDTH = 13, 50, 6, 24
MASKS = ("none", "identity", "block", "margin")
CASES = list(itertools.product((0, 2), (False, True), MASKS, (1, 5), ("never", "always")))
"""hard negatives × symmetric × masks × chunks × gradient cache"""
DDP = -1
BACKENDS = {"DDP": DDP, "ZeRO-0": 0, "ZeRO-1": 1, "ZeRO-2": 2, "ZeRO-3": 3}


class WordEncoder(nn.Module):
    """Small network on the mean of word vectors, with normalised output."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.words = nn.Embedding(WORDS, WIDTH)
            self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        hidden_BD = (self.words(input_ids_BL) * attention_mask_BL[..., None]).sum(dim=1)
        hidden_BD = nn.functional.dropout(self.inner(hidden_BD).tanh(), self.dropout)
        return nn.functional.normalize(self.outer(hidden_BD), dim=-1)


@dataclass(frozen=True)
class Found:
    """Results of one case on one rank."""

    gradient: Tensor
    """Gradient of all parameters including τ, concatenated."""
    norm: float
    """Norm reported by the engine."""
    loss: float
    """Mean over the global batch."""
    sent: int
    """Number of elements in gradient reductions, in multiples of the model's size."""


def make_config(case: tuple[Any, ...], stage: int, folder: Path, precision: str = "fp32") -> Config:
    hard, symmetric, masks, _, cache = case
    file = folder / f"zero{stage}.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": stage, "reduce_bucket_size": 10_000}}))
    values: dict[str, Any] = {
        "steps": 1,
        "data": {"shards": "none"},
        "model": {"name": "none"},
        "batch": {"size": PAIRS, "negatives": "block" if masks == "block" else "global"},
        "loss": {"temperature": 0.05, "symmetric": symmetric, "hard_negatives": hard, "gradient_cache": cache},
        "optimizer": {"weight_decay": 0},
        "engine": {"precision": precision, "deepspeed": "" if stage == DDP else str(file)},
    }
    values["loss"]["learn_temperature"] = True
    if masks == "margin":
        values["loss"]["margin"] = 0.1
    return Config.check(values, source="test")


def rank_batch(rank: int, world: int, hard: int, masks: str, chunks: int) -> RankBatch:
    """Return this rank's share of one fixed global batch: every world-th pair, so that shares differ in size."""
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
            negative_identity[2, 0, 2] = identity[7, 2]  # a pair's own document is another pair's hard negative
            negative_identity[6, 1, 2] = 0  # a missing hard negative
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
    """Return at most this many chunks; a rank with fewer texts makes fewer, so that ranks differ."""
    parts = torch.randperm(len(ids_NL), generator=torch.Generator().manual_seed(2)).chunk(chunks)
    return [Chunk(ids_NL[index_B], torch.ones_like(ids_NL[index_B]), index_B) for index_B in parts]


def gradients(
    stage: int = DDP, dtype: torch.dtype = torch.float64, dropout: float = 0.0, precision: str = "fp32"
) -> list[Found]:
    """Return the results of all cases on one engine: updates with a learning rate of zero only clear the gradient."""
    from deepspeed.utils import safe_get_full_grad

    environment = dict(os.environ)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        configs = [make_config(case, stage, Path(folder), precision) for case in CASES]
        engine = Engine.start(configs[0], environment)
        trained = TrainingModule(WordEncoder(dropout), configs[0]).to(dtype)
        size = sum(parameter.numel() for parameter in trained.parameters())
        model = engine.prepare(trained, make_optimizer(trained, configs[0].optimizer))
        count_ddp(model)
        for case, config in zip(CASES, configs, strict=True):
            hard, _, masks, chunks, _ = case
            with counted_reductions():
                step = ContrastiveStep(model, config, engine, report=print)
                parts = step(rank_batch(engine.rank, engine.world, hard, masks, chunks))
            gradient = [safe_get_full_grad(parameter).detach().flatten() for parameter in trained.parameters()]
            loss = float(all_reduce_sum(parts.loss)) / PAIRS
            found.append(Found(torch.cat(gradient).clone(), engine.update(0.0), loss, round(sum(SENT) / size)))
    return found


SENT: list[int] = []
"""Sizes of the tensors summed over ranks in the current step, on this rank."""


def count_ddp(model: nn.Module) -> None:
    """Replace DDP's own reductions, which bypass torch's functions, by an equal hook that does not."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.register_comm_hook(None, allreduce_hook)


@contextmanager
def counted_reductions() -> Iterator[None]:
    """Count tensors passed to torch's functions inside (the loss's own vectors are a hundredth of the parameters)."""
    SENT.clear()
    names = ("all_reduce", "reduce", "reduce_scatter_tensor", "reduce_scatter_single")
    known = {name: getattr(torch.distributed, name) for name in names if hasattr(torch.distributed, name)}

    def counting(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            SENT.append(max(one.numel() for one in (*arguments, *named.values()) if isinstance(one, Tensor)))
            return function(*arguments, **named)

        return call

    for name, function in known.items():
        setattr(torch.distributed, name, counting(function))
    try:
        yield
    finally:
        for name, function in known.items():
            setattr(torch.distributed, name, function)


@pytest.fixture(scope="module")
def alone() -> list[Found]:
    """Run the reference for all comparisons: one process, one pass, float64."""
    (found,) = on_ranks(1, gradients)
    return found


FAST = [(2, "DDP"), (2, "ZeRO-1"), (2, "ZeRO-2"), (2, "ZeRO-3")]
ALL = [
    pytest.param(world, backend, marks=[] if (world, backend) in FAST else pytest.mark.slow)
    for world in (1, 2, 4)
    for backend in BACKENDS
]


@pytest.mark.parametrize(("world", "backend"), ALL)
def test_the_gradient_of_many_ranks_is_that_of_one(world: int, backend: str, alone: list[Found]) -> None:
    for found in on_ranks(world, gradients, BACKENDS[backend], torch.float32):
        for case, mine, expected in zip(CASES, found, alone, strict=True):
            gradient = mine.gradient.double()
            ratio = float(gradient.norm() / expected.gradient.norm())
            cosine = float(nn.functional.cosine_similarity(gradient, expected.gradient, dim=0))
            assert abs(ratio - 1) < 1e-5, f"{case}: norm {ratio} times the expected"
            assert cosine > 1 - 1e-9, f"{case}: cosine 1 − {1 - cosine:.1e}"
            assert mine.norm == pytest.approx(expected.norm, rel=1e-5), case
            assert mine.loss == pytest.approx(expected.loss, rel=1e-5), case
            if world > 1 and backend != "ZeRO-3":
                hard, _, masks, chunks, cache = case
                # All ranks make as many passes as the rank with the most chunks.
                most = max(len(rank_batch(rank, world, hard, masks, chunks).chunks) for rank in range(world))
                passes = most if backend == "ZeRO-2" and cache == "always" else 1
                assert mine.sent == passes, f"{case}: the gradient was reduced {mine.sent} times"


@pytest.mark.parametrize("world", [3, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_in_float64_the_gradient_is_the_same_to_the_last_digits(world: int, alone: list[Found]) -> None:
    # Only DDP: DeepSpeed cannot reduce float64, and keeps the updated parameters in float32.
    for found in on_ranks(world, gradients, DDP, torch.float64):
        for case, mine, expected in zip(CASES, found, alone, strict=True):
            error = float((mine.gradient - expected.gradient).norm() / expected.gradient.norm())
            assert error < 1e-10, f"{case}: gradient off by {error:.1e}"


@pytest.mark.parametrize(
    "backend", [pytest.param(backend, marks=pytest.mark.slow) for backend in ("DDP", "ZeRO-1", "ZeRO-3")]
)
def test_bfloat16_on_many_ranks_is_no_worse_than_on_one(backend: str, alone: list[Found]) -> None:
    (one,) = on_ranks(1, gradients, DDP, torch.float32, 0.0, "bf16")
    many, *_ = on_ranks(2, gradients, BACKENDS[backend], torch.float32, 0.0, "bf16")
    for case, mine, theirs, expected in zip(CASES, many, one, alone, strict=True):
        size = float(expected.gradient.norm())
        error, single = (float((found.gradient - expected.gradient).norm()) / size for found in (mine, theirs))
        assert 1e-4 < single < 0.1, "bfloat16 was not used, or is of no use"
        assert error < 2 * single, f"{case}: off by {error:.1e}, one process by {single:.1e}"


def test_the_cases_differ_from_one_another(alone: list[Found]) -> None:
    # Otherwise the tests above could pass with masks, blocks and negatives ignored everywhere.
    by_case = {case[:3]: found.gradient for case, found in zip(CASES, alone, strict=True)}
    for one, other in itertools.combinations(by_case, 2):
        assert (by_case[one] - by_case[other]).norm() > 1e-3, f"{one} equals {other}"


def test_dropout_is_the_same_in_both_passes(alone: list[Found]) -> None:
    (found,) = on_ranks(1, gradients, DDP, torch.float64, 0.3)
    for index in range(0, len(CASES), 2):
        torch.testing.assert_close(found[index + 1].gradient, found[index].gradient, rtol=1e-12, atol=1e-14)
        assert (found[index].gradient - alone[index].gradient).norm() > 1e-3, "there was no dropout"


def not_finite(stage: int) -> tuple[float, bool]:
    """Return the norm of a gradient that is not finite, and whether the parameters are unchanged."""
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(CASES[0], stage, Path(folder))
        engine = Engine.start(config)
        trained = TrainingModule(WordEncoder(), config)
        model = engine.prepare(trained, make_optimizer(trained, config.optimizer))
        before = engine.weights()
        batch = rank_batch(engine.rank, engine.world, 0, "none", 1)
        vector_BD, _ = model(batch.chunks[0].input_ids_BL, batch.chunks[0].attention_mask_BL)
        engine.backward(vector_BD.sum() * float("inf"))
        norm, after = engine.update(1.0), engine.weights()
        return norm, engine._prepared.updates == 0 and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "backend", ["DDP", "ZeRO-1", *(pytest.param(f"ZeRO-{stage}", marks=pytest.mark.slow) for stage in (0, 2, 3))]
)
def test_a_gradient_that_is_not_finite_updates_nothing(backend: str) -> None:
    for norm, unchanged in on_ranks(2, not_finite, BACKENDS[backend]):
        assert not math.isfinite(norm)
        assert unchanged
