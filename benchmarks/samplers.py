"""The batch samplers that composition.py compares, as each rank sees them, and the masks of hbdist's loss.

B pairs on a rank · G pairs in the global batch · I identities of a document
"""

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from made_up import LANGUAGES, make_config, monolingual, pairs_of

WORLD = 4
REPEATED = 0.05
GROUPS = sorted([*monolingual(LANGUAGES), *pairwise((*LANGUAGES, LANGUAGES[0]))])
OURS, WITH_MASKS = "hbdist", "hbdist, texts read and masks made"
SAMPLERS = {
    "PROPORTIONAL": ("BATCH_SAMPLER", False),
    "PROPORTIONAL, split_batches": ("BATCH_SAMPLER", True),
    "NO_DUPLICATES": ("NO_DUPLICATES", False),
    "NO_DUPLICATES_HASHED": ("NO_DUPLICATES_HASHED", False),
    "NO_DUPLICATES_HASHED, split_batches": ("NO_DUPLICATES_HASHED", True),
}
"""Batch samplers of sentence-transformers under its PROPORTIONAL one for several data sets, and accelerate's split_batches."""


def all_ranks(name: str, folder: str, size: int, data: Any, batches: int) -> list[Iterator[list[int]]]:
    """Return each rank's part of the first global batches, in rank order."""
    if name == OURS:
        return [our_sampler(*opened(folder, size), rank) for rank in range(WORLD)]
    batch_sampler, split_batches = SAMPLERS[name]
    whole = their_sampler(batch_sampler, split_batches, size, data)
    # Every rank iterates over the same batches: computing them once is enough.
    listed = Listed(islice(whole, batches if split_batches else batches * WORLD), whole.batch_size)
    return [iter(their_shard(listed, split_batches, rank)) for rank in range(WORLD)]


class Listed(list[list[int]]):
    """Batches in the form that accelerate takes."""

    drop_last = True

    def __init__(self, batches: Iterable[list[int]], batch_size: int) -> None:
        super().__init__(batches)
        self.batch_size = batch_size


def opened(folder: str, size: int, *, alpha: float = 0.5) -> tuple[Any, Any]:
    from hbdist.data.shards.manifest import Manifest

    batch = {"size": size, "mono_share": alpha, "mono_block": "batch", "cross_block": "batch"}
    return Manifest.load(folder), make_config(Path(folder), steps=1 << 20, batch=batch)


def our_sampler(manifest: Any, config: Any, rank: int) -> Iterator[list[int]]:
    from hbdist.data.batching.sampler import HybridBatchSampler
    from hbdist.data.batching.schedule import Schedule

    rows = manifest.groups[0].rows
    for mine in HybridBatchSampler(Schedule.of(config, manifest), rank, WORLD):
        yield [group * rows + row for group, row in mine]


def make_datasets(rows: int) -> list[Any]:
    """Make a data set of queries and documents for each group, the way sentence-transformers trains on several languages."""
    import datasets

    datasets.disable_progress_bars()
    pairs = (pairs_of(group, rows, repeated=REPEATED) for group in GROUPS)
    return [
        datasets.Dataset.from_dict({"query": [one.query for one in group], "document": [one.document for one in group]})
        for group in pairs
    ]


def their_shard(sampler: Any, split_batches: bool, rank: int) -> Any:
    """Return what a rank of sentence-transformers' trainer iterates over: the global sampler, sharded by accelerate."""
    from accelerate.data_loader import BatchSamplerShard

    return BatchSamplerShard(sampler, WORLD, rank, split_batches=split_batches, even_batches=False)


def their_sampler(batch_sampler: str, split_batches: bool, size: int, data: list[Any]) -> Any:
    """Return sentence-transformers' sampler of several data sets, as its trainer makes it."""
    import torch
    from sentence_transformers.base import sampler as peer
    from torch.utils.data import ConcatDataset, RandomSampler

    generator = torch.Generator()
    settings = {
        "batch_size": size if split_batches else size // WORLD,
        "drop_last": True,
        "generator": generator,
        "seed": 0,
    }

    def sampler(dataset: Any) -> Any:
        if batch_sampler == "BATCH_SAMPLER":
            return peer.DefaultBatchSampler(RandomSampler(dataset, generator=generator), **settings)
        return peer.NoDuplicatesBatchSampler(dataset, precompute_hashes=batch_sampler.endswith("HASHED"), **settings)

    samplers = [sampler(dataset) for dataset in data]
    return peer.ProportionalBatchSampler(ConcatDataset(data), samplers, generator=generator, seed=0)


class Recorder:
    """Replacement of a tokenizer: records the texts in the order of the batch and gives each one token."""

    pad_token_id = 0

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}

    def __call__(self, texts: list[str], kind: str) -> tuple[list[list[int]], int]:
        self.texts[kind] = list(texts)
        return [[1]] * len(texts), 0


def our_batch(folder: str, size: int, rank: int) -> tuple[Any, Recorder]:
    from hbdist.training.loader import Batches

    manifest, config = opened(folder, size)
    recorder = Recorder()
    rates = dict.fromkeys(LANGUAGES, 0.25)
    return Batches(config, manifest, recorder, token_rates=rates, rank=rank, world=WORLD), recorder


def masks_of(identity_GI: Any, rank: int, mine: int) -> Any:
    """Return the masks of a rank's queries over all documents, as the loss makes them."""
    import torch

    from hbdist.loss.masks import Candidates, Masks

    pairs = len(identity_GI)
    none, block_G = identity_GI[:0], torch.zeros(pairs, dtype=torch.int64)
    known = Candidates(torch.zeros(pairs, 0), identity_GI, block_G, torch.zeros(0, 0), none, none[:, 0])
    return Masks(torch.arange(mine) + rank * mine, known, block_scope=False)
