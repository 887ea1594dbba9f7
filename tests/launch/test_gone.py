"""Ranks end, all of them and in time, when their launcher or one of them is gone or stopped. Real launchers."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from jobs import overrides
from launching import ROOT, TIMEOUT, command, environment, outcome
from started_ranks import StartedRanks, children_of, is_alive, signal_all, variables_of
from whole_runs import newest_checkpoint, steps_done, wait_for, wait_for_steps

HOST = socket.gethostname()
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BOUND_S = 60
"""Seconds until all ranks are gone."""


@pytest.fixture
def keys(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> list[str]:
    tiny = overrides(tiny_model, tiny_shards)
    return [
        "launch/train/demo.toml",
        *tiny,
        "steps=100000",
        "checkpoint.every=100000",
        f"run.folder={tmp_path / 'run'}",
    ]


@contextmanager
def started(by: str, keys: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start two ranks by a launcher; at the end, kill it and all that it has started."""
    words = [*TORCHRUN, str(ROOT / "hbdist/train.py"), *keys] if by == "torchrun" else command(2, *keys)
    with log.open("wb") as said:
        process = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=said, stderr=subprocess.STDOUT)
    ranks: list[int] = []
    try:
        wait_for(lambda: len(ranks_of(process.pid)) == 2 or process.poll() is not None, "two ranks")
        ranks = list(ranks_of(process.pid).values())
        yield process
    finally:
        signal_all([process.pid, *ranks], signal.SIGKILL)
        process.wait()


def ranks_of(launcher: int) -> dict[int, int]:
    """Return rank → process id of a launcher's ranks."""
    found: dict[int, int] = {}
    for child in children_of(launcher):
        with suppress(OSError):
            variables = variables_of(child)
            if "RANK" in variables:
                found[int(variables["RANK"])] = child
    return found


def wait_until_gone(pids: list[int]) -> float:
    """Return the seconds until none of these processes is left."""
    begun = time.monotonic()
    wait_for(lambda: not any(map(is_alive, pids)), f"the end of {pids}", timeout=BOUND_S)
    return time.monotonic() - begun


def test_ranks_whose_launcher_is_killed_save_and_end(keys: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started("torchrun", keys, tmp_path / "said.txt") as launcher:
        ranks = ranks_of(launcher.pid)
        wait_for_steps(folder, 2)
        launcher.kill()
        wait_until_gone(list(ranks.values()))
    assert outcome(folder)["state"] == "interrupted"
    assert newest_checkpoint(folder) == steps_done(folder)
    assert "the launcher (process" in (tmp_path / "said.txt").read_text()
    assert not (folder / "running.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["torchrun", "accelerate"])
@pytest.mark.parametrize("after", [0.0, 1.0, 3.0, 6.0, 10.0])
def test_ranks_whose_launcher_is_killed_early_end_too(by: str, after: float, keys: list[str], tmp_path: Path) -> None:
    with started(by, keys, tmp_path / "said.txt") as launcher:
        ranks = ranks_of(launcher.pid)
        time.sleep(after)
        launcher.kill()
        wait_until_gone(list(ranks.values()))
    assert len(ranks) == 2


@pytest.mark.slow
def test_one_process_of_accelerate_ends_with_it(keys: list[str], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", str(ROOT / "hbdist/train.py"), *keys]
    process = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    children: list[int] = []
    try:
        wait_for_steps(tmp_path / "run", 1)
        children = children_of(process.pid)
        process.kill()
        wait_until_gone(children)
    finally:
        signal_all([process.pid, *children], signal.SIGKILL)
        process.wait()
    assert outcome(tmp_path / "run")["state"] == "interrupted"


def test_a_run_that_was_started_from_a_shell_outlives_it(tmp_path: Path) -> None:
    """As with nohup: a shell is no launcher."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, pathlib, sys, time\nfrom hbdist.distributed.orphans import end_with_launcher\nend_with_launcher()\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    for number, variables in enumerate(({}, {"ACCELERATE_MIXED_PRECISION": "no"}, {"RANK": "0", "WORLD_SIZE": "1"})):
        pid_file = tmp_path / f"pid{number}"
        shell = subprocess.Popen(
            ["bash", "-c", f"{sys.executable} {script} {pid_file} & wait"], env=environment() | variables, cwd=ROOT
        )
        wait_for(lambda file=pid_file: file.is_file() and file.read_text(), "the process to begin")  # type: ignore[misc]
        pid = int(pid_file.read_text())
        shell.kill()
        shell.wait()
        time.sleep(1.5)
        assert is_alive(pid), variables
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_stopped_rank_is_named_and_all_end(stopped: int, steps: int, keys: list[str], tmp_path: Path) -> None:
    """Before the first step or later; with a shorter time-out than by default."""
    folder = tmp_path / "run"
    with started("torchrun", [*keys, "engine.timeout_s=40"], tmp_path / "said.txt") as launcher:
        ranks = ranks_of(launcher.pid)
        if steps:
            wait_for_steps(folder, steps)
            time.sleep(4)
        else:
            wait_for(lambda: (folder / "config.toml").is_file(), "the plan")
        os.kill(ranks[stopped], signal.SIGSTOP)
        begun = time.monotonic()
        wait_until_gone(list(ranks.values()))
        seconds = time.monotonic() - begun
        assert launcher.wait(timeout=TIMEOUT) != 0
    lost = f"rank {stopped} ({HOST}, process {ranks[stopped]}) has given no sign of life for 30 s"
    said = (tmp_path / "said.txt").read_text()
    assert lost in said
    if steps:
        assert f"{lost}, in step " in said
    assert outcome(folder)["state"] == "failed"
    assert outcome(folder)["message"].startswith(lost)
    assert seconds < 45


@pytest.mark.slow
def test_a_rank_0_that_dies_while_it_claims_the_folder_is_named(keys: list[str], tmp_path: Path) -> None:
    """It waits for the lock of running.json, which this test holds; no launcher ends the other rank."""
    lock, stop = tmp_path / "run" / ".running.json.lock", threading.Event()
    lock.parent.mkdir()
    lock.write_text(f"{os.getpid()}\n{HOST}\n")

    def keep() -> None:
        while not stop.wait(1):  # or it would count as left behind by a crash
            os.utime(lock)

    threading.Thread(target=keep, daemon=True).start()
    try:
        with StartedRanks(tmp_path) as ranks:
            first, _ = ranks.start(0, *keys), ranks.start(1, *keys)
            # Libraries are imported after the ranks have met, and before the folder is claimed.
            wait_for(lambda: "tokenizers" in Path(f"/proc/{first.pid}/maps").read_text(), "rank 0 to import")
            time.sleep(10)
            first.kill()
            status, said = ranks.end(1, timeout=BOUND_S)
    finally:
        stop.set()
    assert status == 1
    assert f"rank 0 ({HOST}, process {first.pid}) is gone: it was killed or crashed" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "running.json").exists()
