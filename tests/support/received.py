"""Bytes that a process receives in collectives: counted in torch's dispatcher, and read from its own sockets."""

import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SILENT = ("barrier", "monitored_barrier_")
BYTES_RECEIVED = 128
"""Offset of tcpi_bytes_received, a 64-bit number, in Linux's struct tcp_info."""


class Received(TorchDispatchMode):
    """Counter of the bytes this rank receives in each collective, as a ring of ranks moves them.

    Includes collectives of DDP and DeepSpeed, which bypass torch's Python functions but not its dispatcher.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.share = 1 - 1 / dist.get_world_size()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Sequence[Any] = (), named: Any = None) -> Any:
        if function.namespace == "c10d":
            self._note(function.name().split("::")[1].split(".")[0], arguments)
        return function(*arguments, **(named or {}))

    def _note(self, name: str, arguments: Sequence[Any]) -> None:
        if name.startswith("allreduce_"):
            self.bytes["all-reduce"] += round(2 * self.share * _size(arguments[0]))
        elif "allgather" in name:
            self.bytes["all-gather"] += round(self.share * _size(arguments[0]))
        elif "reduce_scatter" in name:
            self.bytes["reduce-scatter"] += round(self.share * _size(arguments[1]))
        elif name == "broadcast_":
            self.bytes["broadcast"] += _size(arguments[0]) * (dist.get_rank() != arguments[2])
        elif name not in SILENT:
            raise NotImplementedError(f"c10d::{name} was called, whose bytes are not counted here")


def _size(tensors: Any) -> int:
    return tensors.nbytes if isinstance(tensors, Tensor) else sum(map(_size, tensors))


def bytes_from_sockets() -> int:
    """Return the bytes received so far by the TCP connections of this process that are open now (Linux)."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED + 8)
                    total += struct.unpack_from("Q", info, BYTES_RECEIVED)[0]
        except OSError:  # closed in the meantime
            continue
    return total
