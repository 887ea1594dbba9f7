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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

NO_RANK = 0
"""Stands for "none" among ranks, which start at 1."""

TOP = 100
"""K: candidates of each query that are kept, best first. The metrics do not rest on them."""

TILE = 128
"""Queries that are scored at once."""

METRICS = ("map", "ndcg@10", "recall@1", "recall@10", "precision@1", "precision@10", "mrr")
"""Names of the metrics, in the order of scores.json; a task may ask for others."""


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
    unranked_QI: np.ndarray | None = None,
    tile: int = TILE,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Score all queries against all candidates, a tile of queries at a time, and keep the ranks.

    Scores are float32 dot products; at most `tile` × C of them exist at once.

    Args:
        query_QD: float32, finite.
        candidate_CD: float32, finite; each language's candidates stand together.
        relevant_QR: int64 places in the pool; −1 where a query has fewer than R.
        slices: the candidates of each language; disjoint.
        unranked_QI: int64 places of candidates that are not ranked for a query, as nobody judged them: they stand last,
            with a score of minus infinity; −1 where a query has fewer than I. None of them is relevant.
        tile: queries scored at once; a matter of memory and speed (128 rows stay near the caches of a CPU), and of
            the last digit of a score, where the matrix product adds up in another order.
        share: (n, of how many): only the queries of `rows_of_share`, in tiles that are the same for any number.
        progress: called with (queries done, queries of the share) after every tile.
    """
    transposed_DC = torch.from_numpy(np.ascontiguousarray(candidate_CD.T))
    scores_TC = torch.empty(tile, len(candidate_CD))
    parts: list[tuple[np.ndarray, ...]] = []
    rows_Q, done = rows_of_share(len(query_QD), share, tile=tile), 0
    # A share without any query is a ranking, too: of an empty tile.
    for start in rows_Q[rows_Q % tile == 0].tolist() or [len(query_QD)]:
        query_TD = torch.from_numpy(query_QD[start : start + tile])
        score_QC = torch.mm(query_TD, transposed_DC, out=scores_TC[: len(query_TD)]).numpy()
        if unranked_QI is not None:
            row, column = np.nonzero(unranked_QI[start : start + tile] >= 0)
            score_QC[row, unranked_QI[start + row, column]] = -np.inf
        relevant = relevant_QR[start : start + tile]
        own = sum((rank_relevant(score_QC, relevant, subset=part) for part in slices), np.zeros_like(relevant))
        parts.append((rank_relevant(score_QC, relevant), own, *top_candidates(score_QC, TOP)))
        done += len(score_QC)
        if progress:
            progress(done, len(rows_Q))
    return Ranking(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def rows_of_share(queries: int, share: tuple[int, int], *, tile: int = TILE) -> np.ndarray:
    """The queries of share n of so many, ascending: every so-many-th tile from the n-th on."""
    rows_Q = np.arange(queries)
    return rows_Q[rows_Q // tile % share[1] == share[0]]


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
    before_Q = _count(score_QS > own_Q1)
    tied_Q = _count(score_QS >= own_Q1) - before_Q > 1
    # Ties are rare between real embeddings, so their order is looked up only where there are some.
    later_QS = np.arange(score_QS.shape[1]) > place_Q1[tied_Q]
    before_Q[tied_Q] += np.count_nonzero((score_QS[tied_Q] == own_Q1[tied_Q]) & later_QS, axis=1)
    return before_Q


def _count(true_QS: np.ndarray) -> np.ndarray:
    """How many are true in each row: int64 [Q]. `np.count_nonzero` takes twice the time along an axis."""
    return np.add.reduce(true_QS.view(np.uint8), axis=1, dtype=np.uint32).astype(np.int64)


def top_candidates(score_QC: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The first K = min(top, C) candidates, best first, ties as everywhere here: places int64 [Q, K], scores [Q, K]."""
    pool = score_QC.shape[1]
    top = min(top, pool)
    # Five times as fast as numpy's partition.
    place_QK = torch.from_numpy(score_QC).topk(top, sorted=False).indices.numpy()
    least_Q1 = np.take_along_axis(score_QC, place_QK, axis=1).min(axis=1, keepdims=True)
    # It chooses freely among candidates that tie with the last one it takes: those rows are sorted in full.
    for row in np.flatnonzero(np.count_nonzero(score_QC >= least_Q1, axis=1) > top):
        place_QK[row] = np.argsort(score_QC[row], kind="stable")[pool - top :]
    place_QK = np.sort(place_QK, axis=1)
    # Ascending and stable, then reversed: of equal scores the later place comes first.
    order_QK = np.take_along_axis(score_QC, place_QK, axis=1).argsort(axis=1, kind="stable")[:, ::-1]
    place_QK = np.take_along_axis(place_QK, order_QK, axis=1)
    return place_QK, np.take_along_axis(score_QC, place_QK, axis=1)


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
