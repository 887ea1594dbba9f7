"""Watchdog of the ranks: when one dies, it ends all others within seconds, with a message that names the dead one.

Collectives do not do this. Over NCCL the other ranks would wait silently for minutes; over gloo they get a broken connection
that does not say which rank it led to. So each rank keeps a connection to rank 0, which the operating system closes when the
process ends for any reason, and rank 0 passes the news on.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import uuid4

Message = dict[str, Any]

GRACE = 5.0
"""Seconds a rank has to end by itself after another is lost: usually it meets the same error."""
CONNECT_TIMEOUT = 30.0
"""Seconds ranks have to connect; they have just communicated with one another."""
SPARE_BACKLOG = 100
"""Number of pending connections allowed beyond those of the ranks, for port scanners."""
GONE = "is gone: it was killed or crashed, or its machine was lost"
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Seconds of silence before the first probe, seconds between probes, and number of probes: 30 s in all."""


class _Connection(NamedTuple):
    socket: socket.socket
    name: str
    messages: Iterator[Message]


class Watchdog:
    """Connections of this rank: to rank 0, or from rank 0 to all others. A process alone has none."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.on_rank_lost: Callable[[str], None] = lambda _: None
        """Function called with the reason before this process ends because another rank was lost."""
        self._connections: list[_Connection] = []
        self._lost = ""
        self._is_lost, self._left = threading.Event(), threading.Event()
        self._first = threading.Lock()

    @classmethod
    def join(cls, rank: int, world: int, broadcast_object: Callable[[Any], Any]) -> "Watchdog":
        """Connect the ranks. A collective; if no connection can be made, rank 0 warns and training continues without it."""
        watchdog = cls(rank)
        if world == 1:
            return watchdog
        listener = _listen(world) if rank == 0 else None
        hosts = [os.environ.get("MASTER_ADDR", "127.0.0.1"), socket.gethostname()]
        offer = (hosts, listener.getsockname()[1], uuid4().hex, _describe_process()) if listener else None
        hosts, port, token, main = broadcast_object(offer)
        if listener:
            watchdog._accept(listener, token, world)
        else:
            hello = {"token": token, "rank": rank, "where": _describe_process()}
            watchdog._connect(hosts, port, hello, f"rank 0 ({main})")
        for connection in watchdog._connections:
            threading.Thread(target=watchdog._watch, args=(connection,), name="watchdog", daemon=True).start()
        return watchdog

    def wait_for_lost_rank(self, seconds: float) -> str:
        """Return which rank was lost and how, waiting this long for the news; "" if all are alive."""
        if self._connections:
            self._is_lost.wait(seconds)
        return self._lost

    def leave(self, failure: str = "") -> None:
        """Announce that this process ends: normally, or because of a failure, which then ends the other ranks."""
        self._left.set()
        name = f"rank {self.rank} ({_describe_process()})"
        for connection in self._connections:
            _send(connection.socket, {"lost": f"{name} failed: {failure}"} if failure else {"left": True})
            try:
                connection.socket.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # the other side has closed it already

    def _accept(self, listener: socket.socket, token: str, world: int) -> None:
        """Accept the connections of all other ranks, ignoring strangers."""
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while len(self._connections) < world - 1 and (remaining := deadline - time.monotonic()) > 0:
            listener.settimeout(remaining)
            try:
                accepted, _ = listener.accept()
            except OSError:
                continue
            accepted.settimeout(CONNECT_TIMEOUT)
            messages = _receive(accepted)
            hello = next(messages, {})
            if hello.get("token") == token:
                _send(accepted, {"token": token})
                self._add(accepted, f"rank {hello['rank']} ({hello['where']})", messages)
        listener.close()
        if missing := world - 1 - len(self._connections):
            print(
                f"{missing} ranks did not connect to rank 0 within {CONNECT_TIMEOUT:.0f} s. If one of them dies, the"
                " others notice late: when a collective times out.",
                flush=True,
            )

    def _connect(self, hosts: list[str], port: int, hello: Message, name: str) -> None:
        """Connect to rank 0 by the first of its host names that works; not at all if none does."""
        for host in hosts:
            try:
                connected = socket.create_connection((host, port), timeout=CONNECT_TIMEOUT / len(hosts))
            except OSError:
                continue
            messages = _receive(connected)
            _send(connected, hello)
            if next(messages, {}).get("token") == hello["token"]:
                self._add(connected, name, messages)
                return

    def _add(self, connected: socket.socket, name: str, messages: Iterator[Message]) -> None:
        """Keep a connection without a read timeout; the operating system probes whether the other machine is alive."""
        connected.settimeout(None)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._connections.append(_Connection(connected, name, messages))

    def _watch(self, connection: _Connection) -> None:
        message = next(connection.messages, {"lost": f"{connection.name} {GONE}"})
        if "lost" in message:
            self._end(message["lost"], reported_by=connection)

    def _end(self, lost: str, reported_by: _Connection) -> None:
        with self._first:
            if self._lost or self._left.is_set():
                return
            self._lost = lost
        for connection in self._connections:
            if connection is not reported_by:
                _send(connection.socket, {"lost": lost})
        self._is_lost.set()
        if not self._left.wait(GRACE):
            print(f"hbdist, rank {self.rank}: {lost}. This rank ends too.", file=sys.stderr, flush=True)
            self.on_rank_lost(lost)
            sys.stdout.flush()
            os._exit(1)  # the main thread is stuck in a collective


def _describe_process() -> str:
    return f"{os.environ.get('SLURMD_NODENAME') or socket.gethostname()}, process {os.getpid()}"


def _listen(world: int) -> socket.socket:
    try:
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=world + SPARE_BACKLOG, dualstack_ipv6=True)
    except (OSError, ValueError):  # a machine without IPv6
        return socket.create_server(("", 0), backlog=world + SPARE_BACKLOG)


def _send(connected: socket.socket, message: Message) -> None:
    try:
        connected.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return  # a process that is gone needs no message


def _receive(connected: socket.socket) -> Iterator[Message]:
    """Yield the messages of the other side until it is gone or sends anything else."""
    try:
        for line in connected.makefile("rb"):
            yield dict(json.loads(line))
    except (OSError, ValueError, TypeError):
        return
