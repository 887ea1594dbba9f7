"""Row of a study's table: one point of the grid with its seeds, or one model without training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hbdist.reports.seeds import Estimate, Scored
from hbdist.studies.study import Baseline

Mark = Literal["best", "tied", "beats"]
"""best: the best point, if it has been compared with the others. tied: the difference to the best could be none, by a test of
all pairs of points together. beats: a model without training that is better than every point, by a test against each."""


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
    removal: str = ""
    """Name of the language removal after which the model was scored; empty: none."""

    def heads(self, axes: Iterable[str]) -> list[str]:
        """Return the cells that name the row: a value per axis and the number of seeds, or the model's name."""
        if not self.values:
            return [self.label, *("" for _ in axes)]
        missing = f" of {self.wanted}" if len(self.scored) < self.wanted else ""
        return [*(show(self.values[axis]) for axis in axes), f"{len(self.scored)}{missing}"]


def show(value: Any) -> str:
    """Return a value of an axis as text."""
    if isinstance(value, tuple):
        return "+".join(map(show, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
