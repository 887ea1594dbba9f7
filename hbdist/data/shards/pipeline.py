"""Plain `webdataset` pipeline over the shards of a manifest, for training without a schedule."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from hbdist.config.config import nearest
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.remote import Remote
from hbdist.data.shards.sample import Pair, decode_pair
from hbdist.errors import ConfigError, DataError

if TYPE_CHECKING:
    import webdataset


def webdataset_pipeline(
    manifest: Manifest, *, groups: Iterable[str] | None = None, shuffle: int = 0, seed: int = 0
) -> "webdataset.WebDataset":
    """Return a `webdataset` pipeline that yields every `Pair` of a local shard folder once per iteration.

    The pipeline is a plain stream, without batches, shares or a schedule; more stages can be appended to it, such as
    `.batched(…)`. Ranks and the workers of a `DataLoader` share out the shards, so each should have at least one. Files are
    not compared with their checksums.

    Args:
        groups: names of the groups to read, such as "ntrex/en-de"; unset: all.
        shuffle: number of pairs in the shuffle buffer; shards are shuffled too. 0: pairs come in the manifest's order.
        seed: seed of the shuffling. Further iterations over the same pipeline have other orders.

    Raises:
        ConfigError: the shards are remote, a group does not exist, or a group is in the parallel layout.
        DataError: during iteration, a sample is damaged.
    """
    # Imported late: it imports torch.
    import webdataset

    datasets = _find_shards(manifest, groups)
    shards = webdataset.WebDataset(
        list(datasets),
        shardshuffle=len(datasets) if shuffle else False,
        detshuffle=bool(shuffle),
        seed=seed,
        nodesplitter=webdataset.split_by_node,
    )
    pairs = shards.map(partial(_decode, datasets))
    return pairs.compose(webdataset.detshuffle(shuffle, shuffle, seed=seed)) if shuffle else pairs


def _find_shards(manifest: Manifest, groups: Iterable[str] | None) -> dict[str, str]:
    """Return the dataset of each shard of these groups, by the shard's path."""
    if isinstance(manifest.root, Remote):
        raise ConfigError(
            f"{manifest.root} is remote; expected a local folder of shards. Copy it to a local disk, or read it with"
            " hbdist.PairDataset, which downloads what it needs."
        )
    by_name = {group.name: group for group in manifest.groups}
    datasets: dict[str, str] = {}
    for name in by_name if groups is None else groups:
        if name not in by_name:
            raise ConfigError(
                f"{manifest.root} has no group {name!r}.{nearest(name, sorted(by_name))} It has: {', '.join(by_name)}."
            )
        if by_name[name].view:
            raise ConfigError(
                f"{name} is in the parallel layout: the two texts of each pair are in different tars, and a stream of tars"
                " cannot bring them together. Read it with hbdist.PairDataset, or build the shards again with"
                ' layout = "pairs".'
            )
        datasets |= {str(manifest.root / path): by_name[name].dataset for path in by_name[name].shards.paths}
    return datasets


def _decode(datasets: Mapping[str, str], sample: Mapping[str, Any]) -> Pair:
    path = sample["__url__"]
    try:
        return decode_pair(sample["json"], dataset=datasets[path])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} is damaged at sample {sample['__key__']}: {error}. See what else is damaged with `hbdist check`."
        ) from None
