"""Files of our own, read into the types that they were written from: another program, or a full disk, may have changed them."""

import json
import reprlib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from hbdist.errors import DataError, HbdistError
from hbdist.utils.json_toml import REMEDY, read_json, shown

Stored = TypeVar("Stored")
_ABSENT = object()


def read_stored(
    kind: type[Stored],
    path: Path,
    *,
    error: type[HbdistError] = DataError,
    remedy: str = REMEDY,
    missing: str = "",
    nan: bool = False,
) -> Stored:
    """Return the content of a JSON file as `kind`: a dataclass, a TypedDict or a pydantic model, with exactly its types.

    Keys that the kind lacks are ignored: a later version may have written them. The other arguments are those of
    `json_toml.read_bytes`.

    Raises:
        HbdistError: the file does not exist, cannot be read, or has other content; of the type `error`.
    """
    values = read_json(path, error=error, remedy=remedy, missing=missing, nan=nan)
    return as_stored(kind, values, where=shown(path), error=error, remedy=remedy)


def read_stored_if_any(
    kind: type[Stored],
    path: Path,
    *,
    error: type[HbdistError] = DataError,
    remedy: str = REMEDY,
    nan: bool = False,
) -> Stored | None:
    """Return what `read_stored` does, or None if there is no such file.

    Raises:
        HbdistError: the file cannot be read, or has other content; of the type `error`.
    """
    values = read_json(path, error=error, remedy=remedy, default=_ABSENT, nan=nan)
    return None if values is _ABSENT else as_stored(kind, values, where=shown(path), error=error, remedy=remedy)


def as_stored(
    kind: type[Stored], values: Any, *, where: str, error: type[HbdistError] = DataError, remedy: str = REMEDY
) -> Stored:
    """Return JSON values as `kind`; `where` names them in the message.

    Raises:
        HbdistError: they have another form; of the type `error`.
    """
    try:
        # By way of JSON, where lists may be tuples and objects dataclasses although types are exact.
        return cast(Stored, _adapter(kind).validate_json(json.dumps(values), strict=True))  # type: ignore[arg-type]
    except ValidationError as problem:
        raise error(f"{where} is damaged: {_first(problem)}. {remedy}") from None


def as_published(kind: type[Stored], values: Any, *, where: str, what: str, remedy: str = REMEDY) -> Stored:
    """Return the JSON values of a file of others as `kind`, such as a TypedDict; a number may be written as a text.

    Keys that the kind lacks are left out.

    Args:
        where: what the message calls the file.
        what: the name of its format.

    Raises:
        DataError: the values have another form.
    """
    try:
        return cast(Stored, _adapter(kind).validate_python(values))  # type: ignore[arg-type]
    except ValidationError as problem:
        raise DataError(f"{where} is not {what}: {_first(problem)}. {remedy}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _first(problem: ValidationError) -> str:
    """Return the first mistake that pydantic has found, with its place."""
    one = problem.errors(include_url=False)[0]
    place = ".".join(map(str, one["loc"]))
    if one["type"] == "missing":
        return f"{place} is missing"
    if one["type"] in ("dataclass_type", "model_type", "dict_type"):
        return f"{place} is not an object" if place else "it contains no object"
    message = one["msg"].removeprefix("Value error, ")
    found = reprlib.repr(one["input"])
    return f"{f'{place} = ' if place else ''}{found}: {message[:1].lower()}{message[1:]}"
