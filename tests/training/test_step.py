"""Gradient of a global batch in one pass and in two, compared with a plain loss in float64; and the choice between the two."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ranks import on_ranks
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel

from hbdist.config.config import Config
from hbdist.distributed.engine import Engine
from hbdist.training.activations import ActivationBudget, saved_bytes
from hbdist.training.batch import BatchCounts, Chunk, RankBatch
from hbdist.training.module import TrainingModule
from hbdist.training.optimizer import make_optimizer
from hbdist.training.step import ContrastiveStep, restore_order

PAIRS, HARD, WORDS, LENGTH, STEP, SEED = 7, 2, 50, 4, 17, 5
TAU = 0.1
CACHES = ("never", "always")


class Words(nn.Module):
    """Mean of word vectors and a linear map, in float64, with unit vectors as output; it notes each call."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.words = nn.Embedding(WORDS, 6, dtype=torch.float64)
            self.outer = nn.Linear(6, 5, dtype=torch.float64)
        self.dropout = nn.Dropout(dropout)
        self.seeds: list[int] = []
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        self.seeds.append(torch.initial_seed())
        self.shapes.append(tuple(input_ids_BL.shape))
        words_BLD = self.words(input_ids_BL) * attention_mask_BL[..., None]
        return normalize(self.outer(self.dropout(words_BLD.sum(dim=1))), dim=1)


class LockstepEngine(Engine):
    """Engine whose ranks must make equally many passes, as those of ZeRO-2 and ZeRO-3 must, and do not under DDP."""

    lockstep = True


def make_config(cache: str, **loss: Any) -> Config:
    values = {
        "steps": 1,
        "seed": SEED,
        "data": {"shards": "none"},
        "model": {"name": "none"},
        "batch": {"size": PAIRS, "negatives": loss.pop("negatives", "global")},
        "loss": {"temperature": TAU, "hard_negatives": HARD, "gradient_cache": cache, **loss},
    }
    return Config.check(values, source="test")


def texts() -> tuple[Tensor, Tensor]:
    """Return the token ids of the queries, and those of the documents and hard negatives."""
    generator = torch.Generator().manual_seed(1)
    query = torch.randint(0, WORDS, (PAIRS, LENGTH), generator=generator)
    return query, torch.randint(0, WORDS, (PAIRS * (1 + HARD), LENGTH), generator=generator)


BLOCK = torch.tensor([0, 0, 1, 1, 2, 2, 2])


def make_batch(pairs: slice = slice(0, PAIRS), *, chunks: int = 3) -> RankBatch:
    """Return these pairs, each side in at most this many chunks, whose texts are in another order."""
    query, document = texts()
    negatives = document[PAIRS:].reshape(PAIRS, HARD, LENGTH)[pairs].flatten(0, 1)
    number = torch.arange(1, PAIRS + 1)[pairs, None]
    return RankBatch(
        step=STEP,
        query_chunks=cut(query[pairs], chunks),
        document_chunks=cut(torch.cat([document[:PAIRS][pairs], negatives]), chunks),
        identity_BI=number,
        block_B=BLOCK[pairs],
        negative_identity_NI=100 + torch.arange(len(negatives))[:, None],
        negative_block_N=BLOCK[pairs].repeat_interleave(HARD),
        counts=BatchCounts({}, 0.0, 0, 1, 1, 0),
        ids=None,
    )


def cut(ids: Tensor, chunks: int) -> list[Chunk]:
    parts = torch.randperm(len(ids), generator=torch.Generator().manual_seed(2)).chunk(chunks)
    return [Chunk(ids[index], torch.ones_like(ids[index]), index) for index in parts]


def make_step(
    config: Config, encoder: Words, kind: type[Engine] = Engine, said: list[str] | None = None
) -> tuple[ContrastiveStep, TrainingModule]:
    """Return a step on this process's engine, and the module that it trains."""
    engine = kind.start(config)
    module = TrainingModule(encoder, config)
    model = engine.prepare(module, make_optimizer(module, config.optimizer))
    return ContrastiveStep(model, config, engine, report=([] if said is None else said).append), module


def plain(config: Config) -> tuple[float, list[Tensor]]:
    """Return the mean loss of the whole batch, and the gradient of each parameter, from the full matrix of scores."""
    module = TrainingModule(Words(), config)
    query, document = (module(ids, torch.ones_like(ids))[0] for ids in texts())
    tau = TAU if module.log_temperature is None else module.log_temperature.exp()
    scores = query @ document.T / tau
    own, block = torch.arange(PAIRS), torch.cat([BLOCK, BLOCK.repeat_interleave(HARD)])
    if config.batch.negatives == "block":
        scores = scores.masked_fill(BLOCK[:, None] != block, -torch.inf)
    if config.loss.margin is not None:
        scores = scores.masked_fill(scores > scores.detach()[own, own][:, None] + config.loss.margin / tau, -torch.inf)
    loss = cross_entropy(scores, own)
    if config.loss.symmetric:
        loss = (loss + cross_entropy(scores[:, :PAIRS].T, own)) / 2
    loss.backward()
    return float(loss.detach()), [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned": {"learn_temperature": True},
    "symmetric": {"symmetric": True, "learn_temperature": True},
    "margin": {"margin": 0.05},
    "block": {"negatives": "block"},
}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("loss", LOSSES)
def test_one_and_two_passes_give_the_gradient_of_the_plain_loss(loss: str, cache: str) -> None:
    config = make_config(cache, **LOSSES[loss])
    step, module = make_step(config, Words())
    parts = step(make_batch())
    mean, gradients = plain(config)
    assert float(parts.loss.detach()) / PAIRS == pytest.approx(mean, rel=1e-6)
    found = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    for mine, expected in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-8)
    assert step.temperature == pytest.approx(TAU)


def test_the_losses_differ_from_one_another() -> None:
    assert len({round(plain(make_config("never", **loss))[0], 4) for loss in LOSSES.values()}) == len(LOSSES) - 1


def dropout_seeds(step: int, rank: int, chunks: int) -> list[int]:
    keys = [f"dropout/{SEED}/{step}/{rank}/{number}" for number in range(chunks)]
    digests = [hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys]
    return [int.from_bytes(digest, "little") for digest in digests]


@pytest.mark.parametrize(("cache", "passes"), [("never", 1), ("always", 2)])
def test_dropout_depends_on_seed_step_rank_and_chunk_alone_and_is_the_same_in_both_passes(
    cache: str, passes: int
) -> None:
    encoder = Words(dropout=0.5)
    step, _ = make_step(make_config(cache), encoder)
    step(make_batch())
    assert [seed % 2**64 for seed in encoder.seeds] == passes * dropout_seeds(STEP, 0, chunks=6)


def test_two_passes_with_dropout_give_the_gradient_of_one() -> None:
    gradients = []
    for cache in CACHES:
        step, module = make_step(make_config(cache), Words(dropout=0.5))
        step(make_batch())
        gradients.append(module.encoder.words.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)
    assert (gradients[0] != 0).any()


def test_evaluating_takes_no_gradient_and_no_dropout_and_training_goes_on() -> None:
    config = make_config("never")
    step, module = make_step(config, Words(dropout=0.5))
    parts = step.evaluate(make_batch())
    assert float(parts.loss) / PAIRS == pytest.approx(plain(config)[0], rel=1e-6)
    assert not parts.loss.requires_grad
    assert all(parameter.grad is None for parameter in module.parameters())
    assert module.training
    assert module.encoder.dropout.training


@pytest.mark.parametrize(("available", "takes"), [(60, "one pass"), (59, "two passes (gradient cache)")])
def test_one_pass_is_taken_as_long_as_its_activations_fit(available: int, takes: str) -> None:
    encoder, said = Words(), []
    step, _ = make_step(make_config("auto"), encoder, said=said)
    # 28 texts of 4 tokens take 60 bytes.
    step.budget = ActivationBudget(60 / 112, available)
    step(make_batch())
    assert len(encoder.seeds) == (6 if takes == "one pass" else 12)
    assert said == [f"{step.budget}: a step's 112 tokens per rank take {takes}"]
    step(make_batch())
    assert len(said) == 1, "the choice is reported only when it changes"
    step.budget = ActivationBudget(60 / 112, 119 - available)
    step(make_batch())
    assert len(said) == 2
    assert said[1] != said[0]


def test_the_bytes_of_a_token_are_measured_once_on_the_longest_texts() -> None:
    encoder, batch = Words(), make_batch()
    batch.query_chunks[1] = padded(batch.query_chunks[1], LENGTH + 3)
    step, module = make_step(make_config("auto"), encoder)
    step(batch)
    number, longest = 1, batch.query_chunks[1]
    assert encoder.shapes[0] == tuple(longest.input_ids_BL.shape)
    assert encoder.seeds[0] % 2**64 == dropout_seeds(STEP, 0, 6)[number]
    saved = saved_bytes(module, lambda: module(longest.input_ids_BL, longest.attention_mask_BL)[0])
    assert step.budget is not None
    assert step.budget.bytes_per_token * longest.input_ids_BL.numel() == pytest.approx(saved)
    calls = len(encoder.seeds)
    step(batch)
    assert len(encoder.seeds) == calls + 6, "it was measured again"


def padded(chunk: Chunk, length: int) -> Chunk:
    missing = (0, length - chunk.input_ids_BL.shape[1])
    return Chunk(
        nn.functional.pad(chunk.input_ids_BL, missing),
        nn.functional.pad(chunk.attention_mask_BL, missing),
        chunk.index_B,
    )


def test_vectors_are_put_into_the_order_of_their_texts() -> None:
    chunks = [Chunk(torch.empty(2, 1), torch.empty(2, 1), torch.tensor(index)) for index in ([3, 0], [2, 1])]
    vectors = [torch.tensor([[3.0], [0.0]]), torch.tensor([[2.0], [1.0]])]
    assert restore_order(chunks, vectors).flatten().tolist() == [0, 1, 2, 3]


SHARES = (slice(0, 5), slice(5, 7))
"""Pairs of each of two ranks: the first has three chunks a side, the second two."""


def on_rank() -> dict[str, Any]:
    """Return everything the tests below compare, on this rank; starting ranks takes seconds, so they are started once."""
    return {
        f"{kind.__name__} {cache}": one_rank(kind, cache) for kind in (Engine, LockstepEngine) for cache in CACHES
    } | {
        "agreed": one_rank(Engine, "auto", available=(10**6, 0)),
    }


def one_rank(kind: type[Engine], cache: str, available: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    encoder, reductions = Words(), []
    step, module = make_step(make_config(cache, symmetric=True, learn_temperature=True), encoder, kind)
    assert isinstance(step.model, DistributedDataParallel)
    step.model.register_comm_hook(None, lambda state, bucket: reductions.append(1) or allreduce_hook(state, bucket))
    step.budget = ActivationBudget(1.0, available[step.engine.rank])
    parts = step(make_batch(SHARES[step.engine.rank]))
    return {
        "loss": float(parts.loss.detach()),
        "gradients": [parameter.grad for parameter in module.parameters()],
        "seeds": encoder.seeds,
        "shapes": encoder.shapes,
        "reductions": len(reductions),
        "evaluated": float(step.evaluate(make_batch(SHARES[step.engine.rank])).loss),
    }


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return on_ranks(2, on_rank)


def each(found: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for case in found[0]:
        yield case, [rank[case] for rank in found]


def test_two_ranks_give_the_gradient_of_the_plain_loss_and_reduce_it_once(found: list[dict[str, Any]]) -> None:
    mean, gradients = plain(make_config("never", symmetric=True, learn_temperature=True))
    for case, ranks in each(found):
        for name in ("loss", "evaluated"):
            assert sum(rank[name] for rank in ranks) / PAIRS == pytest.approx(mean, rel=1e-6), case
        for rank in ranks:
            assert rank["reductions"] == 2, f"{case}: not once for the words' float64 and once for τ's float32"
            for mine, expected in zip(rank["gradients"], gradients, strict=True):
                torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-8, msg=case)


def test_ranks_in_lockstep_make_equally_many_passes_and_others_only_their_own(found: list[dict[str, Any]]) -> None:
    for cache, passes in zip(CACHES, (1, 2), strict=True):
        apart, together = (
            [len(rank[f"{kind} {cache}"]["seeds"]) for rank in found] for kind in ("Engine", "LockstepEngine")
        )
        # The second rank has chunks of 2 queries and 6 documents; evaluation encodes each chunk once more.
        assert apart == [(passes + 1) * 6, (passes + 1) * 5]
        assert together == [(passes + 1) * 6] * 2


def test_a_filler_chunk_is_one_text(found: list[dict[str, Any]]) -> None:
    shapes = found[1]["LockstepEngine never"]["shapes"]
    assert shapes[5] == (1, LENGTH)


def test_dropout_differs_between_ranks(found: list[dict[str, Any]]) -> None:
    for number, rank in enumerate(found):
        seeds = [seed % 2**64 for seed in rank["Engine never"]["seeds"]]
        chunks = (6, 5)[number]
        assert seeds[:chunks] == dropout_seeds(STEP, number, chunks)


def test_all_ranks_take_two_passes_if_the_activations_of_one_do_not_fit(found: list[dict[str, Any]]) -> None:
    assert [len(rank["agreed"]["seeds"]) for rank in found] == [18, 15]
