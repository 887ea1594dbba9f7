"""Simultaneous comparisons: plain references, how often equal models are told apart, and how often intervals hold the truth."""

from itertools import combinations

import numpy as np
import pytest

from hbdist.evaluation.metrics.bootstrap import difference, interval
from hbdist.evaluation.metrics.per_query import Values
from hbdist.evaluation.metrics.simultaneous import Grid

QUESTIONS_SD, RUN_SD = 0.3, 0.2
"""Standard deviation between questions, and of one run on one question."""


def made_runs(
    generator: np.random.Generator, *, levels: list[float], seeds: int, clusters: int, ratio: float
) -> list[list[Values]]:
    """Return models with these true scores; their seeds vary `ratio` times as much as the choice of questions varies a run."""
    base_G = generator.normal(0, QUESTIONS_SD, clusters)
    part_G, cluster_G = np.zeros(clusters, dtype=np.int64), np.arange(clusters)
    seed_sd = ratio * RUN_SD / np.sqrt(clusters)

    def run(level: float) -> Values:
        noise_G = generator.normal(0, RUN_SD, clusters) + generator.normal(0, seed_sd)
        return Values(base_G + level + noise_G, part_G, cluster_G)

    return [[run(level) for _ in range(seeds)] for level in levels]


def pairs_of(models: int) -> list[tuple[int, int]]:
    return list(combinations(range(models), 2))


def told_apart(models: list[list[Values]], draws: int) -> bool:
    return any(one.real for one in Grid(models, draws=draws).compare(pairs_of(len(models))))


def test_one_pair_of_single_runs_has_the_interval_of_a_paired_difference():
    models = made_runs(np.random.default_rng(0), levels=[0.0, 0.03], seeds=1, clusters=300, ratio=0.0)
    (found,), alone = Grid(models).compare([(0, 1)]), difference(*models)
    assert (found.before, found.after, found.mean) == pytest.approx((alone.before, alone.after, alone.mean))
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.1 * (alone.high - alone.low))
    assert found.p == pytest.approx(alone.p, abs=0.01)


def test_a_clear_difference_is_found_among_many_models_and_the_others_are_not():
    models = made_runs(np.random.default_rng(1), levels=[0.0] * 6 + [0.2], seeds=3, clusters=200, ratio=1.0)
    real = {pair: one.real for pair, one in zip(pairs_of(7), Grid(models).compare(pairs_of(7)), strict=True)}
    assert all(real[i, 6] for i in range(6))
    assert not any(real[i, j] for i, j in pairs_of(6))


def test_more_comparisons_widen_every_interval():
    models = made_runs(np.random.default_rng(2), levels=[0.0] * 8, seeds=3, clusters=100, ratio=1.0)
    grid = Grid(models)
    (alone,), together = grid.compare([(0, 1)]), grid.compare(pairs_of(8))[0]
    assert together.mean == alone.mean
    assert together.high - together.low > 1.3 * (alone.high - alone.low)
    assert together.p > alone.p


def test_the_same_model_twice_has_no_difference():
    (model,) = made_runs(np.random.default_rng(3), levels=[0.0], seeds=1, clusters=100, ratio=0.0)
    (found,) = Grid([model, model]).compare([(0, 1)])
    assert (found.mean, found.low, found.high, found.p, found.real) == (0, 0, 0, 1, False)


def test_too_few_clusters_give_no_verdict():
    models = made_runs(np.random.default_rng(4), levels=[0.0, 5.0], seeds=3, clusters=19, ratio=0.0)
    (found,) = Grid(models).compare([(0, 1)])
    assert found.mean == pytest.approx(5.0, abs=0.5)
    assert (found.low, found.high, found.p, found.real) == (None, None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(("points", "seeds"), [(2, 3), (5, 3), (15, 3), (5, 5)])
def test_of_grids_whose_points_are_equal_at_most_7_in_100_show_a_mark(points, seeds, ratio):
    generator = np.random.default_rng(5)
    worlds = 400
    false = sum(
        told_apart(made_runs(generator, levels=[0.0] * points, seeds=seeds, clusters=240, ratio=ratio), draws=1000)
        for _ in range(worlds)
    )
    assert false / worlds <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("clusters", [20, 50, 240])
def test_intervals_hold_the_truth_as_often_as_measures_md_says(clusters, seeds, ratio):
    """The truth of one seed alone is that seed's own: what another would give is not in its interval."""
    generator = np.random.default_rng(6)
    worlds, held = 1000, 0
    for _ in range(worlds):
        (runs,) = made_runs(generator, levels=[0.0], seeds=seeds, clusters=clusters, ratio=ratio if seeds > 1 else 0.0)
        found = interval(runs, draws=1000)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.0 <= found.high
    assert 0.90 <= held / worlds <= 0.995
