"""Decks: weighted draws with exact shares, at any time t without replaying the draws before it.

A deal of a deck contains each card as often as its share says, exactly; "which card is dealt at t" and "how often was it
dealt before" are both looked up. Many decks are handled at once, because a batch can draw from thousands of them.

    card(t) = deal[t // M][t % M],    turn(t) = (t // M)·quota[card] + number of times it is in deal[t // M][: t % M]

where deal[n] is an order of all M cards, keyed by the deck and n.

Shape suffixes: K cards of a deck · M cards of a deal · P draws.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hbdist.data.batching.array_cache import ArrayCache
from hbdist.errors import ConfigError
from hbdist.utils.philox import by_label, permutation

DEAL = 65_536
LARGEST_DEAL = 1 << 24
DEALS_BYTES = 1 << 28
"""Bytes of deals that are kept for the next batch; each language pair with several data sets takes 12 kB."""


def divide_by_weight(weights: Sequence[float], total: int) -> np.ndarray:
    """Divide `total` into integers proportional to `weights`, by largest remainder: int64 [K]."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def group_equal(*labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an order in which indexes with equal labels are adjacent, int64 [P], and the bounds of their R runs [R + 1].

    Args:
        labels: integers ≥ 0, [P] each; all labels agree within a run. Only the first one determines the order: indexes
            that agree in all labels may be in several runs if others with the same first label are between them.
    """
    first = labels[0]
    order = by_label(first) if first.max(initial=0) < 1 << 16 else np.argsort(first, kind="stable")
    new = np.ones(len(first) + 1, dtype=bool)
    new[1:-1] = False
    for label in labels:
        ordered = label[order]
        new[1:-1] |= ordered[1:] != ordered[:-1]
    return order, np.flatnonzero(new) if len(first) else np.zeros(1, dtype=np.int64)


class Decks:
    """Decks of cards 0 … K − 1, dealt by weight, without end: deals of M cards, each with card g exactly quota[g] times.

    M is `deal`; if the rarest card of a deck would get no share of it, the next power of two that gives it one.

    Args:
        weights: weights of the cards of each deck.
        keys: key of each deck's order; messages name the deck by what follows the first `/`.

    Raises:
        ConfigError: even a deal of 2²⁴ cards would not contain a deck's rarest one.
    """

    def __init__(self, weights: Sequence[Sequence[float]], keys: Sequence[str], *, deal: int = DEAL) -> None:
        self.keys = keys
        self.quotas = [_quota(of_deck, key, deal) for of_deck, key in zip(weights, keys, strict=True)]
        """Number of times that a deal of each deck contains each of its cards: int64 [K] per deck."""
        self.sizes = np.array([quota.sum() for quota in self.quotas])
        """Cards per deal, M, of each deck: int64 [decks]."""
        self._single = np.array([len(quota) == 1 for quota in self.quotas])
        self._flat_quotas = np.concatenate(self.quotas)
        self._first = np.cumsum([0, *(len(quota) for quota in self.quotas)])
        self._deals = ArrayCache(DEALS_BYTES)

    def draw(self, t: np.ndarray, deck: np.ndarray | int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the cards at times `t` [P] of these decks ([P], or one for all), and how often each was dealt before in
        its deck: int64 [P] each."""
        t = np.asarray(t, dtype=np.int64)
        decks = np.broadcast_to(deck, t.shape)
        cards, turns = np.zeros_like(t), t.copy()  # those of a deck of one card
        several = np.flatnonzero(~self._single[decks])
        if not len(several):
            return cards, turns
        number, position = np.divmod(t[several], self.sizes[decks[several]])
        order, bounds = group_equal(decks[several], number)
        by_deal = several[order]
        decks, number, position = decks[by_deal], number[order], position[order]
        sorted_cards, before = np.empty_like(position), np.empty_like(position)
        for start, end in pairwise(bounds.tolist()):
            deal, before_in_deal = self._deal(int(decks[start]), int(number[start]))
            sorted_cards[start:end] = deal[position[start:end]]
            before[start:end] = before_in_deal[position[start:end]]
        cards[by_deal] = sorted_cards
        turns[by_deal] = number * self._flat_quotas[self._first[decks] + sorted_cards] + before
        return cards, turns

    def count_before(self, t: int, deck: int = 0) -> np.ndarray:
        """Return how often each card of a deck was dealt before time `t`: int64 [K]."""
        quota = self.quotas[deck]
        deal, position = divmod(t, int(self.sizes[deck]))
        if len(quota) == 1 or position == 0:
            return deal * quota + (position if len(quota) == 1 else 0)
        return deal * quota + np.bincount(self._deal(deck, deal)[0][:position], minlength=len(quota))

    def _deal(self, deck: int, number: int) -> tuple[np.ndarray, ...]:
        """Return one deal of a deck, and for each position how often its card came before it in the deal: [M] each."""
        return self._deals.get(deck, number, _deal, f"{self.keys[deck]}/deal {number}", self.quotas[deck])


def _quota(weights: Sequence[float], key: str, deal: int) -> np.ndarray:
    if len(weights) == 1:
        return np.array([deal])
    size = deal
    while not (quota := divide_by_weight(weights, size)).all():
        size *= 2
        if size > LARGEST_DEAL:
            raise ConfigError(
                f"The rarest of {len(weights)} choices ({key.split('/', 1)[-1]}) has a share of"
                f" {min(weights) / sum(weights):.1e}, too small to be drawn even once in {LARGEST_DEAL:,}."
                " Bring batch.mono_share nearer to 0.5, lower batch.language_exponent or batch.dataset_exponent, or"
                " leave the rarest out of the mixture."
            )
    return quota


def _deal(key: str, quota: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = int(quota.sum())
    cards = np.repeat(np.arange(len(quota), dtype=np.min_scalar_type(len(quota) - 1)), quota)
    deal = cards[permutation(key, count)]
    order, _ = group_equal(deal)
    before = np.empty(count, dtype=np.min_scalar_type(int(quota.max()) - 1))
    before[order] = np.arange(count) - np.repeat(np.cumsum(quota) - quota, quota)
    return deal, before
