"""AdamW's parameter groups, and the learning rate as a pure function of the step: no scheduler has to be saved."""

import math
from typing import Any, assert_never

import torch
from torch import nn

from hbdist.config.sections import OptimizerSection


def make_optimizer(model: nn.Module, settings: OptimizerSection) -> torch.optim.AdamW:
    """Return AdamW over all trainable parameters, without weight decay for biases and norms (those with one dimension)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, fused=True)


def learning_rate(step: int, settings: OptimizerSection, *, steps: int) -> float:
    """Return the learning rate of update `step` (from 0) of `steps`: warm-up, then `optimizer.schedule`."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    match settings.schedule:
        case "constant":
            return settings.lr
        case "linear":
            return settings.lr * (1 - done)
        case "cosine":
            return settings.lr * (1 + math.cos(math.pi * done)) / 2
        case _:
            assert_never(settings.schedule)
