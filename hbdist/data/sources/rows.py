"""Rows, which all readers yield, and access to the fields of a record.

For every record of a source, a reader yields its `Row`, or the reason (a text) why there is none, to be counted.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from hbdist.errors import ConfigError

FieldName = Literal["id", "query", "document", "document_id", "negatives"]
FIELDS: tuple[FieldName, ...] = get_args(FieldName)
EXPECTED = "an object with query and document"

OTHER_VALUE = "not where"
EMPTY_QUERY = "empty query"
EMPTY_DOCUMENT = "empty document"
EMPTY_NEGATIVE = "empty negative"
BROKEN_UNICODE = "broken Unicode"
REPEATED_ID = "repeated id"


class SourceUnavailableError(ConfigError):
    """Failure of another package to load a source, perhaps temporary: finished work is kept."""


class Row(NamedTuple):
    """A query and its document in one language, as in the source."""

    id: str | None
    """Id of the item: rows with the same id are never each other's negatives."""
    query: str
    document: str
    document_id: str | None = None
    negatives: tuple[str, ...] = ()
    key: str | None = None
    """Key that the row shares with its translations in a parallel dataset; unset: the id."""


ParseRow = Callable[[Mapping[str, Any]], Row | str]
"""`row_of` with the fields and the condition of a dataset."""


def row_of(values: Mapping[str, Any], fields: Mapping[FieldName, str], where: Mapping[str, Any]) -> Row | str:
    """Return the row of a record, or `OTHER_VALUE` if the record does not meet the condition.

    Args:
        fields: our name of a field → its name in the record, where the two differ.
        where: field of the record → the value that it must have.

    Raises:
        ValueError: a field is missing or of another type.
    """
    if any(value_at(values, name) != value for name, value in where.items()):
        return OTHER_VALUE
    name: dict[FieldName, str] = {field: fields.get(field, field) for field in FIELDS}
    negatives = value_at(values, name["negatives"], default=None)
    if negatives is None:
        negatives = ()
    if not isinstance(negatives, list | tuple) or not all(isinstance(text, str) for text in negatives):
        raise ValueError(f"found a {name['negatives']} that is not a list of texts")
    return Row(
        id=identifier(values, name["id"]),
        query=text_at(values, name["query"]),
        document=text_at(values, name["document"]),
        document_id=identifier(values, name["document_id"]),
        negatives=tuple(negatives),
    )


def unusable(row: Row) -> str:
    """Return the reason why the texts of a row cannot be used; empty if they can."""
    if not row.query.strip():
        return EMPTY_QUERY
    if not row.document.strip():
        return EMPTY_DOCUMENT
    try:
        "".join((row.id or "", row.query, row.document, row.document_id or "", *row.negatives)).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can express and UTF-8 cannot
        return BROKEN_UNICODE
    return ""


_REQUIRED = object()


def value_at(values: Mapping[str, Any], name: str, default: Any = _REQUIRED) -> Any:
    """Return the field `name`; without a field of this name, `a.b` is field b of the object a.

    Raises:
        ValueError: there is neither such a field nor a default.
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
    """Return the text of a field; empty if it is null.

    Raises:
        ValueError: the field is missing, or not a text.
    """
    value = value_at(values, name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"found a {name} that is not a text")
    return value


def identifier(values: Mapping[str, Any], name: str) -> str | None:
    """Return a field as an id: a text, or the digits of a whole number; None if the field is missing or null.

    Raises:
        ValueError: the field is something else.
    """
    value = value_at(values, name, default=None)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"found {name} = {value!r}, which is neither a text nor a whole number")
