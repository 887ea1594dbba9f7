"""The loss on pairs that are held out of training.

The batches are fixed: those of a schedule over the held-out shards, the same at every validation, on any number of ranks.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hbdist.config.config import Config
from hbdist.data.shards.manifest import FILE, VALIDATION, Manifest
from hbdist.distributed.collectives import sum_over_ranks
from hbdist.distributed.engine import Engine
from hbdist.errors import ConfigError
from hbdist.models.tokenizer import Tokenize
from hbdist.training.loader import Batches, measure_token_rates
from hbdist.training.step import ContrastiveStep


class Validation:
    """The held-out sets of a run, on every rank. Without `validation.every` there are none.

    Raises:
        ConfigError: there are no held-out shards where validation is asked for.
        DataError: they cannot be read.
    """

    def __init__(self, config: Config, tokenize: Tokenize, engine: Engine) -> None:
        self.config = config
        settings = config.validation
        if settings.every and engine.world > settings.batch_size:
            raise ConfigError(
                f"validation.batch_size = {settings.batch_size} is less than the {engine.world} processes: some would have"
                f" no pair. Set it to {engine.world} or more."
            )
        self.sets: dict[str, Batches] = {}
        for where in held_out(config) if settings.every else ():
            manifest = Manifest.load(where)
            rates = engine.broadcast_object(measure_token_rates(manifest, tokenize))
            own = validation_config(config, manifest, filtered=not settings.shards)
            self.sets[name_of(where)] = Batches(
                own, manifest, tokenize, token_rates=rates, rank=engine.rank, world=engine.world
            )

    def __call__(self, contrast: ContrastiveStep, step: int) -> dict[str, Any]:
        """A line of validation.jsonl: the mean loss on each set, the deciding one first. A collective.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        losses: dict[str, float] = {}
        skipped = 0
        for name, batches in self.sets.items():
            own = [batches[number] for number in range(self.config.validation.batches)]
            loss = sum(float(contrast.without_gradient(batch).loss) for batch in own)
            pairs = sum(len(batch.block_B) for batch in own)
            unreadable = sum(len(batch.counts.unreadable) for batch in own)
            sums = torch.tensor([loss, pairs, unreadable], dtype=torch.float64, device=contrast.device)
            total, count, left_out = sum_over_ranks(sums).tolist()
            losses[name], skipped = total / count, skipped + int(left_out)
            if not math.isfinite(losses[name]):
                raise FloatingPointError(
                    f"the validation loss on {name} is {losses[name]} after step {step}. A lower optimizer.lr, more"
                    " optimizer.warmup_steps or a higher loss.temperature usually helps."
                )
        return {"step": step, "loss": losses, "skipped": skipped}


def in_words(line: Mapping[str, Any]) -> str:
    """A line of validation.jsonl for people."""
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in line["loss"].items())
    skipped = f"; {line['skipped']} pairs could not be read" if line["skipped"] else ""
    return f"validation after step {line['step']}: {losses}{skipped}"


def held_out(config: Config) -> tuple[str, ...]:
    """Where the held-out shards are.

    Raises:
        ConfigError: none are named, and the training shards have none.
    """
    if config.validation.shards:
        return config.validation.shards
    beside = f"{config.data.shards.rstrip('/')}/{VALIDATION}"
    if "://" not in beside and not Path(beside, FILE).is_file():
        raise ConfigError(
            f"validation.every = {config.validation.every}, and {config.data.shards} holds nothing out. Build it with"
            " `validation = 0.01` in its recipe, which holds out that share of the ids, or name other shards in"
            " validation.shards."
        )
    return (beside,)


def validation_config(config: Config, manifest: Manifest, *, filtered: bool) -> Config:
    """The config whose schedule gives the batches of a held-out set: the training's mixture, as far as the set has it.

    Args:
        filtered: keep to the training's languages and data sets.
    """
    kinds = {group.monolingual for group in manifest.groups}
    share = config.batch.mono_share if len(kinds) == 2 else float(kinds.pop())
    batch = config.batch.model_copy(
        update={"size": config.validation.batch_size, "mono_share": share, "small_pool": "repeat"}
    )
    data: Mapping[str, Any] = {"shards": str(manifest.root), "workers": 0}
    if not filtered:
        data = {**data, "languages": (), "datasets": ()}
    run = config.run.model_copy(update={"log_batches": False})
    return config.model_copy(update={"run": run, "batch": batch, "data": config.data.model_copy(update=dict(data))})


def name_of(where: str) -> str:
    """What a set is called: its folder's name, or that of the shards it was held out of."""
    *_, parent, name = ["", *where.rstrip("/").split("/")]
    return parent if name == VALIDATION else name
