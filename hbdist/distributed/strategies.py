"""Who holds parameters, gradients and optimizer state: every rank all of them (one process, DDP), or DeepSpeed in shares.

Both give the same gradient, the same norm and the same update, and both give and take the same state: all parameters and
AdamW's two moments of each, in float32, by name. So a checkpoint knows nothing of ranks and stages.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hbdist.distributed.zero import Zero
from hbdist.errors import ResumeError

MOMENTS = ("exp_avg", "exp_avg_sq")
PIECE = 2**22
"""Numbers that are brought to float64 at once."""
Weights = dict[str, Tensor]
Moments = dict[str, dict[str, Tensor]]
"""{parameter: {moment: tensor}}."""


class Strategy(Protocol):
    """What an engine needs of one."""

    model: nn.Module
    """To call."""
    lockstep: bool
    """Ranks must make equal numbers of forward and backward passes."""
    updates: int
    """Updates done, those before a checkpoint included."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's loss; outside `hold` the average over ranks is in place when this returns."""

    def no_sync(self) -> AbstractContextManager[None]:
        """Backward passes inside are not the last of their step."""

    def update(self, lr: float) -> float:
        """One step of AdamW; the norm of the whole gradient before clipping."""

    def weights(self, *, keep: bool) -> Weights:
        """All parameters and buffers, whole, in main memory; nothing on ranks that do not keep them. A collective."""

    def moments(self, *, keep: bool) -> Moments:
        """AdamW's moments of all parameters, whole, in main memory; nothing on ranks that do not keep them. A collective."""


class DDPStrategy:
    """One process, or DistributedDataParallel: every rank holds all.

    Args:
        moments: of a checkpoint, with the updates done until then.
    """

    lockstep = False

    def __init__(
        self,
        accelerator: Accelerator,
        bare: nn.Module,
        optimizer: torch.optim.Optimizer,
        moments: Moments,
        updates: int,
        *,
        max_grad_norm: float,
    ) -> None:
        bare.to(accelerator.device)  # in place: the optimizer's parameters move with it
        self.bare, self.optimizer, self.updates, self.max_grad_norm = bare, optimizer, updates, max_grad_norm
        _refuse_other_names(moments, bare)
        for name, parameter in bare.named_parameters():
            if name in moments:
                step = torch.tensor(float(updates), device=parameter.device)
                self.optimizer.state[parameter] = {"step": step} | {
                    key: value.to(parameter, copy=True) for key, value in moments[name].items()
                }
        self.model = accelerator.prepare_model(bare)
        if accelerator.num_processes > 1:
            assert isinstance(self.model, nn.parallel.DistributedDataParallel), "gradients would not be averaged"
            # Buffers are constants here, and syncing them at every forward would demand equal numbers of chunks.
            self.model.broadcast_buffers = False

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        if isinstance(self.model, nn.parallel.DistributedDataParallel):
            with self.model.no_sync():
                yield
        else:
            yield

    def update(self, lr: float) -> float:
        norm = clip(self.bare, self.max_grad_norm)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1
        return norm

    def weights(self, *, keep: bool) -> Weights:
        return {name: value.detach().cpu() for name, value in self.bare.state_dict().items()} if keep else {}

    def moments(self, *, keep: bool) -> Moments:
        trained = [(name, value) for name, value in self.bare.named_parameters() if value.requires_grad]
        state = self.optimizer.state
        return {name: {key: state[value][key].cpu() for key in MOMENTS} for name, value in trained} if keep else {}


class DeepSpeedStrategy:
    """DeepSpeed at any stage of ZeRO. Arguments as for `DDPStrategy`; the accelerator was made with DeepSpeed's plugin.

    Chunks before the last of a step are told to DeepSpeed as such: `no_sync` is an error at stages 2 and 3, and without
    either, stages 1 and 2 lose all but the last chunk in silence.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        bare: nn.Module,
        optimizer: torch.optim.Optimizer,
        zero: Zero,
        moments: Moments,
        updates: int,
        *,
        max_grad_norm: float,
    ) -> None:
        self.updates, self.stage = updates, zero.stage
        _refuse_other_names(moments, bare)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.lockstep = zero.every_backward_reduces and self.world > 1
        self.model, _ = accelerator.prepare(bare, optimizer)
        self.max_grad_norm = max_grad_norm
        clipped_at = max_grad_norm if zero.stage else 0.0
        assert self.model.gradient_clipping() == clipped_at, "DeepSpeed would clip at its own default"
        assert self.model.zero_optimization_stage() == zero.stage
        self._last_of_the_step = True
        if moments:
            self._put_back(moments)

    def backward(self, loss: Tensor) -> None:
        self.model.set_gradient_accumulation_boundary(self._last_of_the_step)
        self.model.backward(loss)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self._last_of_the_step = False
        try:
            yield
        finally:
            self._last_of_the_step = True

    def update(self, lr: float) -> float:
        set_lr(self.model.optimizer, lr)
        norm = clip(self.model.module, self.max_grad_norm) if self.stage == 0 else None
        self.model.step()
        self.updates += 1
        # Stages 1 to 3 leave out an update whose gradient is not finite, and say so by an infinite norm.
        return refuse_infinite(float(self.model.get_global_grad_norm())) if norm is None else norm

    def weights(self, *, keep: bool) -> Weights:
        from deepspeed.utils import safe_get_full_fp32_param

        module, weights = self.model.module, {}
        for name, value in module.named_parameters(remove_duplicate=False):
            whole = safe_get_full_fp32_param(value) if self.stage == 3 else value.detach()
            if keep:
                weights[name] = whole.cpu()
        buffers = module.state_dict().items() if keep else ()
        return weights | {name: value.cpu() for name, value in buffers if name not in weights}

    def moments(self, *, keep: bool) -> Moments:
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link_states()
        moments: Moments = {}
        for name, value in self._trained():
            for key in MOMENTS:
                whole = safe_get_full_optimizer_state(value, key) if self.stage else self._adam().state[value][key]
                if keep:
                    moments.setdefault(name, {})[key] = whole.cpu()
        return moments

    def _put_back(self, moments: Moments) -> None:
        """Before the first update AdamW has no state: make it, then fill it."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        state = self._adam().state
        for piece in self._pieces():
            step = torch.tensor(float(self.updates), device=piece.device)
            state[piece] = {"step": step} | {key: torch.zeros_like(piece) for key in MOMENTS}
        self._link_states()
        for name, parameter in self._trained():
            for key in MOMENTS:
                value = moments[name][key].to(self.model.device)
                if self.stage == 0:
                    state[parameter][key].copy_(value)
                elif self.stage == 3:
                    safe_set_local_optimizer_state(parameter, self._own_share(value, parameter), key)
                else:
                    safe_set_full_optimizer_state(parameter, value, key)

    def _own_share(self, value: Tensor, parameter: Any) -> Tensor:
        """This rank's piece of a tensor at stage 3, where the last rank's is filled up with zeros."""
        size = parameter.ds_tensor.numel()
        padded = nn.functional.pad(value.flatten(), (0, size * self.world - value.numel()))
        return padded.narrow(0, size * self.rank, size)

    def _trained(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.model.module.named_parameters() if value.requires_grad]

    def _adam(self) -> torch.optim.Optimizer:
        return self.model.optimizer if self.stage == 0 else self.model.optimizer.optimizer

    def _pieces(self) -> list[Tensor]:
        """What AdamW updates on this rank: the parameters, or the flat shares of them."""
        if self.stage == 0:
            return [value for _, value in self._trained()]
        zero = self.model.optimizer
        return list(zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups)

    def _link_states(self) -> None:
        """Stages 1 and 2 link parameters to their state when the *first* group has some: groups after it stay unlinked."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        if self.stage in (1, 2):
            for group, piece in zip(self.model.optimizer.bit16_groups, self._pieces(), strict=True):
                lazy_init_hp_params_optimizer_state(group, piece, self._adam().state)


def clip(model: nn.Module, limit: float) -> float:
    """Scale the gradients down to a norm of `limit`, where they are longer and it is not 0; returns their norm before.

    Raises:
        FloatingPointError: it is not finite.
    """
    norm = refuse_infinite(gradient_norm(model.parameters()))
    if 0 < limit < norm:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(limit / norm)
    return norm


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """‖g‖ over all parameters, in float64, as DeepSpeed has it.

    torch's own float32 sums over an embedding's tens of millions of squares are off in the third digit on a CPU.
    """
    gradients = [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
    pieces = [piece for gradient in gradients for piece in gradient.split(PIECE)]
    return float(torch.stack([torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in pieces]).norm())


def _refuse_other_names(moments: Moments, bare: nn.Module) -> None:
    trained = {name for name, parameter in bare.named_parameters() if parameter.requires_grad}
    if moments and moments.keys() != trained:
        other = sorted(moments.keys() ^ trained)
        raise ResumeError(
            f"the checkpoint's optimizer knows {len(moments)} parameters and the model has {len(trained)}, among them"
            f" not in both: {other[0]}. It is of another model: start a new run with run.folder=… ."
        )


def set_lr(optimizer: Any, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def refuse_infinite(norm: float) -> float:
    """The norm, if it is finite.

    Raises:
        FloatingPointError: it is not, and nothing was updated.
    """
    # DeepSpeed's own sign for a norm that is not finite is −1.
    if not math.isfinite(norm) or norm < 0:
        raise FloatingPointError(
            f"the gradient's norm is {norm}. A lower optimizer.lr, more optimizer.warmup_steps or a higher"
            " loss.temperature usually helps; the newest checkpoint is from before."
        )
    return norm
