"""SQuAD's JSON: articles of paragraphs, and the questions about each."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import NonNegativeInt, PlainValidator
from typing_extensions import TypedDict

from hbdist.data.formats.json_files import as_identifier
from hbdist.data.formats.lines import REMEDY
from hbdist.errors import DataError
from hbdist.utils.json_toml import read_json
from hbdist.utils.parse import a_json
from hbdist.utils.stored import as_published


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {a_json(value)}")
    return value


# Pydantic's own str has no halves of surrogate pairs; whoever uses the texts counts or refuses them.
Text = Annotated[str, PlainValidator(_text)]
"""A text; empty if it is null."""
Identifier = Annotated[str | None, PlainValidator(partial(as_identifier, name="id"))]
Span = tuple[NonNegativeInt, NonNegativeInt]


class Answer(TypedDict):
    """Place of an answer in its context."""

    answer_start: int


class Question(TypedDict):
    """A question about a paragraph."""

    id: NotRequired[Identifier]
    question: Text
    answers: NotRequired[list[Answer]]
    is_impossible: NotRequired[bool | None]


class Paragraph(TypedDict):
    """A paragraph and its questions."""

    context: Text
    qas: list[Question]
    sentence_breaks: NotRequired[list[Span]]
    """Start and end of each sentence, in characters of the context, as in XQuAD-R."""


class _Article(TypedDict):
    paragraphs: list[Paragraph]


class _Squad(TypedDict):
    data: list[_Article]


def read_paragraphs(path: Path, *, remedy: str = REMEDY, strict: bool = False) -> Iterator[tuple[str, Paragraph]]:
    """Yield all paragraphs of a file, plain or gzipped, each with its position "article.paragraph", from "0.0".

    Args:
        strict: refuse halves of surrogate pairs, which cannot be encoded.

    Raises:
        DataError: the file cannot be read, or is not SQuAD's JSON; the message names the place.
    """
    values = read_json(path, remedy=remedy, strict=strict)
    squad = as_published(_Squad, values, where=str(path), what="SQuAD JSON", remedy=remedy)
    for a, article in enumerate(squad["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            yield f"{a}.{p}", paragraph


def no_breaks(path: Path, position: str, remedy: str = REMEDY) -> DataError:
    """Return the error for a paragraph without the sentence breaks that are needed."""
    return DataError(f"{path} is not SQuAD JSON with sentences: paragraph {position} has no sentence_breaks. {remedy}")


def first_answer(question: Question, *, where: str, remedy: str = REMEDY) -> int:
    """Return where the first answer of a question begins, in characters of its context.

    Raises:
        DataError: it has no answer.
    """
    if not question.get("answers"):
        name = question.get("id") or question["question"][:40]
        raise DataError(f"{where}: the question {name!r} has no answers; expected at least one. {remedy}")
    return question["answers"][0]["answer_start"]
