"""Complete steps of a random encoder on random texts in hbdist and sentence-transformers: encode, loss, backward.

B pairs on this rank · L tokens, padded · D dimensions
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peers import sentence_transformers_losses
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel

from hbdist.config.config import Config
from hbdist.distributed.engine import Engine
from hbdist.models.encoder import make_chunks, pad, pool
from hbdist.training.batch import BatchCounts, Chunk, RankBatch
from hbdist.training.module import TrainingModule
from hbdist.training.optimizer import make_optimizer
from hbdist.training.step import ContrastiveStep

WIDTH, PIECES = 384, 30_000
TEMPERATURE = 0.05
TOKENS, SPREAD = {"query": 24, "document": 96}, 0.7
"""Median number of tokens of a text, and the standard deviation of its logarithm."""
Texts = dict[str, list[list[int]]]


class Encoder(nn.Module):
    """BERT with random weights and no dropout; the normalized mean of its tokens."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        shape = {"hidden_size": WIDTH, "num_attention_heads": WIDTH // 32, "intermediate_size": 4 * WIDTH}
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = BertConfig(vocab_size=PIECES, num_hidden_layers=layers, **shape, **dropout)
        self.backbone = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        hidden_BLD = self.backbone(input_ids=input_ids_BL, attention_mask=attention_mask_BL).last_hidden_state
        return normalize(pool(hidden_BLD, attention_mask_BL, "mean"), dim=-1)


class AsFeatures(nn.Sequential):
    """The encoder as sentence-transformers' losses call it."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self[0](features["input_ids"], features["attention_mask"])}


def make_texts(pairs: int, *, seed: int = 0) -> Texts:
    """Return the token ids of queries and documents of lognormal lengths."""
    generator = torch.Generator().manual_seed(seed)
    texts: Texts = {}
    for kind, median in TOKENS.items():
        lengths = (median * torch.exp(SPREAD * torch.randn(pairs, generator=generator))).long().clamp(4, 512)
        texts[kind] = [torch.randint(5, PIECES, (int(length),), generator=generator).tolist() for length in lengths]
    return texts


@dataclass(frozen=True)
class Ours:
    """Training step of hbdist, in one pass or two."""

    run: Callable[[], object]
    model: nn.Module
    """Encoder as the engine has wrapped it."""
    padded_tokens: int


def our_step(encoder: Encoder, texts: Texts, engine: Engine | None, gradient_cache: str, *, chunk_tokens: int) -> Ours:
    """Return the step that training takes, on this rank's texts.

    Args:
        engine: a started engine; None starts one for a single process.
        gradient_cache: "always" or "never".
    """
    pairs = len(texts["query"])
    config = make_config(pairs * (engine.world if engine else 1), gradient_cache)
    engine = engine or Engine.start(config)
    module = TrainingModule(encoder, config)
    model = engine.prepare(module, make_optimizer(module, config.optimizer))
    step = ContrastiveStep(model, config, engine, report=lambda _: None)
    identity = torch.arange(3 * pairs).reshape(pairs, 3) + 1 + 3 * pairs * engine.rank
    batch = RankBatch(
        step=0,
        query_chunks=_chunks(texts["query"], chunk_tokens),
        document_chunks=_chunks(texts["document"], chunk_tokens),
        identity_BI=identity,
        block_B=torch.zeros(pairs, dtype=torch.int64),
        negative_identity_NI=torch.zeros(0, 3, dtype=torch.int64),
        negative_block_N=torch.zeros(0, dtype=torch.int64),
        counts=BatchCounts({}, 0.0, 0, 1, 1, 0),
        ids=None,
    )
    return Ours(lambda: step(batch), model, sum(chunk.input_ids_BL.numel() for chunk in batch.chunks))


def make_config(pairs: int, gradient_cache: str, *, deepspeed: str = "") -> Config:
    values: dict[str, Any] = {
        "steps": 1,
        "data": {"shards": "none"},
        "model": {"name": "none"},
        "batch": {"size": pairs},
        "loss": {"temperature": TEMPERATURE, "gradient_cache": gradient_cache},
        "engine": {"deepspeed": deepspeed},
    }
    return Config.check(values, source="benchmark")


def _chunks(texts: list[list[int]], chunk_tokens: int) -> list[Chunk]:
    places = make_chunks(texts, chunk_tokens)
    return [Chunk(*pad([texts[place] for place in chunk], 0), torch.tensor(chunk)) for chunk in places]


def peer_step(
    encoder: Encoder, texts: Texts, mini_batch: dict[str, int], *, distributed: bool = False
) -> tuple[Callable[[], object], nn.Module]:
    """Return the step of sentence-transformers' CachedMultipleNegativesRankingLoss on the same texts, and the model it calls.

    Args:
        mini_batch: mini_batch_size or mini_batch_num_tokens.

    Raises:
        PeerError: the library is not installed.
    """
    model: nn.Module = AsFeatures(encoder)
    make = sentence_transformers_losses().CachedMultipleNegativesRankingLoss
    loss = make(model, scale=1 / TEMPERATURE, gather_across_devices=distributed, **mini_batch)
    if distributed:
        loss.model = model = DistributedDataParallel(model)  # as its trainer does
    columns = [dict(zip(("input_ids", "attention_mask"), pad(texts[kind], 0), strict=True)) for kind in TOKENS]
    return lambda: loss(columns, None).backward(), model


def peer_engine_step(encoder: Encoder, texts: Texts, mini_batch: dict[str, int]) -> None:
    """Return the same step in a DeepSpeed engine of one process, with ZeRO-2, as accelerate makes and calls it for its trainer.

    Raises:
        PeerError: the library is not installed. Whatever DeepSpeed raises.
    """
    import deepspeed
    import deepspeed.ops

    loss_class = sentence_transformers_losses().CachedMultipleNegativesRankingLoss
    # On the CPU it would first compile a module for shared memory, which gloo does not need.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    model = AsFeatures(encoder)
    loss = loss_class(model, scale=1 / TEMPERATURE, **mini_batch)
    settings = {
        "train_micro_batch_size_per_gpu": len(texts["query"]),
        "zero_optimization": {"stage": 2},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW(model.parameters())
    loss.model, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    columns = [dict(zip(("input_ids", "attention_mask"), pad(texts[kind], 0), strict=True)) for kind in TOKENS]
    loss.model.backward(loss(columns, None))
    loss.model.step()
