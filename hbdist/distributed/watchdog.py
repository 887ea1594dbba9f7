"""Watchdog of the ranks: when one dies or stops, it ends all others in time, with a message that names rank, host and step.

Collectives do not do this. Over NCCL the other ranks would wait silently for minutes; over gloo they get a broken connection
that does not say which rank it led to. So each rank keeps a connection to rank 0. The operating system closes it when the
process ends for any reason, and a thread sends a sign of life through it every few seconds: a process that is stopped, or
whose machine hangs, sends none, while one that computes, saves or waits for however long does.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from hbdist.distributed.greeting import Line, Message, encode, greet, listen
from hbdist.distributed.identity import Identity
from hbdist.errors import RankLostError
from hbdist.utils.processes import machine_id, process_start

GRACE_S = 5.0
"""Seconds a rank has to end by itself after another is lost: usually it meets the same error."""
NOTICE_S = 2.0
"""Seconds in which the news of a lost rank follows on the error of a collective."""
GONE = "is gone: it was killed or crashed, or its machine was lost"
SILENT = "has given no sign of life"
BEATS = 12
"""Number of signs of life in a time-out."""
SILENT_BEATS = 9
"""Number of signs of life that are missing when a rank is given up: what is left of the time-out is for ending all."""
LONGEST_BEAT_S = 5.0
Position = tuple[int, int]
"""Updates that a rank has made, and collectives that it has entered."""


@dataclass
class Peer:
    """Connection to another rank."""

    rank: Identity
    socket: socket.socket
    lines: Iterator[Line]
    position: Position | None = None
    """How far it has come; None before it trains, or if it does not."""
    silent: int = 0
    """Number of beats since its last message."""
    sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: Message) -> None:
        """Send a message; a process that is gone needs none."""
        with self.sending, suppress(OSError):
            self.socket.sendall(encode(message))

    @property
    def where(self) -> str:
        """Step that it was in when it was last heard of, for messages."""
        return f", in step {self.position[0] + 1}" if self.position else ""


class Watchdog:
    """Connections of this rank: to rank 0, or from rank 0 to all others. A process alone has none."""

    def __init__(self, own: Identity | None = None, timeout_s: float = 60.0) -> None:
        self.own, self.timeout_s = own, timeout_s
        self.on_rank_lost: Callable[[str], None] = lambda _: None
        """Function called with the reason before this process ends because another rank was lost."""
        self.position: Callable[[], Position | None] = lambda: None
        """Function that says how far this rank has come in training."""
        self._peers: list[Peer] = []
        self._lost = ""
        self._is_lost, self._left = threading.Event(), threading.Event()
        self._first = threading.Lock()

    @property
    def beat_s(self) -> float:
        """Seconds between two signs of life."""
        return min(LONGEST_BEAT_S, self.timeout_s / BEATS)

    def accept(self, listener: socket.socket, token: str, others: list[Identity]) -> None:
        """Accept the connections of all other ranks, on rank 0; strangers are ignored. If one is missing, it says so."""
        found = listen(listener, token, [one.rank for one in others], timeout_s=self.timeout_s)
        for one in others:
            if one.rank in found:
                self._add(one, *found[one.rank])
        if missing := [one for one in others if one.rank not in found]:
            print(
                f"{missing[0].name}{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} could not connect to the"
                f" watchdog of rank 0 within {self.timeout_s:g} s. If such a rank dies or stops, the others notice late: when a"
                " collective times out.",
                flush=True,
            )

    def connect(self, address: str, port: int, token: str, main: Identity) -> None:
        """Connect to rank 0, on another rank; training continues without if that fails, and rank 0 says so."""
        assert self.own is not None
        if connected := greet(address, port, token, self.own.rank, timeout_s=self.timeout_s):
            self._add(main, *connected)

    def begin(self) -> None:
        """Begin to watch, and to send signs of life."""
        for peer in self._peers:
            peer.socket.settimeout(self.beat_s)
            threading.Thread(target=self._watch, args=(peer,), name="watchdog", daemon=True).start()
        if self._peers:
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def wait_for_lost_rank(self, seconds: float) -> str:
        """Return which rank was lost and how, waiting this long for the news; "" if all are alive."""
        if self._peers:
            self._is_lost.wait(seconds)
        return self._lost

    def leave(self, failure: str = "") -> None:
        """Announce that this process ends: normally, or because of a failure, which then ends the other ranks.

        A second call does nothing.
        """
        if self._left.is_set():
            return
        self._left.set()
        for peer in self._peers:
            assert self.own is not None
            peer.send({"lost": f"{self.own.name} failed: {failure}"} if failure else {"left": True})
            with suppress(OSError):  # the other side may have closed it already
                peer.socket.shutdown(socket.SHUT_WR)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Tell the other ranks of an error that is raised inside; if it comes from a lost rank, raise that instead.

        Raises:
            RankLostError: another rank was lost; the message names it.
        """
        try:
            yield
        except Exception as error:
            # The error of a broken collective does not say which rank was lost.
            lost = self.wait_for_lost_rank(NOTICE_S) if isinstance(error, RuntimeError) else ""
            self.leave("" if lost else str(error) if isinstance(error, RankLostError) else _describe(error))
            if lost:
                raise RankLostError(lost) from None
            raise

    def _add(self, rank: Identity, connected: socket.socket, lines: Iterator[Line]) -> None:
        self._peers.append(Peer(rank, connected, lines))

    def _watch(self, peer: Peer) -> None:
        """Read what a rank sends until it leaves or is lost."""
        for message in peer.lines:
            if message is None:  # a beat's time without a message
                peer.silent += 1
                if peer.silent >= SILENT_BEATS:
                    seconds = peer.silent * self.beat_s
                    lost = f"{peer.rank.name} {SILENT} for {seconds:.0f} s{peer.where}: it is stopped, or its machine hangs"
                    return self._end(lost, reported_by=peer, is_silent=True)
                continue
            peer.silent = 0
            if "left" in message:
                return None
            if "lost" in message:
                return self._end(str(message["lost"]), reported_by=peer)
            if message.get("at"):
                updates, calls = message["at"]
                peer.position = (int(updates), int(calls))
        return self._end(f"{peer.rank.name} {GONE}{peer.where}", reported_by=peer)

    def _beat(self) -> None:
        """Send signs of life, and say on rank 0 whom the others wait for."""
        waiting = Waiting(self.timeout_s)
        while not self._left.wait(self.beat_s):
            own = self.position()
            for peer in self._peers:
                peer.send({"at": own})
            if own and self.own and self.own.rank == 0:
                waiting.look({self.own.name: own} | {peer.rank.name: peer.position or (0, 0) for peer in self._peers})

    def _end(self, lost: str, reported_by: Peer, *, is_silent: bool = False) -> None:
        with self._first:
            if self._lost or self._left.is_set():
                return
            self._lost = lost
        for peer in self._peers:
            if peer is not reported_by:
                peer.send({"lost": lost})
        self._is_lost.set()
        is_stuck = not self._left.wait(GRACE_S)
        if is_stuck:
            rank = self.own.rank if self.own else 0
            print(f"hbdist, rank {rank}: {lost}. This rank ends too.", file=sys.stderr, flush=True)
            self.on_rank_lost(lost)
        if is_silent:  # only now: its launcher ends this rank as soon as that one is gone
            _kill_on_this_machine(reported_by.rank)
        if is_stuck:
            sys.stdout.flush()
            os._exit(1)  # the main thread is stuck in a collective


class Waiting:
    """Notice of a rank that is alive, but keeps all others waiting: it may be busy or stuck, and is not ended."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._positions: dict[str, Position] = {}
        self._begin()

    def _begin(self) -> None:
        self._since, self._next = time.monotonic(), self.seconds

    def look(self, positions: dict[str, Position]) -> None:
        """Compare the ranks' positions with those seen before; print who is behind after a while, and then less and less."""
        if positions != self._positions:
            self._positions = positions
            self._begin()
        elapsed = time.monotonic() - self._since
        if elapsed < self._next:
            return
        self._next *= 2
        furthest = max(positions.values())
        behind = [name for name, position in positions.items() if position < furthest]
        if behind and len(behind) < len(positions):
            more = f" and {len(behind) - 1} more" if len(behind) > 1 else ""
            step = positions[behind[0]][0] + 1
            print(f"the others have waited {elapsed:.0f} s for {behind[0]}{more}, alive in step {step}", flush=True)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _kill_on_this_machine(rank: Identity) -> None:
    """End a process that all others have given up: stopped, it would hold the run's folder, and go on when it is continued."""
    if rank.machine == machine_id() and rank.born and process_start(rank.pid) == rank.born:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(rank.pid, signal.SIGKILL)


def is_of_a_lost_rank(message: str) -> bool:
    """Check that a run's outcome says that a rank was lost, most often together with its machine."""
    return GONE in message or SILENT in message
