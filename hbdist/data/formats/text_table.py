"""Collections of texts by id, on disk: a search takes one seek, and memory holds 24 bytes a text, not the text.

Shape suffixes: N texts of the table · K ids asked for.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from hbdist.data.formats.lines import byte_lines, damage
from hbdist.errors import DataError

Parse = Callable[[str], tuple[str, str]]
"""A line → (id, text). Raises ValueError, with what is wrong with the line."""


class TextTable:
    """The texts of one file by their ids. A plain file is read where it lies, a gzipped one is unpacked first.

    Ids are known by 64 bits of a digest: of ten million, two have the same in three of a million collections, and are
    then counted as repeated.

    Args:
        path: one text a line.
        parse: what is in a line.
        expected: a line as it should be, for the error.
        scratch: a folder for the unpacked file.

    Raises:
        DataError: the file is damaged, or a line is not as expected.
    """

    def __init__(self, path: Path, *, parse: Parse, expected: str, scratch: Path) -> None:
        self.path, self.parse = path, parse
        hashes, offsets, sizes, position = array("Q"), array("q"), array("q"), 0
        with self._unpacking(scratch) as copy:
            for number, line in byte_lines(path):
                if line.strip():
                    hashes.append(_hash(self._parsed(line, number, expected)[0]))
                    offsets.append(position)
                    sizes.append(len(line))
                position += len(line)
                if copy:
                    copy.write(line)
        self.file = os.open(self.plain, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self.file)
        hash_N = np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)
        order_N = np.argsort(hash_N, kind="stable")
        self.hash_N = hash_N[order_N]
        self.offset_N, self.size_N = (np.asarray(column, np.int64)[order_N] for column in (offsets, sizes))
        self.repeated = int((np.diff(self.hash_N) == 0).sum())
        """Lines whose id an earlier line has; the earlier one counts."""

    @contextmanager
    def _unpacking(self, scratch: Path) -> Iterator[IO[bytes] | None]:
        """A file to copy the lines to, where the source itself cannot be read at an offset."""
        if self.path.suffix != ".gz":
            self.plain = self.path
            yield None
            return
        self.plain = scratch / f"{hashlib.sha256(str(self.path).encode()).hexdigest()[:16]}.lines"
        with self.plain.open("wb") as copy:
            yield copy

    def _parsed(self, line: bytes, number: int, expected: str) -> tuple[str, str]:
        try:
            return self.parse(_text(line))
        except UnicodeDecodeError as error:
            raise damage(self.path, number - 1, error) from None
        except ValueError as error:
            raise DataError(
                f"{self.path}, line {number}: {error}; expected {expected}. Mend the line, or correct the recipe."
            ) from None

    def __len__(self) -> int:
        return len(self.hash_N)

    def places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Where these ids are, for `entry`: int64 [K]; −1 where there is none."""
        if not len(self):
            return np.full(len(ids), -1)
        hash_K = np.fromiter(map(_hash, ids), np.uint64, len(ids))
        place_K = np.minimum(np.searchsorted(self.hash_N, hash_K), len(self) - 1)
        return np.where(self.hash_N[place_K] == hash_K, place_K, -1)

    def entry(self, place: int) -> tuple[str, str]:
        """Id and text at a place."""
        return self.parse(_text(os.pread(self.file, int(self.size_N[place]), int(self.offset_N[place]))))


def tsv_entry(line: str) -> tuple[str, str]:
    """MS MARCO's `id <tab> text`."""
    identifier, tab, text = line.rstrip("\r\n").partition("\t")
    if not tab:
        raise ValueError(f"found no tab in {line.strip()[:40]!r}")
    return identifier, text


def beir_entry(line: str) -> tuple[str, str]:
    """BEIR's object with `_id`, `text` and, where there is one, `title`, which is put before the text."""
    values: Any = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError(f"found a {type(values).__name__}")
    for name in ("_id", "text"):
        if not isinstance(values.get(name), str):
            raise ValueError(f"found no text under {name} among {', '.join(values) or 'no fields'}")
    title = values.get("title") or ""
    return values["_id"], f"{title} {values['text']}".strip()


def _text(line: bytes) -> str:
    return line.decode().removeprefix("\ufeff")


def _hash(identifier: str) -> int:
    return int.from_bytes(hashlib.blake2b(identifier.encode(errors="surrogatepass"), digest_size=8).digest())
