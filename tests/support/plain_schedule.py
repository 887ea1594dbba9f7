"""Reference schedule, from the equations in the docstring of `hbdist.data.batching.schedule`: plain, slow, with lists."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hbdist.data.batching.mixture import Kind, Mixture, Pool
from hbdist.data.shards.groups import Group

Row = tuple[int, int, int, int, bool]
"""(group, row, epoch, block, monolingual) of one pair."""


def plain_order(key: str, count: int) -> list[int]:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    words = np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(count).tolist()
    return sorted(range(count), key=words.__getitem__)


def plain_quota(weights: Sequence[float], deal: int) -> list[int]:
    exact = [float(np.float64(weight) / sum(weights) * deal) for weight in weights]
    counts = [int(share) for share in exact]
    largest = sorted(range(len(weights)), key=lambda card: counts[card] - exact[card])
    for card in largest[: deal - sum(counts)]:
        counts[card] += 1
    return counts if all(counts) else plain_quota(weights, 2 * deal)


@lru_cache(maxsize=64)
def plain_deal(key: str, quota: tuple[int, ...], number: int) -> list[int]:
    cards = [card for card, count in enumerate(quota) for _ in range(count)]
    return [cards[index] for index in plain_order(f"{key}/deal {number}", len(cards))]


def plain_draw(weights: Sequence[float], key: str, deal: int, t: int) -> tuple[int, int]:
    """Return the card at time `t`, and how often it was dealt before."""
    if len(weights) == 1:
        return 0, t
    quota = tuple(plain_quota(weights, deal))
    number, position = divmod(t, sum(quota))
    cards = plain_deal(key, quota, number)
    return cards[position], number * quota[cards[position]] + cards[:position].count(cards[position])


def plain_row(group: Group, seed: int, epoch: int, position: int) -> int:
    rows_of, rows = [], 0
    for shard in group.shards:
        rows_of.append(range(rows, rows + shard.rows))
        rows += shard.rows
    key = f"{seed}/order of {group.name}/epoch {epoch}"
    shards = plain_order(f"{key}/shards", len(rows_of))
    order: list[int] = []
    for number, first in enumerate(range(0, len(shards), 8)):
        window = [row for shard in shards[first : first + 8] for row in rows_of[shard]]
        order += [window[index] for index in plain_order(f"{key}/window {number}", len(window))]
    return order[position]


def plain_batch(groups: Sequence[Group], mixture: Mixture, seed: int, step: int, *, one_dataset: bool) -> list[Row]:
    if mixture.mix == "step":
        kind, turn = plain_draw([kind.share for kind in mixture.kinds], f"{seed}/kinds", 65_536, step)
        turns = [(mixture.kinds[kind], turn)]
    else:
        turns = [(kind, step) for kind in mixture.kinds]
    rows = [row for kind, turn in turns for row in _plain_part(groups, kind, turn, seed, one_dataset=one_dataset)]
    blocks = sorted({(mono, block) for _, _, _, block, mono in rows})
    return [(group, row, epoch, blocks.index((mono, block)), mono) for group, row, epoch, block, mono in rows]


def _plain_part(groups: Sequence[Group], kind: Kind, turn: int, seed: int, *, one_dataset: bool) -> list[Row]:
    rows = []
    for block in range(kind.part // kind.block):
        t = turn * (kind.part // kind.block) + block
        chosen, before = plain_draw([pool.weight for pool in kind.pools], f"{seed}/{kind.name} pools", 65_536, t)
        for inside in range(kind.block):
            dataset, position = _plain_dataset(kind.pools[chosen], before, inside, kind.block, seed, one_dataset)
            group = kind.pools[chosen].groups[dataset]
            epoch, position = divmod(position, kind.pools[chosen].rows[dataset])
            row = plain_row(groups[group], seed, epoch, position)
            rows.append((group, row, epoch, block if kind.block > 1 else 0, kind.name == "mono"))
    return rows


def _plain_dataset(pool: Pool, before: int, inside: int, block: int, seed: int, one_dataset: bool) -> tuple[int, int]:
    key = f"{seed}/data sets of {pool.pair}"
    if one_dataset:
        dataset, turn = plain_draw(pool.dataset_weights, key, 4_096, before)
        return dataset, turn * block + inside
    return plain_draw(pool.dataset_weights, key, 4_096, before * block + inside)
