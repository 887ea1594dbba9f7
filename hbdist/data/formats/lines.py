"""Lines of text files, plain or gzipped."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from hbdist.errors import DataError
from hbdist.utils.json_toml import REMEDY

BLANK_LINE = "blank line"


def byte_lines(path: Path, *, remedy: str = REMEDY) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, decompressed if its name ends in .gz, with their numbers from 1 and their line breaks.

    Args:
        remedy: the advice at the end of an error message.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    try:
        plain = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}. {remedy}") from None
    number = 0
    with plain, gzip.open(plain) if path.suffix == ".gz" else plain as file:
        try:
            for line in file:
                number += 1
                yield number, line
        except (OSError, EOFError, zlib.error) as error:
            raise damage(path, number, error, remedy=remedy) from None


def numbered_lines(path: Path, *, remedy: str = REMEDY, line_ends: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers from 1, without line breaks and byte order mark.

    Args:
        remedy: the advice at the end of an error message.
        line_ends: whether the lines keep their line breaks.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    for number, line in byte_lines(path, remedy=remedy):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise damage(path, number - 1, error, remedy=remedy) from None
        yield number, text if line_ends else text.rstrip("\r\n")


def nonblank_lines(path: Path, *, remedy: str = REMEDY) -> Iterator[tuple[int, str]]:
    """Yield the lines of `numbered_lines` that are not blank.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    return ((number, line) for number, line in numbered_lines(path, remedy=remedy) if line.strip())


def table_rows(
    path: Path, *, columns: int, expected: str, separator: str | None = None, remedy: str = REMEDY
) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each line that is not blank, with the line's number.

    Args:
        expected: the names of the columns, for the error message.
        separator: the text between two cells; None: any white space.

    Raises:
        DataError: the file cannot be opened, is damaged, or a line has another number of columns.
    """
    for number, line in nonblank_lines(path, remedy=remedy):
        cells = line.split(separator)
        if len(cells) != columns:
            raise DataError(
                f"{path}, line {number}: found {len(cells)} columns; expected {columns}: {expected}. {remedy}"
            )
        yield number, cells


def damage(path: Path, line: int, error: Exception, *, remedy: str = REMEDY) -> DataError:
    """Return the error for a file that cannot be read beyond a line."""
    return DataError(
        f"{path} is damaged after line {line}: {error}; expected UTF-8 text, gzipped if the name ends in .gz. {remedy}"
    )


def plain_or_gzipped(*paths: Path) -> Path | None:
    """Return the first of these files that exists, as named or with .gz appended."""
    both = (candidate for path in paths for candidate in (path, path.with_name(path.name + ".gz")))
    return next((path for path in both if path.is_file()), None)
