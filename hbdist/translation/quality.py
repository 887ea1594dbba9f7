"""Gates that a machine translation must pass: each compares a text with its translation and reports a fault.

They find gross, visible errors and are set so that human translations pass; they do not measure how good a translation
is. The language of a translation is only checked as far as `language_check` says.
"""

import re
import unicodedata
from collections import Counter
from typing import Literal

import numpy as np

from hbdist.translation.languages import FUNCTION_WORDS, SCRIPTS, script_of, unicode_script

EMPTY = "empty"
COPIED = "copied"
OTHER_SCRIPT = "other script"
OTHER_LANGUAGE = "other language"
REPEATING = "repeats itself"
TOO_SHORT = "too short"
TOO_LONG = "too long"
NUMBERS_LOST = "numbers lost"

RUN = 4
"""Least number of consecutive words shared with the source that count as copied; shorter runs are names and titles."""
COPIED_SHARE = 0.5
"""Largest share of a translation's words that may be copied."""
SCRIPT_SHARE = 0.5
"""Least share of a translation's letters, names excluded, that must be in the script of its language."""
EVIDENCE = 4
"""Least number of function words of another language that show a translation to be in it."""
REPEATS = 4
"""Number of consecutive repetitions of a string that is a fault; together they have at least twice as many characters."""
LONGEST_UNIT = 120
"""Number of characters of the longest string that repetitions are searched for."""
RATIO = 3.0
"""Largest ratio of the lengths of a text and its translation, after adding SLACK to both."""
SLACK = 12.0
"""Number of characters added to both lengths, because a short text may have a much shorter or longer translation."""
NUMBERS_SHARE = 0.5
"""Least share of the source's numbers that the translation must have."""

NUMBER = re.compile(r"[0-9]{1,3}(?:[.,'’٬ \u00a0\u202f][0-9]{2})*(?:[.,'’٬ \u00a0\u202f][0-9]{3})+(?![0-9])|[0-9]+")
"""Pattern of a number: digits in separated groups of three (or, as in India, of two and a last one of three), or alone."""

WIDE = {"CJK": 3.0, "HANGUL": 2.0, "HIRAGANA": 2.0, "KATAKANA": 2.0, "ETHIOPIC": 1.5}
"""Unicode script → number of alphabetic letters that one of its letters corresponds to, if more than one."""


def language_check(language: str) -> Literal["script", "function words", "none"]:
    """Return how thoroughly a translation's language is checked.

    "script": its letters must be in the language's script; languages that share one (Russian and Ukrainian, simplified
    and traditional Chinese) are not distinguished. "function words": for the Latin script, function words of another
    language must also not outnumber its own; short texts have too few of them. "none": hbdist has neither the script nor
    the function words of the language.
    """
    if script_of(language) is None:
        return "none"
    return "function words" if language in FUNCTION_WORDS else "script"


def find_fault(source: str, translation: str, *, target: str) -> str | None:
    """Return the fault of a translation of `source` into the language `target`, or None if it passes all gates."""
    if not translation.strip():
        return EMPTY
    if _is_copied(source, translation):
        return COPIED
    if _is_in_another_script(source, translation, target=target):
        return OTHER_SCRIPT
    if _is_in_another_language(translation, target=target):
        return OTHER_LANGUAGE
    if _repeats_itself(translation) and not _repeats_itself(source):
        return REPEATING
    ratio = (_size(translation) + SLACK) / (_size(source) + SLACK)
    if not 1 / RATIO <= ratio <= RATIO:
        return TOO_LONG if ratio > RATIO else TOO_SHORT
    return NUMBERS_LOST if _loses_numbers(source, translation) else None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _is_copied(source: str, translation: str) -> bool:
    """Return whether the translation is the source, or consists mostly of runs of words that the source has, too."""
    words, source_words = _words(translation), _words(source)
    if words == source_words:
        return True
    source_runs = {tuple(source_words[start : start + RUN]) for start in range(len(source_words) - RUN + 1)}
    copied: set[int] = set()
    for start in range(len(words) - RUN + 1):
        if tuple(words[start : start + RUN]) in source_runs:
            copied |= set(range(start, start + RUN))
    return len(copied) > COPIED_SHARE * len(words)


def _is_in_another_script(source: str, translation: str, *, target: str) -> bool:
    script = script_of(target)
    if script is None:
        return False
    names = set(_words(source))  # words that the translation shares with the source may keep their script
    letters = Counter(unicode_script(letter) for word in _words(translation) if word not in names for letter in word)
    expected = sum(letters[name] for name in SCRIPTS[script])
    total = sum(count for name, count in letters.items() if name)
    kana = letters["HIRAGANA"] + letters["KATAKANA"]
    if script == "Jpan" and not kana and total > 20:
        return True  # a longer text of ideographs alone is Chinese
    return expected < SCRIPT_SHARE * total or (script in ("Hans", "Hant") and kana > total / 10)


def _is_in_another_language(translation: str, *, target: str) -> bool:
    """Return whether function words of another language far outnumber the target's, not counting those of both."""
    own = FUNCTION_WORDS.get(target)
    if own is None:
        return False
    counts = Counter(_words(translation))

    def evidence(words: frozenset[str]) -> int:
        return sum(counts[word] for word in words)

    others = (words for language, words in FUNCTION_WORDS.items() if language != target)
    return any(evidence(words - own) >= max(EVIDENCE, 3 * evidence(own - words) + 1) for words in others)


def _repeats_itself(text: str) -> bool:
    """Return whether a string of up to LONGEST_UNIT characters occurs REPEATS times in a row."""
    characters = np.frombuffer(text.casefold().encode("utf-32-le"), dtype="<u4")
    for unit in range(1, min(LONGEST_UNIT, len(characters) // REPEATS) + 1):
        differs = np.flatnonzero(characters[unit:] != characters[:-unit])
        edges = np.concatenate(([-1], differs, [len(characters) - unit]))
        needed = max((REPEATS - 1) * unit, 2 * REPEATS - unit)
        for index in np.flatnonzero(np.diff(edges) - 1 >= needed):
            start = int(edges[index]) + 1
            if any(chr(letter).isalpha() for letter in characters[start : start + unit]):
                return True
    return False


def _size(text: str) -> float:
    return sum(WIDE.get(unicode_script(character), 1.0) for character in text if not character.isspace())


def extract_numbers(text: str) -> Counter[str]:
    """Return the numbers of a text in ASCII digits, without separators and without zeros at either end.

    "3,000", "3 000", "3 thousand" and "٣٬٠٠٠" are all 3; "4.30" and "4:30" are both 4 and 3.
    """
    digits = "".join(str(unicodedata.decimal(character, character)) for character in text)
    return Counter(re.sub("[^0-9]", "", number).strip("0") for number in re.findall(NUMBER, digits))


def _loses_numbers(source: str, translation: str) -> bool:
    # A single digit is often written as a word, and 0 or 00 are left of a round number: neither counts.
    expected = Counter({number: count for number, count in extract_numbers(source).items() if len(number) > 1})
    return (expected & extract_numbers(translation)).total() < NUMBERS_SHARE * expected.total()
