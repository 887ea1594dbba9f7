"""Runs of seconds to submit, and what they print."""

from pathlib import Path

from hbdist.launch import Handle


def overrides(model: Path, shards: Path) -> list[str]:
    """What makes a run of seconds of the demo's config, on real text, with dropout off."""
    sources = [f"model.name={model}", f"data.shards={shards}", "data.languages=[]", "data.datasets=[]"]
    size = ["batch.size=16", "steps=12", "optimizer.lr=1e-4", "model.dropout=0", "checkpoint.every=3"]
    return [*sources, *size, "run.log_batches=true"]


def said(handle: Handle) -> str:
    """All that its ranks have printed."""
    return "\n".join(f"== {path.name}\n{path.read_text()}" for path in handle.logs if path.is_file())
