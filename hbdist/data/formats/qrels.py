"""Qrels: relevance judgements in the formats of TREC and of BEIR."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from hbdist.data.formats.lines import REMEDY, table_rows
from hbdist.errors import DataError

Layout = Literal["trec", "beir"]
"""Columns of a file: `query id, 0, document id, grade`, or BEIR's three with tabs between them, under a header."""
Qrels = dict[str, dict[str, int]]
"""Query id → id of each relevant document → its grade, above 0."""


def read_judgements(
    path: Path, layout: Layout, *, number: Callable[[str], float] = float, remedy: str = REMEDY
) -> Iterator[tuple[str, str, float]]:
    """Yield (query id, document id, grade) of all judgements of a file, in its order, irrelevant documents included.

    Args:
        number: the type of the grades: float or int.

    Raises:
        DataError: the file is damaged or not in this format.
    """
    columns, expected, separator = 4, "query id, 0, document id, relevance", None
    if layout == "beir":
        columns, expected, separator = 3, "query-id <tab> corpus-id <tab> score", "\t"
    for line, cells in table_rows(path, columns=columns, expected=expected, separator=separator, remedy=remedy):
        query, *_, document, grade = cells
        if layout == "beir" and line == 1 and grade.strip() == "score":
            continue
        try:
            yield query, document, number(grade)
        except ValueError:
            kind = "whole number" if number is int else "number"
            raise DataError(
                f"{path}, line {line}: found the judgement {grade.strip()!r}; expected a {kind}. {remedy}"
            ) from None


def read_qrels(path: Path, layout: Layout, *, remedy: str = REMEDY) -> Qrels:
    """Return the relevant documents of each judged query; a query without any has an empty dictionary.

    Raises:
        DataError: the file is damaged or not in this format, or a grade is not a whole number.
    """
    qrels: Qrels = {}
    for query, document, grade in read_judgements(path, layout, number=int, remedy=remedy):
        documents = qrels.setdefault(query, {})
        if grade > 0:
            documents[document] = int(grade)
    return qrels
