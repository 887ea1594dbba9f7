"""JSON and TOML from files and command lines: whatever is wrong with them becomes one sentence that says what and where.

A file may be missing, a folder, not UTF-8, cut off, or nested a thousand levels deep, and Python has an exception for
each. Here they become the error that the caller names, with file, line and remedy; nobody else has to know them.
"""

import gzip
import zlib
from pathlib import Path
from typing import Any, TypeVar

from hbdist.errors import ConfigError, DataError, HbdistError
from hbdist.utils.parse import a_json, check_depth, check_values, decode, json_value, not_utf8, toml_values

REMEDY = "Mend the file, fetch it again, or give another one."
TOML_REMEDY = "Strings need quotes; true and false do not."
_REQUIRED: Any = object()
Default = TypeVar("Default")


def read_bytes(
    path: Path,
    *,
    error: type[HbdistError] = DataError,
    remedy: str = REMEDY,
    missing: str = "",
    default: Default = _REQUIRED,
) -> bytes | Default:
    """Return the content of a file, decompressed if its name ends in .gz.

    Args:
        error: the type of the exception for the user.
        remedy: the advice at the end of its message.
        missing: the advice if there is no such file; empty: `remedy`.
        default: the result if there is no such file.

    Raises:
        HbdistError: the file cannot be read, or does not exist and there is no default; of the type `error`.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (FileNotFoundError, NotADirectoryError):
        if default is not _REQUIRED:
            return default
        raise error(f"{shown(path)} does not exist. {missing or remedy}") from None
    except IsADirectoryError:
        raise error(f"{shown(path)} is a folder; expected a file. {missing or remedy}") from None
    except (OSError, EOFError, ValueError, zlib.error) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
        raise error(f"{shown(path)} cannot be read: {reason}. {remedy}") from None


def read_text(
    path: Path,
    *,
    error: type[HbdistError] = DataError,
    remedy: str = REMEDY,
    missing: str = "",
    default: Default = _REQUIRED,
) -> str | Default:
    """Return the text of a UTF-8 file, without a byte order mark. The arguments are those of `read_bytes`.

    Raises:
        HbdistError: the file cannot be read or is not UTF-8, or does not exist and there is no default; of the type `error`.
    """
    data = read_bytes(path, error=error, remedy=remedy, missing=missing, default=default)
    try:
        return decode(data) if isinstance(data, bytes) else data
    except UnicodeDecodeError as problem:
        raise error(f"{shown(path)} is not a text: {not_utf8(problem)}. {remedy}") from None


def read_json(
    path: Path,
    *,
    error: type[HbdistError] = DataError,
    remedy: str = REMEDY,
    missing: str = "",
    default: Any = _REQUIRED,
    strict: bool = True,
    nan: bool = False,
) -> Any:
    """Return the content of a JSON file. The arguments are those of `read_bytes` and `parse_json`.

    Raises:
        HbdistError: the file cannot be read or is not JSON, or does not exist and there is no default; of the type `error`.
    """
    data = read_bytes(path, error=error, remedy=remedy, missing=missing, default=default)
    if not isinstance(data, bytes):
        return data
    return parse_json(data, where=shown(path), error=error, remedy=remedy, strict=strict, nan=nan)


def read_json_object(
    path: Path,
    *,
    error: type[HbdistError] = DataError,
    remedy: str = REMEDY,
    missing: str = "",
    default: dict[str, Any] = _REQUIRED,
    nan: bool = False,
) -> dict[str, Any]:
    """Return the object in a JSON file of our own. The arguments are those of `read_bytes` and `parse_json`.

    Raises:
        HbdistError: the file cannot be read or is not an object in JSON, or does not exist and there is no default; of the
            type `error`.
    """
    values = read_json(path, error=error, remedy=remedy, missing=missing, default=default, nan=nan)
    if not isinstance(values, dict):
        raise error(f"{shown(path)} contains {a_json(values)}; expected an object. {remedy}")
    return values


def parse_json(
    text: str | bytes,
    *,
    where: str,
    error: type[HbdistError] = DataError,
    remedy: str = REMEDY,
    strict: bool = True,
    nan: bool = False,
) -> Any:
    """Return the value of a JSON text.

    Args:
        where: what the message calls the text.
        strict: refuse values that our own files never have; see `check_values`.
        nan: allow NaN and infinities all the same.

    Raises:
        HbdistError: it is not UTF-8 or not JSON, or with `strict` has a value that is refused; of the type `error`.
    """
    try:
        value = json_value(decode(text) if isinstance(text, bytes) else text)
        if strict:
            check_values(value, nan=nan)
        else:
            check_depth(value)
    except UnicodeDecodeError as problem:
        raise error(f"{where} is not JSON: {not_utf8(problem)}. {remedy}") from None
    except ValueError as problem:
        raise error(f"{where} is not JSON: {problem}. {remedy}") from None
    return value


def read_json_lines(
    path: Path, *, error: type[HbdistError] = DataError, remedy: str = REMEDY, missing: str = "", nan: bool = True
) -> list[dict[str, Any]]:
    """Return the objects of a log of our own, which has one per line; none if there is no such file.

    Raises:
        HbdistError: the file cannot be read, or a line is not an object in JSON; of the type `error`.
    """
    data = read_bytes(path, error=error, remedy=remedy, missing=missing, default=b"")
    return parse_json_lines(data, where=shown(path), error=error, remedy=remedy, nan=nan)


def parse_json_lines(
    data: bytes, *, where: str, error: type[HbdistError] = DataError, remedy: str = REMEDY, nan: bool = True
) -> list[dict[str, Any]]:
    """Return the objects of the lines of a log. A last line without its end is still being written, and left out.

    Lines end at "\\n" alone: U+2028 and the like may be in a text.

    Raises:
        HbdistError: a line is not an object in JSON; of the type `error`.
    """
    objects = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        value = parse_json(line, where=f"{where}, line {number},", error=error, remedy=remedy, nan=nan)
        if not isinstance(value, dict):
            raise error(f"{where}, line {number}, contains {a_json(value)}; expected an object. {remedy}")
        objects.append(value)
    return objects


def read_toml(
    path: Path, *, error: type[HbdistError] = ConfigError, remedy: str = TOML_REMEDY, missing: str = ""
) -> dict[str, Any]:
    """Return the tables of a TOML file. The arguments are those of `read_bytes`.

    Raises:
        HbdistError: the file cannot be read, or is not valid TOML; of the type `error`.
    """
    data = read_bytes(path, error=error, remedy=remedy, missing=missing)
    try:
        return toml_values(decode(data))
    except UnicodeDecodeError as problem:
        raise error(f"{shown(path)} is not valid TOML: {not_utf8(problem)}. {remedy}") from None
    except ValueError as problem:
        raise error(f"{shown(path)} is not valid TOML: {problem}. {remedy}") from None


def is_absent(path: Path) -> bool:
    """Check that there is nothing at a path. A path that no file can have is not absent: reading it says what is wrong."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def shown(path: object) -> str:
    """Return a path for a message, shortened in the middle if it is very long."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:200]}…{text[-80:]}"
