"""Validation: the loss on pairs that are held out of training.

The batches are fixed: those of a schedule over the held-out shards, the same at every validation, on any number of ranks.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from hbdist.config.config import Config
from hbdist.data.batching.held_out import load_held_out
from hbdist.distributed.collectives import all_reduce_sum
from hbdist.distributed.engine import Engine
from hbdist.errors import NotFiniteError
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
        self.config = config
        self.sets: dict[str, Batches] = {}
        for held_out in load_held_out(config, ranks=engine.world):
            for note in check_files(held_out.config, held_out.manifest, rank=engine.rank, world=engine.world):
                if engine.is_main:
                    print(note, flush=True)
            rates = engine.broadcast_object(measure_token_rates(held_out.manifest, tokenize))
            self.sets[held_out.name] = Batches(
                held_out.config, held_out.manifest, tokenize, token_rates=rates, rank=engine.rank, world=engine.world
            )

    def measure(self, contrastive_step: ContrastiveStep, step: int) -> dict[str, Any]:
        """Return a line of validation.jsonl: the mean loss on each set, the deciding one first. A collective.

        Raises:
            NotFiniteError: a loss is not finite.
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
                raise NotFiniteError(
                    f"the validation loss on {name} is {losses[name]} after step {step}. A lower optimizer.lr, more"
                    " optimizer.warmup_steps or a higher loss.temperature usually helps."
                )
        return {"step": step, "loss": losses, "skipped": skipped}


def describe_validation(line: Mapping[str, Any]) -> str:
    """Return a line of validation.jsonl in words."""
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in line["loss"].items())
    skipped = f"; {line['skipped']} pairs could not be read" if line["skipped"] else ""
    return f"validation after step {line['step']}: {losses}{skipped}"
