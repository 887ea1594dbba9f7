"""How a run is judged while it trains: the loss on held-out pairs, scores on retrieval tasks, which step is best by the one
of them that decides, and when to stop.

What was found stands in `validation.jsonl` and `evaluation.jsonl`, and a run that goes on reads it there: nothing of it is in a
checkpoint.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hbdist.config.config import Config
from hbdist.config.criterion import Criterion
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.engine import Engine
from hbdist.models.encoder import Encoder
from hbdist.runs import checkpoint
from hbdist.runs.run import Run
from hbdist.training import evaluation as during
from hbdist.training import validation
from hbdist.training.model_selection import Best
from hbdist.training.step import ContrastiveStep

VALIDATION, EVALUATION = "validation.jsonl", "evaluation.jsonl"


class TrainingMonitor:
    """The judge of one run, on every rank. Knows what a run that goes on has found already.

    Raises:
        ConfigError: what is to be measured cannot be, or does not fit together.
        DataError: held-out shards or a task's files are missing or damaged.
    """

    def __init__(self, config: Config, encoder: Encoder, engine: Engine, run: Run, manifest: Manifest) -> None:
        self.config, self.engine, self.run, self.manifest = config, engine, run, manifest
        self.checkpoints = run.folder / "checkpoints"
        criterion = Criterion.of(config)
        self.validation = validation.Validation(config, encoder.tokenize, engine)
        self.evaluations = during.Evaluations(config, encoder, engine)
        self.best = Best(criterion) if criterion else None
        self._seen: set[tuple[int, str]] = set()
        lines = [*run.logged(VALIDATION), *run.logged(EVALUATION)]
        lines, kept = engine.broadcast_object((lines, checkpoint.steps(self.checkpoints)))
        for line in lines:
            # A task that has been cut otherwise since then is another one.
            if "task" not in line or self.evaluations.know(line):
                self._take(line, kept=line["step"] in kept)
        if run.is_main:
            # A run that went back to an older checkpoint has forgotten what came after it.
            checkpoint.point_at_best(self.checkpoints, self.best.step if self.best else None)

    def __call__(self, contrast: ContrastiveStep, step: int) -> None:
        """Measure what is due after update `step` and not in the logs yet; keep the best checkpoint. A collective."""
        last = self.config.steps
        if self.config.validation.due(step, last=last) and (step, "") not in self._seen:
            line = self.validation(contrast, step)
            self.run.log(VALIDATION, line, validation.in_words(line))
            self.engine.track({f"validation/{name}": loss for name, loss in line["loss"].items()}, step)
            self._take(line)
        for task in self.evaluations.tasks if self.config.evaluation.due(step, last=last) else ():
            if (step, task) not in self._seen:
                self.run.save(self.engine, self.manifest, step)  # it takes a while, and a kill in it loses no step
                line = self.evaluations(task, contrast.model, step)
                self.run.log(EVALUATION, line, during.in_words(line))
                self.engine.track(during.tracked(line), step)
                self._take(line)
        if self.best and (self.best.step == step or self.best.exhausted):
            self.run.save(self.engine, self.manifest, step)
            if self.run.is_main:
                checkpoint.point_at_best(self.checkpoints, self.best.step)

    def _take(self, line: Mapping[str, Any], *, kept: bool = True) -> None:
        step, task = line["step"], line.get("task", "")
        self._seen.add((step, task))
        if self.best and self.best.criterion.task == task:
            self.best.add(step, self.best.criterion.value(line), kept=kept)

    @property
    def exhausted(self) -> bool:
        """What decides has not got better for as long as its patience says."""
        return self.best is not None and self.best.exhausted

    def exported_step(self, last: int) -> int:
        """The step whose model is exported by a run that ends after update `last`."""
        chosen = self.best.step if self.best and self.best.criterion.exported else None
        return last if chosen is None else chosen

    def weights_to_export(self, weights: Mapping[str, Tensor], last: int) -> tuple[int, Mapping[str, Tensor]]:
        """That step and its weights, given those of the last."""
        step = self.exported_step(last)
        if step != last:
            weights = checkpoint.load(self.checkpoints / f"{step:09d}")[1]["model"]
        return step, weights

    def last_words(self, last: int) -> str:
        """What a run that ends after update `last` has trained, and which model of it is exported."""
        step, model = self.exported_step(last), self.run.folder / "model"
        chosen = f" of step {step}, {self.best.criterion.label}," if self.best and self.best.criterion.exported else ""
        return f"trained {last} steps; the model{chosen} is in {model}"
