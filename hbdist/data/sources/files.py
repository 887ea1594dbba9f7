"""Readers of single files: JSON lines, SQuAD's JSON, and the lines of parallel text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from hbdist.data.formats.json_files import json_records
from hbdist.data.formats.lines import BLANK_LINE, numbered_lines
from hbdist.data.formats.squad import read_paragraphs, squad_errors
from hbdist.data.sources.rows import EXPECTED, ParseRow, Row, identifier, text_at

NO_ANSWER = "no answer"
NO_SENTENCE = "no sentence holds the answer"
Document = Literal["paragraph", "sentence", "sentence and paragraph"]


def read_jsonl(path: Path, parse: ParseRow) -> Iterator[Row | str]:
    """Yield the rows of JSON lines.

    Raises:
        DataError: the file is damaged, or a line is not a JSON object with the fields of a row.
    """
    remedy = 'Mend the file, fetch it again, or name the fields in the recipe: fields = { document = "…" }.'
    for _, row in json_records(path, parse, expected=EXPECTED, remedy=remedy):
        yield BLANK_LINE if row is None else row


def read_squad(path: Path, *, document: Document) -> Iterator[Row | str]:
    """Yield each question of SQuAD's JSON with its paragraph, or with the sentence in which its first answer begins.

    Sentences are those of the paragraph's `sentence_breaks`, as in XQuAD-R. "sentence and paragraph" is LAReQA's
    second variant (arXiv 2004.05484): the sentence, a line break, and the whole paragraph. A document's id is its
    position (article.paragraph[.sentence]), so that its translations share the id.

    Raises:
        DataError: the file is damaged or not in SQuAD's format, or lacks the `sentence_breaks` that sentences need.
    """
    needed = "data → paragraphs → context and qas" + ("" if document == "paragraph" else ", and sentence_breaks")
    with squad_errors(path, needed):
        for position, paragraph in read_paragraphs(path):
            for question in paragraph["qas"]:
                yield _question(question, paragraph=paragraph, position=position, document=document)


def read_lines(path: Path) -> Iterator[Row | str]:
    """Yield each line of a text as both query and document, with its number as id.

    Only cross-lingual groups are built from parallel text: a line with its translation.

    Raises:
        DataError: the file is damaged.
    """
    for number, line in numbered_lines(path):
        text = line.strip()
        yield Row(str(number), text, text) if text else BLANK_LINE


def _question(
    question: Mapping[str, Any], *, paragraph: Mapping[str, Any], position: str, document: Document
) -> Row | str:
    if question.get("is_impossible") or not question["answers"]:
        return NO_ANSWER
    name, text, context = identifier(question, "id"), text_at(question, "question"), text_at(paragraph, "context")
    if document == "paragraph":
        return Row(name, text, context, position)
    answer = question["answers"][0]["answer_start"]
    for number, (start, end) in enumerate(paragraph["sentence_breaks"]):
        # An answer may extend past the end of its sentence; where it begins decides.
        if start <= answer < end:
            sentence = context[start:end]
            shown = sentence if document == "sentence" else f"{sentence}\n{context}"
            return Row(name, text, shown, f"{position}.{number}")
    return NO_SENTENCE
