"""Accelerate behind a few verbs: start, prepare, backward, update, agree. Nothing else in hbdist knows of it.

It trusts nobody about the number of processes: a launcher, accelerate and torch.distributed must name the same one, or
the run stops. (On CPU accelerate can take each of several processes for the only one, and train W models in silence.)
"""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from hbdist.config import Config
from hbdist.errors import ConfigError
from hbdist.optim import make_optimizer
from hbdist.sections import EngineSection, OptimizerSection

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others: longer than loading a model takes, short enough to learn of a dead one."""


class Engine:
    """This process's place among the ranks, and the model and optimizer as the backend wants them."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._bare: nn.Module | None = None
        self._model: nn.Module | None = None
        self._optimizer: Any = None
        self._max_grad_norm = 0.0

    @classmethod
    def start(cls, config: Config, environment: Mapping[str, str] = os.environ) -> "Engine":
        """Join the other processes: NCCL where there are GPUs, gloo where there are none.

        Raises:
            ConfigError: the launcher's own settings contradict the config, or ask for what is not supported.
        """
        check_launcher(config.engine, environment)
        gpus, here = torch.cuda.device_count(), int(environment.get("LOCAL_WORLD_SIZE", "1"))
        on_cpu = gpus < here
        if gpus and on_cpu and environment.get("RANK", "0") == "0":
            print(f"{here} processes and {gpus} GPU{'s' * (gpus > 1)} on this machine: training on the CPU", flush=True)
        if on_cpu:
            # Whatever imports deepspeed on the way would otherwise guess, and warn of having guessed.
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        launched = int(environment.get("WORLD_SIZE", "1"))
        backend = InitProcessGroupKwargs(backend="gloo" if on_cpu else "nccl", timeout=COLLECTIVE_TIMEOUT)
        _refuse_unknown_trackers(config.run.trackers)
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="bf16" if config.engine.precision == "bf16" else "no",
            log_with=list(config.run.trackers) or None,
            project_dir=config.run.folder,
            kwargs_handlers=[backend] if launched > 1 else [],
        )
        joined = dist.get_world_size() if dist.is_initialized() else 1
        assert accelerator.num_processes == joined == launched, (
            f"the launcher started {launched} processes, torch.distributed joined {joined}, accelerate counts"
            f" {accelerator.num_processes}: they would train apart"
        )
        if accelerator.num_processes > config.batch.size:
            raise ConfigError(
                f"batch.size = {config.batch.size} is less than the {accelerator.num_processes} processes: some would have"
                f" no pair. Set batch.size to {accelerator.num_processes} or more, or start fewer processes."
            )
        if config.run.trackers:
            accelerator.init_trackers("hbdist", config={"config": config.to_toml()})
        return cls(accelerator)

    @property
    def rank(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        return self._accelerator.device

    @property
    def is_main(self) -> bool:
        """This is rank 0, which alone writes and prints."""
        return self.rank == 0

    def prepare(self, model: nn.Module, settings: OptimizerSection) -> nn.Module:
        """Place the model, wrap it for gradient averaging, and make its optimizer. Returns the model to call."""
        model.to(self.device).train()
        self._bare, self._max_grad_norm = model, settings.max_grad_norm
        self._optimizer = self._accelerator.prepare_optimizer(make_optimizer(model, settings))
        self._model = self._accelerator.prepare_model(model)
        if self.world > 1:
            assert isinstance(self._model, nn.parallel.DistributedDataParallel), "gradients would not be averaged"
            # Buffers are constants here, and syncing them at every forward would demand equal numbers of chunks.
            self._model.broadcast_buffers = False
        return self._model

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's loss; the average over ranks is in place when this returns."""
        self._accelerator.backward(loss)

    def hold(self) -> AbstractContextManager[None]:
        """Passes inside do not average gradients over the ranks; the next backward outside does it for all of them."""
        if isinstance(self._model, nn.parallel.DistributedDataParallel):
            return self._model.no_sync()
        return nullcontext()

    def update(self, lr: float) -> float:
        """One step of the optimizer; returns the norm of the whole gradient before clipping.

        Raises:
            FloatingPointError: the gradient is not finite; nothing is updated.
        """
        assert self._model is not None, "prepare comes first"
        limit = self._max_grad_norm or float("inf")
        norm = float(self._accelerator.clip_grad_norm_(self._model.parameters(), limit))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient's norm is {norm}. A lower optimizer.lr, more optimizer.warmup_steps or a higher"
                " loss.temperature usually helps; the newest checkpoint is from before."
            )
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def agree(self, flag: bool) -> bool:
        """Whether the flag is up on any rank. A collective: all ranks call it, all get the same answer."""
        if self.world == 1:
            return flag
        raised = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised.item())

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on all ranks. A collective."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait_for_everyone(self) -> None:
        """All ranks reach this point before any goes on."""
        self._accelerator.wait_for_everyone()

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must hold of model and optimizer."""
        assert self._bare is not None, "prepare comes first"
        return {"model": self._bare.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        assert self._bare is not None, "prepare comes first"
        self._bare.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def track(self, values: Mapping[str, Any], step: int) -> None:
        """Send numbers to the trackers of `run.trackers`."""
        self._accelerator.log(
            {key: value for key, value in values.items() if isinstance(value, int | float)}, step=step
        )

    def stop(self) -> None:
        """Leave the process group, so that no process ends while others still speak with it."""
        for tracker in self._accelerator.trackers:
            tracker.finish()
        if dist.is_initialized():
            dist.destroy_process_group()


def _refuse_unknown_trackers(trackers: Sequence[str]) -> None:
    # accelerate leaves out a tracker that is not installed without a word.
    installed = sorted(str(tracker) for tracker in get_available_trackers())
    for tracker in trackers:
        if tracker not in installed:
            raise ConfigError(
                f"run.trackers names {tracker!r}, and installed are: {', '.join(installed) or 'none'}. Install it"
                " (pip install -e '.[track]' for tensorboard), or take it out."
            )


def check_launcher(settings: EngineSection, environment: Mapping[str, str]) -> None:
    """Refuse launcher settings that would change the run behind the config's back.

    Raises:
        ConfigError: naming both places.
    """
    mixed = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    ours = "bf16" if settings.precision == "bf16" else "no"
    if mixed not in ("no", ours):
        raise ConfigError(
            f"The launcher says mixed_precision: {mixed}, the config engine.precision = {settings.precision!r}."
            " Take mixed_precision out of the accelerate config; precision is set by engine.precision alone."
        )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise ConfigError(
            f"The launcher says gradient_accumulation_steps: {steps}. Accumulation adds no negatives to a contrastive"
            " batch: take it out of the accelerate config and set batch.size; loss.chunk_tokens bounds the memory."
        )
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("OMPI_COMM_WORLD_SIZE", "1"))
    if tasks != "1" and "WORLD_SIZE" not in environment:
        raise ConfigError(
            f"{tasks} tasks were started, but none of them knows of the others (WORLD_SIZE is not set): each would train"
            " alone. Start one task with `accelerate launch` or `torchrun`, which start the processes."
        )
    for name, what in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")):
        if environment.get(name, "false").lower() in ("true", "1"):
            raise ConfigError(
                f"The launcher asks for {what}, which this version does not train with. Launch with"
                " launch/accelerate/two.yaml (CPU) or launch/accelerate/gpu.yaml."
            )
