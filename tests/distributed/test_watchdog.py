"""A rank that dies or stops ends the others within seconds, by name. The ranks are real processes, and need no torch."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from started_ranks import is_alive

from hbdist.distributed.greeting import GREETERS, encode, greet, lines_of, listen, open_port
from hbdist.distributed.identity import Identity
from hbdist.distributed.watchdog import Waiting

RANK = """
import json, sys, time
from pathlib import Path
import hbdist.distributed.watchdog
from hbdist.distributed.greeting import open_port
from hbdist.distributed.identity import Identity
from hbdist.distributed.watchdog import Watchdog

folder, rank, world, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
hbdist.distributed.watchdog.GRACE_S, timeout_s = float(sys.argv[5]), float(sys.argv[6])
own = Identity.here(rank, world, {})

def write(name, value):
    (folder / f"{name}.part").write_text(json.dumps(value))
    (folder / f"{name}.part").rename(folder / name)

def read(name):
    while not (folder / name).exists():
        time.sleep(0.01)
    return json.loads((folder / name).read_text())

write(f"rank{rank}", own.to_json())
watchdog = Watchdog(own, timeout_s)
watchdog.position = lambda: (17, 5)
watchdog.on_rank_lost = lambda lost: print("at the end:", lost, flush=True)
if rank == 0:
    listener = open_port("127.0.0.1", world)
    write("port", listener.getsockname()[1])
    read("go")
    watchdog.accept(listener, "token", [Identity.from_json(read(f"rank{other}")) for other in range(1, world)])
else:
    watchdog.connect("127.0.0.1", read("port"), "token", Identity.from_json(read("rank0")))
watchdog.begin()
print("joined", flush=True)
sys.stdin.readline()
if end == "leave":
    watchdog.leave()
elif end == "fail":
    watchdog.leave("DataError: no such shard")
elif end == "own error":
    print("met", watchdog.wait_for_lost_rank(10), flush=True)
    watchdog.leave()
    time.sleep(2 * hbdist.distributed.watchdog.GRACE_S)
    sys.exit(2)
else:
    time.sleep(60)
"""


class Ranks:
    """Ranks that have joined and wait, each until `go_on` is called for it."""

    def __init__(
        self, folder: Path, ends: list[str], *, grace: float = 0.2, timeout_s: float = 60, go: bool = True
    ) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(folder), str(rank), str(len(ends)), end, str(grace), str(timeout_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, end in enumerate(ends)
        ]
        if go:
            self.wait_until_joined(folder)

    def wait_until_joined(self, folder: Path) -> None:
        (folder / "go").write_text("1")
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "joined\n"

    def name(self, rank: int) -> str:
        return f"rank {rank} ({socket.gethostname()}, process {self.processes[rank].pid})"

    def go_on(self, rank: int) -> None:
        stdin = self.processes[rank].stdin
        assert stdin is not None
        stdin.write("\n")
        stdin.flush()

    def end(self, rank: int) -> tuple[int, str, str]:
        """Wait for the end of a rank and return its exit status, output and errors."""
        process = self.processes[rank]
        out, errors = process.communicate(timeout=10)
        return process.returncode, out, errors


@pytest.fixture(autouse=True)
def _on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)


@pytest.mark.parametrize("killed", [2, 0])
def test_a_killed_rank_ends_all_others_and_is_named(killed: int, tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, ["wait"] * 3)
    begun = time.monotonic()
    ranks.processes[killed].send_signal(signal.SIGKILL)
    lost = f"{ranks.name(killed)} is gone: it was killed or crashed, or its machine was lost"
    for rank in {0, 1, 2} - {killed}:
        code, out, errors = ranks.end(rank)
        assert code == 1
        assert out.startswith(f"at the end: {lost}")  # and, if it had sent a sign of life, in which step
        assert errors.startswith(f"hbdist, rank {rank}: {lost}")
        assert errors.endswith(". This rank ends too.\n")
    assert time.monotonic() - begun < 5
    ranks.end(killed)


def test_ranks_that_leave_normally_end_no_other(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, ["leave"] * 3)
    for rank in (1, 0, 2):
        ranks.go_on(rank)
        assert ranks.end(rank) == (0, "", "")


def test_all_ranks_report_the_failure_of_one(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, ["wait", "wait", "fail"])
    ranks.go_on(2)
    for rank in (0, 1):
        code, out, _ = ranks.end(rank)
        assert code == 1
        assert out == f"at the end: {ranks.name(2)} failed: DataError: no such shard\n"
    assert ranks.end(2)[0] == 0


def test_a_rank_that_is_about_to_end_keeps_its_own_exit_status(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, ["own error", "wait"], grace=1.0)
    ranks.go_on(0)
    ranks.processes[1].kill()
    code, out, errors = ranks.end(0)
    assert (code, errors) == (2, "")
    assert out.startswith(f"met {ranks.name(1)} is gone")
    ranks.end(1)


@pytest.mark.parametrize("stopped", [1, 0])
def test_a_stopped_rank_is_given_up_in_time_named_with_its_step_and_ended(stopped: int, tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, ["wait"] * 3, timeout_s=6)
    time.sleep(1.5)  # a sign of life or two
    begun = time.monotonic()
    ranks.processes[stopped].send_signal(signal.SIGSTOP)
    lost = f"{ranks.name(stopped)} has given no sign of life for 4 s, in step 18: it is stopped, or its machine hangs"
    for rank in {0, 1, 2} - {stopped}:
        code, out, _ = ranks.end(rank)
        assert code == 1
        assert out == f"at the end: {lost}\n"
    assert 3 < time.monotonic() - begun < 6
    assert ranks.processes[stopped].wait(timeout=5) == -signal.SIGKILL


def test_a_rank_that_is_stopped_for_less_goes_on(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, ["leave"] * 2, timeout_s=6)
    for rank in (1, 0):
        ranks.processes[rank].send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        ranks.processes[rank].send_signal(signal.SIGCONT)
        time.sleep(1.5)
    for rank in (1, 0):
        ranks.go_on(rank)
        assert ranks.end(rank) == (0, "", "")


GREETINGS = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"[]\n",
    b"guess 1\n",
    b"token 7\n",
    b"token\n",
    b"token one\n",
    b"token \xff\n",
    b"",
    b"\0" * 100_000,
    b"[" * 200_000,
    b"[" * 200_000 + b"\n",
    b"token 1" + b"1" * 100_000 + b"\n",
]


def connect(port: int, greeting: bytes = b"") -> socket.socket:
    stranger = socket.create_connection(("127.0.0.1", port), timeout=30)
    with suppress(OSError):  # the other side need not listen to the end
        stranger.sendall(greeting)
    return stranger


def test_strangers_at_the_port_change_nothing(tmp_path: Path) -> None:
    """Some say nothing, some the wrong thing, some never end, and there are a thousand of them, before the ranks come."""
    ranks = Ranks(tmp_path, ["leave"] * 2, go=False)
    while not (tmp_path / "port").exists():
        time.sleep(0.01)
    port = json.loads((tmp_path / "port").read_text())
    silent = [connect(port) for _ in range(1000 - len(GREETINGS))]
    rude = [connect(port, greeting) for greeting in GREETINGS]
    slow = connect(port)
    stop = threading.Event()

    def drip() -> None:
        with suppress(OSError):
            while not stop.wait(0.2):
                slow.sendall(b"t")

    threading.Thread(target=drip, daemon=True).start()
    try:
        ranks.wait_until_joined(tmp_path)
        for rank in (0, 1):
            ranks.go_on(rank)
            assert ranks.end(rank) == (0, "", "")
    finally:
        stop.set()
        for stranger in (*silent, *rude, slow):
            stranger.close()


def test_a_stranger_at_the_port_takes_a_second_at_most_and_no_more_threads_than_allowed() -> None:
    listener = open_port("127.0.0.1", 2)
    port = listener.getsockname()[1]
    strangers = [connect(port) for _ in range(3 * GREETERS)]
    found: dict[int, object] = {}
    thread = threading.Thread(target=lambda: found.update(listen(listener, "token", [1], timeout_s=30)))
    begun, before = time.monotonic(), threading.active_count()
    thread.start()
    time.sleep(0.5)
    assert threading.active_count() - before <= GREETERS + 1
    connected = greet("127.0.0.1", port, "token", 1, timeout_s=30)
    thread.join(timeout=30)
    assert connected is not None
    assert list(found) == [1]
    assert time.monotonic() - begun < 8
    for stranger in strangers:
        stranger.close()


def test_a_rank_is_accepted_once_and_with_the_token_of_this_start_alone() -> None:
    listener = open_port("127.0.0.1", 3)
    port = listener.getsockname()[1]
    found: dict[int, object] = {}
    thread = threading.Thread(target=lambda: found.update(listen(listener, "new", [1, 2], timeout_s=20)))
    thread.start()
    assert greet("127.0.0.1", port, "old", 1, timeout_s=1) is None
    assert greet("127.0.0.1", port, "new", 1, timeout_s=10) is not None
    assert greet("127.0.0.1", port, "new", 1, timeout_s=1) is None, "this rank is here already"
    assert greet("127.0.0.1", port, "new", 2, timeout_s=10) is not None
    thread.join(timeout=20)
    assert sorted(found) == [1, 2]
    with pytest.raises(OSError, match="refused"):
        connect(port)


def test_the_port_is_open_on_one_interface_alone() -> None:
    with open_port("127.0.0.1", 2) as listener:
        port = listener.getsockname()[1]
        connect(port).close()
        with pytest.raises(OSError, match=r"refused|unreachable"):
            socket.create_connection(("127.0.0.2", port), timeout=2)
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening


@pytest.mark.parametrize(
    "rubbish", [b"\xff\n", b"[]\n", b"[" * 200_000 + b"\n", b"{" * 200_000, b'{"at": ' + b"[" * 60_000 + b"\n"]
)
def test_messages_that_are_none_end_the_connection(rubbish: bytes) -> None:
    here, there = socket.socketpair()
    thread = threading.Thread(target=lambda: (there.sendall(encode({"left": True}) + rubbish), there.close()))
    thread.start()
    assert list(lines_of(here)) == [{"left": True}]
    here.close()
    thread.join(timeout=10)


def test_a_failure_of_any_length_is_told() -> None:
    here, there = socket.socketpair()
    here.sendall(encode({"lost": "x" * 1_000_000}))
    here.close()
    (message,) = lines_of(there)
    assert message is not None
    assert set(message["lost"]) == {"x"}
    there.close()


def test_who_keeps_the_others_waiting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = Waiting(0.05)
    waiting.look({"rank 0": (3, 9), "rank 1": (3, 8)})
    time.sleep(0.06)
    waiting.look({"rank 0": (3, 9), "rank 1": (3, 8)})
    assert capsys.readouterr().out == "the others have waited 0 s for rank 1, alive in step 4\n"
    waiting.look({"rank 0": (3, 9), "rank 1": (3, 8)})
    assert capsys.readouterr().out == "", "after twice the time"
    waiting.look({"rank 0": (3, 9), "rank 1": (3, 9)})
    time.sleep(0.06)
    waiting.look({"rank 0": (3, 9), "rank 1": (3, 9)})
    assert capsys.readouterr().out == "", "all are at the same place"


def test_a_process_that_has_another_start_is_not_killed(tmp_path: Path) -> None:
    from hbdist.distributed.watchdog import _kill_on_this_machine

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        here = Identity.here(1, 2, {})
        other = Identity(1, 2, here.host, here.machine, process.pid, born="1")
        _kill_on_this_machine(other)
        time.sleep(0.2)
        assert is_alive(process.pid)
        os.kill(process.pid, signal.SIGKILL)
