"""Staging: the rows of one language on disk between reading and pairing, texts in a file and keys in an array.

Pairing reads keys and digests only, some fifty bytes per row, mapped from disk; a text is read when it is written.

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

from hbdist.data.build.decontamination import CONTAMINATED_NEGATIVE, ContaminationFilter, cached_filter
from hbdist.data.build.readers import read
from hbdist.data.build.recipe import DatasetRecipe, Recipe
from hbdist.data.build.text_keys import KEY, digest, hash_fraction, normalise
from hbdist.data.formats.texts import short_digest
from hbdist.data.sources.rows import EMPTY_NEGATIVE, REPEATED_ID, Row, unusable
from hbdist.errors import DataError
from hbdist.utils.workers import counted

SHORT_QUERY, LONG_QUERY = "query too short", "query too long"
SHORT_DOCUMENT, LONG_DOCUMENT = "document too short", "document too long"

STAGED = np.dtype(
    [("key", KEY), ("query", "<u8"), ("document", "<u8"), ("offset", "<i8")]
    + [(size, "<i4") for size in ("id_size", "size", "query_chars", "document_chars")]
    + [("held_out", "?")]
)
"""One row: the key that its translations share; digests of query and document; offset in `TEXTS`, and sizes of the id
and of the JSON after it (bytes); lengths of query and document (characters); True if it is for validation."""
TEXTS, ROWS, CONTAMINATED = "texts", "rows.npy", "contaminated.npy"
_dump = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class StagedCounts:
    """Counts of the rows of one language."""

    rows: int
    records: int
    """Number of records of the source, with and without a row."""
    dropped: dict[str, int]
    """Number of records (or negatives) left out, by reason."""


def stage(
    recipe: Recipe, dataset: DatasetRecipe, language: str, *, inputs: str, folder: Path, scratch: Path
) -> StagedCounts:
    """Read one language of a dataset, and write its usable rows into `folder`.

    Args:
        inputs: a digest of the recipe and all its files.
        scratch: an empty folder for temporary files of the reader.

    Raises:
        ConfigError, DataError: as the readers; or a row of a parallel dataset has no id.
    """
    rows = _UsableRows(recipe, dataset, language, inputs, scratch)
    with (folder / TEXTS).open("wb") as texts:

        def staged() -> Iterator[tuple[bytes | int | bool, ...]]:
            form: Callable[[str], str] = normalise if recipe.deduplicate.text == "normalised" else str
            position = 0
            for key, row in counted(rows):
                fraction = hash_fraction("validation", dataset.name, str(row.id)) if recipe.validation else 1.0
                name, rest = str(row.id).encode(), _dump(row[1:5]).encode()
                digests = short_digest(form(row.query)), short_digest(form(row.document))
                sizes = len(name), len(rest), len(row.query), len(row.document)
                size = texts.write(name + rest)
                yield (key, *digests, position, *sizes, fraction < recipe.validation)
                position += size

        row_N = np.fromiter(staged(), STAGED)
    if dataset.parallel:
        kept = first_of(row_N["key"])
        rows.dropped[REPEATED_ID] += len(row_N) - len(kept)
        row_N = row_N[kept]
    np.save(folder / ROWS, row_N)
    np.save(folder / CONTAMINATED, np.array(rows.contaminated, KEY))
    return StagedCounts(len(row_N), rows.records, dict(sorted((+rows.dropped).items())))


@dataclass
class _UsableRows:
    """Usable rows of one language with their keys, and counts of the others."""

    recipe: Recipe
    dataset: DatasetRecipe
    language: str
    inputs: str
    scratch: Path

    def __post_init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self.contaminated: list[bytes] = []
        """Keys of the contaminated rows."""
        self.records = 0

    def __iter__(self) -> Iterator[tuple[bytes, Row]]:
        settings = self.recipe.decontaminate
        contamination = cached_filter(settings, self.inputs) if settings else None
        for item in read(self.dataset, self.language, scratch=self.scratch):
            self.records += 1
            if isinstance(item, str):
                self.dropped[item] += 1
                continue
            for row in [item] if isinstance(item, Row) else item:
                if usable := self._usable(row, contamination):
                    yield usable

    def _usable(self, row: Row, contamination: ContaminationFilter | None) -> tuple[bytes, Row] | None:
        """Return the row as it is stored, with its key; None, after counting the reason, if it cannot be used."""
        if reason := unusable(row) or _wrong_length(row, self.recipe):
            self.dropped[reason] += 1
            return None
        row = self._with_negatives(row, lambda text: bool(text.strip()), EMPTY_NEGATIVE)
        row = _with_id(row, self.dataset, self.language, number=self.records)
        key = digest(row.key or str(row.id))
        if not contamination:
            return key, row
        if reason := contamination.reason(row):
            self.dropped[reason] += 1
            self.contaminated.append(key)
            return None
        return key, self._with_negatives(row, lambda text: not contamination.matches(text), CONTAMINATED_NEGATIVE)

    def _with_negatives(self, row: Row, keep: Callable[[str], bool], reason: str) -> Row:
        """Return the row with those negatives that are to be kept, and count the others."""
        negatives = tuple(filter(keep, row.negatives))
        if len(negatives) == len(row.negatives):
            return row
        self.dropped[reason] += len(row.negatives) - len(negatives)
        return row._replace(negatives=negatives)


class StagedRows:
    """Staged rows of one language: an array of keys, and the texts of each row on disk."""

    def __init__(self, folder: Path) -> None:
        # A plain view: items of a memmap are several times slower.
        self.row_N: NDArray[np.void] = np.load(folder / ROWS, mmap_mode="r").view(np.ndarray)
        self.offset_N, self.id_size_N, self.size_N = (self.row_N[name] for name in ("offset", "id_size", "size"))
        self.texts = os.open(folder / TEXTS, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self.texts)

    def id(self, index: int) -> str:
        """Return the id of a row."""
        return os.pread(self.texts, int(self.id_size_N[index]), int(self.offset_N[index])).decode()

    def __getitem__(self, index: int) -> Row:
        id_size = int(self.id_size_N[index])
        data = os.pread(self.texts, id_size + int(self.size_N[index]), int(self.offset_N[index]))
        query, document, document_id, negatives = json.loads(data[id_size:].decode())
        return Row(data[:id_size].decode(), query, document, document_id, tuple(negatives))


def first_of(key_N: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the positions of the first occurrence of each key, ascending."""
    return np.sort(np.unique(key_N, return_index=True)[1])


def _wrong_length(row: Row, recipe: Recipe) -> str:
    """Return the reason why a row is outside of the limits; empty if it is within them."""
    for text, (least, most), short, long in (
        (row.query, recipe.limits.query_characters, SHORT_QUERY, LONG_QUERY),
        (row.document, recipe.limits.document_characters, SHORT_DOCUMENT, LONG_DOCUMENT),
    ):
        if not least <= len(text) <= most:
            return short if len(text) < least else long
    return ""


def _with_id(row: Row, dataset: DatasetRecipe, language: str, *, number: int) -> Row:
    """Return the row with an id: if the source has none, the row's number.

    If the languages are not translations of each other, equal ids (and document ids) in two of them are a coincidence,
    and are prefixed with their language.
    """
    if row.id is None and dataset.parallel:
        raise DataError(
            f"{dataset.source_of(language)}, row {number}: no id; expected one, because {dataset.name} is parallel = true. "
            'Add ids, or name the field that has them in the recipe: fields = { id = "…" }.'
        )
    scope = "" if dataset.parallel or len(dataset.languages) == 1 else f"{language}:"
    return row._replace(
        id=scope + (row.id if row.id is not None else str(number)),
        document_id=None if row.document_id is None else scope + row.document_id,
    )
