"""Exact positions and the best candidates of a pool that is read in parts, by one process or by many.

A position is one plus the number of candidates that come before (see `hbdist.evaluation.metrics.retrieval`), so the parts
of the pool are counted one by one and the counts are added up. A candidate's score must be the same to the last bit when
it is counted and when others are compared with it. So every product is computed from the same tile each time, and where
tiles begin follows from the task alone.

    Q queries · R relevant candidates of a query, padded · D dimensions · K candidates at the top · T queries of a tile
    S consecutive candidates in one language · H hits, the scores that are high enough to matter
    N topics (queries with the language of the candidates that are ranked), or entries · M some topics
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hbdist.evaluation.tasks.task import WHOLE_POOL, Topics

CPU_TILE, GPU_TILE = (256, 4_096), (2_048, 32_768)
"""Numbers of queries and of candidates per tile: on a CPU its scores stay near the caches."""

LOWEST = float(np.finfo(np.float32).min)
"""Finite score below all others; candidates that are not ranked score minus infinity."""


@dataclass(frozen=True)
class Segment:
    """Neighbouring candidates of one language."""

    start: int
    """Index of the first one in the pool."""
    language: int
    """Number of their language."""
    vector_SD: np.ndarray
    """Embeddings of any floating type, perhaps a memory map."""

    def has(self, index: np.ndarray) -> np.ndarray:
        """Return which of these indices into the pool are in the segment."""
        return (index >= self.start) & (index < self.start + len(self.vector_SD))


class PositionCounter:
    """Counter of what comes before each relevant candidate, which also collects the best candidates of each query.

    Args:
        relevant_QR: int64 indices into the pool; −1 where a query has fewer than R. R may be 0.
        score_QR: float32 scores of the relevant candidates; ignored where there is none.
        language_QR: number of their language.
        top: number K of candidates that are kept for each topic.
        topics: topics of the task; by default each query is one, with the whole pool.
    """

    def __init__(
        self,
        relevant_QR: np.ndarray,
        score_QR: np.ndarray,
        language_QR: np.ndarray,
        *,
        top: int,
        topics: Topics | None = None,
    ) -> None:
        topics = topics or Topics(np.arange(len(relevant_QR)), np.full(len(relevant_QR), WHOLE_POOL))
        self._topic_of = {
            int(language): _inverse(topics.query_N, topics.language_N == language, len(relevant_QR))
            for language in np.unique(topics.language_N)
        }
        self._no_topic_Q = np.full(len(relevant_QR), -1)
        self.relevant_QR, self.language_QR = relevant_QR, language_QR
        # Where there is no relevant candidate, no score is above infinity, so nothing is counted.
        self.score_QR = np.where(relevant_QR >= 0, score_QR, np.inf).astype(np.float32)
        self.pool_QR = np.zeros(relevant_QR.shape, dtype=np.int64)
        """Number of candidates that come before each relevant one."""
        self.own_QR = np.zeros(relevant_QR.shape, dtype=np.int64)
        """Number of those that are of its own language."""
        self.top_NK = np.full((len(topics.query_N), top), -1, dtype=np.int64)
        """Indices of the best candidates, best first, once settled; −1 where there are fewer than K."""
        self.top_score_NK = np.full((len(topics.query_N), top), -np.inf, dtype=np.float32)
        """Scores of the best candidates."""
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def topics_of(self, rows: np.ndarray, language: int) -> np.ndarray:
        """Return the topic in which candidates of this language are ranked for each query; −1 for none: int64 [T]."""
        return self._topic_of.get(WHOLE_POOL, self._topic_of.get(language, self._no_topic_Q))[rows]

    def lowest_kept(self, rows: np.ndarray, language: int) -> np.ndarray:
        """Return the score of the K-th best candidate so far; infinity if none are kept: float32 [T]."""
        topic_T = self.topics_of(rows, language)
        score_T = np.full(len(rows), np.inf, dtype=np.float32)
        score_T[topic_T >= 0] = self.top_score_NK[topic_T[topic_T >= 0], -1]
        return score_T

    def threshold(self, rows: np.ndarray, kth_T: np.ndarray, language: int) -> np.ndarray:
        """Return the least score of a candidate of this language that can change anything for these queries: float32 [T].

        `kth_T` has the K-th best score of the candidates at hand, or anything lower.
        """
        lowest_T = self.score_QR[rows].min(axis=1, initial=np.inf)
        kept_T = np.maximum(self.lowest_kept(rows, language), kth_T)
        return np.maximum(np.minimum(kept_T, lowest_T), np.float32(LOWEST))

    def add(
        self, rows: np.ndarray, row_H: np.ndarray, index_H: np.ndarray, score_H: np.ndarray, *, language: int
    ) -> None:
        """Count candidates of one language that have not been counted before.

        `row_H` has the number of each hit's query among `rows`; `index_H` its index in the pool.
        """
        for column in range(self.relevant_QR.shape[1]):
            own_H = self.score_QR[rows, column][row_H]
            later_H = index_H > self.relevant_QR[rows, column][row_H]
            before_H = (score_H > own_H) | ((score_H == own_H) & later_H)
            count_T = np.bincount(row_H[before_H], minlength=len(rows))
            self.pool_QR[rows, column] += count_T
            self.own_QR[rows, column] += np.where(self.language_QR[rows, column] == language, count_T, 0)
        high_H = score_H >= self.lowest_kept(rows, language)[row_H]
        topic_T = self.topics_of(rows, language)
        self._pending.append((topic_T[row_H[high_H]], index_H[high_H], score_H[high_H]))
        # Sorting waits until there are as many new candidates as are collected, so that its cost is spread over many.
        if sum(len(topic_H) for topic_H, _, _ in self._pending) > self.top_NK.size:
            self.settle()

    def settle(self) -> None:
        """Sort the pending candidates into the best ones; to be called after the last `add`."""
        if not self._pending:
            return
        topic_H, index_H, score_H = (np.concatenate(column) for column in zip(*self._pending, strict=True))
        self._pending.clear()
        rows, row_H = np.unique(topic_H, return_inverse=True)
        top = self.top_NK.shape[1]
        row_N = np.concatenate([np.repeat(np.arange(len(rows)), top), row_H])
        index_N = np.concatenate([self.top_NK[rows].ravel(), index_H])
        score_N = np.concatenate([self.top_score_NK[rows].ravel(), score_H])
        self.top_NK[rows], self.top_score_NK[rows] = best_of_rows(row_N, index_N, score_N, top)


def _inverse(query_N: np.ndarray, selected_N: np.ndarray, queries: int) -> np.ndarray:
    """Return the number of each query's topic among those selected; −1 for none: int64 [Q]."""
    (topic_M,) = np.nonzero(selected_N)
    topic_Q = np.full(queries, -1)
    topic_Q[query_N[topic_M]] = topic_M
    return topic_Q


def best_of_rows(
    row_N: np.ndarray, index_N: np.ndarray, score_N: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first K entries of each row, best first: indices and scores; of equal scores the later index is first.

    Every row from 0 on has at least K entries.
    """
    order_N = np.lexsort((-index_N, -score_N, row_N))
    row_N = row_N[order_N]
    best_N = order_N[np.arange(len(row_N)) - np.searchsorted(row_N, row_N) < top]
    return index_N[best_N].reshape(-1, top), score_N[best_N].reshape(-1, top)


class ScoreTiles:
    """Scores of queries and candidates, tile by tile.

    Args:
        read_segments: returns the candidates at hand in ascending order, each time it is called.
        queries_of: language number → the queries whose pool has candidates of that language, ascending.
        unranked_QI: int64 indices of candidates that are not ranked for a query and score minus infinity; −1 for none.
        device: device of the products; tiles on the CPU and on a GPU differ in size.
    """

    def __init__(
        self,
        query_QD: np.ndarray,
        read_segments: Callable[[], Iterable[Segment]],
        *,
        queries_of: Mapping[int, np.ndarray],
        unranked_QI: np.ndarray | None = None,
        device: str = "cpu",
    ) -> None:
        self.tile, self.width = CPU_TILE if device == "cpu" else GPU_TILE
        # The memory of a torch tensor is always aligned in the same way, on which some libraries' order of addition depends.
        self.query_QD = torch.empty(query_QD.shape, device=device)
        self.query_QD.copy_(torch.from_numpy(np.ascontiguousarray(query_QD)))
        self.read_segments, self.queries_of, self.unranked_QI = read_segments, queries_of, unranked_QI

    def __call__(
        self, is_needed: Callable[[np.ndarray, Segment], bool] = lambda rows, segment: True
    ) -> Iterator[tuple[np.ndarray, Segment, Tensor]]:
        """Yield the queries of each needed tile, its candidates, and their float32 scores [T, S]."""
        for segment in _cut_to_width(self.read_segments(), self.width):
            candidate_SD: Tensor | None = None
            rows_Q = self.queries_of[segment.language]
            for first in range(0, len(rows_Q), self.tile):
                rows = rows_Q[first : first + self.tile]
                if not is_needed(rows, segment):
                    continue
                if candidate_SD is None:
                    candidate_SD = self._on_device(segment.vector_SD)
                score_TS = self.query_QD[torch.from_numpy(rows)] @ candidate_SD.T
                self._mask_unranked(score_TS, rows, segment)
                yield rows, segment, score_TS

    def _on_device(self, vector_SD: np.ndarray) -> Tensor:
        copied_SD = torch.empty(vector_SD.shape, dtype=torch.from_numpy(vector_SD[:0].copy()).dtype)
        copied_SD.numpy()[:] = vector_SD
        return copied_SD.to(self.query_QD.device).float()

    def _mask_unranked(self, score_TS: Tensor, rows: np.ndarray, segment: Segment) -> None:
        if self.unranked_QI is not None:
            index_TI = self.unranked_QI[rows]
            row, column = np.nonzero(segment.has(index_TI))
            if len(row):
                score_TS[torch.from_numpy(row), torch.from_numpy(index_TI[row, column] - segment.start)] = -torch.inf


def _cut_to_width(segments: Iterable[Segment], width: int) -> Iterator[Segment]:
    """Yield the same candidates in segments of at most `width`."""
    for segment in segments:
        for first in range(0, len(segment.vector_SD), width):
            yield Segment(segment.start + first, segment.language, segment.vector_SD[first : first + width])


def score_relevant(tiles: ScoreTiles, relevant_QR: np.ndarray) -> np.ndarray:
    """Return the scores of the relevant candidates at hand: float32 [Q, R]; minus infinity for all others."""
    score_QR = np.full(relevant_QR.shape, -np.inf, dtype=np.float32)
    for rows, segment, score_TS in tiles(lambda rows, segment: bool(segment.has(relevant_QR[rows]).any())):
        row, column = np.nonzero(segment.has(relevant_QR[rows]))
        index = torch.from_numpy(relevant_QR[rows][row, column] - segment.start)
        score_QR[rows[row], column] = score_TS[torch.from_numpy(row), index].cpu().numpy()
    return score_QR


def count_positions(
    tiles: ScoreTiles, counter: PositionCounter, *, progress: Callable[[int], None] | None = None
) -> None:
    """Count all candidates at hand; call `progress` with the number of those done after the last query of each segment."""
    top = counter.top_NK.shape[1]
    done, last = 0, None
    for rows, segment, score_TS in tiles():
        kth_T = np.full(len(rows), -np.inf, dtype=np.float32)
        # Until the top is full, every score would be a hit; later the K-th best of all is the better threshold.
        if score_TS.shape[1] > top and np.isneginf(counter.lowest_kept(rows, segment.language)).any():
            kth_T = score_TS.topk(top, dim=1).values[:, -1].cpu().numpy()
        threshold_T = torch.from_numpy(counter.threshold(rows, kth_T, segment.language)).to(score_TS.device)
        row_H, column_H, score_H = _find_hits(score_TS, threshold_T)
        counter.add(rows, row_H, column_H + segment.start, score_H, language=segment.language)
        if progress and segment is not last:
            done, last = done + (len(last.vector_SD) if last else 0), segment
            progress(done)
    counter.settle()


def _find_hits(score_TS: Tensor, threshold_T: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, column and value of all scores that reach the threshold of their row: three [H]."""
    # Late in a search few rows have any; a row's maximum costs a fraction of a comparison.
    hot_N = (score_TS.amax(dim=1) >= threshold_T).nonzero().flatten()
    score_NS = score_TS[hot_N]
    reached = (score_NS >= threshold_T[hot_N, None]).flatten()
    # On a CPU, NumPy's search is several times as fast as torch's.
    on_cpu = reached.device.type == "cpu"
    flat_H = torch.from_numpy(np.flatnonzero(reached.numpy())) if on_cpu else reached.nonzero()[:, 0]
    row_H, column_H = hot_N[flat_H // score_TS.shape[1]], flat_H % score_TS.shape[1]
    return row_H.cpu().numpy(), column_H.cpu().numpy(), score_NS.flatten()[flat_H].cpu().numpy()


def cut_by_language(start: int, vector_ND: np.ndarray, stops: Sequence[int]) -> Iterator[Segment]:
    """Yield consecutive candidates of the pool, from index `start` on, as segments of one language each.

    `stops` has the index after the last candidate of each language, ascending.
    """
    stop = start + len(vector_ND)
    for language, (first, end) in enumerate(pairwise([0, *stops])):
        low, high = max(first, start), min(end, stop)
        if low < high:
            yield Segment(low, language, vector_ND[low - start : high - start])
