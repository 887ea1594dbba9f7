"""Tables of a study: a row per point of the grid, seeds pooled, with the best point and those that tie with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hbdist.evaluation.scores import BASELINES
from hbdist.reports.grid_comparison import GridComparison
from hbdist.reports.results import Results, Untuned
from hbdist.reports.row import Mark, Row, show
from hbdist.reports.seeds import DISTANCE, Column, PerQueryFiles
from hbdist.runs.record import Scores
from hbdist.studies.schema import Measure

if TYPE_CHECKING:  # it loads torch
    from hbdist.evaluation.metrics.bootstrap import Difference

MONO, CROSS, SHARE = "monolingual.map", "cross_lingual.map", "bias.same_language_share@10"
"""Numbers of scores.json that have charts of their own, whether or not the study has columns for them."""


class Cell(NamedTuple):
    """One number of a table as text."""

    number: str
    """Number, or a dash if it is not known."""
    mark: Mark | Literal[""] = ""
    interval: str = ""
    """95 % confidence interval; empty if there is none."""

    @property
    def sign(self) -> str:
        """Sign that shows the mark behind the number; the best number is bold instead."""
        return {"tied": "≈", "beats": "†"}.get(self.mark, "")


@dataclass(frozen=True)
class Table:
    """Results of a study by one measure."""

    measure: Measure
    """Measure with its own columns and those that only charts show."""
    columns: tuple[str, ...]
    """Columns of the measure itself."""
    points: tuple[Row, ...]
    untrained: tuple[Row, ...]
    """Untuned models, each followed by the same model with the language removed from its embeddings."""
    best: Row | None
    """Best point by the primary column, whether or not it can be told from the others."""
    gain: "Difference | None"
    """Difference between the best point and the model that it began with, in the primary column, by a test of all points
    together."""
    untested: Mapping[str, str]
    """Column without marks → the reason, as a sentence."""
    remarks: tuple[str, ...]

    @property
    def chosen_on(self) -> list[str]:
        """Tasks by which training chose the exported step, of all runs in the table."""
        return sorted(
            {scores["chosen_on"] for row in self.points for _, scores in row.scored if scores.get("chosen_on")}
        )

    def column_of(self, path: str) -> str:
        """Return the column that shows this number of scores.json."""
        return next(column for column, shown in self.measure.columns.items() if shown == path)

    def text(self, column: str, value: float) -> str:
        """Return a number of this column with as many digits as the largest of the column needs."""
        largest = max((abs(row.numbers[column].mean) for row in self.points if column in row.numbers), default=0.0)
        return f"{value:,.{3 if largest < 10 else 1 if largest < 10_000 else 0}f}"

    def cell(self, row: Row, column: str) -> Cell:
        """Return the cell of this row and column."""
        estimate = row.numbers.get(column)
        if estimate is None:
            return Cell("–")
        interval = ""
        if estimate.low is not None and estimate.high is not None:
            interval = f"{self.text(column, estimate.low)} to {self.text(column, estimate.high)}"
        return Cell(self.text(column, estimate.mean), row.marks.get(column, ""), interval)


def make_tables(results: Results) -> list[Table]:
    """Return a table for each measure of the study."""
    return [_table(results, measure) for measure in results.study.measures]


def label_of(values: Mapping[str, Any]) -> str:
    """Return a point of the grid in a few words: names alone, numbers with their axis."""
    return ", ".join(value if isinstance(value, str) else f"{axis} {show(value)}" for axis, value in values.items())


def _table(results: Results, own: Measure) -> Table:
    charted = [path for path in (MONO, CROSS, DISTANCE, SHARE) if path not in own.columns.values()]
    measure = own.model_copy(update={"columns": own.columns | {path: path for path in charted}})
    points, untuned = _points(results, own), _untuned(results.untuned[own.name])
    untrained = [line for row in untuned for line in (row, *_without_language(row, measure))]
    files = PerQueryFiles(measure)
    best, gain, untested = None, None, {}
    for name in measure.columns:
        column = Column(files, name)
        spread = column.spread([row.scored for row in points])
        for row in (*points, *untrained):
            if estimate := column.estimate(row.scored, spread, row.removal):
                row.numbers[name] = estimate
        comparison = GridComparison(points, untrained, column)
        comparison.mark()
        if comparison.reason and name in own.columns:
            untested[name] = comparison.reason
        if name == measure.primary:
            best, gain = comparison.best, comparison.gain()
    return Table(
        measure, tuple(own.columns), tuple(points), tuple(untrained), best, gain, untested, tuple(files.remarks)
    )


def _points(results: Results, measure: Measure) -> list[Row]:
    scores = {result.run.name: result.scores.get(measure.name) for result in results.runs}
    rows = []
    for runs in results.study.points():
        scored = [(run, values) for run in runs if (values := scores[run.name]) is not None]
        rows.append(Row(label_of(runs[0].values), runs[0].values, scored, len(runs), runs[0].baseline))
    return rows


def _untuned(models: Sequence[Untuned]) -> list[Row]:
    names = [one.baseline.name.replace("baseline-", "untuned, ") if len(models) > 1 else "untuned" for one in models]
    return [
        Row(name, {}, [(one.baseline, one.scores)], 1, one.baseline) for name, one in zip(names, models, strict=True)
    ]


def _without_language(untuned: Row, measure: Measure) -> list[Row]:
    """Return the untuned model with each language removal that its evaluation tried."""
    model, scores = untuned.scored[0]
    rows = []
    for name, words in BASELINES.items():
        removed: Scores = (scores.get("removal") or {}).get(name) or {}
        # The keys that say which task it is are those of the untuned model.
        changed = {key: scores[key] for key in ("task_fingerprint", "by_pair")} | removed
        if any(measure.number(changed, column) is not None for column in measure.columns):
            label = f"{untuned.label}, {words}"
            rows.append(Row(label, {}, [(model, changed)], 1, untuned.baseline, removal=name))
    return rows
