from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np


class ArrayCache:
    """Cache of the newest value of each slot; the least recently used ones are dropped above `limit` bytes.

    A schedule moves forward: when a group's next window begins, its last one is not needed again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._values: OrderedDict[Hashable, tuple[Hashable, tuple[np.ndarray, ...]]] = OrderedDict()

    def get(
        self, slot: Hashable, version: Hashable, make: Callable[..., tuple[np.ndarray, ...]], *arguments: Any
    ) -> tuple[np.ndarray, ...]:
        """Return the arrays of this version in this slot; if they are not cached, make them with `make(*arguments)`."""
        entry = self._values.get(slot)
        if entry is not None and entry[0] == version:
            self._values.move_to_end(slot)
            return entry[1]
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
        """Return the limit without the values: another process makes those that it needs."""
        return {"limit": self.limit, "bytes": 0, "_values": OrderedDict()}
