"""Runs of seconds to submit, and waiting for what they do."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import lines

from hbdist.launch import Handle

PATIENCE = 240


def overrides(model: Path, shards: Path) -> list[str]:
    """What makes a run of seconds of the demo's config, on real text, with dropout off."""
    sources = [f"model.name={model}", f"data.shards={shards}", "data.languages=[]", "data.datasets=[]"]
    size = ["batch.size=16", "steps=12", "optimizer.lr=1e-4", "model.dropout=0", "checkpoint.every=3"]
    return [*sources, *size, "run.log_batches=true"]


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def said(handle: Handle) -> str:
    """All that its ranks have printed."""
    return "\n".join(f"== {path.name}\n{path.read_text()}" for path in handle.logs if path.is_file())


def assert_the_same_run(folder: Path, other: Path) -> None:
    assert json.loads((folder / "outcome.json").read_text())["state"] == "done"
    losses, theirs = ([line["loss"] for line in lines(one / "metrics.jsonl")] for one in (folder, other))
    assert losses == pytest.approx(theirs, rel=1e-5)
    assert lines(folder / "batches.jsonl") == lines(other / "batches.jsonl")
