"""Logs of a run: files with one JSON object per line, each with its step.

A line ends at a line feed and at nothing else: texts in it may contain U+2028 and other characters that Python's `splitlines`
takes for line breaks. A kill can leave the last line without its end, a power cut or a bad disk anything.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hbdist.utils.files import sync, writing

METRICS, BATCHES, VALIDATION, EVALUATION = "metrics.jsonl", "batches.jsonl", "validation.jsonl", "evaluation.jsonl"
LOGS = (METRICS, BATCHES, VALIDATION, EVALUATION)
BLOCK = 2**16
"""Bytes that are read at once from the end of a log."""


def append(path: Path, line: dict[str, Any]) -> None:
    """Append an object to a log."""
    with writing(path), path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the objects of a log, and a sentence for each line that is damaged; nothing if there is no log."""
    if not path.is_file():
        return [], []
    objects, damaged = [], []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            value = parse(line)
            if value is None and line.endswith(b"\n"):
                damaged.append(f"{path}, line {number} is damaged and left out; expected a JSON object with its step.")
            elif value is not None:
                objects.append(value)
    return objects, damaged


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the object in a line of a log; None if the line is damaged or has no end."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    is_step = isinstance(value, dict) and type(value.get("step")) is int and value["step"] >= 0
    return value if is_step else None


def cut(path: Path, step: int) -> tuple[int, int]:
    """Drop the lines after update `step` from the end of a log.

    The log is read from its end, as far as that goes; damaged lines there are dropped too.

    Returns:
        the step of the last line that stays, 0 if none does, and the number of damaged lines that were dropped.
    """
    last, keep, damaged = 0, 0, 0
    with path.open("r+b") as file:
        for start, line in _lines_from_the_end(file):
            value = parse(line)
            if value is not None and value["step"] <= step:
                last, keep = value["step"], start + len(line)
                break
            # A kill can leave the line of a later step without its end; one of a step before the checkpoint was complete.
            damaged += value is None and (line.endswith(b"\n") or _begins_before(line, step))
        file.truncate(keep)
        os.fsync(file.fileno())
    return last, damaged


def _begins_before(line: bytes, step: int) -> bool:
    found = re.match(rb'\{"step": (\d{1,18}),', line)
    return found is not None and int(found[1]) <= step


def sync_logs(folder: Path) -> None:
    """Bring the logs in a run's folder to the disk."""
    for name in LOGS:
        if (folder / name).is_file():
            sync(folder / name)
    sync(folder)


def _lines_from_the_end(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, the last one first, each with the place where it starts."""
    start, tail = file.seek(0, os.SEEK_END), b""
    while start or tail:
        before = tail.rfind(b"\n", 0, len(tail) - 1)  # the end of the line before the last one
        if before < 0 and start:
            size = min(BLOCK, start)
            start -= size
            file.seek(start)
            tail = file.read(size) + tail
            continue
        yield start + before + 1, tail[before + 1 :]
        tail = tail[: before + 1]
