"""Sentence breaks in seven languages."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbdist.evaluation.tasks import mlqa_r
from hbdist.evaluation.tasks.sentences import sentence_breaks


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["Dr. No met J. R. Smith in the U.S. at 5 p.m. sharp.", "He left!", '"Why?" she asked.']),
        ("de", ["Am 16. Juli 1904 kam er, d. h. spät.", "Er ging.", "Sie blieb z. B. dort."]),
        ("es", ["El Sr. Díaz nació en 1904.", "¿Quién era?", "Nadie lo sabe…", "Fin."]),
        ("zh", ["他来了。", "“走吧！”", "他说3.5米？", "是。"]),
        ("hi", ["वह आया।", "वह गया।"]),
        ("ar", ["من هو؟", "جاء اليوم.", "ثم ذهب."]),
        ("vi", ["Ông đến TP. Hồ Chí Minh năm 1975.", "Ông đi."]),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(language, sentences):
    text = ("" if language == "zh" else " ").join(sentences)
    assert [text[start:end] for start, end in sentence_breaks(text, language)] == sentences


@given(st.text(alphabet="aB1. \n!?。।…\"”ü'(", max_size=60), st.sampled_from(sorted(mlqa_r.QUESTIONS)))
def test_sentences_cover_all_of_a_text_but_white_space_in_order(text, language):
    spans = sentence_breaks(text, language)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    covered = {index for start, end in spans for index in range(start, end)}
    assert all(character.isspace() for index, character in enumerate(text) if index not in covered)
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)
