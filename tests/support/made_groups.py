"""Groups without files, for tests of the arithmetic."""

from collections.abc import Sequence
from pathlib import Path

from hbdist.data.shards.groups import Group, Shard, Shards
from hbdist.data.shards.manifest import Manifest


def make_group(
    dataset: str,
    query_lang: str,
    document_lang: str,
    rows: int = 0,
    shard_rows: int = 40,
    sizes: Sequence[int] = (),
) -> Group:
    """Return a group without files, with shards of `shard_rows` rows each and the rest in the last, or of `sizes`."""
    sizes = sizes or [min(shard_rows, rows - start) for start in range(0, rows, shard_rows)]
    name = f"{dataset}/{query_lang}-{document_lang}"
    shards = Shards.of(
        Shard(f"{name}/{number:06d}.tar", size, size, "", f"{name}/{number:06d}.index.npy", "")
        for number, size in enumerate(sizes)
    )
    return Group(dataset, query_lang, document_lang, shards)


GROUPS = (
    make_group("a", "de", "de", 100),
    make_group("a", "de", "en", 60),
    make_group("a", "en", "de", 60),
    make_group("a", "en", "en", 100),
    make_group("b", "en", "en", 300),
)


MANIFEST = Manifest(Path("nowhere"), GROUPS)
"""Manifest without files, of 500 monolingual and 120 cross-lingual pairs."""
