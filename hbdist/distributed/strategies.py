"""Strategies for parameters, gradients and optimizer state: full copies on every rank (DDP), or DeepSpeed's shards.

Both compute the same gradient, norm and update, and both export and restore the same state: all parameters and AdamW's two
moments of each, in float32, by name. So a checkpoint does not depend on the number of ranks or the stage.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from hbdist.distributed.saved_state import MOMENTS
from hbdist.distributed.zero import Zero

NORM_BLOCK = 2**22
"""Number of gradient elements cast to float64 at once."""
Weights = dict[str, Tensor]
Moments = dict[str, dict[str, Tensor]]
"""Moments by parameter: {parameter: {moment: tensor}}."""
Saved = tuple[Moments, int]
"""AdamW's moments from a checkpoint, or none, and the number of updates made until then."""


class DDPStrategy:
    """One process, or DistributedDataParallel: every rank has full copies."""

    lockstep = False
    """True if ranks must make equal numbers of forward and backward passes."""

    def __init__(
        self, accelerator: Accelerator, module: nn.Module, optimizer: Optimizer, saved: Saved, max_grad_norm: float
    ) -> None:
        module.to(accelerator.device)  # in place: the optimizer's parameters move with it
        self.module, self.optimizer, self.max_grad_norm = module, optimizer, max_grad_norm
        moments, self.updates = saved
        for name, parameter in module.named_parameters():
            if name in moments:
                step = torch.tensor(float(self.updates), device=parameter.device)
                self.optimizer.state[parameter] = {"step": step} | {
                    key: value.to(parameter, copy=True) for key, value in moments[name].items()
                }
        self.model = accelerator.prepare_model(module)
        if accelerator.num_processes > 1:
            assert isinstance(self.model, nn.parallel.DistributedDataParallel), "gradients would not be averaged"
            # Buffers are constants here, and syncing them at every forward would require equal numbers of chunks.
            self.model.broadcast_buffers = False

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's loss; outside `no_sync`, gradients are averaged over ranks on return."""
        loss.backward()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Mark the backward passes inside as not the last of their step."""
        if isinstance(self.model, nn.parallel.DistributedDataParallel):
            with self.model.no_sync():
                yield
        else:
            yield

    def update(self, lr: float) -> float:
        """Make one step of AdamW, if the gradient is finite, and return its norm before clipping."""
        norm = clip_gradients(self.module, self.max_grad_norm)
        if math.isfinite(norm):
            _set_lr(self.optimizer, lr)
            self.optimizer.step()
            self.updates += 1
        self.optimizer.zero_grad()
        return norm

    def weights(self, *, keep: bool) -> Weights:
        """Return all parameters and buffers in full, in main memory; nothing unless `keep`. A collective."""
        return {name: value.detach().cpu() for name, value in self.module.state_dict().items()} if keep else {}

    def moments(self, *, keep: bool) -> Moments:
        """Return AdamW's moments of all parameters in full, in main memory; nothing unless `keep`. A collective."""
        trained, state = _trained_parameters(self.module) if keep else [], self.optimizer.state
        return {name: {key: state[value][key].cpu() for key in MOMENTS} for name, value in trained}


class DeepSpeedStrategy:
    """DeepSpeed at any stage of ZeRO, with the interface of `DDPStrategy`; needs an accelerator with DeepSpeed's plugin.

    DeepSpeed is told for each chunk whether it is the last of its step: DeepSpeed's own `no_sync` is an error at stages 2 and
    3, and with neither, stages 1 and 2 silently lose all but the last chunk.
    """

    def __init__(
        self, accelerator: Accelerator, module: nn.Module, optimizer: Optimizer, saved: Saved, limit: float, zero: Zero
    ) -> None:
        moments, self.updates = saved
        self.max_grad_norm, self.stage = limit, zero.stage
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.lockstep = zero.every_backward_reduces and self.world > 1
        self.model, _ = accelerator.prepare(module, optimizer)
        assert self.model.gradient_clipping() == (limit if zero.stage else 0.0), (
            "DeepSpeed would clip at its own default"
        )
        assert self.model.zero_optimization_stage() == zero.stage
        self._is_last_backward = True
        if moments:
            self._restore(moments)

    def backward(self, loss: Tensor) -> None:
        self.model.set_gradient_accumulation_boundary(self._is_last_backward)
        self.model.backward(loss)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self._is_last_backward = False
        try:
            yield
        finally:
            self._is_last_backward = True

    def update(self, lr: float) -> float:
        _set_lr(self.model.optimizer, lr)
        if self.stage == 0:
            norm = clip_gradients(self.model.module, self.max_grad_norm)
            if math.isfinite(norm):
                self.model.step()
            else:
                self.model.zero_grad()
        else:
            # Stages 1 to 3 skip an update whose gradient is not finite, and report its norm as infinite or as −1.
            self.model.step()
            norm = float(self.model.get_global_grad_norm())
            norm = norm if norm >= 0 else math.nan
        self.updates += math.isfinite(norm)
        return norm

    def weights(self, *, keep: bool) -> Weights:
        module, weights = self.model.module, {}
        for name, value in module.named_parameters(remove_duplicate=False):
            full = _gather(value) if self.stage == 3 else value.detach()
            if keep:
                weights[name] = full.cpu()
        buffers = module.state_dict().items() if keep else ()
        return weights | {name: value.cpu() for name, value in buffers if name not in weights}

    def moments(self, *, keep: bool) -> Moments:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_states()
        moments: Moments = {}
        for name, value in _trained_parameters(self.model.module):
            for key in MOMENTS:
                full = safe_get_full_optimizer_state(value, key) if self.stage else self._adam().state[value][key]
                if keep:
                    moments.setdefault(name, {})[key] = full.cpu()
        return moments

    def _restore(self, moments: Moments) -> None:
        """Create AdamW's state, which does not exist before the first update, and fill it."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        state = self._adam().state
        for tensor in self._optimized_tensors():
            step = torch.tensor(float(self.updates), device=tensor.device)
            state[tensor] = {"step": step} | {key: torch.zeros_like(tensor) for key in MOMENTS}
        self._link_states()
        for name, parameter in _trained_parameters(self.model.module):
            for key in MOMENTS:
                value = moments[name][key].to(self.model.device)
                if self.stage == 0:
                    state[parameter][key].copy_(value)
                elif self.stage == 3:
                    safe_set_local_optimizer_state(parameter, self._shard(value, parameter), key)
                else:
                    safe_set_full_optimizer_state(parameter, value, key)

    def _shard(self, value: Tensor, parameter: Any) -> Tensor:
        """Return this rank's shard of a tensor at stage 3, where the last rank's is padded with zeros."""
        size = parameter.ds_tensor.numel()
        padded = nn.functional.pad(value.flatten(), (0, size * self.world - value.numel()))
        return padded.narrow(0, size * self.rank, size)

    def _adam(self) -> Optimizer:
        return self.model.optimizer if self.stage == 0 else self.model.optimizer.optimizer

    def _optimized_tensors(self) -> list[Tensor]:
        """Return the tensors AdamW updates on this rank: the parameters, or flat shards of them."""
        if self.stage == 0:
            return [value for _, value in _trained_parameters(self.model.module)]
        zero = self.model.optimizer
        return list(zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups)

    def _link_states(self) -> None:
        """Link all parameters to their state: stages 1 and 2 check only the *first* group, and later ones stay unlinked."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self.stage in (1, 2):
            for group, tensor in zip(self.model.optimizer.bit16_groups, self._optimized_tensors(), strict=True):
                lazy_init_hp_params_optimizer_state(group, tensor, self._adam().state)


Strategy = DDPStrategy | DeepSpeedStrategy
"""Strategy of an engine: both classes have the same attributes and methods."""


def _gather(parameter: nn.Parameter) -> Tensor:
    """Return a parameter in full at stage 3. A collective."""
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    if parameter.requires_grad:
        return safe_get_full_fp32_param(parameter)
    # The optimizer has no copy of a frozen one.
    with GatheredParameters([parameter]):
        return parameter.detach().clone()


def clip_gradients(model: nn.Module, limit: float) -> float:
    """Scale the gradients down to a norm of `limit` if it is not 0 and they exceed it; return their norm before.

    Gradients whose norm is not finite stay as they are.
    """
    norm = gradient_norm(model.parameters())
    if 0 < limit < norm < math.inf:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(limit / norm)
    return norm


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Return ‖g‖ over all parameters, computed in float64, as DeepSpeed does.

    torch's own float32 sums over an embedding's tens of millions of squares are wrong in the third digit on a CPU.
    """
    gradients = [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
    blocks = [block for gradient in gradients for block in gradient.split(NORM_BLOCK)]
    return float(torch.stack([torch.linalg.vector_norm(block, dtype=torch.float64) for block in blocks]).norm())


def _trained_parameters(module: nn.Module) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in module.named_parameters() if value.requires_grad]


def _set_lr(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
