"""Full runs for tests: trained in this process, watched while they run, compared when they have ended."""

import io
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from launching import TIMEOUT, lines, outcome


def main_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `launching.train(1, …)` in this process, which has already imported torch; also with one thread."""
    import torch

    from hbdist.launch.entry import main

    output, errors, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Accelerate writes this process's device into the environment, which later processes of the tests would inherit.
        with patch.dict(os.environ), redirect_stdout(output), redirect_stderr(errors):
            code = main(arguments)
    finally:
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def train_here(folder: Path, arguments: Sequence[str]) -> Path:
    """Train in this process and return the run's folder.

    Args:
        arguments: config file and overrides.
    """
    done = main_here(*arguments, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    assert outcome(folder)["state"] == "done"
    return folder


def wait_for(condition: Callable[[], object], what: str, *, timeout: float = TIMEOUT) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.01)


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def wait_for_steps(folder: Path, steps: int) -> None:
    wait_for(lambda: steps_done(folder) >= steps, f"{steps} steps in {folder}")


def newest_checkpoint(folder: Path) -> int:
    """Return the step a run would resume from."""
    return int((folder / "checkpoints" / "latest").read_text())


def pid_of_rank(folder: Path, rank: int) -> int:
    """Return the process id of a rank of the run in this folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables, command = (path / "environ").read_bytes().split(b"\0"), (path / "cmdline").read_bytes()
        except OSError:
            continue
        if f"run.folder={folder}".encode() in command and f"RANK={rank}".encode() in variables:
            return int(path.name)
    raise AssertionError(f"no process with RANK={rank} trains in {folder}")


def losses(folder: Path) -> list[float]:
    return [step["loss"] for step in lines(folder / "metrics.jsonl")]


def assert_the_same_run(folder: Path, other: Path) -> None:
    """Assert that both are done, with the same batches, losses and model."""
    assert outcome(folder)["state"] == "done"
    assert steps_done(folder) == steps_done(other)
    assert_the_same_steps(folder, other)
    assert_the_same_model(folder, other)


def assert_the_same_steps(folder: Path, other: Path) -> None:
    """Assert the same batches and losses as far as the other has come, up to the order of summation."""
    steps = steps_done(other)
    assert losses(folder)[:steps] == pytest.approx(losses(other), rel=1e-5)
    assert lines(folder / "batches.jsonl")[:steps] == lines(other / "batches.jsonl")


def assert_the_same_model(folder: Path, other: Path) -> None:
    """Compare each weight as a vector: AdamW makes a full step for a single number whose gradient is only rounding."""
    from safetensors.torch import load_file

    mine, theirs = (load_file(one / "model" / "model.safetensors") for one in (folder, other))
    assert mine.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert (mine[name] - weight).norm() <= 1e-3 * weight.norm() + 1e-6, name
