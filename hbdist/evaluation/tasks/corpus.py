"""Candidates that stay on disk: read in order, a stretch at a time, so that a corpus may be larger than memory.

Of each passage, memory holds its id and 8 bytes; MIRACL's 106 million take about 2 GB.
"""

import gzip
import hashlib
import os
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast, overload

import numpy as np

from hbdist.errors import DataError

Parse = Callable[[str], tuple[str, str]]
"""A line → (published id, text). Raises ValueError, saying what is wrong with the line."""

STRIDE = 1024
"""The place in its file is kept of one passage in so many; a read begins there and skips the rest."""


class Candidate(NamedTuple):
    """One text that can be retrieved. Its identity is (language, paragraph, sentence); texts need not be unique.

    Where the paragraphs are retrieved themselves, `sentence` is 0.
    """

    language: str
    paragraph: int
    sentence: int
    text: str
    id: str = ""
    """As published; empty where there is none."""


@dataclass(frozen=True)
class _File:
    path: Path
    passages: int
    offsets: array
    """Where each STRIDE-th passage begins, in bytes of the unpacked file."""


@dataclass
class _Part:
    """The passages of one language."""

    language: str
    files: list[_File] = field(default_factory=list)
    ids: bytearray = field(default_factory=bytearray)
    ends: array = field(default_factory=lambda: array("q"))
    """Where each id ends in `ids`."""
    wanted: dict[str, int] = field(default_factory=dict)
    digest: str = ""

    def id(self, number: int) -> str:
        return self.ids[self.ends[number - 1] if number else 0 : self.ends[number]].decode()


class Corpus(Sequence[Candidate]):
    """The candidates of some languages, one passage a line. Reading on from where the last read ended costs no search.

    Args:
        parts: languages in ascending order.
        parse: what is in a line.
    """

    def __init__(self, parts: Sequence[_Part], parse: Parse) -> None:
        self.parts, self.parse = tuple(parts), parse
        self.slices: dict[str, slice] = {}
        """Where the candidates of each language stand."""
        start = 0
        for part in self.parts:
            self.slices[part.language] = slice(start, start + len(part.ends))
            start += len(part.ends)
        self._open: tuple[tuple[int, Path, int], BinaryIO] | None = None

    @classmethod
    def read(
        cls, files: Mapping[str, Sequence[Path]], *, parse: Parse, wanted: Mapping[str, Set[str]], expected: str
    ) -> "Corpus":
        """Read every line once, to know where it stands and that all are whole.

        Args:
            files: language → its files, plain or gzipped, in their order.
            parse: what is in a line.
            wanted: language → ids whose places are asked for, for `places`.
            expected: a line as it should be, for the error.

        Raises:
            DataError: a file is damaged, a line is not as expected, or two passages of a language have one id.
        """
        parts = [_read_part(language, files[language], parse, wanted[language], expected) for language in sorted(files)]
        return cls(parts, parse)

    def places(self, language: str) -> dict[str, int]:
        """Published id → place in the pool, of those of the wanted ids that the language has."""
        (part,) = (part for part in self.parts if part.language == language)
        start = self.slices[language].start
        return {identifier: start + number for identifier, number in part.wanted.items()}

    def only(self, languages: Sequence[str]) -> "Corpus":
        """The candidates of these languages."""
        return Corpus([part for part in self.parts if part.language in languages], self.parse)

    @property
    def ids(self) -> "PassageIds":
        """Ids for TREC files, made when asked for."""
        return PassageIds(self)

    @property
    def digest(self) -> str:
        """sha256 of languages and lines."""
        return hashlib.sha256("\n".join(f"{part.language} {part.digest}" for part in self.parts).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(len(part.ends) for part in self.parts)

    def __iter__(self) -> Iterator[Candidate]:
        for start in range(0, len(self), STRIDE):
            yield from self[start : start + STRIDE]

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> "tuple[Candidate, ...]": ...
    def __getitem__(self, place: int | slice) -> "Candidate | tuple[Candidate, ...]":
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            assert step == 1, "candidates are read in order"
            return tuple(self._stretch(start, stop))
        place = range(len(self))[place]
        return next(self._stretch(place, place + 1))

    def _stretch(self, start: int, stop: int) -> Iterator[Candidate]:
        for part in self.parts:
            base = self.slices[part.language].start
            first = base
            for file in part.files:
                low, high = max(start, first), min(stop, first + file.passages)
                if low < high:
                    for number, line in enumerate(self._lines(file, low - first, high - first), start=low - base):
                        identifier, text = self.parse(line)
                        yield Candidate(part.language, number, 0, text, identifier)
                first += file.passages

    def _lines(self, file: _File, start: int, stop: int) -> list[str]:
        """The lines of passages `start` to `stop` of the file."""
        # The process is part of the key: a fork shares the position of an open file with its parent.
        if self._open and self._open[0] == (os.getpid(), file.path, start):
            handle = self._open[1]
        else:
            if self._open:
                self._open[1].close()
            handle = _opened(file.path)
            handle.seek(file.offsets[start // STRIDE])
            for _ in islice(_passages(handle), start % STRIDE):
                pass
        lines = [line.decode() for line in islice(_passages(handle), stop - start)]
        if len(lines) < stop - start:
            raise DataError(f"{file.path} became shorter while it was read. Leave the data alone and start again.")
        self._open = (os.getpid(), file.path, stop), handle
        return lines


class PassageIds(Sequence[str]):
    """Ids for TREC files, as "sw-39#0": language and published id."""

    def __init__(self, collection: Corpus) -> None:
        self.collection = collection

    def __len__(self) -> int:
        return len(self.collection)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        for part in self.collection.parts:
            where = self.collection.slices[part.language]
            if where.start <= place < where.stop:
                return f"{part.language}-{part.id(place - where.start)}"
        raise IndexError(place)


def _read_part(language: str, paths: Sequence[Path], parse: Parse, wanted: Set[str], expected: str) -> _Part:
    part, digest, hashes = _Part(language), hashlib.sha256(), array("q")
    for path in paths:
        offsets, position, number, before = array("q"), 0, 0, len(part.ends)
        try:
            with _opened(path) as file:
                for line in file:
                    number += 1
                    if line.strip():
                        if (len(part.ends) - before) % STRIDE == 0:
                            offsets.append(position)
                        identifier, _ = parse(line.decode())
                        if identifier in wanted:
                            part.wanted[identifier] = len(part.ends)
                        part.ids += identifier.encode()
                        part.ends.append(len(part.ids))
                        hashes.append(hash(identifier))
                    position += len(line)
                    digest.update(line)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise DataError(f"{path} is damaged after line {number}: {error}. Fetch the file again.") from None
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {expected}. Fetch the file again.") from None
        part.files.append(_File(path, len(part.ends) - before, offsets))
    # By 64 bits of a hash that is another in each process: of 33 million ids, two share one by chance in 30,000 reads.
    if (repeated := len(hashes) - len(np.unique(np.frombuffer(hashes, np.int64)))) and len(hashes):
        raise DataError(
            f"{', '.join(map(str, paths[:3]))}: {repeated:,} passages of {language} have the id of another one; each must"
            " have its own. Is a file there twice? Fetch the files again."
        )
    part.digest = digest.hexdigest()
    return part


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _passages(handle: BinaryIO) -> Iterator[bytes]:
    """The lines of a file that hold something. `readline`, as iteration reads ahead of the position."""
    while line := handle.readline():
        if line.strip():
            yield line
