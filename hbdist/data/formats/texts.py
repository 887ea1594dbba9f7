"""Texts with ids, one a line: MS MARCO's TSV and BEIR's JSON lines."""

from collections.abc import Callable
from pathlib import Path

from hbdist.data.formats.json_files import json_object
from hbdist.data.formats.lines import REMEDY, nonblank_lines
from hbdist.errors import DataError

Parse = Callable[[str], tuple[str, str]]
"""Function from a line to (id, text). Raises ValueError, saying what is wrong with the line."""
TSV_LINE = "id <tab> text"
BEIR_LINE = 'an object such as {"_id": "7", "text": "…"}'


def tsv_entry(line: str) -> tuple[str, str]:
    """Return id and text of a line `id <tab> text`.

    Raises:
        ValueError: the line has no tab.
    """
    identifier, tab, text = line.rstrip("\r\n").partition("\t")
    if not tab:
        raise ValueError(f"found no tab in {line.strip()[:40]!r}")
    return identifier, text


def beir_entry(line: str) -> tuple[str, str]:
    """Return the id of a BEIR object, and its text after its title, if it has one.

    Raises:
        ValueError: the line is not an object with the texts `_id` and `text`.
    """
    values = json_object(line, ("_id", "text"))
    return values["_id"], f"{values.get('title') or ''} {values['text']}".strip()


def read_texts(path: Path, *, parse: Parse, expected: str, remedy: str = REMEDY) -> dict[str, str]:
    """Return the texts of a file by id, in its order.

    Args:
        expected: a description of a correct line, for the error message.

    Raises:
        DataError: the file is damaged, a line is not as expected, or an id occurs twice.
    """
    texts: dict[str, str] = {}
    for number, line in nonblank_lines(path, remedy=remedy):
        try:
            identifier, text = parse(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {expected}. {remedy}") from None
        if identifier in texts:
            raise DataError(f"{path}, line {number}: the id {identifier} occurs twice; expected it once. {remedy}")
        texts[identifier] = text
    return texts
