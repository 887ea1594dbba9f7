"""Reader of scores.json, and the names and words for its content. Without torch, so that reports need none.

Its keys are documented by `evaluate.evaluate` and `metrics.summary.summarise`, which fill it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeVar, cast

from pydantic import ConfigDict
from typing_extensions import TypedDict

from hbdist.errors import DataError
from hbdist.utils.json_toml import is_absent, read_json, shown
from hbdist.utils.stored import as_stored

Value = TypeVar("Value")
Setting = Literal["monolingual", "cross_lingual", "multilingual"]
SETTINGS: tuple[Setting, ...] = ("monolingual", "cross_lingual", "multilingual")
"""Settings of a task, in the order of scores.json."""

METRICS = ("map", "ndcg@10", "recall@1", "recall@10", "precision@1", "precision@10", "mrr")
"""Default metrics of a task, in the order of scores.json."""

BASELINES = {"demean": "language means removed", "lir": "LIR"}
"""Labels of the baselines without training (`hbdist.evaluation.metrics.language_removal`), by their names in scores.json."""


_REMEDY = "Delete the file; `hbdist evaluate` writes it again."
_OPEN = ConfigDict(extra="allow")


class Counts(TypedDict):
    """Size of a task."""

    queries: int
    candidates: int


class Cut(TypedDict, total=False):
    """Languages and questions that are left of a task."""

    languages: list[str] | None
    questions: int | None


class Parts(TypedDict, total=False):
    """Numbers of an evaluation by setting, and its language bias; null if the task has no such setting."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    monolingual: dict[str, float] | None
    cross_lingual: dict[str, float] | None
    multilingual: dict[str, float] | None
    bias: dict[str, float | dict[str, float] | None] | None


class Confidence(TypedDict):
    """Confidence intervals by setting and metric."""

    level: float
    draws: int
    clusters: int
    monolingual: NotRequired[dict[str, tuple[float, float]]]
    cross_lingual: NotRequired[dict[str, tuple[float, float]]]
    multilingual: NotRequired[dict[str, tuple[float, float]]]


class ScoresFile(Parts, total=False):
    """Content of scores.json. Earlier versions, and other programs, have fewer keys or more."""

    task: str
    model: str
    model_fingerprint: str
    task_fingerprint: str
    counts: Counts
    cut: Cut | None
    by_pair: dict[str, dict[str, float]]
    by_language: dict[str, dict[str, float]]
    alignment: dict[str, Any] | None
    removal: dict[Literal["demean", "lir"], Parts] | None
    confidence: Confidence | None
    search: dict[str, bool | int | float | str]
    not_measured: dict[str, str]
    note: str
    left_out: dict[str, int]
    seconds: dict[str, float]
    chosen_on: str | None


NEEDED = (
    "task",
    "model",
    "model_fingerprint",
    "task_fingerprint",
    "counts",
    "cut",
    *SETTINGS,
    "by_pair",
    "by_language",
)
"""Keys without which an evaluation can be neither shown nor compared."""


def read_scores(out: Path) -> dict[str, Any] | None:
    """Return the content of `out`/scores.json, or None if there is no such file. Keys may be missing.

    Raises:
        DataError: the file is not JSON, or a value is of another type.
    """
    path = out / "scores.json"
    values = read_json(path, remedy=_REMEDY, default=None)
    if values is None and is_absent(path):
        return None
    as_stored(ScoresFile, values, where=shown(path), remedy=_REMEDY)
    return cast(dict[str, Any], values)


def read_evaluation(out: Path) -> dict[str, Any] | None:
    """Return the content of `out`/scores.json with all that a page or a comparison needs, or None if there is no such file.

    Raises:
        DataError: the file is damaged, or is not that of an evaluation.
    """
    scores = read_scores(out)
    if scores is not None and (missing := [key for key in NEEDED if key not in scores]):
        path = shown(out / "scores.json")
        raise DataError(f"{path} lacks {', '.join(missing)}; expected the scores of an evaluation. {_REMEDY}")
    return scores


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
