"""Numbers of a study for other programs: results.csv with a row per run, and the tables in Markdown and LaTeX."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from hbdist.evaluation.scores import BASELINES
from hbdist.reports.render import render
from hbdist.reports.results import Results, RunResult
from hbdist.reports.study_page import legend
from hbdist.reports.table import Table
from hbdist.runs.record import Scores

FACTS = ("seed", "state", "steps", "pairs_seen", "tokens_seen", "hours", "processes", "peak_bytes")
"""Columns of results.csv between the axes and the measured numbers."""


def results_csv(results: Results) -> str:
    """Return a row per run and per model without training, with all digits; an unknown number is an empty cell.

    Columns of measured numbers are called MEASURE.PATH, with the path of the number in scores.json.
    """
    study = results.study
    measured = [(measure, column) for measure in study.measures for column in measure.columns]

    def numbers(scores: dict[str, Scores]) -> list[float | None]:
        return [measure.number(scores.get(measure.name, {}), column) for measure, column in measured]

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    titles = (f"{measure.name}.{measure.columns[column]}" for measure, column in measured)
    writer.writerow(["run", *study.axes, *FACTS, *titles])
    for result in results.runs:
        axes = [_joined(result.run.values[axis]) for axis in study.axes]
        writer.writerow([result.run.name, *axes, *_facts(result), *numbers(result.scores)])
    for name, scores in _untrained(results).items():
        facts = ["", "untrained", *[""] * (len(FACTS) - 2)]
        writer.writerow([name, *[""] * len(study.axes), *facts, *numbers(scores)])
    return file.getvalue()


def _joined(value: Any) -> str:
    return "+".join(map(_joined, value)) if isinstance(value, tuple) else str(value)


def _facts(result: RunResult) -> list[Any]:
    """Return the cells of the columns FACTS."""
    if (known := result.training) is None:
        return [result.run.seed, result.state, *[""] * (len(FACTS) - 2)]
    sums = (known.steps, known.pairs, known.tokens, known.hours, known.processes, known.peak_bytes)
    return [result.run.seed, result.state, *sums]


def _untrained(results: Results) -> dict[str, dict[str, Scores]]:
    """Return name of a model without training → measure → its scores."""
    models: dict[str, dict[str, Scores]] = {}
    for measure, scored in results.untuned.items():
        for one in scored:
            models.setdefault(one.baseline.name, {})[measure] = one.scores
            for name in BASELINES:
                if changed := (one.scores.get("removal") or {}).get(name):
                    models.setdefault(f"{one.baseline.name}-{name}", {})[measure] = changed
    return models


def report_markdown(results: Results, tables: Sequence[Table]) -> str:
    """Return all tables as Markdown, below the study's question."""
    return render("report.md", study=results.study, results=results, tables=tables, legend=legend("In brackets"))


def report_latex(results: Results, tables: Sequence[Table]) -> str:
    """Return each table as a `table` environment with the rules of the package booktabs."""
    return render("report.tex", study=results.study, tables=tables, legend=legend("In brackets"))
