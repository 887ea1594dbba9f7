"""From rows to pairs: pure generators, one after the other, that pass on pairs and say of each one left out why.

Every generator here yields pairs (or rows) and, between them, reasons: a text for each thing that was dropped. Counting
happens once, at the end, in `counted`.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from hbdist.errors import DataError
from hbdist.shards.readers import READERS, Row
from hbdist.shards.recipe import DatasetRecipe
from hbdist.shards.sample import Pair

EMPTY_QUERY = "empty query"
EMPTY_DOCUMENT = "empty document"
EMPTY_NEGATIVE = "empty negative"
BROKEN_UNICODE = "broken Unicode"
REPEATED_ID = "repeated id"
NO_TRANSLATION = "no translation"
IDENTICAL_PAIR = "identical pair"
OVER_THE_CAP = "over the cap"


def usable_rows(dataset: DatasetRecipe, language: str) -> Iterator[Row | str]:
    """The rows of one language's file, in its order, each with an id.

    Ids that are missing are made from the row's number. Where several files are no translations of each other, equal
    ids (and document ids) in two of them are a coincidence, and get their language as a prefix.

    Raises:
        DataError: the file is damaged, or a row of a parallel dataset has no id.
    """
    path = dataset.files[language]
    scope = "" if dataset.parallel or len(dataset.files) == 1 else f"{language}:"
    seen: set[str] = set()
    for number, row in enumerate(READERS[dataset.reader](path, **dataset.reader_options), 1):
        reason = row if isinstance(row, str) else _fault(row)
        if reason or isinstance(row, str):
            yield reason
            continue
        if row.id is None and dataset.parallel:
            raise DataError(
                f"{path}, row {number}: no id; expected one, because {dataset.name} is parallel = true. Add ids, or "
                'name the field that has them in the recipe: fields = { id = "…" }.'
            )
        identifier = scope + (row.id if row.id is not None else str(number))
        if dataset.parallel and identifier in seen:
            yield REPEATED_ID
            continue
        if dataset.parallel:
            seen.add(identifier)
        yield from [EMPTY_NEGATIVE for text in row.negatives if not text.strip()]
        yield row._replace(
            id=identifier,
            document_id=None if row.document_id is None else scope + row.document_id,
            negatives=tuple(text for text in row.negatives if text.strip()),
        )


def monolingual(rows: Iterable[Row | str], *, dataset: str, language: str) -> Iterator[Pair | str]:
    """Each row's query with its own document."""
    for row in rows:
        yield row if isinstance(row, str) else _pair(row, document=row, dataset=dataset, languages=(language, language))


def cross_lingual(
    rows: Iterable[Row | str], documents: Mapping[str, Row], *, dataset: str, languages: tuple[str, str]
) -> Iterator[Pair | str]:
    """Each row's query with the document, and the hard negatives, that `documents` (of the other language) has under
    the row's id."""
    for row in rows:
        if isinstance(row, str):  # counted already, by the monolingual group of the same file
            continue
        translation = documents.get(str(row.id))
        yield (
            NO_TRANSLATION
            if translation is None
            else _pair(row, document=translation, dataset=dataset, languages=languages)
        )


def distinct(pairs: Iterable[Pair | str]) -> Iterator[Pair | str]:
    """The first of all pairs with the same query and document."""
    seen: set[bytes] = set()
    for pair in pairs:
        if isinstance(pair, str):
            yield pair
            continue
        key = _digest(pair.query, pair.document)
        yield IDENTICAL_PAIR if key in seen else pair
        seen.add(key)


def capped(pairs: Iterable[Pair | str], cap: int) -> Iterator[Pair | str]:
    """At most `cap` pairs (0: all), in their order.

    Chosen by a hash of dataset, language pair and id: so the choice depends on nothing else, and the groups of a
    parallel dataset keep different ids and together cover more of them.
    """
    if not cap:
        yield from pairs
        return
    kept: list[tuple[int, int, Pair]] = []  # a heap, the pair next to go on top
    for position, pair in enumerate(pairs):
        if isinstance(pair, str):
            yield pair
            continue
        rank = int.from_bytes(_digest(pair.dataset, f"{pair.query_lang}-{pair.document_lang}", pair.id))
        entry = (-rank, -position, pair)
        if len(kept) < cap:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
            yield OVER_THE_CAP
    yield from (pair for _, _, pair in sorted(kept, key=lambda entry: -entry[1]))


def counted(pairs: Iterable[Pair | str], dropped: Counter[str]) -> Iterator[Pair]:
    """The pairs alone; the reasons are counted in `dropped`."""
    for pair in pairs:
        if isinstance(pair, str):
            dropped[pair] += 1
        else:
            yield pair


def _fault(row: Row) -> str:
    """Why the row cannot be used; empty if it can."""
    if not row.query.strip():
        return EMPTY_QUERY
    if not row.document.strip():
        return EMPTY_DOCUMENT
    try:
        "".join((row.id or "", row.query, row.document, row.document_id or "", *row.negatives)).encode()
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can spell it, UTF-8 cannot
        return BROKEN_UNICODE
    return ""


def _pair(query: Row, *, document: Row, dataset: str, languages: tuple[str, str]) -> Pair:
    return Pair(
        dataset=dataset,
        id=str(query.id),
        query=query.query,
        document=document.document,
        query_lang=languages[0],
        document_lang=languages[1],
        negatives=document.negatives,
        document_id=document.document_id,
    )


def _digest(*texts: str) -> bytes:
    """16 bytes that only these texts, in this order, have."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8) + data)
    return digest.digest()
