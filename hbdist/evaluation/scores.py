"""scores.json: read, put in place, shown on a terminal. No torch, so that reports need none.

Its keys are in the docstrings of `benchmark.evaluate` and `benchmark.summarise`, which fill it.
"""

import json
from pathlib import Path
from typing import Any, Literal

from hbdist.errors import DataError

Setting = Literal["monolingual", "cross_lingual", "multilingual"]
SETTINGS: tuple[Setting, ...] = ("monolingual", "cross_lingual", "multilingual")

BASELINES = {"demean": "language means removed", "lir": "LIR"}
"""Baselines without training, by their names in scores.json: see `hbdist.evaluation.metrics.language_removal`."""


def read_scores(out: Path) -> dict[str, Any] | None:
    """`out`/scores.json, or None if there is none.

    Raises:
        DataError: it is not JSON.
    """
    path = out / "scores.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}. Delete it; `hbdist evaluate` writes it again.") from None


def spoken(metric: str) -> str:
    """What a metric is called where people read."""
    return {"map": "mAP", "rank_distance": "rank distance"}.get(metric, metric.replace("ndcg", "nDCG"))


def describe_cut(cut: dict[str, Any] | None) -> str:
    """What is left of a task, in words."""
    if not cut:
        return "nothing cut"
    parts = []
    if cut.get("languages"):
        parts.append(f"languages cut to {', '.join(cut['languages'])}")
    if cut.get("questions"):
        parts.append(f"questions cut to {cut['questions']:,} a language, against all candidates")
    return " and ".join(parts)


METRICS = ("map", "ndcg@10", "recall@1", "recall@10", "precision@1", "precision@10", "mrr")
"""Names of the metrics, in the order of scores.json; a task may ask for others."""
