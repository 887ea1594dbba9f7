"""Readers of collections: queries and documents by id, and a list of which document is relevant to which query.

BEIR folders, MS MARCO's TSV files (also mMARCO's) and `ir_datasets` are the same thing in three spellings. A query with
several relevant documents gives several rows with the query's id, so that neither document is a negative of the other;
a row's key is both ids.

Shape suffixes: K relations of a chunk · T triples · P pairs of a query and its document.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hbdist.data.formats.lines import numbered_lines
from hbdist.data.formats.text_table import TextTable, beir_entry, tsv_entry
from hbdist.data.sources.rows import Row
from hbdist.errors import DataError

NOT_RELEVANT = "judged not relevant"
NO_QUERY = "query not in the source"
NO_DOCUMENT = "document not in the source"
NO_NEGATIVE = "negative not in the source"
NEGATIVE_OVER_THE_LIMIT = "negative over the limit"
REPEATED_QUERY = "repeated query id in the source"
REPEATED_DOCUMENT = "repeated document id in the source"
BEIR_LINE = 'an object such as {"_id": "7", "text": "…"}'
TSV_LINE = "id <tab> text"
CHUNK = 4096
"""Relations looked up at a time."""
Item = TypeVar("Item")


def read_beir(folder: Path, *, split: str, scratch: Path) -> Iterator[Row | str]:
    """The relevant pairs of a BEIR folder: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, in the order of the last.

    A document is its title and its text. Judgements of 0 and below are no pairs.

    Raises:
        DataError: a file is damaged or not in BEIR's format.
    """
    queries = TextTable(beir_file(folder, "queries"), parse=beir_entry, expected=BEIR_LINE, scratch=scratch)
    documents = TextTable(beir_file(folder, "corpus"), parse=beir_entry, expected=BEIR_LINE, scratch=scratch)
    yield from rows_of_pairs(queries, documents, _beir_qrels(folder / "qrels" / f"{split}.tsv"))


def beir_file(folder: Path, name: str) -> Path:
    """`corpus` or `queries` of a BEIR folder, plain or gzipped; the plain name where there is neither."""
    packed = folder / f"{name}.jsonl.gz"
    return packed if packed.is_file() else folder / f"{name}.jsonl"


def read_msmarco(
    collection: Path, *, queries: Path, triples: Path | None, qrels: Path | None, negatives: int, scratch: Path
) -> Iterator[Row | str]:
    """The pairs of one language of MS MARCO or mMARCO: collection and queries are `id <tab> text`.

    Args:
        triples: lines of query id, relevant and irrelevant document id: triples of the same query and document become
            one row, with `negatives` hard negatives at most, the first ones.
        qrels: instead of triples, TREC's lines of query id, 0, document id, relevance: rows without hard negatives.

    Raises:
        DataError: a file is damaged or not in this format.
    """
    query_table = TextTable(queries, parse=tsv_entry, expected=TSV_LINE, scratch=scratch)
    documents = TextTable(collection, parse=tsv_entry, expected=TSV_LINE, scratch=scratch)
    if triples:
        yield from rows_of_triples(query_table, documents, _triples(triples), negatives=negatives)
    else:
        assert qrels, "a recipe gives one of the two"
        yield from rows_of_pairs(query_table, documents, _trec_qrels(qrels))


def rows_of_pairs(
    queries: TextTable, documents: TextTable, relevant: Iterable[tuple[str, str] | str]
) -> Iterator[Row | str]:
    """A row for each (query id, document id) that both tables have."""
    yield from _repeats(queries, documents)
    for chunk in _chunks(relevant):
        yield from (reason for reason in chunk if isinstance(reason, str))
        pairs = [pair for pair in chunk if not isinstance(pair, str)]
        query_K = queries.places([query for query, _ in pairs])
        document_K = documents.places([document for _, document in pairs])
        for query, document in zip(query_K.tolist(), document_K.tolist(), strict=True):
            yield _row(queries, documents, query, document)


def rows_of_triples(
    queries: TextTable, documents: TextTable, triples: Iterable[tuple[str, str, str]], *, negatives: int
) -> Iterator[Row | str]:
    """A row for each query and relevant document, in the order of their first triples, with its hard negatives."""
    yield from _repeats(queries, documents)
    columns = array("i"), array("i"), array("i")
    for chunk in _chunks(triples):
        places = [
            table.places([triple[column] for triple in chunk])
            for column, table in enumerate((queries, documents, documents))
        ]
        for column, place_K in zip(columns, places, strict=True):
            column.frombytes(place_K.astype(np.intc).tobytes())
    query_T, document_T, negative_T = (np.frombuffer(column, np.intc) for column in columns)
    for triple_P in _by_pair(query_T, document_T):
        query, document = int(query_T[triple_P[0]]), int(document_T[triple_P[0]])
        if query < 0 or document < 0:
            yield from [NO_QUERY if query < 0 else NO_DOCUMENT] * len(triple_P)
            continue
        found = list(dict.fromkeys(negative_T[triple_P].tolist()))
        yield from [NO_NEGATIVE for negative in found if negative < 0]
        found = [negative for negative in found if negative >= 0]
        yield from [NEGATIVE_OVER_THE_LIMIT] * max(0, len(found) - negatives)
        row = _row(queries, documents, query, document)
        texts = tuple(documents.entry(negative)[1] for negative in found[:negatives])
        yield row if isinstance(row, str) else row._replace(negatives=texts)


def _by_pair(query_T: NDArray[np.intc], document_T: NDArray[np.intc]) -> list[NDArray[np.int64]]:
    """The triples of each pair in their order; pairs in the order of their first triples."""
    if not len(query_T):
        return []
    order_T = np.lexsort((document_T, query_T))  # stable
    change = (np.diff(query_T[order_T]) != 0) | (np.diff(document_T[order_T]) != 0)
    runs = np.split(order_T, np.flatnonzero(change) + 1)
    return sorted(runs, key=lambda run: int(run[0]))


def _row(queries: TextTable, documents: TextTable, query: int, document: int) -> Row | str:
    if query < 0:
        return NO_QUERY
    if document < 0:
        return NO_DOCUMENT
    query_id, query_text = queries.entry(query)
    document_id, document_text = documents.entry(document)
    return Row(query_id, query_text, document_text, document_id, key=f"{query_id}\t{document_id}")


def _repeats(queries: TextTable, documents: TextTable) -> Iterator[str]:
    yield from [REPEATED_QUERY] * queries.repeated
    yield from [REPEATED_DOCUMENT] * documents.repeated


def _beir_qrels(path: Path) -> Iterator[tuple[str, str] | str]:
    for number, cells in _cells(path, columns=3, expected="query-id <tab> corpus-id <tab> score", separator="\t"):
        if number == 1 and cells[2].strip() == "score":
            continue
        yield _judged(path, number, query=cells[0], document=cells[1], relevance=cells[2])


def _trec_qrels(path: Path) -> Iterator[tuple[str, str] | str]:
    for number, cells in _cells(path, columns=4, expected="query id, 0, document id, relevance"):
        yield _judged(path, number, query=cells[0], document=cells[2], relevance=cells[3])


def _triples(path: Path) -> Iterator[tuple[str, str, str]]:
    for _, cells in _cells(path, columns=3, expected="query id, relevant document id, irrelevant document id"):
        yield cells[0], cells[1], cells[2]


def _judged(path: Path, number: int, *, query: str, document: str, relevance: str) -> tuple[str, str] | str:
    try:
        return (query, document) if float(relevance) > 0 else NOT_RELEVANT
    except ValueError:
        raise DataError(
            f"{path}, line {number}: found the judgement {relevance.strip()!r}; expected a number. Mend the line."
        ) from None


def _cells(
    path: Path, *, columns: int, expected: str, separator: str | None = None
) -> Iterator[tuple[int, Sequence[str]]]:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        cells = line.rstrip("\r\n").split(separator)
        if len(cells) != columns:
            raise DataError(
                f"{path}, line {number}: found {len(cells)} columns; expected {columns}: {expected}. Mend the line, or "
                "correct the recipe."
            )
        yield number, cells


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
