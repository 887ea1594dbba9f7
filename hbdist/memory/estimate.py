"""Memory estimate: the predicted peak of a rank, part by part, for this config and for similar ones.

B pairs on this rank · t texts on this rank · G documents of all ranks · D dimensions
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import assert_never

import numpy as np
import torch

from hbdist.config.config import Config
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.loss.shapes import score_bytes, vector_bytes
from hbdist.memory.arithmetic import bytes_of_parameters
from hbdist.memory.text_lengths import TextLengths, chunk_shapes
from hbdist.memory.trial_step import Shapes, TrialStep
from hbdist.models.encoder import Encoder
from hbdist.training.activations import ActivationBudget, free_bytes
from hbdist.training.loader import measure_token_rates
from hbdist.training.metrics import peak_bytes
from hbdist.utils.templates import environment

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
TRIAL_TOKENS, SMALL_CHUNK, LARGE_CHUNK = 2048, 512, 2048
"""Number of tokens in a trial step and in its chunks: enough to stand out from the interpreter, and done in seconds."""
MARGIN = 0.1
"""Share of the given memory that must stay free for a batch to fit: predictions are not exact."""
SMALLEST_CHUNK, LARGEST_BATCH = 128, 2**17
"""Bounds of the search for what fits."""


def parse_memory(text: str) -> int:
    """Return the bytes of `80GB`, `512 MB` or `24GiB`.

    Raises:
        ConfigError: the text is not a number above 0 with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not match or match[2].upper() not in UNITS or not float(match[1]):
        raise ConfigError(
            f"--memory {text!r} is not a size. Write a number and MB, GB, TB, MiB, GiB or TiB, as in --memory 80GB."
        )
    return int(float(match[1]) * UNITS[match[2].upper()])


@dataclass(frozen=True)
class Peak:
    """Predicted peak of a rank."""

    parts: dict[str, float]
    """Bytes by purpose, all allocated at once."""
    one_pass: bool
    tokens: int
    """Number of padded tokens in the step with the peak."""

    @property
    def bytes(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryEstimate:
    """Measurements of trial steps, and the peaks that follow from them."""

    config: Config
    ranks: int
    memory: int
    """Bytes available to a rank."""
    trial: TrialStep
    lengths: TextLengths
    zero: Zero | None = None

    @classmethod
    def measure(
        cls, config: Config, manifest: Manifest, *, ranks: int = 1, memory: int | None = None, zero: Zero | None = None
    ) -> "MemoryEstimate":
        """Load the model and make a few trial steps, in a process that did nothing before: all its memory is counted.

        Args:
            memory: bytes available to a rank; by default the free memory here, as if all ranks ran on this machine.

        Raises:
            ConfigError: training needs more memory even with the smallest chunks, or more than is here to measure it.
            DataError: the model does not exist, or a shard is missing or damaged.
        """
        memory = memory or _free_per_rank(ranks)
        encoder = Encoder.load(config.model)
        lengths = TextLengths(config, manifest, measure_token_rates(manifest, encoder.tokenize), ranks=ranks)
        trial = TrialStep.measure(config, encoder, *_sample_shapes(config, lengths))
        estimate = cls(config, ranks, memory, trial, lengths, zero)
        minimum = estimate.without_activations()
        if minimum > memory:
            raise ConfigError(
                f"{memory / 1e9:.2f} GB for a rank is too little: without any activations, training {config.model.name} takes"
                f" {minimum / 1e9:.2f} GB on each of {ranks} ranks. Give more memory (--memory), a smaller model, or more"
                " ranks that share its states (engine.deepspeed=launch/deepspeed/zero2.json)."
            )
        return estimate

    def peak(self, batch: int, chunk_tokens: int) -> Peak:
        """Return the highest predicted peak of the first steps, with `batch` pairs over all ranks.

        Raises:
            ConfigError: such a batch cannot be made.
        """
        steps = self.lengths.first_steps(batch)
        peaks = [self._peak(batch, (chunk_shapes(q, chunk_tokens), chunk_shapes(d, chunk_tokens))) for q, d in steps]
        return max(peaks, key=lambda peak: peak.bytes)

    def without_activations(self) -> int:
        """Return the bytes a rank takes whatever the batch."""
        return sum(self._fixed_parts().values())

    def has_room_for(self, peak: Peak) -> bool:
        """Return True if a rank's memory suffices for this peak, with a margin."""
        return peak.bytes <= (1 - MARGIN) * self.memory

    def fits(self, batch: int, chunk_tokens: int) -> bool:
        """Return True if the batch can be made, and a rank's memory suffices for it."""
        try:
            return self.has_room_for(self.peak(batch, chunk_tokens))
        except ConfigError:
            return False

    def largest_chunk(self) -> int | None:
        """Return the largest chunk_tokens that fits this config's batch, by doublings of its own; None if none fits."""
        own, batch = self.config.loss.chunk_tokens, self.config.batch.size
        longest = max(int(side_B.max()) * len(side_B) for step in self.lengths.first_steps(batch) for side_B in step)
        return _largest(own, lambda size: self.fits(batch, size), minimum=SMALLEST_CHUNK, maximum=longest)

    def largest_batch(self) -> int | None:
        """Return the largest batch that fits with this config's chunk_tokens, by doublings of its own; None if none fits."""
        own, chunk_tokens = self.config.batch.size, self.config.loss.chunk_tokens
        return _largest(own, lambda size: self.fits(size, chunk_tokens), minimum=self.ranks, maximum=LARGEST_BATCH)

    def _fixed_parts(self) -> dict[str, int]:
        trial = self.trial
        return {
            "interpreter and libraries": trial.interpreter,
            **bytes_of_parameters(trial.parameters, ranks=self.ranks, zero=self.zero, offloads=trial.device != "cpu"),
            "largest gradient, once more": trial.largest,
        }

    def _peak(self, batch: int, shapes: Shapes) -> Peak:
        trial, chunks = self.trial, [shape for side in shapes for shape in side]
        saved = [trial.activations.bytes_for(*shape) for shape in chunks]
        tokens = sum(texts * length for texts, length in chunks)
        loss = self._loss_parts(batch, shapes)
        one_pass = self._takes_one_pass(chunks, tokens, reserved=sum(loss.values()))
        activations = sum(saved) if one_pass else max(saved)
        taken = trial.one_pass * activations if one_pass else trial.two_passes * activations + trial.chunk
        parts = self._fixed_parts() | {
            "activations": activations,
            "backward's own, gaps in the heap": taken - activations,
            **loss,
        }
        return Peak(parts, one_pass, tokens)

    def _loss_parts(self, batch: int, shapes: Shapes) -> dict[str, int]:
        queries, texts = (sum(number for side in sides for number, _ in side) for sides in (shapes[:1], shapes))
        documents, settings = batch * (1 + self.config.loss.hard_negatives), self.config.loss
        how = {
            "margin": settings.margin is not None,
            "on_cpu": self.trial.device == "cpu",
        }
        return {
            "vectors and their gradients": vector_bytes(texts, documents, self.trial.dimensions, ranks=self.ranks),
            "scores of the loss": score_bytes(queries, documents, **how),
        }

    def _takes_one_pass(self, chunks: list[tuple[int, int]], tokens: int, *, reserved: int) -> bool:
        """Return the choice that `ContrastiveStep` will make."""
        match self.config.loss.gradient_cache:
            case "never":
                return True
            case "always":
                return False
            case "auto":
                return self._chooses_one_pass(chunks, tokens, reserved)
            case _:
                assert_never(self.config.loss.gradient_cache)

    def _chooses_one_pass(self, chunks: list[tuple[int, int]], tokens: int, reserved: int) -> bool:
        parameters = 4 * self.trial.parameters
        texts, length = max(chunks, key=lambda shape: shape[1])
        free = self.memory - self.trial.interpreter - parameters
        per_token = self.trial.activations.bytes_for(texts, length) / (texts * length)
        return ActivationBudget.of(per_token, free=free, parameters=parameters).reserve(reserved).fits(tokens)

    def text(self) -> str:
        """Return the prediction in words and numbers, one screen."""
        batch, chunk = self.config.batch.size, self.config.loss.chunk_tokens
        template = environment(Path(__file__).parent / "templates").get_template("estimate.txt")
        return template.render(
            estimate=self,
            config=self.config,
            peak=self.peak(batch, chunk),
            chunks=[size for size in (chunk // 4, chunk // 2, chunk, 2 * chunk, 4 * chunk) if size],
            batches=[size for size in (batch // 2, batch, 2 * batch, 4 * batch) if size],
            cell=self._cell,
            margin=MARGIN,
            largest_batch=self.largest_batch(),
            bound=LARGEST_BATCH,
            steps=len(self.lengths.first_steps(batch)),
        )

    def _cell(self, batch: int, chunk_tokens: int) -> str:
        try:
            peak = self.peak(batch, chunk_tokens)
        except ConfigError:
            return "-"
        cell = f"{peak.bytes / 1e9:.2f}{'' if peak.one_pass else '*'}"
        return cell if self.has_room_for(peak) else f"({cell})"


def _sample_shapes(config: Config, lengths: TextLengths) -> list[Shapes]:
    """Return small and large chunks of every n-th text of the step with the most tokens: all lengths, the longest included."""
    steps = lengths.first_steps(config.batch.size)
    query_B, document_B = max(steps, key=lambda step: int(step[0].sum() + step[1].sum()))
    document_B = document_B[: len(query_B)]
    every = math.ceil((query_B.sum() + document_B.sum()) / TRIAL_TOKENS)
    query_b, document_b = (np.sort(side_B)[::-1][::every] for side_B in (query_B, document_B))
    return [(chunk_shapes(query_b, size), chunk_shapes(document_b, size)) for size in (SMALL_CHUNK, LARGE_CHUNK)]


def _free_per_rank(ranks: int) -> int:
    if torch.cuda.is_available():
        return free_bytes(torch.device("cuda", 0))
    cpu = torch.device("cpu")
    # Memory that this process already uses is part of its rank's peak.
    return (free_bytes(cpu) + peak_bytes(cpu)) // ranks


def _largest(own: int, fits: Callable[[int], bool], *, minimum: int, maximum: int) -> int | None:
    """Return the last size before the first that does not fit: `own`, its doublings and its halves, within the bounds."""
    sizes = [own]
    while sizes[0] % 2 == 0 and sizes[0] // 2 >= minimum:
        sizes.insert(0, sizes[0] // 2)
    while sizes[-1] < maximum:
        sizes.append(sizes[-1] * 2)
    return max(takewhile(fits, sizes), default=None)
