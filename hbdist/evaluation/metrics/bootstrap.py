"""Confidence intervals of scores and of their differences, by a bootstrap over clusters of questions, and over seeds.

Questions on one paragraph, and the translations of a question, are not independent of one another. So whole clusters are
drawn with replacement, with all their queries in all languages. Intervals are percentiles: the middle 95 % of 10,000 draws.
Draws come from raw Philox words with a fixed key: the same values always give the same interval.

Seeds are a level of their own: to the mean of R runs in a draw is added how much the mean of R other seeds could differ,

    s/√R · z · √(ν/χ²_ν)        z normal, χ²_ν chi-squared with the ν degrees of freedom of the spread s of one run

which without clusters' noise is Student's interval. A few seeds say little about seeds, and the tails of t show it. The
spread of a run around its mean contains noise of the questions too, which the draws of clusters contain as well, so an
interval over several seeds is a little wide rather than narrow.

    V values · S parts of a macro mean (languages, or language pairs) · G clusters · B draws · b some of them · R runs (seeds)
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import chdtri, ndtri

from hbdist.errors import DataError
from hbdist.evaluation.metrics.per_query import PerQuery, Values, values_of
from hbdist.evaluation.scores import SETTINGS
from hbdist.utils.philox import random_words

DRAWS = 10_000
"""Number B of draws."""

LEVEL = 0.95
"""Share of the draws that are inside of an interval."""

WORDS = 1 << 22
"""Number of random words in memory at once, so that memory does not grow with the number of questions."""

MIN_CLUSTERS = 20
"""Number of clusters below which there is no interval: percentiles of fewer are far too narrow."""

MAX_SHARE = 0.1
"""Largest share of the values that one cluster may have: draws of clusters that are not alike say little."""


@dataclass(frozen=True)
class Clusters:
    """Clusters that are drawn."""

    count: int
    largest: float
    """Largest share of the values that is in one cluster."""

    @property
    def problem(self) -> str:
        """Reason why there can be no interval, as a sentence; empty if there can be one."""
        if self.count < MIN_CLUSTERS:
            return f"No interval: {self.count} groups of questions are too few to draw from; {MIN_CLUSTERS} are needed."
        if self.largest > MAX_SHARE:
            return (
                f"No interval: one of the {self.count:,} groups of questions has {self.largest:.0%} of them;"
                f" at most {MAX_SHARE:.0%} are allowed."
            )
        return ""


@dataclass(frozen=True)
class SeedSpread:
    """Spread between runs that differ only in the seed."""

    variance: float
    """Variance s² of one run's score around the mean over seeds."""
    freedom: int
    """Degrees of freedom ν of its estimate."""


@dataclass(frozen=True)
class Interval:
    """Score with the middle 95 % of its values over draws of clusters (and seeds)."""

    mean: float
    low: float | None
    high: float | None
    """Bounds; None if the clusters allow no interval."""
    runs: int
    clusters: Clusters


@dataclass(frozen=True)
class Difference:
    """Difference after minus before, on the same questions."""

    before: float
    """Macro mean over all seeds before."""
    after: float
    """Macro mean over all seeds after."""
    mean: float
    """Difference of these means."""
    low: float | None
    high: float | None
    p: float | None
    """Two-sided p-value: twice the share of draws on the other side of zero, at most 1 and at least 2/(B + 1)."""
    real: bool | None
    """Flag: zero is outside of the interval. False: the questions (and seeds) cannot tell the two apart. None, as the
    three numbers above: the clusters allow no interval, so it is not known."""


@dataclass(frozen=True)
class Draws:
    """Scores of several runs on the same drawn clusters."""

    clusters: Clusters
    score_BR: np.ndarray
    """Macro mean of each run in each draw."""
    score_R: np.ndarray
    """Macro mean of each run without a draw."""


def interval(runs: Sequence[Values], *, spread: SeedSpread | None = None, draws: int = DRAWS) -> Interval:
    """Return the macro mean, with its interval, of one model's seeds on the same queries.

    Args:
        runs: the values of each seed.
        spread: spread between seeds, if it is known from more runs than these; by default it is estimated from them.
        draws: number of draws.
    """
    drawn = draw_scores(runs, draws)
    mean = float(drawn.score_R.mean())
    if drawn.clusters.problem:
        return Interval(mean, None, None, len(runs), drawn.clusters)
    noise_B1 = seed_noise(spread or seed_spread([drawn.score_R]), [len(runs)], draws)
    low, high = percentiles(np.clip(drawn.score_BR.mean(axis=1) + noise_B1[:, 0], *runs[0].bounds))
    return Interval(mean, low, high, len(runs), drawn.clusters)


def difference(before: Sequence[Values], after: Sequence[Values], *, draws: int = DRAWS) -> Difference:
    """Return the paired difference of two models' macro means: both are scored on the same drawn clusters.

    Both sides have the values of each seed, all on the same queries. The seeds of the two are drawn independently of one
    another, even if both have the same number; their spread is taken to be the same.
    """
    drawn = draw_scores([*before, *after], draws)
    sides = (slice(None, len(before)), slice(len(before), None))
    first, second = (float(drawn.score_R[side].mean()) for side in sides)
    if drawn.clusters.problem:
        return Difference(first, second, second - first, None, None, None, None)
    spread = seed_spread([drawn.score_R[side] for side in sides])
    noise_B2 = seed_noise(spread, [len(before), len(after)], draws)
    mean_B2 = np.stack([drawn.score_BR[:, side].mean(axis=1) for side in sides], axis=1)
    change_B = np.diff(np.clip(mean_B2 + noise_B2, *before[0].bounds), axis=1)[:, 0]
    low, high = percentiles(change_B)
    side = min((change_B <= 0).sum(), (change_B >= 0).sum())
    p = min(1.0, 2 * (side + 1) / (draws + 1))
    return Difference(first, second, second - first, low, high, float(p), bool(low > 0 or high < 0))


def confidence(queries: PerQuery) -> dict[str, Any]:
    """Return the intervals of one evaluation's main metric, as in scores.json: {"monolingual": {"map": [low, high]}, …}.

    `clusters` is the number of groups of questions, `largest_cluster` the largest share of the queries in one of them;
    `no_interval` has, for each setting without an interval, the reason.
    """
    whole = count_clusters(queries.cluster_Q)
    intervals: dict[str, Any] = {
        "level": LEVEL,
        "draws": DRAWS,
        "clusters": whole.count,
        "largest_cluster": whole.largest,
        "no_interval": without_interval(queries),
    }
    for setting, metric in _measures(queries):
        values = values_of(queries, setting, metric)
        if len(values.value_V) and (one := interval([values])).low is not None:
            intervals.setdefault(setting, {})[metric] = [one.low, one.high]
    return intervals


def without_interval(queries: PerQuery) -> dict[str, str]:
    """Return each setting of the task that can have no interval, with the reason as a sentence."""
    reasons: dict[str, str] = {}
    for setting in SETTINGS:
        cluster_V = values_of(queries, setting, queries.metric).cluster_V
        if len(cluster_V) and (problem := count_clusters(cluster_V).problem):
            reasons[setting] = problem
    return reasons


def compare(before: Sequence[PerQuery], after: Sequence[PerQuery]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the fields of `Difference` of two models, one or several seeds of each: {"multilingual": {"map": {…}}, …}."""
    differences: dict[str, dict[str, dict[str, Any]]] = {}
    for setting, metric in _measures(after[0]):
        sides = [[values_of(queries, setting, metric) for queries in side] for side in (before, after)]
        # An earlier version wrote positions in settings that the task does not have.
        if all(len(values.value_V) for side in sides for values in side):
            differences.setdefault(setting, {})[metric] = asdict(difference(*sides))
    return differences


def _measures(queries: PerQuery) -> list[tuple[str, str]]:
    """Return the settings and metrics that have an interval."""
    return [*((setting, queries.metric) for setting in SETTINGS), ("multilingual", "rank_distance")]


def count_clusters(cluster_V: np.ndarray) -> Clusters:
    """Return the number of different clusters and the largest share of one."""
    _, size_G = np.unique(cluster_V, return_counts=True)
    return Clusters(len(size_G), float(size_G.max() / len(cluster_V)) if len(size_G) else 0.0)


def draw_scores(runs: Sequence[Values], draws: int = DRAWS) -> Draws:
    """Return the macro mean of each run in each draw of clusters. All runs are of the same queries."""
    clusters, cluster_V = np.unique(runs[0].cluster_V, return_inverse=True)
    parts, part_V = np.unique(runs[0].part_V, return_inverse=True)
    first = runs[0]
    if not all(
        np.array_equal(run.cluster_V, first.cluster_V) and np.array_equal(run.part_V, first.part_V) for run in runs
    ):
        raise DataError(
            "two evaluations have the positions of different queries, although their task is the same: a ranks.npz is damaged."
            " Delete both folders, and evaluate both models again."
        )
    cell_V, cells = part_V * len(clusters) + cluster_V, len(parts) * len(clusters)
    count_SG = np.bincount(cell_V, minlength=cells).reshape(len(parts), -1)
    total_RSG = [np.bincount(cell_V, run.value_V, minlength=cells).reshape(len(parts), -1) for run in runs]
    blocks = [_macro_means(draw_bG, count_SG, total_RSG) for draw_bG in draw_clusters(len(clusters), draws)]
    score_R = np.array([(total_SG.sum(axis=1) / count_SG.sum(axis=1)).mean() for total_SG in total_RSG])
    return Draws(count_clusters(cluster_V), np.concatenate(blocks), score_R)


def _macro_means(draw_bG: np.ndarray, count_SG: np.ndarray, total_RSG: Sequence[np.ndarray]) -> np.ndarray:
    """Return each run's macro mean in each of these draws: float64 [b, R]."""
    count_bS = draw_bG @ count_SG.T
    # A draw may have no query of a part that few clusters have: its macro mean is then over the other parts.
    empty_bS = count_bS == 0
    count_bS[empty_bS] = 1
    sum_bR = np.stack([(draw_bG @ total_SG.T / count_bS).sum(axis=1) for total_SG in total_RSG], axis=1)
    return sum_bR / (~empty_bS).sum(axis=1, keepdims=True)


def draw_clusters(clusters: int, draws: int) -> Iterator[np.ndarray]:
    """Yield how often each of G clusters is in each of B draws of G with replacement, some draws at a time: float64 [b, G]."""
    rows = max(1, WORDS // clusters)
    for first in range(0, draws, rows):
        yield _some_draws(clusters, first, min(rows, draws - first)).astype(np.float64)


@lru_cache(maxsize=4)  # the metrics of an evaluation, and the models of a study, use the same draws; 16 MB
def _some_draws(clusters: int, first: int, rows: int) -> np.ndarray:
    """Return the draws from `first` on: uint8 [rows, G].

    A cluster is a word modulo G; G is far below 2⁶⁴, so no cluster is likelier than another by more than 1 in 10¹⁰.
    """
    words = random_words(f"bootstrap clusters {clusters}{f' {first}' if first else ''}", rows * clusters)
    cell_N = (words % np.uint64(clusters)).astype(np.int64).reshape(rows, clusters)
    cell_N += np.arange(rows)[:, None] * clusters
    count_N = np.bincount(cell_N.ravel(), minlength=rows * clusters)
    assert count_N.max() < 256, "one cluster is in a draw too often to be chance"
    return count_N.astype(np.uint8).reshape(rows, clusters)


def seed_spread(sides: Sequence[np.ndarray]) -> SeedSpread | None:
    """Return the spread between seeds, pooled over several models; None if each has a single seed.

    Args:
        sides: the scores of each model's seeds, [R] each.
    """
    freedom = sum(len(score_R) - 1 for score_R in sides)
    if not freedom:
        return None
    return SeedSpread(float(sum(((score_R - score_R.mean()) ** 2).sum() for score_R in sides) / freedom), freedom)


def seed_noise(spread: SeedSpread | None, runs: Sequence[int], draws: int) -> np.ndarray:
    """Return how far the means of other seeds could be from those of these: float64 [B, number of models].

    Args:
        spread: spread of one run; None if nothing is known of it: no noise.
        runs: number of seeds of each model.
        draws: number of draws B.
    """
    if spread is None or not spread.variance:
        return np.zeros((draws, len(runs)))
    # One draw of the spread for all models, since it is one estimate.
    scale_B = np.sqrt(spread.variance * spread.freedom / chdtri(spread.freedom, _shares("spread", draws)))
    normal_BM = np.stack([ndtri(_shares(f"seeds {model}", draws)) for model in range(len(runs))], axis=1)
    return scale_B[:, None] * normal_BM / np.sqrt(runs)


def _shares(key: str, count: int) -> np.ndarray:
    """Return random numbers between 0 and 1, both excluded: float64 [count]."""
    return (random_words(f"bootstrap {key}", count) >> np.uint64(11)) * 2.0**-53 + 2.0**-54


def percentiles(value_B: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the middle 95 %."""
    low, high = np.quantile(value_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
