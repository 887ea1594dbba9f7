"""Decks: what is drawn by weight, with exact shares, at any time without having been there before.

A deck holds each card as often as its share says, to the card; "which card is dealt at t" and "how often was it dealt
before" are both looked up. Decks lie side by side, because a batch can draw from thousands of them.

    card(t) = deal[t // M][t % M],    turn(t) = (t // M)·quota[card] + how often it is in deal[t // M][: t % M]

where deal[n] is an order of all M cards, keyed by the deck and n.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hbdist.data.batching.window_cache import Recent
from hbdist.errors import ConfigError
from hbdist.utils.philox import by_label, permutation

DEAL = 65_536
LARGEST_DEAL = 1 << 24
DEALS_BYTES = 1 << 28
"""Deals that decks keep, so that the next batch finds them: 12 kB for each language pair with several data sets."""


def quotas(weights: Sequence[float], total: int) -> np.ndarray:
    """Whole numbers proportional to `weights` that add up to `total`, by largest remainder: int64 [len(weights)]."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return counts


def runs(*labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal places side by side: an order in which they are, int64 [P], and where each run begins, and the end [R + 1].

    Args:
        labels: whole numbers ≥ 0, [P] each; a run's places agree in all of them. The first one makes the order: where
            it alone does not, equal places may be in several runs.
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
    """Decks of cards 0 … K − 1, dealt by weight, for ever: deals of M cards, each holding card g exactly quota[g] times.

    M is `deal`; where the rarest card of a deck would get none, the next power of two that gives it one.

    Args:
        weights: of the cards of each deck.
        keys: of each deck's order; what follows the first `/` names it in messages.

    Raises:
        ConfigError: even a deal of 2²⁴ cards would not hold a deck's rarest one.
    """

    def __init__(self, weights: Sequence[Sequence[float]], keys: Sequence[str], *, deal: int = DEAL) -> None:
        self.keys = keys
        self.quotas = [_quota(of_deck, key, deal) for of_deck, key in zip(weights, keys, strict=True)]
        """How often a deal of a deck holds each of its cards: int64 [K] a deck."""
        self.sizes = np.array([quota.sum() for quota in self.quotas])
        """Cards of a deal, M: int64, one a deck."""
        self._single = np.array([len(quota) == 1 for quota in self.quotas])
        self._flat_quotas = np.concatenate(self.quotas)
        self._first = np.cumsum([0, *(len(quota) for quota in self.quotas)])
        self._deals = Recent(DEALS_BYTES)

    def draw(self, t: np.ndarray, deck: np.ndarray | int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The cards at times `t` of the decks `deck`, and how often each was dealt before in its deck: int64 [P] each.

        Args:
            t: times, [P].
            deck: whose, [P], or one for all.
        """
        t = np.asarray(t, dtype=np.int64)
        deck = np.broadcast_to(deck, t.shape)
        cards, turns = np.zeros_like(t), t.copy()  # a deck of one card
        drawn = np.flatnonzero(~self._single[deck])
        if len(drawn):
            cards[drawn], turns[drawn] = self._draw(t[drawn], deck[drawn])
        return cards, turns

    def _draw(self, t: np.ndarray, deck: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number, place = np.divmod(t, self.sizes[deck])
        order, bounds = runs(deck, number)
        place = place[order]
        cards, before = np.empty_like(t), np.empty_like(t)
        first = order[bounds[:-1]]
        for one, deal, (start, end) in zip(
            deck[first].tolist(), number[first].tolist(), pairwise(bounds.tolist()), strict=True
        ):
            of_deal, before_of_deal = self._deal(one, deal)
            cards[start:end] = of_deal[place[start:end]]
            before[start:end] = before_of_deal[place[start:end]]
        deck, number = deck[order], number[order]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return cards[back], (number * self._flat_quotas[self._first[deck] + cards] + before)[back]

    def seen(self, t: int, deck: int = 0) -> np.ndarray:
        """How often each card of a deck was dealt before time `t`: int64 [K]."""
        quota = self.quotas[deck]
        deal, place = divmod(t, int(self.sizes[deck]))
        if len(quota) == 1 or place == 0:
            return deal * quota + (place if len(quota) == 1 else 0)
        return deal * quota + np.bincount(self._deal(deck, deal)[0][:place], minlength=len(quota))

    def _deal(self, deck: int, number: int) -> tuple[np.ndarray, ...]:
        """One deal of a deck, and for each place how often its card came before in it: [M] each."""
        return self._deals.get(deck, number, _deal, f"{self.keys[deck]}/deal {number}", self.quotas[deck])


def _quota(weights: Sequence[float], key: str, deal: int) -> np.ndarray:
    if len(weights) == 1:
        return np.array([deal])
    size = deal
    while not (quota := quotas(weights, size)).all():
        size *= 2
        if size > LARGEST_DEAL:
            raise ConfigError(
                f"The rarest of {len(weights)} choices ({key.split('/', 1)[-1]}) has a share of"
                f" {min(weights) / sum(weights):.1e}, too small to be dealt even once in {LARGEST_DEAL:,}."
                " Bring batch.mono_share nearer to 0.5, lower batch.language_exponent or batch.dataset_exponent, or"
                " leave the rarest out of the mixture."
            )
    return quota


def _deal(key: str, quota: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = int(quota.sum())
    cards = np.repeat(np.arange(len(quota), dtype=np.min_scalar_type(len(quota) - 1)), quota)
    deal = cards[permutation(key, count)]
    order = by_label(deal) if len(quota) <= 1 << 16 else np.argsort(deal, kind="stable")
    before = np.empty(count, dtype=np.min_scalar_type(int(quota.max()) - 1))
    before[order] = np.arange(count) - np.repeat(np.cumsum(quota) - quota, quota)
    return deal, before
