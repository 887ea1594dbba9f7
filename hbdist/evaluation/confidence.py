"""How far a score, or the difference of two, may come from the choice of questions and of seeds alone.

A bootstrap over clusters: questions on one paragraph, and a question's translations, stand or fall together, so whole
paragraphs are drawn with replacement, all their queries in all languages at once. Intervals are percentiles: the middle
95 % of 10,000 draws. Draws come from raw Philox words with a fixed key: the same values give the same interval always.

    V values · S parts of a macro mean (languages, or language pairs) · G clusters · B draws · R runs (seeds)
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hbdist.evaluation.per_query import PerQuery, Values, values_of
from hbdist.evaluation.scores import SETTINGS
from hbdist.randomness import random_words

DRAWS = 10_000
LEVEL = 0.95

MEASURES = (*((setting, "map") for setting in SETTINGS), ("multilingual", "rank_distance"))
"""What is given an interval: (setting, metric)."""


@dataclass(frozen=True)
class Interval:
    """A score with the middle 95 % of what it would be with other paragraphs (and seeds)."""

    mean: float
    low: float
    high: float
    runs: int
    clusters: int


@dataclass(frozen=True)
class Difference:
    """After minus before, on the same questions."""

    before: float
    after: float
    """The macro means, over all seeds of each side."""
    mean: float
    """Their difference."""
    low: float
    high: float
    p: float
    """Twice the share of draws on the other side of zero, at most 1 and at least 2/(B + 1)."""
    real: bool
    """Whether zero is outside of the interval. If not, the questions (and seeds) cannot tell the two apart."""


def interval(runs: Sequence[Values], *, draws: int = DRAWS) -> Interval:
    """The macro mean of one model, or of several seeds of one.

    Args:
        runs: the values of each seed, on the same queries. With several, seeds are drawn as well as paragraphs.
        draws: B.
    """
    draw_BG, score_BR, score_R = _draw_scores(runs, draws)
    low, high = _percentiles(_over_seeds(score_BR, score_R, "seeds"))
    return Interval(float(score_R.mean()), low, high, len(runs), draw_BG.shape[1])


def difference(before: Sequence[Values], after: Sequence[Values], *, draws: int = DRAWS) -> Difference:
    """The paired difference of two models' macro means: both are scored on the same drawn paragraphs.

    Seeds of the two are drawn independently of one another, also where their numbers are the same.

    Args:
        before, after: the values of each seed, all on the same queries.
        draws: B.
    """
    _, score_BR, score_R = _draw_scores([*before, *after], draws)
    split = len(before)
    after_B = _over_seeds(score_BR[:, split:], score_R[split:], "seeds after")
    change_B = after_B - _over_seeds(score_BR[:, :split], score_R[:split], "seeds before")
    low, high = _percentiles(change_B)
    side = min((change_B <= 0).sum(), (change_B >= 0).sum())
    p = min(1.0, 2 * (side + 1) / (draws + 1))
    means = float(score_R[:split].mean()), float(score_R[split:].mean())
    return Difference(*means, means[1] - means[0], low, high, float(p), bool(low > 0 or high < 0))


def confidence(kept: PerQuery) -> dict[str, Any]:
    """The intervals of one evaluation, as in scores.json: {"monolingual": {"map": [low, high]}, …}."""
    found: dict[str, Any] = {"level": LEVEL, "draws": DRAWS, "clusters": len(np.unique(kept.cluster_Q))}
    for setting, metric in MEASURES:
        values = values_of(kept, setting, metric)
        if len(values.value_V):
            one = interval([values])
            found.setdefault(setting, {})[metric] = [one.low, one.high]
    return found


def compare(before: Sequence[PerQuery], after: Sequence[PerQuery]) -> dict[str, dict[str, dict[str, Any]]]:
    """Paired differences of two models on one task, one or several seeds of each: {"multilingual": {"map": {…}}, …}.

    The innermost has the fields of `Difference`.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for setting, metric in MEASURES:
        sides = [[values_of(kept, setting, metric) for kept in side] for side in (before, after)]
        if len(sides[0][0].value_V):
            found.setdefault(setting, {})[metric] = asdict(difference(*sides))
    return found


def _draw_scores(runs: Sequence[Values], draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each cluster is in each draw [B, G], each run's macro mean in each draw [B, R], and as it is [R]."""
    clusters, cluster_V = np.unique(runs[0].cluster_V, return_inverse=True)
    parts, part_V = np.unique(runs[0].part_V, return_inverse=True)
    assert all(
        np.array_equal(run.cluster_V, runs[0].cluster_V) and np.array_equal(run.part_V, runs[0].part_V) for run in runs
    ), "the runs are not of the same queries"
    draw_BG = draw_clusters(len(clusters), draws)
    cell_V, cells = part_V * len(clusters) + cluster_V, len(parts) * len(clusters)
    count_SG = np.bincount(cell_V, minlength=cells).reshape(len(parts), -1)
    total_RSG = [np.bincount(cell_V, run.value_V, minlength=cells).reshape(len(parts), -1) for run in runs]
    count_BS = draw_BG @ count_SG.T
    # A draw may hold no query of a part that few clusters have: its macro mean is then over the others.
    empty_BS = count_BS == 0
    score_BR = np.stack(
        [
            np.where(empty_BS, 0, draw_BG @ total_SG.T / np.where(empty_BS, 1, count_BS)).sum(axis=1)
            / (~empty_BS).sum(axis=1)
            for total_SG in total_RSG
        ],
        axis=1,
    )
    score_R = np.array([(total_SG.sum(axis=1) / count_SG.sum(axis=1)).mean() for total_SG in total_RSG])
    return draw_BG, score_BR, score_R


def draw_clusters(clusters: int, draws: int, *, key: str = "clusters") -> np.ndarray:
    """How often each of G clusters is in each of B draws of G with replacement: float64 [B, G], rows add up to G.

    A word modulo G; G is far below 2⁶⁴, so no cluster is likelier than another by more than 1 in 10¹⁰.
    """
    drawn_BG = random_words(f"bootstrap {key} {clusters}", draws * clusters).reshape(draws, clusters)
    drawn_BG = (drawn_BG % np.uint64(clusters)).astype(np.int64) + np.arange(draws)[:, None] * clusters
    return np.bincount(drawn_BG.ravel(), minlength=draws * clusters).reshape(draws, clusters).astype(np.float64)


def _over_seeds(score_BR: np.ndarray, score_R: np.ndarray, key: str) -> np.ndarray:
    """The mean over runs in each draw, runs drawn with replacement too: float64 [B].

    Drawing R runs from R understates their variance by (R − 1)/R, much for three seeds, so what the drawing of runs
    changes is scaled up by √(R/(R − 1)).
    """
    draws, runs = score_BR.shape
    if runs == 1:
        return score_BR[:, 0]
    extra_BR = draw_clusters(runs, draws, key=key) - 1
    return score_BR.mean(axis=1) + (extra_BR * score_BR).mean(axis=1) * np.sqrt(runs / (runs - 1))


def _percentiles(value_B: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(value_B, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
