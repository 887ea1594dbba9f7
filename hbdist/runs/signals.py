"""The wish to stop, as schedulers and people send it: a flag that is looked at between steps."""

import os
import signal
import time
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""SIGUSR2 comes from Slurm some time before the limit."""

PATIENCE = 3.0
"""Seconds in which a signal is taken for an echo: a terminal signals launcher and ranks, and the launcher the ranks again."""


class StopFlag:
    """Up once a signal has come. One that comes much later acts as if nobody listened, so that nothing is unstoppable.

    In a Slurm job it does not: Slurm sends several (before the time limit, at it, when the job is preempted), all while the
    run may be saving, and ends by SIGKILL what does not end.
    """

    def __init__(self) -> None:
        self.up = False
        self._patient = "SLURM_JOB_ID" in os.environ
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def listen(self) -> "StopFlag":
        """Take the signals over; only in a process's main thread can that be done."""
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._raise)
        return self

    def forget(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        if not self.up:
            self.up, self._first = True, time.monotonic()
        elif not self._patient and time.monotonic() - self._first > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def ignore_stop_signals(_worker: int) -> None:
    """For data workers: a signal to the whole process group must not end them before the step they feed."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
