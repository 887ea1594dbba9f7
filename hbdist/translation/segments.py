"""Segmentation of texts into pieces that a translation model can take, and joining of the pieces' translations."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from hbdist.translation.languages import UNSPACED, script_of

SENTENCE_END = r"""[.!?…]+["'”’»)\]]*\s+|[。！？．｡।॥۔؟።។။։]+["'”’」』）]*\s*"""
CLAUSE_END = r"[,;:]\s+|[،؛、，；：]\s*"
BREAKS = (re.compile(SENTENCE_END), re.compile(CLAUSE_END), re.compile(r"\s+"))
"""Patterns after which a text may be cut, the best first."""
LINE_END = re.compile(r"\s*\n\s*")


class Piece(NamedTuple):
    """Part of a text, without white space around it."""

    text: str
    gap: str
    """White space that follows the piece in the source."""


class Pieces(NamedTuple):
    """Text in pieces: concatenating all pieces and gaps gives the text without white space around it."""

    pieces: tuple[Piece, ...]
    broken: int
    """Number of sentences that were too long for the model and had to be cut."""


def split(text: str, fits: Callable[[str], bool]) -> Pieces:
    """Cut a text, which must not be empty, into as few pieces as its lines allow; each fits or is a single character.

    A piece never spans several lines. A line that does not fit is cut at sentence ends; a sentence that does not fit is
    cut at clause ends, then at word ends, and finally anywhere. If a text fits, any part of it must fit, too.
    """
    chunks: list[str] = []
    broken = 0
    for line in _cut(text.strip(), LINE_END):
        if not fits(line.strip()):
            broken += sum(not fits(sentence.strip()) for sentence in _cut(line, BREAKS[0]))
        chunks += _cut_to_fit(line, fits, breaks=BREAKS)
    bare = [chunk.rstrip() for chunk in chunks]
    return Pieces(tuple(Piece(text, chunk[len(text) :]) for text, chunk in zip(bare, chunks, strict=True)), broken)


def join(pieces: Sequence[Piece], translations: Sequence[str], *, target: str) -> str:
    """Join the translations of a text's pieces: lines stay lines, sentences are separated as in the target language."""
    between = "" if script_of(target) in UNSPACED else " "
    gaps = ["\n" * piece.gap.count("\n") or between for piece in pieces[:-1]]
    return "".join(text + gap for text, gap in zip(translations, [*gaps, ""], strict=True))


def _cut_to_fit(text: str, fits: Callable[[str], bool], *, breaks: Sequence[re.Pattern[str]]) -> list[str]:
    if fits(text.strip()) or len(text) == 1:
        return [text]
    chunks = _cut(text, breaks[0]) if breaks else [text[: len(text) // 2], text[len(text) // 2 :]]
    smaller = [part for chunk in chunks for part in _cut_to_fit(chunk, fits, breaks=breaks[1:])]
    return list(_merge(smaller, fits))


def _cut(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the text cut after each match; the parts together are the text."""
    edges = [0, *(match.end() for match in pattern.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges) if end > start]


def _merge(chunks: Sequence[str], fits: Callable[[str], bool]) -> Iterator[str]:
    """Yield the chunks, with neighbours merged as long as they fit."""
    merged = ""
    for chunk in chunks:
        if merged and not fits((merged + chunk).strip()):
            yield merged
            merged = ""
        merged += chunk
    if merged:
        yield merged
