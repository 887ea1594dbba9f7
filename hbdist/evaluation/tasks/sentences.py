"""Sentence breaks of a paragraph: a rule for MLQA's seven languages that needs no model and no library.

The rule sees the text alone, never the answers. It is part of a benchmark: a change to it changes scores.
"""

import re
from itertools import pairwise

from hbdist.evaluation.tasks.files import TABLES

_END = re.compile(r"""[.!?…]+["'”’»)\]]*\s+|[。！？।؟۔]+["'”’」』）]*\s*|\s*\n\s*""")
_ABBREVIATIONS = frozenset(TABLES["sentences"]["abbreviations"])
"""Abbreviations, without their last full stop, after which a sentence seldom ends."""
_LAST_WORD = re.compile(r"\S+$")


def sentence_breaks(text: str, language: str) -> list[tuple[int, int]]:
    """Return the start and end of each sentence in characters of the text, without surrounding white space.

    Together, the sentences cover all of the text except the white space between them. A full stop does not end a sentence
    after an abbreviation, an initial or, in German, a number ("16. Juli"), nor before a lower-case letter.
    """
    starts = [0, *(match.end() for match in _END.finditer(text) if _ends(text, match, language)), len(text)]
    spans = []
    for start, end in pairwise(starts):
        bare = text[start:end].strip()
        if bare:
            first = start + text[start:end].index(bare)
            spans.append((first, first + len(bare)))
    return spans


def _ends(text: str, match: re.Match[str], language: str) -> bool:
    if "\n" in match[0]:
        return True
    if text[match.end() : match.end() + 1].islower():
        return False
    if match[0].rstrip() != ".":
        return True
    before = _LAST_WORD.search(text[max(0, match.start() - 40) : match.start()])
    word = before[0].strip("(\"'“„«[") if before else ""
    if language == "de" and word.isdecimal() and len(word) <= 2:
        return False
    return not (word.lower() in _ABBREVIATIONS or (len(word.rpartition(".")[2]) == 1 and word[-1].isalpha()))
