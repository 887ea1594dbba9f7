"""What fits into memory: the predicted peak of a rank, part by part, for this config and for others near it.

B pairs on this rank · t texts on this rank · G documents of all ranks · D dimensions
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from hbdist.config.config import Config
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.memory.arithmetic import bytes_of_parameters, score_bytes, vector_bytes
from hbdist.memory.text_lengths import Lengths, chunk_shapes
from hbdist.memory.trial_step import Shapes, TrialStep
from hbdist.models.encoder import Encoder
from hbdist.training.activations import ActivationBudget, free_bytes
from hbdist.training.loader import measure_token_rates
from hbdist.training.metrics import peak_bytes

UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
REHEARSED_TOKENS, SMALL_CHUNK, LARGE_CHUNK = 2048, 512, 2048
"""Of the real steps that are measured: enough to stand out from the interpreter, and done in seconds."""
MARGIN = 0.1
"""Of the memory given, to be left free by what is said to fit: predictions are not exact."""
SMALLEST_CHUNK, LARGEST_BATCH = 128, 2**17
"""Where the search for what fits ends."""


def parse_memory(text: str) -> int:
    """Bytes of `80GB`, `512 MB` or `24GiB`.

    Raises:
        ConfigError: it is not a number above 0 with a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].upper() not in UNITS or not float(found[1]):
        raise ConfigError(
            f"--memory {text!r} is not a size. Write a number and MB, GB, TB, MiB, GiB or TiB, as in --memory 80GB."
        )
    return int(float(found[1]) * UNITS[found[2].upper()])


@dataclass(frozen=True)
class Peak:
    """The predicted peak of a rank."""

    parts: dict[str, float]
    """Bytes by what they are for, all held at once."""
    one_pass: bool
    tokens: int
    """Padded tokens of the step that has the peak."""

    @property
    def bytes(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Fit:
    """What was measured, and the peaks that follow from it."""

    config: Config
    ranks: int
    memory: int
    """Bytes that a rank can have."""
    rehearsal: TrialStep
    lengths: Lengths
    zero: Zero | None = None

    @classmethod
    def measure(
        cls, config: Config, manifest: Manifest, *, ranks: int = 1, memory: int | None = None, zero: Zero | None = None
    ) -> "Fit":
        """Load the model and make a few real steps, in a process that did nothing before: all it holds is counted.

        Args:
            memory: bytes that a rank can have; by default what is free here, as if all ranks ran on this machine.

        Raises:
            ConfigError: training takes more than that even with the smallest chunks, or more than there is here to measure it.
            DataError: there is no such model, or a shard is missing or damaged.
        """
        memory = memory or _free_for_a_rank(ranks)
        encoder = Encoder.load(config.model)
        lengths = Lengths(config, manifest, measure_token_rates(manifest, encoder.tokenize), ranks=ranks)
        fit = cls(config, ranks, memory, TrialStep.of(config, encoder, *_samples(config, lengths)), lengths, zero)
        least = fit.without_activations()
        if least > memory:
            raise ConfigError(
                f"{memory / 1e9:.2f} GB for a rank is too little: without any activations, training {config.model.name} takes"
                f" {least / 1e9:.2f} GB on each of {ranks}. Give more memory (--memory), a smaller model, or more ranks that"
                " share its states (engine.deepspeed=launch/deepspeed/zero2.json)."
            )
        return fit

    def peak(self, batch: int, chunk_tokens: int) -> Peak:
        """The highest predicted peak of the first steps, with so many pairs over all ranks.

        Raises:
            ConfigError: such a batch cannot be made.
        """
        steps = self.lengths.of_first_steps(batch)
        peaks = [self._peak(batch, (chunk_shapes(q, chunk_tokens), chunk_shapes(d, chunk_tokens))) for q, d in steps]
        return max(peaks, key=lambda peak: peak.bytes)

    def without_activations(self) -> int:
        """Bytes that a rank takes whatever the batch."""
        return sum(self._always().values())

    def holds(self, peak: Peak) -> bool:
        """A rank's memory holds this, with a margin."""
        return peak.bytes <= (1 - MARGIN) * self.memory

    def fits(self, batch: int, chunk_tokens: int) -> bool:
        """The batch can be made, and a rank's memory holds it."""
        try:
            return self.holds(self.peak(batch, chunk_tokens))
        except ConfigError:
            return False

    def largest_chunk(self) -> int | None:
        """The largest chunk_tokens that fits this config's batch, by doublings of its own; None if none does."""
        own, batch = self.config.loss.chunk_tokens, self.config.batch.size
        longest = max(int(side_B.max()) * len(side_B) for step in self.lengths.of_first_steps(batch) for side_B in step)
        return _last(_doublings(own, least=SMALLEST_CHUNK, most=max(own, longest)), lambda size: self.fits(batch, size))

    def largest_batch(self) -> int | None:
        """The largest batch that fits with this config's chunk_tokens, by doublings of its own; None if none does."""
        own, chunk_tokens = self.config.batch.size, self.config.loss.chunk_tokens
        most = max(own, LARGEST_BATCH)
        return _last(_doublings(own, least=self.ranks, most=most), lambda size: self.fits(size, chunk_tokens))

    def _always(self) -> dict[str, int]:
        measured = self.rehearsal
        return {
            "interpreter and libraries": measured.interpreter,
            **bytes_of_parameters(
                measured.parameters, ranks=self.ranks, zero=self.zero, offloads=measured.device != "cpu"
            ),
            "largest gradient, once more": measured.largest,
        }

    def _peak(self, batch: int, shapes: Shapes) -> Peak:
        measured, chunks = self.rehearsal, [shape for side in shapes for shape in side]
        kept = [measured.activations.of(*shape) for shape in chunks]
        tokens = sum(texts * length for texts, length in chunks)
        one_pass = self._takes_one_pass(chunks, tokens)
        activations = sum(kept) if one_pass else max(kept)
        taken = measured.one_pass * activations if one_pass else measured.two_passes * activations + measured.chunk
        texts, documents = sum(number for number, _ in chunks), batch * (1 + self.config.loss.hard_negatives)
        parts = self._always() | {
            "activations": activations,
            "backward's own, gaps in the heap": taken - activations,
            "vectors and their gradients": vector_bytes(texts, documents, measured.dimensions, ranks=self.ranks),
            "scores of the loss": score_bytes(sum(number for number, _ in shapes[0]), documents),
        }
        return Peak(parts, one_pass, tokens)

    def _takes_one_pass(self, chunks: list[tuple[int, int]], tokens: int) -> bool:
        """As `ContrastiveStep` will decide."""
        asked, parameters = self.config.loss.gradient_cache, 4 * self.rehearsal.parameters
        if asked != "auto":
            return asked == "never"
        texts, length = max(chunks, key=lambda shape: shape[1])
        free = self.memory - self.rehearsal.interpreter - parameters
        per_token = self.rehearsal.activations.of(texts, length) / (texts * length)
        return ActivationBudget.of(per_token, free=free, parameters=parameters).fits(tokens)

    def text(self) -> str:
        """The prediction for people, a screenful."""
        return "\n".join([*self._own_lines(), "", *self._grid_lines(), "", *self._recommendation_lines()]) + "\n"

    def _own_lines(self) -> list[str]:
        batch, chunk_tokens = self.config.batch.size, self.config.loss.chunk_tokens
        peak, measured = self.peak(batch, chunk_tokens), self.rehearsal
        how = "one pass" if peak.one_pass else "two passes (gradient cache)"
        verdict = "fits" if self.holds(peak) else "does NOT fit"
        of = f"{peak.tokens:,} tokens" if peak.one_pass else "the largest chunk"
        names = {
            "activations": f"activations of {of}",
            "optimizer": f"optimizer{f' ({self.zero})' if self.zero else ''}",
        }
        return [
            f"memory of a rank of {self.ranks}, on {measured.device}, {self.config.engine.precision}: {peak.bytes / 1e9:.2f} GB"
            f" of {self.memory / 1e9:.2f} GB, {verdict}; {how}",
            *(f"  {size / 1e9:>7.2f} GB  {names.get(name, name)}" for name, size in peak.parts.items() if size),
        ]

    def _grid_lines(self) -> list[str]:
        own, chunk = self.config.batch.size, self.config.loss.chunk_tokens
        chunks = [size for size in (chunk // 4, chunk // 2, chunk, 2 * chunk, 4 * chunk) if size]
        batches = [size for size in (own // 2, own, 2 * own, 4 * own) if size]
        return [
            f"peak in GB; * two passes, (…) does not fit with {MARGIN:.0%} left free, - cannot be made from these shards",
            f"{'batch.size':>12}  loss.chunk_tokens",
            " " * 12 + "".join(f"{size:>12,}" for size in chunks),
            *(f"{batch:>12,}" + "".join(f"{self._cell(batch, size):>12}" for size in chunks) for batch in batches),
        ]

    def _cell(self, batch: int, chunk_tokens: int) -> str:
        try:
            peak = self.peak(batch, chunk_tokens)
        except ConfigError:
            return "-"
        shown = f"{peak.bytes / 1e9:.2f}{'' if peak.one_pass else '*'}"
        return shown if self.holds(peak) else f"({shown})"

    def _recommendation_lines(self) -> list[str]:
        chunk, batch = self.largest_chunk(), self.largest_batch()
        looked_at = len(self.lengths.of_first_steps(self.config.batch.size))
        workers = self.config.data.workers
        more = " or more" if batch and batch >= LARGEST_BATCH else ""
        return [
            f"largest that fit, by doublings: loss.chunk_tokens={chunk or 'none'} with batch.size={self.config.batch.size};"
            f" batch.size={batch or 'none'}{more} with loss.chunk_tokens={self.config.loss.chunk_tokens}",
            f"Lengths are characters times tokens a character, of {looked_at} steps; hard negatives as long as documents.",
            *[f"Each of the {workers} data workers of a rank is a process of its own, not counted here."][
                : min(1, workers)
            ],
        ]


def _samples(config: Config, lengths: Lengths) -> list[Shapes]:
    """Small and large chunks of every n-th text of the step with the most tokens: of all its lengths, the longest included."""
    steps = lengths.of_first_steps(config.batch.size)
    query_B, document_B = max(steps, key=lambda step: int(step[0].sum() + step[1].sum()))
    document_B = document_B[: len(query_B)]
    every = math.ceil((query_B.sum() + document_B.sum()) / REHEARSED_TOKENS)
    query_b, document_b = (np.sort(side_B)[::-1][::every] for side_B in (query_B, document_B))
    return [(chunk_shapes(query_b, size), chunk_shapes(document_b, size)) for size in (SMALL_CHUNK, LARGE_CHUNK)]


def _free_for_a_rank(ranks: int) -> int:
    if torch.cuda.is_available():
        return free_bytes(torch.device("cuda", 0))
    cpu = torch.device("cpu")
    # What this process holds already counts as part of its rank's peak.
    return (free_bytes(cpu) + peak_bytes(cpu)) // ranks


def _doublings(own: int, *, least: int, most: int) -> list[int]:
    """`own` times powers of two, and its halves, within the bounds; `own` in any case."""
    sizes = [own]
    while sizes[0] % 2 == 0 and sizes[0] // 2 >= least:
        sizes.insert(0, sizes[0] // 2)
    while sizes[-1] < most:
        sizes.append(sizes[-1] * 2)
    return sizes


def _last(sizes: Iterable[int], holds: Callable[[int], bool]) -> int | None:
    """The last of the sizes before the first that does not hold."""
    found = None
    for size in sizes:
        if not holds(size):
            break
        found = size
    return found
