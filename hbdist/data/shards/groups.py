"""Entries of a manifest: groups of pairs, their shards, and the texts of languages that groups are views of.

A group has its pairs in shards of its own, or it is a view: a list of rows, each of which is the query in one language's
texts and the document in another's (or the same one's). Texts are stored once per language, however many views use them.
"""

import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, NonNegativeInt


def check_name(name: str) -> str:
    """Return `name` if it can name a dataset: its folder, and its part of `ntrex/en-de`.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.]{,99}", name):
        raise ValueError(
            f"{reprlib.repr(name)} cannot name a dataset. Use at most 100 of a-z, 0-9, _ and ., beginning with a letter or"
            " digit"
        )
    return name


def check_language(code: str) -> str:
    """Return `code` if it is a canonical language code, such as `en` or `zh_Hant`.

    Raises:
        ValueError: it is not, for example because it has a `-`, which separates the two languages of a pair.
    """
    if not re.fullmatch(r"[a-z]{2,3}(_[A-Za-z0-9]{2,8}){,4}", code):
        raise ValueError(
            f"{reprlib.repr(code)} is not a canonical language code. Write it as en, arz or zh_Hant: _ and never -"
        )
    return code


def check_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Return `paths` if all of them stay inside the folder they are relative to.

    Raises:
        ValueError: one does not: a manifest from elsewhere must not name files outside its own folder.
    """
    lines = "\n".join(("", *paths, ""))
    if ".." in lines or "\n/" in lines or "\n\n" in lines:  # one quick search through all: suspects are rare
        for path in paths:
            if not path or path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"{path!r} leads out of the folder. Use paths below it")
    return paths


Rows = Annotated[int, Field(ge=0, le=2**32)]
"""Number of rows, bounded because views store a row in four bytes."""
ShardRows = Annotated[int, Field(ge=1, le=2**32)]
Bytes = Annotated[int, Field(ge=0, le=2**62)]
Name = Annotated[str, AfterValidator(check_name)]
Language = Annotated[str, AfterValidator(check_language)]
RelativePath = Annotated[str, AfterValidator(lambda path: check_paths((path,))[0])]
RelativePaths = Annotated[tuple[str, ...], AfterValidator(check_paths)]


@dataclass(frozen=True)
class Shard:
    """One tar file and its index; paths are relative to the shard folder, with `/`."""

    path: str
    rows: int
    bytes: int
    sha256: str
    index: str
    index_sha256: str
    negatives: int | None = None
    """Number of its rows that have hard negatives; None if it was built before they were counted."""


@dataclass(frozen=True)
class Shards:
    """Shards in order, stored as one column per field: with hundreds of thousands of shards, loading one object each
    would take seconds. Items are created on access."""

    paths: RelativePaths
    rows: tuple[Rows, ...]
    bytes: tuple[Bytes, ...]
    sha256: tuple[str, ...]
    indexes: RelativePaths
    index_sha256: tuple[str, ...]
    negatives: tuple[NonNegativeInt, ...] | None = None
    """Rows of each shard that have hard negatives; None if the shards were built before they were counted."""

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths ({lengths})")

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> Self:
        """Return the columns of these shards."""
        columns = tuple(zip(*(vars(shard).values() for shard in shards), strict=True)) or ((),) * len(fields(cls))
        by_name = dict(zip((one.name for one in fields(cls)), columns, strict=True))
        if None in by_name["negatives"]:
            del by_name["negatives"]
        return cls(**by_name)

    @property
    def _columns(self) -> dict[str, tuple[Any, ...]]:
        return {name: column for name, column in vars(self).items() if column is not None}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Shard:
        return Shard(*(column[number] for column in self._columns.values()))

    def __iter__(self) -> Iterator[Shard]:
        return map(Shard, *self._columns.values())


@dataclass(frozen=True)
class View:
    """Rows of a group that has no shards of its own: where in its languages' texts its pairs are."""

    path: RelativePath
    """Path of an array (`<u4`, .npy) with a row of the texts for each pair, in the group's order."""
    sha256: str
    rows: Rows
    shard_rows: ShardRows
    """Number of rows that the schedule treats as one shard: as many as the group's own shards would have."""


@dataclass(frozen=True)
class Group:
    """Pairs of one dataset, one query language and one document language."""

    dataset: Name
    query_lang: Language
    document_lang: Language
    shards: Shards = Shards.of(())  # noqa: RUF009 - frozen
    view: View | None = None
    """Rows of its pairs in the texts, if it has no shards."""

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First row of each shard (for a view: of each part that the schedule treats as one), and last the number of
        all rows: [shards + 1]."""
        if self.view:
            return np.append(np.arange(0, self.view.rows, self.view.shard_rows), self.view.rows)
        return np.cumsum((0, *self.shards.rows), dtype=np.int64)

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return self.view.rows if self.view else int(self.starts[-1])

    @property
    def pair(self) -> str:
        """Query and document language, such as "en-de"."""
        return f"{self.query_lang}-{self.document_lang}"

    @property
    def monolingual(self) -> bool:
        return self.query_lang == self.document_lang

    @property
    def name(self) -> str:
        """Dataset and language pair, such as "ntrex/en-de"; also the folder of the group's shards."""
        return f"{self.dataset}/{self.pair}"

    @property
    def key(self) -> tuple[str, str, str]:
        """Key by which a manifest sorts its groups."""
        return self.dataset, self.query_lang, self.document_lang

    def locate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for rows that are in its shards, the number of each row's shard and the row within that shard."""
        numbers = np.searchsorted(self.starts, rows, side="right") - 1
        return numbers, rows - self.starts[numbers]

    def first_row(self, number: int) -> int:
        """Return the row of the first entry of a shard's index."""
        return int(self.starts[number])

    def index_rows(self, number: int) -> int:
        """Return the number of entries of a shard's index."""
        return self.shards.rows[number]


@dataclass(frozen=True)
class Texts:
    """One language of a parallel dataset, a query and its document per row. Row numbers mean the same in all languages."""

    dataset: Name
    language: Language
    rows: Rows
    """Number of rows of the dataset, those that this language lacks included: the same for all its languages."""
    shard_rows: ShardRows
    windows: tuple[NonNegativeInt, ...]
    """Window of each shard: window w is the rows w·shard_rows to (w + 1)·shard_rows − 1. There is no shard for a window
    in which the language has no row."""
    shards: Shards

    def __post_init__(self) -> None:
        if len(self.windows) != len(self.shards) or list(self.windows) != sorted(set(self.windows)):
            raise ValueError("windows that are not one per shard, in order")
        if self.windows and self.windows[-1] * self.shard_rows >= self.rows:
            raise ValueError(f"window {self.windows[-1]}, beyond its {self.rows} rows")

    @property
    def name(self) -> str:
        """Dataset and language, such as "ntrex/en"; also the folder of the texts' shards."""
        return f"{self.dataset}/{self.language}"

    @cached_property
    def _windows(self) -> NDArray[np.int64]:
        return np.array(self.windows, np.int64)

    def locate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for any rows, the number of each row's shard, −1 if there is none, and the row within that shard."""
        windows, inside = np.divmod(rows, self.shard_rows)
        numbers = np.searchsorted(self._windows, windows)
        exists = numbers < len(self.windows)
        exists[exists] = self._windows[numbers[exists]] == windows[exists]
        return np.where(exists, numbers, -1), inside

    def first_row(self, number: int) -> int:
        """Return the row of the first entry of a shard's index."""
        return self.windows[number] * self.shard_rows

    def index_rows(self, number: int) -> int:
        """Return the number of entries of a shard's index; entries of rows that the language lacks are zeros."""
        return min(self.shard_rows, self.rows - self.first_row(number))


ShardSet = Group | Texts
"""Anything in a manifest that has shards: a group of pairs, or the texts of a language."""
