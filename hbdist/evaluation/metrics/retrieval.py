"""Retrieval metrics, which follow from the exact positions of the relevant candidates alone.

A position is one plus the number of candidates that come before. Counting them needs no sorted list, so mAP over the full
ranking of a large pool costs a few comparisons per score, and one tile of scores serves every setting: positions among the
candidates of one language (monolingual, and each cross-lingual pair) and positions in the whole pool (multilingual).

Ties: of two candidates with equal scores, the later one in the pool comes first. trec_eval orders equal scores by
descending document id, so the two agree exactly wherever ids ascend with the index in the pool, as zero-padded numbers do.

    Q queries · T queries of a tile · C candidates of the pool · S candidates of a subset
    R relevant candidates of a query, padded
    I candidates that are not ranked for a query, padded · D dimensions · N topics · K candidates at the top
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hbdist.evaluation.scores import METRICS
from hbdist.evaluation.tasks.task import ABSENT

NO_POSITION = 0
"""Marker for "none" in arrays of positions, which start at 1."""
NEVER = np.iinfo(np.int64).max
"""Position of a relevant document that is not among the candidates: beyond any depth, and 1/NEVER counts as 0."""

TOP = 100
"""Number K of candidates that are kept for each topic, best first. The metrics do not depend on them."""


@dataclass(frozen=True)
class Ranking:
    """Positions of the relevant candidates of every query. Arrays of int64 unless said otherwise."""

    pool_QR: np.ndarray
    """Positions in the whole pool; NO_POSITION where a query has no such candidate, NEVER where that is absent."""
    language_QR: np.ndarray
    """Positions among the candidates of the relevant one's own language."""
    top_NK: np.ndarray
    """Indices of the first K candidates of each topic, best first; −1 where there are fewer. With a multilingual setting
    the topics are the queries, and the candidates those of the whole pool (see `RetrievalTask.topics`)."""
    top_score_NK: np.ndarray
    """Their scores, float32; minus infinity where there is no candidate, or it is not ranked."""


def metrics(
    position_QR: np.ndarray, names: Sequence[str] = METRICS, *, grade_QR: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return each metric of each query, as trec_eval defines it: float64 [Q].

        map           1/R Σ_j j / p_j                    p: positions, ascending; over the full ranking
        map@k         the same, Σ over p_j ≤ k only      trec_eval's map_cut; still divided by R
        ndcg@k        Σ_{p ≤ k} g/log₂(1 + p)  ÷  Σ_{j ≤ k} g_j/log₂(1 + j)      g_j: gains, descending
        recall@k      |{p ≤ k}| / R                      in a pool of 11 translations, recall@1 is at most 1/11
        precision@k   |{p ≤ k}| / k
        mrr, mrr@k    1 / p_1; 0 where p_1 > k

    Args:
        position_QR: exact positions in any order; NO_POSITION where there is none, NEVER for a relevant document that is not
            among the candidates. Every query has at least one that is not NO_POSITION.
        names: as above, with any k from 1; only map and mrr may be without.
        grade_QR: the gain of each relevant candidate, 1 or more; by default all are 1.
    """
    grade_QR = np.ones_like(position_QR) if grade_QR is None else grade_QR
    grade_QR = np.where(position_QR == NO_POSITION, 0, grade_QR)
    assert grade_QR.any(axis=1).all(), "metrics of a query without relevant candidates are undefined"
    found_QR = (position_QR != NO_POSITION) & (position_QR != NEVER)
    position_QR = np.where(found_QR, position_QR.astype(np.float64), np.inf)
    order_QR = position_QR.argsort(axis=1, kind="stable")
    position_QR, grade_QR = (np.take_along_axis(values_QR, order_QR, axis=1) for values_QR in (position_QR, grade_QR))
    return {name: _metric(position_QR, grade_QR, *name.partition("@")[::2]) for name in names}


def _metric(position_QR: np.ndarray, grade_QR: np.ndarray, kind: str, depth: str) -> np.ndarray:
    """Return one metric of each query. Positions ascend; infinity means none, or, with a gain, that it is never found."""
    k = int(depth) if depth else np.inf
    assert depth or kind in ("map", "mrr"), f"{kind} needs a depth, as in {kind}@10"
    relevant_Q = (grade_QR > 0).sum(axis=1)
    number_R = np.arange(1, position_QR.shape[1] + 1)
    within_QR = np.isfinite(position_QR) & (position_QR <= k)
    match kind:
        case "map":
            return (within_QR * number_R / position_QR).sum(axis=1) / relevant_Q
        case "ndcg":
            ideal_QR = np.sort(grade_QR, axis=1)[:, ::-1] * (number_R <= k) / np.log2(1 + number_R)
            return (within_QR * grade_QR / np.log2(1 + position_QR)).sum(axis=1) / ideal_QR.sum(axis=1)
        case "recall":
            return within_QR.sum(axis=1) / relevant_Q
        case "precision":
            return within_QR.sum(axis=1) / k
        case "mrr":
            return within_QR[:, 0] / position_QR[:, 0]
    raise AssertionError(f"no metric is called {kind}")


def with_absent(position_QR: np.ndarray, relevant_QR: np.ndarray) -> np.ndarray:
    """Return the positions of relevant candidates, with NEVER for those that are absent from the pool: int64 [Q, R]."""
    return np.where(relevant_QR == ABSENT, NEVER, position_QR)


def mean_metrics(
    position_QR: np.ndarray, names: Sequence[str] = METRICS, *, grade_QR: np.ndarray | None = None
) -> dict[str, float]:
    """Return each metric's mean over the queries that have a relevant candidate; empty if none has one."""
    known_Q = (position_QR != NO_POSITION).any(axis=1)
    if not known_Q.any():
        return {}
    values = metrics(position_QR[known_Q], names, grade_QR=None if grade_QR is None else grade_QR[known_Q])
    return {name: float(value_Q.mean()) for name, value_Q in values.items()}


def macro_mean(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the unweighted mean of each number over settings (languages, or language pairs); empty if there is none."""
    parts = list(parts)
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]} if parts else {}
