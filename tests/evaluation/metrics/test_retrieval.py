"""Positions and metrics, compared with slow references: a float64 argsort, and pytrec_eval."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trec import trec_means

from hbdist.evaluation.metrics.retrieval import (
    NEVER,
    NO_POSITION,
    Ranking,
    macro_mean,
    mean_metrics,
    metrics,
    with_absent,
)
from hbdist.evaluation.scores import METRICS, SETTINGS
from hbdist.evaluation.search.in_memory import positions_of_relevant, rank_in_memory, top_candidates
from hbdist.evaluation.tasks.task import ABSENT, NO_CANDIDATE, WHOLE_POOL, Topics
from hbdist.utils.progress import Progress


def slow_order(score_C: np.ndarray) -> np.ndarray:
    """Return the indices by descending score; of equal scores the later index first."""
    return np.lexsort((-np.arange(len(score_C)), -score_C.astype(np.float64)))


def slow_positions(score_QC: np.ndarray, relevant_QR: np.ndarray, part: slice) -> np.ndarray:
    position_QR = np.zeros_like(relevant_QR)
    start, stop, _ = part.indices(score_QC.shape[1])
    for row, score_C in enumerate(score_QC):
        order = (slow_order(score_C[start:stop]) + start).tolist()
        for column, index in enumerate(relevant_QR[row]):
            position_QR[row, column] = order.index(index) + 1 if index in order else NO_POSITION
    return position_QR


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, slice]:
    """Draw scores with many ties, relevant candidates (some missing), and a subset."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, candidates, relevant = draw(st.integers(1, 6)), draw(st.integers(1, 40)), draw(st.integers(1, 5))
    score_QC = generator.integers(0, draw(st.integers(1, 50)), (queries, candidates)).astype(np.float32)
    relevant_QR = np.full((queries, relevant), -1, dtype=np.int64)
    for row in range(queries):
        chosen = generator.permutation(candidates)[: generator.integers(1, relevant + 1)]
        relevant_QR[row, : len(chosen)] = chosen
    start = draw(st.integers(0, candidates))
    return score_QC, relevant_QR, slice(start, draw(st.integers(start, candidates)))


@given(problems())
@settings(deadline=None, max_examples=150)
def test_positions_equal_those_of_a_float64_argsort_with_ties_in_any_subset(problem):
    score_QC, relevant_QR, part = problem
    found = positions_of_relevant(score_QC, relevant_QR, subset=part)
    np.testing.assert_array_equal(found, slow_positions(score_QC, relevant_QR, part))


@given(problems(), st.integers(1, 50))
@settings(deadline=None, max_examples=150)
def test_the_top_is_that_of_a_full_sort_also_where_ties_cross_its_end(problem, top):
    score_QC, _, _ = problem
    index_QK, score_QK = top_candidates(score_QC, top)
    expected = np.stack([slow_order(score_C)[:top] for score_C in score_QC])
    np.testing.assert_array_equal(index_QK, expected)
    np.testing.assert_array_equal(score_QK, np.take_along_axis(score_QC, expected, axis=1))


@given(problems())
@settings(deadline=None, max_examples=150)
def test_metrics_equal_trec_eval_with_many_ties(problem):
    score_QC, relevant_QR, _ = problem
    position_QR = positions_of_relevant(score_QC, relevant_QR)
    assert mean_metrics(position_QR) == pytest.approx(trec_means(score_QC, relevant_QR), abs=1e-9)


def test_equal_scores_rank_the_later_candidate_first():
    score_QC = np.array([[1.0, 2.0, 1.0, 1.0]])
    assert positions_of_relevant(score_QC, np.array([[0, 2, 3, 1]])).tolist() == [[4, 3, 2, 1]]


def test_average_precision_by_hand():
    # Relevant ones at positions 1 and 4: (1/1 + 2/4) / 2.
    values = metrics(np.array([[4, NO_POSITION, 1]]))
    assert values["map"] == pytest.approx([0.75])
    assert values["mrr"] == pytest.approx([1.0])
    assert values["recall@1"] == pytest.approx([0.5])
    assert values["precision@10"] == pytest.approx([0.2])


DEPTHS = {"map@3": "map_cut_3", "ndcg@3": "ndcg_cut_3", "recall@100": "recall_100", "precision@7": "P_7"}


@given(problems())
@settings(deadline=None, max_examples=60)
def test_metrics_at_any_depth_equal_trec_eval(problem):
    score_QC, relevant_QR, _ = problem
    found = mean_metrics(positions_of_relevant(score_QC, relevant_QR), list(DEPTHS))
    assert found == pytest.approx(trec_means(score_QC, relevant_QR, DEPTHS), abs=1e-9)


@given(problems(), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_ndcg_with_gains_equals_trec_eval(problem, seed):
    score_QC, relevant_QR, _ = problem
    grade_QR = np.random.default_rng(seed).integers(1, 4, relevant_QR.shape)
    names = {"ndcg@3": "ndcg_cut_3", "ndcg@10": "ndcg_cut_10", "map": "map"}
    found = mean_metrics(positions_of_relevant(score_QC, relevant_QR), list(names), grade_QR=grade_QR)
    assert found == pytest.approx(trec_means(score_QC, relevant_QR, names, grade_QR=grade_QR), abs=1e-9)


def test_mrr_at_a_depth_is_zero_below_it():
    assert metrics(np.array([[3], [4]]), ["mrr@3"])["mrr@3"].tolist() == [1 / 3, 0]


def test_a_query_without_relevant_candidates_does_not_count():
    assert mean_metrics(np.array([[1], [NO_POSITION]])) == mean_metrics(np.array([[1]]))
    assert mean_metrics(np.array([[NO_POSITION]])) == {}


def test_macro_mean_weighs_settings_alike():
    assert macro_mean([{"map": 0.2}, {"map": 0.4}]) == pytest.approx({"map": 0.3})
    assert macro_mean([]) == {}


@dataclass
class Pool:
    """Parts of a task that a ranker uses, with embeddings."""

    query_QD: np.ndarray
    candidate_CD: np.ndarray
    relevant: np.ndarray
    candidate_slices: dict[str, slice]
    unranked: np.ndarray
    settings: tuple[str, ...] = SETTINGS

    @property
    def topics(self) -> Topics:
        return Topics(np.arange(len(self.query_QD)), np.full(len(self.query_QD), WHOLE_POOL))

    def rank(self, tile: int, progress: Progress | None = None) -> Ranking:
        return rank_in_memory(self.query_QD, self.candidate_CD, self, tile=tile, progress=progress)


@pytest.fixture(scope="module")
def whole_numbers() -> Pool:
    """Return vectors of small whole numbers: their products are exact in any order of addition, and tie often."""
    generator = np.random.default_rng(7)
    slices = {"de": slice(0, 90), "en": slice(90, 170), "th": slice(170, 300)}
    query_QD = generator.integers(-3, 4, (37, 8)).astype(np.float32)
    candidate_CD = generator.integers(-3, 4, (300, 8)).astype(np.float32)
    relevant_QR = np.stack([generator.integers(part.start, part.stop, 37) for part in slices.values()], axis=1)
    return Pool(query_QD, candidate_CD, relevant_QR, slices, np.full((37, 0), -1))


@pytest.mark.parametrize("tile", [1, 5, 36, 512])
def test_tiles_of_any_size_give_the_same(whole_numbers, tile):
    whole, tiled = whole_numbers.rank(37), whole_numbers.rank(tile)
    for name in ("pool_QR", "language_QR", "top_NK", "top_score_NK"):
        np.testing.assert_array_equal(getattr(tiled, name), getattr(whole, name))


def test_one_pass_serves_the_pool_and_every_language(whole_numbers):
    score_QC, relevant_QR = whole_numbers.query_QD @ whole_numbers.candidate_CD.T, whole_numbers.relevant
    ranking = whole_numbers.rank(16)
    np.testing.assert_array_equal(ranking.pool_QR, slow_positions(score_QC, relevant_QR, slice(None)))
    for column, part in enumerate(whole_numbers.candidate_slices.values()):
        one = slow_positions(score_QC, relevant_QR[:, [column]], part)
        np.testing.assert_array_equal(ranking.language_QR[:, [column]], one)


def test_a_candidate_that_is_not_ranked_for_a_query_is_as_if_not_in_the_pool(whole_numbers):
    generator = np.random.default_rng(1)
    unranked_QI = np.full((37, 40), -1)
    for row, relevant_R in enumerate(whole_numbers.relevant):
        others = np.setdiff1d(np.arange(300), relevant_R)
        chosen = generator.choice(others, generator.integers(0, 41), replace=False)
        unranked_QI[row, : len(chosen)] = chosen
    found = replace(whole_numbers, unranked=unranked_QI).rank(10)
    for row in range(37):
        remaining = np.setdiff1d(np.arange(300), unranked_QI[row])
        score_1C = whole_numbers.query_QD[[row]] @ whole_numbers.candidate_CD[remaining].T
        index_1R = np.searchsorted(remaining, whole_numbers.relevant[[row]])
        np.testing.assert_array_equal(found.pool_QR[[row]], slow_positions(score_1C, index_1R, slice(None)))
        assert not set(found.top_NK[row]) & set(unranked_QI[row])


def test_progress_ends_at_the_number_of_queries(whole_numbers):
    calls: list[tuple[int, int]] = []
    whole_numbers.rank(16, progress=lambda *arguments: calls.append(arguments))
    assert calls == [(16, 37), (32, 37), (37, 37)]


def test_metrics_are_float64_also_without_gains():
    position_QR = np.array([[3, 1], [2, NO_POSITION]])
    names = ["map", "map@2", "ndcg@2", "recall@2", "precision@2", "mrr", "mrr@2"]
    found = metrics(position_QR, names)
    assert {value_Q.dtype for value_Q in found.values()} == {np.dtype(np.float64)}
    expected = {
        "map": [(1 + 2 / 3) / 2, 1 / 2],
        "map@2": [1 / 2, 1 / 2],
        "ndcg@2": [1 / (1 + 1 / np.log2(3)), 1 / np.log2(3)],
        "recall@2": [1 / 2, 1],
        "precision@2": [1 / 2, 1 / 2],
        "mrr": [1, 1 / 2],
        "mrr@2": [1, 1 / 2],
    }
    for name, value_Q in found.items():
        np.testing.assert_allclose(value_Q, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("position_QR", "name", "sentence"),
    [
        ([[1, NO_POSITION], [NO_POSITION] * 2], "map", "metrics of a query without relevant candidates are undefined"),
        ([[1]], "recall", "recall needs a depth, as in recall@10"),
        ([[1]], "bleu@4", "no metric is called bleu"),
    ],
)
def test_a_metric_that_is_undefined_is_refused(position_QR, name, sentence):
    with pytest.raises(AssertionError, match=f"^{sentence}$"):
        metrics(np.array(position_QR), [name])


def test_the_macro_mean_of_one_setting_is_its_score_and_of_none_nothing():
    assert macro_mean(iter([{"map": 0.25, "mrr": 0.5}])) == {"map": 0.25, "mrr": 0.5}
    assert macro_mean([]) == {}


def test_means_are_over_the_queries_that_have_an_answer_with_their_own_gains():
    position_QR, grade_QR = np.array([[2, 1], [NO_POSITION] * 2, [3, 5]]), np.array([[3, 1], [9, 9], [1, 2]])
    found = mean_metrics(position_QR, ["ndcg@3"], grade_QR=grade_QR)
    by_hand = metrics(position_QR[[0, 2]], ["ndcg@3"], grade_QR=grade_QR[[0, 2]])["ndcg@3"]
    assert found == {"ndcg@3": pytest.approx(by_hand.mean())}
    assert mean_metrics(position_QR[1:2], ["map"]) == {}
    assert mean_metrics(position_QR[:1]).keys() == set(METRICS)


def test_a_relevant_document_that_is_absent_counts_and_is_never_found():
    position_QR = with_absent(np.array([[2, 7, 0], [5, 3, 1]]), np.array([[4, ABSENT, NO_CANDIDATE], [ABSENT] * 3]))
    assert position_QR.tolist() == [[2, NEVER, 0], [NEVER] * 3]
    found = metrics(position_QR, ["map", "ndcg@9", "recall@9", "precision@4", "mrr", "map@1"])
    assert {name: value_Q.tolist() for name, value_Q in found.items()} == {
        "map": [1 / 4, 0],
        "ndcg@9": [pytest.approx(1 / np.log2(3) / (1 + 1 / np.log2(3))), 0],
        "recall@9": [1 / 2, 0],
        "precision@4": [1 / 4, 0],
        "mrr": [1 / 2, 0],
        "map@1": [0, 0],
    }
