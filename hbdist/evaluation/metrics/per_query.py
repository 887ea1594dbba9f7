"""What is kept of every query of an evaluation: the exact ranks of its answers, from which every score follows again.

Two evaluations of the same task can so be compared query by query, long after their models are gone.

    Q queries · R relevant candidates of a query, padded · V values (one a query and setting)
"""

import io
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from hbdist.errors import DataError
from hbdist.evaluation.metrics.language_bias import rank_distance
from hbdist.evaluation.metrics.retrieval import NO_RANK, metrics
from hbdist.utils.files import write_atomically

FILE = "ranks.npz"


@dataclass(frozen=True)
class PerQuery:
    """The ranks of the relevant candidates, and what each query is. Arrays of int64 unless said otherwise."""

    language_Q: np.ndarray
    """The number of the query's language."""
    cluster_Q: np.ndarray
    """The number of what its questions are drawn by, such as the paragraph, shared by translations: queries of one
    cluster are not independent of one another."""
    pool_QR: np.ndarray
    """ProcessGroup in the whole pool; NO_RANK where a query has no such candidate, or the task no such setting."""
    own_QR: np.ndarray
    """Ranks among the candidates of the relevant one's own language; NO_RANK alike."""
    relevant_language_QR: np.ndarray
    """The number of that language."""
    metric: str = "map"
    """The task's main metric, of those that follow from ranks."""


@dataclass(frozen=True)
class Values:
    """One metric's values in one setting."""

    value_V: np.ndarray
    """float64, finite."""
    part_V: np.ndarray
    """The language, or the pair of languages, over which macro means are taken: a number."""
    cluster_V: np.ndarray
    """As in `PerQuery`."""


def values_of(kept: PerQuery, setting: str, metric: str = "map") -> Values:
    """The values whose macro mean over parts is a score of `benchmark.summarise`.

    Args:
        kept: of one evaluation.
        setting: one of SETTINGS; a setting that the task does not have gives no values.
        metric: as in `ranking.metrics`; in the multilingual setting also "rank_distance".
    """
    if setting == "multilingual":
        if metric == "rank_distance":
            distance_Q = rank_distance(kept.pool_QR)
            known_Q = ~np.isnan(distance_Q)
            return Values(distance_Q[known_Q], kept.language_Q[known_Q], kept.cluster_Q[known_Q])
        return _values(kept, kept.pool_QR, metric, kept.language_Q)
    languages = np.unique(kept.relevant_language_QR[kept.own_QR != NO_RANK]).tolist()
    parts = [Values(np.empty(0), *np.empty((2, 0), dtype=np.int64))]
    for language in languages:
        asked_Q = (kept.language_Q == language) == (setting == "monolingual")
        rank_QR = np.where(asked_Q[:, None] & (kept.relevant_language_QR == language), kept.own_QR, NO_RANK)
        parts.append(_values(kept, rank_QR, metric, kept.language_Q * (max(languages) + 1) + language))
    return Values(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Values)))


def _values(kept: PerQuery, rank_QR: np.ndarray, metric: str, part_Q: np.ndarray) -> Values:
    """The metric of the queries that have a relevant candidate."""
    known_Q = (rank_QR != NO_RANK).any(axis=1)
    return Values(metrics(rank_QR[known_Q], [metric])[metric], part_Q[known_Q], kept.cluster_Q[known_Q])


def write_per_query(out: Path, kept: PerQuery, task_fingerprint: str) -> Path:
    """Write `out`/ranks.npz, whole or not at all; equal ranks give equal bytes."""
    buffer = io.BytesIO()
    arrays = {field.name: np.asarray(getattr(kept, field.name)) for field in fields(PerQuery)}
    np.savez_compressed(buffer, allow_pickle=False, task_fingerprint=np.array(task_fingerprint), **arrays)
    write_atomically(out / FILE, buffer.getvalue())
    return out / FILE


def read_per_query(out: Path, task_fingerprint: str) -> PerQuery:
    """The ranks of an evaluation of this task.

    Raises:
        DataError: there are none, they cannot be read, or they are of another task.
    """
    path = out / FILE
    again = "Evaluate that model again, with the same task and cuts, into a folder of its own."
    try:
        with np.load(path, allow_pickle=False) as file:
            found = str(file["task_fingerprint"])
            arrays = {field.name: file[field.name] for field in fields(PerQuery) if field.name != "metric"}
            metric = str(file["metric"]) if "metric" in file else PerQuery.metric  # an earlier version wrote none
            kept = PerQuery(**arrays, metric=metric)
    except FileNotFoundError:
        raise DataError(f"{out} holds no {FILE}, without which two evaluations cannot be compared. {again}") from None
    except (OSError, ValueError, KeyError, BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}. Delete the folder. {again}") from None
    if found != task_fingerprint:
        raise DataError(f"{path} is of another task, or of the same one cut otherwise. {again}")
    return kept
