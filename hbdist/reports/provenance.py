"""What a study cost, how its runs ended, what they were made with, and the commands that make them again."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hbdist.reports import page
from hbdist.reports.results import Results, Training
from hbdist.reports.table import label_of
from hbdist.studies.commands import evaluate_words


def cost(results: Results) -> Iterator[str]:
    """Throughput and hours: a row a point of the grid, and their sum."""
    trained = {found.run.name: found.training for found in results.runs if found.training}
    if not trained:
        return
    yield page.heading("Throughput and cost")
    rows = []
    for runs in results.study.points():
        if point := [trained[run.name] for run in runs if run.name in trained]:
            rows.append([page.text(label_of(runs[0].values)), *_spent(point)])
    every = list(trained.values())
    hours = "GPU-hours" if all(training.gpus for training in every) else "process-hours"
    columns = ("pairs/s", "tokens/s", "waiting for data", "peak memory", "pairs seen", "hours", hours)
    sums = [
        f"{sum(training.pairs for training in every):,}",
        *(f"{sum(values):,.2f}" for values in zip(*map(_hours, every), strict=True)),
    ]
    yield page.table(["mean of a run"], columns, rows, [("all runs together", ["", "", "", "", *sums])])
    yield page.paragraph(
        f"Hours are those of the training steps, {hours} those times the processes of a run's newest start. Peak memory is"
        " that of the process that had most.",
        kind="note",
    )


def _hours(training: Training) -> tuple[float, float]:
    """Of the clock, and of all processes."""
    return training.seconds / 3600, training.seconds / 3600 * training.processes


def _spent(trainings: Sequence[Training]) -> list[str]:
    """What the runs of one point took; a mean run."""
    runs, seconds = len(trainings), sum(training.seconds for training in trainings)
    hours = [sum(values) / runs for values in zip(*map(_hours, trainings), strict=True)]
    return [
        f"{sum(training.pairs for training in trainings) / seconds:,.0f}",
        f"{sum(training.tokens for training in trainings) / seconds:,.0f}",
        f"{sum(training.data_seconds for training in trainings) / seconds:.1%}",
        f"{max(training.peak_bytes for training in trainings) / 2**30:,.1f} GiB",
        f"{sum(training.pairs for training in trainings) / runs:,.0f}",
        *(f"{value:,.2f}" for value in hours),
    ]


def runs(results: Results) -> Iterator[str]:
    """Which runs are not complete, and why; behind a click, all of them."""
    yield page.heading("Runs")
    yield page.paragraph(f"{len(results.complete)} of {len(results.runs)} are trained and measured in full.")
    left = [(found.run.name, found.state, found.reason) for found in results.runs if found.reason]
    if left:
        yield page.table(["run", "state", "why"], [], [list(map(page.text, row)) for row in left])
    yield page.remarks(results.remarks)
    every = [
        [
            *map(page.text, (found.run.name, found.state, str(found.run.folder))),
            f"{found.training.steps if found.training else 0:,} of {found.run.config.steps:,}",
        ]
        for found in results.runs
    ]
    yield page.folded("All runs", page.table(["run", "state", "folder"], ["steps"], every))


def provenance(results: Results) -> Iterator[str]:
    """What the runs were made with: what all share once, what differs with each of its values; and the commands."""
    study = results.study
    yield page.heading("Provenance")
    known = [_flat(found.environment) for found in results.runs if found.environment]
    rows = [("manifest fingerprint", _differing(found.fingerprint for found in results.runs if found.fingerprint))]
    names = dict.fromkeys(name for environment in known for name in environment if name != "command")
    rows += [(name, _differing(environment.get(name, "–") for environment in known)) for name in names]
    yield page.facts(rows)
    yield page.paragraph("The same again:")
    path = shlex.quote(str(study.argument))
    yield page.preformatted("\n".join(f"hbdist study {verb} {path}" for verb in ("plan", "submit", "report")))
    commands = [["accelerate", "launch", "hbdist/train.py", f"{run.folder}/config.toml"] for run in study.runs]
    commands += [
        ["hbdist", *evaluate_words(model, measure)]
        for measure in study.measures
        for model in (*(study.baselines if measure.baseline else ()), *study.runs)
    ]
    every = "\n".join(map(shlex.join, commands))
    yield page.folded("Each training and evaluation by itself", page.preformatted(every))
    if study.path.is_file():
        yield page.folded(study.path.name, page.preformatted(study.path.read_text(encoding="utf-8")))
    if study.base.is_file():
        yield page.folded(study.base.name, page.preformatted(study.base.read_text(encoding="utf-8")))


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """What environment.json holds, each thing as text."""
    return {name: _words(value) for name, value in environment.items()}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        counts = Counter(map(_words, value))
        return ", ".join(f"{times} × {name}" if times > 1 else name for name, times in counts.items()) or "none"
    return str(value)


def _differing(values: Any) -> str:
    """One value where all are alike; else each with the number of runs that have it."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({times} runs)" for value, times in counts.most_common()) or "not known"
