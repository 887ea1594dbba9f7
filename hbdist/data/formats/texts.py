"""Texts with ids, one per line: MS MARCO's TSV and BEIR's JSON lines, read into memory or looked up on disk.

Shape suffixes: N texts of a table · K ids to look up.
"""

import hashlib
import os
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from hbdist.data.formats.json_files import json_object, required_identifier
from hbdist.data.formats.lines import REMEDY, byte_lines, damage, nonblank_lines
from hbdist.errors import DataError

Parse = Callable[[str], tuple[str, str]]
"""Function from a line to (id, text). Raises ValueError, saying what is wrong with the line."""
TSV_LINE = "id <tab> text"
BEIR_LINE = 'an object such as {"_id": "7", "text": "…"}'


def tsv_entry(line: str) -> tuple[str, str]:
    """Return id and text of a line `id <tab> text`.

    Raises:
        ValueError: the line has no tab.
    """
    identifier, tab, text = line.rstrip("\r\n").partition("\t")
    if not tab:
        raise ValueError(f"found no tab in {line.strip()[:40]!r}")
    return identifier, text


def beir_entry(line: str) -> tuple[str, str]:
    """Return the id of a BEIR object, and its text after its title, if it has one.

    Raises:
        ValueError: the line is not an object with the id `_id` and the text `text`.
    """
    values = json_object(line, ("text",))
    return required_identifier(values, "_id"), f"{values.get('title') or ''} {values['text']}".strip()


def read_texts(path: Path, *, parse: Parse, expected: str, remedy: str = REMEDY) -> dict[str, str]:
    """Return the texts of a file by id, in its order.

    Args:
        expected: a description of a correct line, for the error message.

    Raises:
        DataError: the file is damaged, a line is not as expected, or an id occurs twice.
    """
    texts: dict[str, str] = {}
    for number, line in nonblank_lines(path, remedy=remedy):
        try:
            identifier, text = parse(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {expected}. {remedy}") from None
        if identifier in texts:
            raise DataError(f"{path}, line {number}: the id {identifier} occurs twice; expected it once. {remedy}")
        texts[identifier] = text
    return texts


class TextTable:
    """Index of the texts of one file by id: a lookup takes one seek, and memory holds 24 bytes per text, not the text.

    A gzipped file is decompressed to disk first.

    Ids are compared by 64 bits of a digest: among ten million ids, a collision occurs in three of a million files. Of
    two ids that collide, the second counts as a repetition of the first.

    Args:
        path: a file with one text per line.
        parse: the function that splits a line into id and text.
        expected: a description of a correct line, for the error message.
        scratch: a folder for the decompressed file.

    Raises:
        DataError: the file is damaged, or a line is not as expected.
    """

    def __init__(self, path: Path, *, parse: Parse, expected: str, scratch: Path) -> None:
        self.parse, plain = parse, path
        copying: AbstractContextManager[IO[bytes] | None] = nullcontext()
        if path.suffix == ".gz":  # cannot be read at an offset
            plain = scratch / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.lines"
            copying = plain.open("wb")
        hashes, offsets, sizes, position = array("Q"), array("q"), array("q"), 0
        with copying as copy:
            for number, line in byte_lines(path):
                if line.strip():
                    try:
                        hashes.append(short_digest(parse(_text(line))[0]))
                    except UnicodeDecodeError as error:
                        raise damage(path, number - 1, error) from None
                    except ValueError as error:
                        raise DataError(f"{path}, line {number}: {error}; expected {expected}. {REMEDY}") from None
                    offsets.append(position)
                    sizes.append(len(line))
                position += len(line)
                if copy:
                    copy.write(line)
        self.file = os.open(plain, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self.file)
        hash_N = np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)
        order_N = np.argsort(hash_N, kind="stable")
        self.hash_N = hash_N[order_N]
        self.offset_N, self.size_N = (np.asarray(column, np.int64)[order_N] for column in (offsets, sizes))
        self.repeated = int((np.diff(self.hash_N) == 0).sum())
        """Number of lines that repeat the id of an earlier line. The earlier line counts."""

    def __len__(self) -> int:
        return len(self.hash_N)

    def positions(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the positions of these ids, for `entry`: int64 [K]; −1 for an id that the table lacks."""
        if not len(self):
            return np.full(len(ids), -1)
        hash_K = np.fromiter(map(short_digest, ids), np.uint64, len(ids))
        position_K = np.minimum(np.searchsorted(self.hash_N, hash_K), len(self) - 1)
        return np.where(self.hash_N[position_K] == hash_K, position_K, -1)

    def entry(self, position: int) -> tuple[str, str]:
        """Return id and text at a position."""
        line = os.pread(self.file, int(self.size_N[position]), int(self.offset_N[position]))
        return self.parse(_text(line))


def _text(line: bytes) -> str:
    return line.decode().removeprefix("\ufeff")


def short_digest(text: str) -> int:
    """Return a 64-bit digest of a text, which may have broken Unicode."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())
