"""Which staged rows make the pairs of a group: joins and choices over arrays of keys, without a single text in memory.

Shape suffixes: N rows of a language · P pairs.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hbdist.data.build.staging import BLOCK, StagedRows, first_of
from hbdist.data.build.statistics import GroupSize
from hbdist.data.build.text_keys import KEY, digest
from hbdist.data.shards.sample import Pair
from hbdist.utils.workers import count

NO_TRANSLATION = "no translation"
SAME_TEXT = "same text in both languages"
IDENTICAL_PAIR = "identical pair"
IN_AN_EARLIER_DATASET = "in an earlier dataset"
HELD_OUT = "held out for validation"
OVER_THE_CAP = "over the cap"


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query of one language and a document of another (or the same), as rows of the two."""

    dataset: str
    languages: tuple[str, str]
    queries: StagedRows
    documents: StagedRows
    query_P: NDArray[np.int64]
    document_P: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.query_P)

    def __iter__(self) -> Iterator[Pair]:
        for number, (query_row, document_row) in enumerate(
            zip(self.query_P.tolist(), self.document_P.tolist(), strict=True), 1
        ):
            query = self.queries[query_row]
            document = query if self.monolingual else self.documents[document_row]
            yield Pair(
                dataset=self.dataset,
                id=str(query.id),
                query=query.query,
                document=document.document,
                query_lang=self.languages[0],
                document_lang=self.languages[1],
                negatives=document.negatives,
                document_id=document.document_id,
            )
            if number % BLOCK == 0:
                count(BLOCK)
        count(len(self) % BLOCK)

    @property
    def monolingual(self) -> bool:
        return self.documents is self.queries

    @property
    def text_keys(self) -> NDArray[np.void]:
        """What pairs with the same texts have in common: [P]."""
        texts = np.empty(len(self), [("query", "<u8"), ("document", "<u8")])
        texts["query"] = self.queries.row_N["query"][self.query_P]
        texts["document"] = self.documents.row_N["document"][self.document_P]
        return texts.view(KEY)

    @property
    def size(self) -> GroupSize:
        """Pairs and characters."""
        query_chars = self.queries.row_N["query_chars"][self.query_P].sum(dtype=np.int64)
        document_chars = self.documents.row_N["document_chars"][self.document_P].sum(dtype=np.int64)
        return GroupSize(*self.languages, len(self), int(query_chars), int(document_chars))

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """Which pairs are for validation: [P]."""
        return self.queries.row_N["held_out"][self.query_P]

    def where(self, kept_P: NDArray[np.bool_] | NDArray[np.int64]) -> "Pairs":
        """Those of a mask, or at these places."""
        return Pairs(
            self.dataset, self.languages, self.queries, self.documents, self.query_P[kept_P], self.document_P[kept_P]
        )


def translated(
    dataset: str,
    languages: tuple[str, str],
    folders: tuple[Path, Path],
    *,
    excluded: NDArray[np.void],
    dropped: Counter[str],
) -> Pairs:
    """Each query with the document that has its key in the other language; of one language, with its own.

    The order is that of the queries. Rows whose key is among the `excluded` are nobody's.
    """
    queries = StagedRows(folders[0])
    documents = queries if folders[0] == folders[1] else StagedRows(folders[1])
    key_N = queries.row_N["key"]
    query_P = np.flatnonzero(~np.isin(key_N, excluded)) if len(excluded) else np.arange(len(key_N))
    if documents is queries:
        return Pairs(dataset, languages, queries, documents, query_P, query_P)
    document_P = places_of(key_N[query_P], documents.row_N["key"])
    found_P = document_P >= 0
    dropped[NO_TRANSLATION] += int((~found_P).sum())
    return Pairs(dataset, languages, queries, documents, query_P[found_P], document_P[found_P])


def without_copies(pairs: Pairs, dropped: Counter[str]) -> Pairs:
    """The pairs of a parallel text whose two lines are not the same: an untranslated line teaches nothing."""
    query_P = pairs.queries.row_N["document"][pairs.query_P]
    return _kept(pairs, query_P != pairs.documents.row_N["document"][pairs.document_P], SAME_TEXT, dropped)


def distinct(pairs: Pairs, dropped: Counter[str]) -> Pairs:
    """The first of all pairs with the same query and document."""
    first_P = np.zeros(len(pairs), bool)
    first_P[first_of(pairs.text_keys)] = True
    return _kept(pairs, first_P, IDENTICAL_PAIR, dropped)


def not_among(pairs: Pairs, others: Pairs, dropped: Counter[str]) -> Pairs:
    """The pairs whose texts are not those of one of the others."""
    return _kept(pairs, ~np.isin(pairs.text_keys, others.text_keys), IN_AN_EARLIER_DATASET, dropped)


def capped(pairs: Pairs, cap: int, dropped: Counter[str]) -> Pairs:
    """At most `cap` pairs (0: all), in their order.

    Chosen by a hash of dataset, language pair and id: so the choice depends on nothing else, and the groups of a
    parallel dataset keep different ids and together cover more of them.
    """
    if not cap or len(pairs) <= cap:
        return pairs
    pair = "-".join(pairs.languages)
    ranks = (digest(pairs.dataset, pair, pairs.queries.id(row)) for row in pairs.query_P.tolist())
    rank_P = np.fromiter(ranks, KEY, len(pairs))
    dropped[OVER_THE_CAP] += len(pairs) - cap
    return pairs.where(np.sort(np.argsort(rank_P, kind="stable")[:cap]))


def places_of(key_P: NDArray[np.void], key_N: NDArray[np.void]) -> NDArray[np.int64]:
    """Where in `key_N`, whose keys are all different, each key is; −1 where it is not."""
    if not len(key_N):
        return np.full(len(key_P), -1)
    order_N = np.argsort(key_N)
    sorted_N = key_N[order_N]
    place_P = np.minimum(np.searchsorted(sorted_N, key_P), len(key_N) - 1)
    return np.where(sorted_N[place_P] == key_P, order_N[place_P], -1)


def _kept(pairs: Pairs, kept_P: NDArray[np.bool_], reason: str, dropped: Counter[str]) -> Pairs:
    dropped[reason] += int((~kept_P).sum())
    return pairs.where(kept_P)
