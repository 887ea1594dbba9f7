"""Messages for wrong keys and values: what was found, where, and what the key is for."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """Return the question ` Did you mean …?` for a misspelt word; empty if no known word is similar."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if not matches:  # the right name in the wrong section
        matches = [name for name in known if name.split(".")[-1] == word.split(".")[-1]]
    return f" Did you mean {matches[0]}?" if matches else ""


def explain(error: ValidationError, model: type[BaseModel], *, describe: Callable[[str], str] | None = None) -> str:
    """Return the first mistake that pydantic has found: its table, its key, its value, and what the key is for.

    `describe` returns a line on a key by its full name ("batch.size"); keys then have this name instead of "[batch] size".
    """
    # A misspelt key is both unknown and missing; that it is unknown says more.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where, key, model = _locate(first["loc"], model)
    message = first["msg"].removeprefix("Value error, ").removesuffix(".").replace("valid tuple", "valid list")
    if first["type"] == "extra_forbidden":
        hint = nearest(key, model.model_fields) or f" Expected some of {', '.join(model.model_fields)}; take it out."
        return f"{where}unknown key {key}.{hint}"
    if key not in model.model_fields:
        return f"{where}{message}."
    about = f"{key}: {model.model_fields[key].description}"
    if describe:
        key = f"{where[1:-2]}.{key}" if where else key
        where, about = "", describe(key)
    match first["type"]:
        case "missing":
            return f"{where}{key} is missing. Add it: {about}"
        case "value_error":
            return f"{where}{key}: {message}."
        case "string_pattern_mismatch":
            return f"{where}{key} = {first['input']!r} cannot be part of a folder's name. {about}"
    return f"{where}{key} = {first['input']!r}: {message[:1].lower()}{message[1:]}. {about}"


def _locate(location: Sequence[int | str], model: type[BaseModel]) -> tuple[str, str, type[BaseModel]]:
    """Return the table ("[limits] ", "[[dataset]] 2: " or none), the key, and the model of the table that has this key."""
    name, *rest = [*location, ""]
    field = model.model_fields.get(str(name))
    parts = (field.annotation, *get_args(field.annotation)) if field else ()
    inner = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
    if not inner or rest == [""]:  # what follows a key is an item, or pydantic's name for a branch of a union
        return "", str(name), model
    if isinstance(rest[0], int):
        return f"[[{name}]] {rest[0] + 1}: ", str(rest[1]), inner[0]
    return f"[{name}] ", str(rest[0]), inner[0]
