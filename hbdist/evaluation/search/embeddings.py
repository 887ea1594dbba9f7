"""Vectors of a corpus in parts: in memory, or on disk where they are kept and read as memory maps.

A part is a file that is whole or absent, so an encoding that was killed goes on with the parts that are missing. Which
candidates are in a part follows from the corpus alone, never from the number of ranks.

    N vectors of a part · D dimensions
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Corpus
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.utils.files import cache_folder, write_atomically

IN_MEMORY_BYTES = 256 << 20
"""Vectors of a pool that take no more, in float32, are held in memory by every rank, and are not kept."""

SORTED_ROWS = 512
"""Texts of a part where all are in memory, sorted by length."""

LEAST_ROWS, MOST_ROWS, PARTS = 4_096, 32_768, 256
"""A larger pool is cut into about so many parts of so many candidates, a power of two, in the order of the pool."""

ABOUT = "vectors.json"
FORMAT = 1
"""Of files and of how texts are put into batches; another one is another folder."""

Precision = Literal["float32", "float16"]


@dataclass(frozen=True)
class Keeping:
    """Where vectors of large pools lie, and whether they stay there."""

    folder: Path | None = None
    """Those of small pools are kept too if it is given; unset: `default_folder()`, for large pools."""
    precision: Precision = "float32"
    """float16 halves disk and reading; scores change in the fourth digit."""
    keep: bool = True
    """Otherwise they are removed at the end."""


def default_folder() -> Path:
    """`vectors` in the cache of this machine."""
    return cache_folder() / "vectors"


def part_rows(candidates: int) -> int:
    """Candidates of a part of a large pool."""
    rows = LEAST_ROWS
    while rows < MOST_ROWS and rows * PARTS < candidates:
        rows *= 2
    return rows


class Parts:
    """The vectors of a pool, cut into parts of equal size but for the last one.

    Args:
        total: vectors in all.
        rows: of a part.
        precision: in which they are held.
        folder: where the files are; unset: in memory.
        dimensions: D, which the files must have.
    """

    def __init__(
        self, total: int, rows: int, precision: Precision, *, folder: Path | None = None, dimensions: int = 0
    ) -> None:
        self.total, self.rows, self.precision = total, rows, precision
        self.folder, self.dimensions = folder, dimensions
        self._held: dict[int, np.ndarray] = {}

    @property
    def numbers(self) -> range:
        """Of all parts."""
        return range(-(-self.total // self.rows))

    def span(self, number: int) -> range:
        """The rows of the pool that a part holds."""
        return range(number * self.rows, min((number + 1) * self.rows, self.total))

    def rows_of(self, number: int) -> slice:
        """The same as a slice."""
        span = self.span(number)
        return slice(span.start, span.stop)

    def own(self, rank: int, world: int) -> range:
        """The parts that a rank encodes and searches."""
        return self.numbers[rank::world]

    def has(self, number: int) -> bool:
        """Whether a part is there, whole and of the right shape."""
        if self.folder is None:
            return number in self._held
        try:
            found = self._open(number)
        except (OSError, ValueError, EOFError):
            return False
        return found.shape == (len(self.span(number)), self.dimensions) and found.dtype == self.precision

    def write(self, number: int, vector_ND: np.ndarray) -> None:
        """Put a part into its place.

        Raises:
            DataError: there is no room for it, or it may not be written.
        """
        vector_ND = np.ascontiguousarray(vector_ND, dtype=self.precision)
        assert len(vector_ND) == len(self.span(number)), "a part of another size"
        if self.folder is None:
            self._held[number] = vector_ND
            return
        assert vector_ND.shape[1] == self.dimensions, "vectors of another length than the queries'"
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(vector_ND))
        self._put(self._path(number), b"".join([header.getvalue(), vector_ND.data]))

    def read(self, number: int) -> np.ndarray:
        """The vectors of a part, [N, D]; of a file, a memory map."""
        return self._held[number] if self.folder is None else self._open(number)

    def remove(self, numbers: range) -> None:
        """Delete these parts, and the folder once it is empty."""
        if self.folder is None or not self.folder.is_dir():
            return
        for number in numbers:
            self._path(number).unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # another rank found it empty first
            if not any(self.folder.glob("part-*.npy")):
                shutil.rmtree(self.folder, ignore_errors=True)

    def describe(self, *, model: str, task: str) -> None:
        """Write down beside the parts what they are of, for people.

        Raises:
            DataError: as of `write`.
        """
        assert self.folder is not None
        about = {"model": model, "task": task, "candidates": self.total, "dimensions": self.dimensions}
        text = json.dumps(about | {"precision": self.precision}, indent=2, ensure_ascii=False)
        self._put(self.folder / ABOUT, text + "\n")

    def _put(self, path: Path, content: str | bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            size = self.total * self.dimensions * np.dtype(self.precision).itemsize
            raise DataError(
                f"{path.parent}: vectors cannot be written there ({error}). All of them take {size / 1e9:,.1f} GB. Make room,"
                " or name another folder with --vectors; --precision float16 halves them."
            ) from None

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"part-{number:06d}.npy"

    def _open(self, number: int) -> np.ndarray:
        return np.load(self._path(number), mmap_mode="r", allow_pickle=False)


def corpus_fingerprint(task: RetrievalTask) -> str:
    """sha256 of the candidates' texts and languages, in their order; queries do not count."""
    if isinstance(task.candidates, Corpus):
        parse = task.candidates.parse
        return hashlib.sha256(f"{parse.__module__}.{parse.__qualname__} {task.candidates.digest}".encode()).hexdigest()
    digest = hashlib.sha256()
    for candidate in task.candidates:
        digest.update(json.dumps([candidate.language, candidate.text], ensure_ascii=False).encode())
    return digest.hexdigest()


def folder_name(*, model: str, corpus: str, precision: Precision, rows: int, by_length: bool) -> str:
    """The name of a set of vectors: another model, corpus or setting has another one.

    Args:
        model, corpus: their fingerprints.
        rows: of a part.
        by_length: parts are stretches of the texts sorted by length, not of the pool.
    """
    settings = {"model": model, "corpus": corpus, "precision": precision, "rows": rows, "by_length": by_length}
    return hashlib.sha256(json.dumps(settings | {"format": FORMAT}, sort_keys=True).encode()).hexdigest()[:24]


def kept_sets(folder: Path) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Each set of vectors that is kept in a folder: where, what it is of, and its bytes."""
    for about in sorted(folder.glob(f"*/{ABOUT}")):
        size = sum(path.stat().st_size for path in about.parent.glob("part-*.npy"))
        yield about.parent, json.loads(about.read_text(encoding="utf-8")), size
