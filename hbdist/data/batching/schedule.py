"""Step → the rows of that global batch: a pure function of (manifest, config, seed, step), and nothing is stored.

Everything is dealt from decks. A deck holds each card as often as its share says, to the card, so shares are exact over
every deal; and both "which card is dealt at t" and "how often was it dealt before" are looked up, never replayed. So any
step can be asked for at once, in any order, on any machine, and ranks have no part in it: they only slice the result.

    kind      k = kinds.card(n)                                      mix = "step"; under "blocks" both kinds are in each step
    blocks    t = c·part/b + (0 … part/b − 1)                        c: how often this kind had its turn before
    pool      g = pools.card(t),  i = pools.turn(t)·b + (0 … b − 1)  the block's places in that pool
    data set  d = datasets.card(i),  j = datasets.turn(i)            its place in that group
    row       epoch e = j // N, the (j % N)-th row of order(group, e)

P pairs of one kind in a batch, in its order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hbdist.config.config import Config
from hbdist.data.batching.decks import Decks
from hbdist.data.batching.mixture import Kind, Mixture, plan_mixture
from hbdist.data.batching.shuffle import Orders
from hbdist.data.shards.manifest import Group, Manifest

DATASET_DEAL = 4_096


@dataclass(frozen=True)
class GlobalBatch:
    """The pairs of one optimizer step, over all ranks. All arrays have one entry a pair, [B]."""

    step: int
    group: np.ndarray
    """int64: place of the pair's group in the manifest."""
    row: np.ndarray
    """int64: its row in that group."""
    epoch: np.ndarray
    """int64: how often its group was gone through before."""
    block: np.ndarray
    """int64: its block in this batch; blocks of one pair count as one block together."""
    mono: np.ndarray
    """bool: the pair is monolingual."""

    def __len__(self) -> int:
        return len(self.group)


class Side:
    """The decks of one kind: which group a pair is of, and which of that group's places it takes.

    Attributes:
        groups: places of the kind's groups in the manifest, pool after pool: int64 [groups].
        pool: the pool of each, [groups].
        rows: of each, [groups].
    """

    def __init__(self, kind: Kind, seed: int, *, one_dataset: bool) -> None:
        self.kind = kind
        self.one_dataset = one_dataset
        self.groups = np.concatenate([pool.groups for pool in kind.pools])
        self.pool = np.repeat(np.arange(len(kind.pools)), [len(pool.groups) for pool in kind.pools])
        self.rows = np.concatenate([pool.rows for pool in kind.pools])
        self._first = np.searchsorted(self.pool, np.arange(len(kind.pools)))
        self._pools = Decks([[pool.weight for pool in kind.pools]], [f"{seed}/{kind.name} pools"])
        self._datasets = Decks(
            [pool.dataset_weights for pool in kind.pools],
            [f"{seed}/data sets of {pool.pair}" for pool in kind.pools],
            deal=DATASET_DEAL,
        )

    def pairs(self, turn: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The kind's pairs when it has its `turn`-th turn: group, epoch, place in it, and block, int64 [P] each."""
        kind = self.kind
        blocks = np.arange(kind.blocks)
        pool, pool_turn = self._pools.draw(turn * kind.blocks + blocks)
        block, inside = np.divmod(np.arange(kind.part), kind.block)
        if self.one_dataset:
            dataset, dataset_turn = self._datasets.draw(pool_turn, pool)
            pool, dataset, place = pool[block], dataset[block], dataset_turn[block] * kind.block + inside
        else:
            pool = pool[block]
            dataset, place = self._datasets.draw(pool_turn[block] * kind.block + inside, pool)
        drawn = self._first[pool] + dataset
        epoch, place = np.divmod(place, self.rows[drawn])
        return self.groups[drawn], epoch, place, block if kind.block > 1 else np.zeros_like(block)

    def seen(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """Before the kind has its `turn`-th turn: how often each pool was drawn, int64 [pools]; pairs dealt of each of
        `groups`, int64 [groups]. Looked up, whatever the turn."""
        drawn = self._pools.seen(turn * self.kind.blocks)
        block = self.kind.block
        if self.one_dataset:
            pairs = [self._datasets.seen(int(blocks), pool) * block for pool, blocks in enumerate(drawn)]
        else:
            pairs = [self._datasets.seen(int(blocks) * block, pool) for pool, blocks in enumerate(drawn)]
        return drawn, np.concatenate(pairs)


class Schedule:
    """Step → global batch. `schedule.batch(n)` for any n ≥ 0, in any order; two of the same arguments always agree.

    Args:
        groups: the manifest's groups, in its order.
        mixture: what a batch is made of, from `plan_mixture`.
        seed: the only source of randomness.
        one_dataset: a block's pairs share one data set too.
    """

    def __init__(self, groups: Sequence[Group], mixture: Mixture, *, seed: int, one_dataset: bool = False) -> None:
        self.mixture = mixture
        self.sides = [Side(kind, seed, one_dataset=one_dataset) for kind in mixture.kinds]
        self._kinds = Decks([[kind.share for kind in mixture.kinds]], [f"{seed}/kinds"])
        self._orders = Orders(groups, seed)

    @classmethod
    def of(cls, config: Config, manifest: Manifest) -> "Schedule":
        """The schedule of a run.

        Raises:
            ConfigError: the mixture cannot be made from these shards.
        """
        mixture = plan_mixture(manifest.groups, config.batch, config.data)
        return cls(manifest.groups, mixture, seed=config.seed, one_dataset=config.batch.one_dataset)

    def batch(self, step: int) -> GlobalBatch:
        """The global batch of this step, counted from 0."""
        if self.mixture.mix == "step":
            card, turn = self._kinds.draw(np.array([step]))
            turns = [(self.sides[int(card[0])], int(turn[0]))]
        else:
            turns = [(side, step) for side in self.sides]
        group, epoch, place, block = (
            np.concatenate(column) for column in zip(*(side.pairs(turn) for side, turn in turns), strict=True)
        )
        mono = np.repeat([side.kind.name == "mono" for side, _ in turns], [side.kind.part for side, _ in turns])
        # Blocks are numbered within their kind; where both are in one batch, the cross-lingual ones come first.
        block[mono] += block[~mono].max(initial=-1) + 1
        return GlobalBatch(step, group, self._orders.rows(group, epoch, place), epoch, block, mono)

    def turns(self, step: int) -> list[int]:
        """How often each kind had its turn before this step."""
        if self.mixture.mix == "blocks":
            return [step] * len(self.sides)
        return self._kinds.seen(step).tolist()


def deal_to_ranks(lengths: np.ndarray, world: int) -> list[np.ndarray]:
    """Places of the pairs each rank gets: longest first, in a snake, so that counts differ by one at most and tokens little.

    Args:
        lengths: how long each pair is, [G].
    """
    by_length = np.argsort(-lengths, kind="stable")
    place = np.arange(len(lengths))
    column = place % world
    owner = np.where(place // world % 2 == 0, column, world - 1 - column)
    return [np.sort(by_length[owner == rank]) for rank in range(world)]
