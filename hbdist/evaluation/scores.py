"""Reader of scores.json, and the names and words for its content. Without torch, so that reports need none.

Its keys are documented by `evaluate.evaluate` and `metrics.summary.summarise`, which fill it.
"""

import json
from pathlib import Path
from typing import Any, Literal

from hbdist.errors import DataError

Setting = Literal["monolingual", "cross_lingual", "multilingual"]
SETTINGS: tuple[Setting, ...] = ("monolingual", "cross_lingual", "multilingual")
"""Settings of a task, in the order of scores.json."""

METRICS = ("map", "ndcg@10", "recall@1", "recall@10", "precision@1", "precision@10", "mrr")
"""Default metrics of a task, in the order of scores.json."""

BASELINES = {"demean": "language means removed", "lir": "LIR"}
"""Labels of the baselines without training (`hbdist.evaluation.metrics.language_removal`), by their names in scores.json."""


def read_scores(out: Path) -> dict[str, Any] | None:
    """Return the content of `out`/scores.json, or None if there is no such file.

    Raises:
        DataError: the file is not JSON.
    """
    path = out / "scores.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}. Delete the file; `hbdist evaluate` writes it again.") from None


def metric_label(metric: str) -> str:
    """Return the name of a metric for people."""
    return {"map": "mAP", "rank_distance": "rank distance"}.get(metric, metric.replace("ndcg", "nDCG"))


def describe_cut(cut: dict[str, Any] | None) -> str:
    """Return a description of what is left of a task."""
    if not cut:
        return "nothing cut"
    parts = []
    if cut.get("languages"):
        parts.append(f"languages cut to {', '.join(cut['languages'])}")
    if cut.get("questions"):
        parts.append(f"questions cut to {cut['questions']:,} a language, against all candidates")
    return " and ".join(parts)
