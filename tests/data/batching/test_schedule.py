"""The schedule: the pairs of batch n are a pure function of (manifest, config, seed, n)."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_groups import MANIFEST, make_group
from plain_schedule import plain_batch

from hbdist.config.config import Config
from hbdist.config.sections import BatchSection, DataSection
from hbdist.data.batching.decks import DEAL
from hbdist.data.batching.mixture import plan_mixture
from hbdist.data.batching.schedule import GlobalBatch, Schedule, deal_to_rank, longest_first
from hbdist.data.shards.groups import Group
from hbdist.utils.philox import random_words

GOLDEN = Path(__file__).parent / "golden_batches.json"
LANGUAGES = ("ar", "de", "en", "zh")
GROUPS = tuple(
    make_group(dataset, query, document, rows)
    for dataset, rows in (("a", 97), ("b", 410))
    for query in LANGUAGES
    for document in LANGUAGES
    if dataset == "a" or query == document
)


def schedule(seed: int = 1, *, groups: Any = GROUPS, **batch: Any) -> Schedule:
    section = BatchSection(**{"size": 12, **batch})
    mixture = plan_mixture(groups, section, DataSection(shards="x"))
    return Schedule(groups, mixture, seed=seed, one_dataset=section.one_dataset)


def rows_of(batch: GlobalBatch) -> list[tuple[int, int]]:
    return list(zip(batch.group.tolist(), batch.row.tolist(), strict=True))


batches = st.fixed_dictionaries(
    {
        "size": st.sampled_from([4, 12, 48]),
        "mono_share": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        "mix": st.sampled_from(["step", "blocks"]),
        "mono_block": st.sampled_from(["batch", 1]),
        "cross_block": st.sampled_from(["batch", 1]),
        "language_exponent": st.sampled_from([0.0, 0.5, 1.0]),
        "one_dataset": st.booleans(),
    }
)


@given(seed=st.integers(0, 10**9), batch=batches, steps=st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_a_step_has_the_same_rows_in_whatever_order_steps_are_computed(
    seed: int, batch: dict[str, Any], steps: list[int]
) -> None:
    forwards, backwards = schedule(seed, **batch), schedule(seed, **batch)
    first = {step: rows_of(forwards.batch(step)) for step in steps}
    assert {step: rows_of(backwards.batch(step)) for step in reversed(steps)} == first


@given(seed=st.integers(0, 99), lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60), world=st.integers(1, 9))
def test_ranks_only_slice_the_batch(seed: int, lengths: list[int], world: int) -> None:
    dealt = [deal_to_rank(np.array(lengths, dtype=float), rank, world) for rank in range(world)]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(lengths)))
    counts = [len(part) for part in dealt]
    assert max(counts) - min(counts) <= 1


@given(lengths=st.lists(st.floats(0, 1e6) | st.integers(0, 5).map(float), max_size=200), world=st.integers(1, 9))
def test_pairs_are_dealt_as_a_plain_stable_sort_deals_them(lengths: list[float], world: int) -> None:
    by_length = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    assert longest_first(np.array(lengths)).tolist() == by_length
    snake = [*range(world), *reversed(range(world))]
    for rank in range(world):
        own = [index for turn, index in enumerate(by_length) if snake[turn % (2 * world)] == rank]
        assert deal_to_rank(np.array(lengths), rank, world).tolist() == sorted(own)


def test_ranks_get_about_as_many_tokens_each() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.5, 256)

    def spread(parts: list[np.ndarray]) -> float:
        sums = [lengths[part].sum() for part in parts]
        return max(sums) / min(sums) - 1

    unsorted = [np.arange(rank, 256, 8) for rank in range(8)]
    assert spread([deal_to_rank(lengths, rank, 8) for rank in range(8)]) < spread(unsorted) / 3


def test_pairs_are_dealt_longest_first_to_and_fro() -> None:
    # Longest first: 3, 0, 4, 2, 1; of equally long ones, the first in the batch first.
    lengths = np.array([8, 1, 2, 9, 8])
    assert [deal_to_rank(lengths, rank, 2).tolist() for rank in range(2)] == [[1, 2, 3], [0, 4]]
    assert deal_to_rank(np.array([5]), 1, 2).tolist() == []
    # So many equal ones that no sort is stable by chance.
    columns = [(0, 5), (1, 4), (2, 3)]
    for rank, column in enumerate(columns):
        assert deal_to_rank(np.zeros(50), rank, 3).tolist() == [index for index in range(50) if index % 6 in column]


def test_the_schedule_of_a_run_is_that_of_its_config() -> None:
    values = {
        "steps": 1,
        "seed": 3,
        "data": {"shards": "x", "languages": ["de", "en"]},
        "model": {"name": "x"},
        "batch": {"size": 12, "one_dataset": True, "mono_share": 1},
    }
    config = Config.check(values, source="test")
    made = Schedule.of(config, MANIFEST)
    mixture = plan_mixture(MANIFEST.groups, config.batch, config.data)
    expected = Schedule(MANIFEST.groups, mixture, seed=3, one_dataset=True)
    assert [rows_of(made.batch(step)) for step in range(9)] == [rows_of(expected.batch(step)) for step in range(9)]


def repeating(**batch: Any) -> dict[str, Any]:
    return {**batch, "small_pool": "repeat"}


@st.composite
def manifests(draw: st.DrawFn) -> tuple[Group, ...]:
    """Groups of one to three data sets and two or three languages, of 1 to 20 shards of 0 to 30 rows."""
    languages = LANGUAGES[: draw(st.integers(2, 3))]
    sizes = st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(any)
    names = [
        (dataset, query, document)
        for dataset in "abc"[: draw(st.integers(1, 3))]
        for query in languages
        for document in languages
        if dataset == "a" or draw(st.booleans())
    ]
    return tuple(make_group(*name, sizes=draw(sizes)) for name in names)


@settings(max_examples=40)
@given(
    groups=manifests(),
    batch=batches,
    seed=st.integers(0, 10**6),
    steps=st.lists(st.one_of(st.integers(0, 20), st.integers(0, 10**6)), min_size=1, max_size=3),
)
def test_batches_are_those_of_the_plain_schedule(
    groups: tuple[Group, ...], batch: dict[str, Any], seed: int, steps: list[int]
) -> None:
    plan = schedule(seed, groups=groups, **repeating(**batch))
    for step in steps:
        made = plan.batch(step)
        columns = (made.group, made.row, made.epoch, made.block, made.mono)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        assert rows == plain_batch(groups, plan.mixture, seed, step, one_dataset=batch["one_dataset"])


@settings(max_examples=25)
@given(groups=manifests(), batch=batches, steps=st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_batches_depend_neither_on_earlier_ones_nor_on_what_is_cached(
    groups: tuple[Group, ...], batch: dict[str, Any], steps: list[int]
) -> None:
    caching, forgetting = (schedule(1, groups=groups, **repeating(**batch)) for _ in range(2))
    stores = [forgetting._orders._epochs, forgetting._orders._windows, forgetting._kinds._deals]
    for store in stores + [decks._deals for kind in forgetting.kind_decks for decks in (kind._pools, kind._datasets)]:
        store.limit = 0
    for step in steps:
        alone = rows_of(schedule(1, groups=groups, **repeating(**batch)).batch(step))
        assert rows_of(caching.batch(step)) == rows_of(forgetting.batch(step)) == alone


@settings(max_examples=25)
@given(groups=manifests(), batch=batches, steps=st.integers(0, 40))
def test_counts_before_a_step_are_those_of_the_batches(
    groups: tuple[Group, ...], batch: dict[str, Any], steps: int
) -> None:
    plan = schedule(1, groups=groups, **repeating(**batch))
    planned = np.bincount(
        np.concatenate([plan.batch(step).group for step in range(steps)] or [np.zeros(0, int)]), minlength=len(groups)
    )
    counted = np.zeros_like(planned)
    for decks, turn in zip(plan.kind_decks, plan.turns_before(steps), strict=True):
        pool_draws, pairs = decks.count_before(turn)
        counted[decks.groups] = pairs
        assert np.array_equal(np.bincount(decks.pool, weights=pairs), pool_draws * decks.kind.block)
    assert np.array_equal(counted, planned)


@settings(max_examples=25)
@given(groups=manifests(), batch=batches)
def test_each_row_of_any_group_comes_once_per_epoch(groups: tuple[Group, ...], batch: dict[str, Any]) -> None:
    plan = schedule(3, groups=groups, **repeating(**batch))
    seen: dict[tuple[int, int], Counter[int]] = {}
    for step in range(40):
        made = plan.batch(step)
        for group, epoch, row in zip(made.group.tolist(), made.epoch.tolist(), made.row.tolist(), strict=True):
            seen.setdefault((group, epoch), Counter())[row] += 1
    for (group, epoch), rows in seen.items():
        assert set(rows.values()) == {1}
        if (group, epoch + 1) in seen:
            assert set(rows) == set(range(groups[group].rows))


def count_words(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> int:
    """Count the random words that `work` draws."""
    counts: list[int] = []

    def counted(key: str, count: int) -> np.ndarray:
        counts.append(count)
        return random_words(key, count)

    with monkeypatch.context() as patch:
        patch.setattr("hbdist.utils.philox.random_words", counted)
        work()
    return sum(counts)


@pytest.mark.parametrize("batch", [{}, {"mix": "blocks", "mono_share": 0.25, "one_dataset": True}])
def test_the_millionth_step_costs_no_more_than_the_tenth(
    batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = tuple(
        make_group(dataset, query, document, 4_000, shard_rows=100)
        for dataset in ("a", "b")
        for query in LANGUAGES
        for document in LANGUAGES
    )

    def words(step: int) -> int:
        plan = schedule(5, groups=groups, size=96, **batch)
        return count_words(monkeypatch, lambda: plan.batch(step))

    near, far = (max(words(first + step) for step in range(4)) for first in (10, 10**6))
    assert far <= 1.2 * near
    assert near > 2 * 65_536, "decks and windows draw words; otherwise this test counts nothing"


def test_the_next_step_draws_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = tuple(make_group("a", query, document, 8_000, shard_rows=100) for query in "xy" for document in "zw")
    plan = schedule(5, groups=groups, size=64, mono_share=0.0)
    first = count_words(monkeypatch, lambda: plan.batch(0))
    assert count_words(monkeypatch, lambda: [plan.batch(step) for step in range(1, 40)]) == 0 < first


def test_a_schedule_is_pickled_without_its_caches() -> None:
    plan = schedule()
    size, first = len(pickle.dumps(plan)), rows_of(plan.batch(3))
    assert len(pickle.dumps(plan)) == size
    assert rows_of(pickle.loads(pickle.dumps(plan)).batch(3)) == first


@given(batch=batches)
def test_blocks_follow_the_settings(batch: dict[str, Any]) -> None:
    plan = schedule(**batch)
    for step in range(6):
        made = plan.batch(step)
        assert len(made) == batch["size"]
        pairs = [GROUPS[group].pair for group in made.group]
        assert [GROUPS[group].monolingual for group in made.group] == made.mono.tolist()
        if batch["mix"] == "blocks":
            assert made.mono.mean() == batch["mono_share"]
        else:
            assert made.mono.mean() in (0.0, 1.0)
        for block in np.unique(made.block):
            here = np.flatnonzero(made.block == block)
            kind = next(k for k in plan.mixture.kinds if (k.name == "mono") == made.mono[here[0]])
            if kind.block > 1:
                assert len(here) == kind.block
                assert len({pairs[index] for index in here}) == 1
                if batch["one_dataset"]:
                    assert len({GROUPS[made.group[index]].dataset for index in here}) == 1


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), one_dataset=st.booleans())
def test_each_row_comes_once_per_epoch_over_many_epochs(seed: int, one_dataset: bool) -> None:
    plan = schedule(seed, size=16, mono_share=1.0, one_dataset=one_dataset)
    seen: Counter[tuple[int, int, int]] = Counter()
    for step in range(160):
        batch = plan.batch(step)
        seen.update(zip(batch.group.tolist(), batch.epoch.tolist(), batch.row.tolist(), strict=True))
    assert set(seen.values()) == {1}
    for index, group in enumerate(GROUPS):
        if group.monolingual:
            done = max(epoch for number, epoch, _ in seen if number == index)
            for epoch in range(done):
                assert {row for number, when, row in seen if (number, when) == (index, epoch)} == set(range(group.rows))
    assert any(epoch > 0 for _, epoch, _ in seen), "no group completed an epoch; this test shows nothing"


def test_every_epoch_has_another_order() -> None:
    plan = schedule(size=97, groups=GROUPS[:1], mono_share=1.0)
    orders = [plan.batch(step).row.tolist() for step in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(97))
    assert orders[0] != orders[1] != orders[2]


def test_at_most_one_window_of_shards_per_group_is_open() -> None:
    group = make_group("a", "en", "en", 4000, shard_rows=40)  # 100 shards
    plan = schedule(size=40, groups=(group,), mono_share=1.0)
    for step in range(0, 96, 8):  # 8 shards a window = 320 rows = 8 steps
        shards = {row // 40 for s in range(step, step + 8) for row in plan.batch(step=s).row.tolist()}
        assert len(shards) == 8


def test_another_seed_is_another_schedule() -> None:
    assert rows_of(schedule(1).batch(0)) != rows_of(schedule(2).batch(0))


def test_the_share_of_monolingual_steps_is_exact_in_a_deal() -> None:
    kinds = schedule(mono_share=0.3)._kinds
    cards, _ = kinds.draw(np.arange(DEAL))
    assert (cards == 0).sum() == round(0.3 * DEAL)


GOLDEN_CONFIGS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "blocks": {"mix": "blocks", "mono_share": 0.25, "mono_block": 3, "cross_block": "batch"},
    "by size, one data set": {"language_exponent": 1.0, "dataset_exponent": 0.5, "one_dataset": True},
    "X-X of LAReQA": {"mono_share": 1.0, "mono_block": 1},
}


@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_golden_batches(name: str) -> None:
    """Changed batches break every run that is resumed: change these only with a new version of the schedule."""
    plan = schedule(7, **GOLDEN_CONFIGS[name])
    made = {str(step): rows_of(plan.batch(step)) for step in (0, 1, 2, 1000, 123_456)}
    golden = json.loads(GOLDEN.read_text())[name]
    assert {step: [list(row) for row in rows] for step, rows in made.items()} == golden
