"""Exact positions of the relevant candidates, for a pool in memory."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from hbdist.evaluation.metrics.retrieval import NO_RANK, TOP, Ranking

TILE = 128
"""Queries that are scored at once."""


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
