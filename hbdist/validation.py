"""The loss on pairs that are held out of training: which step was best, and when to stop.

The batches are fixed: those of a schedule over the held-out shards, the same at every validation, on any number of ranks. What
was found is kept in `validation.jsonl`, and a run that goes on reads it there: nothing of it is in a checkpoint.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hbdist.batches import Batches, measure_token_rates
from hbdist.chunked import ContrastiveStep
from hbdist.config import Config
from hbdist.encoder import Tokenize
from hbdist.engine import Engine
from hbdist.errors import ConfigError
from hbdist.gather import sum_over_ranks
from hbdist.shards.manifest import FILE, Manifest
from hbdist.shards.recipe import VALIDATION


@dataclass(frozen=True)
class History:
    """The losses of the deciding set until now, in the order of the steps."""

    losses: tuple[float, ...] = ()
    patience: int = 0
    """Validations without a lower loss after which to stop; 0: never."""

    def with_loss(self, loss: float) -> "History":
        return History((*self.losses, loss), self.patience)

    @property
    def last_is_best(self) -> bool:
        return bool(self.losses) and self.losses[-1] == min(self.losses) and self.losses.count(self.losses[-1]) == 1

    @property
    def exhausted(self) -> bool:
        """So many validations in a row were no better than the best before them."""
        if not self.losses or not self.patience:
            return False
        return len(self.losses) - 1 - self.losses.index(min(self.losses)) >= self.patience


class Validation:
    """The held-out sets of a run, on every rank. Without `validation.every` it does nothing.

    Args:
        seen: what `validation.jsonl` holds when the run goes on.

    Raises:
        ConfigError: there are no held-out shards where validation is asked for.
        DataError: they cannot be read.
    """

    def __init__(self, config: Config, tokenize: Tokenize, engine: Engine, seen: list[dict[str, Any]]) -> None:
        self.config = config
        settings = config.validation
        if settings.every and engine.world > settings.batch_size:
            raise ConfigError(
                f"validation.batch_size = {settings.batch_size} is less than the {engine.world} processes: some would have"
                f" no pair. Set it to {engine.world} or more."
            )
        if not settings.every and (settings.patience or settings.keep == "best"):
            raise ConfigError(
                f"validation.patience = {settings.patience} and validation.keep = {settings.keep!r} do nothing without"
                " validation.every. Set validation.every, or leave them out."
            )
        self.sets: dict[str, Batches] = {}
        for where in held_out(config) if settings.every else ():
            manifest = Manifest.load(where)
            rates = engine.from_main(measure_token_rates(manifest, tokenize))
            own = validation_config(config, manifest, filtered=not settings.shards)
            self.sets[name_of(where)] = Batches(
                own, manifest, tokenize, token_rates=rates, rank=engine.rank, world=engine.world
            )
        self.history = History((), settings.patience)
        for line in seen:
            self.history = self.history.with_loss(next(iter(line["loss"].values())))

    def due(self, step: int) -> bool:
        """The model is validated after update `step`, counted from 1."""
        every = self.config.validation.every
        return bool(every) and (step % every == 0 or step == self.config.steps)

    def improved_at(self, step: int) -> bool:
        """The model was validated after this update, and its loss is the lowest yet."""
        return self.due(step) and self.history.last_is_best

    @property
    def exhausted(self) -> bool:
        """The loss has not fallen for as long as `validation.patience` says."""
        return bool(self.config.validation.every) and self.history.exhausted

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
        self.history = self.history.with_loss(next(iter(losses.values())))
        return {"step": step, "loss": losses, "skipped": skipped}


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
