"""What training takes of memory on this machine: a few real steps on a small part of a batch, and what they took.

b texts of one forward pass · L tokens of each, padding included · D dimensions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
"""Of a step's chunks: those of queries and those of documents."""
STEPS = 2
"""Of each kind: what AdamW keeps is there from the second on, and the allocator's heap has its gaps."""
GRADIENT, MOMENTS = 1, 2
"""What is held beside each parameter, in its own size."""


@dataclass(frozen=True)
class TrialStep:
    """What was measured; bytes, unless said otherwise."""

    device: str
    interpreter: int
    """Interpreter, libraries and tokenizer; on a GPU, what its libraries take from torch."""
    parameters: int
    """How many, not bytes: those that are trained, each in float32."""
    largest: int
    """The largest parameter's gradient, which each chunk makes anew before it is added."""
    dimensions: int
    """D."""
    activations: Activations
    one_pass: float
    """Memory taken for each byte of activations, all chunks' kept: above 1 by backward's own and by gaps in the heap."""
    two_passes: float
    """The same when one chunk's are kept at a time."""
    chunk: int
    """And what a chunk takes beside, whatever its size."""

    @classmethod
    def of(cls, config: Config, encoder: Encoder, small: Shapes, large: Shapes) -> "TrialStep":
        """Rehearse in this process, which must not have held more memory before than training takes.

        Args:
            encoder: as it was loaded; it is trained a little and of no use afterwards.
            small, large: the steps to make, with small chunks and with large ones; as many queries as documents.

        Raises:
            ConfigError: model, gradients and moments alone do not fit into this machine's memory.
        """
        engine = Engine.start(_plain(config, "never"), environment={})
        module = TrainingModule(encoder, config)
        numbers = [parameter.numel() for parameter in module.parameters() if parameter.requires_grad]
        held = 4 * sum(numbers) * (1 + GRADIENT + MOMENTS)
        free = free_bytes(engine.device)
        if held > free:
            raise ConfigError(
                f"model.name = {config.model.name!r} takes {held / 1e9:.1f} GB with its gradients and AdamW's moments, and"
                f" {free / 1e9:.1f} GB are free here to measure it. Run this where there is more memory."
            )
        model = engine.prepare(module, make_optimizer(module, config.optimizer))
        taken = _Taken(config, engine, model, held=held, largest=4 * max(numbers))
        interpreter = taken.by(([(1, 4)], [(1, 4)]), "always")
        activations = Activations.measure(
            model,
            lambda *shape: model(*_inputs(shape, engine.device))[0],
            length=max(length for side in large for _, length in side),
        )
        kept_small, kept_large = ([activations.of(*one) for side in step for one in side] for step in (small, large))
        by_small, by_large = (taken.by(step, "always") - interpreter for step in (small, large))
        two_passes = max(1.0, (by_large - by_small) / max(1.0, max(kept_large) - max(kept_small)))
        one_pass = max(1.0, (taken.by(large, "never") - interpreter) / sum(kept_large))
        engine.stop()
        return cls(
            device=str(engine.device),
            interpreter=interpreter,
            parameters=sum(numbers),
            largest=4 * max(numbers),
            dimensions=encoder.dimensions,
            activations=activations,
            one_pass=one_pass,
            two_passes=two_passes,
            chunk=max(0, int(by_small - two_passes * max(kept_small))),
        )


@dataclass(frozen=True)
class _Taken:
    """Makes steps, and says what they took beside parameters, gradients and moments."""

    config: Config
    engine: Engine
    model: nn.Module
    held: int
    largest: int

    def by(self, shapes: Shapes, gradient_cache: str) -> int:
        """Bytes at the peak so far, beyond what is held, after steps with these chunks."""
        step = ContrastiveStep(self.model, _plain(self.config, gradient_cache), self.engine, say=lambda _: None)
        for _ in range(STEPS):
            step(_batch(shapes))
            self.engine.update(self.config.optimizer.lr)
        return max(0, peak_bytes(self.engine.device) - self.held - self.largest)


def _plain(config: Config, gradient_cache: str) -> Config:
    """The same training on one process, without what only a whole run needs."""
    changes: dict[str, dict[str, Any]] = {
        "run": {"trackers": ()},
        "loss": {"gradient_cache": gradient_cache, "hard_negatives": 0},
        "engine": {"deepspeed": ""},
    }
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update=values) for section, values in changes.items()}
    )


def _batch(shapes: Shapes) -> RankBatch:
    """A batch of one rank with chunks of these shapes, and each document another one's."""
    queries, documents = map(_numbered, shapes)
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


def _numbered(shapes: Sequence[Shape]) -> list[Chunk]:
    chunks, first = [], 0
    for texts, length in shapes:
        chunks.append(Chunk(*_inputs((texts, length)), torch.arange(first, first + texts)))
        first += texts
    return chunks


def _inputs(shape: Shape, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of a chunk. One text has padding: attention without any may take another way."""
    input_ids_BL = torch.randint(0, 100, shape, device=device)
    attention_mask_BL = torch.ones_like(input_ids_BL)
    attention_mask_BL[-1, -1] = 0
    return input_ids_BL, attention_mask_BL
