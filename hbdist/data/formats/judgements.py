"""The line formats in which benchmarks are published: TSV texts, TREC and BEIR judgements, JSON objects."""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hbdist.errors import DataError

Judged = dict[str, dict[str, int]]
"""Question id → published id of each candidate that is relevant to it → its grade, above 0."""


def numbered_lines(path: Path, again: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, plain or gzipped, that hold something, and their numbers from 1, without line ends.

    Raises:
        DataError: the file is damaged.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for raw in file:
                number += 1
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged after line {number}: {error}. {again}") from None


def tsv_texts(path: Path, *, again: str) -> dict[str, str]:
    """`id <tab> text` → texts by id, in their order.

    Raises:
        DataError: the file is damaged, a line has no tab, or an id is there twice.
    """
    texts: dict[str, str] = {}
    for number, line in numbered_lines(path, again):
        identifier, tab, text = line.partition("\t")
        if not tab or not text.strip():
            raise DataError(f"{path}, line {number}: found {line[:40]!r}; expected id <tab> text. {again}")
        if identifier in texts:
            raise DataError(f"{path}, line {number}: the id {identifier} is there twice. {again}")
        texts[identifier] = text
    return texts


def trec_judgements(path: Path, *, again: str) -> Judged:
    """`query id, Q0, document id, grade` → the relevant documents; a question that has none keeps an empty list.

    Raises:
        DataError: the file is damaged or not in this format.
    """
    return _judgements(path, columns=4, query=0, document=2, header=False, again=again)


def beir_judgements(path: Path, *, again: str) -> Judged:
    """`query-id <tab> corpus-id <tab> score`, under a line that says so → as `trec_judgements`.

    Raises:
        DataError: the file is damaged or not in this format.
    """
    return _judgements(path, columns=3, query=0, document=1, header=True, again=again)


def _judgements(path: Path, *, columns: int, query: int, document: int, header: bool, again: str) -> Judged:
    judged: Judged = {}
    for number, line in numbered_lines(path, again):
        cells = line.split("\t") if header else line.split()
        if header and number == 1 and cells[-1].strip() == "score":
            continue
        try:
            if len(cells) != columns:
                raise ValueError(f"found {len(cells)} columns; expected {columns}")
            grade = int(cells[-1])
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}. Is it a file of judgements? {again}") from None
        documents = judged.setdefault(cells[query], {})
        if grade > 0:
            documents[cells[document]] = grade
    return judged


def json_object(line: str, texts: Sequence[str]) -> dict[str, Any]:
    """The object in a line.

    Args:
        line: JSON.
        texts: the names under which it must have texts.

    Raises:
        ValueError: it is not an object, or a text is not there.
    """
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError(f"found a {type(values).__name__}")
    for name in texts:
        if not isinstance(values.get(name), str):
            raise ValueError(f"found no text under {name} among {', '.join(values) or 'no fields'}")
    return values
