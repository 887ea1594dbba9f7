"""Rank distance and same-language share: bounds, and small cases by hand."""

import numpy as np
import pytest

from hbdist.evaluation.bias import bias_by_language, mean_bias, random_rank_distance, rank_distance, same_language_share
from hbdist.evaluation.ranking import NO_RANK


def test_a_perfect_ranker_has_rank_distance_10_with_11_relevant():
    rank_QR = np.stack([np.random.default_rng(q).permutation(11) + 1 for q in range(5)])
    assert rank_distance(rank_QR).tolist() == [10.0] * 5


def test_rank_distance_skips_what_is_not_there_and_needs_two():
    found = rank_distance(np.array([[7, NO_RANK, 3], [5, NO_RANK, NO_RANK]]))
    assert found[0] == 4
    assert np.isnan(found[1])


def test_random_order_gives_the_expected_rank_distance_of_10846():
    assert random_rank_distance(11, 13_014) == pytest.approx(10_845.83, abs=0.01)
    generator = np.random.default_rng(0)
    rank_QR = np.stack([generator.choice(13_014, 11, replace=False) + 1 for _ in range(4000)])
    # One query's standard deviation is about 1,340 places, so the mean of 4,000 is within 64 in 997 of 1,000 cases.
    assert rank_distance(rank_QR).mean() == pytest.approx(10_846, abs=64)


def test_same_language_share_counts_the_first_ten_only():
    candidate_language_C = np.array([0] * 12 + [1] * 12)
    top_QK = np.array([[*range(4), *range(12, 18), *range(4, 10)], [*range(12, 22), *range(6)]])
    share_Q = same_language_share(top_QK, query_language_Q=np.array([0, 1]), candidate_language_C=candidate_language_C)
    assert share_Q.tolist() == [0.4, 1.0]


def test_bias_is_a_macro_mean_over_query_languages():
    rank_QR = np.array([[1, 2], [1, 4], [1, 9]])
    by_language = bias_by_language(
        rank_QR,
        np.array([[0, 1], [0, 3], [2, 3]]),
        query_language_Q=np.array([0, 0, 1]),
        candidate_language_C=np.array([0, 0, 0, 1, 1]),
    )
    assert by_language[0] == pytest.approx(
        {
            "rank_distance": 2,
            "rank_distance_median": 2,
            "rank_distance_share": 0.5,
            "same_language_share@10": 0.75,
            "same_language_pool_share": 0.6,
        }
    )
    mean = mean_bias(by_language)
    assert mean["rank_distance"] == 5
    assert mean["same_language_share@10"] == pytest.approx(0.625)
    assert mean["same_language_pool_share"] == pytest.approx(0.5)
