"""Positions of every query's answers, kept on disk: every score can be computed from them again.

So two evaluations of the same task can be compared query by query, long after their models are gone.

    Q queries · R relevant candidates of a query, padded · V values (one per query and setting)
"""

import io
import re
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from hbdist.errors import DataError
from hbdist.evaluation.metrics.language_bias import rank_distance
from hbdist.evaluation.metrics.retrieval import NO_POSITION, metrics
from hbdist.utils.files import write_atomically

FILE = "ranks.npz"
METRIC = re.compile(r"(map|mrr)(@[1-9]\d{0,8})?|(ndcg|recall|precision)@[1-9]\d{0,8}")
"""Metrics that follow from the positions of the relevant documents alone."""
LANGUAGES = 1 << 20
"""More languages than any task has: pairs of them are numbered with 64 bits."""


def file_name(removal: str = "") -> str:
    """Return the name of the file with the positions; `removal` is the name of a language removal, if they are after one."""
    return f"ranks-{removal}.npz" if removal else FILE


@dataclass(frozen=True)
class PerQuery:
    """Positions of the relevant candidates of each query, and its language and cluster. Arrays of int64 unless said
    otherwise. The field names are the keys of the file."""

    language_Q: np.ndarray
    cluster_Q: np.ndarray
    """Number of the unit by which questions are drawn, such as the paragraph, shared by translations: queries of one
    cluster are not independent of one another."""
    pool_QR: np.ndarray
    """Positions in the whole pool; NO_POSITION where a query has no such candidate, or the task no such setting."""
    own_QR: np.ndarray
    """Positions among the candidates of the relevant one's own language; NO_POSITION as in `pool_QR`."""
    relevant_language_QR: np.ndarray
    """Number of that language."""
    metric: str = "map"
    """Main metric of the task, among those that follow from positions."""


@dataclass(frozen=True)
class Values:
    """Values of one metric in one setting."""

    value_V: np.ndarray
    """Metric values, float64, finite."""
    part_V: np.ndarray
    """Number of the language, or the pair of languages, over which macro means are taken."""
    cluster_V: np.ndarray
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """Smallest and largest possible value of the metric."""


def values_of(queries: PerQuery, setting: str, metric: str = "map") -> Values:
    """Return the values whose macro mean over parts is a score of `summary.summarise`; none if the task has no such setting.

    The metric is one of `retrieval.metrics`, or in the multilingual setting also "rank_distance".
    """
    if setting == "multilingual":
        if metric == "rank_distance":
            distance_Q = rank_distance(queries.pool_QR)
            known_Q = ~np.isnan(distance_Q)
            known = (distance_Q[known_Q], queries.language_Q[known_Q], queries.cluster_Q[known_Q])
            return Values(*known, bounds=(1, np.inf))
        return _values(queries, queries.pool_QR, metric, queries.language_Q)
    languages = np.unique(queries.relevant_language_QR[queries.own_QR != NO_POSITION]).tolist()
    parts = [(np.empty(0), *np.empty((2, 0), dtype=np.int64))]
    for language in languages:
        selected_Q = (queries.language_Q == language) == (setting == "monolingual")
        selected_QR = selected_Q[:, None] & (queries.relevant_language_QR == language)
        position_QR = np.where(selected_QR, queries.own_QR, NO_POSITION)
        one = _values(queries, position_QR, metric, queries.language_Q * (max(languages) + 1) + language)
        parts.append((one.value_V, one.part_V, one.cluster_V))
    value_V, part_V, cluster_V = map(np.concatenate, zip(*parts, strict=True))
    return Values(value_V, part_V, cluster_V, bounds=(0, 1))


def _values(queries: PerQuery, position_QR: np.ndarray, metric: str, part_Q: np.ndarray) -> Values:
    """Return the metric of the queries that have a relevant candidate."""
    known_Q = (position_QR != NO_POSITION).any(axis=1)
    value_V = metrics(position_QR[known_Q], [metric])[metric]
    return Values(value_V, part_Q[known_Q], queries.cluster_Q[known_Q], bounds=(0, 1))


def write_per_query(out: Path, queries: PerQuery, task_fingerprint: str, removal: str = "") -> Path:
    """Write `out`/ranks.npz atomically; equal positions give equal bytes."""
    buffer = io.BytesIO()
    arrays = {field.name: np.asarray(getattr(queries, field.name)) for field in fields(PerQuery)}
    np.savez_compressed(buffer, allow_pickle=False, task_fingerprint=np.array(task_fingerprint), **arrays)
    path = out / file_name(removal)
    write_atomically(path, buffer.getvalue())
    return path


def read_per_query(out: Path, task_fingerprint: str, removal: str = "") -> PerQuery:
    """Return the positions of an evaluation of this task.

    Args:
        out: folder of the evaluation.
        task_fingerprint: fingerprint of the task.
        removal: name of a language removal, for the positions after it; by default nothing is removed.

    Raises:
        DataError: the file is missing, damaged, or of another task.
    """
    path = out / file_name(removal)
    advice = "Evaluate that model again, with the same task and cuts, into a folder of its own."
    try:
        with np.load(path, allow_pickle=False) as file:
            found = str(file["task_fingerprint"])
            arrays = {field.name: file[field.name] for field in fields(PerQuery) if field.name != "metric"}
            metric = str(file["metric"]) if "metric" in file else PerQuery.metric  # an earlier version wrote none
            queries = PerQuery(**arrays, metric=metric)
        _check_arrays(queries)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{out} has no {path.name}, without which two evaluations cannot be compared. {advice}"
        ) from None
    except Exception as error:  # for a damaged file, NumPy lets through whatever zipfile and Python's tokenizer raise
        raise DataError(f"{path} cannot be read: {error}. Delete the folder. {advice}") from None
    if found != task_fingerprint:
        raise DataError(f"{path} is of another task, or of the same task with another cut. {advice}")
    return queries


def _check_arrays(queries: PerQuery) -> None:
    """Check that arrays which were read from a file fit one another, and can be positions and numbers.

    Raises:
        ValueError: they cannot.
    """
    arrays = {field.name: getattr(queries, field.name) for field in fields(PerQuery) if field.name != "metric"}
    rows, columns = queries.language_Q.shape[:1] or (0,), queries.pool_QR.shape[1:] or (0,)
    for name, array in arrays.items():
        shape = rows if name.endswith("_Q") else rows + columns
        if array.dtype != np.int64 or array.shape != shape:
            raise ValueError(f"{name} has the shape {array.shape} of {array.dtype}; expected {shape} of int64")
    for name in ("language_Q", "relevant_language_QR"):
        if (array := arrays[name]).size and not -1 <= array.min() <= array.max() < LANGUAGES:
            raise ValueError(f"{name} has the numbers {array.min()} to {array.max()}; expected those of languages")
    if any((arrays[name] < NO_POSITION).any() for name in ("pool_QR", "own_QR")):
        raise ValueError("a position is below 0")
    if not METRIC.fullmatch(queries.metric):
        raise ValueError(f"the metric is {queries.metric!r}; expected one that follows from positions")


def check_same_clusters(first: Path, queries: PerQuery, other: Path, others: PerQuery) -> None:
    """Check that two evaluations of a task group its questions in the same way.

    Raises:
        DataError: they do not; one is of an earlier version.
    """
    if not np.array_equal(queries.cluster_Q, others.cluster_Q):
        raise DataError(
            f"{first} and {other} group the questions of their task differently: one is of an earlier version of hbdist."
            " Repeat both commands `hbdist evaluate` with the same --out; nothing is encoded again."
        )
