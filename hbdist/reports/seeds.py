"""One number of several runs that differ in the seed alone: its mean, its interval, and its difference to another's.

Intervals and differences are those of `hbdist.evaluation.metrics.bootstrap`, from the ranks that every evaluation keeps.
Numbers that do not follow from ranks, such as cosines, have a mean and no interval.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hbdist.errors import DataError
from hbdist.evaluation.scores import SETTINGS
from hbdist.runs.record import Scores
from hbdist.studies.schema import Measure
from hbdist.studies.study import Measured

if TYPE_CHECKING:  # both load torch
    from hbdist.evaluation.metrics.bootstrap import Difference
    from hbdist.evaluation.metrics.per_query import PerQuery, Values

FROM_RANKS = re.compile(r"(map|mrr)(@\d+)?|(ndcg|recall|precision)@\d+")
"""Metrics that follow from ranks alone."""

DISTANCE = "bias.rank_distance"

NEAR = 1e-6
"""Relative; what is nearer is the same number, added up in another order."""

Scored = tuple[Measured, Scores]
"""A model of the study, and what it scored on the measure at hand."""


@dataclass(frozen=True)
class Estimate:
    """One number over seeds."""

    mean: float
    values: tuple[float, ...]
    """Each run's, as in its scores.json."""
    low: float | None = None
    high: float | None = None
    """The middle 95 % of what it would be with other questions and seeds; None where ranks do not give the number."""


class ProcessGroup:
    """The ranks of the models that a measure was taken of, each read once."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.remarks: dict[str, None] = {}
        """What is missing or cannot be used, in sentences, each once."""
        self._kept: dict[Path, PerQuery | None] = {}

    def of(self, model: Measured, scores: Scores) -> "PerQuery | None":
        """The ranks of one model; None, with a remark, where there are none."""
        from hbdist.evaluation.metrics.per_query import read_per_query

        folder = model.evaluation(self.measure)
        if folder not in self._kept:
            try:
                self._kept[folder] = read_per_query(folder, scores["task_fingerprint"])
            except DataError as error:
                self.remarks[f"No interval for {model.name} on {self.measure.name}: {error}"] = None
                self._kept[folder] = None
        return self._kept[folder]


class Column:
    """One column of a measure: pools its numbers over seeds, and compares them."""

    def __init__(self, ranks: ProcessGroup, name: str) -> None:
        self.ranks, self.name = ranks, name
        self._values: dict[Path, Values | None] = {}

    def number(self, scores: Scores) -> float | None:
        return self.ranks.measure.number(scores, self.name)

    def estimate(self, models: Sequence[Scored]) -> Estimate | None:
        """The mean over the models that have the number, and its interval; None where none has it."""
        from hbdist.evaluation.metrics.bootstrap import interval

        numbers = tuple(number for _, scores in models if (number := self.number(scores)) is not None)
        if not numbers:
            return None
        mean, values = float(np.mean(numbers)), self._of_all(models)
        if values is None:
            return Estimate(mean, numbers)
        pooled = interval(values)
        return Estimate(mean, numbers, pooled.low, pooled.high)

    def difference(self, before: Sequence[Scored], after: Sequence[Scored]) -> "Difference | None":
        """After less before, on the same questions; None where ranks do not give the number for all of them."""
        from hbdist.evaluation.metrics.bootstrap import difference

        first, second = self._of_all(before), self._of_all(after)
        return difference(first, second) if first and second else None

    def _of_all(self, models: Sequence[Scored]) -> "list[Values] | None":
        values = [self._of(*one) for one in models if self.number(one[1]) is not None]
        return [one for one in values if one] if values and all(values) else None

    def _of(self, model: Measured, scores: Scores) -> "Values | None":
        folder = model.evaluation(self.ranks.measure)
        if folder not in self._values:
            self._values[folder] = self._checked(model, scores)
        return self._values[folder]

    def _checked(self, model: Measured, scores: Scores) -> "Values | None":
        """The values of a model's queries, if their mean is the number in its scores.json."""
        path, number = self.ranks.measure.columns[self.name], self.number(scores)
        kept = self.ranks.of(model, scores) if follows_from_ranks(path) else None
        if kept is None or number is None:
            return None
        values = _values(kept, path, sorted({x for pair in scores["by_pair"] for x in pair.split("-")}))
        means = [values.value_V[values.part_V == part].mean() for part in np.unique(values.part_V)]
        if means and abs(np.mean(means) - number) <= NEAR * max(1.0, abs(number)):
            return values
        # Ranks know no grades of relevance, on which nDCG rests where a task has them.
        self.ranks.remarks[
            f"No interval for {self.name!r} of {model.name}: its ranks do not give the {number:.6g} of its scores.json."
            " (Ranks do not hold grades of relevance.)"
        ] = None
        return None


def follows_from_ranks(path: str) -> bool:
    """Whether a number of scores.json is a mean over queries that their ranks give."""
    section, _, metric = path.partition(".")
    if section in ("by_pair", "by_language"):
        metric = metric.partition(".")[2]
    elif section not in SETTINGS:
        return path == DISTANCE
    return FROM_RANKS.fullmatch(metric) is not None


def _values(kept: "PerQuery", path: str, languages: Sequence[str]) -> "Values":
    """What the number at this path is a mean of; `languages` are those of the task, in its order."""
    from hbdist.evaluation.metrics.per_query import values_of
    from hbdist.evaluation.metrics.retrieval import NO_POSITION

    section, _, metric = path.partition(".")
    if section not in ("by_pair", "by_language"):
        return values_of(kept, "multilingual" if path == DISTANCE else section, metric)
    of, _, metric = metric.partition(".")
    x, _, y = of.partition("-")
    asked_Q = kept.language_Q == languages.index(x)
    pool_QR = np.where(asked_Q[:, None], kept.pool_QR, NO_POSITION)
    if section == "by_language":
        return values_of(replace(kept, pool_QR=pool_QR), "multilingual", metric)
    answered_QR = asked_Q[:, None] & (kept.relevant_language_QR == languages.index(y))
    own = replace(kept, own_QR=np.where(answered_QR, kept.own_QR, NO_POSITION))
    return values_of(own, "monolingual" if x == y else "cross_lingual", metric)
