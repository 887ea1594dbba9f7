"""Lines of text files and of JSON lines, plain or gzipped."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbdist.errors import DataError

BLANK_LINE = "blank line"


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, unpacked if its name ends in .gz, with their numbers from 1, each with its line break.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    try:
        plain = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}. Correct its path in the recipe.") from None
    number = 0
    with plain, gzip.open(plain) if path.suffix == ".gz" else plain as file:
        try:
            for line in file:
                number += 1
                yield number, line
        except (OSError, EOFError, zlib.error) as error:
            raise damage(path, number, error) from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, as `byte_lines`, without a byte order mark.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    for number, line in byte_lines(path):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise damage(path, number - 1, error) from None


def damage(path: Path, line: int, error: Exception) -> DataError:
    """The error of a file that cannot be read on after a line."""
    return DataError(
        f"{path} is damaged after line {line}: {error}; expected UTF-8 text, gzipped if the name ends in .gz. Fetch the "
        "file again."
    )


def json_records(path: Path, *, expected: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The objects of JSON lines with their line numbers from 1; None for a blank line.

    Raises:
        DataError: the file is damaged, or a line is no JSON object; `expected` says what should be in it.
    """
    for number, line in numbered_lines(path):
        if not line.strip():
            yield number, None
            continue
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError(f"found a {type(values).__name__}")
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {expected}. Mend the line.") from None
        yield number, values
