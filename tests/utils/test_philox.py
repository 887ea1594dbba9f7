"""Random orders are the same everywhere, the fast sort is the plain one, and what is kept is bounded by its bytes."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_schedule import plain_order

from hbdist.data.batching.window_cache import Recent
from hbdist.utils.philox import PLAIN_SORT, permutation, random_words, stable_order


def test_random_words_are_what_they_always_were() -> None:
    assert random_words("key", 3).tolist() == [4249316608792540176, 398813163331730794, 9988373434847145852]


@given(count=st.integers(0, 300), key=st.text(max_size=8))
def test_a_permutation_is_one(count: int, key: str) -> None:
    assert sorted(permutation(key, count).tolist()) == list(range(count))


@pytest.mark.parametrize("count", [0, 1, PLAIN_SORT, PLAIN_SORT + 1, 5_000, (1 << 15) - 1, 1 << 15, 70_000])
def test_a_permutation_is_the_plain_sort_of_its_words(count: int) -> None:
    assert permutation("plain", count).tolist() == plain_order("plain", count)


@given(seed=st.integers(0, 10**6), same_bits=st.sampled_from([0, 16, 20, 32, 40, 48, 64]), long=st.booleans())
def test_words_that_agree_in_many_bits_are_ordered_too(seed: int, same_bits: int, long: bool) -> None:
    words = random_words(f"{seed}", 33_000 if long else 2_000)
    few = words[:3][np.arange(len(words)) % 3]
    low = np.uint64((1 << (64 - same_bits)) - 1)
    words = (few & ~low) | (words & low)
    assert np.array_equal(stable_order(words), np.argsort(words, kind="stable"))


def arrays(count: int) -> tuple[np.ndarray]:
    return (np.zeros(count, dtype=np.uint8),)


def test_a_slot_holds_its_newest_version() -> None:
    recent = Recent(100)
    first = recent.get("a", 1, arrays, 10)
    assert recent.get("a", 1, arrays, 10) is first
    assert recent.get("a", 2, arrays, 20) is not first
    assert recent.bytes == 20
    assert recent.get("a", 1, arrays, 10) is not first


@given(asked=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 60)), max_size=40))
def test_what_is_kept_never_takes_more_than_the_limit_and_one_value(asked: list[tuple[int, int, int]]) -> None:
    recent = Recent(100)
    for slot, version, size in asked:
        assert len(recent.get(slot, (version, size), arrays, size)[0]) == size
        held = sum(array.nbytes for _, value in recent._values.values() for array in value)
        assert recent.bytes == held <= 100


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    recent = Recent(30)
    kept, forgotten = recent.get("a", 0, arrays, 10), recent.get("b", 0, arrays, 10)
    recent.get("a", 0, arrays, 10)
    recent.get("c", 0, arrays, 20)
    assert recent.get("a", 0, arrays, 10) is kept
    assert recent.get("b", 0, arrays, 10) is not forgotten


def test_another_process_gets_nothing_of_what_is_kept() -> None:
    recent = Recent(1 << 20)
    recent.get("a", 0, arrays, 1 << 16)
    assert len(pickle.dumps(recent)) < 1_000
    assert pickle.loads(pickle.dumps(recent)).bytes == 0
