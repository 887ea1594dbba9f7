"""How much of what a whole run will see, before it starts: looked up in the schedule's decks, no batch is planned."""

from dataclasses import dataclass

import numpy as np

from hbdist.config.config import Config
from hbdist.data.batching.schedule import Schedule, Side
from hbdist.data.shards.manifest import Manifest

MANY_EPOCHS = 40
"""Epochs over a group from which on it is warned of. In language modelling, 4 were found to be almost as good as new data
and repeating beyond some 40 to be worth nothing (Muennighoff et al. 2023, arXiv 2305.16264)."""
MANY_DRAWS = 40
"""Draws of a group a batch, on average, beyond which their spread adds little to the repeats that are expected."""
SHOWN = 6
"""Groups, pools or data sets that a list shows; it says how many more there are."""


@dataclass(frozen=True)
class GroupExposure:
    """What a run sees of one group."""

    name: str
    """As "ntrex/en-de"."""
    rows: int
    pairs: int
    """Dealt over the whole run, repeats included."""
    repeats: float
    """Pairs that are expected to stand in a batch already, over the whole run."""

    @property
    def epochs(self) -> float:
        return self.pairs / self.rows


@dataclass(frozen=True)
class RunStatistics:
    """What a run of `steps` global batches is made of. Shares are of its pairs."""

    steps: int
    pairs: int
    kinds: dict[str, float]
    """"mono" or "cross" → share."""
    pools: dict[str, float]
    """Language pair → share; 0 for one that is never drawn."""
    datasets: dict[str, float]
    """Data set → share."""
    groups: tuple[GroupExposure, ...]
    """Those of the mixture, in the manifest's order."""

    @property
    def often(self) -> list[GroupExposure]:
        """Groups that are gone through MANY_EPOCHS times or more, most often first."""
        found = [group for group in self.groups if group.epochs >= MANY_EPOCHS]
        return sorted(found, key=lambda group: -group.epochs)

    @property
    def never(self) -> list[str]:
        """Language pairs of the mixture that are in no batch."""
        return [pair for pair, share in self.pools.items() if not share]

    @property
    def repeats(self) -> float:
        """Pairs that are expected to stand in their batch already."""
        return sum(group.repeats for group in self.groups)

    def text(self) -> str:
        """For people, most extreme first, at most 30 lines."""
        by_epochs = sorted(self.groups, key=lambda group: -group.epochs)
        few, some = by_epochs[:SHOWN], by_epochs[SHOWN:]
        lines = [
            f"over the run   {self.steps:,} steps, {self.pairs:,} pairs",
            f"  kinds        {_shares(self.kinds)}",
            f"  languages    {_shares(self.pools)}",
            f"  data sets    {_shares(self.datasets)}",
            "epochs over each group, most first",
            *map(_line, few),
        ]
        if some:
            lines += [f"  … and {len(some):,} more, the fewest:", *map(_line, some[-min(3, len(some)) :])]
        return "\n".join([*lines, *self._warnings()]) + "\n"

    def _warnings(self) -> list[str]:
        lines = []
        if self.often:
            lines += [
                f"seen {MANY_EPOCHS} times or more: lower their share, or give them more pairs",
                f"  {_some([f'{group.name} {group.epochs:,.0f} times' for group in self.often])}",
            ]
        if self.never:
            lines += ["in no batch: the run is too short for them", f"  {_some(self.never)}"]
        if self.repeats >= 0.5:
            most = sorted(self.groups, key=lambda group: -group.repeats)
            lines += [
                f"about {self.repeats:,.0f} of {self.pairs:,} pairs repeat one of their own batch (masked as negatives)",
                f"  {_some([f'{group.name} {group.repeats:,.1f}' for group in most if group.repeats >= 0.05])}",
            ]
        return lines


def run_statistics(config: Config, manifest: Manifest) -> RunStatistics:
    """What the run of this config will see of these shards.

    Shares, pairs and epochs are exact; repeats are estimated.

    Raises:
        ConfigError: the mixture cannot be made from these shards.
    """
    schedule = Schedule.of(config, manifest)
    total = config.steps * config.batch.size
    kinds: dict[str, float] = {}
    pools: dict[str, float] = {}
    groups: dict[int, GroupExposure] = {}
    for side, turns in zip(schedule.sides, schedule.turns(config.steps), strict=True):
        drawn, pairs = side.seen(turns)
        kinds[side.kind.name] = turns * side.kind.part / total
        pools |= {
            pool.pair: int(blocks) * side.kind.block / total
            for pool, blocks in zip(side.kind.pools, drawn, strict=True)
        }
        repeats = _repeats(side, turns, drawn, pairs)
        for place, number in enumerate(side.groups.tolist()):
            group = manifest.groups[number]
            groups[number] = GroupExposure(group.name, group.rows, int(pairs[place]), float(repeats[place]))
    datasets: dict[str, float] = {}
    for number, seen in groups.items():
        dataset = manifest.groups[number].dataset
        datasets[dataset] = datasets.get(dataset, 0.0) + seen.pairs / total
    return RunStatistics(
        config.steps, total, kinds, pools, datasets, tuple(groups[number] for number in sorted(groups))
    )


def expected_repeats(pairs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of m places in a row in a group's endless order, how many are expected to hold a row that an earlier one holds.

    Epochs are orders of their own, so p last places of one and q first places of the next share p·q / N rows on average,
    and m places that hold a whole epoch repeat m − N. The first place is anywhere in an epoch of N with equal chance.

    Args:
        pairs: m ≥ 0, [groups].
        rows: N ≥ 1, [groups].

    Returns:
        float64 [groups].
    """
    m, n = np.asarray(pairs, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    # Of the N first places, those that leave p = low … high of their epoch, and m − p < N of the next, hold no whole one.
    low, high = np.maximum(1, m - n + 1), np.minimum(n, m) - 1
    partial = np.maximum(0, high - low + 1)
    shared = (m * (_sum(high) - _sum(low - 1)) - (_sum_of_squares(high) - _sum_of_squares(low - 1))) / n
    return (np.where(partial > 0, shared, 0) + np.where(m > n, (n - partial) * (m - n), 0)) / n


def _sum(last: np.ndarray) -> np.ndarray:
    return last * (last + 1) / 2


def _sum_of_squares(last: np.ndarray) -> np.ndarray:
    return last * (last + 1) * (2 * last + 1) / 6


def _repeats(side: Side, turns: int, drawn: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Expected repeats over the run, a group each: a batch draws a group (its pool, where blocks mix data sets) as often
    as k independent draws would, k the blocks of a batch, and each draw brings the same number of pairs."""
    kind = side.kind
    draws = pairs // kind.block if side.one_dataset or kind.block == 1 else drawn[side.pool]
    per_draw = pairs / np.maximum(1, draws)
    chance = draws / max(1, turns * kind.blocks)
    mean = chance * kind.blocks
    steady = (mean > MANY_DRAWS) | (chance == 1)
    repeats = np.where(steady, expected_repeats(mean * per_draw, side.rows), 0)
    odds = chance / np.where(steady, 1, 1 - chance)
    binomial = (1 - chance) ** kind.blocks
    for count in range(1, min(kind.blocks, 3 * MANY_DRAWS) + 1):
        binomial = binomial * odds * (kind.blocks - count + 1) / count
        repeats += np.where(steady, 0, binomial * expected_repeats(count * per_draw, side.rows))
    return turns * repeats


def _line(group: GroupExposure) -> str:
    return f"  {group.epochs:>10,.2f}  {group.name:<24} {group.pairs:>14,} pairs of {group.rows:,} rows"


def _shares(shares: dict[str, float]) -> str:
    names = [f"{name} {share:.2%}" for name, share in sorted(shares.items(), key=lambda item: -item[1])]
    return _some(names) + (f", least {names[-1]}" if len(names) > SHOWN else "")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
