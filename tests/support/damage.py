"""Shard folders as another builder would have left them: with other digests, or without the checksums of samples."""

from dataclasses import replace
from typing import TypeVar

import numpy as np

from hbdist.data.shards.groups import Shard, Shards, ShardSet
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.sample import INDEX_WITHOUT_CHECKSUMS
from hbdist.utils.files import sha256

Kind = TypeVar("Kind", bound=ShardSet)


def as_if_built_so(manifest: Manifest) -> Manifest:
    """Put the digests of the files as they are now into the manifest, and return it."""

    def now(path: str) -> str:
        return sha256(manifest.folder / path)

    def updated(shard_set: Kind) -> Kind:
        shards = (replace(each, sha256=now(each.path), index_sha256=now(each.index)) for each in shard_set.shards)
        return replace(shard_set, shards=Shards.of(shards))

    views = [group.view and replace(group.view, sha256=now(group.view.path)) for group in manifest.groups]
    groups = [replace(updated(group), view=view) for group, view in zip(manifest.groups, views, strict=True)]
    texts = [updated(one) for one in manifest.texts]
    replace(manifest, groups=tuple(groups), texts=tuple(texts)).save(manifest.folder)
    return Manifest.load(manifest.folder)


def as_built_before_checksums(manifest: Manifest) -> Manifest:
    """Take the checksums of samples and the counts of hard negatives out of a folder, and return its manifest."""

    def without_counts(shard: Shard) -> Shard:
        return replace(shard, negatives=None)

    for shard_set in manifest.shard_sets:
        for shard in shard_set.shards:
            path = manifest.folder / shard.index
            np.save(path, np.load(path)[list(INDEX_WITHOUT_CHECKSUMS.names or ())].astype(INDEX_WITHOUT_CHECKSUMS))
    groups = [replace(one, shards=Shards.of(map(without_counts, one.shards))) for one in manifest.groups]
    texts = [replace(one, shards=Shards.of(map(without_counts, one.shards))) for one in manifest.texts]
    return as_if_built_so(replace(manifest, groups=tuple(groups), texts=tuple(texts)))
