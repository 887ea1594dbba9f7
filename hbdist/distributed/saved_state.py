"""Comparison of a checkpoint's state with the model that it is loaded into, before anything is.

Optimizers take moments of any shape and crash in their kernels, and DeepSpeed cuts them as if they had the parameters' shapes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hbdist.errors import ResumeError

MOMENTS = ("exp_avg", "exp_avg_sq")
_REMEDY = "It is of another model, or damaged: start a new run with run.folder=… ."


def check_state(state: Mapping[str, Any], module: nn.Module) -> None:
    """Check that a checkpoint's state has the weights of this module and the moments of its trained parameters.

    Raises:
        ResumeError: a name, a shape or a number format differs.
    """
    model, moments, updates = (state.get(key) for key in ("model", "moments", "updates"))
    if not isinstance(model, Mapping) or not isinstance(moments, Mapping) or type(updates) is not int:
        raise ResumeError(
            f"the checkpoint has no model, moments and updates, only {', '.join(map(str, state))}. {_REMEDY}"
        )
    weights = module.state_dict()
    _compare_names("weights", model, weights)
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if moments:
        _compare_names("optimizer", moments, trained)
    for name, found, expected in _pairs(model, moments, weights, trained):
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if shape != list(expected.shape) or found.dtype != expected.dtype:
            kind = f", {found.dtype}" if isinstance(found, Tensor) else ""
            raise ResumeError(
                f"the checkpoint's {name} is {shape}{kind}, and the model's is {list(expected.shape)}, {expected.dtype}."
                f" {_REMEDY}"
            )


def _compare_names(what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if unmatched := sorted(map(str, found.keys() ^ expected.keys())):
        raise ResumeError(
            f"the checkpoint's {what} has {len(found)} parameters and the model has {len(expected)}; not in both is, for"
            f" example, {unmatched[0]}. {_REMEDY}"
        )


def _pairs(
    model: Mapping[str, Any], moments: Mapping[str, Any], weights: Mapping[str, Tensor], trained: Mapping[str, Tensor]
) -> Iterator[tuple[str, Any, Tensor]]:
    """Yield name, saved value and the tensor that it must be like."""
    for name, expected in weights.items():
        yield name, model[name], expected
    for name, own in moments.items():
        if not isinstance(own, Mapping) or own.keys() != set(MOMENTS):
            raise ResumeError(f"the checkpoint's optimizer has no {' and '.join(MOMENTS)} of {name}. {_REMEDY}")
        for key, value in own.items():
            yield f"{key} of {name}", value, trained[name].detach().to(torch.float32)
