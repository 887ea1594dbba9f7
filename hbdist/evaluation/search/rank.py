"""Ranking of a pool that is stored in parts, by all ranks together, with the same result on any number of them.

Each rank counts over its own parts, and the counts are added up.

    Q queries · C candidates of the pool · R relevant candidates of a query, padded · D dimensions · K candidates at the top
    H hits · N best candidates of all ranks
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hbdist.distributed.process_group import ProcessGroup
from hbdist.evaluation.metrics.retrieval import NO_POSITION, TOP, Ranking, with_absent
from hbdist.evaluation.metrics.summary import relevant_languages
from hbdist.evaluation.search import partitioned
from hbdist.evaluation.search.embeddings import Parts
from hbdist.evaluation.search.faiss_index import Approximate
from hbdist.evaluation.tasks.task import NO_CANDIDATE, RetrievalTask
from hbdist.utils.progress import Progress

MERGED_TOPICS = 1_024
"""Number of topics whose best candidates are gathered from all ranks at once."""

Hits = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]
"""Queries; then, of each hit, the number of its query among them, its index in the pool and its score; their language."""


@dataclass(frozen=True)
class PartRanker:
    """Ranker of a pool stored in parts. Its methods are collectives; all ranks get the whole ranking.

    Where the task has no multilingual setting, the pool of a query consists of the languages in which it has an answer:
    candidates in other languages need not be scored.
    """

    query_QD: np.ndarray
    parts: Parts
    """Embeddings of the candidates, shared by the ranks."""
    task: RetrievalTask
    ranks: ProcessGroup
    progress: Progress | None = None

    @cached_property
    def queries_of(self) -> dict[int, np.ndarray]:
        """Language number → the queries whose pool has candidates of that language, ascending."""
        everyone, languages = np.arange(len(self.task.queries)), range(len(self.task.languages))
        if "multilingual" in self.task.settings:
            return dict.fromkeys(languages, everyone)
        present_QR, language_QR = self.task.relevant != NO_CANDIDATE, relevant_languages(self.task)
        return {number: everyone[(present_QR & (language_QR == number)).any(axis=1)] for number in languages}

    def rank_exactly(self) -> Ranking:
        """Return the exact ranking."""
        tiles = partitioned.ScoreTiles(
            self.query_QD,
            self._segments,
            queries_of=self.queries_of,
            unranked_QI=self.task.unranked,
            device=self.ranks.device,
        )
        counter = self._counter(partitioned.score_relevant(tiles, self.task.relevant))
        total = sum(len(self.parts.span(number)) for number in self.parts.of_rank(self.ranks))
        report = self.progress or (lambda done, total: None)
        partitioned.count_positions(tiles, counter, progress=lambda done: report(done, total))
        report(total, total)
        return self._merge(counter)

    def rank_by_index(self, index: Approximate) -> Ranking:
        """Return the ranking of what an index finds; relevant candidates that it does not find come last."""
        task = self.task
        all_hits = list(self._search(index))
        score_QR = np.full(task.relevant.shape, -np.inf, dtype=np.float32)
        for rows, row_H, index_H, score_H, _ in all_hits:
            for column, relevant_Q in enumerate(task.relevant.T):
                relevant_H = relevant_Q[rows][row_H] == index_H
                score_QR[rows[row_H[relevant_H]], column] = score_H[relevant_H]
        counter = self._counter(score_QR)
        for rows, row_H, index_H, score_H, language in all_hits:
            counter.add(rows, row_H, index_H, score_H, language=language)
        counter.settle()
        ranking = self._merge(counter)
        missing_QR = (task.relevant >= 0) & np.isinf(counter.score_QR)
        sizes_L = np.array([part.stop - part.start for part in task.candidate_slices.values()])
        ranking.pool_QR[missing_QR] = len(task.candidates)
        ranking.language_QR[missing_QR] = sizes_L[relevant_languages(task)][missing_QR]
        return ranking

    def _search(self, index: Approximate) -> Iterator[Hits]:
        """Yield the hits of an index of this rank's candidates, for each language."""
        for language, rows in self.queries_of.items():
            segments = [segment for segment in self._segments() if segment.language == language]
            if segments and len(rows):
                index_C = np.concatenate([segment.start + np.arange(len(segment.vector_SD)) for segment in segments])
                candidate_CD = np.concatenate([segment.vector_SD for segment in segments])
                row_TK, score_TK = index.search(self.query_QD[rows], candidate_CD.astype(np.float32, copy=False))
                row_H, column_H = np.nonzero(row_TK >= 0)
                index_H, score_H = index_C[row_TK[row_H, column_H]], score_TK[row_H, column_H]
                ranked_H = np.ones(len(row_H), dtype=bool)
                for unranked_Q in self.task.unranked.T:
                    ranked_H &= unranked_Q[rows][row_H] != index_H
                yield rows, row_H[ranked_H], index_H[ranked_H], score_H[ranked_H], language
            if self.progress:
                self.progress(language + 1, len(self.queries_of))

    def _segments(self) -> Iterator[partitioned.Segment]:
        stops = [part.stop for part in self.task.candidate_slices.values()]
        for number in self.parts.of_rank(self.ranks):
            yield from partitioned.cut_by_language(self.parts.span(number).start, self.parts.read(number), stops)

    def _counter(self, score_QR: np.ndarray) -> partitioned.PositionCounter:
        """Return a counter, given the scores of the relevant candidates in this rank's parts."""
        score_QR = self.ranks.all_reduce_max(score_QR)
        task = self.task
        return partitioned.PositionCounter(
            task.relevant, score_QR, relevant_languages(task), top=TOP, topics=task.topics
        )

    def _merge(self, counter: partitioned.PositionCounter) -> Ranking:
        """Return the sum of what all ranks counted, and the best of their best candidates."""
        present_QR = counter.relevant_QR >= 0
        pool_QR, own_QR = (
            with_absent(np.where(present_QR, 1 + self.ranks.all_reduce_sum(count_QR), NO_POSITION), counter.relevant_QR)
            for count_QR in (counter.pool_QR, counter.own_QR)
        )
        tops: list[tuple[np.ndarray, np.ndarray]] = []
        for first in range(0, max(1, len(counter.top_NK)), MERGED_TOPICS):
            rows = slice(first, first + MERGED_TOPICS)
            shares = self.ranks.all_gather_object((counter.top_NK[rows], counter.top_score_NK[rows]))
            tops.append(merge_tops(shares))
        top_NK, top_score_NK = (np.concatenate(column) for column in zip(*tops, strict=True))
        return Ranking(pool_QR, own_QR, top_NK, top_score_NK)


def merge_tops(shares: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the best K of several tops of the same queries, each given as indices [Q, K] and scores [Q, K]."""
    index_QN, score_QN = (np.concatenate(column, axis=1) for column in zip(*shares, strict=True))
    row_N = np.repeat(np.arange(len(index_QN)), index_QN.shape[1])
    return partitioned.best_of_rows(row_N, index_QN.ravel(), score_QN.ravel(), shares[0][0].shape[1])
