"""The ranking of a task's candidates by all ranks together, the same on any number of them.

A pool that every rank holds whole is ranked by dealing tiles of queries. A larger one lies in parts on disk: each rank counts
over its own parts, and what the ranks counted is added up.

    Q queries · C candidates of the pool · R relevant candidates of a query, padded · D dimensions · K candidates at the top
"""

from collections.abc import Callable, Iterator
from dataclasses import fields

import numpy as np
import torch

from hbdist.distributed.process_group import ProcessGroup
from hbdist.evaluation.metrics.retrieval import NO_RANK, TOP, Ranking
from hbdist.evaluation.metrics.summary import relevant_languages
from hbdist.evaluation.search.embeddings import Parts
from hbdist.evaluation.search.faiss_index import Approximate
from hbdist.evaluation.search.in_memory import rank_in_tiles, rows_of_share
from hbdist.evaluation.search.partitioned import (
    Products,
    Segment,
    Tally,
    best_first,
    count,
    cut_by_language,
    relevant_scores,
)
from hbdist.evaluation.tasks.task import RetrievalTask

Told = Callable[[int, int], None]
MERGED_QUERIES = 1_024
"""Queries whose best candidates travel at once."""


def rank_whole(
    query_QD: np.ndarray,
    candidate_CD: np.ndarray,
    task: RetrievalTask,
    *,
    ranks: ProcessGroup,
    progress: Told | None = None,
) -> Ranking:
    """Rank a pool whose vectors all ranks hold; all ranks get the whole ranking. Arguments as of `rank_in_tiles`."""
    own = rank_in_tiles(
        query_QD,
        candidate_CD,
        task.relevant,
        slices=list(task.candidate_slices.values()),
        unranked_QI=task.unranked,
        share=(ranks.rank, ranks.world),
        progress=progress,
    )
    shares = ranks.all_gather_object(own)
    rows_Q = np.concatenate([rows_of_share(len(query_QD), (rank, ranks.world)) for rank in range(ranks.world)])
    order_Q = rows_Q.argsort()
    return Ranking(
        *(np.concatenate([getattr(share, one.name) for share in shares])[order_Q] for one in fields(Ranking))
    )


def rank_in_parts(
    query_QD: np.ndarray,
    parts: Parts,
    task: RetrievalTask,
    *,
    ranks: ProcessGroup,
    index: Approximate | None = None,
    progress: Told | None = None,
) -> Ranking:
    """Rank a pool that lies in parts; all ranks get the whole ranking.

    Where the task has no multilingual setting, a query's pool are the candidates of the languages in which it has an
    answer: the others need not be scored.

    Args:
        index: search by it, approximately; unset: exactly.
    """
    asked = asked_languages(task)
    if index is None:
        return _exactly(query_QD, parts, task, asked, ranks=ranks, progress=progress)
    return _approximately(query_QD, parts, task, asked, index, ranks=ranks, progress=progress)


def asked_languages(task: RetrievalTask) -> dict[int, np.ndarray]:
    """Language number → the queries whose pool holds its candidates, ascending."""
    everyone = np.arange(len(task.queries))
    if "multilingual" in task.settings:
        return dict.fromkeys(range(len(task.languages)), everyone)
    present_QR, language_QR = task.relevant >= 0, relevant_languages(task)
    return {
        number: everyone[(present_QR & (language_QR == number)).any(axis=1)] for number in range(len(task.languages))
    }


def _exactly(
    query_QD: np.ndarray,
    parts: Parts,
    task: RetrievalTask,
    asked: dict[int, np.ndarray],
    *,
    ranks: ProcessGroup,
    progress: Told | None,
) -> Ranking:
    own = parts.own(ranks.rank, ranks.world)
    products = Products(
        query_QD,
        lambda: _segments(parts, own, task),
        asked=asked,
        unranked_QI=task.unranked,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    score_QR = ranks.all_reduce_max(relevant_scores(products, task.relevant))
    tally = Tally(task.relevant, score_QR, relevant_languages(task), top=TOP)
    total = sum(len(parts.span(number)) for number in own)
    count(products, tally, progress=(lambda done: progress(done, total)) if progress else None)
    if progress:
        progress(total, total)
    return _merged(tally, ranks)


def _approximately(
    query_QD: np.ndarray,
    parts: Parts,
    task: RetrievalTask,
    asked: dict[int, np.ndarray],
    index: Approximate,
    *,
    ranks: ProcessGroup,
    progress: Told | None,
) -> Ranking:
    found = list(_lists(query_QD, parts, task, asked, index, ranks=ranks, progress=progress))
    score_QR = np.full(task.relevant.shape, -np.inf, dtype=np.float32)
    for rows, row_H, place_H, score_H, _ in found:
        for column, relevant_Q in enumerate(task.relevant.T):
            hit_H = relevant_Q[rows][row_H] == place_H
            score_QR[rows[row_H[hit_H]], column] = score_H[hit_H]
    score_QR = ranks.all_reduce_max(score_QR)
    tally = Tally(task.relevant, score_QR, relevant_languages(task), top=TOP)
    for rows, row_H, place_H, score_H, language in found:
        tally.add(rows, row_H, place_H, score_H, language=language)
    tally.settle()
    ranking = _merged(tally, ranks)
    # What was not found stands last.
    missing_QR = (task.relevant >= 0) & np.isinf(score_QR)
    sizes_L = np.array([part.stop - part.start for part in task.candidate_slices.values()])
    ranking.pool_QR[missing_QR] = len(task.candidates)
    ranking.language_QR[missing_QR] = sizes_L[relevant_languages(task)][missing_QR]
    return ranking


def _lists(
    query_QD: np.ndarray,
    parts: Parts,
    task: RetrievalTask,
    asked: dict[int, np.ndarray],
    index: Approximate,
    *,
    ranks: ProcessGroup,
    progress: Told | None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]]:
    """What an index of this rank's candidates of each language finds: queries, and of each hit which of them, place, score."""
    own = parts.own(ranks.rank, ranks.world)
    for language, rows in asked.items():
        segments = [one for one in _segments(parts, own, task) if one.language == language]
        if segments and len(rows):
            place_C = np.concatenate([np.arange(one.start, one.stop) for one in segments])
            candidate_CD = np.concatenate([one.vector_SD for one in segments]).astype(np.float32, copy=False)
            place_TK, score_TK = index.search(query_QD[rows], candidate_CD)
            row_H, column_H = np.nonzero(place_TK >= 0)
            place_H, score_H = place_C[place_TK[row_H, column_H]], score_TK[row_H, column_H]
            ranked_H = np.ones(len(row_H), dtype=bool)
            for unranked_Q in task.unranked.T:
                ranked_H &= unranked_Q[rows][row_H] != place_H
            yield rows, row_H[ranked_H], place_H[ranked_H], score_H[ranked_H], language
        if progress:
            progress(language + 1, len(asked))


def _segments(parts: Parts, own: range, task: RetrievalTask) -> Iterator[Segment]:
    stops = [part.stop for part in task.candidate_slices.values()]
    for number in own:
        yield from cut_by_language(parts.span(number).start, parts.read(number), stops)


def _merged(tally: Tally, ranks: ProcessGroup) -> Ranking:
    """What all ranks counted, added up, and the best of their best."""
    present_QR = tally.relevant_QR >= 0
    pool_QR, own_QR = (
        np.where(present_QR, 1 + ranks.all_reduce_sum(count_QR), NO_RANK) for count_QR in (tally.pool_QR, tally.own_QR)
    )
    tops: list[tuple[np.ndarray, np.ndarray]] = []
    top = tally.top_QK.shape[1]
    for first in range(0, len(pool_QR), MERGED_QUERIES):
        some = slice(first, first + MERGED_QUERIES)
        shares = ranks.all_gather_object((tally.top_QK[some], tally.top_score_QK[some]))
        place_QN = np.concatenate([place_QK for place_QK, _ in shares], axis=1)
        score_QN = np.concatenate([score_QK for _, score_QK in shares], axis=1)
        row_N = np.repeat(np.arange(len(place_QN)), place_QN.shape[1])
        best_N = best_first(row_N, place_QN.ravel(), score_QN.ravel(), top)
        tops.append((place_QN.ravel()[best_N].reshape(-1, top), score_QN.ravel()[best_N].reshape(-1, top)))
    top_QK, top_score_QK = (np.concatenate(column) for column in zip(*tops, strict=True))
    return Ranking(pool_QR, own_QR, top_QK, top_score_QK)
