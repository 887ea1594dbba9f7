"""Simultaneous comparisons of many models: among all of them together, at most one in twenty grids shows a false difference.

Tested one by one, the points of a grid that are all equal are told apart in most grids. Here the largest standardised
difference decides (max-T; Westfall & Young 1993; Hothorn, Bretz & Westfall 2008):

    c = the 95 % quantile, over draws, of  max over pairs |d*_ij − d_ij| / σ_ij        σ_ij: standard deviation of d*_ij
    interval of a pair: d_ij ± c·σ_ij

All models are scored on the same drawn clusters of questions. The spread between seeds is one for all of them, estimated
from all (`bootstrap.seed_spread`): three seeds of a single point would say next to nothing.

    B draws · K models · R runs (seeds) of one
"""

from collections.abc import Collection, Sequence
from itertools import accumulate

import numpy as np

from hbdist.evaluation.metrics.bootstrap import (
    DRAWS,
    LEVEL,
    Difference,
    Draws,
    SeedSpread,
    draw_scores,
    seed_noise,
    seed_spread,
)
from hbdist.evaluation.metrics.per_query import Values


class Grid:
    """Models that are scored on the same draws: those of a study, each with the values of its seeds.

    Args:
        models: the values of each model's seeds.
        without_seed: indices of the models that were not trained, which no other seed would change.
        draws: number of draws.
    """

    def __init__(
        self, models: Sequence[Sequence[Values]], *, without_seed: Collection[int] = (), draws: int = DRAWS
    ) -> None:
        self.drawn: Draws = draw_scores([run for runs in models for run in runs], draws)
        ends = list(accumulate(len(runs) for runs in models))
        sides = [slice(end - len(runs), end) for end, runs in zip(ends, models, strict=True)]
        self.spread: SeedSpread | None = seed_spread([self.drawn.score_R[side] for side in sides])
        """Spread between seeds, over all models; None if none of them has two seeds."""
        self.mean_K = np.array([self.drawn.score_R[side].mean() for side in sides])
        noise_BK = seed_noise(self.spread, [len(runs) for runs in models], draws)
        noise_BK[:, list(without_seed)] = 0
        self._error_BK = np.stack([self.drawn.score_BR[:, side].mean(axis=1) for side in sides], axis=1) + noise_BK
        self._error_BK -= self.mean_K

    def compare(self, pairs: Sequence[tuple[int, int]]) -> list[Difference]:
        """Return the differences of these pairs of models (before, after), with intervals that hold for all together.

        `p` is the share of draws in which the largest standardised difference of any pair is at least as large.
        """
        means = [(float(self.mean_K[i]), float(self.mean_K[j])) for i, j in pairs]
        if self.drawn.clusters.problem:
            return [Difference(before, after, after - before, None, None, None, None) for before, after in means]
        draws = len(self._error_BK)
        largest_B, deviations = np.zeros(draws), []
        for i, j in pairs:
            error_B = self._error_BK[:, j] - self._error_BK[:, i]
            # Models that are the same have no spread at all, and no difference.
            deviations.append(float(error_B.std()))
            if deviations[-1]:
                np.maximum(largest_B, np.abs(error_B) / deviations[-1], out=largest_B)
        critical = float(np.quantile(largest_B, LEVEL))
        found = []
        for (before, after), deviation in zip(means, deviations, strict=True):
            change, half = after - before, critical * deviation
            size = abs(change) / deviation if deviation else (np.inf if change else 0.0)
            p = min(1.0, float((largest_B >= size).sum() + 1) / (draws + 1))
            found.append(Difference(before, after, change, change - half, change + half, p, bool(abs(change) > half)))
        return found
