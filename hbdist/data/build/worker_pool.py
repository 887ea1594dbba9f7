"""Pool of processes that a build runs its tasks in, and its progress display."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hbdist.utils.workers import BEAT_S, Progress, Result, Task, map_in_pool


@dataclass(frozen=True)
class Pool:
    """Number of processes, and where their progress is reported."""

    workers: int | None
    progress: Progress

    def run(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], verb: str, unit: str, *, expected: int = 0
    ) -> list[Result]:
        """Return `[function(task) for task in tasks]`, and report progress as `ProgressMeter` does."""
        meter = ProgressMeter(verb, unit, self.progress, tasks=len(tasks), expected=expected)
        return map_in_pool(
            function, tasks, workers=self.workers, progress=lambda done, *_: meter.finish_task(done), beat=meter.count
        )


class ProgressMeter:
    """Progress of tasks, reported every few seconds with the rate and the time left.

    Args:
        verb: what is done, such as "writing".
        unit: to what, such as "pairs".
        expected: number of units in all; 0 if it is unknown.
    """

    def __init__(self, verb: str, unit: str, progress: Progress, *, tasks: int, expected: int) -> None:
        self.verb, self.unit, self.progress, self.tasks, self.expected = verb, unit, progress, tasks, expected
        self.done, self.units, self.start, self.shown = 0, 0, time.monotonic(), 0.0

    def count(self, units: int) -> None:
        """Report the number of units done so far."""
        self.units = units
        if time.monotonic() >= self.start + BEAT_S:
            self._show()

    def finish_task(self, done: int) -> None:
        """Report the number of tasks done so far."""
        self.done = done
        self._show(last=done == self.tasks)

    def _show(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if now < self.shown + BEAT_S and not last:
            return
        self.shown = now
        rate = self.units / max(now - self.start, 1e-9)
        text = f"{self.verb} {self.unit}, {rate:,.0f} a second" if rate else f"{self.verb} {self.unit}"
        if rate and self.expected and not last:
            seconds = max(0, self.expected - self.units) / rate
            text += f", {seconds / 60:,.0f} min left" if seconds >= 90 else f", {seconds:,.0f} s left"
        self.progress(self.done, self.tasks, text)
