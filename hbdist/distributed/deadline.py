"""Deadlines for waiting that cannot be interrupted: in C++ code that knows no time-out, or a longer one."""

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

PAUSE_S = 0.2


class Deadline:
    """Context in which this process ends, with a message, if `renew` is not called for this many seconds.

    The message may be a function, which is called when the time is up.
    """

    def __init__(self, seconds: float, message: str | Callable[[], str]) -> None:
        self.seconds, self.message = seconds, message
        self._left = threading.Event()
        self.renew()

    def renew(self) -> None:
        """Begin to count anew."""
        self._ends = time.monotonic() + self.seconds

    @property
    def has_passed(self) -> bool:
        """True if the time is up; code that can look ends by itself, with an exception."""
        return time.monotonic() > self._ends

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._left.set()

    def _watch(self) -> None:
        while not self._left.wait(PAUSE_S):
            # Code that can look has a moment to end by itself first.
            if time.monotonic() > self._ends + 10 * PAUSE_S:
                message = self.message if isinstance(self.message, str) else self.message()
                print(f"hbdist, rank {os.environ.get('RANK', '0')}: {message}", file=sys.stderr, flush=True)
                os._exit(1)
