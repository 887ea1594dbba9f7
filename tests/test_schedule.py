"""The first promise: which pairs are in batch n is a pure function of (manifest, config, seed, n)."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_mixture import make_group

from hbdist.errors import ConfigError
from hbdist.mixture import plan_mixture
from hbdist.schedule import DEAL, Deck, GlobalBatch, Schedule, deal_to_ranks, permutation, quotas
from hbdist.sections import BatchSection, DataSection

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
def test_a_step_has_the_same_rows_in_whatever_order_steps_are_asked_for(
    seed: int, batch: dict[str, Any], steps: list[int]
) -> None:
    forwards, backwards = schedule(seed, **batch), schedule(seed, **batch)
    first = {step: rows_of(forwards.batch(step)) for step in steps}
    assert {step: rows_of(backwards.batch(step)) for step in reversed(steps)} == first


@given(seed=st.integers(0, 99), lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60), world=st.integers(1, 9))
def test_ranks_only_slice_the_batch(seed: int, lengths: list[int], world: int) -> None:
    dealt = deal_to_ranks(np.array(lengths, dtype=float), world)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(len(lengths)))
    counts = [len(part) for part in dealt]
    assert max(counts) - min(counts) <= 1


def test_ranks_get_about_as_many_tokens_each() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.5, 256)

    def spread(parts: list[np.ndarray]) -> float:
        sums = [lengths[part].sum() for part in parts]
        return max(sums) / min(sums) - 1

    unsorted = [np.arange(rank, 256, 8) for rank in range(8)]
    assert spread(deal_to_ranks(lengths, 8)) < spread(unsorted) / 3


@given(batch=batches)
def test_blocks_hold_what_was_asked_for(batch: dict[str, Any]) -> None:
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
                assert len({pairs[place] for place in here}) == 1
                if batch["one_dataset"]:
                    assert len({GROUPS[made.group[place]].dataset for place in here}) == 1


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=30),
    total=st.integers(30, 5000),
)
def test_quotas_add_up_and_are_off_by_less_than_one(weights: list[float], total: int) -> None:
    counts = quotas(weights, total)
    assert counts.sum() == total
    assert np.all(np.abs(counts - np.array(weights) / sum(weights) * total) < 1)


@given(weights=st.lists(st.floats(0.1, 10), min_size=2, max_size=9), deal=st.integers(0, 3))
def test_shares_are_exact_in_every_deal(weights: list[float], deal: int) -> None:
    deck = Deck(weights, "test")
    cards, turns = deck.draw(deal * deck.size + np.arange(deck.size))
    assert np.array_equal(np.bincount(cards, minlength=len(weights)), deck.quota)
    for card, quota in enumerate(deck.quota):
        # Every turn of a card comes once, in order.
        assert np.array_equal(turns[cards == card], deal * quota + np.arange(quota))


def test_shares_inside_a_deal_are_within_binomial_error() -> None:
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    cards, _ = Deck(shares.tolist(), "inside").draw(np.arange(4000))
    error = np.abs(np.bincount(cards, minlength=4) / 4000 - shares) / np.sqrt(shares * (1 - shares) / 4000)
    assert error.max() < 4


def test_the_rarest_card_gets_a_larger_deal_or_an_error() -> None:
    assert Deck([1, 1e-5], "rare").size == DEAL
    assert Deck([1, 1e-6], "rarer").size == 8 * DEAL
    with pytest.raises(ConfigError, match="too small to be dealt"):
        Deck([1, 1e-9], "1/rarest")


@given(seed=st.integers(0, 10**6), one_dataset=st.booleans())
def test_each_row_comes_once_an_epoch(seed: int, one_dataset: bool) -> None:
    plan = schedule(seed, size=16, mono_share=1.0, one_dataset=one_dataset)
    seen: Counter[tuple[int, int, int]] = Counter()
    for step in range(160):
        batch = plan.batch(step)
        seen.update(zip(batch.group.tolist(), batch.epoch.tolist(), batch.row.tolist(), strict=True))
    assert set(seen.values()) == {1}
    for place, group in enumerate(GROUPS):
        if group.monolingual:
            done = max(epoch for number, epoch, _ in seen if number == place)
            for epoch in range(done):
                assert {row for number, when, row in seen if (number, when) == (place, epoch)} == set(range(group.rows))
    assert any(epoch > 0 for _, epoch, _ in seen), "no group was gone through once: the test shows nothing"


def test_epochs_have_orders_of_their_own() -> None:
    plan = schedule(size=97, groups=GROUPS[:1], mono_share=1.0)
    orders = [plan.batch(step).row.tolist() for step in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(97))
    assert orders[0] != orders[1] != orders[2]


def test_at_most_a_window_of_shards_is_open_a_group() -> None:
    group = make_group("a", "en", "en", 4000, shard_rows=40)  # 100 shards
    plan = schedule(size=40, groups=(group,), mono_share=1.0)
    for step in range(0, 96, 8):  # 8 shards a window = 320 rows = 8 steps
        shards = {row // 40 for s in range(step, step + 8) for row in plan.batch(step=s).row.tolist()}
        assert len(shards) == 8


def test_another_seed_is_another_schedule() -> None:
    assert rows_of(schedule(1).batch(0)) != rows_of(schedule(2).batch(0))


def test_the_share_of_monolingual_steps_is_exact_in_a_deal() -> None:
    kinds = schedule(mono_share=0.3)._kinds
    cards, _ = kinds.draw(np.arange(kinds.size))
    assert (cards == 0).sum() == round(0.3 * kinds.size)


@given(count=st.integers(0, 300), key=st.text(max_size=8))
def test_a_permutation_is_one(count: int, key: str) -> None:
    assert sorted(permutation(key, count).tolist()) == list(range(count))


GOLDEN_CONFIGS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "blocks": {"mix": "blocks", "mono_share": 0.25, "mono_block": 3, "cross_block": "batch"},
    "by size, one data set": {"language_exponent": 1.0, "dataset_exponent": 0.5, "one_dataset": True},
    "X-X of LAReQA": {"mono_share": 1.0, "mono_block": 1},
}


@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_golden_batches(name: str) -> None:
    """A changed batch breaks every run that is resumed: change these only with a new version of the schedule."""
    plan = schedule(7, **GOLDEN_CONFIGS[name])
    made = {str(step): rows_of(plan.batch(step)) for step in (0, 1, 2, 1000, 123_456)}
    golden = json.loads(GOLDEN.read_text())[name]
    assert {step: [list(row) for row in rows] for step, rows in made.items()} == golden
