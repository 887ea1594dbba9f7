"""Keys of texts: digests, and normal forms in which two texts count as the same."""

import hashlib
import re
import unicodedata

KEY = "S16"
"""NumPy type of a digest."""

SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
"""Character of a script that puts no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""


def digest(*texts: str) -> bytes:
    """Return 16 bytes that identify these texts in this order."""
    total = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode()
        total.update(len(data).to_bytes(8) + data)
    return total.digest()


def hash_fraction(*texts: str) -> float:
    """Return a number from 0 up to 1 that depends on these texts alone, uniformly distributed."""
    return int.from_bytes(digest(*texts)[:8]) / 2**64


def normalise(text: str) -> str:
    """Return the text in NFKC, without case, and with each run of white space as one space; punctuation stays."""
    return " ".join(_fold(text).split())


def split_words(text: str) -> list[str]:
    """Return the words of a text after NFKC and without case: the parts between spaces, punctuation and symbols."""
    return _fold(text).translate(_WORDS).split()


def is_spaceless(text: str) -> bool:
    """Check that most letters are of a script without spaces between words."""
    count = len(SPACELESS.findall(text))
    return 2 * count > sum(map(str.isalnum, text)) if count else False


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


class _Words(dict[int, str]):
    """Table for `str.translate` that keeps letters, digits and the marks on them, and turns all else into spaces."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if unicodedata.category(character)[0] in "LMN" else " "
        return self[code]


_WORDS = _Words()
