"""Language bias: bounds, small cases by hand, and slow plain references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kruskal

from hbdist.evaluation.metrics.language_bias import (
    bias_by_language,
    one_answer_map,
    peer_irrelevant,
    peer_relevant,
    random_rank_distance,
    rank_distance,
    same_language_share,
    spread,
)
from hbdist.evaluation.metrics.retrieval import NO_POSITION, macro_mean


@st.composite
def ranked_pools(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw full orders of a pool [Q, C], languages of candidates [C], relevant indices [Q, R] (some −1), and their positions
    and languages [Q, R]."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, candidates, languages = draw(st.integers(1, 5)), draw(st.integers(4, 30)), draw(st.integers(1, 4))
    order_QC = np.stack([generator.permutation(candidates) for _ in range(queries)])
    candidate_language_C = np.sort(generator.integers(0, languages, candidates))
    relevant_QR = np.stack([generator.choice(candidates, 4, replace=False) for _ in range(queries)])
    relevant_QR[:, 1:][generator.random((queries, 3)) < 0.3] = -1
    position_QR = np.argsort(order_QC, axis=1)[np.arange(queries)[:, None], relevant_QR] + 1
    position_QR[relevant_QR < 0] = NO_POSITION
    return order_QC, candidate_language_C, relevant_QR, position_QR, candidate_language_C[relevant_QR]


def test_a_perfect_ranker_has_rank_distance_10_with_11_relevant():
    position_QR = np.stack([np.random.default_rng(q).permutation(11) + 1 for q in range(5)])
    assert rank_distance(position_QR).tolist() == [10.0] * 5


def test_a_perfect_and_a_random_ranker_have_the_recorded_bounds_if_languages_differ_in_their_questions():
    """Use unequal languages, as in MLQA-R, whose English questions have fewer answers: the bounds are macro means, too."""
    generator = np.random.default_rng(0)
    relevant_Q = np.repeat([2, 4, 3, 1], [3000, 200, 1000, 50])
    language_Q, pool = np.repeat([0, 1], [3200, 1050]), 500
    position_QR = np.stack([[*(generator.permutation(k) + 1), *[NO_POSITION] * (4 - k)] for k in relevant_Q])
    top_QK = np.zeros((len(position_QR), 10), dtype=np.int64)
    languages = {"query_language_Q": language_Q, "candidate_language_C": np.repeat([0, 1], pool // 2)}
    found = macro_mean(bias_by_language(position_QR, top_QK, **languages).values())
    assert found["rank_distance_perfect"] == pytest.approx(found["rank_distance"])
    assert found["rank_distance_perfect"] == pytest.approx(((3000 * 1 + 200 * 3) / 3200 + 2) / 2)
    random_QR = np.stack(
        [[*generator.choice(pool, k, replace=False) + 1, *[NO_POSITION] * (4 - k)] for k in relevant_Q]
    )
    found = macro_mean(bias_by_language(random_QR, top_QK, **languages).values())
    # One query's standard deviation is about 110 positions.
    assert found["rank_distance_random"] == pytest.approx(found["rank_distance"], abs=8)


def test_a_language_none_of_whose_questions_has_two_answers_has_no_bias_measures():
    position_QR = np.array([[7, 3], [5, NO_POSITION]])
    top_QK = np.zeros((2, 10), dtype=np.int64)
    languages = {"query_language_Q": np.array([0, 1]), "candidate_language_C": np.array([0] * 6 + [1] * 6)}
    assert set(bias_by_language(position_QR, top_QK, **languages)) == {0}
    assert bias_by_language(position_QR[1:], top_QK[1:], **languages | {"query_language_Q": np.array([1])}) == {}


def test_rank_distance_ignores_missing_candidates_and_needs_two():
    found = rank_distance(np.array([[7, NO_POSITION, 3], [5, NO_POSITION, NO_POSITION]]))
    assert found[0] == 4
    assert np.isnan(found[1])


def test_random_order_gives_the_expected_rank_distance_of_10846():
    assert random_rank_distance(11, 13_014) == pytest.approx(10_845.83, abs=0.01)
    generator = np.random.default_rng(0)
    position_QR = np.stack([generator.choice(13_014, 11, replace=False) + 1 for _ in range(4000)])
    # One query's standard deviation is about 1,340 positions, so the mean of 4,000 is within 64 in 997 of 1,000 cases.
    assert rank_distance(position_QR).mean() == pytest.approx(10_846, abs=64)


def test_same_language_share_counts_the_first_ten_only():
    candidate_language_C = np.array([0] * 12 + [1] * 12)
    top_QK = np.array([[*range(4), *range(12, 18), *range(4, 10)], [*range(12, 22), *range(6)]])
    languages = {"query_language_Q": np.array([0, 1]), "candidate_language_C": candidate_language_C}
    assert same_language_share(top_QK, **languages).tolist() == [0.4, 1.0]
    assert same_language_share(top_QK, **languages, k=5).tolist() == [0.8, 1.0]


def test_bias_is_a_macro_mean_over_query_languages():
    position_QR = np.array([[1, 2], [1, 4], [1, 9]])
    by_language = bias_by_language(
        position_QR,
        np.array([[0, 1], [0, 3], [2, 3]]),
        query_language_Q=np.array([0, 0, 1]),
        candidate_language_C=np.array([0, 0, 0, 1, 1]),
    )
    assert by_language[0] == pytest.approx(
        {
            "rank_distance": 2,
            "rank_distance_median": 2,
            "rank_distance_share": 0.5,
            "rank_distance_perfect": 1,
            "rank_distance_random": 2,
            "same_language_share@10": 0.75,
            "same_language_pool_share": 0.6,
        }
    )
    mean = macro_mean(by_language.values())
    assert mean["rank_distance"] == 5
    assert mean["same_language_share@10"] == pytest.approx(0.625)
    assert mean["same_language_pool_share"] == pytest.approx(0.5)


def test_spread_is_best_minus_worst_and_the_standard_deviation():
    assert spread({"en": 0.9, "de": 0.5, "th": 0.7}) == pytest.approx({"range": 0.4, "deviation": 0.16329932})


@given(ranked_pools(), st.integers(0, 2**32 - 1))
def test_the_one_answer_map_equals_ranking_a_pool_without_the_other_answers(pool, seed):
    order_QC, candidate_language_C, relevant_QR, position_QR, relevant_language_QR = pool
    query_language_Q = np.random.default_rng(seed).integers(0, 2, len(position_QR))
    slow: dict[tuple[int, int], list[float]] = {}
    for order_C, relevant_R, language in zip(order_QC, relevant_QR, query_language_Q, strict=True):
        answers = set(relevant_R.tolist()) - {-1}
        for answer in {int(candidate_language_C[index]) for index in answers}:
            own = {index for index in answers if candidate_language_C[index] == answer}
            pool = [index for index in order_C.tolist() if index not in answers - own]
            positions = sorted(pool.index(index) + 1 for index in own)
            precision = [(j + 1) / position for j, position in enumerate(positions)]
            slow.setdefault((int(language), answer), []).append(float(np.mean(precision)))
    found = one_answer_map(position_QR, relevant_language_QR=relevant_language_QR, query_language_Q=query_language_Q)
    assert found == pytest.approx({pair: float(np.mean(values)) for pair, values in slow.items()})


def test_a_perfect_ranker_of_translations_has_a_one_answer_map_of_ones():
    position_QR = np.stack([np.random.default_rng(q).permutation(3) + 1 for q in range(6)])
    language_QR, query_language_Q = np.tile(np.arange(3), (6, 1)), np.arange(6) % 3
    found = one_answer_map(position_QR, relevant_language_QR=language_QR, query_language_Q=query_language_Q)
    assert found == {(x, y): 1.0 for x in range(3) for y in range(3)}


def slow_peer(rank_by_language: dict[int, list[int]]) -> float:
    samples = [sample for sample in rank_by_language.values() if sample]
    if len(samples) < 2 or len({rank for sample in samples for rank in sample}) < 2:
        return 1.0
    return float(kruskal(*samples).pvalue)


def grouped(ranks: list[int], languages: list[int]) -> dict[int, list[int]]:
    return {g: [r for r, own in zip(ranks, languages, strict=True) if own == g] for g in set(languages)}


@given(ranked_pools(), st.integers(1, 30))
def test_peer_of_the_irrelevant_equals_scipys_kruskal_wallis(pool, k):
    order_QC, candidate_language_C, relevant_QR, position_QR, _ = pool
    found_Q = peer_irrelevant(order_QC[:, :k], position_QR, candidate_language_C=candidate_language_C)
    for order_C, relevant_R, found in zip(order_QC, relevant_QR, found_Q, strict=True):
        ranks = [rank for rank, index in enumerate(order_C[:k], start=1) if index not in relevant_R]
        languages = [int(candidate_language_C[order_C[rank - 1]]) for rank in ranks]
        assert found == pytest.approx(slow_peer(grouped(ranks, languages)), abs=1e-9)


@given(ranked_pools(), st.integers(1, 30))
def test_peer_of_the_relevant_equals_scipys_with_the_missing_tied_at_the_end(pool, k):
    _, _, _, position_QR, relevant_language_QR = pool
    found_Q = peer_relevant(position_QR, relevant_language_QR=relevant_language_QR, k=k)
    for position_R, language_R, found in zip(position_QR, relevant_language_QR, found_Q, strict=True):
        there = position_R != NO_POSITION
        ranks = [int(rank) if rank <= k else 1000 for rank in position_R[there]]
        groups = grouped(ranks, language_R[there].tolist())
        if max(map(len, groups.values())) < 2:
            assert np.isnan(found)
        else:
            assert found == pytest.approx(slow_peer(groups), abs=1e-9)


def test_peer_says_nothing_where_each_language_has_one_answer():
    position_QR = np.stack([np.random.default_rng(q).permutation(11) + 1 for q in range(3)])
    value_Q = peer_relevant(position_QR, relevant_language_QR=np.tile(np.arange(11), (3, 1)), k=100)
    assert np.isnan(value_Q).all()


def test_peer_falls_to_zero_where_one_language_comes_first_and_is_half_at_random():
    candidate_language_C = np.repeat([0, 1], 50)
    none_QR = np.zeros((1, 1), dtype=np.int64)
    sorted_QK = np.arange(100)[None, :]
    assert peer_irrelevant(sorted_QK, none_QR, candidate_language_C=candidate_language_C)[0] < 1e-15
    generator = np.random.default_rng(0)
    random_QK = np.stack([generator.permutation(100) for _ in range(2000)])
    none_QR = np.zeros((2000, 1), dtype=np.int64)
    # p is uniform: the mean of 2,000 has a standard deviation of 0.0065.
    value_Q = peer_irrelevant(random_QK, none_QR, candidate_language_C=candidate_language_C)
    assert value_Q.mean() == pytest.approx(0.5, abs=0.02)
