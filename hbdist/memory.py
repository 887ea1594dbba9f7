"""Whether the activations of a whole batch fit into memory: measured on one chunk, not guessed from the architecture."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
        parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        # At the first step, gradients and the two moments of AdamW are still to come.
        free = free_bytes(device) - 3 * parameters
        return cls(saved_bytes(model, forward) / tokens, int(SHARE * max(0, free)))

    def fits(self, tokens: int) -> bool:
        """The activations of so many tokens can be kept at once."""
        return tokens * self.bytes_per_token <= self.available

    def __str__(self) -> str:
        return f"{self.bytes_per_token / 1e6:.2f} MB of activations a token, {self.available / 1e9:.1f} GB for them"


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `forward`, each piece of memory counted once, without parameters."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

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
