"""Step → the rows of that global batch: a pure function of (manifest, config, seed, step), and nothing is stored.

Everything is dealt from decks. A deck holds each card as often as its share says, to the card, so shares are exact over
every deal; and both "which card is dealt at t" and "how often was it dealt before" are looked up, never replayed. So any
step can be asked for at once, in any order, on any machine, and ranks have no part in it: they only slice the result.

    kind      k = kinds.card(n)                                      mix = "step"; under "blocks" both kinds are in each step
    blocks    t = c·part/b + (0 … part/b − 1)                        c: how often this kind had its turn before
    pool      g = pools.card(t),  i = pools.turn(t)·b + (0 … b − 1)  the block's places in that pool
    data set  d = datasets.card(i),  j = datasets.turn(i)            its place in that group
    row       epoch e = j // N, the (j % N)-th row of order(group, e)

All randomness is raw Philox words, which are the same in every version of NumPy; a library's own `permutation` is not.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hbdist.config import Config
from hbdist.errors import ConfigError
from hbdist.mixture import Kind, Mixture, Pool, plan_mixture
from hbdist.shards.manifest import Group, Manifest

DEAL = 65_536
DATASET_DEAL = 4_096
LARGEST_DEAL = 1 << 24
WINDOW_SHARDS = 8
"""Shards that are open at once a group: rows are shuffled inside such a window, windows are read one after another."""


def random_words(key: str, count: int) -> np.ndarray:
    """`count` raw 64-bit words of Philox, keyed by a text: uint64 [count]."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(count)


def permutation(key: str, count: int) -> np.ndarray:
    """A keyed random order of 0 … count − 1: int64 [count], the same in every version of every library."""
    return np.argsort(random_words(key, count), kind="stable")


def quotas(weights: Sequence[float], total: int) -> np.ndarray:
    """Whole numbers proportional to `weights` that add up to `total`, by largest remainder: int64 [len(weights)]."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


class Deck:
    """Cards 0 … K − 1 dealt by weight, for ever: deals of M cards, each holding card g exactly quota[g] times.

    M is `deal`; if the rarest card would get none, the next power of two that gives it one.

    Raises:
        ConfigError: even a deal of 2²⁴ cards would not hold the rarest one.
    """

    def __init__(self, weights: Sequence[float], key: str, *, deal: int = DEAL) -> None:
        self.key = key
        self.size = deal
        self.quota = quotas(weights, deal)
        while not self.quota.all():
            self.size *= 2
            if self.size > LARGEST_DEAL:
                raise ConfigError(
                    f"The rarest of {len(weights)} choices ({key.split('/', 1)[-1]}) has a share of"
                    f" {min(weights) / sum(weights):.1e}, too small to be dealt even once in {LARGEST_DEAL:,}."
                    " Bring batch.mono_share nearer to 0.5, lower batch.language_exponent or batch.dataset_exponent, or"
                    " leave the rarest out of the mixture."
                )
            self.quota = quotas(weights, self.size)

    def draw(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cards at times `t`, and how often each was dealt before: two int64 arrays of the shape of `t`."""
        t = np.asarray(t, dtype=np.int64)
        if len(self.quota) == 1:
            return np.zeros_like(t), t
        cards, turns = np.empty_like(t), np.empty_like(t)
        deals, places = np.divmod(t, self.size)
        for number in np.unique(deals):
            here = deals == number
            deal, before = _deal(self.key, tuple(self.quota.tolist()), int(number))
            cards[here] = deal[places[here]]
            turns[here] = number * self.quota[cards[here]] + before[places[here]]
        return cards, turns


@lru_cache(maxsize=256)
def _deal(key: str, quota: tuple[int, ...], number: int) -> tuple[np.ndarray, np.ndarray]:
    """One deal, and for each place how often its card came before in it: two int32 arrays [M]."""
    cards = np.repeat(np.arange(len(quota), dtype=np.int32), quota)
    deal = cards[permutation(f"{key}/deal {number}", len(cards))]
    by_card = np.argsort(deal, kind="stable")
    first = np.repeat(np.cumsum([0, *quota[:-1]]), quota)
    before = np.empty(len(deal), dtype=np.int32)
    before[by_card] = np.arange(len(deal)) - first
    return deal, before


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


class Schedule:
    """Step → global batch. `schedule.batch(n)` for any n ≥ 0, in any order; two of the same arguments always agree.

    Args:
        groups: the manifest's groups, in its order.
        mixture: what a batch is made of, from `plan_mixture`.
        seed: the only source of randomness.
        one_dataset: a block's pairs share one data set too.
    """

    def __init__(self, groups: Sequence[Group], mixture: Mixture, *, seed: int, one_dataset: bool = False) -> None:
        self.groups = groups
        self.mixture = mixture
        self.seed = seed
        self.one_dataset = one_dataset
        self._kinds = Deck([kind.share for kind in mixture.kinds], f"{seed}/kinds")
        self._pools = {
            kind.name: Deck([pool.weight for pool in kind.pools], f"{seed}/{kind.name} pools") for kind in mixture.kinds
        }
        self._datasets = {
            pool.pair: Deck(pool.dataset_weights, f"{seed}/data sets of {pool.pair}", deal=DATASET_DEAL)
            for kind in mixture.kinds
            for pool in kind.pools
        }

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
            parts = [self._part(self.mixture.kinds[int(card[0])], int(turn[0]))]
        else:
            parts = [self._part(kind, step) for kind in self.mixture.kinds]
        group, row, epoch, block, mono = (np.concatenate(column) for column in zip(*parts, strict=True))
        # Blocks are numbered within their kind; both kinds can be in one batch.
        block = np.unique(np.stack([mono, block]), axis=1, return_inverse=True)[1].reshape(-1)
        return GlobalBatch(step, group, row, epoch, block, mono)

    def _part(self, kind: Kind, turn: int) -> tuple[np.ndarray, ...]:
        """This kind's pairs when it has its `turn`-th turn: group, row, epoch, block, mono, each [part]."""
        blocks = np.arange(kind.blocks)
        pools, pool_turns = self._pools[kind.name].draw(turn * kind.blocks + blocks)
        group, row, epoch = (np.empty((kind.blocks, kind.block), dtype=np.int64) for _ in range(3))
        for number in np.unique(pools):
            here = pools == number
            group[here], row[here], epoch[here] = self._rows(kind.pools[number], pool_turns[here], kind.block)
        block = np.repeat(blocks if kind.block > 1 else np.zeros_like(blocks), kind.block)
        mono = np.full(kind.part, kind.name == "mono")
        return group.reshape(-1), row.reshape(-1), epoch.reshape(-1), block, mono

    def _rows(self, pool: Pool, turns: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Group, row and epoch of the pairs of these blocks of one pool: each int64 [len(turns), block]."""
        deck = self._datasets[pool.pair]
        inside = np.arange(block)
        if self.one_dataset:
            dataset, block_turns = deck.draw(turns)
            dataset = np.repeat(dataset[:, None], block, axis=1)
            place = block_turns[:, None] * block + inside
        else:
            dataset, place = deck.draw(turns[:, None] * block + inside)
        epoch, place = np.divmod(place, np.asarray(pool.rows)[dataset])
        group = np.asarray(pool.groups)[dataset]
        row = np.empty_like(place)
        for number, turn in {(int(g), int(e)) for g, e in zip(group.flat, epoch.flat, strict=True)}:
            here = (group == number) & (epoch == turn)
            row[here] = self._order(number, turn, place[here])
        return group, row, epoch

    def _order(self, group: int, epoch: int, places: np.ndarray) -> np.ndarray:
        """The rows at these places of a group's order in this epoch: int64, of the shape of `places`."""
        one = self.groups[group]
        rows = tuple(shard.rows for shard in one.shards)
        key = f"{self.seed}/order of {one.name}/epoch {epoch}"
        starts, windows = _windows(key, rows)
        which = np.searchsorted(starts, places, side="right") - 1
        found = np.empty_like(places)
        for number in np.unique(which):
            here = which == number
            found[here] = _window_rows(f"{key}/window {number}", windows[number], rows)[places[here] - starts[number]]
        return found


@lru_cache(maxsize=1024)
def _windows(key: str, rows: tuple[int, ...]) -> tuple[np.ndarray, tuple[tuple[int, ...], ...]]:
    """Where each window of shuffled shards starts in the epoch, int64 [windows], and the shards of each."""
    shards = permutation(f"{key}/shards", len(rows))
    windows = tuple(tuple(shards[i : i + WINDOW_SHARDS].tolist()) for i in range(0, len(shards), WINDOW_SHARDS))
    sizes = [sum(rows[shard] for shard in window) for window in windows]
    return np.cumsum([0, *sizes[:-1]]), windows


@lru_cache(maxsize=1024)
def _window_rows(key: str, window: tuple[int, ...], rows: tuple[int, ...]) -> np.ndarray:
    """The rows of a window in their shuffled order, as row numbers of the whole group: int64."""
    starts = np.cumsum([0, *rows[:-1]])
    members = np.concatenate([starts[shard] + np.arange(rows[shard]) for shard in window])
    return members[permutation(key, len(members))]


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
