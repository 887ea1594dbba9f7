"""What every reader yields, and how readers open files and take fields from a record.

A reader yields, for every record, its `Row`, or the reason (a text) why there is none, so that whoever reads can count.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from hbdist.errors import ConfigError, DataError

Field = Literal["id", "query", "document", "document_id", "negatives"]
FIELDS: tuple[Field, ...] = ("id", "query", "document", "document_id", "negatives")
BLANK_LINE = "blank line"
OTHER_VALUE = "not where"


ANYTHING: Mapping[str, Any] = MappingProxyType({})
"""A `where` that asks nothing."""


class SourceUnavailableError(ConfigError):
    """A source that another package fetches cannot be had, perhaps only now: what is built so far is kept."""


class Row(NamedTuple):
    """A query and its document in one language, as the source has them."""

    id: str | None
    """The item: rows of one id are never each other's negatives."""
    query: str
    document: str
    document_id: str | None = None
    negatives: tuple[str, ...] = ()
    key: str | None = None
    """What finds the row's translation in another language of a parallel dataset; unset: the id."""


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, unpacked if its name ends in .gz, with their numbers from 1, each with its line break.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    try:
        plain = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}. Correct its path in the recipe.") from None
    number = 0
    with plain, gzip.open(plain) if path.suffix == ".gz" else plain as file:
        try:
            for line in file:
                number += 1
                yield number, line
        except (OSError, EOFError, zlib.error) as error:
            raise damage(path, number, error) from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, as `byte_lines`, without a byte order mark.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    for number, line in byte_lines(path):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise damage(path, number - 1, error) from None


def damage(path: Path, line: int, error: Exception) -> DataError:
    """The error of a file that cannot be read on after a line."""
    return DataError(
        f"{path} is damaged after line {line}: {error}; expected UTF-8 text, gzipped if the name ends in .gz. Fetch the "
        "file again."
    )


def json_records(path: Path, *, expected: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The objects of JSON lines with their line numbers from 1; None for a blank line.

    Raises:
        DataError: the file is damaged, or a line is no JSON object; `expected` says what should be in it.
    """
    for number, line in numbered_lines(path):
        if not line.strip():
            yield number, None
            continue
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError(f"found a {type(values).__name__}")
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {expected}. Mend the line.") from None
        yield number, values


def row_of(values: Mapping[str, Any], fields: Mapping[Field, str], where: Mapping[str, Any]) -> Row | str:
    """The row of a record whose fields are called as in `fields` (others as ours), if it is as `where` says.

    Raises:
        ValueError: a field is missing or of another type.
    """
    if any(value_at(values, name) != value for name, value in where.items()):
        return OTHER_VALUE
    name: dict[Field, str] = {field: fields.get(field, field) for field in FIELDS}
    found = value_at(values, name["negatives"], default=None)
    negatives = () if found is None else found
    if not isinstance(negatives, list | tuple) or not all(isinstance(text, str) for text in negatives):
        raise ValueError(f"found a {name['negatives']} that is not a list of texts")
    return Row(
        id=identifier(values, name["id"]),
        query=text_at(values, name["query"]),
        document=text_at(values, name["document"]),
        document_id=identifier(values, name["document_id"]),
        negatives=tuple(negatives),
    )


_REQUIRED = object()


def value_at(values: Mapping[str, Any], name: str, default: Any = _REQUIRED) -> Any:
    """The field `name`, or, where there is none of that name, `a.b`: field b of the object a.

    Raises:
        ValueError: there is no such field, and no default.
    """
    if name in values:
        return values[name]
    outer, dot, inner = name.partition(".")
    if dot and isinstance(nested := values.get(outer), Mapping):
        return value_at(nested, inner, default)
    if default is _REQUIRED:
        raise ValueError(f"found no {name} among {', '.join(values) or 'no fields'}")
    return default


def text_at(values: Mapping[str, Any], name: str) -> str:
    """The text of a field; empty where it is null.

    Raises:
        ValueError: there is no such field, or it is no text.
    """
    value = value_at(values, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"found a {name} that is not a text")
    return value


def identifier(values: Mapping[str, Any], name: str) -> str | None:
    """The field as an id: a text, or a whole number written out; None where there is none.

    Raises:
        ValueError: it is something else.
    """
    value = value_at(values, name, default=None)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"found {name} = {value!r}, which is neither text nor whole number")
