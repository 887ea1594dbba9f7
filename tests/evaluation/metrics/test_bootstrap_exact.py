"""Intervals and p-values to the last digits: what follows from pinned draws, computed one draw at a time.

The same scores give the same interval in every version, so that a report can be made again.
"""

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats
from test_bootstrap import changed, draw_all, made_positions, made_values, slow_macro_mean

from hbdist.evaluation.metrics.bootstrap import (
    SeedSpread,
    compare,
    confidence,
    count_clusters,
    difference,
    draw_clusters,
    draw_scores,
    interval,
    seed_noise,
    seed_spread,
    without_interval,
)
from hbdist.evaluation.metrics.per_query import Values, values_of
from hbdist.utils.philox import random_words

DRAWS = 99


def plain_shares(key: str, count: int) -> np.ndarray:
    return np.array([((int(word) >> 11) + 0.5) / 2**53 for word in random_words(f"bootstrap {key}", count)])


def plain_noise(sides: list[list[float]]) -> list[np.ndarray]:
    """Return the noise of each side's mean in each draw, from the docstring's equation."""
    freedom = sum(len(scores) - 1 for scores in sides)
    variance = sum(np.var(scores) * len(scores) for scores in sides) / max(freedom, 1)
    chi_B = stats.chi2.isf(plain_shares("spread", DRAWS), max(freedom, 1))
    normal_B = [stats.norm.ppf(plain_shares(f"seeds {side}", DRAWS)) for side in range(len(sides))]
    return [
        np.sqrt(variance / len(scores)) * normal * np.sqrt(freedom / chi_B)
        for scores, normal in zip(sides, normal_B, strict=True)
    ]


def in_draws(runs: list[Values]) -> np.ndarray:
    """Return the mean over runs in each draw."""
    return np.array([np.mean([slow_macro_mean(run, drawn_G) for run in runs]) for drawn_G in draw_all(24, DRAWS)])


def whole(runs: list[Values]) -> list[float]:
    return [slow_macro_mean(run, np.ones(24)) for run in runs]


def middle(value_B: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(value_B, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(("before_seeds", "after_seeds"), [(1, 1), (2, 1), (2, 3)])
def test_the_difference_and_its_p_value_follow_from_the_draws(before_seeds: int, after_seeds: int) -> None:
    values = made_values(0, spread=0.1)
    noise_V = np.random.default_rng(5).normal(0, 0.2, len(values.value_V))
    before = [changed(values, 0.01 * seed) for seed in range(before_seeds)]
    after = [changed(values, 0.03 + noise_V + 0.02 * seed) for seed in range(after_seeds)]
    found = difference(before, after, draws=DRAWS)
    noise = plain_noise([whole(before), whole(after)])
    change_B = (in_draws(after) + noise[1]) - (in_draws(before) + noise[0])
    side = min(int((change_B <= 0).sum()), int((change_B >= 0).sum()))
    assert 2 < side < 47, "zero is in the middle of the draws or beyond them, and this shows nothing"
    assert found.p == pytest.approx(2 * (side + 1) / (DRAWS + 1))
    assert (found.low, found.high) == pytest.approx(middle(change_B))
    first, second = np.mean(whole(before)), np.mean(whole(after))
    assert (found.before, found.after, found.mean) == pytest.approx((first, second, second - first))
    assert found.real == (found.low > 0 or found.high < 0)
    back = difference(after, before, draws=DRAWS)
    assert (back.mean, back.real) == (pytest.approx(-found.mean), found.real)


def test_an_interval_follows_from_the_draws_and_from_the_spread_that_is_given() -> None:
    runs = [changed(made_values(0), by) for by in (0.0, 0.1, 0.3)]
    found = interval(runs, draws=DRAWS)
    assert (found.low, found.high) == pytest.approx(middle(in_draws(runs) + plain_noise([whole(runs)])[0]))
    assert (found.mean, found.runs) == (pytest.approx(np.mean(whole(runs))), 3)
    (noise_B,) = seed_noise(SeedSpread(0.04, 7), [3], DRAWS).T
    known = interval(runs, spread=SeedSpread(0.04, 7), draws=DRAWS)
    assert (known.low, known.high) == pytest.approx(middle(in_draws(runs) + noise_B))


@pytest.mark.parametrize("by", [0.1, -0.1])
def test_a_clear_difference_has_the_smallest_p_value_and_is_real_on_either_side(by: float) -> None:
    values = made_values(0)
    found = difference([values], [changed(values, by)], draws=DRAWS)
    assert (found.real, found.p) == (True, pytest.approx(2 / 100))


def test_draws_are_pinned() -> None:
    assert draw_all(5, 3).tolist() == [[2, 1, 1, 0, 1], [0, 3, 1, 1, 0], [0, 2, 1, 1, 1]]
    assert {array.dtype for array in draw_clusters(5, 3)} == {np.dtype(np.float64)}


def test_the_noise_of_seeds_is_pinned_and_none_without_a_spread() -> None:
    expected = plain_noise([[0.1, 0.2, 0.6], [0.3, 0.5]])
    spread = seed_spread([np.array([0.1, 0.2, 0.6]), np.array([0.3, 0.5])])
    assert spread is not None
    assert (spread.freedom, spread.variance) == (3, pytest.approx((0.14 + 0.02) / 3))
    np.testing.assert_allclose(seed_noise(spread, [3, 2], DRAWS), np.stack(expected, axis=1))
    assert seed_spread([np.array([0.1]), np.array([0.5])]) is None
    for nothing in (None, SeedSpread(0.0, 2)):
        assert np.array_equal(seed_noise(nothing, [3, 2], 4), np.zeros((4, 2)))


def test_clusters_are_counted_with_the_share_of_the_largest() -> None:
    counted = count_clusters(np.array([3, 1, 3, 7, 3]))
    assert (counted.count, counted.largest) == (3, 0.6)
    empty = count_clusters(np.array([], dtype=np.int64))
    assert (empty.count, empty.largest) == (0, 0.0)


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ([1] * 19, "No interval: 19 groups of questions are too few to draw from; 20 are needed."),
        ([1] * 20, ""),
        ([9] + [4] * 20 + [1], ""),  # exactly a tenth
        ([10] + [4] * 20, "No interval: one of the 21 groups of questions has 11% of them; at most 10% are allowed."),
        (
            [200] + [1] * 1200,
            "No interval: one of the 1,201 groups of questions has 14% of them; at most 10% are allowed.",
        ),
    ],
)
def test_clusters_that_are_few_or_unequal_have_no_interval_and_say_why(sizes: list[int], problem: str) -> None:
    cluster_V = np.repeat(np.arange(len(sizes)), sizes)
    assert count_clusters(cluster_V).problem == problem
    values = Values(np.linspace(0, 1, len(cluster_V)), np.zeros(len(cluster_V), dtype=np.int64), cluster_V)
    found, other = interval([values], draws=50), difference([values], [changed(values, 0.25)], draws=50)
    assert (found.mean, found.clusters) == (pytest.approx(0.5), count_clusters(cluster_V))
    assert (found.low is None, found.high is None) == (bool(problem),) * 2
    assert (other.before, other.after, other.mean) == pytest.approx((0.5, 0.75, 0.25))
    assert {other.low is None, other.high is None, other.p is None, other.real is None} == {bool(problem)}


def test_scores_in_draws_are_those_of_each_run() -> None:
    runs = [made_values(0), changed(made_values(0), 0.1)]
    drawn = draw_scores(runs, DRAWS)
    assert drawn.score_BR.shape == (DRAWS, 2)
    np.testing.assert_allclose(drawn.score_R, whole(runs))
    np.testing.assert_allclose(drawn.score_BR.mean(axis=1), in_draws(runs))
    assert drawn.clusters == count_clusters(runs[0].cluster_V)


def test_intervals_are_those_of_the_main_metric_of_each_setting() -> None:
    queries, others = (replace(made_positions(seed), metric="mrr@5") for seed in (0, 1))
    found, changes = confidence(queries), compare([queries], [others])
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        names = ("mrr@5", "rank_distance") if setting == "multilingual" else ("mrr@5",)
        assert set(found[setting]) == set(changes[setting]) == set(names)
        for metric in names:
            one, other = (values_of(positions, setting, metric) for positions in (queries, others))
            expected = interval([one])
            assert found[setting][metric] == [expected.low, expected.high]
            assert changes[setting][metric] == asdict(difference([one], [other]))
    assert (found["level"], found["draws"], found["no_interval"]) == (0.95, 10_000, {})
    whole_task = count_clusters(queries.cluster_Q)
    assert (found["clusters"], found["largest_cluster"]) == (whole_task.count, whole_task.largest)


def test_a_setting_without_an_interval_is_named_with_the_reason() -> None:
    queries = made_positions(0)
    few = replace(queries, cluster_Q=queries.cluster_Q % 4)
    problem = "No interval: 4 groups of questions are too few to draw from; 20 are needed."
    expected = dict.fromkeys(("monolingual", "cross_lingual", "multilingual"), problem)
    assert without_interval(few) == confidence(few)["no_interval"] == expected
    assert not expected.keys() & confidence(few).keys()
    assert without_interval(queries) == {}
