"""Cutting a text into pieces that a translation model can take, at sentence ends where it can be, and joining the
translations of the pieces again."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from hbdist.translation.languages import UNSPACED, script_of

SENTENCE_END = r"""[.!?…]+["'”’»)\]]*\s+|[。！？．｡।॥۔؟።។။։]+["'”’」』）]*\s*"""
CLAUSE_END = r"[,;:]\s+|[،؛、，；：]\s*"
BREAKS = (re.compile(SENTENCE_END), re.compile(CLAUSE_END), re.compile(r"\s+"))
"""Where a text may be cut, the best places first; each match stays with what stands before it."""
LINE_END = re.compile(r"\s*\n\s*")


class Piece(NamedTuple):
    """A part of a text, without white space around it."""

    text: str
    gap: str
    """The white space that follows it in the source."""


class Pieces(NamedTuple):
    """A text in pieces: it is that of all pieces and their gaps, without white space around it."""

    pieces: tuple[Piece, ...]
    broken: int
    """Sentences that do not fit the model and had to be cut inside."""


def split(text: str, fits: Callable[[str], bool]) -> Pieces:
    """The text, which must not be empty, in as few pieces as its lines allow; each fits, or is a single character.

    Lines are always pieces of their own. A line that does not fit is cut at sentence ends; a sentence that does not,
    where a clause, then where a word ends, and at last anywhere.

    Args:
        fits: whether the model can take a text as it is; a part of a text that fits must fit too.
    """
    chunks: list[str] = []
    broken = 0
    for line in _cut(text.strip(), LINE_END):
        if not fits(line.strip()):
            broken += sum(not fits(sentence.strip()) for sentence in _cut(line, BREAKS[0]))
        chunks += _fitting(line, fits, breaks=BREAKS)
    bare = [chunk.rstrip() for chunk in chunks]
    return Pieces(tuple(Piece(text, chunk[len(text) :]) for text, chunk in zip(bare, chunks, strict=True)), broken)


def join(pieces: Sequence[Piece], translations: Sequence[str], *, target: str) -> str:
    """The translations of a text's pieces as one text: lines stay lines, sentences stand apart as the target's do."""
    between = "" if script_of(target) in UNSPACED else " "
    gaps = ["\n" * piece.gap.count("\n") or between for piece in pieces[:-1]]
    return "".join(text + gap for text, gap in zip(translations, [*gaps, ""], strict=True))


def _fitting(text: str, fits: Callable[[str], bool], *, breaks: Sequence[re.Pattern[str]]) -> list[str]:
    if fits(text.strip()) or len(text) == 1:
        return [text]
    chunks = _cut(text, breaks[0]) if breaks else [text[: len(text) // 2], text[len(text) // 2 :]]
    smaller = [part for chunk in chunks for part in _fitting(chunk, fits, breaks=breaks[1:])]
    return list(_packed(smaller, fits))


def _cut(text: str, where: re.Pattern[str]) -> list[str]:
    """The text cut after each match; nothing of it is lost."""
    ends = [match.end() for match in where.finditer(text)]
    edges = [0, *ends, len(text)]
    return [text[start:end] for start, end in pairwise(edges) if end > start]


def _packed(chunks: Sequence[str], fits: Callable[[str], bool]) -> Iterator[str]:
    """The chunks, neighbours put together as long as they fit."""
    held = ""
    for chunk in chunks:
        if held and not fits((held + chunk).strip()):
            yield held
            held = ""
        held += chunk
    if held:
        yield held
