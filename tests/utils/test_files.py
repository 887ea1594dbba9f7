"""Locks between processes: what a crash left behind is broken, what is held is waited for."""

import os
import threading
import time
from pathlib import Path

from hbdist.utils.files import STALE_AFTER, locked


def test_the_lock_of_a_crashed_process_is_broken(tmp_path: Path) -> None:
    left = tmp_path / ".job.json.lock"
    left.write_text("")
    long_ago = time.time() - 2 * STALE_AFTER
    os.utime(left, (long_ago, long_ago))
    with locked(tmp_path / "job.json"):
        assert time.time() - left.stat().st_mtime < STALE_AFTER
    assert not left.exists()


def test_a_held_lock_is_waited_for(tmp_path: Path) -> None:
    events: list[str] = []

    def hold() -> None:
        with locked(tmp_path / "job.json"):
            events.append("held")
            started.set()
            time.sleep(1.5)  # longer than one attempt to take it
            events.append("released")

    started = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    assert started.wait(10)
    with locked(tmp_path / "job.json"):
        events.append("taken")
    thread.join()
    assert events == ["held", "released", "taken"]
