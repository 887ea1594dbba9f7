"""Reading pairs by (group, row), from any place in any order: one seek each, no stream and no state.

Nothing is ever unpickled: shards are JSON, indexes are plain arrays.
"""

import os
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from hbdist.errors import DataError
from hbdist.shards.manifest import Manifest, Shard
from hbdist.shards.sample import INDEX, Pair, decode

__all__ = ["Pair", "ShardReader"]

OPEN_SHARDS = 256
"""Shards a reader keeps open. Each takes two file descriptors, of the 1024 that a process has by default."""


class ShardReader:
    """The pairs of a shard folder. Opens shards when they are asked for; can be pickled and forked."""

    def __init__(self, manifest: Manifest, *, open_shards: int = OPEN_SHARDS) -> None:
        self.manifest = manifest
        self.open_shards = open_shards

    def lengths(self, group: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Characters of the queries and of the documents of these rows of a group of the manifest.

        Rows are counted within the group, over its shards in order.

        Raises:
            DataError: a shard or its index is missing or damaged.
        """
        rows = np.asarray(rows, np.int64)
        lengths = np.empty((2, len(rows)), np.int64)
        for shard, places, inside in self._by_shard(group, rows):
            entries = self._open(shard, row=int(rows[places[0]])).index[inside]
            lengths[:, places] = entries["query_chars"], entries["document_chars"]
        return lengths[0], lengths[1]

    def read(self, groups: NDArray[np.int64], rows: NDArray[np.int64]) -> list[Pair]:
        """The pairs (group, row), in the order asked; the same one may be asked for more than once.

        Raises:
            DataError: a shard is missing, truncated or damaged; the message names it and the row.
        """
        groups, rows = np.asarray(groups, np.int64), np.asarray(rows, np.int64)
        assert groups.shape == rows.shape, f"{groups.shape} groups for {rows.shape} rows"
        pairs: dict[int, Pair] = {}
        for of_group in _runs(np.argsort(groups, kind="stable"), groups):
            group = int(groups[of_group[0]])
            for shard, places, inside in self._by_shard(group, rows[of_group]):
                wanted = rows[of_group[places]]
                opened = self._open(shard, row=int(wanted[0]))
                for place, row, entry in zip(of_group[places].tolist(), wanted.tolist(), inside.tolist(), strict=True):
                    pairs[place] = self._pair(opened, entry, row=row, dataset=self.manifest.groups[group].dataset)
        return [pairs[place] for place in range(len(rows))]

    def _by_shard(
        self, group: int, rows: NDArray[np.int64]
    ) -> Iterator[tuple[Shard, NDArray[np.int64], NDArray[np.int64]]]:
        """For each shard that holds some of the rows: the shard, their places in `rows`, their numbers in the shard.

        Shard after shard and forward in each, as disks read fastest, and so that each is opened once.
        """
        starts = self._starts[group]
        assert len(rows) == 0 or (rows.min() >= 0 and rows.max() < starts[-1]), f"rows outside group {group}"
        numbers = np.searchsorted(starts, rows, side="right") - 1
        for places in _runs(np.argsort(rows, kind="stable"), numbers):
            number = numbers[places[0]]
            yield self.manifest.groups[group].shards[number], places, rows[places] - starts[number]

    def _pair(self, opened: "_Opened", entry: int, *, row: int, dataset: str) -> Pair:
        offset, size = int(opened.index[entry]["offset"]), int(opened.index[entry]["size"])
        try:
            payload = os.pread(opened.file, size, offset)
            if len(payload) != size:
                raise ValueError(f"it has {len(payload)} bytes at {offset}, its index says {size}")
            return decode(payload, dataset=dataset)
        except (OSError, ValueError) as error:
            raise self._damage(opened.shard, row, f"is damaged: {error}") from None

    def _open(self, shard: Shard, *, row: int) -> "_Opened":
        try:
            return self._opened(shard)
        except (OSError, ValueError) as error:
            what = f"is missing ({error.filename})" if isinstance(error, FileNotFoundError) else f"is damaged: {error}"
            raise self._damage(shard, row, what) from None

    def _damage(self, shard: Shard, row: int, what: str) -> DataError:
        root = self.manifest.root
        return DataError(
            f"{root / shard.path} (wanted: row {row} of its group) {what}. "
            f"See what else is damaged with `hbdist check {root}`, then build it again with `hbdist build RECIPE`."
        )

    @cached_property
    def _starts(self) -> list[NDArray[np.int64]]:
        """Per group, the row with which each of its shards begins, and the number of all its rows."""
        return [
            np.cumsum([0, *(shard.rows for shard in group.shards)], dtype=np.int64) for group in self.manifest.groups
        ]

    @cached_property
    def _opened(self) -> "Callable[[Shard], _Opened]":
        return lru_cache(self.open_shards)(partial(_Opened, self.manifest.root))

    def __getstate__(self) -> dict[str, Any]:
        """What to open, not what is open: file descriptors mean nothing in another process."""
        return {"manifest": self.manifest, "open_shards": self.open_shards}


class _Opened:
    """An open shard; closed when nobody holds it, so that a thread may still read what another one evicts."""

    def __init__(self, root: Path, shard: Shard) -> None:
        self.shard = shard
        self.index = open_index(root, shard)
        self.file = os.open(root / shard.path, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self.file)
        size = os.fstat(self.file).st_size
        if size != shard.bytes:
            raise ValueError(f"it has {size} bytes, the manifest says {shard.bytes}")


def _runs(order: NDArray[np.int64], labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """`order`, cut wherever the label of its next element is another."""
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []


def open_index(root: Path, shard: Shard) -> NDArray[np.void]:
    """The index of a shard, mapped into memory.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or not of this shard.
    """
    try:
        index = np.load(root / shard.index, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"its index {shard.index} cannot be read ({error})") from None
    if index.dtype != INDEX or index.shape != (shard.rows,):
        raise ValueError(f"its index {shard.index} holds {index.shape} of {index.dtype}, expected {shard.rows} entries")
    return index
