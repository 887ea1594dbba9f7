"""Values of JSON and TOML texts. All that can be wrong with a text is a ValueError whose message says what and where."""

import json
import math
import re
import tomllib
from collections.abc import Iterator
from typing import Any

DEEPEST = 100
"""Most levels of objects and lists. Code that walks through values may recurse this deep, from wherever it is called."""
LARGEST = 2**63 - 1
"""Largest whole number in TOML and in files of our own."""


def json_value(text: str) -> Any:
    """Return the value of a JSON text, such as a line of a file with millions of them: as fast as `json.loads`.

    It may have NaN, halves of surrogate pairs, and several hundred levels.

    Raises:
        ValueError: it is not JSON, or has more levels than Python can parse; the message says where.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        line = f"line {problem.lineno}, " if problem.lineno > 1 else ""
        raise ValueError(f"{problem.msg} at {line}column {problem.colno}") from None
    except RecursionError:
        raise ValueError(_too_deep()) from None
    except ValueError:  # Python's own limit
        raise ValueError(f"found {_long_number(text)}") from None


def toml_values(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        ValueError: it is not valid TOML, or has a value that `check_values` refuses; the message says where.
    """
    values = _toml(text)
    check_values(values, nan=True)  # TOML has infinities; who uses the values refuses them, by their key
    return values


def toml_value(text: str) -> Any:
    """Return the value that a TOML text is, or the text itself if it is none: a word needs no quotes on a command line.

    Raises:
        ValueError: it is a value that `check_values` refuses.
    """
    try:
        values = _toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if len(values) > 1:  # other keys, after a line break
        return text
    check_values(values["value"], nan=True)
    return values["value"]


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(_too_deep()) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit
        raise ValueError(f"found {_long_number(text)}") from None


def check_values(value: Any, *, nan: bool = False) -> None:
    """Check that a value has no whole numbers beyond 64 bits, no halves of surrogate pairs, and at most DEEPEST levels.

    Args:
        nan: allow NaN and infinities, which are refused otherwise.

    Raises:
        ValueError: it has; the message names the place.
    """
    check_depth(value)
    for place, one in _leaves(value, ""):
        at = f" at {place}" if place else ""
        if isinstance(one, str):
            if not is_encodable(one):
                raise ValueError(f"found half of a surrogate pair, which is no character, in {one[:40]!a}{at}")
        elif isinstance(one, int):
            if not -LARGEST - 1 <= one <= LARGEST:
                raise ValueError(f"found {_shortened(str(one))}{at}; expected whole numbers below 2^63")
        elif isinstance(one, float) and not nan and not math.isfinite(one):
            raise ValueError(f"found {one}{at}; expected finite numbers")


def check_depth(value: Any) -> None:
    """Check that a value has at most DEEPEST levels of objects and lists.

    Raises:
        ValueError: it has more.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
        if not level:
            return
    raise ValueError(_too_deep())


def is_encodable(text: str) -> bool:
    """Check that a text can be written as UTF-8: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def a_json(value: Any) -> str:
    """Return what JSON calls the kind of a value."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def decode(data: bytes) -> str:
    """Return the text of UTF-8 without a byte order mark.

    Raises:
        UnicodeDecodeError: it is not UTF-8; see `not_utf8`.
    """
    return data.decode("utf-8-sig")


def not_utf8(problem: UnicodeDecodeError) -> str:
    """Return which byte is not UTF-8, and where."""
    data = bytes(problem.object)
    line = data.count(b"\n", 0, problem.start) + 1
    column = problem.start - data.rfind(b"\n", 0, problem.start)
    return f"the byte 0x{data[problem.start]:02x} at line {line}, byte {column} is not UTF-8"


def _too_deep() -> str:
    return f"it is nested more than {DEEPEST} levels deep"


def _long_number(text: str) -> str:
    longest = max(re.findall(r"[0-9_]+", text), key=len)
    return f"{_shortened(longest)}; expected whole numbers below 2^63"


def _shortened(digits: str) -> str:
    return digits if len(digits) <= 24 else f"{digits[:20]}… ({len(digits):,} digits)"


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, leaf) of a value, its keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield place, key
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{place}[{number}]")
    else:
        yield place, value
