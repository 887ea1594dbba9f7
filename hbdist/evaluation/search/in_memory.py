"""Exact ranking of a pool in memory: tiles of queries against the whole pool, dealt to the ranks.

Each tile's scores of the whole pool exist at once, so a single matrix product gives the relevant candidates' scores and
everything they are compared with, and each comparison is one vectorised pass over the tile. A pool that exists only in
parts is ranked by `hbdist.evaluation.search.partitioned`, which needs two products per score and looks only at the few
scores that matter; with many answers per query, as in parallel data, that takes several times as long.
"""

import numpy as np
import torch

from hbdist.distributed.process_group import ProcessGroup
from hbdist.evaluation.metrics.retrieval import NO_POSITION, TOP, Ranking, with_absent
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.utils.progress import Progress

TILE = 128
"""Number of queries that are scored at once: their scores stay near the caches of a CPU."""


def rank_in_memory(
    query_QD: np.ndarray,
    candidate_CD: np.ndarray,
    task: RetrievalTask,
    *,
    tile: int = TILE,
    ranks: ProcessGroup | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Score all queries against all candidates, and return the ranking on all ranks. A collective.

    Scores are float32 dot products of finite float32 embeddings; at most `tile` × C of them exist at once on each rank.
    Candidates that are not ranked for a query come last, with a score of minus infinity.

    Args:
        tile: number of queries scored at once; it affects memory, speed, and the last digit of a score, as the matrix
            product may add up in another order.
        ranks: the ranks that share the tiles; None: this process alone.
        progress: called with (queries done, queries of this rank) after every tile.
    """
    ranks = ranks or ProcessGroup()
    transposed_DC = torch.from_numpy(np.ascontiguousarray(candidate_CD.T))
    scores_TC = torch.empty(tile, len(candidate_CD))
    starts = range(0, len(query_QD), tile)[ranks.rank :: ranks.world]
    done, total = 0, sum(len(query_QD[start : start + tile]) for start in starts)
    slices = list(task.candidate_slices.values())
    top = min(TOP, len(candidate_CD))
    own: dict[int, tuple[np.ndarray, ...]] = {}
    for start in starts:
        rows = slice(start, start + tile)
        query_TD, relevant_TR = torch.from_numpy(query_QD[rows]), task.relevant[rows]
        score_TC = torch.mm(query_TD, transposed_DC, out=scores_TC[: len(query_TD)]).numpy()
        row, column = np.nonzero(task.unranked[rows] >= 0)
        score_TC[row, task.unranked[start + row, column]] = -np.inf
        language_TR = sum(
            (positions_of_relevant(score_TC, relevant_TR, subset=part) for part in slices), np.zeros_like(relevant_TR)
        )
        own[start] = (positions_of_relevant(score_TC, relevant_TR), language_TR, *_tops(score_TC, task, rows, top))
        done += len(score_TC)
        if progress:
            progress(done, total)
    tiles = {start: arrays for share in ranks.all_gather_object(own) for start, arrays in share.items()}
    columns = zip(*(tiles[start] for start in sorted(tiles)), strict=True)
    pool_QR, language_QR, top_NK, top_score_NK = (np.concatenate(column) for column in columns)
    pool_QR, language_QR = (with_absent(position_QR, task.relevant) for position_QR in (pool_QR, language_QR))
    return Ranking(pool_QR, language_QR, top_NK, top_score_NK)


def _tops(score_TC: np.ndarray, task: RetrievalTask, rows: slice, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best candidates of the topics of these queries, and their scores: [N, K] each, padded with −1 and −inf."""
    first, last = np.searchsorted(task.topics.query_N, [rows.start, rows.start + len(score_TC)])
    row_N, language_N = task.topics.query_N[first:last] - rows.start, task.topics.language_N[first:last]
    if "multilingual" in task.settings:
        return top_candidates(score_TC, top)
    index_NK = np.full((len(row_N), top), -1, dtype=np.int64)
    score_NK = np.full((len(row_N), top), -np.inf, dtype=np.float32)
    for language, part in enumerate(task.candidate_slices.values()):
        (own,) = np.nonzero(language_N == language)
        if len(own):
            index_K, score_K = top_candidates(np.ascontiguousarray(score_TC[row_N[own], part]), top)
            index_NK[own, : index_K.shape[1]] = index_K + part.start
            score_NK[own, : index_K.shape[1]] = score_K
    return index_NK, score_NK


def positions_of_relevant(score_QC: np.ndarray, relevant_QR: np.ndarray, *, subset: slice = slice(None)) -> np.ndarray:
    """Return the positions of the relevant candidates in the subset: int64 [Q, R]; NO_POSITION for those outside of it.

        position(r) = 1 + |{c : s_c > s_r}| + |{c > r : s_c = s_r}|,  c in the subset

    Relevant candidates are int64 indices into the whole pool, −1 for none; the subset is consecutive candidates, such as
    those of one language. Scores are finite.
    """
    start, stop, _ = subset.indices(score_QC.shape[1])
    score_QS = score_QC[:, start:stop]
    position_QR = np.full_like(relevant_QR, NO_POSITION)
    for position_Q, relevant_Q in zip(position_QR.T, relevant_QR.T, strict=True):
        inside_Q = (relevant_Q >= start) & (relevant_Q < stop)
        if inside_Q.any():
            index_Q1 = (relevant_Q - start).clip(0, stop - start - 1)[:, None]
            position_Q[inside_Q] = 1 + _count_before(score_QS, index_Q1)[inside_Q]
    return position_QR


def _count_before(score_QS: np.ndarray, index_Q1: np.ndarray) -> np.ndarray:
    """Return the number of candidates that come before the one at this index: int64 [Q]."""
    own_Q1 = np.take_along_axis(score_QS, index_Q1, axis=1)
    before_Q = _count(score_QS > own_Q1)
    tied_Q = _count(score_QS >= own_Q1) - before_Q > 1
    # Ties are rare between real embeddings, so the order of tied candidates is examined only in rows that have some.
    later_QS = np.arange(score_QS.shape[1]) > index_Q1[tied_Q]
    before_Q[tied_Q] += np.count_nonzero((score_QS[tied_Q] == own_Q1[tied_Q]) & later_QS, axis=1)
    return before_Q


def _count(true_QS: np.ndarray) -> np.ndarray:
    """Return the number of true values in each row: int64 [Q]. `np.count_nonzero` takes twice the time along an axis."""
    return np.add.reduce(true_QS.view(np.uint8), axis=1, dtype=np.uint32).astype(np.int64)


def top_candidates(score_QC: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first K = min(top, C) candidates, best first: int64 indices [Q, K] and scores [Q, K]; ties as everywhere."""
    pool = score_QC.shape[1]
    top = min(top, pool)
    # Five times as fast as NumPy's partition.
    index_QK = torch.from_numpy(score_QC).topk(top, sorted=False).indices.numpy()
    least_Q1 = np.take_along_axis(score_QC, index_QK, axis=1).min(axis=1, keepdims=True)
    # topk chooses freely among candidates that tie with the last one it takes: those rows are sorted in full.
    for row in np.flatnonzero(np.count_nonzero(score_QC >= least_Q1, axis=1) > top):
        index_QK[row] = np.argsort(score_QC[row], kind="stable")[pool - top :]
    index_QK = np.sort(index_QK, axis=1)
    # Sorted ascending and stable, then reversed: of equal scores the later index comes first.
    order_QK = np.take_along_axis(score_QC, index_QK, axis=1).argsort(axis=1, kind="stable")[:, ::-1]
    index_QK = np.take_along_axis(index_QK, order_QK, axis=1)
    return index_QK, np.take_along_axis(score_QC, index_QK, axis=1)
