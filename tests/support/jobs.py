"""Overrides for training runs that take seconds, and the logs of jobs."""

from pathlib import Path

from hbdist.launch import Handle


def overrides(model: Path, shards: Path) -> list[str]:
    """Return overrides that make the demo's config a run of seconds, on real text, without dropout."""
    sources = [f"model.name={model}", f"data.shards={shards}", "data.languages=[]", "data.datasets=[]"]
    size = ["batch.size=16", "steps=12", "optimizer.lr=1e-4", "model.dropout=0", "checkpoint.every=3"]
    return [*sources, *size, "run.log_batches=true"]


def printed(handle: Handle) -> str:
    """Return everything that the ranks of a job have printed."""
    return "\n".join(f"== {path.name}\n{path.read_text()}" for path in handle.logs if path.is_file())
