"""The rows of one language on disk between reading them and pairing them: texts in a file, what pairing needs in arrays.

Pairing looks at keys and digests only, some fifty bytes a row, mapped from disk; a text is read when it is written.

Shape suffixes: N rows of a language.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from hbdist.data.build.decontamination import CONTAMINATED_NEGATIVE, Contamination, contamination_of
from hbdist.data.build.readers import read
from hbdist.data.build.recipe import DatasetRecipe, Recipe
from hbdist.data.build.text_keys import KEY, digest, normalised, share_of, short_digest
from hbdist.data.sources.rows import EMPTY_NEGATIVE, REPEATED_ID, Row, unusable
from hbdist.errors import DataError
from hbdist.utils.workers import count

SHORT_QUERY, LONG_QUERY = "query too short", "query too long"
SHORT_DOCUMENT, LONG_DOCUMENT = "document too short", "document too long"

STAGED = np.dtype(
    [
        ("key", KEY),
        ("query", "<u8"),
        ("document", "<u8"),
        ("offset", "<i8"),
        ("id_size", "<i4"),
        ("size", "<i4"),
        ("query_chars", "<i4"),
        ("document_chars", "<i4"),
        ("held_out", "?"),
    ]
)
"""A row: what finds its translations; digests of its texts; where its id and then the rest lie, in bytes; its texts'
lengths, in characters; whether it is for validation."""
TEXTS, ROWS, CONTAMINATED = "texts", "rows.npy", "contaminated.npy"
BLOCK = 1000
"""Rows handled between two signs of life."""
_dump = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Staged:
    """What came of one language's source."""

    rows: int
    records: int
    """Of the source, with and without a row."""
    dropped: dict[str, int]


def stage(plan: Recipe, dataset: DatasetRecipe, language: str, *, inputs: str, folder: Path, scratch: Path) -> Staged:
    """Read one language of a dataset, and write its usable rows into `folder`.

    Args:
        inputs: a digest of the recipe and all its files.
        scratch: an empty folder for what the reader has to put on disk.

    Raises:
        ConfigError, DataError: as the readers; or a row of a parallel dataset has no id.
    """
    form: Callable[[str], str] = normalised if plan.deduplicate.text == "normalised" else str
    sieve = _Sieve(plan, dataset, language, inputs)
    blocks, block, position = [], [], 0
    with (folder / TEXTS).open("wb") as texts:
        for key, row in sieve.rows(scratch):
            held_out = plan.validation > 0 and share_of("validation", dataset.name, str(row.id)) < plan.validation
            name, rest = str(row.id).encode(), _dump(row[1:5]).encode()
            digests = short_digest(form(row.query)), short_digest(form(row.document))
            characters = len(row.query), len(row.document)
            block.append((key, *digests, position, len(name), len(rest), *characters, held_out))
            position += texts.write(name + rest)
            if len(block) == BLOCK:
                blocks.append(np.array(block, STAGED))
                block = []
                count(BLOCK)
    count(len(block))
    row_N = np.concatenate([*blocks, np.array(block, STAGED)])
    if dataset.parallel:
        kept = first_of(row_N["key"])
        sieve.dropped[REPEATED_ID] += len(row_N) - len(kept)
        row_N = row_N[kept]
    np.save(folder / ROWS, row_N)
    np.save(folder / CONTAMINATED, np.array(sieve.contaminated, KEY))
    return Staged(len(row_N), sieve.records, dict(sorted((+sieve.dropped).items())))


class _Sieve:
    """Passes on the usable rows of one language with their keys, and keeps count of the others."""

    def __init__(self, plan: Recipe, dataset: DatasetRecipe, language: str, inputs: str) -> None:
        self.plan, self.dataset, self.language = plan, dataset, language
        self.contamination = contamination_of(plan.decontaminate, inputs) if plan.decontaminate else None
        self.dropped: Counter[str] = Counter()
        self.contaminated: list[bytes] = []
        self.records = 0

    def rows(self, scratch: Path) -> Iterator[tuple[bytes, Row]]:
        for found in read(self.dataset, self.language, scratch=scratch):
            self.records += 1
            row = found if isinstance(found, str) else _usable(found, self.plan, self.dropped)
            if isinstance(row, str):
                self.dropped[row] += 1
                continue
            row = _identified(row, self.dataset, self.language, number=self.records)
            key = digest(row.key or str(row.id))
            if not self.contamination:
                yield key, row
            elif reason := self.contamination.fault(row):
                self.dropped[reason] += 1
                self.contaminated.append(key)
            else:
                yield key, _without(row, self.contamination, self.dropped)


class StagedRows:
    """The staged rows of one language: arrays by name, and the texts of a row."""

    def __init__(self, folder: Path) -> None:
        # A plain view: items of a memmap are several times slower.
        self.row_N: NDArray[np.void] = np.load(folder / ROWS, mmap_mode="r").view(np.ndarray)
        self.offset_N, self.id_size_N, self.size_N = (self.row_N[name] for name in ("offset", "id_size", "size"))
        self.texts = os.open(folder / TEXTS, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self.texts)

    def id(self, place: int) -> str:
        """The id of a row."""
        return os.pread(self.texts, int(self.id_size_N[place]), int(self.offset_N[place])).decode()

    def __getitem__(self, place: int) -> Row:
        id_size = int(self.id_size_N[place])
        data = os.pread(self.texts, id_size + int(self.size_N[place]), int(self.offset_N[place]))
        query, document, document_id, negatives = json.loads(data[id_size:].decode())
        return Row(data[:id_size].decode(), query, document, document_id, tuple(negatives))


def first_of(key_N: NDArray[np.void]) -> NDArray[np.int64]:
    """The places of keys that no earlier place has, in order."""
    return np.sort(np.unique(key_N, return_index=True)[1])


def _usable(row: Row, plan: Recipe, dropped: Counter[str]) -> Row | str:
    """The row without its empty negatives, or why it cannot be used."""
    if reason := unusable(row):
        return reason
    (least, most), length = plan.limits.query_characters, len(row.query)
    if not least <= length <= most:
        return SHORT_QUERY if length < least else LONG_QUERY
    (least, most), length = plan.limits.document_characters, len(row.document)
    if not least <= length <= most:
        return SHORT_DOCUMENT if length < least else LONG_DOCUMENT
    return _keeping(row, lambda text: bool(text.strip()), EMPTY_NEGATIVE, dropped)


def _without(row: Row, contamination: Contamination, dropped: Counter[str]) -> Row:
    return _keeping(row, lambda text: not contamination.holds(text), CONTAMINATED_NEGATIVE, dropped)


def _keeping(row: Row, good: Callable[[str], bool], reason: str, dropped: Counter[str]) -> Row:
    """The row with its good negatives only; the others are counted."""
    negatives = tuple(filter(good, row.negatives))
    if len(negatives) == len(row.negatives):
        return row
    dropped[reason] += len(row.negatives) - len(negatives)
    return row._replace(negatives=negatives)


def _identified(row: Row, dataset: DatasetRecipe, language: str, *, number: int) -> Row:
    """The row with an id: where the source has none, the row's number.

    Where several languages are no translations of each other, equal ids (and document ids) in two of them are a
    coincidence, and get their language as a prefix.
    """
    if row.id is None and dataset.parallel:
        source = dataset.files.get(language) or dataset.sources[language]
        raise DataError(
            f"{source}, row {number}: no id; expected one, because {dataset.name} is parallel = true. Add ids, or "
            'name the field that has them in the recipe: fields = { id = "…" }.'
        )
    scope = "" if dataset.parallel or len(dataset.languages) == 1 else f"{language}:"
    return row._replace(
        id=scope + (row.id if row.id is not None else str(number)),
        document_id=None if row.document_id is None else scope + row.document_id,
    )
