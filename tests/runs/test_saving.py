"""Saving by several ranks: the checkpoint is complete on return, whichever rank asks; and how long ranks wait for others."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import nn

from hbdist.config.config import Config
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.engine import Engine
from hbdist.runs import checkpoint
from hbdist.runs.run import Run
from hbdist.training.optimizer import make_optimizer


def save_on_a_slow_rank_0(shards: Path, folder: Path) -> tuple[Any, float]:
    """Return what this rank sees right after saving, of which rank 0 begins a second late; and how long it waits for others."""
    values = {
        "steps": 1,
        "data": {"shards": str(shards)},
        "model": {"name": "none"},
        "batch": {"size": 2},
        "run": {"folder": str(folder)},
        "engine": {"timeout_s": 41},
    }
    config = Config.check(values, source="test")
    engine = Engine.start(config)
    module = nn.Linear(3, 2)
    model = engine.prepare(module, make_optimizer(module, config.optimizer))
    engine.backward(model(torch.ones(1, 3)).sum())
    engine.update(1e-3)
    run = Run(config, is_main=engine.is_main)
    dist.barrier()
    if engine.is_main:
        time.sleep(1)
    run.save(engine, Manifest.load(shards), 1)
    saved = checkpoint.latest(folder / "checkpoints")
    return None if saved is None else (saved.name, checkpoint.load(saved)[0].step), engine.watchdog.timeout_s


@pytest.fixture(scope="module")
def found(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, float]]:
    return on_ranks(2, save_on_a_slow_rank_0, tiny_shards, tmp_path_factory.mktemp("saving") / "run")


def test_on_return_from_saving_every_rank_sees_the_checkpoint(found: list[tuple[Any, float]]) -> None:
    assert [saved for saved, _ in found] == [("000000001", 1)] * 2


def test_a_rank_without_a_sign_of_life_is_given_up_after_the_time_in_the_config(found: list[tuple[Any, float]]) -> None:
    assert [timeout_s for _, timeout_s in found] == [41] * 2
