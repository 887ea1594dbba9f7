"""Training started as a user does it: real processes, real launchers, real files. Used by the tests of full runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT = 240
"""Timeout in seconds; loading torch in three processes on two busy cores takes a while."""


def command(processes: int, *arguments: str, launch: str = "two") -> list[str]:
    """Return the command line that trains on this many processes, by launch/accelerate/LAUNCH.yaml."""
    script = [str(ROOT / "hbdist/train.py"), *arguments]
    if processes == 1:
        return [sys.executable, *script]
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    config = ["--config_file", str(ROOT / f"launch/accelerate/{launch}.yaml"), "--num_processes", str(processes)]
    return [*launcher, *config, *script]


def environment() -> dict[str, str]:
    """Return a user's environment, with one thread per process so that processes do not compete for cores."""
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def train(
    processes: int, *arguments: str, launch: str = "two", timeout: float = TIMEOUT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Train to the end and return the process; the caller checks its exit status."""
    return subprocess.run(
        command(processes, *arguments, launch=launch),
        cwd=ROOT,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def outcome(folder: Path) -> dict[str, Any]:
    """Return the outcome of a run."""
    return json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
