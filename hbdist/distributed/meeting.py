"""Meeting of the ranks before they join a process group: each shows rank 0 its identity in the rendezvous store.

Rank 0 refuses the start if ranks differ, decides where they compute, and gives out a random token. What follows (the process
group, the watchdog) is named by that token, so that a rank of another start, at the same address, cannot take part.
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist

from hbdist.config.config import Config
from hbdist.distributed.agreement import PAUSE_S, await_verdict, judge, show
from hbdist.distributed.deadline import Deadline
from hbdist.distributed.identity import Identity, training_settings
from hbdist.distributed.placement import CPU, place
from hbdist.distributed.rendezvous import local_address, read_rank_and_world, rendezvous_address
from hbdist.distributed.watchdog import Watchdog
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError, RankLostError

_meetings = 0
"""Number of meetings of this process so far: each has keys of its own in the store."""


@dataclass(frozen=True)
class Meeting:
    """Result of a meeting, on one rank."""

    own: Identity
    main: Identity
    """Identity of rank 0."""
    gpu: int | None
    """GPU of this rank, by its index; None: it computes on the CPU."""
    token: str = ""
    """Random name of this start."""
    store: Any = None
    """Rendezvous store, of torch.distributed; None for a process alone."""
    watchdog: Watchdog = field(default_factory=Watchdog)
    """Watchdog of the ranks, from now on."""

    @property
    def backend(self) -> str:
        """Backend of the process group that computes."""
        return "gloo" if self.gpu is None else "nccl"

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.own.world

    def join(self, *, timeout: timedelta, within_s: float, backend: str = "") -> None:
        """Make the process group of these ranks, and use this rank's GPU, if it has one; nothing for a process alone.

        Args:
            timeout: time-out of collectives.
            within_s: seconds in which the ranks must connect; after them this process ends, with a message.
            backend: another backend than that of the computation.
        """
        if self.gpu is not CPU:
            torch.cuda.set_device(self.gpu)
        if self.world == 1 or dist.is_initialized():
            return
        backend = backend or self.backend
        message = (
            f"{self.own.name} has not connected to the other ranks over {backend} within {within_s:g} s (engine.timeout_s)."
            " They have met, but cannot all reach one another: set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the"
            " network interface that the nodes share, and look for a firewall between them."
        )
        self._wait_until_all_are_here(timeout)
        with Deadline(within_s, message):
            group = dist.PrefixStore(f"group {self.token}", self.store)
            rank = self.own.rank
            dist.init_process_group(backend, store=group, rank=rank, world_size=self.world, timeout=timeout)
            dist.barrier()

    def _wait_until_all_are_here(self, timeout: timedelta) -> None:
        """Wait for ranks that import libraries or load files for longer; the watchdog ends the wait for one that is lost."""
        key = f"joins {self.token}"
        self.store.add(key, 1)
        ends = time.monotonic() + timeout.total_seconds()
        while self.store.add(key, 0) < self.world:
            if (lost := self.watchdog.wait_for_lost_rank(PAUSE_S)) or time.monotonic() > ends:
                raise RankLostError(lost or f"{self.own.name} has waited for the other ranks to join for {timeout}.")

    @classmethod
    def of(
        cls,
        settings: Mapping[str, str],
        *,
        timeout_s: float,
        on_cpu: bool = False,
        environment: Mapping[str, str] = os.environ,
        gpus: int | None = None,
    ) -> Self:
        """Meet the other ranks of this start; a process alone meets nobody.

        Args:
            settings: what must be the same on all ranks.
            timeout_s: seconds that rank 0 waits for the next rank, and other ranks for a sign of rank 0.
            on_cpu: compute on CPUs, whatever GPUs there are.
            gpus: number of GPUs that this rank sees; by default, as torch counts them.

        Raises:
            ConfigError: ranks differ, a rank has come twice, or the GPUs are not enough.
            RankLostError: a rank has not come in time, or has failed.
        """
        rank, world = read_rank_and_world(environment)
        own = _look_at_gpus(Identity.here(rank, world, settings, environment), gpus)
        if world == 1:
            return cls(own, own, place([own], on_cpu=on_cpu)[0])
        with Deadline(timeout_s, f"the ranks have not met within {timeout_s:g} s (engine.timeout_s)") as deadline:
            try:
                store, own = _open_store(own, timeout_s, environment)
                deadline.renew()
                show(store, own)
                judged = judge(store, own, deadline, on_cpu) if rank == 0 else None
                verdict = judged.verdict if judged else await_verdict(store, own, deadline)
            except dist.DistError as error:
                raise RankLostError(
                    f"{own.name}: rank 0 has ended or was lost while the ranks met ({_first_line(error)}). See its messages."
                ) from None
        _raise_refusal(verdict, own)
        main = Identity(**verdict["main"])
        watchdog = Watchdog(own, timeout_s)
        if judged and judged.listener:
            watchdog.accept(judged.listener, verdict["token"], judged.ranks[1:])
        else:
            address, port = verdict["watchdog"]
            watchdog.connect(address, port, verdict["token"], main)
        watchdog.begin()
        return cls(own, main, verdict["gpus"][rank], verdict["token"], store, watchdog)


def meet_for_training(config: Config, zero: Zero | None, environment: Mapping[str, str] = os.environ) -> Meeting:
    """Meet the other ranks of a training.

    Raises:
        ConfigError, RankLostError: as `Meeting.of`.
    """
    engine, settings = config.engine, training_settings(config, zero)
    return Meeting.of(settings, timeout_s=engine.timeout_s, on_cpu=engine.device == "cpu", environment=environment)


def _raise_refusal(verdict: Mapping[str, Any], own: Identity) -> None:
    if "missing" in verdict:
        raise RankLostError(verdict["missing"])
    if "refusal" in verdict:
        refusal = ConfigError(verdict["refusal"])
        refusal.reported = True
        raise refusal
    if verdict["world"] != own.world:
        raise ConfigError(f"{own.name} expects {own.world} ranks, rank 0 has started with {verdict['world']}.")


def _look_at_gpus(own: Identity, gpus: int | None) -> Identity:
    count = torch.cuda.device_count() if gpus is None else gpus
    gpu = ""
    if count == 1 and gpus is None:
        # Ranks that see one GPU each may see the same one. (Asking for those of all would start CUDA on each of them.)
        gpu = str(getattr(torch.cuda.get_device_properties(0), "uuid", ""))
    return replace(own, gpus=count, gpu=gpu)


def _open_store(own: Identity, timeout_s: float, environment: Mapping[str, str]) -> tuple[Any, Identity]:
    """Return the store in which all ranks see the same keys, and the identity with this rank's address."""
    global _meetings
    _meetings += 1
    if dist.is_initialized():
        store = dist.distributed_c10d._get_default_store()
        main = environment.get("MASTER_ADDR") or own.host
        return dist.PrefixStore(f"hbdist {_meetings}", store), replace(own, address=local_address(main, 1))
    address, port = rendezvous_address(environment)
    # torchrun has already opened the port, and says so.
    is_server = own.rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not is_server:
        _wait_for_port(own, address, int(port), timeout_s)
    try:
        store = dist.TCPStore(
            address,
            int(port),
            is_master=is_server,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistError as error:
        raise RankLostError(
            f"{own.name} cannot use {address}:{port} to meet the other ranks: {_first_line(error)}. Check that rank 0 is on the"
            " node with this address (MASTER_ADDR), and that no other program has the port (MASTER_PORT)."
        ) from None
    return dist.PrefixStore(f"hbdist {_meetings}", store), replace(own, address=local_address(address, int(port)))


def _wait_for_port(own: Identity, address: str, port: int, timeout_s: float) -> None:
    """Wait until rank 0 listens: torch's store would wait in C++, which no signal ends, and print a stack."""
    ends, reason = time.monotonic() + timeout_s, "no answer"
    while (left := ends - time.monotonic()) > 0:
        try:
            socket.create_connection((address, port), timeout=left).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(PAUSE_S)
    raise RankLostError(
        f"{own.name} has found no rank 0 within {timeout_s:g} s (engine.timeout_s) at {address}:{port}: {reason}. Check that"
        " rank 0 has started, and that its node can be reached under this address (MASTER_ADDR)."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].removesuffix(".")
