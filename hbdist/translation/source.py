"""The pairs to translate: JSON lines in the format that shards are built from, with the language of each text."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hbdist.data.formats.json_files import json_records
from hbdist.data.formats.lines import BLANK_LINE, REMEDY
from hbdist.data.shards.groups import check_language
from hbdist.data.sources.rows import EMPTY_NEGATIVE, EXPECTED, FIELDS, REPEATED_ID, Row, rows_of, unusable
from hbdist.errors import ConfigError, DataError
from hbdist.utils.files import sha256

LANGUAGE_FIELDS = ("query_lang", "document_lang", "lang")


class Example(NamedTuple):
    """Pair with an id and the languages of its texts."""

    row: Row
    query_lang: str
    document_lang: str


@dataclass(frozen=True)
class Survey:
    """Summary of a source that was read completely."""

    sha256: str
    rows: int
    """Number of rows that can be translated."""
    left_out: Counter[str]
    """Reason → number of rows that cannot be translated (of single negatives for "empty negative")."""
    ignored: Counter[str]
    """Unknown field → number of rows that have it."""
    languages: frozenset[str]
    """Languages of all texts."""


def survey(path: Path, *, language: str) -> Survey:
    """Read the whole source, so that its errors are reported before any model is loaded.

    `language` is that of the texts whose row does not name one.

    Raises:
        ConfigError: the file does not exist.
        DataError: it is damaged or not in the format, or has no row that can be translated.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path} is not a file; expected JSON lines with query and document, plain or .gz. Give the path of one."
        )
    left_out: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    languages: set[str] = set()
    rows = 0
    for example in read_examples(path, language=language, left_out=left_out, ignored=ignored):
        rows += 1
        languages |= {example.query_lang, example.document_lang}
        left_out[EMPTY_NEGATIVE] += sum(not text.strip() for text in example.row.negatives)
    if not rows:
        raise DataError(f"{path} has no row to translate (left out: {dict(left_out) or 'nothing'}). Correct the file.")
    return Survey(sha256(path), rows, +left_out, ignored, frozenset(languages))


def read_examples(
    path: Path, *, language: str, left_out: Counter[str] | None = None, ignored: Counter[str] | None = None
) -> Iterator[Example]:
    """Yield the usable examples of a source in order.

    A row without an id gets the number of its line, as when shards are built from the file.

    Args:
        language: of the texts of rows that do not name one.
        left_out: counts unusable rows by reason.
        ignored: counts rows by unknown field.

    Raises:
        DataError: the file is damaged or not in the format.
    """
    left_out = Counter() if left_out is None else left_out
    seen: set[str] = set()
    for number, values in json_records(path, dict, expected=EXPECTED):
        if values is None:
            left_out[BLANK_LINE] += 1
            continue
        if ignored is not None:
            ignored.update(values.keys() - {*FIELDS, *LANGUAGE_FIELDS})
        try:
            example = _example(values, number, language)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; expected {EXPECTED}. {REMEDY}") from None
        identifier = str(example.row.id)
        if reason := unusable(example.row) or (REPEATED_ID if identifier in seen else ""):
            left_out[reason] += 1
            continue
        yield example
        seen.add(identifier)


def _example(values: Mapping[str, Any], number: int, language: str) -> Example:
    row = rows_of(values, {}, {})
    if not isinstance(row, Row):
        raise ValueError("found a document that is a list; expected one text, in a row for each document")
    default = values.get("lang") or language
    query_lang, document_lang = values.get("query_lang") or default, values.get("document_lang") or default
    identifier = row.id if row.id is not None else str(number)
    return Example(row._replace(id=identifier), check_language(str(query_lang)), check_language(str(document_lang)))
