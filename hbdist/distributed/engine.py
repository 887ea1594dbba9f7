"""Accelerate and DeepSpeed behind a few verbs: start, prepare, backward, update, agree.

It trusts nobody about the number of processes: a launcher, accelerate and torch.distributed must name the same one, or
the run stops. (On CPU accelerate can take each of several processes for the only one, and train W models in silence.)
"""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn
from transformers.integrations import unset_hf_deepspeed_config

from hbdist.config.config import Config
from hbdist.distributed.launcher import check_launcher, find_zero
from hbdist.distributed.strategies import DDPStrategy, DeepSpeedStrategy, Moments, Strategy, Weights
from hbdist.distributed.watchdog import Watchdog
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError

STARTING_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others until the first update: longer than fetching and loading a model takes."""
TIMEOUT = timedelta(minutes=10)
"""How long after it, for one that lives but is stuck: longer than writing a checkpoint takes. Of one that is dead, `watchdog`
tells within seconds."""


class Engine:
    """This process's place among the ranks, and the model and optimizer as the backend wants them."""

    def __init__(self, accelerator: Accelerator, zero: Zero | None, *, max_grad_norm: float) -> None:
        self._accelerator = accelerator
        self._max_grad_norm = max_grad_norm
        self._strategy: Strategy | None = None
        self._starting = True
        self.watchdog = Watchdog()
        """Who notices when another rank dies."""
        self.zero = zero
        """What DeepSpeed was asked for; None without it."""

    @classmethod
    def start(cls, config: Config, environment: Mapping[str, str] = os.environ) -> "Engine":
        """Join the other processes: NCCL where there are GPUs, gloo where there are none.

        Raises:
            ConfigError: the launcher's own settings contradict the config, or ask for what is not supported.
        """
        check_launcher(config.engine, environment)
        zero = find_zero(config.engine, environment)
        launched, here = (int(environment.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if launched > config.batch.size:
            raise ConfigError(
                f"batch.size = {config.batch.size} is less than the {launched} processes: some would have no pair. Set"
                f" batch.size to {launched} or more, or start fewer processes."
            )
        _refuse_unknown_trackers(config.run.trackers)
        gpus = torch.cuda.device_count()
        on_cpu = gpus < here
        if gpus and on_cpu and environment.get("RANK", "0") == "0":
            print(f"{here} processes and {gpus} GPU{'s' * (gpus > 1)} on this machine: training on the CPU", flush=True)
        accelerator = _join(config, zero, on_cpu=on_cpu, launched=launched)
        joined = dist.get_world_size() if dist.is_initialized() else 1
        assert accelerator.num_processes == joined == launched, (
            f"the launcher started {launched} processes, torch.distributed joined {joined}, accelerate counts"
            f" {accelerator.num_processes}: they would train apart"
        )
        if config.run.trackers:
            accelerator.init_trackers("hbdist", config={"config": config.to_toml()})
        engine = cls(accelerator, zero, max_grad_norm=config.optimizer.max_grad_norm)
        engine.watchdog = Watchdog.join(engine.rank, engine.world, engine.broadcast_object)
        return engine

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

    @property
    def where(self) -> str:
        """The devices and how they speak, in words."""
        kind = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "the CPU"
        speech = f" × {self.world} over {dist.get_backend()}" if self.world > 1 else ""
        return f"{kind}{speech}, torch {torch.__version__}"

    @property
    def lockstep(self) -> bool:
        """Ranks must make equal numbers of forward and backward passes: ZeRO-2 and -3 communicate in each of them."""
        return self._prepared.lockstep

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Place the model on this rank's device and wrap it for gradient averaging. Returns the model to call.

        Args:
            optimizer: AdamW over the parameters of `model`.
            state: of a checkpoint to resume from; loaded into both.
        """
        model.train()
        moments: Moments = {}
        updates = 0
        if state is not None:
            model.load_state_dict(state["model"])
            moments, updates = state["moments"], state["updates"]
        if self.zero:
            self._strategy = DeepSpeedStrategy(
                self._accelerator, model, optimizer, self.zero, moments, updates, max_grad_norm=self._max_grad_norm
            )
        else:
            self._strategy = DDPStrategy(
                self._accelerator, model, optimizer, moments, updates, max_grad_norm=self._max_grad_norm
            )
        return self._strategy.model

    @property
    def _prepared(self) -> Strategy:
        assert self._strategy is not None, "prepare comes first"
        return self._strategy

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's loss; the average over ranks is in place when this returns."""
        self._prepared.backward(loss)

    def no_sync(self) -> AbstractContextManager[None]:
        """Passes inside are not the last of their step; the next backward outside finishes the average for all of them."""
        return self._prepared.no_sync()

    def update(self, lr: float) -> float:
        """One step of the optimizer; returns the norm of the whole gradient before clipping.

        Raises:
            FloatingPointError: the gradient is not finite; nothing is updated.
        """
        norm = self._prepared.update(lr)
        if self._starting and self.world > 1:
            dist.distributed_c10d._set_pg_timeout(TIMEOUT)
        self._starting = False
        return norm

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is up on any rank. A collective: all ranks call it, all get the same answer."""
        return bool(self.all_reduce_max(int(flag)))

    def all_reduce_max(self, number: int) -> int:
        """The largest of the ranks' numbers. A collective."""
        if self.world == 1:
            return number
        largest = torch.tensor(number, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, on all ranks. A collective."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait_for_everyone(self) -> None:
        """All ranks reach this point before any goes on."""
        self._accelerator.wait_for_everyone()

    def weights(self) -> Weights:
        """On rank 0 all parameters, whole, whatever the backend shards; nothing on the others. A collective."""
        return self._prepared.weights(keep=self.is_main)

    def state(self) -> dict[str, Any]:
        """On rank 0 all that a checkpoint must hold, the same for any backend and number of ranks. A collective."""
        backend, keep = self._prepared, self.is_main
        return {"model": backend.weights(keep=keep), "moments": backend.moments(keep=keep), "updates": backend.updates}

    def track(self, values: Mapping[str, Any], step: int) -> None:
        """Send numbers to the trackers of `run.trackers`."""
        self._accelerator.log(
            {key: value for key, value in values.items() if isinstance(value, int | float)}, step=step
        )

    def stop(self) -> None:
        """Leave the process group, so that no process ends while others still speak with it."""
        for tracker in self._accelerator.trackers:
            tracker.finish()
        self.wait_for_everyone()
        self.watchdog.leave()
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(config: Config, zero: Zero | None, *, on_cpu: bool, launched: int) -> Accelerator:
    """Enter the process group. DeepSpeed needs one even of a single process."""
    if on_cpu:
        # Whatever imports deepspeed on the way would otherwise guess, and warn of having guessed.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # Under DeepSpeed accelerate would else share the GPUs that there are, though all speak over gloo.
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    plugin = None
    if zero:
        if launched == 1:
            alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
            for name, value in alone.items():
                os.environ.setdefault(name, value)
        _quieten_deepspeed()
        plugin = DeepSpeedPlugin(
            hf_ds_config=zero.resolved(max_grad_norm=config.optimizer.max_grad_norm), zero3_init_flag=False
        )
    backend = InitProcessGroupKwargs(backend="gloo" if on_cpu else "nccl", timeout=STARTING_TIMEOUT)
    accelerator = Accelerator(
        cpu=on_cpu and not zero,  # with DeepSpeed this would choose plain DDP; on the CPU gloo alone decides there
        mixed_precision="no",  # the trained module has its own, alike under DDP and DeepSpeed
        log_with=list(config.run.trackers) or None,
        project_dir=config.run.folder,
        deepspeed_plugin=plugin,
        kwargs_handlers=[backend] if launched > 1 or zero else [],
    )
    if zero:
        # Or transformers would shard a model while loading it, and whole weights of a checkpoint would not fit in.
        unset_hf_deepspeed_config()
    return accelerator


def _quieten_deepspeed() -> None:
    import deepspeed.ops
    from deepspeed.utils import logger

    # On the CPU it compiles a module for shared memory at the first start, a minute or more; gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger.setLevel(logging.WARNING)
    # It calls collectives by names that torch has just renamed, and torch says so at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")


def _refuse_unknown_trackers(trackers: Sequence[str]) -> None:
    # accelerate leaves out a tracker that is not installed without a word.
    installed = sorted(str(tracker) for tracker in get_available_trackers())
    for tracker in trackers:
        if tracker not in installed:
            raise ConfigError(
                f"run.trackers names {tracker!r}, and installed are: {', '.join(installed) or 'none'}. Install it"
                " (pip install -e '.[track]' for tensorboard), or take it out."
            )
