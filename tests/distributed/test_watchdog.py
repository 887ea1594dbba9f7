"""A rank that dies ends the others within seconds, by name. The ranks are real processes, and need no torch."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

RANK = """
import json, os, sys, time
from pathlib import Path
import hbdist.distributed.watchdog
from hbdist.distributed.watchdog import Watchdog

folder, rank, world, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
hbdist.distributed.watchdog.GRACE = float(sys.argv[5])

def broadcast_object(value):
    box = folder / "box.json"
    if rank == 0:
        box.with_suffix(".part").write_text(json.dumps(value))
        box.with_suffix(".part").rename(box)
        while not (folder / "go").exists():
            time.sleep(0.01)
        return value
    while not box.exists():
        time.sleep(0.01)
    return json.loads(box.read_text())

watchdog = Watchdog.join(rank, world, broadcast_object)
watchdog.on_rank_lost = lambda lost: print("at the end:", lost, flush=True)
print("joined", flush=True)
sys.stdin.readline()
if end == "leave":
    watchdog.leave()
elif end == "fail":
    watchdog.leave("DataError: no such shard")
elif end == "own error":
    print("met", watchdog.wait_for_lost_rank(10), flush=True)
    watchdog.leave()
    time.sleep(2 * hbdist.distributed.watchdog.GRACE)
    sys.exit(2)
else:
    time.sleep(60)
"""


class Ranks:
    """Ranks that have joined and wait, each until `go_on` is called for it."""

    def __init__(self, folder: Path, ends: list[str], *, grace: float = 0.2, go: bool = True) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(folder), str(rank), str(len(ends)), end, str(grace)],
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
        (folder / "go").touch()
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
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
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
        assert out == f"at the end: {lost}\n"
        assert errors == f"hbdist, rank {rank}: {lost}. This rank ends too.\n"
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


def test_connections_of_strangers_are_ignored(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, ["leave"] * 2, go=False)
    box = tmp_path / "box.json"
    while not box.exists():
        time.sleep(0.01)
    port = json.loads(box.read_text())[1]
    for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"token": "guess"}\n', b""):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(greeting)
    ranks.wait_until_joined(tmp_path)
    for rank in (0, 1):
        ranks.go_on(rank)
        assert ranks.end(rank) == (0, "", "")
