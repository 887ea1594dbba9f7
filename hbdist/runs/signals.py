"""Signals that ask a run to stop: they raise a flag, which the run checks between steps."""

import os
import signal
import time
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Signals that ask to save and stop; Slurm sends SIGUSR2 some time before the time limit."""

ECHO_S = 3.0
"""Seconds in which a second signal counts as an echo: a terminal signals launcher and ranks, then the launcher its ranks."""


class StopFlag:
    """Flag that the first stop signal raises. A much later signal ends the process at once, so it can always be stopped.

    In a Slurm job it does not: Slurm sends several signals (before the time limit, at it, at preemption), all while the run may
    be saving, and ends a process that does not stop by SIGKILL.
    """

    def __init__(self) -> None:
        self.raised = False
        self._in_slurm = "SLURM_JOB_ID" in os.environ
        self._first = 0.0
        self._before: dict[int, Any] = {}

    def listen(self) -> "StopFlag":
        """Install the handlers; this works only in a process's main thread."""
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._raise)
        return self

    def forget(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        if not self.raised:
            self.raised, self._first = True, time.monotonic()
        elif not self._in_slurm and time.monotonic() - self._first > ECHO_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def ignore_stop_signals(_worker: int) -> None:
    """Ignore the stop signals in a data worker: one sent to all processes must not end it before the step that it feeds."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
