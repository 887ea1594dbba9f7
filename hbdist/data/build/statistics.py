"""How many pairs, and how long their texts are, by language: what `hbdist build` shows at the end and keeps."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from hbdist.errors import DataError
from hbdist.utils.files import write_atomically

STATISTICS = "statistics.json"


@dataclass(frozen=True)
class GroupSize:
    """A group's pairs and characters."""

    query_lang: str
    document_lang: str
    pairs: int
    query_characters: int
    document_characters: int


@dataclass(frozen=True)
class LanguageSize:
    """What a shard folder holds in one language, over all its datasets."""

    monolingual_pairs: int
    cross_lingual_queries: int
    """Pairs with a query in this language and a document in another."""
    cross_lingual_documents: int
    query_characters: int
    """Of all its queries, each as often as it is in a pair."""
    document_characters: int

    @property
    def mean_query(self) -> float:
        """Characters of a query."""
        return self.query_characters / max(1, self.monolingual_pairs + self.cross_lingual_queries)

    @property
    def mean_document(self) -> float:
        """Characters of a document."""
        return self.document_characters / max(1, self.monolingual_pairs + self.cross_lingual_documents)


@dataclass(frozen=True)
class Statistics:
    """The sizes of a shard folder by language code."""

    languages: Mapping[str, LanguageSize]

    @classmethod
    def of(cls, groups: Iterable[GroupSize]) -> Self:
        """The sums over groups."""
        sums: dict[str, list[int]] = {}
        for group in groups:
            query = sums.setdefault(group.query_lang, [0] * 5)
            document = sums.setdefault(group.document_lang, [0] * 5)
            if query is document:
                query[0] += group.pairs
            else:
                query[1] += group.pairs
                document[2] += group.pairs
            query[3] += group.query_characters
            document[4] += group.document_characters
        return cls({language: LanguageSize(*sums[language]) for language in sorted(sums)})

    @classmethod
    def load(cls, root: Path) -> Self:
        """Those of the shard folder `root`.

        Raises:
            DataError: there are none, or they are damaged.
        """
        try:
            values = json.loads((root / STATISTICS).read_text(encoding="utf-8"))
            return cls({language: LanguageSize(**size) for language, size in values["languages"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{root / STATISTICS} cannot be read: {error}; expected what a build writes. Build the folder again."
            ) from None

    def save(self, root: Path) -> None:
        """Write them into the folder: wholly or not at all."""
        values = {"languages": {language: asdict(size) for language, size in self.languages.items()}}
        write_atomically(root / STATISTICS, json.dumps(values, indent=1) + "\n")

    def text(self) -> str:
        """A table, a line a language; lengths are mean characters."""
        lines = [f"{'':8}{'X-X pairs':>12}{'X-Y queries':>13}{'X-Y docs':>11}{'query length':>14}{'doc length':>12}"]
        lines += [
            f"{language:8}{size.monolingual_pairs:>12,}{size.cross_lingual_queries:>13,}"
            f"{size.cross_lingual_documents:>11,}{size.mean_query:>14.1f}{size.mean_document:>12.1f}"
            for language, size in self.languages.items()
        ]
        return "\n".join(lines)
