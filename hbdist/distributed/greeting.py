"""Connections of the watchdog: a port on one interface, where only who knows the token of the start is listened to.

Anybody may connect while the ranks do. So each greeting has a thread and one second, whatever is sent or not, and a bounded
number of bytes; strangers beyond a number of them wait in the operating system, where they take no descriptors.
"""

import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

Message = dict[str, Any]
Line = Message | None
"""Message of another rank; None where none has come for the socket's time-out."""
Connected = tuple[socket.socket, Iterator[Line]]

GREETING_S = 1.0
"""Seconds that a greeting may take."""
GREETERS = 64
"""Number of greetings at the same time."""
LONGEST_LINE = 1 << 16
"""Most bytes of a message. Failures are told in full; a greeting is shorter, see `_read_greeting`."""
SPARE_BACKLOG = 1024
"""Number of pending connections allowed beyond those of the ranks."""


def open_port(address: str, world: int) -> socket.socket:
    """Open a port that the system chooses, on the interface with this address alone."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=world + SPARE_BACKLOG)


def listen(listener: socket.socket, token: str, ranks: Sequence[int], *, timeout_s: float) -> dict[int, Connected]:
    """Return the connections of these ranks, as far as they come in time, and close the port."""
    reception = _Reception(token, ranks)
    ends = time.monotonic() + timeout_s
    slots = threading.BoundedSemaphore(GREETERS)

    def receive(stranger: socket.socket) -> None:
        try:
            reception.receive(stranger)
        finally:
            slots.release()

    with listener:
        while not reception.complete.is_set() and time.monotonic() < ends:
            if not slots.acquire(timeout=0.1):
                continue
            try:
                listener.settimeout(0.1)
                stranger, _ = listener.accept()
            except OSError:  # nobody has come, has gone again, or there is no descriptor left
                slots.release()
                continue
            threading.Thread(target=receive, args=(stranger,), name="greeting", daemon=True).start()
    return reception.close()


class _Reception:
    """Ranks that have greeted, each once."""

    def __init__(self, token: str, ranks: Sequence[int]) -> None:
        self.token, self.expected = token, set(ranks)
        self.complete = threading.Event()
        self._found: dict[int, Connected] = {}
        self._lock = threading.Lock()
        self._closed = False
        if not ranks:
            self.complete.set()

    def receive(self, stranger: socket.socket) -> None:
        """Listen to a greeting, and answer if it has the token; otherwise close the connection."""
        with suppress(OSError):
            rank = _read_greeting(stranger, self.token, self.expected)
            with self._lock:
                if rank is not None and rank not in self._found and not self._closed:
                    stranger.sendall(f"{self.token}\n".encode())
                    self._found[rank] = stranger, lines_of(stranger)
                    if len(self._found) == len(self.expected):
                        self.complete.set()
                    return
        stranger.close()

    def close(self) -> dict[int, Connected]:
        """Return the ranks that have come; whoever greets later is sent away."""
        with self._lock:
            self._closed = True
            return dict(self._found)


def _read_greeting(stranger: socket.socket, token: str, expected: set[int]) -> int | None:
    """Return the rank that greets as `TOKEN RANK`; None for anything else, within GREETING_S."""
    ends, longest, text = time.monotonic() + GREETING_S, len(token) + 20, b""
    while not text.endswith(b"\n") and len(text) < longest:
        stranger.settimeout(max(0.01, ends - time.monotonic()))
        got = stranger.recv(longest - len(text))
        if not got or time.monotonic() > ends:
            return None
        text += got
    known, _, rank = text.rstrip(b"\n").partition(b" ")
    if not hmac.compare_digest(known, token.encode()) or not rank.isdigit() or int(rank) not in expected:
        return None
    return int(rank)


def greet(address: str, port: int, token: str, rank: int, *, timeout_s: float) -> Connected | None:
    """Connect to rank 0's port as a rank; None if that fails until the time is up."""
    ends = time.monotonic() + timeout_s
    while (left := ends - time.monotonic()) > 0:
        try:
            connected = socket.create_connection((address, port), timeout=left)
            connected.sendall(f"{token} {rank}\n".encode())
            answer = b""
            while not answer.endswith(b"\n") and (got := connected.recv(1)):
                answer += got
            if hmac.compare_digest(answer.rstrip(b"\n"), token.encode()):
                return connected, lines_of(connected)
            connected.close()
        except OSError:
            time.sleep(min(0.2, max(0.0, left)))
            continue
        time.sleep(0.2)
    return None


def encode(message: Message) -> bytes:
    """Return a message as a line."""
    line = json.dumps(message).encode()
    if len(line) >= LONGEST_LINE:
        line = json.dumps({key: str(value)[: LONGEST_LINE // 8] for key, value in message.items()}).encode()
    return line + b"\n"


def lines_of(connected: socket.socket) -> Iterator[Line]:
    """Yield the messages of the other side, None after each time-out, until it is gone or sends anything else."""
    pending = b""
    while True:
        try:
            got = connected.recv(LONGEST_LINE)
        except TimeoutError:
            yield None
            continue
        except OSError:
            return
        if not got:
            return
        *lines, pending = (pending + got).split(b"\n")
        if len(pending) > LONGEST_LINE:
            return
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(message, dict):
                return
            yield message
