"""Order of a group's rows in each epoch: shards in a keyed order, cut into windows, and a keyed order of rows in each.

Disks and object stores are therefore read forward, and at most one window of shards per group is in use (two where one
ends).

Shape suffix: P pairs.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hbdist.data.batching.array_cache import ArrayCache
from hbdist.data.batching.decks import group_equal
from hbdist.data.shards.groups import Group
from hbdist.utils.philox import permutation

WINDOW_SHARDS = 8
"""Number of shards per window: rows are shuffled inside a window, and windows are read one after another."""
WINDOWS_BYTES = 1 << 29
"""Bytes of windows that are kept for the next batch; a row takes two bytes, or four in groups of 65,536 rows and more.
If the windows of all groups take more and every batch needs them all, each is made anew for each batch."""


class Orders:
    """Rows of a manifest's groups, in the order of each epoch. An epoch of a group of N rows is a permutation of all N."""

    def __init__(self, groups: Sequence[Group], seed: int) -> None:
        self.groups = groups
        self.seed = seed
        self._epochs = ArrayCache(WINDOWS_BYTES)
        self._windows = ArrayCache(WINDOWS_BYTES)

    def rows(self, group: np.ndarray, epoch: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return the rows at these positions of the orders of these groups in these epochs: all int64 [P], P ≥ 1."""
        order, bounds = group_equal(group, epoch)
        position, begins = position[order], bounds[:-1]
        sorted_rows = np.empty_like(position)
        least, most = np.minimum.reduceat(position, begins), np.maximum.reduceat(position, begins)
        of_runs = [array.tolist() for array in (group[order[begins]], epoch[order[begins]], least, most)]
        for (begin, end), *of_run in zip(pairwise(bounds.tolist()), *of_runs, strict=True):
            sorted_rows[begin:end] = self._rows_of_epoch(position[begin:end], *of_run)
        rows = np.empty_like(sorted_rows)
        rows[order] = sorted_rows
        return rows

    def _rows_of_epoch(self, position: np.ndarray, group: int, epoch: int, least: int, most: int) -> np.ndarray:
        """Return the rows at these positions, which range from `least` to `most`, of one order: integers, [P]."""
        starts, shards = self._epochs.get(group, epoch, self._epoch, group, epoch)
        first, last = (starts.searchsorted((least, most), side="right") - 1).tolist()
        if first == last:
            return self._window(group, epoch, first, shards)[position - starts[first]]
        rows = np.empty_like(position)
        window = starts.searchsorted(position, side="right") - 1
        for number in np.unique(window):
            here = window == number
            rows[here] = self._window(group, epoch, int(number), shards)[position[here] - starts[number]]
        return rows

    def _key(self, group: int, epoch: int) -> str:
        return f"{self.seed}/order of {self.groups[group].name}/epoch {epoch}"

    def _epoch(self, group: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first position of each window of an epoch, int64 [windows], and its shards in order, int32 [shards]."""
        sizes = np.diff(self.groups[group].starts)
        shards = permutation(f"{self._key(group, epoch)}/shards", len(sizes))
        starts = np.cumsum(sizes[shards]) - sizes[shards]
        return starts[::WINDOW_SHARDS], shards.astype(np.int32)

    def _window(self, group: int, epoch: int, window: int, shards: np.ndarray) -> np.ndarray:
        return self._windows.get(group, (epoch, window), self._rows_of_window, group, epoch, window, shards)[0]

    def _rows_of_window(self, group: int, epoch: int, window: int, shards: np.ndarray) -> tuple[np.ndarray]:
        """Return the rows of a window in their shuffled order, as row numbers of the whole group."""
        starts = self.groups[group].starts
        shards = shards[window * WINDOW_SHARDS : (window + 1) * WINDOW_SHARDS]
        dtype = np.min_scalar_type(int(starts[-1]))
        rows = np.concatenate([np.arange(starts[shard], starts[shard + 1], dtype=dtype) for shard in shards])
        return (rows[permutation(f"{self._key(group, epoch)}/window {window}", len(rows))],)
