"""The cache of arrays: the newest version of each slot, bounded in bytes."""

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hbdist.data.batching.array_cache import ArrayCache


def arrays(count: int) -> tuple[np.ndarray]:
    return (np.zeros(count, dtype=np.uint8),)


def test_a_slot_has_its_newest_version() -> None:
    cache = ArrayCache(100)
    first = cache.get("a", 1, arrays, 10)
    assert cache.get("a", 1, arrays, 10) is first
    assert cache.get("a", 2, arrays, 20) is not first
    assert cache.bytes == 20
    assert cache.get("a", 1, arrays, 10) is not first


@given(requests=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 60)), max_size=40))
def test_the_arrays_never_take_more_than_the_limit(requests: list[tuple[int, int, int]]) -> None:
    cache = ArrayCache(100)
    for slot, version, size in requests:
        assert len(cache.get(slot, (version, size), arrays, size)[0]) == size
        cached = sum(array.nbytes for _, value in cache._values.values() for array in value)
        assert cache.bytes == cached <= 100


def test_the_least_recently_used_is_dropped_first() -> None:
    cache = ArrayCache(30)
    used, unused = cache.get("a", 0, arrays, 10), cache.get("b", 0, arrays, 10)
    cache.get("a", 0, arrays, 10)
    cache.get("c", 0, arrays, 20)
    assert cache.get("a", 0, arrays, 10) is used
    assert cache.get("b", 0, arrays, 10) is not unused


def test_a_pickled_cache_is_empty() -> None:
    cache = ArrayCache(1 << 20)
    cache.get("a", 0, arrays, 1 << 16)
    assert len(pickle.dumps(cache)) < 1_000
    assert pickle.loads(pickle.dumps(cache)).bytes == 0
