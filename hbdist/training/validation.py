"""Validation: the loss on pairs that are held out of training.

The batches are fixed: those of a schedule over the held-out shards, the same at every validation, on any number of ranks.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hbdist.config.config import Config
from hbdist.data.shards.manifest import FILE, VALIDATION, Manifest
from hbdist.distributed.collectives import all_reduce_sum
from hbdist.distributed.engine import Engine
from hbdist.errors import ConfigError
from hbdist.models.tokenizer import Tokenize
from hbdist.training.data_checks import check_files
from hbdist.training.loader import Batches, measure_token_rates
from hbdist.training.step import ContrastiveStep


class Validation:
    """Held-out sets of a run, on every rank; none unless `validation.every` is set.

    Raises:
        ConfigError: there are no held-out shards, or batches are smaller than the number of ranks.
        DataError: the held-out shards cannot be read.
    """

    def __init__(self, config: Config, tokenize: Tokenize, engine: Engine) -> None:
        self.config, settings = config, config.validation
        if settings.every and engine.world > settings.batch_size:
            raise ConfigError(
                f"validation.batch_size = {settings.batch_size} is less than the {engine.world} processes: some would have"
                f" no pair. Set it to {engine.world} or more."
            )
        self.sets: dict[str, Batches] = {}
        for location in held_out_shards(config) if settings.every else ():
            manifest = Manifest.load(location)
            set_config = validation_config(config, manifest, filtered=not settings.shards)
            for note in check_files(set_config, manifest, rank=engine.rank, world=engine.world):
                if engine.is_main:
                    print(note, flush=True)
            rates = engine.broadcast_object(measure_token_rates(manifest, tokenize))
            self.sets[set_name(location)] = Batches(
                set_config, manifest, tokenize, token_rates=rates, rank=engine.rank, world=engine.world
            )

    def measure(self, contrastive_step: ContrastiveStep, step: int) -> dict[str, Any]:
        """Return a line of validation.jsonl: the mean loss on each set, the deciding one first. A collective.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        losses, skipped = dict[str, float](), 0
        for name, batches in self.sets.items():
            own = [batches[number] for number in range(self.config.validation.batches)]
            loss = sum(float(contrastive_step.evaluate(batch).loss) for batch in own)
            pairs = sum(len(batch.block_B) for batch in own)
            unreadable = sum(len(batch.counts.unreadable) for batch in own)
            sums = torch.tensor([loss, pairs, unreadable], dtype=torch.float64, device=contrastive_step.device)
            total, count, set_skipped = all_reduce_sum(sums).tolist()
            losses[name], skipped = total / count, skipped + int(set_skipped)
            if not math.isfinite(losses[name]):
                raise FloatingPointError(
                    f"the validation loss on {name} is {losses[name]} after step {step}. A lower optimizer.lr, more"
                    " optimizer.warmup_steps or a higher loss.temperature usually helps."
                )
        return {"step": step, "loss": losses, "skipped": skipped}


def describe_validation(line: Mapping[str, Any]) -> str:
    """Return a line of validation.jsonl in words."""
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in line["loss"].items())
    skipped = f"; {line['skipped']} pairs could not be read" if line["skipped"] else ""
    return f"validation after step {line['step']}: {losses}{skipped}"


def held_out_shards(config: Config) -> tuple[str, ...]:
    """Return the locations of the held-out shards.

    Raises:
        ConfigError: none are named, and the training shards have none.
    """
    if config.validation.shards:
        return config.validation.shards
    beside = f"{config.data.shards.rstrip('/')}/{VALIDATION}"
    if "://" not in beside and not Path(beside, FILE).is_file():
        raise ConfigError(
            f"validation.every = {config.validation.every}, but {config.data.shards} holds nothing out. Build it with"
            " `validation = 0.01` in its recipe, which holds out that share of the ids, or name other shards in"
            " validation.shards."
        )
    return (beside,)


def validation_config(config: Config, manifest: Manifest, *, filtered: bool) -> Config:
    """Return the config whose schedule gives a set's batches: the training's mixture, as far as the set supports it.

    If `filtered`, the set is restricted to the training's languages and data sets.
    """
    kinds = {group.monolingual for group in manifest.groups}
    share = config.batch.mono_share if len(kinds) == 2 else float(kinds.pop())
    batch = config.batch.model_copy(
        update={"size": config.validation.batch_size, "mono_share": share, "small_pool": "repeat"}
    )
    data: dict[str, Any] = {"shards": str(manifest.root), "workers": 0}
    if not filtered:
        data |= {"languages": (), "datasets": ()}
    run = config.run.model_copy(update={"log_batches": False})
    return config.model_copy(update={"run": run, "batch": batch, "data": config.data.model_copy(update=data)})


def set_name(location: str) -> str:
    """Return the name of a held-out set: that of its folder, or of the shards it was held out of."""
    *_, parent, name = ["", *location.rstrip("/").split("/")]
    return parent if name == VALIDATION else name
