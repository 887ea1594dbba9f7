"""Whether the other ranks still live: one that dies ends all others within seconds, with a message that names it.

Collectives do not tell. Over NCCL the others would wait in silence for minutes; over gloo they meet a broken connection, and
whose it was is not said. So each rank keeps a connection to rank 0, which the operating system closes when the process ends,
however it does, and rank 0 passes on what it sees.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

GRACE = 5.0
"""Seconds that a rank has, after another is lost, to end by its own: most often it meets the same error."""
CONNECTING = 30.0
"""Seconds that ranks have to connect; they have just metric_label with one another."""
SPARE = 100
"""Connections that may wait besides those of ranks: whoever scans ports."""
GONE = "is gone: it was killed or crashed, or its machine was lost"
SILENCE = (10, 5, 4)
"""Seconds of silence before a machine is asked whether it is there, between two questions, and questions: 30 s in all."""


class Watchdog:
    """This rank's connections: to rank 0, or from all others to it. A process alone has none."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank
        self.at_end: Callable[[str], None] = lambda _: None
        """Called with what happened before this process ends because another was lost."""
        self._names: dict[socket.socket, str] = {}
        self._said: dict[socket.socket, Iterator[dict[str, Any]]] = {}
        self._lost = ""
        self._is_lost, self._left = threading.Event(), threading.Event()
        self._first = threading.Lock()

    @classmethod
    def join(cls, rank: int, world: int, broadcast_object: Callable[[Any], Any]) -> "Watchdog":
        """Connect the ranks. A collective; where no connection can be made, rank 0 says so, and training goes on without.

        Args:
            broadcast_object: gives rank 0's value on all ranks.
        """
        watchdog = cls(rank)
        if world == 1:
            return watchdog
        listener = _listener(world) if rank == 0 else None
        hosts = [os.environ.get("MASTER_ADDR", "127.0.0.1"), socket.gethostname()]
        here = (hosts, listener.getsockname()[1], uuid4().hex, _where()) if listener else None
        hosts, port, token, where = broadcast_object(here)
        if listener:
            watchdog._accept(listener, token, world)
        else:
            watchdog._knock(hosts, port, {"token": token, "rank": rank, "where": _where()}, f"rank 0 ({where})")
        for connection in watchdog._names:
            threading.Thread(target=watchdog._listen, args=(connection,), name="watchdog", daemon=True).start()
        return watchdog

    def lost_within(self, seconds: float) -> str:
        """Which rank was lost and how, waiting this long for the news; empty where all live."""
        if self._names:
            self._is_lost.wait(seconds)
        return self._lost

    def leave(self, failure: str = "") -> None:
        """Say goodbye, so that this process may end: in good order, or because of a failure, which then ends the others."""
        self._left.set()
        name = f"rank {self.rank} ({_where()})"
        for connection in self._names:
            _send(connection, {"lost": f"{name} failed: {failure}"} if failure else {"left": True})
            try:
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # they were quicker

    def _accept(self, listener: socket.socket, token: str, world: int) -> None:
        deadline = time.monotonic() + CONNECTING
        while len(self._names) < world - 1 and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                connection, _ = listener.accept()
            except OSError:
                continue
            connection.settimeout(CONNECTING)
            said = _messages(connection)
            hello = next(said, {})
            if hello.get("token") == token:  # no stranger
                _send(connection, {"token": token})
                self._know(connection, f"rank {hello['rank']} ({hello['where']})", said)
        listener.close()
        if missing := world - 1 - len(self._names):
            print(
                f"{missing} ranks have not connected to rank 0 within {CONNECTING:.0f} s. If one of them dies, the others"
                " learn of it late: at the time-out of a collective.",
                flush=True,
            )

    def _knock(self, hosts: list[str], port: int, hello: dict[str, Any], name: str) -> None:
        """Connect to rank 0 by the first of its names that leads there; by none, if none does."""
        for host in hosts:
            try:
                connection = socket.create_connection((host, port), timeout=CONNECTING / len(hosts))
            except OSError:
                continue
            said = _messages(connection)
            _send(connection, hello)
            if next(said, {}).get("token") == hello["token"]:
                self._know(connection, name, said)
                return

    def _know(self, connection: socket.socket, name: str, said: Iterator[dict[str, Any]]) -> None:
        _keep_asking(connection)
        self._names[connection], self._said[connection] = name, said

    def _listen(self, connection: socket.socket) -> None:
        message = next(self._said[connection], {"lost": f"{self._names[connection]} {GONE}"})
        if "lost" in message:
            self._end(message["lost"], seen_by=connection)

    def _end(self, lost: str, seen_by: socket.socket) -> None:
        with self._first:
            if self._lost or self._left.is_set():
                return
            self._lost = lost
        for connection in self._names:
            if connection is not seen_by:
                _send(connection, {"lost": lost})
        self._is_lost.set()
        if not self._left.wait(GRACE):
            print(f"hbdist, rank {self.rank}: {lost}. This rank ends too.", file=sys.stderr, flush=True)
            self.at_end(lost)
            sys.stdout.flush()
            os._exit(1)  # the main thread waits in a collective, for ever


def _where() -> str:
    return f"{os.environ.get('SLURMD_NODENAME') or socket.gethostname()}, process {os.getpid()}"


def _listener(world: int) -> socket.socket:
    try:
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=world + SPARE, dualstack_ipv6=True)
    except (OSError, ValueError):  # a machine without IPv6
        return socket.create_server(("", 0), backlog=world + SPARE)


def _keep_asking(connection: socket.socket) -> None:
    """From now on wait without a limit, but have the system ask whether the other machine is still there."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), SILENCE, strict=True):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return  # who is gone does not need to know


def _messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """What the other side says, until it is gone, or speaks another language."""
    buffer = b""
    try:
        while received := connection.recv(4096):
            *lines, buffer = (buffer + received).split(b"\n")
            for line in lines:
                yield dict(json.loads(line))
    except (OSError, ValueError, TypeError):
        return
