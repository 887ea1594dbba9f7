"""The tables of a study: a row a point of its grid, seeds pooled, with the best and what cannot be told from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hbdist.evaluation.scores import BASELINES
from hbdist.reports.results import Results, Untuned
from hbdist.reports.seeds import DISTANCE, Column, Estimate, ProcessGroup, Scored
from hbdist.runs.record import Scores
from hbdist.studies.schema import Measure
from hbdist.studies.study import Baseline

if TYPE_CHECKING:  # it loads torch
    from hbdist.evaluation.metrics.bootstrap import Difference

MONO, CROSS, SHARE = "monolingual.map", "cross_lingual.map", "bias.same_language_share@10"
"""Numbers of scores.json that have charts of their own, whether or not the study has them as columns."""

Mark = Literal["best", "tied", "beats"]
"""best: of all points. tied: the interval of the difference to the best holds zero. beats: a model without training that is
better than all points."""


@dataclass(frozen=True)
class Row:
    """One point of the grid, or one model without training."""

    label: str
    values: Mapping[str, Any]
    """Axis → value; empty for a model without training."""
    scored: Sequence[Scored]
    """Its runs that have scores, one a seed; a model without training itself."""
    asked: int
    """Runs that the study asks for."""
    baseline: Baseline
    """The model that it began with, or is."""
    numbers: dict[str, Estimate] = field(default_factory=dict)
    """By column; those that are known."""
    marks: dict[str, Mark] = field(default_factory=dict)
    """By column."""


@dataclass(frozen=True)
class Table:
    """What one measure says of the study."""

    measure: Measure
    """With columns for the charts added to its own."""
    columns: tuple[str, ...]
    """The measure's own."""
    points: tuple[Row, ...]
    untrained: tuple[Row, ...]
    """Each untuned model, and after it the same with the language taken out of its vectors."""
    gain: "Difference | None"
    """In the primary column, the best point less the model it began with."""
    remarks: tuple[str, ...]

    @property
    def best(self) -> Row | None:
        """The best point by the primary column."""
        return next((row for row in self.points if row.marks.get(self.measure.primary) == "best"), None)

    def column_of(self, path: str) -> str:
        """The column that shows this number of scores.json."""
        return next(column for column, shown in self.measure.columns.items() if shown == path)

    def text(self, column: str, value: float) -> str:
        """A number of this column, with as many digits as it has room for."""
        largest = max((abs(row.numbers[column].mean) for row in self.points if column in row.numbers), default=0.0)
        return f"{value:,.{3 if largest < 10 else 1 if largest < 10_000 else 0}f}"

    def cell(self, row: Row, column: str) -> tuple[str, str, str]:
        """The number, its mark ("" for none) and its interval ("" where there is none); a dash for what is not known."""
        estimate = row.numbers.get(column)
        if estimate is None:
            return "–", "", ""
        interval = ""
        if estimate.low is not None and estimate.high is not None:
            interval = f"{self.text(column, estimate.low)} to {self.text(column, estimate.high)}"
        return self.text(column, estimate.mean), row.marks.get(column, ""), interval


def make_tables(results: Results) -> list[Table]:
    """A table for each measure of the study."""
    return [_table(results, measure) for measure in results.study.measures]


def label_of(values: Mapping[str, Any]) -> str:
    """A point of the grid in a few words: names alone, numbers with their axis."""
    return ", ".join(value if isinstance(value, str) else f"{axis} {show(value)}" for axis, value in values.items())


def show(value: Any) -> str:
    """A value of an axis."""
    if isinstance(value, tuple):
        return "+".join(map(show, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _table(results: Results, own: Measure) -> Table:
    charted = [path for path in (MONO, CROSS, DISTANCE, SHARE) if path not in own.columns.values()]
    measure = own.model_copy(update={"columns": own.columns | {path: path for path in charted}})
    found = {one.run.name: one for one in results.runs}
    points = [
        Row(
            label_of(runs[0].values),
            runs[0].values,
            [(run, found[run.name].scores[own.name]) for run in runs if own.name in found[run.name].scores],
            len(runs),
            runs[0].baseline,
        )
        for runs in results.study.points()
    ]
    models = results.untuned[own.name]
    untuned = [Row(_label_untuned(one, models), {}, [(one.baseline, one.scores)], 1, one.baseline) for one in models]
    removed = {row.label: _without_language(row, measure) for row in untuned}
    ranks = ProcessGroup(measure)
    gain = None
    for name in measure.columns:
        column = Column(ranks, name)
        for row in (*points, *untuned):
            if estimate := column.estimate(row.scored):
                row.numbers[name] = estimate
        untrained = [*untuned, *(row for rows in removed.values() for row in rows)]
        best = _mark(points, untrained, column)
        if best and name == measure.primary:
            before = [row for row in untuned if row.baseline == best.baseline]
            gain = column.difference(before[0].scored, best.scored) if before else None
    lines = tuple(line for row in untuned for line in (row, *removed[row.label]))
    return Table(measure, tuple(own.columns), tuple(points), lines, gain, tuple(ranks.remarks))


def _label_untuned(one: Untuned, models: Sequence[Untuned]) -> str:
    return "untuned" if len(models) == 1 else one.baseline.name.replace("baseline-", "untuned, ")


def _without_language(untuned: Row, measure: Measure) -> list[Row]:
    """The untuned model with the language taken out of its vectors, in each way that its evaluation tried."""
    model, scores = untuned.scored[0]
    rows = []
    for name, words in BASELINES.items():
        changed: Scores = (scores.get("removal") or {}).get(name) or {}
        numbers = {
            column: Estimate(value, (value,))
            for column in measure.columns
            if (value := measure.number(changed, column)) is not None
        }
        if numbers:
            rows.append(Row(f"{untuned.label}, {words}", {}, [(model, changed)], 1, untuned.baseline, numbers))
    return rows


def _mark(points: Sequence[Row], untrained: Sequence[Row], column: Column) -> Row | None:
    """Find the best point, those that cannot be told from it, and what needs no training and is better."""
    name, sign = column.name, column.ranks.measure.direction(column.name)
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
