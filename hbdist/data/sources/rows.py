"""What every reader yields, and how readers open files and take fields from a record.

A reader yields, for every record, its `Row`, or the reason (a text) why there is none, so that whoever reads can count.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from hbdist.errors import ConfigError

Field = Literal["id", "query", "document", "document_id", "negatives"]
FIELDS: tuple[Field, ...] = ("id", "query", "document", "document_id", "negatives")
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
