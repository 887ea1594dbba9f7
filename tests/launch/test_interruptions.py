"""Ranks without a launcher that would end them, as srun starts them; and checkpoints killed while they are written."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from jobs import overrides
from launching import ROOT, command, environment
from whole_runs import wait_for_steps

KILL_WHILE_SAVING = """
import os, signal, sys, time, torch
from pathlib import Path
from hbdist.runs.checkpoint import Position, latest, load, save

folder = Path(sys.argv[1])
for kill in range(12):
    before = done = int(latest(folder).name) if latest(folder) else 0
    child = os.fork()
    while child == 0:
        done += 1
        save(folder, Position(done, seed=7, fingerprint="abc"), {"weights": torch.full((500_000,), float(done))}, keep=2)
    while latest(folder) is None or int(latest(folder).name) <= before:
        time.sleep(0.0007 * kill)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    position, state = load(latest(folder))
    assert latest(folder).name == f"{position.step:09d}" and position.step > before
    assert torch.equal(state["weights"], torch.full((500_000,), float(position.step)))
"""


def ranks(world: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start this many training processes, without a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        subprocess.Popen(
            command(1, *arguments),
            cwd=ROOT,
            env=environment() | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def test_other_ranks_name_a_dead_rank_and_a_living_run_is_not_started_twice(
    tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    keys = ["launch/train/demo.toml", *overrides(tiny_model, tiny_shards), "steps=5000", f"run.folder={folder}"]
    first, second = ranks(2, *keys)
    try:
        wait_for_steps(folder, 2)
        refused = subprocess.run(
            command(1, *keys), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100
        )
        assert refused.returncode == 2
        assert f"{folder} is being worked on by process {first.pid} on {socket.gethostname()}. Wait" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert not (folder / "outcome.json").exists()
        assert first.poll() is None

        second.send_signal(signal.SIGKILL)
        start = time.monotonic()
        _, errors = first.communicate(timeout=30)
        assert time.monotonic() - start < 15
    finally:
        for process in (first, second):
            process.kill()
    lost = f"rank 1 ({socket.gethostname()}, process {second.pid}) is gone: it was killed or crashed"
    assert first.returncode == 1
    assert lost in errors.splitlines()[-1]
    recorded = json.loads((folder / "outcome.json").read_text())
    assert recorded["state"] == "failed"
    assert recorded["message"].startswith(lost)
    assert not (folder / "running.json").exists()


def test_a_kill_during_a_save_loses_no_complete_checkpoint(tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILL_WHILE_SAVING, str(tmp_path)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
