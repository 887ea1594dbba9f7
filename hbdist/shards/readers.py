"""Source formats: each reader turns one file into rows, in the file's order.

A reader yields, for every record, its `Row`, or the reason (a text) why there is none, so that whoever reads can count.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from hbdist.errors import DataError

FIELDS = ("id", "query", "document", "document_id", "negatives")
NO_ANSWER = "no answer"
NO_SENTENCE = "no sentence holds the answer"
BLANK_LINE = "blank line"


class Row(NamedTuple):
    """A query and its document in one language, as the source has them."""

    id: str | None
    query: str
    document: str
    document_id: str | None = None
    negatives: tuple[str, ...] = ()


def read_jsonl(path: Path, *, fields: Mapping[str, str]) -> Iterator[Row | str]:
    """The rows of JSON lines; `fields` says what those of ours are called there that have another name.

    Raises:
        DataError: the file is damaged, or a line of it is no JSON object with the fields of a row.
    """
    names = {field: fields.get(field, field) for field in FIELDS}
    with _open(path) as file:
        for number, line in _lines(path, file):
            if not line.strip():
                yield BLANK_LINE
                continue
            try:
                yield _row(json.loads(line), names)
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number}: {error}; expected an object with query and document. Mend the line, or "
                    'name the fields in the recipe: fields = { document = "…" }.'
                ) from None


def read_squad(path: Path, *, document: Literal["paragraph", "sentence"]) -> Iterator[Row | str]:
    """The questions of SQuAD-format JSON, each with its paragraph, or with the sentence its first answer begins in.

    Sentences are those of the paragraph's `sentence_breaks`, as XQuAD-R has them. A document's id is its position
    (article.paragraph[.sentence]), so that translations of it share the id.

    Raises:
        DataError: the file is damaged or not in SQuAD's format, or has no `sentence_breaks` where sentences are asked
            for.
    """
    with _open(path) as file:
        text = "".join(line for _, line in _lines(path, file))
    try:
        articles = json.loads(text)["data"]
        for a, article in enumerate(articles):
            for p, paragraph in enumerate(article["paragraphs"]):
                for question in paragraph["qas"]:
                    yield _question(question, paragraph=paragraph, place=f"{a}.{p}", document=document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: {type(error).__name__} {error}; expected SQuAD's format, data → paragraphs → qas. Choose another "
            "reader in the recipe, or mend the file."
        ) from None


READERS: dict[str, Callable[..., Iterator[Row | str]]] = {"jsonl": read_jsonl, "squad": read_squad}
"""Name in a recipe → reader."""


def _open(path: Path) -> IO[str]:
    try:
        if path.suffix == ".gz":
            return cast(IO[str], gzip.open(path, "rt", encoding="utf-8-sig", newline="\n"))
        return path.open(encoding="utf-8-sig", newline="\n")
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}. Correct its path in the recipe.") from None


def _lines(path: Path, file: IO[str]) -> Iterator[tuple[int, str]]:
    """The lines with their numbers from 1; damage of the file itself is told from damage of a line."""
    number = 0
    try:
        for line in file:
            number += 1
            yield number, line
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(
            f"{path} is damaged after line {number}: {error}; expected UTF-8 text, gzipped if the name ends in .gz. "
            "Fetch the file again."
        ) from None


def _row(values: Any, names: Mapping[str, str]) -> Row:
    if not isinstance(values, dict):
        raise ValueError(f"found a {type(values).__name__}")
    negatives = values.get(names["negatives"]) or ()
    if not isinstance(negatives, list | tuple) or not all(isinstance(text, str) for text in negatives):
        raise ValueError(f"found a {names['negatives']} that is not a list of texts")
    return Row(
        id=_identifier(values, names["id"]),
        query=_text(values, names["query"]),
        document=_text(values, names["document"]),
        document_id=_identifier(values, names["document_id"]),
        negatives=tuple(negatives),
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        raise ValueError(f"found no {name} among {', '.join(values) or 'no fields'}")
    value = values[name]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"found a {name} that is not a text")
    return value


def _identifier(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"found {name} = {value!r}, which is neither text nor whole number")


def _question(question: Mapping[str, Any], *, paragraph: Mapping[str, Any], place: str, document: str) -> Row | str:
    if question.get("is_impossible") or not question["answers"]:
        return NO_ANSWER
    identifier, text, context = _identifier(question, "id"), _text(question, "question"), _text(paragraph, "context")
    if document == "paragraph":
        return Row(identifier, text, context, place)
    start = question["answers"][0]["answer_start"]
    for number, (begin, end) in enumerate(paragraph["sentence_breaks"]):
        # An answer may run past the end of its sentence; where it begins decides.
        if begin <= start < end:
            return Row(identifier, text, context[begin:end], f"{place}.{number}")
    return NO_SENTENCE
