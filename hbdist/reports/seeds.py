"""One number over runs that differ only in the seed: its mean, its confidence interval and its difference to another's.

Intervals and differences are those of `hbdist.evaluation.metrics.bootstrap`, from the per-query scores that every
evaluation keeps. Numbers that do not follow from them, such as cosines, have a mean and no interval.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hbdist.errors import DataError
from hbdist.evaluation.scores import SETTINGS, split_pair
from hbdist.runs.record import Scores
from hbdist.studies.schema import Measure
from hbdist.studies.study import Measured, StudyRun

if TYPE_CHECKING:  # both load torch
    from hbdist.evaluation.metrics.bootstrap import SeedSpread
    from hbdist.evaluation.metrics.per_query import PerQuery, Values

FROM_POSITIONS = re.compile(r"(map|mrr)(@\d+)?|(ndcg|recall|precision)@\d+")
"""Metrics that follow from the positions of the relevant documents alone."""

DISTANCE = "bias.rank_distance"

TOLERANCE = 1e-6
"""Largest relative difference between two sums of the same numbers in another order."""

Scored = tuple[Measured, Scores]
"""Model of the study, and its scores on the measure at hand."""


@dataclass(frozen=True)
class Estimate:
    """One number over seeds."""

    mean: float
    low: float | None = None
    high: float | None = None
    """95 % confidence interval over questions and seeds; None if the number does not follow from per-query scores, or the
    task has too few questions."""


class PerQueryFiles:
    """Per-query scores of the models that were evaluated on a measure, each file read once."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.remarks: dict[str, None] = {}
        """Sentences about missing or unusable files, each once."""
        self._read: dict[tuple[Path, str], PerQuery | None] = {}
        self._first: tuple[Path, PerQuery] | None = None

    def read(self, model: Measured, scores: Scores, removal: str = "") -> "PerQuery | None":
        """Return the per-query scores of one model; None, with a remark, if there are none.

        Args:
            removal: name of a language removal, for the scores of the model after it.
        """
        folder = model.evaluation(self.measure)
        if (folder, removal) not in self._read:
            try:
                self._read[folder, removal] = self._comparable(folder, scores["task_fingerprint"], removal)
            except DataError as error:
                self.remarks[f"No interval for {model.name} on {self.measure.name}: {error}"] = None
                self._read[folder, removal] = None
        return self._read[folder, removal]

    def _comparable(self, folder: Path, task_fingerprint: str, removal: str) -> "PerQuery":
        """Return what is in the file, if it groups the questions as the first file does."""
        from hbdist.evaluation.metrics.per_query import check_same_clusters, read_per_query

        queries = read_per_query(folder, task_fingerprint, removal)
        self._first = self._first or (folder, queries)
        check_same_clusters(*self._first, folder, queries)
        return queries


class Column:
    """One column of a measure: pools its numbers over seeds, and compares them."""

    def __init__(self, files: PerQueryFiles, name: str) -> None:
        self.files, self.name = files, name
        self._values: dict[tuple[Path, str], Values | None] = {}

    def number(self, scores: Scores) -> float | None:
        """Return the number of this column in scores.json; None if it has none."""
        return self.files.measure.number(scores, self.name)

    def numbers(self, models: Sequence[Scored]) -> np.ndarray:
        """Return the numbers of the models that have one: float64 [R]."""
        return np.array([number for _, scores in models if (number := self.number(scores)) is not None])

    def spread(self, points: Sequence[Sequence[Scored]]) -> "SeedSpread | None":
        """Return the spread between seeds, over all points of the grid; None if each has a single seed."""
        from hbdist.evaluation.metrics.bootstrap import seed_spread

        return seed_spread([number_R for models in points if len(number_R := self.numbers(models))])

    def estimate(self, models: Sequence[Scored], spread: "SeedSpread | None", removal: str = "") -> Estimate | None:
        """Return the mean and the interval over the models that have the number; None if none of them has it.

        Args:
            models: the same model with several seeds.
            spread: spread between seeds.
            removal: name of the language removal of which the scores are.
        """
        from hbdist.evaluation.metrics.bootstrap import interval

        number_R = self.numbers(models)
        if not len(number_R):
            return None
        values = self.values(models, removal)
        if values is None:
            return Estimate(float(number_R.mean()))
        # A model without training has no seed that could have been another.
        pooled = interval(values, spread=spread if any(isinstance(model, StudyRun) for model, _ in models) else None)
        return Estimate(float(number_R.mean()), pooled.low, pooled.high)

    def values(self, models: Sequence[Scored], removal: str = "") -> "list[Values] | None":
        """Return the values per query of all models that have the number; None if one of them has no such values."""
        known = []
        for model, scores in models:
            if self.number(scores) is None:
                continue
            key = model.evaluation(self.files.measure), removal
            if key not in self._values:
                self._values[key] = self._checked(model, scores, removal)
            known.append(self._values[key])
        values = [one for one in known if one]
        return values if values and len(values) == len(known) else None

    def _checked(self, model: Measured, scores: Scores, removal: str) -> "Values | None":
        """Return the values of a model's queries if their mean is the number in its scores.json."""
        path, number = self.files.measure.columns[self.name], self.number(scores)
        per_query = self.files.read(model, scores, removal) if follows_from_positions(path) else None
        if per_query is None or number is None:
            return None
        pairs = scores["by_pair"]
        languages = sorted({language for pair in pairs for language in split_pair(pair, pairs)})
        values = _values(per_query, path, languages, pairs)
        means = [values.value_V[values.part_V == part].mean() for part in np.unique(values.part_V)]
        if means and abs(np.mean(means) - number) <= TOLERANCE * max(1.0, abs(number)):
            return values
        # Positions say nothing of grades of relevance, on which nDCG rests if a task has them.
        self.files.remarks[
            f"No interval for {self.name!r} of {model.name}: its positions do not give the {number:.6g} of its scores.json."
            " (Positions say nothing of grades of relevance.)"
        ] = None
        return None


def follows_from_positions(path: str) -> bool:
    """Return whether a number of scores.json is a mean over queries that their documents' positions determine."""
    section, _, metric = path.partition(".")
    if section in ("by_pair", "by_language"):
        metric = metric.partition(".")[2]
    elif section not in SETTINGS:
        return path == DISTANCE
    return FROM_POSITIONS.fullmatch(metric) is not None


def _values(per_query: "PerQuery", path: str, languages: Sequence[str], pairs: Iterable[str]) -> "Values":
    """Return the values whose mean is the number at this path; `languages` are those of the task, in its order."""
    from hbdist.evaluation.metrics.per_query import values_of
    from hbdist.evaluation.metrics.retrieval import NO_POSITION

    section, _, metric = path.partition(".")
    if section not in ("by_pair", "by_language"):
        return values_of(per_query, "multilingual" if path == DISTANCE else section, metric)
    pair, _, metric = metric.partition(".")
    x, y = split_pair(pair, pairs) if section == "by_pair" else (pair, "")
    asked_Q = per_query.language_Q == languages.index(x)
    pool_QR = np.where(asked_Q[:, None], per_query.pool_QR, NO_POSITION)
    if section == "by_language":
        return values_of(replace(per_query, pool_QR=pool_QR), "multilingual", metric)
    answered_QR = asked_Q[:, None] & (per_query.relevant_language_QR == languages.index(y))
    own = replace(per_query, own_QR=np.where(answered_QR, per_query.own_QR, NO_POSITION))
    return values_of(own, "monolingual" if x == y else "cross_lingual", metric)
