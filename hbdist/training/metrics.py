"""What a step measured, added up over the ranks: one line of metrics.jsonl, and the line people see."""

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from hbdist.config.config import Config
from hbdist.distributed.collectives import sum_over_ranks, traffic, world_size
from hbdist.loss.infonce import LossParts
from hbdist.training.loader import RankBatch


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
        waited, peak = self._largest([self.waited, float(peak_bytes(self.device))])
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

    def _largest(self, numbers: list[float]) -> list[float]:
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        if world_size() > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.tolist()


def peak_bytes(device: torch.device) -> int:
    """Most memory this process has held so far: of the GPU where there is one, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def progress_line(metrics: dict[str, Any], *, steps: int, rate: float) -> str:
    """One line with stable columns.

    Args:
        rate: steps a second, lately.
    """
    step, seconds = metrics["step"], metrics["seconds"]
    left = (steps - step) / rate if rate else 0
    return (
        f"step {step:>{len(str(steps))}}/{steps} {step / steps:>4.0%}"
        f"  {'mono ' if metrics['mono_share'] == 1 else 'cross' if metrics['mono_share'] == 0 else 'mixed'}"
        f"  loss {metrics['loss']:>6.3f} ({metrics['loss_above_chance']:+.2f} to chance)"
        f"  acc {metrics['accuracy']:>4.0%}  |g| {metrics['grad_norm']:>6.2f}  lr {metrics['lr']:.1e}"
        f"  {metrics['pairs'] / seconds:>6,.0f} pairs/s  {metrics['tokens'] / seconds:>9,.0f} tok/s"
        f"  pad {metrics['padding']:>4.0%}  {metrics['peak_bytes'] / 1e9:>5.1f} GB"
        f"  data {metrics['data_seconds'] / seconds:>4.0%}  eta {int(left // 60)}m{int(left % 60):02d}"
    )


def is_worth_a_line(step: int, steps: int) -> bool:
    """Whether a log, which keeps every line, gets one for this update: all at first, then ever fewer."""
    interval = 1 if step <= 50 else 10 if step <= 500 else 100
    return step % interval == 0 or step == steps
