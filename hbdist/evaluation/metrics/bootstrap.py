"""Confidence intervals of scores and of their differences, by a bootstrap over clusters of questions and over seeds.

Questions on one paragraph, and the translations of a question, are not independent of one another. So whole paragraphs are
drawn with replacement, with all their queries in all languages. Intervals are percentiles: the middle 95 % of 10,000 draws.
Draws come from raw Philox words with a fixed key: the same values always give the same interval.

Of R seeds, R − 1 are drawn with replacement. The variance of their mean is that of the mean of R seeds, s²/R (McCarthy &
Snowden 1985; Rao & Wu 1988); if R were drawn from R, it would be (R − 1)/R of that. The result is a mean of scores, so no
interval leaves the range of possible scores.

    V values · S parts of a macro mean (languages, or language pairs) · G clusters · B draws · b some of them · R runs (seeds)
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hbdist.evaluation.metrics.per_query import PerQuery, Values, values_of
from hbdist.evaluation.scores import SETTINGS
from hbdist.utils.philox import random_words

DRAWS = 10_000
"""Number B of draws."""

LEVEL = 0.95
"""Share of the draws that are inside of an interval."""

WORDS = 1 << 22
"""Number of random words in memory at once, so that memory does not grow with the number of questions."""


@dataclass(frozen=True)
class Interval:
    """Score with the middle 95 % of its values over draws of paragraphs (and seeds)."""

    mean: float
    low: float
    high: float
    runs: int
    clusters: int


@dataclass(frozen=True)
class Difference:
    """Difference after minus before, on the same questions."""

    before: float
    """Macro mean over all seeds before."""
    after: float
    """Macro mean over all seeds after."""
    mean: float
    """Difference of these means."""
    low: float
    high: float
    p: float
    """Two-sided p-value: twice the share of draws on the other side of zero, at most 1 and at least 2/(B + 1)."""
    real: bool
    """Flag: zero is outside of the interval. Otherwise the questions (and seeds) cannot tell the two apart."""


def interval(runs: Sequence[Values], *, draws: int = DRAWS) -> Interval:
    """Return the macro mean, with its interval, of one model's seeds on the same queries.

    With several seeds, seeds are drawn as well as paragraphs.
    """
    clusters, score_BR, score_R = _draw_scores(runs, draws)
    low, high = _percentiles(_over_seeds(score_BR, "seeds"))
    return Interval(float(score_R.mean()), low, high, len(runs), clusters)


def difference(before: Sequence[Values], after: Sequence[Values], *, draws: int = DRAWS) -> Difference:
    """Return the paired difference of two models' macro means: both are scored on the same drawn paragraphs.

    Both sides have the values of each seed, all on the same queries. The seeds of the two are drawn independently of one
    another, even if both have the same number.
    """
    _, score_BR, score_R = _draw_scores([*before, *after], draws)
    split = len(before)
    change_B = _over_seeds(score_BR[:, split:], "seeds after") - _over_seeds(score_BR[:, :split], "seeds before")
    low, high = _percentiles(change_B)
    side = min((change_B <= 0).sum(), (change_B >= 0).sum())
    p = min(1.0, 2 * (side + 1) / (draws + 1))
    means = float(score_R[:split].mean()), float(score_R[split:].mean())
    return Difference(*means, means[1] - means[0], low, high, float(p), bool(low > 0 or high < 0))


def confidence(queries: PerQuery) -> dict[str, Any]:
    """Return the intervals of one evaluation's main metric, as in scores.json: {"monolingual": {"map": [low, high]}, …}."""
    intervals: dict[str, Any] = {"level": LEVEL, "draws": DRAWS, "clusters": len(np.unique(queries.cluster_Q))}
    for setting, metric in _measures(queries):
        values = values_of(queries, setting, metric)
        if len(values.value_V):
            one = interval([values])
            intervals.setdefault(setting, {})[metric] = [one.low, one.high]
    return intervals


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


def _draw_scores(runs: Sequence[Values], draws: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the number of clusters, each run's macro mean in each draw [B, R], and its macro mean without a draw [R]."""
    clusters, cluster_V = np.unique(runs[0].cluster_V, return_inverse=True)
    parts, part_V = np.unique(runs[0].part_V, return_inverse=True)
    assert all(
        np.array_equal(run.cluster_V, runs[0].cluster_V) and np.array_equal(run.part_V, runs[0].part_V) for run in runs
    ), "the runs are not of the same queries"
    cell_V, cells = part_V * len(clusters) + cluster_V, len(parts) * len(clusters)
    count_SG = np.bincount(cell_V, minlength=cells).reshape(len(parts), -1)
    total_RSG = [np.bincount(cell_V, run.value_V, minlength=cells).reshape(len(parts), -1) for run in runs]
    blocks = [_macro_means(draw_bG, count_SG, total_RSG) for draw_bG in draw_clusters(len(clusters), draws)]
    score_R = np.array([(total_SG.sum(axis=1) / count_SG.sum(axis=1)).mean() for total_SG in total_RSG])
    return len(clusters), np.concatenate(blocks), score_R


def _macro_means(draw_bG: np.ndarray, count_SG: np.ndarray, total_RSG: Sequence[np.ndarray]) -> np.ndarray:
    """Return each run's macro mean in each of these draws: float64 [b, R]."""
    count_bS = draw_bG @ count_SG.T
    # A draw may have no query of a part that few clusters have: its macro mean is then over the other parts.
    empty_bS = count_bS == 0
    count_bS[empty_bS] = 1
    sum_bR = np.stack([(draw_bG @ total_SG.T / count_bS).sum(axis=1) for total_SG in total_RSG], axis=1)
    return sum_bR / (~empty_bS).sum(axis=1, keepdims=True)


def draw_clusters(clusters: int, draws: int, *, taken: int = 0, key: str = "clusters") -> Iterator[np.ndarray]:
    """Yield how often each of G clusters is in each of B draws with replacement, some draws at a time: float64 [b, G].

    A draw has `taken` clusters, by default G, which is the sum of a row. Another key gives other draws.
    """
    taken = taken or clusters
    rows = max(1, WORDS // max(clusters, taken))
    for first in range(0, draws, rows):
        yield _some_draws(key, clusters, taken, first, min(rows, draws - first)).astype(np.float64)


@lru_cache(maxsize=4)  # the metrics of an evaluation, and the models of a study, use the same draws; 16 MB
def _some_draws(key: str, clusters: int, taken: int, first: int, rows: int) -> np.ndarray:
    """Return the draws from `first` on: uint8 [rows, G].

    A cluster is a word modulo G; G is far below 2⁶⁴, so no cluster is likelier than another by more than 1 in 10¹⁰.
    """
    words = random_words(f"bootstrap {key} {clusters}{f' {first}' if first else ''}", rows * taken)
    cell_N = (words % np.uint64(clusters)).astype(np.int64).reshape(rows, taken)
    cell_N += np.arange(rows)[:, None] * clusters
    count_N = np.bincount(cell_N.ravel(), minlength=rows * clusters)
    assert count_N.max() < 256, "one cluster is in a draw too often to be chance"
    return count_N.astype(np.uint8).reshape(rows, clusters)


def _over_seeds(score_BR: np.ndarray, key: str) -> np.ndarray:
    """Return the mean over runs in each draw, for which R − 1 of the R runs are drawn with replacement too: float64 [B]."""
    draws, runs = score_BR.shape
    if runs == 1:
        return score_BR[:, 0]
    drawn_BR = np.concatenate(list(draw_clusters(runs, draws, taken=runs - 1, key=key)))
    return (drawn_BR * score_BR).sum(axis=1) / (runs - 1)


def _percentiles(value_B: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(value_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
