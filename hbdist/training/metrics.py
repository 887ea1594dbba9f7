"""Metrics of a training step, summed over the ranks: one line of metrics.jsonl."""

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from hbdist.config.config import Config
from hbdist.distributed.collectives import all_reduce_max, all_reduce_sum, traffic
from hbdist.loss.infonce import LossParts
from hbdist.training.batch import RankBatch


class StepMeter:
    """Timer of the steps that turns their sums into metrics. `measure` is a collective."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.data_seconds, self.traffic, self.last = 0.0, 0, time.perf_counter()

    def timed(self, batches: Iterable[RankBatch]) -> Iterator[RankBatch]:
        """Yield the batches unchanged, measuring how long the training waits for each."""
        iterator = iter(batches)
        while True:
            # Time since the last step, such as a validation or a checkpoint, does not belong to this one.
            start = self.last = time.perf_counter()
            self.traffic = traffic()
            batch = next(iterator, None)
            self.data_seconds = time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def measure(
        self,
        batch: RankBatch,
        parts: LossParts,
        *,
        lr: float,
        grad_norm: float,
        temperature: float,
        document_sum_D: Tensor,
    ) -> dict[str, Any]:
        """Return the metrics of this update over all ranks, with the keys of metrics.jsonl.

        Args:
            document_sum_D: sum of the vectors of this rank's documents, [D].
        """
        counts = batch.counts
        sums = (parts.loss.detach(), parts.correct, parts.candidates, parts.masked, parts.suspected)
        own_counts = (counts.tokens, counts.padded_tokens, counts.truncated, len(counts.unreadable), counts.negatives)
        # NCCL and gloo both add float64; float32 would round counts above 2^24.
        own = torch.tensor([*map(float, sums), *own_counts], dtype=torch.float64, device=self.device)
        total, sum_D = all_reduce_sum(torch.cat([own, document_sum_D.to(own)])).split([len(own), len(document_sum_D)])
        loss, correct, candidates, masked, suspected, tokens, padded, truncated, skipped, negatives = total.tolist()
        size = self.config.batch.size - int(skipped)
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        own = torch.tensor([self.data_seconds, peak_bytes(self.device)], dtype=torch.float64, device=self.device)
        data_seconds, peak = all_reduce_max(own).tolist()
        received, self.traffic = traffic() - self.traffic, traffic()
        return {
            "step": batch.step + 1,
            "loss": loss / size,
            "loss_above_chance": loss / size - math.log(candidates / size),
            "accuracy": correct / size,
            "candidates": candidates / size,
            "document_cosine": (float(sum_D @ sum_D) - size) / (size * (size - 1)) if size > 1 else 0.0,
            "grad_norm": grad_norm,
            "lr": lr,
            "pairs": size,
            "skipped": int(skipped),
            "negatives": int(negatives),
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
            "data_seconds": data_seconds,
            "exchanged_bytes": received,
            "peak_bytes": int(peak),
        }


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process so far: of the GPU if there is one, otherwise resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
