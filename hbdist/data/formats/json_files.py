"""Files of JSON lines, plain or gzipped."""

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hbdist.data.formats.lines import REMEDY, numbered_lines
from hbdist.errors import DataError
from hbdist.utils.parse import a_json, is_encodable, json_value

Record = TypeVar("Record")


def json_object(line: str, texts: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON object in a line.

    Args:
        texts: the names of fields that must be texts.

    Raises:
        ValueError: the line is not a JSON object, or a text is missing.
    """
    values = json_value(line)
    if not isinstance(values, dict):
        raise ValueError(f"found {a_json(values)}")
    for name in texts:
        if not isinstance(values.get(name), str):
            raise ValueError(f"found no text under {name} among {field_names(values)}")
    return values


def check_encodable(*texts: str) -> None:
    """Check that texts have no half of a surrogate pair (`"\\ud83d"`), which JSON can express and no tokenizer can read.

    Raises:
        ValueError: one has.
    """
    for text in texts:
        if not is_encodable(text):
            raise ValueError(f"found half of a surrogate pair, which is no character, in {text[:40]!a}")


def field_names(values: Mapping[str, Any]) -> str:
    """Return the names of an object's fields for a message."""
    return ", ".join(values).encode(errors="backslashreplace").decode()[:200] or "no fields"


def json_records(
    path: Path, parse: Callable[[dict[str, Any]], Record], *, expected: str, remedy: str = REMEDY
) -> Iterator[tuple[int, Record | None]]:
    """Yield the results of `parse` for the objects of JSON lines, with line numbers from 1; None for a blank line.

    Args:
        parse: a function of an object; it raises ValueError, saying what is wrong with the object.
        expected: a description of a correct line, for the error message.

    Raises:
        DataError: the file is damaged, or a line is not as expected.
    """
    for number, line in numbered_lines(path, remedy=remedy):
        try:
            yield number, parse(json_object(line)) if line.strip() else None
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {expected}. {remedy}") from None


def as_identifier(value: Any, name: str) -> str | None:
    """Return a value as an id: a text, or the digits of a whole number; None if it is null or blank.

    A blank is no id: rows that all had it would all count as the same.

    Args:
        name: the name of its field, for the error message.

    Raises:
        ValueError: the value is something else.
    """
    if value is None or isinstance(value, str):
        return value if value and value.strip() else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"found {name} = {reprlib.repr(value)}, which is neither a text nor a whole number")


def required_identifier(values: Mapping[str, Any], name: str) -> str:
    """Return the id in a field of an object, as `as_identifier` does.

    Raises:
        ValueError: the field is missing, null, or neither a text nor a whole number.
    """
    if (identifier := as_identifier(values.get(name), name)) is None:
        raise ValueError(f"found no text under {name} among {field_names(values)}")
    return identifier
