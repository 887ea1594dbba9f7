"""Exact ranks and the best candidates of a pool that is seen in parts, by one process or by many.

A rank is one plus how many candidates come before (see `hbdist.evaluation.metrics.retrieval`), so parts of the pool are
counted one by one and the counts added up. What a candidate scores must be the same to the last bit when it is counted
and when it is compared with; so each product is made of the same tile every time, and where tiles begin follows from
the task alone.

    Q queries · R relevant candidates of a query, padded · D dimensions · K candidates at the top · T queries of a tile
    S neighbouring candidates in one language · H hits, the scores that are high enough to matter
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CPU_TILE, GPU_TILE = (256, 4_096), (2_048, 32_768)
"""Queries and candidates of a tile: on a CPU its scores stay near the caches."""

LOWEST = float(np.finfo(np.float32).min)
"""A finite score below all others: what is not ranked scores minus infinity."""


@dataclass(frozen=True)
class Segment:
    """Neighbouring candidates of one language."""

    start: int
    """The place of the first in the pool."""
    language: int
    """The number of their language."""
    vector_SD: np.ndarray
    """Of any floating type; may be a memory map."""

    @property
    def stop(self) -> int:
        return self.start + len(self.vector_SD)


Segments = Callable[[], Iterable[Segment]]
"""Gives the segments from the first on, whenever it is called."""


class Tally:
    """Counts what comes before each relevant candidate, and keeps the best candidates of each query.

    Args:
        relevant_QR: int64 places in the pool; −1 where a query has fewer than R. R may be 0.
        score_QR: float32 scores of the relevant candidates; ignored where there is none.
        language_QR: the number of their language.
        top: K.
    """

    def __init__(self, relevant_QR: np.ndarray, score_QR: np.ndarray, language_QR: np.ndarray, *, top: int) -> None:
        queries = len(relevant_QR)
        present_QR = relevant_QR >= 0
        self.relevant_QR, self.language_QR = relevant_QR, language_QR
        # Nothing comes before where there is none.
        self.score_QR = np.where(present_QR, score_QR, np.inf).astype(np.float32)
        self.pool_QR = np.zeros(relevant_QR.shape, dtype=np.int64)
        """How many candidates come before each relevant one."""
        self.own_QR = np.zeros(relevant_QR.shape, dtype=np.int64)
        """How many of its own language do."""
        self.top_QK = np.full((queries, top), -1, dtype=np.int64)
        """The best candidates, best first, once it is settled; −1 where there are fewer than K."""
        self.top_score_QK = np.full((queries, top), -np.inf, dtype=np.float32)
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def bar(self, rows: np.ndarray, kth_T: np.ndarray) -> np.ndarray:
        """The least score that can change anything for these queries: float32 [T].

        Args:
            kth_T: the K-th best score of the candidates at hand, or anything lower.
        """
        lowest_T = self.score_QR[rows].min(axis=1, initial=np.inf)
        return np.maximum(np.minimum(np.maximum(self.top_score_QK[rows, -1], kth_T), lowest_T), np.float32(LOWEST))

    def add(
        self, rows: np.ndarray, row_H: np.ndarray, place_H: np.ndarray, score_H: np.ndarray, *, language: int
    ) -> None:
        """Take in candidates of one language that have not been seen.

        Args:
            rows: the queries in question.
            row_H: for each hit, which of `rows` it is of.
            place_H, score_H: its place in the pool and its score, float32.
        """
        for column in range(self.relevant_QR.shape[1]):
            own_H = self.score_QR[rows, column][row_H]
            later_H = place_H > self.relevant_QR[rows, column][row_H]
            before_H = (score_H > own_H) | ((score_H == own_H) & later_H)
            count_T = np.bincount(row_H[before_H], minlength=len(rows))
            self.pool_QR[rows, column] += count_T
            self.own_QR[rows, column] += np.where(self.language_QR[rows, column] == language, count_T, 0)
        high_H = score_H >= self.top_score_QK[rows, -1][row_H]
        self._waiting.append((rows[row_H[high_H]], place_H[high_H], score_H[high_H]))
        # Sorted in only when there are as many as are kept: of so many more candidates, each time, as were seen before.
        if sum(len(waiting[0]) for waiting in self._waiting) > self.top_QK.size:
            self.settle()

    def settle(self) -> None:
        """Sort in the candidates that wait for it; to be called after the last `add`."""
        if not self._waiting:
            return
        query_H, place_H, score_H = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        self._waiting.clear()
        rows, row_H = np.unique(query_H, return_inverse=True)
        top = self.top_QK.shape[1]
        row_N = np.concatenate([np.repeat(np.arange(len(rows)), top), row_H])
        place_N = np.concatenate([self.top_QK[rows].ravel(), place_H])
        score_N = np.concatenate([self.top_score_QK[rows].ravel(), score_H])
        best_N = best_first(row_N, place_N, score_N, top)
        self.top_QK[rows] = place_N[best_N].reshape(-1, top)
        self.top_score_QK[rows] = score_N[best_N].reshape(-1, top)


def best_first(row_N: np.ndarray, place_N: np.ndarray, score_N: np.ndarray, top: int) -> np.ndarray:
    """Which entries are the first K of their row, row by row and best first; of equal scores the later place is first.

    Every row from 0 on has at least K entries.
    """
    order_N = np.lexsort((-place_N, -score_N, row_N))
    row_N = row_N[order_N]
    return order_N[np.arange(len(row_N)) - np.searchsorted(row_N, row_N) < top]


class Products:
    """The scores of all queries that ask for a segment's language, tile by tile.

    Args:
        query_QD: float32.
        segments: the candidates at hand, in ascending order.
        asked: language number → the queries that ask for it, ascending.
        unranked_QI: int64 places that are not ranked for a query, and score minus infinity; −1 for none.
        device: where products are made; on the CPU and on a GPU, tiles are of different sizes.
    """

    def __init__(
        self,
        query_QD: np.ndarray,
        segments: Segments,
        *,
        asked: Mapping[int, np.ndarray],
        unranked_QI: np.ndarray | None = None,
        device: str = "cpu",
    ) -> None:
        self.tile, self.width = CPU_TILE if device == "cpu" else GPU_TILE
        # A tensor of torch's own begins where the caches like it, always: some libraries add up by it.
        self.query_QD = torch.empty(query_QD.shape, device=device)
        self.query_QD.copy_(torch.from_numpy(np.ascontiguousarray(query_QD)))
        self.segments, self.asked, self.unranked_QI = segments, asked, unranked_QI

    def tiles(
        self, wanted: Callable[[np.ndarray, Segment], bool] = lambda rows, segment: True
    ) -> Iterator[tuple[np.ndarray, Segment, Tensor]]:
        """The queries of each tile, its candidates, and float32 scores [T, S]; only those that are wanted."""
        for segment in _narrow(self.segments(), self.width):
            candidate_SD: Tensor | None = None
            rows_Q = self.asked[segment.language]
            for first in range(0, len(rows_Q), self.tile):
                rows = rows_Q[first : first + self.tile]
                if not wanted(rows, segment):
                    continue
                if candidate_SD is None:
                    candidate_SD = self._on_device(segment.vector_SD)
                score_TS = self.query_QD[torch.from_numpy(rows)] @ candidate_SD.T
                self._leave_out(score_TS, rows, segment)
                yield rows, segment, score_TS

    def _on_device(self, vector_SD: np.ndarray) -> Tensor:
        copied_SD = torch.empty(vector_SD.shape, dtype=torch.from_numpy(vector_SD[:0].copy()).dtype)
        copied_SD.numpy()[:] = vector_SD
        return copied_SD.to(self.query_QD.device).float()

    def _leave_out(self, score_TS: Tensor, rows: np.ndarray, segment: Segment) -> None:
        if self.unranked_QI is not None:
            place_TI = self.unranked_QI[rows]
            row, column = np.nonzero((place_TI >= segment.start) & (place_TI < segment.stop))
            if len(row):
                score_TS[torch.from_numpy(row), torch.from_numpy(place_TI[row, column] - segment.start)] = -torch.inf


def _narrow(segments: Iterable[Segment], width: int) -> Iterator[Segment]:
    """The same candidates in segments of at most `width`."""
    for segment in segments:
        for first in range(0, len(segment.vector_SD), width):
            part_SD = segment.vector_SD[first : first + width]
            yield Segment(segment.start + first, segment.language, part_SD)


def relevant_scores(products: Products, relevant_QR: np.ndarray) -> np.ndarray:
    """The scores of those relevant candidates that are at hand: float32 [Q, R]; minus infinity for all others."""
    score_QR = np.full(relevant_QR.shape, -np.inf, dtype=np.float32)

    def here(rows: np.ndarray, segment: Segment) -> np.ndarray:
        return (relevant_QR[rows] >= segment.start) & (relevant_QR[rows] < segment.stop)

    for rows, segment, score_TS in products.tiles(lambda rows, segment: bool(here(rows, segment).any())):
        row, column = np.nonzero(here(rows, segment))
        place = torch.from_numpy(relevant_QR[rows][row, column] - segment.start)
        score_QR[rows[row], column] = score_TS[torch.from_numpy(row), place].cpu().numpy()
    return score_QR


def count(products: Products, tally: Tally, *, progress: Callable[[int], None] | None = None) -> None:
    """Show all candidates at hand to the tally.

    Args:
        progress: called with the candidates that are done, after each tile's last query.
    """
    top = tally.top_QK.shape[1]
    done, last = 0, None
    for rows, segment, score_TS in products.tiles():
        kth_T = np.full(len(rows), -np.inf, dtype=np.float32)
        # While the top fills, all would be hits; later, what is there is the better bar.
        if score_TS.shape[1] > top and np.isinf(tally.top_score_QK[rows, -1]).any():
            kth_T = score_TS.topk(top, dim=1).values[:, -1].cpu().numpy()
        row_H, column_H, score_H = _hits(score_TS, torch.from_numpy(tally.bar(rows, kth_T)).to(score_TS.device))
        tally.add(rows, row_H, column_H + segment.start, score_H, language=segment.language)
        if progress and segment is not last:
            done, last = done + (len(last.vector_SD) if last else 0), segment
            progress(done)
    tally.settle()


def _hits(score_TS: Tensor, bar_T: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and value of all scores that reach the bar of their row: three [H]."""
    # Late in a search few rows have any; a row's maximum costs a fraction of a comparison.
    hot_N = (score_TS.amax(dim=1) >= bar_T).nonzero().flatten()
    score_NS = score_TS[hot_N]
    reached = (score_NS >= bar_T[hot_N, None]).flatten()
    # NumPy's is several times as fast as torch's on a CPU.
    place_H = (
        torch.from_numpy(np.flatnonzero(reached.numpy())) if reached.device.type == "cpu" else reached.nonzero()[:, 0]
    )
    row_H, column_H = hot_N[place_H // score_TS.shape[1]], place_H % score_TS.shape[1]
    return row_H.cpu().numpy(), column_H.cpu().numpy(), score_NS.flatten()[place_H].cpu().numpy()


def cut_by_language(start: int, vector_ND: np.ndarray, stops: Sequence[int]) -> Iterator[Segment]:
    """A stretch of the pool as segments of one language each.

    Args:
        start: the place of the first vector.
        stops: where each language ends in the pool, ascending.
    """
    stop = start + len(vector_ND)
    for language, (first, end) in enumerate(zip([0, *stops], stops, strict=False)):
        low, high = max(first, start), min(end, stop)
        if low < high:
            yield Segment(low, language, vector_ND[low - start : high - start])
