"""Independent tasks over the cores of one machine, their results in the order of the tasks."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import Value
from typing import Any, TypeVar

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, what) from the calling process, after each task."""
Beat = Callable[[int], None]
"""Called every few seconds with the sum of what tasks have told `count` so far, over all processes."""

BEAT_S = 2.0
ORPHAN_S = 0.2
"""How often a process looks whether the one that started it still lives."""

Task = TypeVar("Task")
Result = TypeVar("Result")


def silent(done: int, total: int, what: str) -> None:
    """A progress that shows nothing."""


def unheard(counted: int) -> None:
    """A beat that does nothing."""


def available_cores() -> int:
    """Cores this process may use: under SLURM or in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count(amount: int) -> None:
    """Tell, from inside a task, that this much more of it is done."""
    _tell(amount)


def in_parallel(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int | None = None,
    progress: Progress = silent,
    beat: Beat = unheard,
) -> list[Result]:
    """`[function(task) for task in tasks]`, over `workers` processes (unset: one a core).

    The processes end with the one that started them, however it ends.

    Raises:
        Whatever `function` raises; tasks that have not started by then never do.
    """
    workers = min(workers or available_cores(), len(tasks))
    if workers <= 1:
        return _in_this_process(function, tasks, progress=progress, beat=beat)
    counter = Value("q", 0)
    with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(os.getpid(), counter)) as executor:
        futures = [executor.submit(function, task) for task in tasks]
        results: list[Result] = []
        try:
            for task, future in zip(tasks, futures, strict=True):
                results.append(_awaited(future, lambda: beat(counter.value)))
                beat(counter.value)
                progress(len(results), len(tasks), str(task))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        return results


def _awaited(future: Future[Result], beat: Callable[[], None]) -> Result:
    while True:
        try:
            return future.result(timeout=BEAT_S)
        except TimeoutError:
            if future.done():  # the task's own
                raise
            beat()


def _in_this_process(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, progress: Progress, beat: Beat
) -> list[Result]:
    global _tell
    counted, next_beat = 0, time.monotonic() + BEAT_S

    def tell(amount: int) -> None:
        nonlocal counted, next_beat
        counted += amount
        if time.monotonic() >= next_beat:
            beat(counted)
            next_beat = time.monotonic() + BEAT_S

    results: list[Result] = []
    before, _tell = _tell, tell
    try:
        for task in tasks:
            results.append(function(task))
            beat(counted)
            progress(len(results), len(tasks), str(task))
    finally:
        _tell = before
    return results


def _start_worker(parent: int, counter: Any) -> None:
    global _tell

    def tell(amount: int) -> None:
        with counter.get_lock():
            counter.value += amount

    _tell = tell
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A pool's process waits for ever for a parent that was killed; and what it still writes nobody asked for."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    os._exit(1)


_tell: Callable[[int], None] = unheard
