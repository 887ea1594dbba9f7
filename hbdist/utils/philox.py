"""Keyed random words (Philox) and permutations: the same on every machine and in every version of every library."""

import hashlib

import numpy as np

PLAIN_SORT = 1_024
"""Number of words up to which one sort by all 64 bits is as fast as sorts by 16."""


def random_words(key: str, count: int) -> np.ndarray:
    """Return `count` raw 64-bit words of Philox, keyed by a text: uint64 [count]."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(count)


def permutation(key: str, count: int) -> np.ndarray:
    """Return a keyed random permutation of 0 … count − 1: int64 [count]."""
    return stable_order(random_words(key, count))


def stable_order(words: np.ndarray) -> np.ndarray:
    """Compute `np.argsort(words, kind="stable")` of random 64-bit words, several times as fast: int64 [count].

    NumPy sorts 16-bit numbers by radix. Sorting by the words' highest 16-bit digits, least significant digit first, orders
    all words except those that agree in all of these digits; where any do, the plain sort is used.
    """
    if len(words) > PLAIN_SORT:
        # The chance that any two of n words agree in their highest b bits is about n² / 2^(b + 1).
        lowest, *others = (32, 48) if len(words) < 1 << 15 else (16, 32, 48)
        order = by_label(words >> np.uint64(lowest))
        for bit in others:
            order = order[by_label((words >> np.uint64(bit)).astype(np.uint16)[order])]
        in_order = words[order]
        if np.all(in_order[:-1] <= in_order[1:]):
            return order
    return np.argsort(words, kind="stable")


def by_label(labels: np.ndarray) -> np.ndarray:
    """Return the stable order of whole numbers by their lowest 16 bits: int64, of the shape of `labels`."""
    return np.argsort(labels.astype(np.uint16, copy=False), kind="stable")
