"""The gates, on human translations and on faults of each kind, and cutting and joining texts."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbdist.models.language_codes import FLORES
from hbdist.translation import quality as gates
from hbdist.translation.languages import FUNCTION_WORDS, SCRIPTS, script_of, unicode_script
from hbdist.translation.quality import extract_numbers, find_fault, language_check
from hbdist.translation.segments import join, split

NTREX = Path(__file__).parents[2] / "shards" / "demo" / "train" / "ntrex"
ENGLISH = (
    "The council of the city said on Monday that it will build 1,250 houses with the money, and a bridge of 40 metres."
)
GERMAN = (
    "Der Stadtrat teilte am Montag mit, dass er mit dem Geld 1.250 Häuser und eine 40 Meter lange Brücke bauen wird."
)


def rows(language: str) -> dict[str, dict[str, str]]:
    with gzip.open(NTREX / f"{language}.jsonl.gz", "rt", encoding="utf-8") as file:
        return {row["id"]: row for row in map(json.loads, file)}


@pytest.mark.parametrize("language", ["am", "ar", "de", "es", "hi", "ru", "sw", "th", "tr", "zh"])
def test_human_translations_pass(language: str) -> None:
    english, translated = rows("en"), rows(language)
    pairs = [(english[one]["document"], translated[one]["document"]) for one in [*translated][:60]]
    faults = [find_fault(source, translation, target=language) for source, translation in pairs]
    assert faults.count(None) >= 54
    assert set(faults) <= {None, gates.NUMBERS_LOST}  # people convert units and write numbers as words


@pytest.mark.parametrize("language", ["ar", "de", "hi", "ru", "sw", "th", "tr", "zh"])
def test_a_text_in_another_language_is_a_fault(language: str) -> None:
    english, spanish = rows("en"), rows("es")
    pairs = [(english[one]["document"], spanish[one]["document"]) for one in [*english][:60]]
    expected = gates.OTHER_LANGUAGE if script_of(language) == "Latn" else gates.OTHER_SCRIPT
    faults = [find_fault(source, translation, target=language) for source, translation in pairs]
    assert faults.count(expected) >= 57


def test_a_good_translation_passes() -> None:
    assert find_fault(ENGLISH, GERMAN, target="de") is None


def test_white_space_alone_is_empty() -> None:
    assert find_fault("base", " \n", target="de") == gates.EMPTY


@given(st.text(alphabet="abcdefghij 12.,", min_size=1).filter(str.strip))
def test_the_source_itself_is_copied_in_any_case(text: str) -> None:
    assert find_fault(text, text, target="de") == gates.COPIED
    assert find_fault(text, text.upper(), target="th") == gates.COPIED


def test_a_mostly_untranslated_text_is_copied_but_a_title_is_not() -> None:
    half = "The council of the city said on Monday that it will build 1,250 Häuser und eine 40 Meter lange Brücke."
    assert find_fault(ENGLISH, half, target="de") == gates.COPIED
    source = "When was The Lord of the Rings first shown in cinemas of New Zealand and Germany?"
    title = "Wann wurde The Lord of the Rings zum ersten Mal in Kinos in Neuseeland und Deutschland gezeigt?"
    assert find_fault(source, title, target="de") is None


def test_names_may_keep_the_script_of_the_source() -> None:
    assert find_fault("Who is Barack Obama?", "Barack Obama คือใคร", target="th") is None
    assert find_fault("Who is he?", "Qui est-il donc?", target="th") == gates.OTHER_SCRIPT


def test_chinese_and_japanese_are_told_apart() -> None:
    japanese = "市議会は月曜日に橋を建設すると発表した。市は新しい学校も建てる。"
    chinese = "市议会星期一宣布将建造一座桥梁和一所新的学校并修复旧的道路"
    source = "The city council said on Monday that it will build a bridge and a new school."
    assert find_fault(source, japanese, target="ja") is None
    assert find_fault(source, chinese, target="ja") == gates.OTHER_SCRIPT
    assert find_fault(source, chinese, target="zh") is None
    assert find_fault(source, japanese, target="zh") == gates.OTHER_SCRIPT


@given(unit=st.text(alphabet="äbcdeก ", min_size=2, max_size=40).filter(str.strip), times=st.integers(8, 12))
def test_a_string_that_occurs_many_times_in_a_row_repeats_itself(unit: str, times: int) -> None:
    assert gates._repeats_itself("zu Beginn " + unit * times)


@pytest.mark.parametrize(
    "text", ["....................", "no no, that is not so", "2000000000000", "Well - - - - -", "ha", ""]
)
def test_rows_of_dots_and_zeros_do_not_repeat_themselves(text: str) -> None:
    assert not gates._repeats_itself(text)


def test_a_translation_may_repeat_itself_if_the_source_does() -> None:
    assert find_fault("la la la la la, sang she", "lo lo lo lo lo, cantó ella", target="es") is None
    assert find_fault("la, sang she on the first day", "lo lo lo lo lo, cantó ella", target="es") == gates.REPEATING


def test_a_translation_of_very_different_length_is_a_fault() -> None:
    assert find_fault(ENGLISH, "Der Stadtrat 1250 40", target="de") == gates.TOO_SHORT
    assert (
        find_fault("Who?", "Wer ist es, der am Montag die Brücke gebaut hat, und warum?", target="de") == gates.TOO_LONG
    )
    assert find_fault("Who is it?", "谁?", target="zh") is None


@given(st.integers(11, 10**9).filter(lambda number: len(str(number).strip("0")) > 1))
def test_numbers_are_equal_in_all_digits_and_groupings(number: int) -> None:
    plain = extract_numbers(str(number))
    assert plain.total() == 1
    for zero in "٠۰०๐০":
        assert extract_numbers("".join(chr(ord(zero) + int(digit)) for digit in str(number))) == plain
    for separator in ",.'٬\u00a0\u202f ":
        assert extract_numbers(f"{number:,}".replace(",", separator)) == plain


def test_lost_numbers_are_a_fault() -> None:
    assert (
        find_fault(ENGLISH, GERMAN.replace("1.250", "viele").replace("40", "viele"), target="de") == gates.NUMBERS_LOST
    )
    assert find_fault("In 1912 it sank.", "Il a coulé en 1921.", target="fr") == gates.NUMBERS_LOST
    assert find_fault("In 1912 it sank.", "वह १९१२ में डूब गया।", target="hi") is None
    assert extract_numbers("1,00,000") == extract_numbers("100000")


def test_the_language_check_says_how_thorough_it_is() -> None:
    assert [language_check(one) for one in ("th", "de", "gl", "dv")] == ["script", "function words", "script", "none"]
    assert all(script_of(language) for language in FLORES)
    assert all(script_of(language) == "Latn" for language in FUNCTION_WORDS)


@given(st.characters())
def test_every_letter_is_in_one_known_script_or_none(letter: str) -> None:
    assert unicode_script(letter) in {"", *frozenset().union(*SCRIPTS.values())}


TEXTS = st.text(alphabet=st.sampled_from("ab cd. !\n,。、\u00a0ก"), max_size=80).filter(str.strip)


@given(TEXTS, st.integers(1, 30))
def test_pieces_contain_the_whole_text_and_fit(text: str, limit: int) -> None:
    pieces = split(text, lambda part: len(part) <= limit).pieces
    assert "".join(piece.text + piece.gap for piece in pieces) == text.strip()
    assert all(len(piece.text) <= limit for piece in pieces)
    assert all(piece.text == piece.text.strip() and "\n" not in piece.text for piece in pieces)


@given(TEXTS, st.integers(1, 30))
def test_joined_pieces_equal_the_text_up_to_white_space(text: str, limit: int) -> None:
    pieces = split(text, lambda part: len(part) <= limit).pieces
    joined = join(pieces, [piece.text for piece in pieces], target="zh")
    assert "".join(joined.split()) == "".join(text.split())


def test_texts_are_cut_at_sentence_ends_and_sentences_that_fit_stay_together() -> None:
    text = "One two. Three four! Five?\nSix, seven eight nine ten. 十一。十二。"
    pieces, broken = split(text, lambda part: len(part) <= 20)
    expected = ["One two. Three four!", "Five?", "Six,", "seven eight nine", "ten. 十一。十二。"]
    assert [piece.text for piece in pieces] == expected
    assert broken == 1
    assert join(pieces, ["1", "2", "3", "4", "5"], target="de") == "1 2\n3 4 5"
    assert join(pieces, ["1", "2", "3", "4", "5"], target="zh") == "12\n345"
