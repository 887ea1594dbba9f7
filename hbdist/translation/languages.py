"""Facts about languages: their Opus-MT codes, their scripts, and their function words."""

import unicodedata
from functools import cache
from pathlib import Path

from hbdist.models.language_codes import flores_code
from hbdist.utils.json_toml import read_toml

_TABLES = read_toml(Path(__file__).with_suffix(".toml"))
OPUS: dict[str, str] = _TABLES["opus"]
"""hbdist code → Opus-MT code, where that is neither hbdist's nor FLORES-200's."""
SCRIPTS = {script: frozenset(names.split()) for script, names in _TABLES["scripts"].items()}
"""Script of a FLORES-200 code → scripts of its letters in Unicode, by the first word of a letter's Unicode name."""
UNICODE_SCRIPTS = frozenset().union(*SCRIPTS.values())
UNSPACED = frozenset({"Hans", "Hant", "Jpan"})
"""Scripts that put no space between sentences."""
FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _TABLES["function_words"].items()}
"""Frequent words of texts on any subject, for languages in the Latin script."""


def script_of(language: str) -> str | None:
    """Return the script that a language is written in (`Latn`), or None if SCRIPTS does not have it."""
    script = flores_code(language).rpartition("_")[2]
    return script if script in SCRIPTS else None


@cache
def unicode_script(character: str) -> str:
    """Return the Unicode script of a letter (`CYRILLIC`); empty for other characters and other scripts."""
    if not character.isalpha():
        return ""
    words = unicodedata.name(character, "").replace("-", " ").split()
    return next((word for word in words[:2] if word in UNICODE_SCRIPTS), "")
