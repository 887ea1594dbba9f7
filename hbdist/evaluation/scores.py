"""Reader of scores.json, and the names and words for its content. Without torch, so that reports need none.

Its keys are documented by `evaluate.evaluate` and `metrics.summary.summarise`, which fill it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from hbdist.utils.json_toml import read_json_object

Value = TypeVar("Value")
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
    remedy = "Delete the file; `hbdist evaluate` writes it again."
    return read_json_object(out / "scores.json", remedy=remedy, default={}) or None


def split_pair(pair: str, pairs: Iterable[str]) -> tuple[str, str]:
    """Return the two languages of a pair such as "en-de".

    Languages have no `-`, but earlier versions wrote some, such as `pt-BR-en`: of several places to cut, the one counts
    after which the pair in the other direction is among the `pairs`, all that the scores have.
    """
    parts = pair.split("-")
    cuts = [("-".join(parts[:n]), "-".join(parts[n:])) for n in range(1, len(parts))] or [(pair, pair)]
    known = set(pairs) if len(cuts) > 1 else ()
    return next((cut for cut in cuts if f"{cut[1]}-{cut[0]}" in known), cuts[0])


def own_language(value_of_pair: Mapping[str, Value]) -> dict[str, Value]:
    """Return language → value of those pairs whose two languages are the same."""
    pairs = ((split_pair(pair, value_of_pair), value) for pair, value in value_of_pair.items())
    return {x: value for (x, y), value in pairs if x == y}


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
