"""Lengths of texts in memory, so that planning a batch opens no files.

Every rank needs the lengths of a whole global batch, which it deals to the ranks by them. A batch may have rows from tens of
thousands of shards; their indexes are read when one of their rows is first asked for.

Shape suffix: S samples.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hbdist.data.shards.groups import Group, ShardSet

LENGTHS_BYTES = 1 << 29
"""Bytes of lengths that are kept. Above it, all are forgotten, and those that are needed read again. A row takes 8 bytes."""
UNKNOWN = 0
"""Entry of a row whose index has not been read: others are the number of characters plus one."""
Ints = NDArray[np.int64]
Fill = Callable[[Ints, Ints], None]


class LengthTable:
    """Characters of the query and the document of every row of some shard sets.

    The array has a place for every row, but the system gives it memory only for the parts that have been written.
    """

    def __init__(self, shard_sets: Sequence[ShardSet], limit: int = LENGTHS_BYTES) -> None:
        rows = [_rows(shard_set) for shard_set in shard_sets]
        self.limit = limit
        self._first = np.cumsum([0, *rows])
        self._forget()

    def get(self, set_S: Ints, row_S: Ints, fill: Fill) -> NDArray[np.int32]:
        """Return the characters of queries and documents of these rows of these shard sets: [S, 2].

        Args:
            fill: called with the shard sets and rows that are not in memory; it must `put` their shards.
        """
        position_S = self._first[set_S] + row_S
        chars_S2 = self._chars.take(position_S, axis=0)
        unknown = np.flatnonzero(chars_S2[:, 0] == UNKNOWN)
        if len(unknown):
            if self._bytes > self.limit:
                self._forget()
                unknown = np.arange(len(position_S))
            before = self._bytes
            fill(set_S[unknown], row_S[unknown])
            # What one batch needs is kept in any case: forgetting it would mean to read it again for the next one.
            self.limit = max(self.limit, 2 * (self._bytes - before))
            chars_S2[unknown] = self._chars.take(position_S[unknown], axis=0)
        return chars_S2 - 1

    def put(self, set_number: int, first_row: int, entries: NDArray[np.void]) -> None:
        """Keep the lengths of the shard whose index this is; `first_row` is the row of its first entry."""
        start = int(self._first[set_number]) + first_row
        for side, column in enumerate(("query_chars", "document_chars")):
            self._chars[start : start + len(entries), side] = entries[column] + 1
        self._bytes += 8 * len(entries)

    def _forget(self) -> None:
        self._chars = np.zeros((int(self._first[-1]), 2), np.int32)
        self._bytes = 0


def _rows(shard_set: ShardSet) -> int:
    if isinstance(shard_set, Group):
        return 0 if shard_set.view else shard_set.rows
    return shard_set.rows
