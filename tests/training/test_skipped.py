"""Skipped pairs: an unreadable pair is left out of its batch on every rank, and the rest is exact."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from torch import Tensor

from hbdist.config.config import Config
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.collectives import all_reduce_sum
from hbdist.distributed.engine import Engine
from hbdist.errors import DataError
from hbdist.models.encoder import Encoder
from hbdist.training.loader import Batches, measure_token_rates
from hbdist.training.module import TrainingModule
from hbdist.training.optimizer import make_optimizer
from hbdist.training.step import ContrastiveStep


def make_config(model: Path, shards: Path, **data: Any) -> Config:
    values = {
        "steps": 4,
        "data": {"shards": str(shards), "on_error": "skip", **data},
        "model": {"name": str(model), "dropout": 0.0},
        "batch": {"size": 9, "mono_share": 0.0},
        "loss": {"symmetric": True, "chunk_tokens": 64, "gradient_cache": "never"},
        "run": {"log_batches": True},
    }
    return Config.check(values, source="test")


def first_step(model: Path, shards: Path) -> tuple[list[str], Tensor, float, int, float]:
    config = make_config(model, shards)
    manifest = Manifest.load(shards)
    engine = Engine.start(config)
    encoder = Encoder.load(config.model)
    trained = TrainingModule(encoder, config)
    rates = measure_token_rates(manifest, encoder.tokenize)
    batch = Batches(config, manifest, encoder.tokenize, token_rates=rates, rank=engine.rank, world=engine.world)[0]
    parts = ContrastiveStep(
        engine.prepare(trained, make_optimizer(trained, config.optimizer)), config, engine, report=print
    )(batch)
    sums = all_reduce_sum(torch.tensor([float(parts.loss.detach()), len(batch.block_B), len(batch.counts.unreadable)]))
    gradient = torch.cat([parameter.grad.flatten() for parameter in trained.parameters() if parameter.grad is not None])
    loss, pairs, skipped = sums.tolist()
    return batch.ids or [], gradient, loss / pairs, int(pairs), skipped


def damaged(shards: Path, to: Path, ids: list[str]) -> Path:
    """Copy a folder of shards so that these pairs cannot be decoded."""
    shutil.copytree(shards, to)
    for name in ids:
        dataset, pair, number = name.split("/", 2)
        for path in (to / dataset / pair).glob("*.tar"):
            content = path.read_bytes()
            path.write_bytes(content.replace(f'{{"id":"{number}"'.encode(), f'["id":"{number}"'.encode()))
    return to


@pytest.mark.slow
def test_many_ranks_skip_the_same_pairs_as_one(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    ((whole, *_),) = on_ranks(1, first_step, tiny_model, tiny_shards)
    broken = damaged(tiny_shards, tmp_path / "broken", whole[1:4])
    ((ids, gradient, loss, pairs, skipped),) = on_ranks(1, first_step, tiny_model, broken)
    assert ids == [name for name in whole if name not in whole[1:4]]
    assert (pairs, skipped) == (6, 3)
    many = on_ranks(2, first_step, tiny_model, broken)
    assert many[0][0] == ids
    for _, theirs, their_loss, *counts in many:
        assert counts == [6, 3]
        assert their_loss == pytest.approx(loss, rel=1e-5)
        assert float((theirs - gradient).norm() / gradient.norm()) < 1e-5


def test_a_rank_without_a_readable_pair_stops(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(shutil.copytree(tiny_shards, tmp_path / "none"))
    for path in (tmp_path / "none").rglob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    config = make_config(tiny_model, tmp_path / "none")
    tokenize = Encoder.load(config.model).tokenize
    batches = Batches(config, manifest, tokenize, token_rates=dict.fromkeys(manifest.languages, 1.0))
    with pytest.raises(DataError, match=r"Step 1, rank 0: no pair can be read\. .*is damaged"):
        batches[0]
    assert np.all(manifest.groups[0].starts[1:] > 0)
