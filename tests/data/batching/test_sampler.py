"""The schedule in a foreign training loop: the ranks' pairs make up the global batch, from any step on."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_schedule import batches, repeating, rows_of, schedule

from hbdist.config.sections import BatchSection, DataSection
from hbdist.data.batching.mixture import plan_mixture
from hbdist.data.batching.sampler import HybridBatchSampler, PairDataset
from hbdist.data.batching.schedule import GlobalBatch, Schedule
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import ShardReader
from hbdist.errors import DataError


@given(
    batch=batches,
    world=st.integers(1, 7),
    start=st.integers(0, 10**6),
    by_length=st.booleans(),
    seed=st.integers(0, 99),
)
def test_ranks_together_have_every_global_batch_once(
    batch: dict[str, Any], world: int, start: int, by_length: bool, seed: int
) -> None:
    plan = schedule(seed, **repeating(**batch))

    def lengths(global_batch: GlobalBatch) -> np.ndarray:
        return global_batch.row % 17

    samplers = [
        HybridBatchSampler(plan, rank, world, start=start, steps=start + 3, lengths=lengths if by_length else None)
        for rank in range(world)
    ]
    for step, parts in enumerate(zip(*samplers, strict=True), start):
        assert sorted(pair for part in parts for pair in part) == sorted(rows_of(plan.batch(step)))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("stop", [0, 1, 4, 6])
def test_sampling_resumes_at_any_step(stop: int) -> None:
    def sampler(**keys: int) -> HybridBatchSampler:
        return HybridBatchSampler(schedule(), 1, 3, steps=6, **keys)

    whole = list(sampler())
    first = sampler()
    done = list(islice(first, stop))
    assert first.state_dict() == {"step": stop}
    resumed = sampler()
    resumed.load_state_dict(first.state_dict())
    assert len(resumed) == 6 - stop
    assert done + list(resumed) == whole == done + list(sampler(start=stop))


def test_an_iteration_continues_where_the_last_one_ended() -> None:
    sampler = HybridBatchSampler(schedule(), 0, 1, steps=5)
    assert [*islice(sampler, 2), *sampler] == list(HybridBatchSampler(schedule(), 0, 1, steps=5))
    assert list(sampler) == []


def test_without_steps_there_is_no_end_and_no_length() -> None:
    sampler = HybridBatchSampler(schedule(), 0, 2)
    assert len(list(islice(sampler, 50))) == 50
    with pytest.raises(TypeError, match="give it steps"):
        len(sampler)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(rank: int, world: int) -> None:
    with pytest.raises(ValueError, match="ranks; expected 0 to"):
        HybridBatchSampler(schedule(), rank, world)


def schedule_of(manifest: Manifest) -> Schedule:
    mixture = plan_mixture(manifest.groups, BatchSection(size=9, cross_block=3), DataSection(shards="x"))
    return Schedule(manifest.groups, mixture, seed=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_data_loader_reads_the_pairs_of_its_rank(tiny_shards: Path, workers: int) -> None:
    from torch.utils.data import DataLoader

    manifest = Manifest.load(tiny_shards)
    reader, plan = ShardReader(manifest), schedule_of(manifest)
    sampler = HybridBatchSampler(plan, 1, 2, start=3, steps=8)
    loader = DataLoader(PairDataset(manifest), batch_sampler=sampler, collate_fn=list, num_workers=workers)
    assert len(loader) == 5
    loaded = list(loader)
    expected = list(HybridBatchSampler(plan, 1, 2, start=3, steps=8))
    assert loaded == [reader.read(*np.array(items).T) for items in expected]
    assert {pair.dataset for pairs in loaded for pair in pairs} == {"made", "ntrex"}


def test_a_loop_that_counts_its_steps_resumes_although_workers_are_ahead(tiny_shards: Path) -> None:
    from torch.utils.data import DataLoader

    manifest = Manifest.load(tiny_shards)

    def loader(start: int, workers: int) -> Any:
        sampler = HybridBatchSampler(schedule_of(manifest), 0, 2, start=start, steps=7)
        return DataLoader(PairDataset(manifest), batch_sampler=sampler, collate_fn=list, num_workers=workers)

    whole = list(loader(0, 0))
    done = [pairs for pairs, _ in zip(loader(0, 2), range(3), strict=False)]
    assert done + list(loader(len(done), 0)) == whole


def test_items_of_the_dataset_are_addressed_by_group_and_row(tiny_shards: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(tiny_shards)
    pairs = PairDataset(manifest)
    assert len(pairs) == manifest.rows
    group = [group.name for group in manifest.groups].index("made/en-en")
    assert pairs[group, 7].query == "what is said in en of number 7"
    assert pairs.__getitems__([(group, 7), (group, 2), (group, 7)]) == [pairs[group, row] for row in (7, 2, 7)]
    gone = Manifest(tmp_path, manifest.groups)
    with pytest.raises(DataError, match="is missing"):
        PairDataset(gone)[group, 7]
