"""Mixtures: shares, blocks and weights, and the errors for impossible settings."""

from typing import Any

import pytest
from made_groups import GROUPS

from hbdist.config.sections import BatchSection, DataSection
from hbdist.data.batching.mixture import Mixture, nearest_divisors, plan_mixture
from hbdist.errors import ConfigError


def plan(data: dict[str, Any] | None = None, **batch: Any) -> Mixture:
    return plan_mixture(GROUPS, BatchSection(**{"size": 8, **batch}), DataSection(shards="x", **(data or {})))


def test_the_papers_strategies_are_values_of_the_settings() -> None:
    assert [kind.name for kind in plan(mono_share=1).kinds] == ["mono"]
    assert [kind.name for kind in plan(mono_share=0).kinds] == ["cross"]
    hybrid = plan(mono_share=0.5)
    assert [(kind.name, kind.share, kind.part, kind.block) for kind in hybrid.kinds] == [
        ("mono", 0.5, 8, 8),
        ("cross", 0.5, 8, 1),
    ]


def test_blocks_split_the_batch_exactly() -> None:
    kinds = plan(mix="blocks", mono_share=0.75, mono_block=3, cross_block="batch").kinds
    assert [(kind.part, kind.block, kind.blocks) for kind in kinds] == [(6, 3, 2), (2, 2, 1)]


def test_weights_follow_the_exponents() -> None:
    uniform = plan(mono_share=1).kinds[0]
    assert [pool.weight for pool in uniform.pools] == [1, 1]
    assert uniform.pools[1].dataset_weights == (100, 300)
    by_size = plan(mono_share=1, language_exponent=1.0, dataset_exponent=0.0).kinds[0]
    assert [pool.weight for pool in by_size.pools] == [100, 400]
    assert by_size.pools[1].dataset_weights == (1, 1)


@pytest.mark.parametrize(
    ("batch", "data", "sentences"),
    [
        ({"mix": "blocks", "mono_share": 0.3}, {}, ["2.4 pairs", "2/8 = 0.25", "3/8 = 0.375", "batch.size = 10"]),
        ({"mono_block": 3}, {}, ["batch.mono_block = 3 does not divide the 8 pairs", "2 and 4"]),
        ({"size": 200}, {}, ["de-de (100 pairs)", "batch.size=100", "batch.mono_block=100", 'small_pool="repeat"']),
        ({}, {"languages": ["en", "deu"]}, ["'deu'", "Did you mean de?", "They have: de, en"]),
        ({}, {"datasets": ["c"]}, ["data.datasets names 'c'", "They have: a, b"]),
        ({}, {"languages": ["en"]}, ["asks for cross-lingual pairs", "batch.mono_share=1"]),
    ],
)
def test_an_impossible_mixture_is_refused_with_the_nearest_possible_ones(
    batch: dict[str, Any], data: dict[str, Any], sentences: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        plan(data, **batch)
    for sentence in sentences:
        assert sentence in str(error.value)


def test_the_suggested_sizes_work() -> None:
    assert [kind.part for kind in plan(mix="blocks", mono_share=0.3, size=10).kinds] == [3, 7]
    assert [kind.part for kind in plan(mix="blocks", mono_share=0.375).kinds] == [3, 5]
    assert plan(size=200, mono_block=100).kinds[0].blocks == 2
    assert plan(size=100).small == ()


def test_small_pools_repeat_if_the_config_says_so_and_are_named() -> None:
    assert plan(size=200, small_pool="repeat").small == ("de-de (100 pairs)",)


def test_nearest_divisors() -> None:
    assert nearest_divisors(12, 5) == [4, 6]
    assert nearest_divisors(12, 20) == [12]
    assert nearest_divisors(12, 0) == [1]
