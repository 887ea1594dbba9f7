"""Groups of which only the numbers exist."""

from collections.abc import Sequence
from pathlib import Path

from hbdist.data.shards.manifest import Group, Manifest, Shard


def make_group(
    dataset: str,
    query_lang: str,
    document_lang: str,
    rows: int = 0,
    shard_rows: int = 40,
    sizes: Sequence[int] = (),
) -> Group:
    """A group whose shards hold `shard_rows` rows each, the last one the rest, or `sizes`; no file stands behind it."""
    sizes = sizes or [min(shard_rows, rows - start) for start in range(0, rows, shard_rows)]
    name = f"{dataset}/{query_lang}-{document_lang}"
    shards = tuple(
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
"""520 monolingual and 120 cross-lingual pairs; no file stands behind them."""
