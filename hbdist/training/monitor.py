"""Training monitor: validation, evaluation on retrieval tasks, model selection and early stopping of one run.

All results are in `validation.jsonl` and `evaluation.jsonl`, from which a resumed run reads them back; checkpoints contain
none of them.
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
from hbdist.runs.stored import EvaluationLine, ValidationLine, usable_lines
from hbdist.training.evaluation import TrainingEvaluation, describe_evaluation, tracker_values
from hbdist.training.model_selection import ModelSelection
from hbdist.training.step import ContrastiveStep
from hbdist.training.validation import Validation, describe_validation

VALIDATION, EVALUATION = "validation.jsonl", "evaluation.jsonl"


class TrainingMonitor:
    """Monitor of one run, on every rank. In a resumed run it starts from the logged results.

    Raises:
        ConfigError: the validation or evaluation cannot be done as configured.
        DataError: held-out shards or a task's files are missing or damaged.
    """

    def __init__(self, config: Config, encoder: Encoder, engine: Engine, run: Run, manifest: Manifest) -> None:
        self.config, self.engine, self.run, self.manifest = config, engine, run, manifest
        self.checkpoints = run.folder / "checkpoints"
        criterion = Criterion.of(config)
        self.validation = Validation(config, encoder.tokenize, engine)
        self.evaluation = TrainingEvaluation(config, encoder, engine)
        self.selection = ModelSelection(criterion) if criterion else None
        self._measured: set[tuple[int, str]] = set()
        lines = [*self._logged(ValidationLine, VALIDATION), *self._logged(EvaluationLine, EVALUATION)]
        lines, saved_steps = engine.broadcast_object((lines, checkpoint.steps(self.checkpoints)))
        for line in lines:
            # A task whose languages or questions have been cut differently since then is another task.
            if "task" not in line or self.evaluation.covers(line):
                self._add(line, has_checkpoint=line["step"] in saved_steps)
        if run.is_main:
            # A run that went back to an older checkpoint must forget a better one that came later.
            checkpoint.point_at_best(self.checkpoints, self.selection.step if self.selection else None)

    def _logged(self, kind: Any, name: str) -> list[dict[str, Any]]:
        """Return the lines of a log that can be used, and name the others."""
        lines, damaged = usable_lines(kind, self.run.logged(name), where=str(self.run.folder / name))
        for sentence in damaged:
            self.run.say(sentence)
        return lines

    def measure(self, contrastive_step: ContrastiveStep, step: int) -> None:
        """Measure everything due after update `step` and not logged yet, and keep the best checkpoint. A collective."""
        last = self.config.steps
        if self.config.validation.due(step, last=last) and (step, "") not in self._measured:
            line = self.validation.measure(contrastive_step, step)
            self.run.log(VALIDATION, line, describe_validation(line))
            self.engine.track({f"validation/{name}": loss for name, loss in line["loss"].items()}, step)
            self._add(line)
        for task in self.evaluation.tasks if self.config.evaluation.due(step, last=last) else ():
            if (step, task) not in self._measured:
                # Evaluation takes a while; being killed must cost no step.
                self.run.save(self.engine, self.manifest, step)
                line = self.evaluation.measure(task, contrastive_step.model, step)
                self.run.log(EVALUATION, line, describe_evaluation(line))
                self.engine.track(tracker_values(line), step)
                self._add(line)
        if self.selection and (self.selection.step == step or self.selection.exhausted):
            self.run.save(self.engine, self.manifest, step)
            if self.run.is_main:
                checkpoint.point_at_best(self.checkpoints, self.selection.step)

    def _add(self, line: Mapping[str, Any], *, has_checkpoint: bool = True) -> None:
        step, task = line["step"], line.get("task", "")
        self._measured.add((step, task))
        if self.selection and self.selection.criterion.task == task:
            self.selection.add(step, self.selection.criterion.value(line), has_checkpoint=has_checkpoint)

    @property
    def exhausted(self) -> bool:
        """True if early stopping ends the run: the criterion has not improved for as long as its patience allows."""
        return self.selection is not None and self.selection.exhausted

    def exported_step(self, last: int) -> int:
        """Return the step whose model is exported when the run ends after update `last`."""
        selected = self.selection.step if self.selection and self.selection.criterion.exported else None
        return last if selected is None else selected

    def weights_to_export(self, weights: Mapping[str, Tensor], last: int) -> tuple[int, Mapping[str, Tensor]]:
        """Return the exported step and its weights, given the weights after update `last`."""
        step = self.exported_step(last)
        if step != last:
            weights = checkpoint.load(self.checkpoints / f"{step:09d}")[1]["model"]
        return step, weights

    def summary(self, last: int) -> str:
        """Return a sentence about a run that ends after update `last`: its steps, and which model is exported."""
        step, model, selection = self.exported_step(last), self.run.folder / "model", self.selection
        selected = (
            f" of step {step}, {selection.criterion.label}," if selection and selection.criterion.exported else ""
        )
        return f"trained {last} steps; the model{selected} is in {model}"
