"""Mutation of valid files: of their bytes, of their lines, and of the values in them. The same seed gives the same input."""

import gzip
import io
import json
import tomllib
import zipfile
import zlib
from random import Random
from typing import Any

import numpy as np


class Token(str):
    """Text that stands in a file as it is, such as a number that Python cannot print."""


DEEP = 1200
LONG = 5000
TOKENS: list[Any] = [
    *(Token("9" * LONG), Token("[" * DEEP + "]" * DEEP), Token('{"a":' * DEEP + "1" + "}" * DEEP), Token("[" * DEEP)),
    *(Token("[" * 90 + "]" * 90), Token("NaN"), Token("-Infinity"), Token("1e400"), Token("1e-400"), Token("nan")),
    *(Token("inf"), Token('"\\ud800"'), Token('"\\udc00x"'), Token("1979-05-27"), Token("99:99"), Token("1_000")),
]
"""What stands in the place of a value. Some are values in one of the two formats only."""
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 5, 10**6, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1),
    *(0.0, -0.0, 0.5, 1.0, -1e308, 1e308, 1e-320, 1e30, 1e18, 3.5),
    *("", " ", "x", "1", "true", "null", "a b", "en", "en-de", "..", "../x", "/", "/dev/null/x", ".", "\x00", "a\nb"),
    *("\u2028", "\ufeff", "\U0001f600", "e\u0301", "\x85", "x" * 256, "x" * LONG, "y/" * 3000, "%s{}{0}", "<b>&'\""),
    *([], [[]], [{}], {}, {"": ""}, {"a": {"a": 1}}, [0], ["x"], [None], [1, "x", None], [[1, 2], [3]]),
]
WORDS: list[bytes] = [
    *(b"[" * DEEP, b'{"a":' * DEEP, b"9" * LONG, b"\\ud800", b"\xff", b"\x00", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\n"),
    *(b"\r", b"\r\n", b"\t", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b",", b":", b"=", b"#", b".", b"-", b"NaN"),
    *(b"null", b"true", b"1e400", b"[[x]]\n", b"[x]\n", b"\xc2\x85", b"\x1f\x8b", b"x" * 300, b"_", b"e9", b"0"),
]
"""What is put among the bytes of a file."""


class Mutator:
    """Source of mutations, all of which follow from its seed."""

    def __init__(self, seed: str) -> None:
        self.random = Random(seed)

    def mutate(self, name: str, content: bytes) -> bytes:
        """Return a changed content for a file of this name, whose ending says what is in it."""
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 6))):
            content = self._once(name, content)
        return content

    def _once(self, name: str, content: bytes) -> bytes:
        if name.endswith(".gz") and self.random.random() < 0.7:
            try:
                return gzip.compress(self._once(name.removesuffix(".gz"), gzip.decompress(content)), 1, mtime=0)
            except (OSError, EOFError, ValueError, zlib.error):
                return self._bytes(content)
        structure = {
            "json": self._json,
            "jsonl": self._json_line,
            "toml": self._toml,
            "npz": self._npz,
            "tsv": self._cells,
            "txt": self._lines,
        }.get(name.rpartition(".")[2])
        if structure and self.random.random() < 0.75:
            try:
                return structure(content)
            except Exception:  # no longer in this format: its bytes go on being changed
                return self._bytes(content)
        return self._bytes(content) if self.random.random() < 0.7 else self._lines(content)

    def _bytes(self, content: bytes) -> bytes:
        random, size = self.random, len(content)
        start = random.randrange(size + 1)
        end = min(size, start + random.choice((1, 1, 2, 4, 16, 64, size)))
        match random.randrange(6):
            case 0:
                return content[:start] + content[end:]
            case 1:
                return content[:start] + random.choice(WORDS) + content[start:]
            case 2:
                return content[:start] + random.choice(WORDS) + content[end:]
            case 3:
                return content[:start] + random.randbytes(random.choice((1, 1, 2, 8))) + content[end:]
            case 4:
                return content[:end] + content[start:end] * random.choice((1, 2, 20)) + content[end:]
            case _:
                return content[:start]

    def _lines(self, content: bytes) -> bytes:
        lines = content.splitlines(keepends=True) or [b""]
        one, other = self.random.randrange(len(lines)), self.random.randrange(len(lines))
        match self.random.randrange(5):
            case 0:
                del lines[one]
            case 1:
                lines.insert(one, lines[other])
            case 2:
                lines[one], lines[other] = lines[other], lines[one]
            case 3:
                lines[one] = self.random.choice(WORDS) + self.random.choice((b"", b"\n"))
            case _:
                lines[one] = self._bytes(lines[one])
        return b"".join(lines)

    def _cells(self, content: bytes) -> bytes:
        lines = content.split(b"\n")
        row = self.random.randrange(len(lines))
        cells = lines[row].split(b"\t")
        column = self.random.randrange(len(cells))
        match self.random.randrange(4):
            case 0:
                del cells[column]
            case 1:
                cells.insert(column, self.random.choice(WORDS))
            case 2:
                cells[column] = str(self.random.choice(VALUES)).encode(errors="replace")
            case _:
                cells[column] = cells[self.random.randrange(len(cells))]
        lines[row] = b"\t".join(cells)
        return b"\n".join(lines)

    def _json(self, content: bytes) -> bytes:
        return _as_json(self._value(json.loads(content))).encode(errors="surrogatepass")

    def _json_line(self, content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        number = self.random.randrange(len(lines))
        lines[number] = self._json(lines[number]) + b"\n"
        return b"".join(lines)

    def _toml(self, content: bytes) -> bytes:
        values = self._value(tomllib.loads(content.decode()))
        return "".join(f"{_key(key)} = {_as_toml(value)}\n" for key, value in dict(values).items()).encode()

    def _npz(self, content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = self.random.choice(sorted(members))
        match self.random.randrange(4):
            case 0:
                del members[name]
            case 1:
                members[name] = self._bytes(members[name])
            case 2:
                members[name] = members[self.random.choice(sorted(members))]
            case _:
                members[name] = _npy(self._array(np.load(io.BytesIO(members[name]), allow_pickle=False)))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for one, data in members.items():
                archive.writestr(one, data)
        return packed.getvalue()

    def _array(self, array: np.ndarray) -> np.ndarray:
        match self.random.randrange(5):
            case 0:
                return array.astype(self.random.choice(("f8", "i2", "U9", "S3", "?", "c16", "u8", "M8[s]")))
            case 1:
                return array[: len(array) // 2] if array.ndim else np.array([array, array])
            case 2:
                return array.ravel() if array.ndim > 1 else array[..., None]
            case 3:
                changed = array.copy()
                if changed.size and changed.dtype.kind in "iu":
                    changed.flat[self.random.randrange(changed.size)] = self.random.choice((-5, 0, 2**40, -(2**62)))
                return changed
            case _:
                return np.empty((0,) * max(1, array.ndim), array.dtype)

    def _value(self, value: Any) -> Any:
        """Change one place in nested values."""
        slots = list(_slots(value))
        if not slots or self.random.random() < 0.02:
            return self._replacement(value)
        container, key = self.random.choice(slots)
        old = container[key]
        match self.random.randrange(8):
            case 0 | 1 | 2:
                container[key] = self._replacement(old)
            case 3:
                del container[key]
            case 4:
                other, its_key = self.random.choice(slots)
                if other is not container:
                    container[key] = json.loads(json.dumps(other[its_key]))
            case 5:
                container[key] = self.random.choice(([old], {"a": old}, [old, old], str(old)[:50]))
            case 6 if isinstance(container, dict):
                del container[key]
                container[self.random.choice(("", "x", "x" * 300, "a.b", "en", "é", key + "s", key[1:]))] = old
            case _:
                new = self._replacement(old)
                if isinstance(container, list):
                    container.insert(key, new)
                else:
                    container[f"{key}{self.random.choice('x_0')}"] = new
        return value

    def _replacement(self, old: Any) -> Any:
        like = [one for one in VALUES if type(one) is type(old)]
        if like and self.random.random() < 0.4:
            return self.random.choice(like)
        return self.random.choice(TOKENS if self.random.random() < 0.2 else VALUES)


def _slots(value: Any) -> Any:
    """Yield (container, key) of every value inside a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _slots(value[key])


def _as_json(value: Any) -> str:
    if isinstance(value, Token):
        return value[:]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_as_json(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return json.dumps(key).replace("\x7f", "\\u007f")


def _as_toml(value: Any) -> str:
    if isinstance(value, Token):
        return value[:]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_as_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(bool(value)).lower()
    return _key(value) if isinstance(value, str) else str(value)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
