"""Training engine: Accelerate and DeepSpeed behind a few verbs.

The launcher, accelerate and torch.distributed must agree on the number of processes, or the run stops: on a CPU, accelerate
can mistake each process for the only one and silently train W separate models.
"""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn
from transformers.integrations import unset_hf_deepspeed_config

from hbdist.config.config import Config
from hbdist.distributed import collectives
from hbdist.distributed.launcher import check_launcher, find_zero, overrule, refuse_cpu
from hbdist.distributed.meeting import Meeting, meet_for_training
from hbdist.distributed.rendezvous import read_rank_and_world
from hbdist.distributed.saved_state import check_state
from hbdist.distributed.strategies import DDPStrategy, DeepSpeedStrategy, Saved, Strategy, Weights
from hbdist.distributed.watchdog import Watchdog
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError

TIMEOUT = timedelta(hours=1)
"""Time-out of collectives, the last resort: for a rank that is alive but stuck. It is longer than downloading a model, an
evaluation or a checkpoint on a slow disk takes. The watchdog reports a rank that is dead or stopped within a minute."""


class Engine:
    """One rank of a training run, with the model and optimizer wrapped for its strategy."""

    def __init__(
        self, accelerator: Accelerator, zero: Zero | None, *, max_grad_norm: float, watchdog: Watchdog
    ) -> None:
        self._accelerator = accelerator
        self._max_grad_norm = max_grad_norm
        self._strategy: Strategy | None = None
        self._updates = 0
        self.watchdog = watchdog
        """Watchdog that notices when another rank dies or stops."""
        watchdog.position = lambda: (self._updates, collectives.entered())
        self.zero = zero
        """DeepSpeed's settings; None without DeepSpeed."""

    @classmethod
    def start(
        cls, config: Config, environment: Mapping[str, str] = os.environ, meeting: Meeting | None = None
    ) -> "Engine":
        """Join the other processes, over NCCL with GPUs and over gloo without.

        Args:
            meeting: the ranks' meeting, if they have met already.

        Raises:
            ConfigError: the launcher's own settings contradict the config, or ask for something unsupported; ranks differ in
                config, code or GPUs, or are of another start.
            RankLostError: a rank has not come in time, or has failed.
        """
        check_launcher(config.engine, environment, max_grad_norm=config.optimizer.max_grad_norm)
        zero = find_zero(config.engine, environment)
        _, world = read_rank_and_world(environment)
        if world > config.batch.size:
            raise ConfigError(
                f"batch.size = {config.batch.size} is less than the {world} processes: some would have no pair. Set"
                f" batch.size to {world} or more, or start fewer processes."
            )
        _refuse_unknown_trackers(config.run.trackers)
        meeting = meeting or meet_for_training(config, zero, environment)
        if meeting.gpu is not None:
            refuse_cpu(environment)
        meeting.join(timeout=TIMEOUT, within_s=config.engine.timeout_s)
        accelerator = _make_accelerator(config, zero, meeting)
        joined = collectives.world_size()
        assert accelerator.num_processes == joined == world, (
            f"the launcher started {world} processes, torch.distributed joined {joined}, accelerate counts"
            f" {accelerator.num_processes}: they would train separate models"
        )
        if config.run.trackers:
            if "wandb" in config.run.trackers:
                Path(config.run.folder).mkdir(parents=True, exist_ok=True)  # else it writes into the working folder
            places = {"wandb": {"dir": config.run.folder}}
            accelerator.init_trackers("hbdist", config={"config": config.to_toml()}, init_kwargs=places)
        return cls(accelerator, zero, max_grad_norm=config.optimizer.max_grad_norm, watchdog=meeting.watchdog)

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return int(self._accelerator.process_index)

    @property
    def world(self) -> int:
        """Number of ranks."""
        return int(self._accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        """Device of this rank."""
        return self._accelerator.device

    @property
    def is_main(self) -> bool:
        """True on rank 0, the only rank that writes and prints."""
        return self.rank == 0

    @property
    def hardware(self) -> str:
        """Device, number of ranks, backend and torch version, for people."""
        kind = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the CPU"
        backend = f" × {self.world} over {dist.get_backend()}" if self.world > 1 else ""
        return f"{kind}{backend}, torch {torch.__version__}"

    @property
    def lockstep(self) -> bool:
        """True if ranks must make equal numbers of forward and backward passes: ZeRO-2 and -3 communicate in each."""
        return self._prepared.lockstep

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Move the model to this rank's device, wrap it for gradient averaging and return the wrapped model.

        The state of a checkpoint to resume from is loaded into both, the model and AdamW over its parameters.

        Raises:
            ResumeError: the state is not that of this model.
        """
        model.train()
        saved: Saved = ({}, 0)
        if state is not None:
            check_state(state, model)
            model.load_state_dict(state["model"])
            saved = state["moments"], state["updates"]
            self._updates = saved[1]
        arguments = (self._accelerator, model, optimizer, saved, self._max_grad_norm)
        self._strategy = DeepSpeedStrategy(*arguments, self.zero) if self.zero else DDPStrategy(*arguments)
        return self._strategy.model

    @property
    def _prepared(self) -> Strategy:
        assert self._strategy is not None, "call prepare first"
        return self._strategy

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's loss; outside `no_sync`, gradients are averaged over ranks on return."""
        self._prepared.backward(loss)

    def no_sync(self) -> AbstractContextManager[None]:
        """Return a context whose backward passes are averaged only by the next backward outside it."""
        return self._prepared.no_sync()

    def update(self, lr: float) -> float:
        """Make one optimizer step and return the norm of the full gradient before clipping.

        If the norm is not finite, nothing is updated and the gradient is dropped, on all ranks.
        """
        norm = self._prepared.update(lr)
        self._updates = self._prepared.updates
        return norm

    def any_rank(self, flag: bool) -> bool:
        """Return True on all ranks if the flag is set on any. A collective."""
        return bool(self.all_reduce_max(int(flag)))

    def all_reduce_max(self, number: int) -> int:
        """Return the largest of the ranks' numbers. A collective."""
        return int(collectives.all_reduce_max(torch.tensor(number, device=self.device))) if self.world > 1 else number

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's value on all ranks. A collective."""
        return collectives.broadcast_object(value)

    def wait_for_everyone(self) -> None:
        """Wait until all ranks reach this point. A collective."""
        self._accelerator.wait_for_everyone()

    def weights(self) -> Weights:
        """Return all parameters in full on rank 0, however they are sharded, and nothing on other ranks. A collective."""
        return self._prepared.weights(keep=self.is_main)

    def state(self) -> dict[str, Any]:
        """Return a checkpoint's state on rank 0, the same for any strategy and number of ranks. A collective."""
        strategy, keep = self._prepared, self.is_main
        weights, moments = strategy.weights(keep=keep), strategy.moments(keep=keep)
        return {"model": weights, "moments": moments, "updates": strategy.updates}

    def track(self, values: Mapping[str, Any], step: int) -> None:
        """Send numbers to the trackers of `run.trackers`."""
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        self._accelerator.log(numbers, step=step)

    def stop(self) -> None:
        """Leave the process group, once all ranks are ready to: none may end while others still communicate with it."""
        for tracker in self._accelerator.trackers:
            tracker.finish()
        self.wait_for_everyone()
        self.watchdog.leave()
        if dist.is_initialized():
            dist.destroy_process_group()


def _make_accelerator(config: Config, zero: Zero | None, meeting: Meeting) -> Accelerator:
    """Return accelerate's interface to the process group. DeepSpeed needs a group even for a single process."""
    overrule(os.environ)
    on_cpu = meeting.gpu is None
    if on_cpu:
        # Otherwise code that imports deepspeed would guess, and warn that it guessed.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # accelerate and DeepSpeed would choose by LOCAL_RANK, also where a rank sees its own GPU alone.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu" if on_cpu else f"cuda:{meeting.gpu}"
    if meeting.gpu is not None and meeting.world > 1:
        os.environ["LOCAL_RANK"] = str(meeting.gpu)
    plugin = None
    if zero:
        if meeting.world == 1:
            alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
            for name, value in alone.items():
                os.environ.setdefault(name, value)
        _quieten_deepspeed()
        settings = zero.deepspeed_config(max_grad_norm=config.optimizer.max_grad_norm)
        plugin = DeepSpeedPlugin(hf_ds_config=settings, zero3_init_flag=False)
    backend = InitProcessGroupKwargs(backend=meeting.backend, timeout=TIMEOUT)
    accelerator = Accelerator(
        cpu=on_cpu and not zero,  # with DeepSpeed this would select plain DDP; on the CPU, gloo alone decides there
        mixed_precision="no",  # the trained module has its own, the same under DDP and DeepSpeed
        log_with=list(config.run.trackers) or None,
        project_dir=config.run.folder,
        deepspeed_plugin=plugin,
        kwargs_handlers=[backend] if meeting.world > 1 or zero else [],
    )
    if zero:
        assert accelerator.distributed_type == DistributedType.DEEPSPEED, "accelerate would train without DeepSpeed"
        # Otherwise transformers would shard a model while loading it, and a checkpoint's full weights would not fit.
        unset_hf_deepspeed_config()
    return accelerator


def _quieten_deepspeed() -> None:
    import deepspeed.ops
    from deepspeed.utils import logger

    # On the CPU it compiles a module for shared memory at the first start, a minute or more; gloo works without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger.setLevel(logging.WARNING)
    # It calls collectives by names that torch has just renamed, and torch warns at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")


def _refuse_unknown_trackers(trackers: Sequence[str]) -> None:
    # accelerate silently skips a tracker that is not installed.
    installed = sorted(map(str, get_available_trackers()))
    for tracker in (tracker for tracker in trackers if tracker not in installed):
        raise ConfigError(
            f"run.trackers names {tracker!r}, which is not installed. Installed: {', '.join(installed) or 'none'}."
            " Install it (pip install -e '.[track]' for tensorboard), or remove it from run.trackers."
        )
