"""Accounts of a study: what its runs cost, what they were made with, and the commands that make them again."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hbdist.reports.results import Results, TrainingSummary, throughput
from hbdist.reports.table import label_of
from hbdist.studies.study import StudySpec


class CostTable(NamedTuple):
    """Throughput and hours of a study as text: a row per point of the grid, and the sums of all runs."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    sums: Sequence[str]


def cost_table(results: Results) -> CostTable | None:
    """Return what the runs took, or None if no run has been trained."""
    trained = {result.run.name: result.training for result in results.runs if result.training}
    if not trained:
        return None
    points = [(runs, [trained[run.name] for run in runs if run.name in trained]) for runs in results.study.points()]
    rows = [(label_of(runs[0].values), _spent(trainings)) for runs, trainings in points if trainings]
    every = list(trained.values())
    hours = "GPU-hours" if all(training.gpus for training in every) else "process-hours"
    columns = ("pairs/s", "tokens/s", "waiting for data", "peak memory", "pairs seen", "hours", hours)
    sums = [f"{sum(training.pairs for training in every):,}", *(f"{value:,.2f}" for value in _hours(every))]
    return CostTable(columns, rows, ["", "", "", "", *sums])


def _hours(trainings: Sequence[TrainingSummary]) -> tuple[float, float]:
    """Return the sums of the hours of the clock and of the hours of all processes: GPU-hours if each has a GPU."""
    hours = [training.hours for training in trainings]
    return sum(hours), sum(training.hours * training.processes for training in trainings)


def _spent(trainings: Sequence[TrainingSummary]) -> list[str]:
    """Return what a run of one point took on average."""
    runs, pairs = len(trainings), sum(training.pairs for training in trainings)
    hours = (f"{value / runs:,.2f}" for value in _hours(trainings))
    return [*throughput(trainings), f"{pairs / runs:,.0f}", *hours]


def environment_facts(results: Results) -> Iterator[tuple[str, str]]:
    """Yield what the runs were made with: what all share once, what differs with each of its values."""
    fingerprints = (result.fingerprint for result in results.runs if result.fingerprint)
    yield "manifest fingerprint", _differing(fingerprints)
    known = [result.environment for result in results.runs if result.environment]
    for name in dict.fromkeys(name for environment in known for name in environment if name != "command"):
        yield name, _differing(_words(environment.get(name, "–")) for environment in known)


def study_commands(study: StudySpec) -> list[str]:
    """Return the commands that make the whole study again."""
    return [f"hbdist study {verb} {shlex.quote(str(study.argument))}" for verb in ("plan", "submit", "report")]


def single_commands(study: StudySpec) -> list[str]:
    """Return the command of each training and of each evaluation."""
    commands = [["accelerate", "launch", "hbdist/train.py", f"{run.folder}/config.toml"] for run in study.runs]
    for measure in study.measures:
        models = (*(study.baselines if measure.baseline else ()), *study.runs)
        commands += [["hbdist", *model.evaluate_words(measure)] for model in models]
    return list(map(shlex.join, commands))


def _words(value: Any) -> str:
    """Return a value of environment.json as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        counts = Counter(map(_words, value))
        return ", ".join(f"{times} × {name}" if times > 1 else name for name, times in counts.items()) or "none"
    return str(value)


def _differing(values: Iterable[str]) -> str:
    """Return the value that all runs share; else each value with the number of runs that have it."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({times} runs)" for value, times in counts.most_common()) or "not known"
