"""The one number by which a run is judged, as its config names it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hbdist.config.config import Config
from hbdist.errors import ConfigError

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
