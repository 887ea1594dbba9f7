"""Which step of a run is best, by the one number that its config names: the loss on held-out pairs, or a score of an
evaluation task."""

from dataclasses import dataclass, field

from hbdist.config.criterion import Criterion


@dataclass
class Best:
    """The values of the criterion until now, and the best step."""

    criterion: Criterion
    values: dict[int, float] = field(default_factory=dict)
    """Step → value, in the order of the steps."""
    step: int | None = None
    """The best one whose checkpoint there is. The first of equal ones."""

    def add(self, step: int, value: float, *, kept: bool = True) -> None:
        """Take the value of the next step.

        Args:
            kept: its checkpoint is there, or will be at once if this is the best. Of a run that goes on with another
                criterion, the checkpoint of the step that would have been best may be gone.
        """
        self.values[step] = value
        if kept and (self.step is None or self.criterion.better(value, self.values[self.step])):
            self.step = step

    @property
    def exhausted(self) -> bool:
        """So many values in a row, as the patience says, were no better than the best before them."""
        if not self.values or not self.criterion.patience:
            return False
        values = list(self.values.values())
        first = 0
        for place, value in enumerate(values):
            first = place if self.criterion.better(value, values[first]) else first
        return len(values) - 1 - first >= self.criterion.patience
