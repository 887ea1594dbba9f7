"""Independent tasks over the cores of one machine, their results in the order of the tasks."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, what) from the calling process, after each task."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def silent(done: int, total: int, what: str) -> None:
    """A progress that shows nothing."""


def available_cores() -> int:
    """Cores this process may use: under SLURM or in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """`[function(task) for task in tasks]`, over `workers` processes (unset: one a core).

    Raises:
        Whatever `function` raises; tasks that have not started by then never do.
    """
    workers = min(workers or available_cores(), len(tasks))
    if workers <= 1:
        return _followed(map(function, tasks), tasks=tasks, progress=progress)
    with ProcessPoolExecutor(workers) as executor:
        return _followed(executor.map(function, tasks), tasks=tasks, progress=progress)


def _followed(results: Iterable[Result], *, tasks: Sequence[Task], progress: Progress) -> list[Result]:
    collected = []
    for task, result in zip(tasks, results, strict=True):
        collected.append(result)
        progress(len(collected), len(tasks), str(task))
    return collected
