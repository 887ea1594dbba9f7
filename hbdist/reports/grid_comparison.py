"""Comparison of the points of a study's grid in one column: the best, those that tie with it, and models without training.

All pairs of points are tested together (`hbdist.evaluation.metrics.simultaneous`), so that of twenty grids whose points are
all equal, about one shows a difference. A model without training is tested against each point by itself: it is marked only
if it is better than every one of them, which is rarer than a single false difference.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from hbdist.reports.row import Row
from hbdist.reports.seeds import Column

if TYPE_CHECKING:  # they load torch
    from hbdist.evaluation.metrics.bootstrap import Difference
    from hbdist.evaluation.metrics.per_query import Values
    from hbdist.evaluation.metrics.simultaneous import Grid

ONE_SEED = (
    "Nothing is marked: each point has one seed, and what another seed would give is unknown."
    " Add seeds to tell points apart."
)
NO_VALUES = "Nothing is marked: the number does not follow from the scores of single questions, so it is not tested."
FEW_VALUES = "Nothing is marked: the scores of single questions are missing for some points."
NO_DIRECTION = "Nothing is marked: neither high nor low is best."
FEW_POINTS = "Nothing is marked: there is one point only."


class GridComparison:
    """Points of the grid and models without training, in one column."""

    def __init__(self, points: Sequence[Row], untrained: Sequence[Row], column: Column) -> None:
        name = column.name
        self.column, self.sign = column, column.files.measure.direction(name)
        self.points = [row for row in points if name in row.numbers]
        self.untrained = [row for row in untrained if name in row.numbers]
        self.best: Row | None = None
        """Best point; None if no point has the number, or neither high nor low is best."""
        if self.points and self.sign:
            self.best = max(self.points, key=lambda row: self.sign * row.numbers[name].mean)
        self._grid: Grid | None = None
        self._number_of: dict[int, int] = {}
        self.reason = self._prepare()
        """Sentence on why nothing is marked; empty if marks are possible."""

    def _prepare(self) -> str:
        """Draw the scores of all models that have values per question; return the reason if points cannot be compared."""
        from hbdist.evaluation.metrics.simultaneous import Grid

        if not self.sign:
            return NO_DIRECTION
        if len(self.points) < 2:
            return FEW_POINTS if self.points else ""
        values: list[list[Values]] = []
        for row in (*self.points, *self.untrained):
            if known := self.column.values(row.scored, row.removal):
                self._number_of[id(row)] = len(values)
                values.append(known)
        missing = sum(id(row) not in self._number_of for row in self.points)
        if missing:
            return NO_VALUES if missing == len(self.points) else FEW_VALUES
        grid = Grid(values, without_seed=range(len(self.points), len(values)))
        if grid.drawn.clusters.problem:
            return grid.drawn.clusters.problem
        if grid.spread is None:
            return ONE_SEED
        self._grid = grid
        return ""

    def mark(self) -> None:
        """Mark the best point, those that tie with it, and the models without training that are better than all."""
        if self._grid is None or self.best is None:
            return
        name = self.column.name
        self.best.marks[name] = "best"
        pairs = list(combinations(range(len(self.points)), 2))
        for (i, j), found in zip(pairs, self._grid.compare(pairs), strict=True):
            pair = self.points[i], self.points[j]
            if self.best in pair and not found.real:
                other = pair[1] if pair[0] is self.best else pair[0]
                other.marks[name] = "tied"
        for row in self.untrained:
            if id(row) in self._number_of and all(self._is_better(row, point) for point in self.points):
                row.marks[name] = "beats"

    def gain(self) -> "Difference | None":
        """Return the best point's difference from the untuned model that it began with, by a test of all points together."""
        if self._grid is None or self.best is None:
            return None
        same = [row for row in self.points if row.baseline == self.best.baseline]
        before = [row for row in self.untrained if row.baseline == self.best.baseline and not row.removal]
        if not before or id(before[0]) not in self._number_of:
            return None
        first = self._number_of[id(before[0])]
        found = self._grid.compare([(first, self._number_of[id(row)]) for row in same])
        return next(one for row, one in zip(same, found, strict=True) if row is self.best)

    def _is_better(self, row: Row, point: Row) -> bool:
        assert self._grid is not None
        (found,) = self._grid.compare([(self._number_of[id(point)], self._number_of[id(row)])])
        return bool(found.real) and self.sign * found.mean > 0
