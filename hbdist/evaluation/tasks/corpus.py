"""Corpus of candidates on disk, read in order and a block at a time, so that it may be larger than memory.

Memory keeps each passage's id and 8 bytes: about 2 GB for MIRACL's 106 million passages.
"""

import gzip
import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast, overload

import numpy as np

from hbdist.data.formats.lines import byte_lines
from hbdist.data.formats.texts import Parse
from hbdist.errors import DataError

_REMEDY = "Fetch the file again."
STRIDE = 1024
"""Number of passages between two recorded byte offsets; a read seeks to the offset before it and skips the rest."""


class Candidate(NamedTuple):
    """One text that a query is scored against.

    Its identity is (language, paragraph, sentence); texts need not be unique. `sentence` is 0 if whole paragraphs are
    retrieved.
    """

    language: str
    paragraph: int
    sentence: int
    text: str
    id: str = ""
    """Published id; empty if there is none."""


def consecutive_slices(lengths: Mapping[str, int]) -> dict[str, slice]:
    """Return slices of these lengths, each beginning where the one before it ends."""
    ends = np.cumsum([0, *lengths.values()]).tolist()
    return {language: slice(start, stop) for language, (start, stop) in zip(lengths, pairwise(ends), strict=True)}


@dataclass(frozen=True)
class _File:
    path: Path
    passages: int
    offsets: array
    """Byte offsets, in the unpacked file, of every STRIDE-th passage."""


@dataclass
class _Part:
    """The passages of one language."""

    language: str
    files: list[_File] = field(default_factory=list)
    ids: bytearray = field(default_factory=bytearray)
    """Ids of all passages, joined without a separator."""
    ends: array = field(default_factory=lambda: array("q"))
    """End of each id in `ids`."""
    indices: dict[str, int] = field(default_factory=dict)
    """Looked-up id → index among the passages of the language."""
    digest: str = ""

    def id(self, index: int) -> str:
        return self.ids[self.ends[index - 1] if index else 0 : self.ends[index]].decode()


class Corpus(Sequence[Candidate]):
    """The candidates of languages in ascending order, one passage per line; a read where the last one ended needs no seek."""

    def __init__(self, parts: Sequence[_Part], parse: Parse) -> None:
        self.parts, self.parse = tuple(parts), parse
        self.counts = {part.language: len(part.ends) for part in self.parts}
        """Language → number of its candidates."""
        self.slices = consecutive_slices(self.counts)
        """Language → indices of its candidates."""
        self._open: tuple[tuple[int, Path, int], BinaryIO] | None = None

    @classmethod
    def read(
        cls, files: Mapping[str, Sequence[Path]], *, parse: Parse, lookup: Mapping[str, Set[str]], expected: str
    ) -> "Corpus":
        """Read every line once, to record where it is and to check that it is whole.

        Args:
            files: language → its files in order, plain or gzipped.
            lookup: language → ids that `indices` will be asked for.
            expected: description of a correct line, for error messages.

        Raises:
            DataError: a file is damaged, a line is not as expected, or two passages of a language share an id.
        """
        return cls([_read_part(one, files[one], parse, lookup[one], expected) for one in sorted(files)], parse)

    def indices(self, language: str) -> dict[str, int]:
        """Return the looked-up ids that the language has, each with the index of its candidate."""
        (part,) = (part for part in self.parts if part.language == language)
        start = self.slices[language].start
        return {identifier: start + index for identifier, index in part.indices.items()}

    def select(self, languages: Sequence[str]) -> "Corpus":
        """Return the corpus of these languages alone."""
        return Corpus([part for part in self.parts if part.language in languages], self.parse)

    @property
    def ids(self) -> "PassageIds":
        """Ids for TREC files, made on demand."""
        return PassageIds(self)

    @property
    def digest(self) -> str:
        """SHA-256 of languages and lines, in hex."""
        return hashlib.sha256("\n".join(f"{part.language} {part.digest}" for part in self.parts).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Candidate]:
        for start in range(0, len(self), STRIDE):
            yield from self[start : start + STRIDE]

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> "tuple[Candidate, ...]": ...
    def __getitem__(self, index: int | slice) -> "Candidate | tuple[Candidate, ...]":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            assert step == 1, "candidates are read in order"
            return tuple(self._candidates(start, stop))
        index = range(len(self))[index]
        return next(self._candidates(index, index + 1))

    def _candidates(self, start: int, stop: int) -> Iterator[Candidate]:
        for part in self.parts:
            base = first = self.slices[part.language].start
            for file in part.files:
                low, high = max(start, first), min(stop, first + file.passages)
                if low < high:
                    for number, line in enumerate(self._lines(file, low - first, high - first), start=low - base):
                        identifier, text = self.parse(line)
                        yield Candidate(part.language, number, 0, text, identifier)
                first += file.passages

    def _lines(self, file: _File, start: int, stop: int) -> list[str]:
        """Return the lines of passages `start` to `stop` of the file."""
        # The process id is part of the key: after a fork, parent and child share the position of an open file.
        if self._open and self._open[0] == (os.getpid(), file.path, start):
            handle = self._open[1]
        else:
            if self._open:
                self._open[1].close()
            handle = _open_binary(file.path)
            handle.seek(file.offsets[start // STRIDE])
            for _ in islice(_passages(handle), start % STRIDE):
                pass
        lines = [line.decode() for line in islice(_passages(handle), stop - start)]
        if len(lines) < stop - start:
            raise DataError(f"{file.path} became shorter while it was read. Leave the data alone and start again.")
        self._open = (os.getpid(), file.path, stop), handle
        return lines


class PassageIds(Sequence[str]):
    """Ids for TREC files, such as "sw-39#0": language and published id."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[one] for one in range(len(self))[index]]
        for part in self.corpus.parts:
            rows = self.corpus.slices[part.language]
            if rows.start <= index < rows.stop:
                return f"{part.language}-{part.id(index - rows.start)}"
        raise IndexError(index)


def _read_part(language: str, paths: Sequence[Path], parse: Parse, lookup: Set[str], expected: str) -> _Part:
    part, digest, hashes = _Part(language), hashlib.sha256(), array("q")
    for path in paths:
        offsets, offset, before = array("q"), 0, len(part.ends)
        for number, line in byte_lines(path, remedy=_REMEDY):
            if line.strip():
                if (len(part.ends) - before) % STRIDE == 0:
                    offsets.append(offset)
                try:
                    identifier, _ = parse(line.decode())
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: {error}; expected {expected}. {_REMEDY}") from None
                if identifier in lookup:
                    part.indices[identifier] = len(part.ends)
                part.ids += identifier.encode()
                part.ends.append(len(part.ids))
                hashes.append(hash(identifier))
            offset += len(line)
            digest.update(line)
        part.files.append(_File(path, len(part.ends) - before, offsets))
    # Compares 64-bit hashes, seeded anew in each process: with 33 million ids, one read in 30,000 finds a false duplicate.
    if (repeated := len(hashes) - len(np.unique(np.frombuffer(hashes, np.int64)))) and len(hashes):
        raise DataError(
            f"{', '.join(map(str, paths[:3]))}: {repeated:,} passages of {language} have the id of another passage; ids"
            " must be unique. Check for a file that is in the folder twice, or fetch the files again."
        )
    part.digest = digest.hexdigest()
    return part


def _open_binary(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _passages(handle: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file that are not blank, by `readline`: iteration would read ahead of the file's position."""
    while line := handle.readline():
        if line.strip():
            yield line
