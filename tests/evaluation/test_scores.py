"""Language pairs of scores, those of earlier versions included, whose languages may have a hyphen."""

import pytest

from hbdist.evaluation.scores import own_language, split_pair

LANGUAGES = ("en", "pt", "pt-BR", "zh-Hans", "sr-Latn-RS")


@pytest.mark.parametrize("same", [True, False])
def test_pairs_are_cut_where_both_languages_are_known(same):
    pairs = {f"{x}-{y}": (x, y) for x in LANGUAGES for y in LANGUAGES if same or x != y}
    assert {pair: split_pair(pair, pairs) for pair in pairs} == pairs


def test_pairs_within_one_language_are_known_without_any_other():
    pairs = {f"{x}-{x}": x for x in LANGUAGES}
    assert own_language(pairs) == {x: x for x in LANGUAGES}


def test_what_is_no_pair_is_itself():
    assert split_pair("en", ["en"]) == ("en", "en")
