"""Which step of a run is best, by the one number that its config names: the loss on held-out pairs, or a score of an
evaluation task."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hbdist.config.config import Config
from hbdist.errors import ConfigError

CHOSEN = "chosen.json"
"""In the folder of a model that was chosen on an evaluation task: {"chosen_on", "metric", "step"}."""

LOW_IS_GOOD = ("bias.rank_distance",)
"""The scores that should be low."""


@dataclass(frozen=True)
class Criterion:
    """The number that decides which step is best."""

    metric: str = ""
    """Section and name in scores.json, as "multilingual.map"; empty: the loss on the first held-out set."""
    task: str = ""
    """Of the metric, as evaluation.tasks names it."""
    patience: int = 0
    """Values without a better one after which a run ends; 0: never."""
    exported: bool = False
    """The model of the best step is exported, not that of the last."""

    @classmethod
    def of(cls, config: Config) -> "Criterion | None":
        """What decides in a run of this config; None where nothing is compared.

        Raises:
            ConfigError: it names a number that there will not be, or two that may contradict each other.
        """
        validation, evaluation = config.validation, config.evaluation
        if not validation.every and (validation.patience or validation.keep == "best"):
            raise ConfigError(
                f"validation.patience = {validation.patience} and validation.keep = {validation.keep!r} do nothing without"
                " validation.every. Set validation.every, or leave them out."
            )
        if evaluation.metric and not evaluation.every:
            raise ConfigError(
                f"evaluation.metric = {evaluation.metric!r} is never measured without evaluation.every. Set"
                " evaluation.every, or leave it out."
            )
        if evaluation.patience and not evaluation.metric:
            raise ConfigError(
                f"evaluation.patience = {evaluation.patience} says nothing without evaluation.metric. Name the score that"
                ' must get better, as evaluation.metric="multilingual.map", or leave it out.'
            )
        if evaluation.metric and (validation.patience or validation.keep == "best"):
            raise ConfigError(
                f"evaluation.metric = {evaluation.metric!r} chooses by a score, and validation.keep ="
                f" {validation.keep!r} and validation.patience = {validation.patience} by the validation loss: the two may"
                ' disagree. Leave out evaluation.metric, or set validation.keep="last" and validation.patience=0.'
            )
        if not evaluation.metric:
            return cls("", "", validation.patience, validation.keep == "best") if validation.every else None
        # A task's own name may hold colons; a metric's holds none.
        task, _, metric = evaluation.metric.rpartition(":")
        if task and task not in evaluation.tasks:
            raise ConfigError(
                f"evaluation.metric = {evaluation.metric!r} is of {task}, which is not in evaluation.tasks:"
                f" {', '.join(evaluation.tasks)}. Add it, or name a score of one of these."
            )
        return cls(metric, task or evaluation.tasks[0], evaluation.patience, exported=True)

    @property
    def label(self) -> str:
        """How a model is chosen by it. A choice on an evaluation task is always called one."""
        if not self.metric:
            return "chosen for the lowest validation loss"
        return f"chosen on {self.task} for the {'lowest' if self.metric in LOW_IS_GOOD else 'highest'} {self.metric}"

    def value(self, line: Mapping[str, Any]) -> float:
        """The number in a line of validation.jsonl, or of evaluation.jsonl where it is of the task."""
        section, _, name = self.metric.partition(".")
        return float(line[section][name] if self.metric else next(iter(line["loss"].values())))

    def better(self, value: float, other: float) -> bool:
        """Whether a value is better than another; one that is equal is not."""
        low = not self.metric or self.metric in LOW_IS_GOOD
        return value < other if low else value > other


@dataclass
class Best:
    """The values of the criterion until now, and the best step."""

    criterion: Criterion
    values: dict[int, float] = field(default_factory=dict)
    """Step → value, in the order of the steps."""
    step: int | None = None
    """The best one whose checkpoint there is. The first of equal ones."""

    def add(self, step: int, value: float, *, kept: bool = True) -> None:
        """Take the value of the next step.

        Args:
            kept: its checkpoint is there, or will be at once if this is the best. Of a run that goes on with another
                criterion, the checkpoint of the step that would have been best may be gone.
        """
        self.values[step] = value
        if kept and (self.step is None or self.criterion.better(value, self.values[self.step])):
            self.step = step

    @property
    def exhausted(self) -> bool:
        """So many values in a row, as the patience says, were no better than the best before them."""
        if not self.values or not self.criterion.patience:
            return False
        values = list(self.values.values())
        first = 0
        for place, value in enumerate(values):
            first = place if self.criterion.better(value, values[first]) else first
        return len(values) - 1 - first >= self.criterion.patience


def chosen_file(criterion: Criterion, step: int) -> Mapping[str, Any]:
    """What chosen.json holds."""
    return {"chosen_on": criterion.task, "metric": criterion.metric, "step": step}


def chosen_on(model: str) -> str | None:
    """The task on whose scores the model in this folder was chosen in its training; None where it was not on any."""
    path = Path(model) / CHOSEN
    return str(json.loads(path.read_text(encoding="utf-8"))["chosen_on"]) if path.is_file() else None
