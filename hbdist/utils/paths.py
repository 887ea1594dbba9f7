"""Words of a command line and paths as users write them, checked before a file system is asked."""

from collections.abc import Sequence

from hbdist.errors import ConfigError
from hbdist.utils.json_toml import shown
from hbdist.utils.parse import is_encodable

LONGEST_NAME = 255
"""Most bytes of a file's or folder's name on nearly all file systems."""
LONGEST_PATH = 4000
"""Most bytes of a path, with some left for what is put after it."""


def check_path(text: str) -> str:
    """Return a path, or an address or name that may be one, if a file can have it.

    Raises:
        ValueError: no file can; the message says why.
    """
    if "\0" in text:
        raise ValueError("has a zero byte, which no path can have")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    longest = max(map(len, data.split(b"/")))
    if longest > LONGEST_NAME:
        raise ValueError(f"has a name of {longest:,} bytes, and a file's or folder's name has at most {LONGEST_NAME}")
    if len(data) > LONGEST_PATH:
        raise ValueError(f"has {len(data):,} bytes, and a path has at most {LONGEST_PATH:,}")
    return text


def check_words(words: Sequence[str]) -> None:
    """Check that all words of a command line are UTF-8; Python turns other bytes into halves of surrogate pairs.

    Raises:
        ConfigError: one is not; it could be neither printed nor written into a file.
    """
    for word in words:
        if not is_encodable(word):
            raise ConfigError(
                f"{shown(word)!a} on the command line is not UTF-8. Write it in UTF-8, or rename the file."
            )
