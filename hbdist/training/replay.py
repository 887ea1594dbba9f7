"""Replay of one step of a run, in one process: `hbdist replay RUN --step N`. It writes nothing.

The steps from the newest checkpoint before it are made again, so that the step begins with the weights that it began with in
the run: up to rounding, and with dropout on other units if the run had more than one rank.

B texts of one chunk · D dimensions
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hbdist.config.config import Config
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.engine import Engine
from hbdist.distributed.strategies import gradient_norm
from hbdist.errors import ConfigError, ResumeError
from hbdist.models.encoder import Encoder
from hbdist.runs import checkpoint
from hbdist.training.batch import Chunk, RankBatch
from hbdist.training.loader import Batches, measure_token_rates, must_read
from hbdist.training.module import TrainingModule
from hbdist.training.optimizer import learning_rate, make_optimizer
from hbdist.training.step import ContrastiveStep

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Replay:
    """Loss, gradient and faults of one step."""

    step: int
    start: str
    """Checkpoint, or model, that the replay began with."""
    pairs: int
    loss: float
    grad_norm: float
    norms: dict[str, float]
    """Norm of the gradient of each part of the model."""
    weights: list[str]
    """Weights that were not finite before the step."""
    texts: list[str]
    """Texts whose vectors are not finite."""

    def text(self) -> str:
        """Return the replay in words and numbers."""
        lines = [
            f"step {self.step}, from {self.start}: {self.pairs} pairs, loss {self.loss:.6g}, gradient's norm"
            f" {self.grad_norm:.6g}",
            *(f"  {norm:>12.6g}  {part}" for part, norm in self.norms.items()),
            *(f"not finite before the step: {name}" for name in self.weights),
            *(f"gives a vector that is not finite: {name}" for name in self.texts),
        ]
        finite = math.isfinite(self.loss) and math.isfinite(self.grad_norm)
        if finite and not self.weights and not self.texts:
            lines.append("All numbers of this step are finite.")
        return "\n".join(lines) + "\n"


def replay(folder: Path, step: int, *, progress: Progress | None = None) -> Replay:
    """Make update `step` of a run, from 1, again. `progress` is called with the steps made, and the steps to make.

    Raises:
        ConfigError: the run has no such step.
        ResumeError: the data are not those of the checkpoint.
        HbdistError: config, data or model cannot be loaded.
    """
    config = _config(folder)
    if not 1 <= step <= config.steps:
        raise ConfigError(f"--step {step}: {folder} has the steps 1 to {config.steps}.")
    manifest = Manifest.load(config.data.shards)
    done, state, start = _start(folder, step, manifest, config)
    engine = Engine.start(config)
    encoder = Encoder.load(config.model)
    rates = measure_token_rates(manifest, encoder.tokenize, must_read=must_read(config))
    batches = Batches(config, manifest, encoder.tokenize, token_rates=rates)
    module = TrainingModule(encoder, config)
    model = engine.prepare(module, make_optimizer(module, config.optimizer), state)
    contrastive_step = ContrastiveStep(model, config, engine, report=lambda _: None)
    for number in range(done, step - 1):
        contrastive_step(batches[number])
        engine.update(learning_rate(number, config.optimizer, steps=config.steps))
        if progress:
            progress(number + 1 - done, step - done)
    weights = [name for name, value in module.state_dict().items() if not torch.isfinite(value).all()]
    batch = batches[step - 1]
    texts = _texts_that_are_not_finite(model, batch, _ids(batches, step - 1), engine)
    parts = contrastive_step(batch)
    pairs = len(batch.block_B)
    norms = _norms(module)
    return Replay(
        step, start, pairs, float(parts.loss.detach()) / pairs, math.hypot(*norms.values()), norms, weights, texts
    )


def _config(folder: Path) -> Config:
    """Return the run's config for one process that reads its own data, tracks nothing and uses no DeepSpeed."""
    config = Config.load(folder / "config.toml")
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"folder": str(folder), "trackers": (), "log_batches": False}),
            "data": config.data.model_copy(update={"workers": 0}),
            "engine": config.engine.model_copy(update={"deepspeed": ""}),
        }
    )


def _start(folder: Path, step: int, manifest: Manifest, config: Config) -> tuple[int, dict[str, object] | None, str]:
    """Return the newest checkpoint before a step: its updates, its state and its name; 0 and None if there is none."""
    checkpoints = folder / "checkpoints"
    for done in reversed([one for one in checkpoint.steps(checkpoints) if one < step]):
        path = checkpoints / f"{done:09d}"
        position, state = checkpoint.load(path, verify=False)
        if position.fingerprint != manifest.fingerprint:
            raise ResumeError(
                f"{path} was trained on shards with fingerprint {position.fingerprint[:12]}, and {manifest.root} has"
                f" {manifest.fingerprint[:12]}: other batches would be replayed."
            )
        return done, state, str(path)
    return 0, None, config.model.name


def _ids(batches: Batches, step: int) -> list[str]:
    """Return the ids of a batch's pairs, in the order of the batch."""
    share = batches.share(step)
    groups, rows = share.batch.group[share.dealt], share.batch.row[share.dealt]
    pairs = batches.reader.read(groups, rows)
    return [f"{batches.manifest.groups[group].name}/{pair.id}" for group, pair in zip(groups, pairs, strict=True)]


@torch.no_grad()
def _texts_that_are_not_finite(
    model: torch.nn.Module, batch: RankBatch, ids: Sequence[str], engine: Engine
) -> list[str]:
    found = []
    for kind, chunks in (("query", batch.query_chunks), ("document", batch.document_chunks)):
        for index in _places(model, chunks, engine):
            name = ids[index] if index < len(ids) else f"number {index - len(ids) + 1}"
            found.append(f"{kind if index < len(ids) else 'hard negative'} {name}")
    return found


def _places(model: torch.nn.Module, chunks: Sequence[Chunk], engine: Engine) -> list[int]:
    """Return the indices of the texts in these chunks whose vectors are not finite."""
    places = []
    for chunk in chunks:
        vector_BD, _ = model(chunk.input_ids_BL.to(engine.device), chunk.attention_mask_BL.to(engine.device))
        bad_B = ~torch.isfinite(vector_BD).all(dim=1).cpu()
        places += chunk.index_B[bad_B].tolist()
    return sorted(places)


def _norms(module: torch.nn.Module) -> dict[str, float]:
    """Return the norm of the gradient of each part: embeddings, each layer, dense layers, the temperature."""
    parts: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            inner = name.removeprefix("encoder.").removeprefix("backbone.")
            layer = re.match(r"(.*?\.\d+)\.", inner)
            parts.setdefault(layer[1] if layer else inner.partition(".")[0], []).append(parameter)
    return {part: gradient_norm(parameters) for part, parameters in parts.items()}
