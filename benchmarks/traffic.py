"""Bytes that a rank receives: counted in the collectives, as a ring moves them, and read from the loopback interface."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

UNKNOWN = ("all_to_all", "all_to_all_single", "send", "recv", "isend", "irecv", "batch_isend_irecv", "reduce", "gather")


class Counter:
    """Counter of the bytes that this rank receives in torch.distributed's collectives. Make it before others import them."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.bytes = 0.0
        self._others = dist.get_world_size() - 1
        share = self._others / dist.get_world_size()
        rules: dict[str, Callable[..., float]] = {
            "all_gather": lambda parts, own, **_: self._others * _size(own),
            "all_gather_into_tensor": lambda all_, own, **_: _size(all_) - _size(own),
            "all_gather_single": lambda all_, own, **_: _size(all_) - _size(own),
            "reduce_scatter_tensor": lambda own, all_, **_: _size(all_) - _size(own),
            "reduce_scatter_single": lambda own, all_, **_: _size(all_) - _size(own),
            "all_reduce": lambda all_, **_: 2 * share * _size(all_),
            "scatter": lambda own, parts, source, **_: _size(own) * (parts is None),
        }
        for name, rule in rules.items():
            if hasattr(dist, name):
                setattr(dist, name, self._counting(getattr(dist, name), rule))
        for name in UNKNOWN:
            setattr(dist, name, _refuse(name))

    def _counting(self, collective: Callable[..., Any], rule: Callable[..., float]) -> Callable[..., Any]:
        @wraps(collective)
        def counting(*arguments: Any, **settings: Any) -> Any:
            self.bytes += rule(*arguments, **settings)
            return collective(*arguments, **settings)

        return counting


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise NotImplementedError(f"torch.distributed.{name} is called, whose bytes are not counted here")

    return refuse


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def loopback_bytes() -> int:
    """Return the bytes that the loopback interface has received, from all ranks and every other program."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split(":", 1)[1].split()[0]) for line in lines if line.strip().startswith("lo:"))
