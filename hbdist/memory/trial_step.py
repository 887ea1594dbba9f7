"""Trial steps: a few real training steps on a small part of a batch, and the memory they take on this machine.

b texts of one forward pass · L tokens of each, padding included · D dimensions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hbdist.config.config import Config
from hbdist.distributed.engine import Engine
from hbdist.errors import ConfigError
from hbdist.loss.shapes import IDENTITIES
from hbdist.models.encoder import Encoder
from hbdist.training.activations import Activations, free_bytes
from hbdist.training.batch import BatchCounts, Chunk, RankBatch
from hbdist.training.metrics import peak_bytes
from hbdist.training.module import TrainingModule
from hbdist.training.optimizer import make_optimizer
from hbdist.training.step import ContrastiveStep

Shape = tuple[int, int]
"""Texts and tokens of a chunk: b, L."""
Shapes = tuple[Sequence[Shape], Sequence[Shape]]
"""Shapes of a step's chunks: those of queries and those of documents."""
STEPS = 2
"""Number of steps of each kind: from the second on, AdamW's state exists and the allocator's heap has its gaps."""


@dataclass(frozen=True)
class TrialStep:
    """Measurements of trial steps, in bytes unless stated otherwise."""

    device: str
    interpreter: int
    """Bytes of interpreter, libraries and tokenizer; on a GPU, of torch's libraries there."""
    parameters: int
    """Number of trained parameters, each in float32."""
    largest: int
    """Bytes of the largest parameter's gradient, which each chunk allocates anew before it is added."""
    dimensions: int
    """Number of dimensions of a vector, D."""
    activations: Activations
    one_pass: float
    """Bytes taken per byte of activations if all chunks' are kept: above 1 because of backward's own and gaps in the heap."""
    two_passes: float
    """Bytes taken per byte of activations if one chunk's are kept at a time."""
    chunk: int
    """Bytes a chunk takes in addition, whatever its size."""

    @classmethod
    def measure(cls, config: Config, encoder: Encoder, small: Shapes, large: Shapes) -> "TrialStep":
        """Make trial steps in this process, which must not have used more memory before than training takes.

        Args:
            encoder: freshly loaded encoder; it is trained a little and of no use afterwards.
            small, large: the steps to make, with small chunks and with large ones; as many queries as documents.

        Raises:
            ConfigError: model, gradients and moments alone do not fit into this machine's memory.
        """
        engine = Engine.start(_trial_config(config, "never"), environment={})
        module = TrainingModule(encoder, config)
        numbers = [parameter.numel() for parameter in module.parameters() if parameter.requires_grad]
        states = 16 * sum(numbers)  # parameters, gradients and AdamW's two moments, in float32
        free = free_bytes(engine.device)
        if states > free:
            raise ConfigError(
                f"model.name = {config.model.name!r} takes {states / 1e9:.1f} GB with its gradients and AdamW's moments, but"
                f" only {free / 1e9:.1f} GB are free here to measure it. Run this on a machine with more memory."
            )
        model = engine.prepare(module, make_optimizer(module, config.optimizer))
        largest = 4 * max(numbers)

        def peak(shapes: Shapes, cache: str) -> int:
            _make_steps(ContrastiveStep(model, _trial_config(config, cache), engine, report=lambda _: None), shapes)
            return max(0, peak_bytes(engine.device) - states - largest)

        interpreter = peak(([(1, 4)], [(1, 4)]), "always")
        activations = Activations.measure(
            model,
            lambda *shape: model(*_inputs(shape, engine.device))[0],
            length=max(length for side in large for _, length in side),
        )
        saved_small, saved_large = (
            [activations.bytes_for(*shape) for side in step for shape in side] for step in (small, large)
        )
        by_small, by_large = (peak(step, "always") - interpreter for step in (small, large))
        two_passes = max(1.0, (by_large - by_small) / max(1.0, max(saved_large) - max(saved_small)))
        one_pass = max(1.0, (peak(large, "never") - interpreter) / sum(saved_large))
        engine.stop()
        return cls(
            device=str(engine.device),
            interpreter=interpreter,
            parameters=sum(numbers),
            largest=largest,
            dimensions=encoder.dimensions,
            activations=activations,
            one_pass=one_pass,
            two_passes=two_passes,
            chunk=max(0, int(by_small - two_passes * max(saved_small))),
        )


def _make_steps(step: ContrastiveStep, shapes: Shapes) -> None:
    for _ in range(STEPS):
        step(_batch(shapes))
        step.engine.update(step.config.optimizer.lr)


def _trial_config(config: Config, gradient_cache: str) -> Config:
    """Return the config of the same training on one process, without anything only a full run needs."""
    changes: dict[str, dict[str, Any]] = {
        "run": {"trackers": ()},
        "loss": {"gradient_cache": gradient_cache, "hard_negatives": 0},
        "engine": {"deepspeed": ""},
    }
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update=values) for section, values in changes.items()}
    )


def _batch(shapes: Shapes) -> RankBatch:
    """Return a batch of one rank with chunks of these shapes, in which all documents differ."""
    queries, documents = map(_make_chunks, shapes)
    pairs = sum(texts for texts, _ in shapes[0])
    identity_BI = torch.arange(1, 1 + IDENTITIES * pairs).reshape(pairs, IDENTITIES)
    return RankBatch(
        step=0,
        query_chunks=queries,
        document_chunks=documents,
        identity_BI=identity_BI,
        block_B=torch.zeros(pairs, dtype=torch.int64),
        negative_identity_NI=identity_BI[:0],
        negative_block_N=torch.zeros(0, dtype=torch.int64),
        counts=BatchCounts(pools={}, mono_share=0, repeats=0, tokens=0, padded_tokens=0, truncated=0),
        ids=None,
    )


def _make_chunks(shapes: Sequence[Shape]) -> list[Chunk]:
    indices = torch.arange(sum(texts for texts, _ in shapes)).split([texts for texts, _ in shapes])
    return [Chunk(*_inputs(shape), index_B) for shape, index_B in zip(shapes, indices, strict=True)]


def _inputs(shape: Shape, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask of a chunk. One text is padded: without padding, attention may work differently."""
    input_ids_BL = torch.randint(0, 100, shape, device=device)
    attention_mask_BL = torch.ones_like(input_ids_BL)
    attention_mask_BL[-1, -1] = 0
    return input_ids_BL, attention_mask_BL
