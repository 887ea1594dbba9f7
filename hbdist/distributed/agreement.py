"""Agreement of the ranks, over a store in which all see the same keys: rank 0 reads what each shows, and judges for all."""

import json
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch.distributed as dist

from hbdist.distributed.deadline import Deadline
from hbdist.distributed.greeting import open_port
from hbdist.distributed.identity import Identity, refuse_differences
from hbdist.distributed.placement import place
from hbdist.distributed.rendezvous import local_address
from hbdist.errors import ConfigError, RankLostError

PAUSE_S = 0.1
"""Seconds between two looks into the store."""
BEAT_S = 2.0
"""Seconds between two signs of life of rank 0 while it waits for others."""


def show(store: Any, own: Identity) -> None:
    """Put this rank's identity into the store, unless another process is this rank already."""
    if store.add(f"claims {own.rank}", 1) > 1:
        other = ""
        if store.check([f"rank {own.rank}"]):
            one = Identity.from_json(store.get(f"rank {own.rank}"))
            other = f": {one.name}"
        raise ConfigError(
            f"{own.name} cannot join: another process is rank {own.rank} already{other}. One of the two is left over from"
            " another start at the same address: end it, and start again."
        )
    store.set(f"rank {own.rank}", own.to_json())


class Judged(NamedTuple):
    """Decision of rank 0, and the port at which its watchdog waits for the others."""

    verdict: dict[str, Any]
    ranks: list[Identity]
    listener: socket.socket | None = None


def judge(store: Any, own: Identity, deadline: Deadline, on_cpu: bool) -> Judged:
    """Wait for the other ranks, on rank 0, and tell them all whether they may join."""
    ranks = {0: own}
    beats, last_beat = 0, 0.0
    while len(ranks) < own.world and not deadline.has_passed:
        if time.monotonic() - last_beat > BEAT_S:
            beats, last_beat = beats + 1, time.monotonic()
            store.set("rank 0 waits", str(beats))
        come = [rank for rank in range(own.world) if rank not in ranks and store.check([f"rank {rank}"])]
        ranks |= {rank: Identity.from_json(store.get(f"rank {rank}")) for rank in come}
        if come:
            deadline.renew()
        else:
            time.sleep(PAUSE_S)
    if len(ranks) < own.world:
        judged = Judged({"missing": _describe_missing(ranks, own.world, deadline.seconds)}, list(ranks.values()))
    else:
        judged = _decide([ranks[rank] for rank in range(own.world)], store, on_cpu)
    store.set("verdict", json.dumps(judged.verdict))
    if judged.listener is None:
        _wait_until_heard(store, len(ranks))
    return judged


def _decide(ranks: list[Identity], store: Any, on_cpu: bool) -> Judged:
    main = ranks[0]
    try:
        refuse_differences(ranks)
        twice = [one for one in ranks if store.add(f"claims {one.rank}", 0) > 1]
        if twice:
            raise ConfigError(
                f"Two processes are rank {twice[0].rank}; one of them is {twice[0].name}. One is left over from another"
                " start at the same address: end it, and start again."
            )
        gpus = place(ranks, on_cpu=on_cpu)
    except ConfigError as error:
        return Judged({"refusal": str(error)}, ranks)
    # The interface by which the others reach this machine: their own network, not any other that it may be in.
    remote = next((one.address for one in ranks if one.machine != main.machine), "")
    address = (local_address(remote, 1) if remote else main.address) or "127.0.0.1"
    listener = open_port(address, main.world)
    verdict = {
        "main": asdict(replace(main, settings={})),
        "world": main.world,
        "token": secrets.token_hex(16),
        "gpus": gpus,
        "watchdog": listener.getsockname()[:2],
    }
    return Judged(verdict, ranks, listener)


def await_verdict(store: Any, own: Identity, deadline: Deadline) -> dict[str, Any]:
    """Wait for rank 0's verdict as long as it is alive."""
    beat = b""
    while not store.check(["verdict"]):
        if store.check(["rank 0 waits"]) and (now := store.get("rank 0 waits")) != beat:
            beat = now
            deadline.renew()
        if deadline.has_passed:
            main = Identity.from_json(store.get("rank 0")).name if store.check(["rank 0"]) else "rank 0"
            raise RankLostError(
                f"{main} has given no sign for {deadline.seconds:g} s (engine.timeout_s) while {own.name} waited to join."
            )
        time.sleep(PAUSE_S)
    verdict = json.loads(store.get("verdict"))
    store.add("heard", 1)
    return verdict


def _wait_until_heard(store: Any, ranks: int) -> None:
    """Give the others a moment to read why they are refused: the store ends with this process."""
    with suppress(dist.DistError):
        ends = time.monotonic() + 20 * PAUSE_S
        while store.add("heard", 0) < ranks - 1 and time.monotonic() < ends:
            time.sleep(PAUSE_S)


def _describe_missing(ranks: Mapping[int, Identity], world: int, seconds: float) -> str:
    missing = [rank for rank in range(world) if rank not in ranks]
    names = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
    hosts = sorted({one.host for one in ranks.values()})
    return (
        f"rank {names} of {world} {'has' if len(missing) == 1 else 'have'} not come within {seconds:g} s"
        f" (engine.timeout_s) of the last that has. Here are {len(ranks)} ranks, on {', '.join(hosts[:10])}. Look at the"
        " messages of the missing ones; where loading Python's libraries takes longer, set engine.timeout_s higher."
    )
