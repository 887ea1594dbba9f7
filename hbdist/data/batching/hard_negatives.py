"""Draw of a pair's hard negatives: the same for a pair's turn in an epoch, whatever rank reads it."""

from hbdist.data.shards.sample import Pair
from hbdist.utils.philox import permutation


def draw_hard_negatives(pair: Pair, count: int, *, key: str) -> list[str]:
    """Return `count` of the pair's hard negatives in an order drawn by key; empty texts if it has fewer."""
    order = permutation(key, len(pair.negatives))[:count]
    return [pair.negatives[index] for index in order] + [""] * (count - len(order))
