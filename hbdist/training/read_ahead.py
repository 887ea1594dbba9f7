"""Processes that read and tokenise batches ahead of the training process."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import psutil
from torch.utils.data import DataLoader, Dataset

from hbdist.runs.signals import ignore_stop_signals

Item = TypeVar("Item")


def read_ahead(items: Dataset[Item], numbers: Sequence[int], *, workers: int, timeout_s: float) -> Iterator[Item]:
    """Yield the items with these numbers, in order, made ahead by `workers` processes.

    Items should contain no tensors: each would be sent as a file descriptor.

    Raises:
        RuntimeError: a worker was killed, or made no item within `timeout_s`; the message says which, and what to do.
    """
    others = set(multiprocessing.active_children())
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_unchanged,
        timeout=timeout_s,
        # A forked copy of a process with running threads (torch, NCCL) can hang.
        multiprocessing_context="spawn",
        worker_init_fn=ignore_stop_signals,
    )
    iterator = iter(loader)
    processes = sorted(set(multiprocessing.active_children()) - others, key=lambda process: process.pid or 0)
    try:
        while True:
            # What the loader raises depends on the moment: RuntimeError, ConnectionResetError, EOFError, UnpicklingError.
            try:
                item = next(iterator, None)
            except Exception as error:
                if cause := _cause(error, processes, timeout_s):
                    raise RuntimeError(cause) from None
                raise
            if item is None:
                return
            yield item
    finally:
        _end(iterator, processes)


def _end(iterator: Any, processes: Sequence[BaseProcess]) -> None:
    """End the workers, so that their end is no error: torch's handler of SIGCHLD would raise one wherever it finds us."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if in_main_thread else None
    # They ignore SIGTERM, which is all that the loader and the interpreter would send to one that is stuck.
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    with suppress(Exception):  # its queues may be broken
        iterator._shutdown_workers()  # it forgets the workers, at the latest when it is deleted
    if in_main_thread:
        signal.signal(signal.SIGCHLD, handler)


def _unchanged(item: Item) -> Item:
    return item


def _cause(error: Exception, processes: Sequence[BaseProcess], timeout_s: float) -> str | None:
    """Return the sentence about the worker behind an error, or None if the error is one of the worker's own code."""
    for number, process in enumerate(processes, 1):
        process.join(timeout=0.2)
        if process.exitcode:
            ended = f"data worker {number} of {len(processes)} (process {process.pid}) was"
            if process.exitcode > 0:
                return f"{ended} ended with status {process.exitcode}; what it printed says why ({_first_line(error)})."
            remedy = (
                " The system does this to processes when memory runs out: lower data.workers, or ask for more memory."
                if process.exitcode == -signal.SIGKILL
                else ""
            )
            return f"{ended} killed by {signal.Signals(-process.exitcode).name}.{remedy}"
    if "timed out" in str(error):
        states = ", ".join(f"process {process.pid} {_state(process)}" for process in processes)
        return (
            f"the data workers made no batch within {timeout_s:g} s (data.timeout_s): {states}. If they wait for a disk or a"
            " store, see why it is slow, or raise data.timeout_s; if the machine is short of processors, lower data.workers."
        )
    return None


def _state(process: BaseProcess) -> str:
    """Return what a worker does, as the system sees it."""
    with suppress(psutil.Error):
        seen = psutil.Process(process.pid)
        times = seen.cpu_times()
        return f"is {seen.status()} after {times.user + times.system:.0f} s of CPU time"
    return "is gone"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
