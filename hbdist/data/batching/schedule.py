"""Schedule: step → the rows of that global batch, a pure function of (manifest, config, seed, step) without stored state.

Everything is dealt from decks. A deck contains each card as often as its share says, so shares are exact over every deal;
and both "which card is dealt at t" and "how often was it dealt before" are looked up, never replayed. Any step can
therefore be computed at once, in any order, on any machine, and independently of the ranks, which only slice the result.

    kind      k = kinds.card(n)                                      mix = "step"; under "blocks" both kinds are in each step
    blocks    t = c·part/b + (0 … part/b − 1)                        c: turns that this kind had before
    pool      g = pools.card(t),  i = pools.turn(t)·b + (0 … b − 1)  the block's positions in that pool
    data set  d = datasets.card(i),  j = datasets.turn(i)            its position in that group
    row       epoch e = j // N, the (j % N)-th row of order(group, e)

Shape suffixes: B pairs of a global batch · P pairs of one kind in it, in its order · G pairs to be dealt to ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from hbdist.config.config import Config
from hbdist.data.batching.decks import Decks
from hbdist.data.batching.mixture import Kind, Mixture, plan_mixture
from hbdist.data.batching.shuffle import Orders
from hbdist.data.shards.groups import Group
from hbdist.data.shards.manifest import Manifest

DATASET_DEAL = 4_096


@dataclass(frozen=True)
class GlobalBatch:
    """The pairs of one optimizer step, over all ranks. All arrays have one entry per pair, [B]."""

    step: int
    group: np.ndarray
    """Index of the pair's group in the manifest: int64."""
    row: np.ndarray
    """Row of the pair in that group: int64."""
    epoch: np.ndarray
    """Number of completed passes over the pair's group: int64."""
    block: np.ndarray
    """Block of the pair in this batch; blocks of one pair count as one block together: int64."""
    mono: np.ndarray
    """True for a monolingual pair: bool."""

    def __len__(self) -> int:
        return len(self.group)


class KindDecks:
    """Decks of one kind: they determine each pair's group, and its position in the order of that group.

    Attributes:
        groups: indexes of the kind's groups in the manifest, pool after pool: int64 [groups].
        pool: pool of each group: int64 [groups].
        rows: number of rows of each group: int64 [groups].
    """

    def __init__(self, kind: Kind, seed: int, *, one_dataset: bool) -> None:
        self.kind = kind
        self.one_dataset = one_dataset
        self.groups = np.concatenate([pool.groups for pool in kind.pools])
        self.pool = np.repeat(np.arange(len(kind.pools)), [len(pool.groups) for pool in kind.pools])
        self.rows = np.concatenate([pool.rows for pool in kind.pools])
        self._first = np.searchsorted(self.pool, np.arange(len(kind.pools)))
        self._pools = Decks([[pool.weight for pool in kind.pools]], [f"{seed}/{kind.name} pools"])
        keys = [f"{seed}/data sets of {pool.pair}" for pool in kind.pools]
        self._datasets = Decks([pool.dataset_weights for pool in kind.pools], keys, deal=DATASET_DEAL)

    def pairs(self, turn: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs of the kind's `turn`-th turn: group, epoch, position in it, and block, int64 [P] each."""
        kind = self.kind
        pool, pool_turn = self._pools.draw(turn * kind.blocks + np.arange(kind.blocks))
        block, inside = np.divmod(np.arange(kind.part), kind.block)
        if self.one_dataset:
            dataset, dataset_turn = self._datasets.draw(pool_turn, pool)
            dataset, position = dataset[block], dataset_turn[block] * kind.block + inside
        else:
            dataset, position = self._datasets.draw(pool_turn[block] * kind.block + inside, pool[block])
        drawn = self._first[pool[block]] + dataset
        epoch, position = np.divmod(position, self.rows[drawn])
        return self.groups[drawn], epoch, position, block if kind.block > 1 else np.zeros_like(block)

    def count_before(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what was dealt before the kind's `turn`-th turn, without replaying it: how often each pool was drawn,
        int64 [pools], and the pairs of each of `groups`, int64 [groups]."""
        pool_draws = self._pools.count_before(turn * self.kind.blocks)
        # With one data set per block, the pool's deck deals one card per block, else one per pair.
        cards, pairs_per_card = (1, self.kind.block) if self.one_dataset else (self.kind.block, 1)
        dealt = [self._datasets.count_before(int(draws) * cards, pool) for pool, draws in enumerate(pool_draws)]
        return pool_draws, np.concatenate(dealt) * pairs_per_card


class Schedule:
    """Step → global batch. `schedule.batch(n)` works for any n ≥ 0, in any order; equal arguments give equal schedules.

    Args:
        groups: the manifest's groups, in its order.
        seed: the only source of randomness.
        one_dataset: the pairs of a block also share one data set.
    """

    def __init__(self, groups: Sequence[Group], mixture: Mixture, *, seed: int, one_dataset: bool = False) -> None:
        self.mixture = mixture
        self.kind_decks = [KindDecks(kind, seed, one_dataset=one_dataset) for kind in mixture.kinds]
        self._kinds = Decks([[kind.share for kind in mixture.kinds]], [f"{seed}/kinds"])
        self._orders = Orders(groups, seed)

    @classmethod
    def of(cls, config: Config, manifest: Manifest) -> "Schedule":
        """Return the schedule of a run.

        Raises:
            ConfigError: the mixture cannot be made from these shards.
        """
        mixture = plan_mixture(manifest.groups, config.batch, config.data)
        return cls(manifest.groups, mixture, seed=config.seed, one_dataset=config.batch.one_dataset)

    def batch(self, step: int) -> GlobalBatch:
        """Return the global batch of this step, counted from 0."""
        match self.mixture.mix:
            case "step":
                card, turn = self._kinds.draw(np.array([step]))
                turns = [(self.kind_decks[int(card[0])], int(turn[0]))]
            case "blocks":
                turns = [(decks, step) for decks in self.kind_decks]
            case _:
                assert_never(self.mixture.mix)
        columns = zip(*(decks.pairs(turn) for decks, turn in turns), strict=True)
        group, epoch, position, block = map(np.concatenate, columns)
        mono = np.repeat([decks.kind.name == "mono" for decks, _ in turns], [decks.kind.part for decks, _ in turns])
        # Blocks are numbered within their kind; if both kinds are in one batch, the cross-lingual ones get the first numbers.
        block[mono] += block[~mono].max(initial=-1) + 1
        return GlobalBatch(step, group, self._orders.rows(group, epoch, position), epoch, block, mono)

    def turns_before(self, step: int) -> list[int]:
        """Return how many turns each kind had before this step."""
        match self.mixture.mix:
            case "step":
                return self._kinds.count_before(step).tolist()
            case "blocks":
                return [step] * len(self.kind_decks)
            case _:
                assert_never(self.mixture.mix)


def deal_to_rank(lengths: np.ndarray, rank: int, world: int) -> np.ndarray:
    """Return the indexes of one rank's pairs, ascending: pairs are dealt longest first, in alternating direction, so that the
    ranks' counts differ by one at most and their tokens little. `lengths` are those of the pairs, [G]."""
    by_length = longest_first(lengths)
    turn = np.arange(-(-len(lengths) // world))
    position = turn * world + np.where(turn % 2 == 0, rank, world - 1 - rank)
    return np.sort(by_length[position[position < len(lengths)]])


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """Compute `np.argsort(-lengths, kind="stable")`, several times as fast for a million: int64 [G].

    NumPy's fast sorts are not stable. So equal lengths are put into the order of their indexes by a second sort.
    """
    order = np.argsort(-lengths)
    in_order = lengths[order]
    run = np.zeros(len(order), np.int64)
    np.cumsum(in_order[1:] != in_order[:-1], out=run[1:])
    key = run * len(order)
    return np.sort(key + order) - key
