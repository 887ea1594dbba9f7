"""Criterion of model selection and early stopping: the one number, named in the config, that says which step is best."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hbdist.config.config import Config
from hbdist.errors import ConfigError

LOW_IS_GOOD = ("bias.rank_distance",)
"""Scores that are better the lower they are."""


@dataclass(frozen=True)
class Criterion:
    """Number that decides which step is best."""

    metric: str = ""
    """Section and name in scores.json, such as "multilingual.map"; empty: the loss on the first validation set."""
    task: str = ""
    """Evaluation task of the metric, by its name in evaluation.tasks."""
    patience: int = 0
    """Number of values in a row without improvement after which a run ends; 0: never."""
    exported: bool = False
    """Export of the best step's model, instead of the last step's."""

    @classmethod
    def of(cls, config: Config) -> "Criterion | None":
        """Return the criterion of a run with this config; None if it compares nothing.

        Raises:
            ConfigError: the config names a number that is never measured, or two that may contradict each other.
        """
        validation, evaluation = config.validation, config.evaluation
        if not validation.every and (validation.patience or validation.keeps_best):
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
                f"evaluation.patience = {evaluation.patience} does nothing without evaluation.metric. Name the score that"
                ' must improve, such as evaluation.metric="multilingual.map", or leave it out.'
            )
        if evaluation.metric and (validation.patience or validation.keeps_best):
            raise ConfigError(
                f"evaluation.metric = {evaluation.metric!r} selects by a score, and validation.keep ="
                f" {validation.keep!r} and validation.patience = {validation.patience} by the validation loss: the two may"
                ' disagree. Leave out evaluation.metric, or set validation.keep="last" and validation.patience=0.'
            )
        if not evaluation.metric:
            return cls("", "", validation.patience, validation.keeps_best) if validation.every else None
        # The name of a task may contain colons, that of a metric none.
        task, _, metric = evaluation.metric.rpartition(":")
        if task and task not in evaluation.tasks:
            raise ConfigError(
                f"evaluation.metric = {evaluation.metric!r} is a score of {task}, which is not in evaluation.tasks:"
                f" {', '.join(evaluation.tasks)}. Add it, or name a score of one of these."
            )
        return cls(metric, task or evaluation.tasks[0], evaluation.patience, exported=True)

    @property
    def label(self) -> str:
        """Description of the selection; a selection on an evaluation task always says so."""
        if not self.metric:
            return "chosen for the lowest validation loss"
        return f"chosen on {self.task} for the {'lowest' if self.metric in LOW_IS_GOOD else 'highest'} {self.metric}"

    def value(self, line: Mapping[str, Any]) -> float:
        """Return the number in a line of validation.jsonl, or in a line on the task in evaluation.jsonl."""
        section, _, name = self.metric.partition(".")
        return float(line[section][name] if self.metric else next(iter(line["loss"].values())))

    def better(self, value: float, other: float) -> bool:
        """Check that a value is better than another; an equal one is not."""
        low = not self.metric or self.metric in LOW_IS_GOOD
        return value < other if low else value > other
