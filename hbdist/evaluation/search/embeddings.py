"""Embeddings of a corpus in parts: in memory, or on disk, where they can be kept and are read as memory maps.

A part is a file that is either complete or absent, so after a kill only the missing parts are encoded. Which candidates
are in a part follows from the corpus alone, never from the number of ranks.

    N vectors of a part · D dimensions
"""

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import DataError
from hbdist.evaluation.search.settings import Precision
from hbdist.evaluation.tasks.corpus import Corpus
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.utils.files import write_atomically
from hbdist.utils.json_toml import read_json_object
from hbdist.utils.leftovers import remove_leftovers

IN_MEMORY_BYTES = 256 << 20
"""Largest size of a pool's float32 embeddings that every rank keeps in memory, in bytes."""

SORTED_ROWS = 512
"""Number of texts per part where all are in memory, sorted by length."""

LEAST_ROWS, MOST_ROWS, PARTS = 4_096, 32_768, 256
"""Smallest and largest number of candidates per part of a large pool (powers of two), and the number of parts aimed at."""

ABOUT = "vectors.json"
FORMAT = 1
"""Version of the files and of how texts are batched; another version uses another folder."""


def part_rows(candidates: int) -> int:
    """Return the number of candidates per part of a large pool."""
    rows = LEAST_ROWS
    while rows < MOST_ROWS and rows * PARTS < candidates:
        rows *= 2
    return rows


class Parts:
    """Embeddings of a pool of `total` vectors, cut into parts of `rows` vectors; the last part may have fewer.

    Args:
        folder: folder of the files; None: in memory.
        dimensions: D, which files must have to be used.
    """

    def __init__(
        self, total: int, rows: int, precision: Precision, *, folder: Path | None = None, dimensions: int = 0
    ) -> None:
        self.total, self.rows, self.precision = total, rows, precision
        self.folder, self.dimensions = folder, dimensions
        self._in_memory: dict[int, np.ndarray] = {}

    @property
    def numbers(self) -> range:
        """Numbers of all parts."""
        return range(-(-self.total // self.rows))

    def of_rank(self, ranks: ProcessGroup) -> range:
        """Return the numbers of the parts that this rank encodes and searches."""
        return self.numbers[ranks.rank :: ranks.world]

    def span(self, number: int) -> range:
        """Return the rows of the pool that are in a part."""
        return range(number * self.rows, min((number + 1) * self.rows, self.total))

    def has(self, number: int) -> bool:
        """Return whether a part is present, complete and of the right shape and type."""
        if self.folder is None:
            return number in self._in_memory
        try:
            vector_ND = self._open(number)
        except (OSError, ValueError, EOFError):
            return False
        return vector_ND.shape == (len(self.span(number)), self.dimensions) and vector_ND.dtype == self.precision

    def write(self, number: int, vector_ND: np.ndarray) -> None:
        """Store a part.

        Raises:
            DataError: the folder has no room for it, or cannot be written.
        """
        vector_ND = np.ascontiguousarray(vector_ND, dtype=self.precision)
        assert len(vector_ND) == len(self.span(number)), "wrong number of vectors for this part"
        if self.folder is None:
            self._in_memory[number] = vector_ND
            return
        assert vector_ND.shape[1] == self.dimensions, "document and query vectors differ in length"
        buffer = io.BytesIO()
        np.save(buffer, vector_ND)
        self._write_file(self._path(number), buffer.getvalue())

    def read(self, number: int) -> np.ndarray:
        """Return the vectors of a part, [N, D]; those of a file as a memory map."""
        return self._in_memory[number] if self.folder is None else self._open(number)

    def remove(self, numbers: Iterable[int]) -> None:
        """Delete the files of these parts, and the folder once no part is left in it."""
        if self.folder is None or not self.folder.is_dir():
            return
        for number in numbers:
            self._path(number).unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # another rank has deleted the folder
            if not any(self.folder.glob("part-*.npy")):
                shutil.rmtree(self.folder, ignore_errors=True)

    def describe(self, *, model: str, task: str) -> None:
        """Write a description of the embeddings beside the parts, for people.

        Raises:
            DataError: the folder has no room for it, or cannot be written.
        """
        assert self.folder is not None
        about = {"model": model, "task": task, "candidates": self.total, "dimensions": self.dimensions}
        text = json.dumps(about | {"precision": self.precision}, indent=2, ensure_ascii=False)
        self._write_file(self.folder / ABOUT, text + "\n")

    def _write_file(self, path: Path, content: str | bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            write_atomically(path, content)
        except OSError as error:
            size = self.total * self.dimensions * np.dtype(self.precision).itemsize
            raise DataError(
                f"{path.parent}: vectors cannot be written there ({error}). All of them take {size / 1e9:,.1f} GB. Free"
                " some space, or name another folder with --vectors; --precision float16 halves the size."
            ) from None

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"part-{number:06d}.npy"

    def _open(self, number: int) -> np.ndarray:
        return np.load(self._path(number), mmap_mode="r", allow_pickle=False)


def corpus_fingerprint(task: RetrievalTask) -> str:
    """Return the sha256 of the candidates' texts and languages, in their order; queries do not count."""
    if isinstance(task.candidates, Corpus):
        parse = task.candidates.parse
        return hashlib.sha256(f"{parse.__module__}.{parse.__qualname__} {task.candidates.digest}".encode()).hexdigest()
    digest = hashlib.sha256()
    for candidate in task.candidates:
        digest.update(json.dumps([candidate.language, candidate.text], ensure_ascii=False).encode())
    return digest.hexdigest()


def folder_name(*, model: str, corpus: str, precision: Precision, rows: int, by_length: bool) -> str:
    """Return the folder name of a set of embeddings, which changes with the model, the corpus and every setting.

    Args:
        model, corpus: their fingerprints.
        by_length: parts are cut from the texts sorted by length, not from the pool in its own order.
    """
    settings = {"model": model, "corpus": corpus, "precision": precision, "rows": rows, "by_length": by_length}
    return hashlib.sha256(json.dumps(settings | {"format": FORMAT}, sort_keys=True).encode()).hexdigest()[:24]


def list_stored(folder: Path) -> Iterator[tuple[Path, dict[str, Any], int]]:
    """Yield each set of embeddings stored in a folder: its own folder, its description, and its size in bytes."""
    for about in sorted(folder.glob(f"*/{ABOUT}")):
        size = sum(path.stat().st_size for path in about.parent.glob("part-*.npy"))
        yield about.parent, read_json_object(about, remedy="Delete its folder; it is made again."), size
