"""Model selection and early stopping by one criterion: the validation loss, or a score on an evaluation task."""

from dataclasses import dataclass, field

from hbdist.config.criterion import Criterion


@dataclass
class ModelSelection:
    """Values of the criterion so far, and the best step."""

    criterion: Criterion
    values: dict[int, float] = field(default_factory=dict)
    """Value at each measured step, in the order of the steps."""
    step: int | None = None
    """Best step that has a checkpoint; the first of equally good ones."""

    def add(self, step: int, value: float, *, has_checkpoint: bool = True) -> None:
        """Add the value of the next step, which has a checkpoint, or will get one at once if it is the best.

        In a run that resumes with another criterion, the checkpoint of the step that would have been best may be gone.
        """
        self.values[step] = value
        if has_checkpoint and (self.step is None or self.criterion.better(value, self.values[self.step])):
            self.step = step

    @property
    def exhausted(self) -> bool:
        """True if the last `patience` values were no better than the best before them."""
        if not self.values or not self.criterion.patience:
            return False
        values = list(self.values.values())
        best = 0
        for index, value in enumerate(values):
            best = index if self.criterion.better(value, values[best]) else best
        return len(values) - 1 - best >= self.criterion.patience
