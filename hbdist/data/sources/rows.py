"""Rows, which all readers yield, and access to the fields of a record.

For every record of a source, a reader yields its `Row`, several of them, or the reason (a text) why there is none, to be
counted.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from hbdist.data.formats.json_files import as_identifier, field_names
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


Record = Row | list[Row] | str
"""What a reader yields for one record: its row, or one row per positive document, or the reason why there is none."""
Names = str | tuple[str, ...]
"""Name of a field of the source, or several whose texts are joined by a space, such as a title and a text."""
ParseRow = Callable[[Mapping[str, Any]], Row | list[Row] | str]
"""`rows_of` with the fields and the condition of a dataset."""


def rows_of(
    values: Mapping[str, Any], fields: Mapping[FieldName, Names], where: Mapping[str, str | int | bool]
) -> Row | list[Row] | str:
    """Return the row of a record, or a list with one row per document, or the reason why there is none.

    A record may have a list of positive documents, as in FlagEmbedding's `pos` or Tevatron's `positive_passages`: its
    rows have one id, so that they are never each other's negatives, and share its negatives. A single negative that is a
    text, as in a triplet of sentence-transformers, is a list of one.

    Args:
        fields: our name of a field → its name in the record, where the two differ. For negatives, `negative_*` is every
            field that begins with `negative_`.
        where: field of the record → the value that it must have. A text also matches a number that is written the same,
            since every cell of a CSV file is a text.

    Raises:
        ValueError: a field is missing or of another type.
    """
    if not all(_matches(value_at(values, name), value) for name, value in where.items()):
        return OTHER_VALUE
    name: dict[FieldName, Names] = {field: fields.get(field, field) for field in FIELDS}
    query, document = texts_at(values, name["query"]), texts_at(values, name["document"])
    if not isinstance(query, str):
        raise ValueError(f"found a {_shown(name['query'])} that is a list; expected one text")
    row_id, negatives = identifier(values, _one(name["id"])), _negatives(values, name["negatives"])
    document_ids = value_at(values, _one(name["document_id"]), default=None)
    if isinstance(document, str):
        return Row(row_id, query, document, as_identifier(document_ids, _shown(name["document_id"])), negatives)
    if document_ids is None:
        document_ids = [None] * len(document)
    if not isinstance(document_ids, list | tuple) or len(document_ids) != len(document):
        wanted = f"a list of {len(document)}, one for each {_shown(name['document'])}"
        raise ValueError(f"found a {_shown(name['document_id'])} that is not {wanted}")
    rows = []
    for number, (text, value) in enumerate(zip(document, document_ids, strict=True)):
        document_id = as_identifier(value, _shown(name["document_id"]))
        # Translations of a row are found by its query and its document, not by its query alone.
        key = None if row_id is None else f"{row_id}\t{number if document_id is None else document_id}"
        rows.append(Row(row_id, query, text, document_id, negatives, key))
    return rows or EMPTY_DOCUMENT


def _negatives(values: Mapping[str, Any], names: Names) -> tuple[str, ...]:
    """Return the hard negatives of a record: none if the field is missing or null."""
    if isinstance(names, str) and names.endswith("*"):
        numbered = (value for name, value in values.items() if name.startswith(names[:-1]))
        found: Any = [value for value in numbered if value is not None]
    else:
        first = value_at(values, names if isinstance(names, str) else names[-1], default=None)
        found = () if first is None else texts_at(values, names)
    found = (found,) if isinstance(found, str) else found
    if not all(isinstance(text, str) for text in found):
        raise ValueError(f"found a {_shown(names)} that is neither a text nor a list of texts")
    return tuple(found)


def _matches(value: Any, wanted: str | int | bool) -> bool:
    if isinstance(value, str) and not isinstance(wanted, str):
        return (value.lower() if isinstance(wanted, bool) else value) == str(wanted).lower()
    return value == wanted


def _one(names: Names) -> str:
    if isinstance(names, str):
        return names
    raise ValueError(f"found several names, {', '.join(names)}, for an id; expected one")


def _shown(names: Names) -> str:
    return names if isinstance(names, str) else " + ".join(names)


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
    """Return the field `name`; without a field of this name, `a.b` is field b of the object a, or of each object of the
    list a.

    Raises:
        ValueError: there is neither such a field nor a default.
    """
    if name in values:
        return values[name]
    outer, dot, inner = name.partition(".")
    nested = values.get(outer) if dot else None
    if isinstance(nested, Mapping):
        return value_at(nested, inner, default)
    if isinstance(nested, list | tuple) and all(isinstance(one, Mapping) for one in nested):
        return [value_at(one, inner, default) for one in nested]
    if default is _REQUIRED:
        raise ValueError(f"found no {name} among {field_names(values)}")
    return default


def texts_at(values: Mapping[str, Any], names: Names) -> str | list[str]:
    """Return the text or the list of texts of a field, a null being an empty text; of several fields, joined by a space.

    Raises:
        ValueError: a field is missing, or is neither a text nor a list of texts.
    """
    if not isinstance(names, str):
        parts = [texts_at(values, name) for name in names]
        texts = [part for part in parts if isinstance(part, str)]
        lists = [part for part in parts if not isinstance(part, str)]
        if (texts and lists) or len({len(part) for part in lists}) > 1:
            raise ValueError(f"found lists of different lengths, or a text and a list, under {_shown(names)}")
        joined = [" ".join(filter(None, row)) for row in (zip(*lists, strict=True) if lists else [texts])]
        return joined if lists else joined[0]
    value = value_at(values, names)
    if isinstance(value, list | tuple):
        return [_text(one, names) for one in value]
    return _text(value, names)


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"found a {name} that is not a text")
    return value


def identifier(values: Mapping[str, Any], name: str) -> str | None:
    """Return a field as an id, as `as_identifier` does; None if the field is missing or null.

    Raises:
        ValueError: the field is neither a text nor a whole number.
    """
    return as_identifier(value_at(values, name, default=None), name)
