"""Checks of the data before a run begins: files that are gone, and hard negatives that do not exist."""

import os
from collections.abc import Sequence

import numpy as np

from hbdist.config.config import Config
from hbdist.data.batching.mixture import plan_mixture
from hbdist.data.shards.groups import Group
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.presence import check_presence
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.data.shards.remote import Remote
from hbdist.errors import ConfigError

SAMPLE_GROUPS, SAMPLE_ROWS = 16, 16
"""Groups, and rows of each, in which hard negatives are looked for if the shards do not count them."""
NAMED = 5
"""Number of data sets that a sentence names."""


def check_data(config: Config, manifest: Manifest, *, rank: int = 0, world: int = 1) -> list[str]:
    """Check the data of a run, on every rank, and return what the user should know.

    Raises:
        ConfigError: hard negatives are asked for, and no pair has any.
        DataError: a shard is missing or has another size.
    """
    return check_files(config, manifest, rank=rank, world=world) + check_hard_negatives(config, manifest)


def check_files(config: Config, manifest: Manifest, *, rank: int = 0, world: int = 1) -> list[str]:
    """Check that the shards of the mixture exist, and return what the user should know.

    Ranks share the look at the files: those of one machine if the folder is local, for each machine may have a copy of its
    own; all of them if it is remote.

    Raises:
        DataError: a shard is missing or has another size.
    """
    groups = _groups_in_use(config, manifest)
    if not isinstance(manifest.root, Remote):
        rank, world = (
            int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        )
    texts = dict.fromkeys(number for group in groups if group.view for number in manifest.text_sets(group))
    shard_sets = [*groups, *(manifest.shard_sets[number] for number in texts)]
    return check_presence(manifest, shard_sets, share=rank, shares=world).sentences(manifest.root)


def check_hard_negatives(config: Config, manifest: Manifest) -> list[str]:
    """Check that pairs of the mixture have hard negatives, if the run asks for any; return a sentence if some lack them.

    Raises:
        ConfigError: no pair has any.
    """
    wanted = config.loss.hard_negatives
    if not wanted:
        return []
    groups = _groups_in_use(config, manifest)
    counts = [_count_negatives(manifest, group) for group in groups]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        looked, having = _sample_negatives(manifest, groups)
        if having:
            return []
        return [
            f"loss.hard_negatives = {wanted}, but none of {looked:,} pairs looked at has hard negatives. (These shards were"
            " built before they were counted; `hbdist check` counts them.)"
        ]
    having, rows = (sum(numbers) for numbers in zip(*known, strict=True))
    if not having:
        raise ConfigError(
            f"loss.hard_negatives = {wanted}, but none of the {rows:,} pairs of {manifest.root} that the run uses has hard"
            " negatives. Set loss.hard_negatives=0, or build the shards from rows with `negatives`."
        )
    if having == rows:
        return []
    without = sorted({group.dataset for group, count in zip(groups, known, strict=True) if not count[0]})
    more = f" and {len(without) - NAMED} more" if len(without) > NAMED else ""
    named = f"; none in {', '.join(without[:NAMED])}{more}" if without else ""
    return [
        f"loss.hard_negatives = {wanted}: {having:,} of {rows:,} rows have hard negatives{named}. The places of the others stay"
        " empty"
    ]


def _groups_in_use(config: Config, manifest: Manifest) -> list[Group]:
    kinds = plan_mixture(manifest.groups, config.batch, config.data).kinds
    return [manifest.groups[number] for kind in kinds for pool in kind.pools for number in pool.groups]


def _count_negatives(manifest: Manifest, group: Group) -> tuple[int, int] | None:
    """Return how many rows have hard negatives, and of how many; for a view, those of its documents' language. None if the
    shards were built before they were counted."""
    shards = manifest.shard_sets[manifest.text_sets(group)[1]].shards if group.view else group.shards
    return None if shards.negatives is None else (sum(shards.negatives), sum(shards.rows))


def _sample_negatives(manifest: Manifest, groups: Sequence[Group]) -> tuple[int, int]:
    """Return how many pairs were looked at, and how many of them have hard negatives."""
    reader, numbers = ShardReader(manifest), {group.key: number for number, group in enumerate(manifest.groups)}
    looked = having = 0
    for group in groups[:: -(-len(groups) // SAMPLE_GROUPS)]:
        rows = np.unique(np.linspace(0, group.rows - 1, SAMPLE_ROWS).astype(np.int64))
        # A pair that cannot be read is reported, or counted, when its turn comes.
        pairs = [one for one in reader.read_each(np.full_like(rows, numbers[group.key]), rows) if isinstance(one, Pair)]
        looked, having = looked + len(pairs), having + sum(bool(pair.negatives) for pair in pairs)
    return looked, having
