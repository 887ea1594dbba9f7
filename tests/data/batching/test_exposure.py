"""Exposure of a run, computed before it starts, against the batches of its schedule."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_groups import make_group
from test_schedule import GROUPS, batches, count_words, manifests, repeating

from hbdist.config.config import Config
from hbdist.data.batching.exposure import MANY_EPOCHS, RunStatistics, expected_repeats, run_statistics
from hbdist.data.batching.schedule import Schedule
from hbdist.data.shards.groups import Group
from hbdist.data.shards.manifest import Manifest


def config(steps: int, **batch: Any) -> Config:
    values = {"steps": steps, "data": {"shards": "x"}, "model": {"name": "x"}, "batch": {"size": 12, **batch}}
    return Config.check(values, source="test")


def statistics(steps: int, groups: tuple[Group, ...] = GROUPS, **batch: Any) -> RunStatistics:
    return run_statistics(config(steps, **batch), Manifest(Path("nowhere"), groups))


@settings(max_examples=30)
@given(groups=manifests(), batch=batches, steps=st.integers(1, 40))
def test_shares_and_epochs_are_those_of_the_planned_batches(
    groups: tuple[Group, ...], batch: dict[str, Any], steps: int
) -> None:
    run = config(steps, **repeating(**batch))
    manifest = Manifest(Path("nowhere"), groups)
    seen = run_statistics(run, manifest)
    plan = Schedule.of(run, manifest)
    planned = [plan.batch(step) for step in range(steps)]
    counts = Counter(int(group) for global_batch in planned for group in global_batch.group)
    pairs: dict[str, int] = {}
    pools: Counter[str] = Counter()
    datasets: Counter[str] = Counter()
    for number, count in counts.items():
        pairs[groups[number].name] = count
        pools[groups[number].pair] += count
        datasets[groups[number].dataset] += count
    assert {group.name: group.pairs for group in seen.groups if group.pairs} == pairs
    assert seen.pairs == sum(pairs.values()) == steps * run.batch.size
    assert {pair: share for pair, share in seen.pools.items() if share} == shares(pools)
    assert {name: share for name, share in seen.datasets.items() if share} == pytest.approx(shares(datasets))
    assert set(seen.unused) == set(seen.pools) - set(pools)
    mono = sum(global_batch.mono.sum() for global_batch in planned) / seen.pairs
    assert seen.kinds.get("mono", 0.0) == pytest.approx(mono)
    for number, count in counts.items():
        last = max(global_batch.epoch[global_batch.group == number].max(initial=-1) for global_batch in planned)
        assert last == (count - 1) // groups[number].rows


def shares(counts: Counter[str]) -> dict[str, float]:
    return {name: count / counts.total() for name, count in counts.items()}


@given(pairs=st.integers(0, 60), rows=st.integers(1, 25))
def test_expected_repeats_are_the_mean_over_all_first_positions(pairs: int, rows: int) -> None:
    total = 0.0
    for first in range(rows):
        sizes = [rows - first, *[rows] * (pairs // rows + 2)]  # of the epochs that the positions cover
        taken: list[int] = []
        for size in sizes:
            taken.append(min(size, pairs - sum(taken)))
        # Epochs miss a row independently of one another.
        missed = np.prod([1 - count / rows for count in taken])
        total += pairs - rows * (1 - missed)
    assert expected_repeats(np.array([pairs]), np.array([rows]))[0] == pytest.approx(total / rows, abs=1e-6)


@pytest.mark.parametrize(
    "batch",
    [
        {"size": 144, "mono_share": 1.0},
        {"size": 90, "mono_share": 1.0, "one_dataset": True},
        {"size": 512, "mono_share": 0.0},
        {"size": 200, "mono_share": 0.5, "mix": "blocks"},
        {"size": 240, "mono_share": 1.0, "mono_block": 60},
    ],
)
def test_repeats_are_about_as_many_as_expected(batch: dict[str, Any]) -> None:
    steps = 400
    run = config(steps, small_pool="repeat", **batch)
    manifest = Manifest(Path("nowhere"), GROUPS)
    plan = Schedule.of(run, manifest)
    repeats = 0
    for step in range(steps):
        made = plan.batch(step)
        repeats += len(made) - len(set(zip(made.group.tolist(), made.row.tolist(), strict=True)))
    assert repeats > 200
    assert run_statistics(run, manifest).repeats == pytest.approx(repeats, rel=0.25)


def test_a_small_group_with_many_epochs_gives_a_warning() -> None:
    groups = (make_group("a", "en", "en", 4000), make_group("a", "sw", "sw", 50))
    seen = statistics(1000, groups, mono_share=1.0)
    assert [group.name for group in seen.overused] == ["a/sw-sw"]
    assert seen.overused[0].epochs == pytest.approx(120, abs=5)
    assert f"seen {MANY_EPOCHS} times or more" in seen.text()
    assert f"  a/sw-sw {seen.overused[0].epochs:,.0f} times\n" in seen.text()
    assert "seen" not in statistics(100, groups, mono_share=1.0).text()


def test_a_language_that_a_short_run_does_not_reach_is_named() -> None:
    seen = statistics(2, mono_share=1.0)
    assert len(seen.unused) >= 2
    assert f"in no batch: the run is too short for them\n  {seen.unused[0]}" in seen.text()
    assert "in no batch" not in statistics(500, mono_share=1.0).text()


def test_repeats_are_reported_with_the_groups_that_have_them() -> None:
    groups = (make_group("a", "en", "en", 4000), make_group("a", "sw", "sw", 5))
    text = statistics(100, groups, mono_share=1.0, small_pool="repeat").text()
    assert "repeat one of their own batch" in text
    assert text.splitlines()[-1].startswith("  a/sw-sw ")


def test_the_text_is_short_and_begins_with_the_extremes() -> None:
    languages = [f"x{letter}" for letter in "abcdefghijklmnopqrst"]
    groups = tuple(
        make_group(dataset, query, document, 20 + 3 * number)
        for number, dataset in enumerate("abcdefgh")
        for query in languages
        for document in languages
    )
    text = statistics(300, groups, size=512, mono_block=64, small_pool="repeat").text()
    lines = text.splitlines()
    assert len(lines) <= 30
    assert "and 394 more" in text
    epochs = [float(line.split()[0]) for line in lines if "pairs of" in line]
    assert max(map(len, lines)) <= 140
    assert epochs == sorted(epochs, reverse=True)
    assert len({line.index("pairs of") for line in lines if "pairs of" in line}) == 1, "columns are aligned"


def test_statistics_need_no_windows_and_no_more_words_for_a_longer_run(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = tuple(make_group("a", f"a{x}", f"a{y}", 10_000, shard_rows=1_000) for x in "bcdefg" for y in "bcdefg")
    short, long = (count_words(monkeypatch, lambda steps=steps: statistics(steps, groups)) for steps in (10, 10**6))
    assert short <= 3 * 65_536 >= long
