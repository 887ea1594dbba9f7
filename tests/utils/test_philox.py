"""Keyed random words and orders: the same everywhere, and the fast sort equals the plain one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_schedule import plain_order

from hbdist.utils.philox import PLAIN_SORT, permutation, random_words, stable_order


def test_random_words_never_change() -> None:
    assert random_words("key", 3).tolist() == [4249316608792540176, 398813163331730794, 9988373434847145852]


@given(count=st.integers(0, 300), key=st.text(max_size=8))
def test_a_permutation_contains_every_number_once(count: int, key: str) -> None:
    assert sorted(permutation(key, count).tolist()) == list(range(count))


@pytest.mark.parametrize("count", [0, 1, PLAIN_SORT, PLAIN_SORT + 1, 5_000, (1 << 15) - 1, 1 << 15, 70_000])
def test_a_permutation_is_the_plain_sort_of_its_words(count: int) -> None:
    assert permutation("plain", count).tolist() == plain_order("plain", count)


@given(seed=st.integers(0, 10**6), same_bits=st.sampled_from([0, 16, 20, 32, 40, 48, 64]), long=st.booleans())
def test_words_that_agree_in_many_bits_are_ordered(seed: int, same_bits: int, long: bool) -> None:
    words = random_words(f"{seed}", 33_000 if long else 2_000)
    few = words[:3][np.arange(len(words)) % 3]
    low = np.uint64((1 << (64 - same_bits)) - 1)
    words = (few & ~low) | (words & low)
    assert np.array_equal(stable_order(words), np.argsort(words, kind="stable"))
