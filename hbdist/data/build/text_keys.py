"""Texts as keys: digests, and the forms in which two texts count as the same."""

import hashlib
import re
import unicodedata

KEY = "S16"
"""The type of a digest in an array."""

SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
"""A character of a script that puts no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""


def digest(*texts: str) -> bytes:
    """16 bytes that only these texts, in this order, have."""
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode()
        found.update(len(data).to_bytes(8) + data)
    return found.digest()


def short_digest(text: str) -> int:
    """64 bits of a text: two of them together tell pairs apart."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def share_of(*texts: str) -> float:
    """A number from 0 up to 1 that follows from these texts alone, evenly spread."""
    return int.from_bytes(digest(*texts)[:8]) / 2**64


def normalised(text: str) -> str:
    """NFKC, without case, and with every run of white space as one space; punctuation stays."""
    return " ".join(_folded(text).split())


def words_of(text: str) -> list[str]:
    """The words of a text after NFKC and without case: what stands between spaces, punctuation and symbols."""
    return _folded(text).translate(_WORDS).split()


def is_spaceless(text: str) -> bool:
    """Whether most of the letters are of a script without spaces between words."""
    found = len(SPACELESS.findall(text))
    return 2 * found > sum(map(str.isalnum, text)) if found else False


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


class _Words(dict[int, str]):
    """A table for `str.translate` that keeps letters, digits and the marks on them, and makes all else spaces."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if unicodedata.category(character)[0] in "LMN" else " "
        return self[code]


_WORDS = _Words()
