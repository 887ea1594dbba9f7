"""Pool of processes for independent tasks on one machine; results come in the order of the tasks."""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import Value
from typing import Any, TypeVar

from hbdist.errors import RunError

Progress = Callable[[int, int, str], None]
"""Function called as progress(done, total, task) in the calling process, after each task."""
Beat = Callable[[int], None]
"""Function called at least every `BEAT_S` with the number of items that all tasks together have counted so far."""

BEAT_S = 2.0
"""Most seconds between two beats."""
ORPHAN_S = 0.2
"""Seconds between two checks that the process that started this one is still alive."""
BLOCK = 1000
"""Number of items that a task counts at a time."""

Task = TypeVar("Task")
Result = TypeVar("Result")
Item = TypeVar("Item")


def silent(*_values: object) -> None:
    """Ignore progress, or a beat."""


def available_cores() -> int:
    """Return the number of cores this process may use: under Slurm or in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def counted(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, inside a task, and report how many there have been."""
    number = 0
    for number, item in enumerate(items, 1):
        yield item
        if number % BLOCK == 0:
            _report(BLOCK)
    _report(number % BLOCK)


def map_in_pool(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    workers: int | None = None,
    progress: Progress = silent,
    beat: Beat = silent,
) -> list[Result]:
    """Return `[function(task) for task in tasks]`, computed by `workers` processes (unset: one per core).

    The processes end when the one that started them does, however it ends.

    Raises:
        RunError: a worker was killed.
        Exception: whatever `function` raises; tasks that have not started by then never start.
    """
    workers = min(workers or available_cores(), len(tasks))
    running = _in_this_process(function, tasks, beat) if workers <= 1 else _in_pool(workers, function, tasks, beat)
    results: list[Result] = []
    with closing(running):
        for task, result in zip(tasks, running, strict=True):
            results.append(result)
            progress(len(results), len(tasks), str(task))
    return results


def _in_this_process(function: Callable[[Task], Result], tasks: Sequence[Task], beat: Beat) -> Generator[Result]:
    global _report
    total = 0

    def report(items: int) -> None:
        nonlocal total
        total += items
        beat(total)

    before, _report = _report, report
    try:
        yield from map(function, tasks)
    finally:
        _report = before


def _in_pool(workers: int, function: Callable[[Task], Result], tasks: Sequence[Task], beat: Beat) -> Generator[Result]:
    total = Value("q", 0)
    counter = total.get_obj()  # read without its lock, which a killed worker may hold for ever
    with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(os.getpid(), total)) as executor:
        try:
            futures = [executor.submit(function, task) for task in tasks]
            for future in futures:
                while wait([future], timeout=BEAT_S).not_done:
                    beat(counter.value)
                beat(counter.value)
                yield future.result()
        except BrokenProcessPool:
            raise RunError(
                f"One of {workers} worker processes was killed, perhaps by the system because memory ran out (its log says so)."
                " Start again with fewer workers; what is finished is kept."
            ) from None
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(parent: int, total: Any) -> None:
    global _report

    def report(items: int) -> None:
        with total.get_lock():
            total.value += items

    _report = report
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a pool's process would wait for a killed parent forever."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_S)
    os._exit(1)


_report: Callable[[int], None] = silent
