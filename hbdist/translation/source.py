"""The pairs that are to be translated: JSON lines as shards are built from, and the language of each text."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hbdist.data.build.staging import BROKEN_UNICODE, EMPTY_DOCUMENT, EMPTY_NEGATIVE, EMPTY_QUERY, REPEATED_ID
from hbdist.data.formats.lines import BLANK_LINE, json_records
from hbdist.data.shards.manifest import check_language
from hbdist.data.sources.rows import ANYTHING, FIELDS, Row, row_of
from hbdist.errors import ConfigError, DataError
from hbdist.utils.files import sha256

LANGUAGE_FIELDS = ("query_lang", "document_lang", "lang")
EXPECTED = "an object with query and document"


class Example(NamedTuple):
    """A pair with an id, and what its texts are written in."""

    row: Row
    query_lang: str
    document_lang: str


@dataclass(frozen=True)
class Survey:
    """What a source holds, after it was read once from end to end."""

    sha256: str
    rows: int
    """Rows that can be translated."""
    left_out: Counter[str]
    """Reason → rows (single negatives for "empty negative") that cannot."""
    ignored: Counter[str]
    """Field that means nothing here → rows that have it."""
    languages: frozenset[str]
    """Of all texts."""


def survey(path: Path, *, language: str) -> Survey:
    """Read the whole source, so that what is wrong with it is said before any model is loaded.

    Args:
        language: of the texts of rows that name none.

    Raises:
        ConfigError: there is no such file.
        DataError: it is damaged or not in the format, or holds nothing to translate.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} is not a file; expected JSON lines with query and document, plain or .gz. Give the path of one."
        )
    left_out: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    languages: set[str] = set()
    rows = 0
    for example in examples(path, language=language, ignored=ignored):
        if isinstance(example, str):
            left_out[example] += 1
            continue
        rows += 1
        languages |= {example.query_lang, example.document_lang}
        left_out[EMPTY_NEGATIVE] += sum(not text.strip() for text in example.row.negatives)
    if not rows:
        raise DataError(f"{path} holds nothing to translate (left out: {dict(left_out) or 'nothing'}). Correct it.")
    return Survey(sha256(path), rows, +left_out, ignored, frozenset(languages))


def examples(path: Path, *, language: str, ignored: Counter[str] | None = None) -> Iterator[Example | str]:
    """The examples of a source in its order; for each row that cannot be used, the reason.

    A row without an id gets its line's number, as when shards are built from it.

    Raises:
        DataError: the file is damaged or not in the format.
    """
    seen: set[str] = set()
    for number, values in json_records(path, expected=EXPECTED):
        if values is None:
            yield BLANK_LINE
            continue
        if ignored is not None:
            ignored.update(values.keys() - {*FIELDS, *LANGUAGE_FIELDS})
        try:
            example = _example(values, number, language)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {EXPECTED}. Mend the line.") from None
        identifier = str(example.row.id)
        reason = _fault(example.row) or (REPEATED_ID if identifier in seen else "")
        yield reason or example
        if not reason:
            seen.add(identifier)


def _example(values: Mapping[str, Any], number: int, language: str) -> Example:
    row = row_of(values, {}, ANYTHING)
    assert isinstance(row, Row)  # no condition leaves any out
    both = values.get("lang") or language
    query_lang, document_lang = values.get("query_lang") or both, values.get("document_lang") or both
    identifier = row.id if row.id is not None else str(number)
    return Example(row._replace(id=identifier), check_language(str(query_lang)), check_language(str(document_lang)))


def _fault(row: Row) -> str:
    """Why the row cannot be used; empty if it can."""
    if not row.query.strip():
        return EMPTY_QUERY
    if not row.document.strip():
        return EMPTY_DOCUMENT
    try:
        "".join((str(row.id), row.query, row.document, row.document_id or "", *row.negatives)).encode()
    except UnicodeEncodeError:
        return BROKEN_UNICODE
    return ""
