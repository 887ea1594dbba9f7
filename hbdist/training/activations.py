"""What activations take of memory, measured and not guessed from the architecture, and how much memory there is.

b texts of one forward pass · L tokens of each, padding included
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

SHARE = 0.5
"""Of the free memory that activations may take: the rest is for the copies that backward makes, and for the data."""


@dataclass(frozen=True)
class ActivationBudget:
    """What a token's activations take on this rank, and what there is for them."""

    bytes_per_token: float
    available: int

    @classmethod
    def measure(
        cls, model: nn.Module, forward: Callable[[], Tensor], *, tokens: int, device: torch.device
    ) -> "ActivationBudget":
        """Run one forward pass and count what autograd keeps of it.

        Args:
            forward: encodes a chunk, with gradients.
            tokens: of that chunk, padding included.
        """
        # At stage 3 of ZeRO a rank has a share of each, in `ds_tensor`.
        shares = [getattr(parameter, "ds_tensor", parameter) for parameter in model.parameters()]
        parameters = sum(share.numel() * share.element_size() for share in shares)
        return cls.of(saved_bytes(model, forward) / tokens, free=free_bytes(device), parameters=parameters)

    @classmethod
    def of(cls, bytes_per_token: float, *, free: int, parameters: int) -> "ActivationBudget":
        """The budget before the first step, where gradients and the two moments of AdamW are still to come.

        Args:
            free: bytes that this process can still take.
            parameters: bytes of the parameters, which it holds already.
        """
        return cls(bytes_per_token, int(SHARE * max(0, free - 3 * parameters)))

    def fits(self, tokens: int) -> bool:
        """The activations of so many tokens can be kept at once."""
        return tokens * self.bytes_per_token <= self.available

    def __str__(self) -> str:
        return f"{self.bytes_per_token / 1e6:.2f} MB of activations a token, {self.available / 1e9:.1f} GB for them"


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps of a chunk: once + per_token · bL + per_pair · bL²."""

    once: float
    """Whatever the chunk: copies of the weights in another precision, say."""
    per_token: float
    per_pair: float
    """Of a pair of tokens of one text: 0 where attention keeps no scores."""

    @classmethod
    def measure(cls, model: nn.Module, forward: Callable[[int, int], Tensor], *, length: int) -> Self:
        """Three forward passes of a few texts, which settle the three numbers.

        Args:
            forward: encodes b texts of L tokens, with gradients.
            length: the most tokens of a text, at least 2.
        """
        shapes = ((2, length), (4, length), (4, length // 2))
        terms = np.array([[1, texts * tokens, texts * tokens**2] for texts, tokens in shapes], dtype=np.float64)
        kept = [saved_bytes(model, lambda shape=shape: forward(*shape)) for shape in shapes]  # type: ignore[misc]
        once, per_token, per_pair = np.linalg.solve(terms, np.array(kept, dtype=np.float64)).tolist()
        return cls(once, per_token, per_pair)

    def of(self, texts: int, tokens: int) -> float:
        """Bytes of a chunk of so many texts of so many tokens each."""
        return self.once + texts * tokens * (self.per_token + self.per_pair * tokens)


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `forward`, each piece of memory counted once, without parameters."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Asked each time, for ZeRO-3 gathers weights into new memory in each pass; nothing goes back through this one.
        if storage.data_ptr() in {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}:
            return tensor.new_empty(0)
        sizes[storage.data_ptr()] = storage.nbytes()
        # Not the tensor itself: where it is an operation's own output, it would hold its graph, and the graph it, for good.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = forward()  # alive until the sizes are added up: freed memory would be counted twice or never
    total = sum(sizes.values())
    del kept
    return total


def free_bytes(device: torch.device) -> int:
    """Memory this process can still take: of its GPU, or its share of what the machine or its container has."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = [free for free in (_machine_free(), _container_free()) if free is not None]
    return min(limits, default=1 << 33) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _machine_free() -> int | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container_free() -> int | None:
    """What the control group of this process, or one above it, still allows; the file cache does not count as used."""
    listed = Path("/proc/self/cgroup")
    if not listed.is_file():
        return None
    allowed = []
    for line in listed.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        names = (
            ("memory.max", "memory.current")
            if controllers == ""
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        root = Path("/sys/fs/cgroup", controllers)
        inside = root / path.strip("/")
        for folder in {inside, *(parent for parent in inside.parents if root in (parent, *parent.parents))}:
            limit, used = folder / names[0], folder / names[1]
            if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
                allowed.append(int(limit.read_text()) - int(used.read_text()) + _file_cache(folder))
    return min(allowed, default=None)


def _file_cache(folder: Path) -> int:
    path = folder / "memory.stat"
    lines = path.read_text().splitlines() if path.is_file() else []
    return next(
        (int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "total_inactive_file")), 0
    )
