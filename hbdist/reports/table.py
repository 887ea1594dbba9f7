"""Tables of a study: a row per point of the grid, seeds pooled, with the best point and those that tie with it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hbdist.evaluation.scores import BASELINES
from hbdist.reports.results import Results, Untuned
from hbdist.reports.seeds import DISTANCE, Column, Estimate, PerQueryFiles, Scored
from hbdist.runs.record import Scores
from hbdist.studies.schema import Measure
from hbdist.studies.study import Baseline

if TYPE_CHECKING:  # it loads torch
    from hbdist.evaluation.metrics.bootstrap import Difference

MONO, CROSS, SHARE = "monolingual.map", "cross_lingual.map", "bias.same_language_share@10"
"""Numbers of scores.json that have charts of their own, whether or not the study has columns for them."""

Mark = Literal["best", "tied", "beats"]
"""best: the best point. tied: the confidence interval of the difference to the best contains zero. beats: a model without
training that is better than all points."""


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
class Row:
    """One point of the grid, or one model without training."""

    label: str
    values: Mapping[str, Any]
    """Axis → value; empty for a model without training."""
    scored: Sequence[Scored]
    """Runs that have scores, one per seed; or the model without training."""
    wanted: int
    """Number of runs that the study wants of this point."""
    baseline: Baseline
    """Untuned model that the point began with, or that it is."""
    numbers: dict[str, Estimate] = field(default_factory=dict)
    """Column → its number, if known."""
    marks: dict[str, Mark] = field(default_factory=dict)
    """Column → mark of its number."""

    def heads(self, axes: Iterable[str]) -> list[str]:
        """Return the cells that name the row: a value per axis and the number of seeds, or the model's name."""
        if not self.values:
            return [self.label, *("" for _ in axes)]
        missing = f" of {self.wanted}" if len(self.scored) < self.wanted else ""
        return [*(show(self.values[axis]) for axis in axes), f"{len(self.scored)}{missing}"]


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
    gain: "Difference | None"
    """Difference between the best point and the model that it began with, in the primary column."""
    remarks: tuple[str, ...]

    @property
    def best(self) -> Row | None:
        """Best point by the primary column."""
        return next((row for row in self.points if row.marks.get(self.measure.primary) == "best"), None)

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


def show(value: Any) -> str:
    """Return a value of an axis as text."""
    if isinstance(value, tuple):
        return "+".join(map(show, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(results: Results, own: Measure) -> Table:
    charted = [path for path in (MONO, CROSS, DISTANCE, SHARE) if path not in own.columns.values()]
    measure = own.model_copy(update={"columns": own.columns | {path: path for path in charted}})
    points, untuned = _points(results, own), _untuned(results.untuned[own.name])
    untrained = tuple(line for row in untuned for line in (row, *_without_language(row, measure)))
    files = PerQueryFiles(measure)
    gain = None
    for name in measure.columns:
        column = Column(files, name)
        for row in (*points, *untuned):
            if estimate := column.estimate(row.scored):
                row.numbers[name] = estimate
        best = _mark(points, untrained, column)
        if best and name == measure.primary:
            before = [row for row in untuned if row.baseline == best.baseline]
            gain = column.difference(before[0].scored, best.scored) if before else None
    return Table(measure, tuple(own.columns), tuple(points), untrained, gain, tuple(files.remarks))


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
        changed: Scores = (scores.get("removal") or {}).get(name) or {}
        numbers = {
            column: Estimate(value)
            for column in measure.columns
            if (value := measure.number(changed, column)) is not None
        }
        if numbers:
            rows.append(Row(f"{untuned.label}, {words}", {}, [(model, changed)], 1, untuned.baseline, numbers))
    return rows


def _mark(points: Sequence[Row], untrained: Sequence[Row], column: Column) -> Row | None:
    """Mark the best point, the points that tie with it, and models without training that are better; return the best."""
    name, sign = column.name, column.files.measure.direction(column.name)
    known = [row for row in points if name in row.numbers]
    if not known or not sign:
        return None
    best = max(known, key=lambda row: sign * row.numbers[name].mean)
    best.marks[name] = "best"
    for row in known:
        change = column.difference(best.scored, row.scored) if row is not best else None
        if change and not change.real:
            row.marks[name] = "tied"
    for row in untrained:
        if name in row.numbers and sign * (row.numbers[name].mean - best.numbers[name].mean) > 0:
            row.marks[name] = "beats"
    return best
