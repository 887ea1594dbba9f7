"""Pairing of staged rows into the pairs of a group: joins and selections over arrays of keys, without texts in memory.

Shape suffixes: N rows of a language · P pairs.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbdist.data.build.staging import StagedRows, first_of
from hbdist.data.build.statistics import GroupSize
from hbdist.data.build.text_keys import KEY, digest
from hbdist.data.shards.sample import Pair
from hbdist.utils.workers import counted

NO_TRANSLATION = "no translation"
SAME_TEXT = "same text in both languages"
IDENTICAL_PAIR = "identical pair"
IN_AN_EARLIER_DATASET = "in an earlier dataset"
HELD_OUT = "held out for validation"
OVER_THE_CAP = "over the cap"


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query in one language and a document in another (or the same), as indexes of staged rows."""

    dataset: str
    languages: tuple[str, str]
    queries: StagedRows
    documents: StagedRows
    query_P: NDArray[np.int64]
    document_P: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.query_P)

    def __iter__(self) -> Iterator[Pair]:
        for query_row, document_row in counted(zip(self.query_P.tolist(), self.document_P.tolist(), strict=True)):
            query = self.queries[query_row]
            document = query if self.monolingual else self.documents[document_row]
            texts, negatives = (query.query, document.document), document.negatives
            yield Pair(self.dataset, str(query.id), *texts, *self.languages, negatives, document.document_id)

    @property
    def monolingual(self) -> bool:
        """True if query and document are of the same language."""
        return self.documents is self.queries

    @property
    def text_keys(self) -> NDArray[np.void]:
        """Keys that are equal for pairs with the same texts: [P]."""
        texts = np.empty(len(self), [("query", "<u8"), ("document", "<u8")])
        texts["query"] = self.queries.row_N["query"][self.query_P]
        texts["document"] = self.documents.row_N["document"][self.document_P]
        return texts.view(KEY)

    @property
    def size(self) -> GroupSize:
        """Number of pairs and of characters."""
        query_chars = self.queries.row_N["query_chars"][self.query_P].sum(dtype=np.int64)
        document_chars = self.documents.row_N["document_chars"][self.document_P].sum(dtype=np.int64)
        return GroupSize(*self.languages, len(self), int(query_chars), int(document_chars), self._count_alike())

    def _count_alike(self) -> int:
        """Return the number of pairs in which the query, or the document, is the same text in both languages."""
        if self.monolingual:
            return 0
        queries, documents = self.queries.row_N, self.documents.row_N
        alike_P = np.zeros(len(self), bool)
        for text in ("query", "document"):
            alike_P |= queries[text][self.query_P] == documents[text][self.document_P]
        return int(alike_P.sum())

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """Mask of the pairs for validation: [P]."""
        return self.queries.row_N["held_out"][self.query_P]

    def select(self, kept_P: NDArray[np.bool_] | NDArray[np.int64]) -> "Pairs":
        """Return the pairs of a mask, or those at these indexes."""
        return replace(self, query_P=self.query_P[kept_P], document_P=self.document_P[kept_P])

    def keep(self, kept_P: NDArray[np.bool_], reason: str, dropped: Counter[str]) -> "Pairs":
        """Return the pairs of a mask, and count the others under this reason."""
        dropped[reason] += int((~kept_P).sum())
        return self.select(kept_P)


def join_languages(
    dataset: str,
    languages: tuple[str, str],
    folders: tuple[Path, Path],
    *,
    excluded: NDArray[np.void],
    dropped: Counter[str],
) -> Pairs:
    """Pair each query with the document of the same key in the other language; within one language, with its own.

    The order is that of the queries. Rows whose key is among the `excluded` are in no pair.
    """
    queries = StagedRows(folders[0])
    documents = queries if folders[0] == folders[1] else StagedRows(folders[1])
    key_N = queries.row_N["key"]
    query_P = np.flatnonzero(~np.isin(key_N, excluded)) if len(excluded) else np.arange(len(key_N))
    pairs = Pairs(dataset, languages, queries, documents, query_P, query_P)
    if pairs.monolingual:
        return pairs
    document_P = positions_of(key_N[query_P], documents.row_N["key"])
    return replace(pairs, document_P=document_P).keep(document_P >= 0, NO_TRANSLATION, dropped)


def drop_untranslated(pairs: Pairs, dropped: Counter[str]) -> Pairs:
    """Drop pairs of lines of parallel text that are the same: an untranslated line teaches nothing."""
    query_P = pairs.queries.row_N["document"][pairs.query_P]
    return pairs.keep(query_P != pairs.documents.row_N["document"][pairs.document_P], SAME_TEXT, dropped)


def drop_duplicates(pairs: Pairs, dropped: Counter[str]) -> Pairs:
    """Keep the first of all pairs with the same query and document."""
    first_P = np.zeros(len(pairs), bool)
    first_P[first_of(pairs.text_keys)] = True
    return pairs.keep(first_P, IDENTICAL_PAIR, dropped)


def drop_known(pairs: Pairs, earlier: Pairs, dropped: Counter[str]) -> Pairs:
    """Drop pairs that an earlier dataset has too."""
    return pairs.keep(~np.isin(pairs.text_keys, earlier.text_keys), IN_AN_EARLIER_DATASET, dropped)


def cap(pairs: Pairs, limit: int, dropped: Counter[str]) -> Pairs:
    """Keep at most `limit` pairs (0: all), in their order.

    They are chosen by a hash of dataset, language pair and id. So the choice depends on nothing else, and the groups of
    a parallel dataset keep different ids and together cover more of them.
    """
    if not limit or len(pairs) <= limit:
        return pairs
    languages = "-".join(pairs.languages)
    hashes = (digest(pairs.dataset, languages, pairs.queries.id(row)) for row in pairs.query_P.tolist())
    hash_P = np.fromiter(hashes, KEY, len(pairs))
    dropped[OVER_THE_CAP] += len(pairs) - limit
    return pairs.select(np.sort(np.argsort(hash_P, kind="stable")[:limit]))


def positions_of(key_P: NDArray[np.void], key_N: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the position of each key in `key_N`, whose keys all differ; −1 for a key that is not there."""
    if not len(key_N):
        return np.full(len(key_P), -1)
    order_N = np.argsort(key_N)
    sorted_N = key_N[order_N]
    position_P = np.minimum(np.searchsorted(sorted_N, key_P), len(key_N) - 1)
    return np.where(sorted_N[position_P] == key_P, order_N[position_P], -1)
