"""Decks: exact shares, and draws at any time as if all earlier ones had been dealt."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_schedule import plain_draw, plain_quota

from hbdist.data.batching.decks import DEAL, Decks, divide_by_weight, group_equal
from hbdist.errors import ConfigError

weights_lists = st.lists(st.floats(0.1, 10), min_size=1, max_size=9)


def deck(weights: list[float], key: str = "test") -> Decks:
    return Decks([weights], [key])


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=30), total=st.integers(30, 5000))
def test_divided_totals_add_up_and_are_off_by_less_than_one(weights: list[float], total: int) -> None:
    counts = divide_by_weight(weights, total)
    assert counts.sum() == total
    assert np.all(np.abs(counts - np.array(weights) / sum(weights) * total) < 1)
    assert counts.tolist() == plain_quota(weights, total) or not counts.all()


@given(weights=weights_lists, deal=st.integers(0, 3))
def test_shares_are_exact_in_every_deal(weights: list[float], deal: int) -> None:
    decks = deck(weights)
    size, quota = int(decks.sizes[0]), decks.quotas[0]
    cards, turns = decks.draw(deal * size + np.arange(size))
    assert np.array_equal(np.bincount(cards, minlength=len(weights)), quota)
    for card, count in enumerate(quota):
        # Each turn of a card occurs once, in order.
        assert np.array_equal(turns[cards == card], deal * count + np.arange(count))


@given(
    weights=st.lists(weights_lists, min_size=1, max_size=6),
    draws=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2_000)), min_size=1, max_size=40),
)
def test_many_decks_at_once_deal_as_each_would_alone(weights: list[list[float]], draws: list[tuple[int, int]]) -> None:
    keys = [f"{number}" for number in range(len(weights))]
    decks = Decks(weights, keys, deal=128)
    which, t = np.array([(number % len(weights), time) for number, time in draws]).T
    cards, turns = decks.draw(t, which)
    for number, time, card, turn in zip(which.tolist(), t.tolist(), cards.tolist(), turns.tolist(), strict=True):
        assert (card, turn) == plain_draw(weights[number], keys[number], 128, time)


@given(weights=weights_lists, t=st.integers(0, 1_000))
def test_counts_before_a_time_are_those_of_the_cards_dealt(weights: list[float], t: int) -> None:
    decks = Decks([weights], ["seen"], deal=128)
    cards, _ = decks.draw(np.arange(t))
    assert np.array_equal(decks.count_before(t), np.bincount(cards, minlength=len(weights)))


def test_shares_inside_a_deal_are_within_binomial_error() -> None:
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    cards, _ = deck(shares.tolist(), "inside").draw(np.arange(4000))
    error = np.abs(np.bincount(cards, minlength=4) / 4000 - shares) / np.sqrt(shares * (1 - shares) / 4000)
    assert error.max() < 4


def test_the_rarest_card_gets_a_larger_deal_or_an_error() -> None:
    assert deck([1, 1e-5]).sizes == DEAL
    assert deck([1, 1e-6]).sizes == 8 * DEAL
    assert deck([1, 1 / (1 << 24)], "largest").sizes == 1 << 24
    with pytest.raises(ConfigError) as error:
        deck([3, 1, 1e-9], "1/data sets of a/b")
    assert str(error.value) == (
        "The rarest of 3 choices (data sets of a/b) has a share of 2.5e-10, too small to be drawn even once in 16,777,216."
        " Bring batch.mono_share nearer to 0.5, lower batch.language_exponent or batch.dataset_exponent, or leave the rarest"
        " out of the mixture."
    )


def test_a_deck_of_many_cards_deals_them_all() -> None:
    cards, turns = deck([1.0] * 70_000).draw(np.arange(2 * DEAL))
    assert np.bincount(cards).min() >= 1
    assert turns.max() == np.bincount(cards).max() - 1


@given(labels=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=30), far=st.sampled_from([0, 1 << 20]))
def test_equal_labels_are_adjacent_in_the_order(labels: list[tuple[int, int]], far: int) -> None:
    first, second = np.array(labels, dtype=np.int64).reshape(-1, 2).T
    order, bounds = group_equal(first + far, second)
    assert sorted(order.tolist()) == list(range(len(labels)))
    runs = [order[start:end].tolist() for start, end in pairwise(bounds)]
    assert all(len({labels[index] for index in run}) == 1 for run in runs)
    assert [index for run in runs for index in run] == order.tolist()
    assert first[order].tolist() == sorted(first.tolist())


def test_a_deck_of_one_card_deals_it_at_every_time() -> None:
    decks = Decks([[2.0], [1.0, 1.0]], ["one", "two"], deal=4)
    assert decks.sizes.tolist() == [4, 4]
    cards, turns = decks.draw(np.array([0, 7, 10**12]), 0)
    assert (cards.tolist(), turns.tolist()) == ([0, 0, 0], [0, 7, 10**12])
    assert decks.count_before(7).tolist() == [7]
    assert decks.count_before(8, 1).tolist() == [4, 4]
    assert decks.count_before(0, 1).tolist() == [0, 0]


def test_a_draw_without_times_is_empty() -> None:
    cards, turns = deck([1.0, 2.0]).draw(np.array([], dtype=np.int64))
    assert (cards.tolist(), turns.tolist()) == ([], [])


def test_draws_leave_the_times_unchanged_and_are_int64() -> None:
    t = np.array([3, 1, 2])
    for weights in ([1.0], [1.0, 2.0]):
        cards, turns = deck(weights).draw(t)
        assert (cards.dtype, turns.dtype) == (np.int64, np.int64)
    assert t.tolist() == [3, 1, 2]


def test_a_remainder_goes_to_the_largest_rest_and_of_equal_ones_to_the_first() -> None:
    assert divide_by_weight([1, 1, 1], 5).tolist() == [2, 2, 1]
    assert divide_by_weight([0.6, 0.6, 1.8], 5).tolist() == [1, 1, 3]
    assert divide_by_weight([1] * 40, 59).tolist() == [2] * 19 + [1] * 21
    # 10/9 and 20/9: the first ten of thirty rests of 2/9, which a sort that is not stable would not find.
    assert divide_by_weight([1, 2] * 30, 100).tolist() == [1, 3] * 10 + [1, 2] * 20


def test_decks_need_as_many_keys_as_weights() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Decks([[1.0], [1.0]], ["one"])


@pytest.mark.parametrize("cards", [255, 256, 257, 65_537])
def test_a_deck_has_room_for_the_number_of_each_card(cards: int) -> None:
    decks = Decks([[1.0] * cards], ["many"], deal=2 * cards)
    dealt, turns = decks.draw(np.arange(2 * cards))
    assert np.array_equal(np.bincount(dealt), [2] * cards)
    assert turns.max() == 1


@pytest.mark.parametrize("far", [1 << 16, 1 << 17])
def test_runs_are_as_long_as_their_labels_are_equal(far: int) -> None:
    first, second = np.array([far, 0, far, 0, 1, 0, far + 1]), np.array([7, 5, 7, 5, 5, 6, 7])
    order, bounds = group_equal(first, second)
    assert order.tolist() == [1, 3, 5, 4, 0, 2, 6]
    assert bounds.tolist() == [0, 2, 3, 4, 6, 7]
    assert group_equal(first[:2], second[:2])[1].tolist() == [0, 1, 2]
    assert group_equal(np.array([3, 3, 3]))[1].tolist() == [0, 3]
    assert group_equal(np.array([], dtype=np.int64))[1].tolist() == [0]
