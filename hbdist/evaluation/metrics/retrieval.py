"""Exact ranks of the relevant candidates, and the retrieval metrics that follow from those ranks alone.

A rank is one plus the number of candidates that come before. Counting them needs no sorted list, so mAP over the full
ranking of a large pool costs a few comparisons a score, and one tile of scores serves every setting: ranks among the
candidates of one language (monolingual, and each cross-lingual pair) and ranks in the whole pool (multilingual).

Ties: of two candidates with equal scores the later one in the pool comes first. So does trec_eval, which orders equal
scores by descending document id; the two agree exactly wherever ids ascend with the place in the pool, as zero-padded
numbers do.

    Q queries · T queries of a tile · C candidates of the pool · S candidates of a subset
    R relevant candidates of a query, padded
    I candidates that are not ranked for a query, padded · D dimensions · K candidates at the top
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hbdist.evaluation.scores import METRICS

NO_RANK = 0
"""Stands for "none" among ranks, which start at 1."""


def metrics(
    rank_QR: np.ndarray, names: Sequence[str] = METRICS, *, grade_QR: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Each metric of each query, as trec_eval defines it: float64 [Q].

        map           1/R Σ_j j / rank_j                   ranks ascending; over the full ranking
        map@k         the same, Σ over rank_j ≤ k only     trec_eval's map_cut; still divided by R
        ndcg@k        Σ_{rank ≤ k} g/log₂(1 + rank)  ÷  Σ_{j ≤ k} g_j/log₂(1 + j)      g_j: gains, descending
        recall@k      |{rank ≤ k}| / R                     in a pool of 11 translations, recall@1 is at most 1/11
        precision@k   |{rank ≤ k}| / k
        mrr, mrr@k    1 / rank_1; 0 where rank_1 > k

    Args:
        rank_QR: exact ranks in any order; NO_RANK where there is none. Every query has at least one.
        names: as above; any k from 1, which only map and mrr may lack.
        grade_QR: the gain of each, 1 or more where there is a rank; without it all are 1.
    """
    grade_QR = np.ones_like(rank_QR) if grade_QR is None else grade_QR
    grade_QR = np.where(rank_QR == NO_RANK, 0, grade_QR)
    assert grade_QR.any(axis=1).all(), "metrics of a query without relevant candidates are undefined"
    rank_QR = np.where(rank_QR == NO_RANK, np.inf, rank_QR.astype(np.float64))
    order_QR = rank_QR.argsort(axis=1, kind="stable")
    rank_QR, grade_QR = (np.take_along_axis(values_QR, order_QR, axis=1) for values_QR in (rank_QR, grade_QR))
    return {name: _metric(rank_QR, grade_QR, *name.partition("@")[::2]) for name in names}


def _metric(rank_QR: np.ndarray, grade_QR: np.ndarray, kind: str, depth: str) -> np.ndarray:
    """One metric of each query. Ranks ascend; infinite stands for none."""
    k = int(depth) if depth else np.inf
    assert depth or kind in ("map", "mrr"), f"{kind} needs a depth, as in {kind}@10"
    relevant_Q = np.isfinite(rank_QR).sum(axis=1)
    place_R = np.arange(1, rank_QR.shape[1] + 1)
    within_QR = rank_QR <= k
    match kind:
        case "map":
            return (within_QR * place_R / rank_QR).sum(axis=1) / relevant_Q
        case "ndcg":
            ideal_QR = np.sort(grade_QR, axis=1)[:, ::-1] * (place_R <= k) / np.log2(1 + place_R)
            return (within_QR * grade_QR / np.log2(1 + rank_QR)).sum(axis=1) / ideal_QR.sum(axis=1)
        case "recall":
            return within_QR.sum(axis=1) / relevant_Q
        case "precision":
            return within_QR.sum(axis=1) / k
        case "mrr":
            return within_QR[:, 0] / rank_QR[:, 0]
    raise AssertionError(f"no metric is called {kind}")


def mean_metrics(
    rank_QR: np.ndarray, names: Sequence[str] = METRICS, *, grade_QR: np.ndarray | None = None
) -> dict[str, float]:
    """Each metric's mean over queries; those that have no relevant candidate at all do not count.

    With none that has one, the result is empty.
    """
    known_Q = (rank_QR != NO_RANK).any(axis=1)
    if not known_Q.any():
        return {}
    values = metrics(rank_QR[known_Q], names, grade_QR=None if grade_QR is None else grade_QR[known_Q])
    return {name: float(value_Q.mean()) for name, value_Q in values.items()}


def macro_mean(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The unweighted mean of each number over settings (languages, or language pairs); empty if there is none."""
    parts = list(parts)
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]} if parts else {}


@dataclass(frozen=True)
class Ranking:
    """Where the relevant candidates of every query stand. Arrays of int64 unless said otherwise."""

    pool_QR: np.ndarray
    """ProcessGroup in the whole pool; NO_RANK where a query has no such candidate."""
    language_QR: np.ndarray
    """Ranks among the candidates of the relevant one's own language."""
    top_QK: np.ndarray
    """The first K candidates of the whole pool, best first."""
    top_score_QK: np.ndarray
    """Their scores, float32."""


TOP = 100
"""K: candidates of each query that are kept, best first. The metrics do not rest on them."""
