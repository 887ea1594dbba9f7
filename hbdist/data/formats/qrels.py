"""Qrels: relevance judgements in the formats of TREC and of BEIR."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, assert_never

from hbdist.data.formats.lines import REMEDY, table_rows
from hbdist.errors import DataError

Layout = Literal["trec", "beir"]
"""Columns of a file: `query id, 0, document id, grade`, or BEIR's three with tabs between them, under a header."""
Qrels = dict[str, dict[str, int]]
"""Query id → id of each relevant document → its grade, above 0."""


LARGEST_GRADE = 2**31 - 1


def read_judgements(path: Path, layout: Layout, *, remedy: str = REMEDY) -> Iterator[tuple[str, str, float]]:
    """Yield (query id, document id, grade) of all judgements of a file, in its order, irrelevant documents included.

    Raises:
        DataError: the file is damaged or not in this format, or a grade is not a finite number.
    """
    return ((query, document, grade) for _, query, document, grade in _numbered_judgements(path, layout, remedy))


def read_qrels(path: Path, layout: Layout, *, remedy: str = REMEDY) -> Qrels:
    """Return the relevant documents of each judged query; a query without any has an empty dictionary.

    Of two judgements of the same document for a query, the later one counts, as in BEIR.

    Raises:
        DataError: the file is damaged or not in this format, or a grade is not a whole number (`1.0` is one).
    """
    qrels: Qrels = {}
    for line, query, document, grade in _numbered_judgements(path, layout, remedy):
        if not grade.is_integer() or abs(grade) > LARGEST_GRADE:
            raise DataError(f"{path}, line {line}: found the judgement {grade:g}; expected a whole number. {remedy}")
        documents = qrels.setdefault(query, {})
        documents.pop(document, None)
        if grade > 0:
            documents[document] = int(grade)
    return qrels


def _numbered_judgements(path: Path, layout: Layout, remedy: str) -> Iterator[tuple[int, str, str, float]]:
    separator: str | None
    match layout:
        case "trec":
            columns, expected, separator = 4, "query id, 0, document id, relevance", None
        case "beir":
            columns, expected, separator = 3, "query-id <tab> corpus-id <tab> score", "\t"
        case _:
            assert_never(layout)
    for line, cells in table_rows(path, columns=columns, expected=expected, separator=separator, remedy=remedy):
        query, *_, document, grade = cells
        if layout == "beir" and line == 1 and grade.strip() == "score":
            continue
        try:
            number = float(grade)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{path}, line {line}: found the judgement {grade.strip()[:40]!r}; expected a number. {remedy}"
            ) from None
        yield line, query, document, number
