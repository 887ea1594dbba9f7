"""Gates that a machine translation must pass: each looks at a text and its translation, and says what is wrong.

They find what went wrong badly and visibly, and are set so that human translations pass; they do not judge whether a
translation is good. The language of a translation is checked as far as its writing shows it: see `language_check`.
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
"""Words in a row that stand in the source too before they count as copied: shorter runs are names and titles."""
COPIED_SHARE = 0.5
"""Most of a translation's words that copied runs may hold."""
SCRIPT_SHARE = 0.5
"""Least of a translation's letters, names aside, that must be of its language's script."""
EVIDENCE = 4
"""Function words of another language, before a translation is taken for it."""
REPEATS = 4
"""How often a string may not stand in a row; and in how many characters at least."""
LONGEST_UNIT = 120
"""Characters of the longest string that is looked for in a row."""
RATIO = 3.0
"""Times that one text may be as long as the other, above `SLACK`."""
SLACK = 12.0
"""Added to both lengths: a short text may be translated by a much shorter or longer one."""
NUMBERS_SHARE = 0.5
"""Least of the source's numbers that must be in the translation."""

NUMBER = re.compile(r"[0-9]{1,3}(?:[.,'’٬ \u00a0\u202f][0-9]{2})*(?:[.,'’٬ \u00a0\u202f][0-9]{3})+(?![0-9])|[0-9]+")
"""Digits, in groups of three (or of two, as in India, and three) with something between them, or as they stand."""

WIDE = {"CJK": 3.0, "HANGUL": 2.0, "HIRAGANA": 2.0, "KATAKANA": 2.0, "ETHIOPIC": 1.5}
"""Letters that say as much as several of an alphabet."""


def language_check(language: str) -> Literal["script", "function words", "none"]:
    """How far a translation's language is checked.

    "script": its letters must be of the language's script; languages that share one (Russian and Ukrainian, simplified
    and traditional Chinese) are not told apart. "function words": for the Latin script, also that it is not full of
    another language's function words instead of its own; short texts have too few of them to tell. "none": neither the
    script nor the function words of the language are known here.
    """
    script = script_of(language)
    if script is None:
        return "none"
    return "function words" if language in FUNCTION_WORDS else "script"


def fault(source: str, translation: str, *, target: str) -> str | None:
    """What is wrong with the translation of `source` into the language `target`; None if it passes all gates."""
    if not translation.strip():
        return EMPTY
    if _is_copied(source, translation):
        return COPIED
    if _is_of_another_script(source, translation, target=target):
        return OTHER_SCRIPT
    if _is_of_another_language(translation, target=target):
        return OTHER_LANGUAGE
    if _repeats_itself(translation) and not _repeats_itself(source):
        return REPEATING
    if wrong := _wrong_length(source, translation):
        return wrong
    return NUMBERS_LOST if _loses_numbers(source, translation) else None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _is_copied(source: str, translation: str) -> bool:
    """Whether it is the source, or most of it stands there in runs of words that the source has too."""
    ours, theirs = _words(translation), _words(source)
    if ours == theirs:
        return True
    known = {tuple(theirs[start : start + RUN]) for start in range(len(theirs) - RUN + 1)}
    copied: set[int] = set()
    for start in range(len(ours) - RUN + 1):
        if tuple(ours[start : start + RUN]) in known:
            copied |= set(range(start, start + RUN))
    return len(copied) > COPIED_SHARE * len(ours)


def _is_of_another_script(source: str, translation: str, *, target: str) -> bool:
    script = script_of(target)
    if script is None:
        return False
    names = set(_words(source))  # what the source spells in the same letters may stay as it is
    letters = Counter(unicode_script(letter) for word in _words(translation) if word not in names for letter in word)
    expected = sum(letters[name] for name in SCRIPTS[script])
    every = sum(count for name, count in letters.items() if name)
    kana = letters["HIRAGANA"] + letters["KATAKANA"]
    if script == "Jpan" and not kana and every > 20:
        return True  # a longer text of nothing but ideographs is Chinese
    return expected < SCRIPT_SHARE * every or (script in ("Hans", "Hant") and kana > every / 10)


def _is_of_another_language(translation: str, *, target: str) -> bool:
    """Whether another language's function words outnumber the target's by far, those of both aside; for the Latin script."""
    own = FUNCTION_WORDS.get(target)
    if own is None:
        return False
    counts = Counter(_words(translation))

    def evidence(words: frozenset[str]) -> int:
        return sum(counts[word] for word in words)

    others = (words for language, words in FUNCTION_WORDS.items() if language != target)
    return any(evidence(words - own) >= max(EVIDENCE, 3 * evidence(own - words) + 1) for words in others)


def _repeats_itself(text: str) -> bool:
    """Whether a string of up to `LONGEST_UNIT` characters stands `REPEATS` times in a row."""
    characters = np.frombuffer(text.casefold().encode("utf-32-le"), dtype="<u4")
    for unit in range(1, min(LONGEST_UNIT, len(characters) // REPEATS) + 1):
        differs = np.flatnonzero(characters[unit:] != characters[:-unit])
        edges = np.concatenate(([-1], differs, [len(characters) - unit]))
        needed = max((REPEATS - 1) * unit, 2 * REPEATS - unit)
        for place in np.flatnonzero(np.diff(edges) - 1 >= needed):
            start = int(edges[place]) + 1
            if any(chr(letter).isalpha() for letter in characters[start : start + unit]):
                return True
    return False


def _size(text: str) -> float:
    return sum(WIDE.get(unicode_script(character), 1.0) for character in text if not character.isspace())


def _wrong_length(source: str, translation: str) -> str | None:
    ratio = (_size(translation) + SLACK) / (_size(source) + SLACK)
    if ratio > RATIO:
        return TOO_LONG
    return TOO_SHORT if ratio < 1 / RATIO else None


def numbers(text: str) -> Counter[str]:
    """The numbers of a text, in ASCII digits, without separators of thousands and without zeros at either end.

    "3,000", "3 000", "3 thousand" and "٣٬٠٠٠" are all 3; "4.30" and "4:30" are both 4 and 3.
    """
    digits = "".join(str(unicodedata.decimal(character, character)) for character in text)
    return Counter(re.sub("[^0-9]", "", number).strip("0") for number in re.findall(NUMBER, digits))


def _loses_numbers(source: str, translation: str) -> bool:
    # One digit is often written as a word, 0 or 00 says little: those of the source do not count.
    wanted = Counter({number: count for number, count in numbers(source).items() if len(number) > 1})
    return (wanted & numbers(translation)).total() < NUMBERS_SHARE * wanted.total()
