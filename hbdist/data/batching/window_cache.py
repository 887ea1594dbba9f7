"""Keyed random orders, the same on every machine and in every version of every library, and a bounded store of them.

All randomness is raw Philox words and a stable sort; a library's own `permutation` may change between versions.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np


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
