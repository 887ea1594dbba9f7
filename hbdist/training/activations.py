"""Memory of activations, measured rather than guessed from the architecture, and the memory available for them.

b texts of one forward pass · L tokens of each, padding included
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import torch
from torch import Tensor, nn

SHARE = 0.5
"""Share of the free memory that activations may use: the rest is for the copies that backward makes, and for the data."""


@dataclass(frozen=True)
class ActivationBudget:
    """Bytes of one token's activations on this rank, and bytes available for all of them."""

    bytes_per_token: float
    available: int

    @classmethod
    def measure(
        cls, model: nn.Module, forward: Callable[[], Tensor], *, tokens: int, device: torch.device
    ) -> "ActivationBudget":
        """Run `forward`, which encodes a chunk of this many tokens with gradients, and count the bytes autograd saves."""
        # At stage 3 of ZeRO a rank has a shard of each parameter, in `ds_tensor`.
        shards = [getattr(parameter, "ds_tensor", parameter) for parameter in model.parameters()]
        parameters = sum(shard.numel() * shard.element_size() for shard in shards)
        return cls.of(saved_bytes(model, forward) / tokens, free=free_bytes(device), parameters=parameters)

    @classmethod
    def of(cls, bytes_per_token: float, *, free: int, parameters: int) -> "ActivationBudget":
        """Return the budget before the first step, when gradients and AdamW's two moments are still to be allocated.

        `free` are the bytes this process can still allocate, `parameters` those of the parameters, already allocated.
        """
        return cls(bytes_per_token, int(SHARE * max(0, free - 3 * parameters)))

    def reserve(self, size: int) -> "ActivationBudget":
        """Return the budget when this many bytes are allocated besides the activations, while they are kept."""
        return replace(self, available=max(0, self.available - int(SHARE * size)))

    def fits(self, tokens: int) -> bool:
        """Return True if the activations of this many tokens can be kept at once."""
        return tokens * self.bytes_per_token <= self.available

    def __str__(self) -> str:
        return f"{self.bytes_per_token / 1e6:.2f} MB of activations per token, {self.available / 1e9:.1f} GB for them"


def is_out_of_memory(error: BaseException) -> bool:
    """Check that an error says that memory, of the GPU or the machine, does not suffice."""
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in texts)


def describe_remedy(budget: ActivationBudget | None, chunk_tokens: int, *, one_pass: bool | None) -> str:
    """Return what to do when memory does not suffice for a step: the size of a chunk that would fit, as far as is known.

    Args:
        budget: the measured one; None if the step has not measured any.
        one_pass: whether the activations of all chunks were kept.
    """
    size, known = max(1, chunk_tokens // 2), ""
    if budget:
        while size > 1 and not budget.fits(size):
            size //= 2
        known = f" ({budget})"
    passes = ' Set loss.gradient_cache="always" too: one pass keeps the activations of all chunks.' if one_pass else ""
    verb = "would fit" if budget else "halves what a pass takes"
    return (
        f"out of memory{known}. loss.chunk_tokens={size} {verb}, now {chunk_tokens}; it changes neither the loss nor the"
        f" gradient.{passes} `hbdist plan CONFIG --fit` measures what fits."
    )


@dataclass(frozen=True)
class Activations:
    """Model of the bytes autograd saves for a chunk: once + per_token · bL + per_pair · bL²."""

    once: float
    """Bytes for any chunk, such as copies of the weights in another precision."""
    per_token: float
    per_pair: float
    """Bytes per pair of tokens of one text: 0 if attention saves no scores."""

    @classmethod
    def measure(cls, model: nn.Module, forward: Callable[[int, int], Tensor], *, length: int) -> Self:
        """Determine the three numbers by three forward passes, with gradients, of texts with at most `length` (≥ 2) tokens."""
        shapes = ((2, length), (4, length), (4, length // 2))
        terms = np.array([[1, texts * tokens, texts * tokens**2] for texts, tokens in shapes], dtype=np.float64)
        saved = [saved_bytes(model, lambda shape=shape: forward(*shape)) for shape in shapes]  # type: ignore[misc]
        once, per_token, per_pair = np.linalg.solve(terms, np.array(saved, dtype=np.float64)).tolist()
        return cls(once, per_token, per_pair)

    def bytes_for(self, texts: int, tokens: int) -> float:
        """Return the bytes of a chunk with this many texts of this many tokens each."""
        return self.once + texts * tokens * (self.per_token + self.per_pair * tokens)


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Return the bytes autograd saves for the backward pass of `forward`, without parameters, shared memory counted once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Checked each time, because ZeRO-3 gathers weights into new memory in each pass; there is no backward pass here.
        if storage.data_ptr() in {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}:
            return tensor.new_empty(0)
        sizes[storage.data_ptr()] = storage.nbytes()
        # Not the tensor itself: an operation's own output would keep its graph alive, and the graph the tensor, forever.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()  # alive until the sizes are summed: freed memory would be counted twice or never
    total = sum(sizes.values())
    del output
    return total


def free_bytes(device: torch.device) -> int:
    """Return the bytes this process can still allocate on its GPU, or its share of the machine's or container's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = min([psutil.virtual_memory().available, *_free_in_control_groups()])
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _free_in_control_groups() -> list[int]:
    """Return the bytes still allowed by this process's control group and those above it; file cache counts as free."""
    path = Path("/proc/self/cgroup")
    free = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        v2 = controllers == ""
        names = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        root = Path("/sys/fs/cgroup", controllers)
        own = root / group.strip("/")
        for folder in {own, *(parent for parent in own.parents if root in (parent, *parent.parents))}:
            limit, used = folder / names[0], folder / names[1]
            if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
                free.append(int(limit.read_text()) - int(used.read_text()) + _file_cache(folder))
    return free


def _file_cache(folder: Path) -> int:
    path = folder / "memory.stat"
    entries = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    return next((int(entry[1]) for entry in entries if entry[0] in ("inactive_file", "total_inactive_file")), 0)
