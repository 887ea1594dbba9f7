"""Keyed random words (Philox) and orders, the same on every machine and in every version of every library."""

import hashlib

import numpy as np

PLAIN_SORT = 1_024
"""Up to so many words one sort by all 64 bits is as fast as sorts by 16."""


def random_words(key: str, count: int) -> np.ndarray:
    """`count` raw 64-bit words of Philox, keyed by a text: uint64 [count]."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(count)


def permutation(key: str, count: int) -> np.ndarray:
    """A keyed random order of 0 … count − 1: int64 [count]."""
    return stable_order(random_words(key, count))


def stable_order(words: np.ndarray) -> np.ndarray:
    """`np.argsort(words, kind="stable")` of random 64-bit words, several times as fast: int64 [count].

    NumPy sorts 16-bit numbers by their digits. Sorting by some of the words' highest 16 bits, the lowest of them first,
    orders the words but for those that agree in all of these bits; where any do, the plain sort is done.
    """
    if len(words) > PLAIN_SORT:
        # n words agree in their highest b bits somewhere with a chance of about n² / 2^(b + 1).
        lowest, *others = (32, 48) if len(words) < 1 << 15 else (16, 32, 48)
        order = by_label(words >> np.uint64(lowest))
        for bit in others:
            order = order[by_label((words >> np.uint64(bit)).astype(np.uint16)[order])]
        in_order = words[order]
        if np.all(in_order[:-1] <= in_order[1:]):
            return order
    return np.argsort(words, kind="stable")


def by_label(labels: np.ndarray) -> np.ndarray:
    """The stable order by the lowest 16 bits of whole numbers: int64, of the shape of `labels`."""
    return np.argsort(labels.astype(np.uint16, copy=False), kind="stable")
