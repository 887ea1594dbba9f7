"""Statistics of a shard folder: pairs and lengths of texts by language. `hbdist build` prints and stores them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from hbdist.data.shards.alike import ALIKE_SHARE, ALIKE_WARNING
from hbdist.errors import DataError
from hbdist.utils.files import write_atomically
from hbdist.utils.json_toml import read_json_object

STATISTICS = "statistics.json"


@dataclass(frozen=True)
class GroupSize:
    """Pairs and characters of a group."""

    query_lang: str
    document_lang: str
    pairs: int
    query_characters: int
    document_characters: int
    alike: int = 0
    """Number of pairs of two languages in which the query, or the document, is the same text in both."""


@dataclass(frozen=True)
class LanguageSize:
    """Pairs and characters of one language, over all datasets of a shard folder."""

    monolingual_pairs: int
    cross_lingual_queries: int
    """Number of pairs with a query in this language and a document in another."""
    cross_lingual_documents: int
    """Number of pairs with a document in this language and a query in another."""
    query_characters: int
    """Characters of all its queries, each counted as often as it is in a pair."""
    document_characters: int
    """Characters of all its documents, each counted as often as it is in a pair."""
    alike: int = 0
    """Number of cross-lingual pairs with a query in this language in which the query, or the document, is the same text in
    both languages: not translated, or a file under the wrong language. (Earlier versions did not count them.)"""

    @property
    def mean_query(self) -> float:
        """Characters per query."""
        return self.query_characters / max(1, self.monolingual_pairs + self.cross_lingual_queries)

    @property
    def mean_document(self) -> float:
        """Characters per document."""
        return self.document_characters / max(1, self.monolingual_pairs + self.cross_lingual_documents)


@dataclass(frozen=True)
class Statistics:
    """Sizes of a shard folder by language code."""

    languages: Mapping[str, LanguageSize]

    @classmethod
    def of(cls, groups: Iterable[GroupSize]) -> Self:
        """Return the sums over groups."""
        sums: dict[str, list[int]] = {}
        for group in groups:
            query = sums.setdefault(group.query_lang, [0] * 6)
            document = sums.setdefault(group.document_lang, [0] * 6)
            if query is document:
                query[0] += group.pairs
            else:
                query[1] += group.pairs
                document[2] += group.pairs
            query[3] += group.query_characters
            document[4] += group.document_characters
            query[5] += group.alike
        return cls({language: LanguageSize(*sums[language]) for language in sorted(sums)})

    @classmethod
    def load(cls, root: Path) -> Self:
        """Read the statistics of the shard folder `root`.

        Raises:
            DataError: there are none, or they are damaged.
        """
        values = read_json_object(root / STATISTICS, remedy="Build the folder again.")
        try:
            return cls({language: LanguageSize(**size) for language, size in values["languages"].items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{root / STATISTICS} cannot be read: {error}; expected the statistics of a build. Build the folder again."
            ) from None

    def save(self, root: Path) -> None:
        """Write the statistics into the folder."""
        write_atomically(root / STATISTICS, json.dumps(asdict(self), indent=1) + "\n")

    def text(self) -> str:
        """Return a table with one line per language; lengths are mean characters."""
        lines = [f"{'':8}{'X-X pairs':>12}{'X-Y queries':>13}{'X-Y docs':>11}{'query length':>14}{'doc length':>12}"]
        lines += [
            f"{language:8}{size.monolingual_pairs:>12,}{size.cross_lingual_queries:>13,}"
            f"{size.cross_lingual_documents:>11,}{size.mean_query:>14.1f}{size.mean_document:>12.1f}"
            for language, size in self.languages.items()
        ]
        cross_lingual = sum(size.cross_lingual_queries for size in self.languages.values())
        if alike := sum(size.alike for size in self.languages.values()):
            lines.append(
                f"{alike:,} of {cross_lingual:,} cross-lingual pairs ({alike / cross_lingual:.1%}) have the same query or the"
                " same document in both languages"
            )
            if alike > ALIKE_SHARE * cross_lingual:
                lines.append(ALIKE_WARNING)
        return "\n".join(lines)
