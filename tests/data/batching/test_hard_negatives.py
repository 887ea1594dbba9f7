"""The draw of hard negatives: pinned, as the golden batches are, because a run must see the same ones after an upgrade."""

from hbdist.data.batching.hard_negatives import draw_hard_negatives
from hbdist.data.shards.sample import Pair

PAIR = Pair("d", "i", "query", "document", "en", "en", negatives=("a", "b", "c", "d", "e"))


def test_the_draw_of_a_key_never_changes() -> None:
    assert draw_hard_negatives(PAIR, 3, key="1/negatives of 0/7/0") == ["a", "b", "e"]
    assert draw_hard_negatives(PAIR, 3, key="1/negatives of 0/7/1") == ["b", "e", "a"]


def test_a_pair_with_too_few_is_filled_up_with_empty_texts() -> None:
    assert draw_hard_negatives(PAIR, 7, key="1/negatives of 0/7/0") == ["a", "b", "e", "d", "c", "", ""]
