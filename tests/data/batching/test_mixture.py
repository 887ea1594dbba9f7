"""Mixtures: shares, blocks and weights, and the errors for impossible settings."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from made_groups import GROUPS, make_group

from hbdist.config.sections import BatchSection, DataSection
from hbdist.data.batching.mixture import Mixture, nearest_divisors, plan_mixture
from hbdist.data.shards.groups import Group
from hbdist.errors import ConfigError


def plan(data: dict[str, Any] | None = None, *, groups: Sequence[Group] = GROUPS, **batch: Any) -> Mixture:
    return plan_mixture(groups, BatchSection(**{"size": 8, **batch}), DataSection(shards="x", **(data or {})))


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


def test_a_number_may_stand_for_the_pairs_of_a_data_set() -> None:
    """The paper's mMARCO counts triples, of which the shards keep the pairs: by pairs it would be 7 % of English, not 91 %."""
    pool = plan(mono_share=1, dataset_sizes=("a=3e3",)).kinds[0].pools[1]
    assert pool.rows == (100, 300)
    assert pool.dataset_weights == (3000, 300)
    assert plan(mono_share=1, dataset_sizes=("a=900",), dataset_exponent=0.5).kinds[0].pools[1].dataset_weights[0] == 30


@pytest.mark.parametrize("entry", ["c=5", "a=0", "a=1e99"])
def test_a_size_of_an_unknown_data_set_or_out_of_range_is_refused(entry: str) -> None:
    message = f"batch.dataset_sizes has {entry!r}; expected a data set of the shards (a, b)"
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(dataset_sizes=(entry,))


NINE = tuple(make_group("a", f"l{number}", f"l{number}", 10 + number) for number in range(9))
ONE_ROW = (make_group("a", "de", "de", 1), make_group("a", "en", "en", 9))
PRIME = (make_group("a", "de", "de", 4), make_group("a", "en", "en", 7))
CROSS = GROUPS[1:3]
REST = 'batch.small_pool="repeat" (repeats are masked as negatives), more data, or leave them out of data.languages.'
NAMES = ", ".join(f"l{number}-l{number} ({10 + number} pairs)" for number in range(8))

TOO_SMALL: list[tuple[Sequence[Group], dict[str, Any], str]] = [
    (
        *(GROUPS, {"size": 200}),
        "batch.mono_block asks for 200 pairs of one language, and these have fewer: de-de (100 pairs)."
        " Options: batch.size=100, batch.mono_block=100, ",
    ),
    (
        *(GROUPS, {"size": 80, "cross_block": "batch"}),
        "batch.cross_block asks for 80 pairs of one language pair, and these have fewer: de-en (60 pairs), en-de (60 pairs)."
        " Options: batch.size=60, batch.cross_block=40, ",
    ),
    (
        *(
            GROUPS,
            {"size": 240, "cross_block": "batch"},
        ),  # both kinds lack pairs, and the cross-lingual one more of them
        "batch.cross_block asks for 240 pairs of one language pair, and these have fewer: de-de (100 pairs), de-en (60 pairs),"
        " en-de (60 pairs). Options: batch.size=60, batch.cross_block=60, ",
    ),
    (
        *(GROUPS, {"size": 600, "mono_block": 300, "one_dataset": True}),
        "batch.mono_block asks for 300 pairs of one language and data set, and these have fewer: de-de (100 pairs), en-en (100"
        " pairs). Options: batch.mono_block=100, ",
    ),
    (
        *(GROUPS[3:], {"size": 102, "mono_share": 1, "one_dataset": True}),
        "batch.mono_block asks for 102 pairs of one language and data set, and these have fewer: en-en (100 pairs)."
        " Options: batch.size=100, batch.mono_block=51, ",
    ),
    (
        *(GROUPS, {"size": 240, "mix": "blocks", "cross_block": "batch", "mono_block": 1}),
        "batch.cross_block asks for 120 pairs of one language pair, and these have fewer: de-en (60 pairs), en-de (60 pairs)."
        " Options: batch.cross_block=60, ",
    ),
    (
        *(PRIME, {"size": 5, "mono_share": 1}),  # of the divisors of 5, only 1 is at most 4
        "batch.mono_block asks for 5 pairs of one language, and these have fewer: de-de (4 pairs)."
        " Options: batch.size=4, batch.mono_block=1, ",
    ),
    (
        *(ONE_ROW, {"size": 2, "mono_share": 1}),
        "batch.mono_block asks for 2 pairs of one language, and these have fewer: de-de (1 pairs)."
        " Options: batch.size=1, batch.mono_block=1, ",
    ),
    (
        *(NINE, {"size": 20, "mono_share": 1, "mono_block": 20}),
        f"batch.mono_block asks for 20 pairs of one language, and these have fewer: {NAMES} …. Options: batch.mono_block=10, ",
    ),
    (
        *(NINE[:8], {"size": 20, "mono_share": 1}),
        f"batch.mono_block asks for 20 pairs of one language, and these have fewer: {NAMES}."
        " Options: batch.size=10, batch.mono_block=10, ",
    ),
]


@pytest.mark.parametrize(("groups", "batch", "sentences"), TOO_SMALL)
def test_pools_that_are_too_small_are_refused_with_options_that_work(
    groups: Sequence[Group], batch: dict[str, Any], sentences: str
) -> None:
    assert refusal(groups, batch) == sentences + REST
    options = re.findall(r"batch\.(\w+)=(\d+)", sentences)
    assert options
    for key, value in options:
        # The other kind may still be too small.
        assert f"batch.{key}" not in refusal(groups, batch | {key: int(value)}).partition(" and these have fewer")[0]


def refusal(groups: Sequence[Group], batch: dict[str, Any], data: dict[str, Any] | None = None) -> str:
    """Return the sentences with which this mixture is refused; none if it is possible."""
    try:
        plan(data, groups=groups, **batch)
    except ConfigError as error:
        return str(error)
    return ""


REFUSED: list[tuple[Sequence[Group], dict[str, Any], dict[str, Any], str]] = [
    (
        *(GROUPS, {"mix": "blocks", "mono_share": 0.3}, {}),
        'batch.mono_share = 0.3 of batch.size = 8 is 2.4 pairs, and batch.mix = "blocks" needs a whole number. Nearest that'
        " work: batch.mono_share = 2/8 = 0.25 or 3/8 = 0.375; or batch.size = 10.",
    ),
    (
        *(GROUPS, {"mix": "blocks", "mono_share": 0.75, "size": 10}, {}),
        'batch.mono_share = 0.75 of batch.size = 10 is 7.5 pairs, and batch.mix = "blocks" needs a whole number. Nearest that'
        " work: batch.mono_share = 7/10 = 0.7 or 8/10 = 0.8; or batch.size = 8 or 12.",
    ),
    (
        *(GROUPS, {"mono_block": 3}, {}),
        "batch.mono_block = 3 does not divide the 8 pairs of its kind in a batch. Nearest that do: 2 and 4; or"
        ' "batch" for all 8 in one.',
    ),
    (
        *(GROUPS, {"cross_block": 16}, {}),
        "batch.cross_block = 16 does not divide the 8 pairs of its kind in a batch. Nearest that do: 8; or"
        ' "batch" for all 8 in one.',
    ),
    (
        *(GROUPS, {}, {"languages": ["en", "deu"]}),
        "data.languages names 'deu', a language that the shards do not have. Did you mean de? They have: de, en. Take it out of"
        " data.languages, or build shards that have it.",
    ),
    (
        *(GROUPS, {}, {"datasets": ["c"]}),
        "data.datasets names 'c', a data set that the shards do not have. They have: a, b. Take it out of data.datasets, or"
        " build shards that have it.",
    ),
    (
        *(GROUPS, {}, {"languages": ["en"]}),
        "batch.mono_share = 0.5 asks for cross-lingual pairs, and the mixture has none (it has: en-en). Set batch.mono_share=1,"
        " widen data.languages or data.datasets, or build shards with cross-lingual groups.",
    ),
    (
        *(CROSS, {}, {}),
        "batch.mono_share = 0.5 asks for monolingual pairs, and the mixture has none (it has: de-en, en-de). Set"
        " batch.mono_share=0, widen data.languages or data.datasets, or build shards with monolingual groups.",
    ),
    (
        *((), {"mono_share": 0}, {}),
        "batch.mono_share = 0.0 asks for cross-lingual pairs, and the mixture has none (it has: nothing). Set"
        " batch.mono_share=1, widen data.languages or data.datasets, or build shards with cross-lingual groups.",
    ),
]


@pytest.mark.parametrize(("groups", "batch", "data", "sentences"), REFUSED)
def test_an_impossible_mixture_is_refused_with_the_nearest_possible_ones(
    groups: Sequence[Group], batch: dict[str, Any], data: dict[str, Any], sentences: str
) -> None:
    assert refusal(groups, batch, data) == sentences


def test_only_the_selected_groups_with_rows_are_in_the_mixture() -> None:
    groups = (*GROUPS, make_group("b", "de", "de", 0), make_group("b", "fr", "fr", 50), make_group("b", "fr", "en", 50))
    whole = plan(groups=groups)
    assert [(pool.pair, pool.groups, pool.rows, pool.size) for kind in whole.kinds for pool in kind.pools] == [
        ("de-de", (0,), (100,), 100),
        ("en-en", (3, 4), (100, 300), 400),
        ("fr-fr", (6,), (50,), 50),
        ("de-en", (1,), (60,), 60),
        ("en-de", (2,), (60,), 60),
        ("fr-en", (7,), (50,), 50),
    ]
    some = plan({"languages": ["en", "fr"], "datasets": ["b"]}, groups=groups)
    assert [(pool.pair, pool.groups) for kind in some.kinds for pool in kind.pools] == [
        ("en-en", (4,)),
        ("fr-fr", (6,)),
        ("fr-en", (7,)),
    ]


def test_the_largest_block_repeats_no_row_whatever_the_weights() -> None:
    pool = plan(mono_share=1, dataset_exponent=0.0).kinds[0].pools[1]
    assert pool.rows == (100, 300)
    assert pool.largest_block(one_dataset=True) == 100
    assert pool.largest_block(one_dataset=False) == 200  # half of it from each data set
    by_size = plan(mono_share=1).kinds[0].pools[1]
    assert by_size.largest_block(one_dataset=False) == 400
    plan(size=100, one_dataset=True)
    plan(size=100)
    with pytest.raises(ConfigError, match=r"one language and data set, and these have fewer: en-en \(100 pairs\)"):
        plan({"languages": ["en"]}, size=101, one_dataset=True, mono_share=1)


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
    assert nearest_divisors(12, 4) == [3, 6]
    assert nearest_divisors(1, 1) == []
