"""Readers of single files: JSON lines, SQuAD's JSON, and the lines of a parallel text."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from hbdist.data.formats.lines import BLANK_LINE, json_records, numbered_lines
from hbdist.data.sources.rows import ANYTHING, Field, Row, identifier, row_of, text_at
from hbdist.errors import DataError

NO_ANSWER = "no answer"
NO_SENTENCE = "no sentence holds the answer"
Document = Literal["paragraph", "sentence", "sentence and paragraph"]


def read_jsonl(path: Path, *, fields: Mapping[Field, str], where: Mapping[str, Any] = ANYTHING) -> Iterator[Row | str]:
    """The rows of JSON lines; `fields` says what those of ours are called there that have another name.

    Raises:
        DataError: the file is damaged, or a line of it is no JSON object with the fields of a row.
    """
    for number, values in json_records(path, expected="an object with query and document"):
        try:
            yield BLANK_LINE if values is None else row_of(values, fields, where)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: {error}; expected an object with query and document. Mend the line, or "
                'name the fields in the recipe: fields = { document = "…" }.'
            ) from None


def read_squad(path: Path, *, document: Document) -> Iterator[Row | str]:
    """The questions of SQuAD-format JSON, each with its paragraph, or with the sentence its first answer begins in.

    Sentences are those of the paragraph's `sentence_breaks`, as XQuAD-R has them. "sentence and paragraph" is LAReQA's
    second variant (arXiv 2004.05484): the sentence, a line break, and the whole paragraph. A document's id is its
    position (article.paragraph[.sentence]), so that translations of it share the id.

    Raises:
        DataError: the file is damaged or not in SQuAD's format, or has no `sentence_breaks` where sentences are asked
            for.
    """
    text = "".join(line for _, line in numbered_lines(path))
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


def read_lines(path: Path) -> Iterator[Row | str]:
    """Each line of a text as both query and document, with its number as id.

    Of a parallel text only cross-lingual groups are built: a line with its translation.

    Raises:
        DataError: the file is damaged.
    """
    for number, line in numbered_lines(path):
        text = line.strip()
        yield Row(str(number), text, text) if text else BLANK_LINE


def _question(
    question: Mapping[str, Any], *, paragraph: Mapping[str, Any], place: str, document: Document
) -> Row | str:
    if question.get("is_impossible") or not question["answers"]:
        return NO_ANSWER
    name, text, context = identifier(question, "id"), text_at(question, "question"), text_at(paragraph, "context")
    if document == "paragraph":
        return Row(name, text, context, place)
    start = question["answers"][0]["answer_start"]
    for number, (begin, end) in enumerate(paragraph["sentence_breaks"]):
        # An answer may run past the end of its sentence; where it begins decides.
        if begin <= start < end:
            sentence = context[begin:end]
            shown = sentence if document == "sentence" else f"{sentence}\n{context}"
            return Row(name, text, shown, f"{place}.{number}")
    return NO_SENTENCE
