"""Keyed random orders, the same on every machine and in every version of every library, and a bounded store of them.

All randomness is raw Philox words and a stable sort; a library's own `permutation` may change between versions.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

PLAIN_SORT = 1_024
"""Up to so many words one sort by all 64 bits is as fast as sorts by 16."""


def random_words(key: str, count: int) -> np.ndarray:
    """`count` raw 64-bit words of Philox, keyed by a text: uint64 [count]."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(count)


def permutation(key: str, count: int) -> np.ndarray:
    """A keyed random order of 0 … count − 1: int64 [count]."""
    return stable_order(random_words(key, count))


def stable_order(words: np.ndarray) -> np.ndarray:
    """`np.argsort(words, kind="stable")` of random 64-bit words, several times as fast: int64 [count].

    NumPy sorts 16-bit numbers by their digits. Sorting by some of the words' highest 16 bits, the lowest of them first,
    orders the words but for those that agree in all of these bits; where any do, the plain sort is done.
    """
    if len(words) > PLAIN_SORT:
        # n words agree in their highest b bits somewhere with a chance of about n² / 2^(b + 1).
        lowest, *others = (32, 48) if len(words) < 1 << 15 else (16, 32, 48)
        order = by_label(words >> np.uint64(lowest))
        for bit in others:
            order = order[by_label((words >> np.uint64(bit)).astype(np.uint16)[order])]
        in_order = words[order]
        if np.all(in_order[:-1] <= in_order[1:]):
            return order
    return np.argsort(words, kind="stable")


def by_label(labels: np.ndarray) -> np.ndarray:
    """The stable order by the lowest 16 bits of whole numbers: int64, of the shape of `labels`."""
    return np.argsort(labels.astype(np.uint16, copy=False), kind="stable")


class Recent:
    """The newest value of each slot, forgotten where it was used longest ago once all take more than `limit` bytes.

    A schedule goes forward: when a group's next window begins, its last one is not needed again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._values: OrderedDict[Hashable, tuple[Hashable, tuple[np.ndarray, ...]]] = OrderedDict()

    def get(
        self, slot: Hashable, version: Hashable, make: Callable[..., tuple[np.ndarray, ...]], *arguments: Any
    ) -> tuple[np.ndarray, ...]:
        """The arrays of this version in this slot; made by `make(*arguments)` if they are not there."""
        held = self._values.get(slot)
        if held is not None and held[0] == version:
            self._values.move_to_end(slot)
            return held[1]
        self._drop(slot)
        value = make(*arguments)
        self._values[slot] = version, value
        self.bytes += sum(array.nbytes for array in value)
        while self.bytes > self.limit and len(self._values) > 1:
            self._drop(next(iter(self._values)))
        return value

    def _drop(self, slot: Hashable) -> None:
        _, value = self._values.pop(slot, (None, ()))
        self.bytes -= sum(array.nbytes for array in value)

    def __getstate__(self) -> dict[str, Any]:
        """The limit alone: another process draws what it needs."""
        return {"limit": self.limit, "bytes": 0, "_values": OrderedDict()}
