"""Exact ranks of the relevant candidates, and the retrieval metrics that follow from those ranks alone.

A rank is one plus the number of candidates that come before. Counting them needs no sorted list, so mAP over the full
ranking of a large pool costs a few comparisons a score, and one tile of scores serves every setting: ranks among the
candidates of one language (monolingual, and each cross-lingual pair) and ranks in the whole pool (multilingual).

Ties: of two candidates with equal scores the later one in the pool comes first. So does trec_eval, which orders equal
scores by descending document id; the two agree exactly wherever ids ascend with the place in the pool, as zero-padded
numbers do.

    Q queries · C candidates of the pool · S candidates of a subset · R relevant candidates of a query, padded
    D dimensions · K candidates at the top
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NO_RANK = 0
"""Stands for "none" among ranks, which start at 1."""

TOP = 100
"""K: candidates of each query that are kept, best first. The metrics do not rest on them."""

METRICS = ("map", "ndcg@10", "recall@1", "recall@10", "precision@1", "precision@10", "mrr")
"""Names of the metrics, in the order of scores.json."""


@dataclass(frozen=True)
class Ranking:
    """Where the relevant candidates of every query stand. Arrays of int64 unless said otherwise."""

    pool_QR: np.ndarray
    """Ranks in the whole pool; NO_RANK where a query has no such candidate."""
    language_QR: np.ndarray
    """Ranks among the candidates of the relevant one's own language."""
    top_QK: np.ndarray
    """The first K candidates of the whole pool, best first."""
    top_score_QK: np.ndarray
    """Their scores, float32."""


def rank_in_tiles(
    query_QD: np.ndarray,
    candidate_CD: np.ndarray,
    relevant_QR: np.ndarray,
    *,
    slices: Sequence[slice],
    tile: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Score all queries against all candidates, a tile of queries at a time, and keep the ranks.

    Scores are float32 dot products; at most `tile` × C of them exist at once.

    Args:
        query_QD: float32, finite.
        candidate_CD: float32, finite; each language's candidates stand together.
        relevant_QR: int64 places in the pool; −1 where a query has fewer than R.
        slices: the candidates of each language; disjoint.
        tile: queries scored at once; a matter of memory and speed (128 rows stay near the caches of a CPU), and of
            the last digit of a score, where the matrix product adds up in another order.
        progress: called with (queries done, Q) after every tile.
    """
    transposed_DC = np.ascontiguousarray(candidate_CD.T)
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(query_QD), tile):
        score_QC = query_QD[start : start + tile] @ transposed_DC
        relevant = relevant_QR[start : start + tile]
        own = sum((rank_relevant(score_QC, relevant, subset=part) for part in slices), np.zeros_like(relevant))
        parts.append((rank_relevant(score_QC, relevant), own, *top_candidates(score_QC, TOP)))
        if progress:
            progress(min(start + tile, len(query_QD)), len(query_QD))
    return Ranking(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def rank_relevant(score_QC: np.ndarray, relevant_QR: np.ndarray, *, subset: slice = slice(None)) -> np.ndarray:
    """Ranks of the relevant candidates among those of the subset: int64 [Q, R]; NO_RANK for those outside of it.

        rank(r) = 1 + |{c : s_c > s_r}| + |{c > r : s_c = s_r}|,  c in the subset

    Args:
        score_QC: finite scores; higher is better.
        relevant_QR: int64 places in the whole pool; −1 stands for none.
        subset: neighbouring candidates, such as those of one language.
    """
    start, stop, _ = subset.indices(score_QC.shape[1])
    score_QS = score_QC[:, start:stop]
    rank_QR = np.full_like(relevant_QR, NO_RANK)
    for rank_Q, relevant_Q in zip(rank_QR.T, relevant_QR.T, strict=True):
        inside_Q = (relevant_Q >= start) & (relevant_Q < stop)
        if inside_Q.any():
            place_Q1 = (relevant_Q - start).clip(0, stop - start - 1)[:, None]
            rank_Q[inside_Q] = 1 + _count_before(score_QS, place_Q1)[inside_Q]
    return rank_QR


def _count_before(score_QS: np.ndarray, place_Q1: np.ndarray) -> np.ndarray:
    """How many candidates come before the one at this place: int64 [Q]."""
    own_Q1 = np.take_along_axis(score_QS, place_Q1, axis=1)
    before_Q = np.count_nonzero(score_QS > own_Q1, axis=1)
    tied_Q = np.count_nonzero(score_QS >= own_Q1, axis=1) - before_Q > 1
    # Ties are rare between real embeddings, so their order is looked up only where there are some.
    later_QS = np.arange(score_QS.shape[1]) > place_Q1[tied_Q]
    before_Q[tied_Q] += np.count_nonzero((score_QS[tied_Q] == own_Q1[tied_Q]) & later_QS, axis=1)
    return before_Q


def top_candidates(score_QC: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The first K = min(top, C) candidates, best first, ties as everywhere here: places int64 [Q, K], scores [Q, K]."""
    pool = score_QC.shape[1]
    top = min(top, pool)
    place_QK = np.argpartition(score_QC, pool - top, axis=1)[:, pool - top :]
    least_Q1 = np.take_along_axis(score_QC, place_QK, axis=1).min(axis=1, keepdims=True)
    # A partition chooses freely among candidates that tie with the last one it takes: those rows are sorted in full.
    for row in np.flatnonzero(np.count_nonzero(score_QC >= least_Q1, axis=1) > top):
        place_QK[row] = np.argsort(score_QC[row], kind="stable")[pool - top :]
    place_QK = np.sort(place_QK, axis=1)
    # Ascending and stable, then reversed: of equal scores the later place comes first.
    order_QK = np.take_along_axis(score_QC, place_QK, axis=1).argsort(axis=1, kind="stable")[:, ::-1]
    place_QK = np.take_along_axis(place_QK, order_QK, axis=1)
    return place_QK, np.take_along_axis(score_QC, place_QK, axis=1)


def metrics(rank_QR: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric of each query, as trec_eval defines it with binary relevance: float64 [Q].

        average precision = 1/R Σ_j j / rank_j            ranks ascending; over the full ranking, no cut-off
        nDCG@10           = Σ_{rank ≤ 10} 1/log₂(1 + rank)  ÷  Σ_{j ≤ min(R, 10)} 1/log₂(1 + j)
        recall@k          = |{rank ≤ k}| / R               in a pool of 11 translations, recall@1 is at most 1/11
        precision@k       = |{rank ≤ k}| / k
        reciprocal rank   = 1 / rank_1

    Args:
        rank_QR: exact ranks in any order; NO_RANK where there is none. Every query has at least one.
    """
    rank_QR = np.sort(np.where(rank_QR == NO_RANK, np.inf, rank_QR.astype(np.float64)), axis=1)
    relevant_Q = np.isfinite(rank_QR).sum(axis=1)
    assert relevant_Q.all(), "metrics of a query without relevant candidates are undefined"
    place_R = np.arange(1, rank_QR.shape[1] + 1)
    gain_QR = np.where(rank_QR <= 10, 1 / np.log2(1 + rank_QR), 0)
    ideal_R = np.cumsum(np.where(place_R <= 10, 1 / np.log2(1 + place_R), 0))
    found = {k: (rank_QR <= k).sum(axis=1) for k in (1, 10)}
    values = (
        (place_R / rank_QR).sum(axis=1) / relevant_Q,
        gain_QR.sum(axis=1) / ideal_R[relevant_Q - 1],
        found[1] / relevant_Q,
        found[10] / relevant_Q,
        found[1] / 1,
        found[10] / 10,
        1 / rank_QR[:, 0],
    )
    return dict(zip(METRICS, values, strict=True))


def mean_metrics(rank_QR: np.ndarray) -> dict[str, float]:
    """Each metric's mean over queries; those that have no relevant candidate at all do not count.

    With none that has one, the result is empty.
    """
    rank_QR = rank_QR[(rank_QR != NO_RANK).any(axis=1)]
    return {name: float(value_Q.mean()) for name, value_Q in metrics(rank_QR).items()} if len(rank_QR) else {}


def macro_mean(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The unweighted mean of each number over settings (languages, or language pairs); empty if there is none."""
    parts = list(parts)
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]} if parts else {}
