"""The order of a group's rows in each epoch: shards in a keyed order, cut into windows, rows in a keyed order in each.

So disks and object stores are read forward, and at most one window of shards a group is in use (two where one ends).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hbdist.data.batching.decks import runs
from hbdist.data.batching.window_cache import Recent
from hbdist.data.shards.manifest import Group
from hbdist.utils.philox import permutation

WINDOW_SHARDS = 8
"""Shards that are open at once a group: rows are shuffled inside such a window, windows are read one after another."""
WINDOWS_BYTES = 1 << 29
"""Windows that are kept, so that the next batch finds them; a row takes two bytes, or four in groups of 65,536 and more.
Where all groups' windows take more and every batch needs all of them, each is made anew for each batch."""


class Orders:
    """The rows of groups in the order in which each epoch goes through them. An order of N rows is one of all N.

    Args:
        groups: the manifest's groups, in its order.
        seed: of the order.
    """

    def __init__(self, groups: Sequence[Group], seed: int) -> None:
        self.groups = groups
        self.seed = seed
        self._epochs = Recent(WINDOWS_BYTES)
        self._windows = Recent(WINDOWS_BYTES)

    def rows(self, group: np.ndarray, epoch: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The rows at these places of the orders of these groups in these epochs: all int64 [P], P ≥ 1."""
        order, bounds = runs(group, epoch)
        place, begins = place[order], bounds[:-1]
        found = np.empty_like(place)
        of_runs = (
            group[order[begins]],
            epoch[order[begins]],
            np.minimum.reduceat(place, begins),
            np.maximum.reduceat(place, begins),
        )
        for (begin, end), *of_run in zip(pairwise(bounds.tolist()), *map(np.ndarray.tolist, of_runs), strict=True):
            found[begin:end] = self._rows_of_epoch(place[begin:end], *of_run)
        rows = np.empty_like(found)
        rows[order] = found
        return rows

    def _rows_of_epoch(self, place: np.ndarray, group: int, epoch: int, least: int, most: int) -> np.ndarray:
        """The rows at these places, which go from `least` to `most`, of one order: whole numbers, [P]."""
        starts, shards = self._epochs.get(group, epoch, self._epoch, group, epoch)
        first, last = (starts.searchsorted((least, most), side="right") - 1).tolist()
        if first == last:
            return self._window(group, epoch, first, shards)[place - starts[first]]
        rows = np.empty_like(place)
        window = starts.searchsorted(place, side="right") - 1
        for number in np.unique(window):
            here = window == number
            rows[here] = self._window(group, epoch, int(number), shards)[place[here] - starts[number]]
        return rows

    def _key(self, group: int, epoch: int) -> str:
        return f"{self.seed}/order of {self.groups[group].name}/epoch {epoch}"

    def _epoch(self, group: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each window begins in an epoch, int64 [windows], and the shards in their order, int32 [shards]."""
        sizes = np.diff(self.groups[group].starts)
        shards = permutation(f"{self._key(group, epoch)}/shards", len(sizes))
        starts = np.cumsum(sizes[shards]) - sizes[shards]
        return starts[::WINDOW_SHARDS], shards.astype(np.int32)

    def _window(self, group: int, epoch: int, window: int, shards: np.ndarray) -> np.ndarray:
        return self._windows.get(group, (epoch, window), self._rows_of_window, group, epoch, window, shards)[0]

    def _rows_of_window(self, group: int, epoch: int, window: int, shards: np.ndarray) -> tuple[np.ndarray]:
        """The rows of a window in their shuffled order, as row numbers of the whole group."""
        starts = self.groups[group].starts
        members = np.concatenate(
            [
                np.arange(starts[shard], starts[shard + 1], dtype=np.min_scalar_type(int(starts[-1])))
                for shard in shards[window * WINDOW_SHARDS : (window + 1) * WINDOW_SHARDS]
            ]
        )
        return (members[permutation(f"{self._key(group, epoch)}/window {window}", len(members))],)
