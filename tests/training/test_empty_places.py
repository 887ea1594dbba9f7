"""Hard negatives that the data lack are not encoded, and change neither loss nor gradient."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hbdist.config.config import Config
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.engine import Engine
from hbdist.models.encoder import Encoder
from hbdist.training.batch import FlatTexts, RankBatch
from hbdist.training.loader import Batches, measure_token_rates
from hbdist.training.module import TrainingModule
from hbdist.training.optimizer import make_optimizer
from hbdist.training.step import ContrastiveStep


def texts_of(batch: RankBatch) -> list[list[int]]:
    found = {
        int(index): ids[mask.bool()].tolist()
        for chunk in batch.document_chunks
        for ids, mask, index in zip(chunk.input_ids_BL, chunk.attention_mask_BL, chunk.index_B, strict=True)
    }
    return [found[index] for index in range(len(found))]


def with_empty_texts(batch: RankBatch, tokenize: Any) -> RankBatch:
    """Return the batch as it would be if every place had a text: an empty one where the data have none."""
    pairs = len(batch.block_B)
    documents, encoded = texts_of(batch)[:pairs], texts_of(batch)[pairs:]
    places = [tokenize([""], "document")[0][0]] * len(batch.negative_block_N)
    assert batch.negative_place_M is not None
    for place, ids in zip(batch.negative_place_M.tolist(), encoded, strict=True):
        places[place] = ids
    chunks = FlatTexts.of(documents + places, 10**6).cut(tokenize.pad_token_id)
    return replace(batch, document_chunks=chunks, negative_place_M=None)


@pytest.mark.parametrize(("symmetric", "gradient_cache"), [(False, "never"), (True, "always")])
def test_empty_places_change_neither_loss_nor_gradient(
    symmetric: bool, gradient_cache: str, tiny_model: Path, tiny_shards: Path
) -> None:
    values = {
        "steps": 4,
        "data": {"shards": str(tiny_shards), "datasets": ["made"]},
        "model": {"name": str(tiny_model), "dropout": 0.0},
        "batch": {"size": 12, "mono_share": 1.0},
        "loss": {"hard_negatives": 3, "symmetric": symmetric, "gradient_cache": gradient_cache},
    }
    config, manifest = Config.check(values, source="test"), Manifest.load(tiny_shards)
    engine = Engine.start(config)
    encoder = Encoder.load(config.model)
    rates = measure_token_rates(manifest, encoder.tokenize)
    batch = Batches(config, manifest, encoder.tokenize, token_rates=rates)[0]
    full = with_empty_texts(batch, encoder.tokenize)
    assert 0 < batch.counts.negatives < len(full.negative_block_N) == 36
    assert len(texts_of(batch)) == 12 + batch.counts.negatives < len(texts_of(full)) == 48
    module = TrainingModule(encoder, config)
    step = ContrastiveStep(
        engine.prepare(module, make_optimizer(module, config.optimizer)), config, engine, report=lambda _: None
    )
    losses, gradients = [], []
    for one in (batch, full):
        module.zero_grad()
        losses.append(float(step(one).loss.detach()))
        found = [parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None]
        gradients.append(torch.cat(found).clone())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-5
