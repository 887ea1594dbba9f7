"""Exposure of a run to each group, pool and data set, before it starts: computed from the decks, no batch is planned."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hbdist.config.config import Config
from hbdist.data.batching.schedule import KindDecks, Schedule
from hbdist.data.shards.manifest import Manifest

MANY_EPOCHS = 40
"""Number of epochs over a group that triggers a warning. In language modelling, 4 were found to be almost as good as new
data and repeating beyond some 40 to be worth nothing (Muennighoff et al. 2023, arXiv 2305.16264)."""
MANY_DRAWS = 40
"""Average draws of a group per batch, beyond which their spread adds little to the expected repeats."""
SHOWN = 6
"""Number of groups, pools or data sets that a list shows; it also tells how many more there are."""


@dataclass(frozen=True)
class GroupExposure:
    """Exposure of a run to one group."""

    name: str
    rows: int
    pairs: int
    """Number of pairs dealt over the whole run, repeats included."""
    repeats: float
    """Expected number of pairs, over the whole run, that are already in their batch."""

    @property
    def epochs(self) -> float:
        return self.pairs / self.rows


@dataclass(frozen=True)
class RunStatistics:
    """Composition of a run of `steps` global batches. Shares are shares of its pairs."""

    steps: int
    pairs: int
    kinds: dict[str, float]
    """Share of "mono" and of "cross"."""
    pools: dict[str, float]
    """Share of each language pair; 0 for one that is never drawn."""
    datasets: dict[str, float]
    groups: tuple[GroupExposure, ...]
    """Groups of the mixture, in the manifest's order."""

    @property
    def overused(self) -> list[GroupExposure]:
        """Groups with at least MANY_EPOCHS epochs, most epochs first."""
        return sorted((one for one in self.groups if one.epochs >= MANY_EPOCHS), key=lambda group: -group.epochs)

    @property
    def unused(self) -> list[str]:
        """Language pairs of the mixture that are in no batch."""
        return [pair for pair, share in self.pools.items() if not share]

    @property
    def repeats(self) -> float:
        """Expected number of pairs that are already in their batch."""
        return sum(group.repeats for group in self.groups)

    def text(self) -> str:
        """Return the statistics as text for people: extremes first, at most 30 lines."""
        by_epochs = sorted(self.groups, key=lambda group: -group.epochs)
        first, others = by_epochs[:SHOWN], by_epochs[SHOWN:]
        lines = [
            f"over the run   {self.steps:,} steps, {self.pairs:,} pairs",
            f"  kinds        {_shares(self.kinds)}",
            f"  languages    {_shares(self.pools)}",
            f"  data sets    {_shares(self.datasets)}",
            "epochs over each group, most first",
            *map(_line, first),
        ]
        if others:
            lines += [f"  … and {len(others):,} more, the fewest:", *map(_line, others[-3:])]
        if self.overused:
            lines += [
                f"seen {MANY_EPOCHS} times or more: lower their share, or give them more pairs",
                f"  {_some([f'{group.name} {group.epochs:,.0f} times' for group in self.overused])}",
            ]
        if self.unused:
            lines += ["in no batch: the run is too short for them", f"  {_some(self.unused)}"]
        if self.repeats >= 0.5:
            most = sorted(self.groups, key=lambda group: -group.repeats)
            lines += [
                f"about {self.repeats:,.0f} of {self.pairs:,} pairs repeat one of their own batch (masked as negatives)",
                f"  {_some([f'{group.name} {group.repeats:,.1f}' for group in most if group.repeats >= 0.05])}",
            ]
        return "\n".join(lines) + "\n"


def run_statistics(config: Config, manifest: Manifest) -> RunStatistics:
    """Compute the composition of this config's run on these shards.

    Shares, pairs and epochs are exact; repeats are estimated.

    Raises:
        ConfigError: the mixture cannot be made from these shards.
    """
    schedule = Schedule.of(config, manifest)
    total = config.steps * config.batch.size
    kinds: dict[str, float] = {}
    pools: dict[str, float] = {}
    groups: dict[int, GroupExposure] = {}
    datasets: Counter[str] = Counter()
    for decks, turns in zip(schedule.kind_decks, schedule.turns_before(config.steps), strict=True):
        kind = decks.kind
        pool_draws, pairs = decks.count_before(turns)
        kinds[kind.name] = turns * kind.part / total
        pools |= zip([pool.pair for pool in kind.pools], (pool_draws * kind.block / total).tolist(), strict=True)
        repeats = _expected_repeats_of_run(decks, turns, pool_draws, pairs)
        for index, count, repeated in zip(decks.groups.tolist(), pairs.tolist(), repeats.tolist(), strict=True):
            group = manifest.groups[index]
            groups[index] = GroupExposure(group.name, group.rows, count, repeated)
            datasets[group.dataset] += count
    shares = {name: count / total for name, count in datasets.items()}
    return RunStatistics(config.steps, total, kinds, pools, shares, tuple(groups[index] for index in sorted(groups)))


def expected_repeats(pairs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return how many of m ≥ 0 consecutive positions in the endless order of a group of N ≥ 1 rows are expected to repeat
    an earlier one's row: float64 [groups].

    Epochs are independent orders, so p last positions of one and q first positions of the next share p·q / N rows on
    average, and m positions that contain a whole epoch repeat m − N. The first position is uniform in an epoch of N.
    """
    m, n = np.asarray(pairs, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    # Of the N first positions, those that leave p = low … high of their epoch, and m − p < N of the next, contain no
    # whole epoch. As low + high = m, the sum of p·(m − p) over these L positions is L·m²/4 − L·(L² − 1)/12.
    low, high = np.maximum(1, m - n + 1), np.minimum(n, m) - 1
    partial = np.maximum(0, high - low + 1)
    shared = partial * (3 * m**2 - partial**2 + 1) / (12 * n)
    return (shared + np.where(m > n, (n - partial) * (m - n), 0)) / n


def _expected_repeats_of_run(decks: KindDecks, turns: int, pool_draws: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the expected repeats over the run, [groups].

    A batch is taken to draw a group (or its pool, if blocks mix data sets) as often as k independent draws would, k being
    the blocks of a batch; each draw brings the same number of pairs.
    """
    kind = decks.kind
    draws = pairs // kind.block if decks.one_dataset or kind.block == 1 else pool_draws[decks.pool]
    per_draw = pairs / np.maximum(1, draws)
    chance = draws / max(1, turns * kind.blocks)
    mean = chance * kind.blocks
    steady = (mean > MANY_DRAWS) | (chance == 1)
    repeats = np.where(steady, expected_repeats(mean * per_draw, decks.rows), 0)
    odds = chance / np.where(steady, 1, 1 - chance)
    binomial = (1 - chance) ** kind.blocks
    for count in range(1, min(kind.blocks, 3 * MANY_DRAWS) + 1):
        binomial = binomial * odds * (kind.blocks - count + 1) / count
        repeats += np.where(steady, 0, binomial * expected_repeats(count * per_draw, decks.rows))
    return turns * repeats


def _line(group: GroupExposure) -> str:
    return f"  {group.epochs:>10,.2f}  {group.name:<24} {group.pairs:>14,} pairs of {group.rows:,} rows"


def _shares(shares: dict[str, float]) -> str:
    names = [f"{name} {share:.2%}" for name, share in sorted(shares.items(), key=lambda item: -item[1])]
    return _some(names) + (f", least {names[-1]}" if len(names) > SHOWN else "")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
