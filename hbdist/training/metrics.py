"""What a step measured, added up over the ranks: one line of metrics.jsonl, and the line people see."""

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from hbdist.config.config import Config
from hbdist.distributed.collectives import max_over_ranks, sum_over_ranks, traffic
from hbdist.loss.infonce import LossParts
from hbdist.training.batch import RankBatch


class Meter:
    """Times the steps and turns their sums into metrics. `measure` is a collective."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.waited = 0.0
        self.received = 0
        self.last = time.perf_counter()

    def waiting(self, batches: Iterable[RankBatch]) -> Iterator[RankBatch]:
        """The same batches; how long each kept the training waiting is noted."""
        iterator = iter(batches)
        while True:
            # What came since the last step, such as a validation or a checkpoint, is none of this one's.
            asked = self.last = time.perf_counter()
            self.received = traffic()
            batch = next(iterator, None)
            self.waited = time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def measure(
        self, batch: RankBatch, parts: LossParts, *, lr: float, grad_norm: float, temperature: float
    ) -> dict[str, Any]:
        """The metrics of this update, over all ranks; the keys are those of metrics.jsonl."""
        counts = batch.counts
        sums = (parts.loss.detach(), parts.correct, parts.candidates, parts.masked, parts.suspected)
        loss, correct, candidates, masked, suspected, tokens, padded, truncated, skipped = sum_over_ranks(
            torch.tensor(
                [
                    *map(float, sums),
                    *(counts.tokens, counts.padded_tokens, counts.truncated, len(counts.unreadable)),
                ],
                # NCCL and gloo both add float64; float32 would round counts above 2^24.
                dtype=torch.float64,
                device=self.device,
            )
        ).tolist()
        size = self.config.batch.size - int(skipped)
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        own = [self.waited, float(peak_bytes(self.device))]
        waited, peak = max_over_ranks(torch.tensor(own, dtype=torch.float64, device=self.device)).tolist()
        received, self.received = traffic() - self.received, traffic()
        return {
            "step": batch.step + 1,
            "loss": loss / size,
            "loss_above_chance": loss / size - math.log(candidates / size),
            "accuracy": correct / size,
            "grad_norm": grad_norm,
            "lr": lr,
            "pairs": size,
            "skipped": int(skipped),
            "tokens": int(tokens),
            "padding": padded / tokens - 1,
            "temperature": temperature,
            "masked": masked / (candidates + masked + suspected),
            "suspected": suspected / (candidates + masked + suspected),
            "repeats": counts.repeats,
            "truncated": int(truncated),
            "mono_share": counts.mono_share,
            "groups": counts.pools,
            "seconds": seconds,
            "data_seconds": waited,
            "exchanged_bytes": received,
            "peak_bytes": int(peak),
        }


def peak_bytes(device: torch.device) -> int:
    """Most memory this process has held so far: of the GPU where there is one, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
