"""Readers of retrieval data: queries and documents by id, and which document is relevant to which query.

BEIR folders, MS MARCO's TSV files (mMARCO's too) and `ir_datasets` are three notations of the same data. A query with
several relevant documents gives several rows with the query's id, so that neither document is a negative of the other;
a row's key consists of both ids.

Shape suffixes: K judgements of a chunk · T triples · P triples of one query and document.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbdist.data.formats.lines import plain_or_gzipped, table_rows
from hbdist.data.formats.qrels import Layout, read_judgements
from hbdist.data.formats.texts import BEIR_LINE, TSV_LINE, TextTable, beir_entry, tsv_entry
from hbdist.data.sources.rows import Row
from hbdist.utils.workers import Item

NOT_RELEVANT = "judged not relevant"
NO_QUERY = "query not in the source"
NO_DOCUMENT = "document not in the source"
NO_NEGATIVE = "negative not in the source"
NEGATIVE_OVER_THE_LIMIT = "negative over the limit"
REPEATED_QUERY = "repeated query id in the source"
REPEATED_DOCUMENT = "repeated document id in the source"
CHUNK = 4096
"""Number of judgements or triples looked up at a time."""


def read_beir(folder: Path, *, split: str, scratch: Path) -> Iterator[Row | str]:
    """Yield the relevant pairs of a BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv) in the order of the qrels.

    A document is its title and its text. Judgements of 0 and below give no row.

    Raises:
        DataError: a file is damaged or not in BEIR's format.
    """
    corpus_file, queries_file, qrels = beir_files(folder, split)
    queries = TextTable(queries_file, parse=beir_entry, expected=BEIR_LINE, scratch=scratch)
    documents = TextTable(corpus_file, parse=beir_entry, expected=BEIR_LINE, scratch=scratch)
    yield from rows_of_pairs(queries, documents, _relevant(qrels, "beir"))


def beir_files(folder: Path, split: str) -> tuple[Path, Path, Path]:
    """Return corpus, queries and qrels of a BEIR folder; the first two may be gzipped."""
    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    return plain_or_gzipped(corpus) or corpus, plain_or_gzipped(queries) or queries, folder / "qrels" / f"{split}.tsv"


def read_msmarco(
    corpus: Path, *, queries: Path, triples: Path | None, qrels: Path | None, negatives: int, scratch: Path
) -> Iterator[Row | str]:
    """Yield the rows of one language of MS MARCO or mMARCO. Corpus and queries are lines `id <tab> text`.

    Args:
        triples: lines of query id, relevant and irrelevant document id. The triples of one query and document become
            one row with at most `negatives` hard negatives, the first ones.
        qrels: TREC's judgements, in place of the triples. The rows have no hard negatives.

    Raises:
        DataError: a file is damaged or not in this format.
    """
    query_table = TextTable(queries, parse=tsv_entry, expected=TSV_LINE, scratch=scratch)
    documents = TextTable(corpus, parse=tsv_entry, expected=TSV_LINE, scratch=scratch)
    if triples:
        expected_columns = "query id, relevant document id, irrelevant document id"
        ids = (cells for _, cells in table_rows(triples, columns=3, expected=expected_columns))
        yield from rows_of_triples(query_table, documents, ids, negatives=negatives)
    else:
        assert qrels, "a recipe has one of the two"
        yield from rows_of_pairs(query_table, documents, _relevant(qrels, "trec"))


def rows_of_pairs(
    queries: TextTable, documents: TextTable, relevant: Iterable[tuple[str, str] | str]
) -> Iterator[Row | str]:
    """Yield a row for each (query id, document id) that both tables have, and the reason for each that has none."""
    yield from _repeats(queries, documents)
    for chunk in _chunks(relevant):
        yield from (reason for reason in chunk if isinstance(reason, str))
        pairs = [pair for pair in chunk if not isinstance(pair, str)]
        query_K = queries.positions([query for query, _ in pairs])
        document_K = documents.positions([document for _, document in pairs])
        for query, document in zip(query_K.tolist(), document_K.tolist(), strict=True):
            yield _row(queries, documents, query, document)


def rows_of_triples(
    queries: TextTable, documents: TextTable, triples: Iterable[Sequence[str]], *, negatives: int
) -> Iterator[Row | str]:
    """Yield a row for each query and relevant document, in the order of their first triples, with its hard negatives."""
    yield from _repeats(queries, documents)
    columns = array("i"), array("i"), array("i")
    for chunk in _chunks(triples):
        for column, table, ids in zip(columns, (queries, documents, documents), zip(*chunk, strict=True), strict=True):
            column.frombytes(table.positions(ids).astype(np.intc).tobytes())
    query_T, document_T, negative_T = (np.frombuffer(column, np.intc) for column in columns)
    for triple_P in _by_pair(query_T, document_T):
        row = _row(queries, documents, int(query_T[triple_P[0]]), int(document_T[triple_P[0]]))
        if isinstance(row, str):
            yield from [row] * len(triple_P)
            continue
        distinct = list(dict.fromkeys(negative_T[triple_P].tolist()))
        known = [negative for negative in distinct if negative >= 0]
        yield from [NO_NEGATIVE] * (len(distinct) - len(known))
        yield from [NEGATIVE_OVER_THE_LIMIT] * max(0, len(known) - negatives)
        yield row._replace(negatives=tuple(documents.entry(negative)[1] for negative in known[:negatives]))


def _by_pair(query_T: NDArray[np.intc], document_T: NDArray[np.intc]) -> list[NDArray[np.int64]]:
    """Return the triples of each pair in their order; pairs in the order of their first triples."""
    if not len(query_T):
        return []
    order_T = np.lexsort((document_T, query_T))  # stable
    change = (np.diff(query_T[order_T]) != 0) | (np.diff(document_T[order_T]) != 0)
    runs = np.split(order_T, np.flatnonzero(change) + 1)
    return sorted(runs, key=lambda run: int(run[0]))


def _row(queries: TextTable, documents: TextTable, query: int, document: int) -> Row | str:
    """Return the row of two positions, or the reason why there is none."""
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


def _relevant(path: Path, layout: Layout) -> Iterator[tuple[str, str] | str]:
    for query, document, grade in read_judgements(path, layout):
        yield (query, document) if grade > 0 else NOT_RELEVANT


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
