"""Lengths in memory are those of the pairs, whatever is forgotten, and indexes are opened once."""

from pathlib import Path

import numpy as np
import pytest
from reads_remotely import all_of

from hbdist.data.shards import length_table
from hbdist.data.shards.length_table import LengthTable
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import ShardReader


def plain(manifest: Manifest, groups: np.ndarray, rows: np.ndarray) -> tuple[list[int], list[int]]:
    pairs = ShardReader(manifest).read(groups, rows)
    return [len(pair.query) for pair in pairs], [len(pair.document) for pair in pairs]


@pytest.mark.parametrize("layout", ["shipped", "viewed"])
@pytest.mark.parametrize("limit", [1, 1 << 29])
def test_lengths_of_mixed_groups_are_those_of_the_pairs(
    layout: str, limit: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = request.getfixturevalue(layout)
    reader = ShardReader(manifest)
    monkeypatch.setattr(reader, "_lengths", LengthTable(manifest.shard_sets, limit), raising=False)
    groups, rows = all_of(manifest)
    generator = np.random.default_rng(0)
    for size in (1, 40, 3, 200):
        chosen = generator.integers(0, len(groups), size)
        found = reader.lengths(groups[chosen], rows[chosen])
        assert tuple(map(np.ndarray.tolist, found)) == plain(manifest, groups[chosen], rows[chosen])


def test_an_index_is_opened_once_however_many_steps_there_are(shipped: Manifest, tmp_path: Path) -> None:
    reader = ShardReader(shipped, open_shards=1)
    groups, rows = all_of(shipped)
    for _ in range(5):
        reader.lengths(groups, rows)
    assert reader._open_files.index.cache_info().misses == 27  # type: ignore[attr-defined]


def test_above_the_limit_lengths_are_forgotten_but_never_those_of_one_batch(shipped: Manifest) -> None:
    reader = ShardReader(shipped, open_shards=1)
    table = LengthTable(shipped.shard_sets, limit=8 * 30)
    reader.__dict__["_lengths"] = table
    groups, rows = all_of(shipped)
    opened = []
    for group in (0, 1, 2, 3, 0):
        of_group = groups == group
        reader.lengths(groups[of_group], rows[of_group])
        opened.append(reader._open_files.index.cache_info().misses)  # type: ignore[attr-defined]
    assert opened == [3, 6, 9, 12, 15], "group 0 was kept"
    reader.lengths(groups, rows)
    before = reader._open_files.index.cache_info().misses  # type: ignore[attr-defined]
    reader.lengths(groups, rows)
    assert reader._open_files.index.cache_info().misses == before  # type: ignore[attr-defined]
    assert table.limit >= 8 * len(rows) > 8 * 30
    assert length_table.LENGTHS_BYTES == 1 << 29
