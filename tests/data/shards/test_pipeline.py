"""The plain webdataset pipeline: every pair of the shards once, and a sentence for what it cannot read."""

from collections.abc import Callable

import pytest
from reads_remotely import all_of
from torch.utils.data import DataLoader

from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.pipeline import webdataset_pipeline
from hbdist.data.shards.read import ShardReader
from hbdist.data.shards.remote import Remote
from hbdist.errors import ConfigError, DataError


def test_every_pair_comes_once_in_the_order_of_the_manifest(shipped: Manifest) -> None:
    expected = ShardReader(shipped).read(*all_of(shipped))
    pipeline = webdataset_pipeline(shipped)
    assert list(pipeline) == list(pipeline) == expected


def test_samples_of_different_shards_are_not_merged(built: Callable[..., Manifest]) -> None:
    manifest = built(shard_rows=1)  # the first tar of every group has the one member 000000000.json
    assert list(webdataset_pipeline(manifest)) == ShardReader(manifest).read(*all_of(manifest))


def test_only_the_named_groups_are_read(shipped: Manifest) -> None:
    pairs = list(webdataset_pipeline(shipped, groups=["p/en-de", "p/ar-ar"]))
    assert [f"{pair.query_lang}-{pair.document_lang}" for pair in pairs] == ["en-de"] * 25 + ["ar-ar"] * 25


def test_shuffling_changes_the_order_by_seed_and_iteration_only(shipped: Manifest) -> None:
    plain = list(webdataset_pipeline(shipped))
    pipeline, same, other = (webdataset_pipeline(shipped, shuffle=50, seed=seed) for seed in (1, 1, 2))
    first, second = list(pipeline), list(pipeline)
    assert first == list(same)
    assert plain != first != second
    assert first != list(other)
    for pairs in (first, second):
        assert sorted(pairs, key=repr) == sorted(plain, key=repr)


def test_the_workers_of_a_loader_share_out_the_shards(shipped: Manifest) -> None:
    loader = DataLoader(webdataset_pipeline(shipped), batch_size=None, num_workers=2)
    assert sorted(loader, key=repr) == sorted(webdataset_pipeline(shipped), key=repr)


def test_more_stages_can_be_appended(shipped: Manifest) -> None:
    batches = list(webdataset_pipeline(shipped).batched(100, collation_fn=list))
    assert [len(batch) for batch in batches] == [100, 100, 25]


def test_the_parallel_layout_is_refused_with_ways_out(viewed: Manifest) -> None:
    with pytest.raises(ConfigError, match=r'is in the parallel layout.*PairDataset.*layout = "pairs"'):
        webdataset_pipeline(viewed)


def test_remote_shards_are_refused(shipped: Manifest) -> None:
    with pytest.raises(ConfigError, match="is remote; expected a local folder"):
        webdataset_pipeline(Manifest(Remote("s3://bucket/shards"), shipped.groups))


def test_an_unknown_group_is_refused_with_the_known_ones(shipped: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"no group 'p/en-fr'.*It has: p/ar-ar"):
        webdataset_pipeline(shipped, groups=["p/en-fr"])


def test_a_damaged_sample_is_named_with_its_shard(built: Callable[..., Manifest]) -> None:
    manifest = built()
    path = manifest.folder / manifest.groups[0].shards[0].path
    path.write_bytes(path.read_bytes().replace(b'{"id":"i3"', b'{"id":"i3]'))
    with pytest.raises(DataError, match=rf"{path} is damaged at sample 000000003.*hbdist check"):
        list(webdataset_pipeline(manifest))
