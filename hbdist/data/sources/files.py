"""Readers of single files: JSON, CSV, SQuAD's JSON, and the lines of parallel text."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hbdist.data.formats.json_files import json_records
from hbdist.data.formats.lines import BLANK_LINE, REMEDY, byte_lines, numbered_lines
from hbdist.data.formats.squad import Paragraph, Question, first_answer, no_breaks, read_paragraphs
from hbdist.data.sources.rows import EXPECTED, ParseRow, Record, Row
from hbdist.errors import DataError
from hbdist.utils.json_toml import read_json
from hbdist.utils.parse import a_json

NO_ANSWER = "no answer"
NO_SENTENCE = "no sentence holds the answer"
Document = Literal["paragraph", "sentence", "sentence and paragraph"]


_FIELDS_REMEDY = 'Mend the file, fetch it again, or name the fields in the recipe: fields = { document = "…" }.'


def read_jsonl(path: Path, parse: ParseRow) -> Iterator[Record]:
    """Yield the rows of JSON lines.

    Raises:
        DataError: the file is damaged, or a line is not a JSON object with the fields of a row.
    """
    for _, row in json_records(path, parse, expected=EXPECTED, remedy=_FIELDS_REMEDY):
        yield BLANK_LINE if row is None else row


def read_json_or_jsonl(path: Path, parse: ParseRow) -> Iterator[Record]:
    """Yield the rows of a JSON file: an array of objects, which is read as a whole, or one object per line.

    Raises:
        DataError: the file is damaged, or something in it is not an object with the fields of a row.
    """
    start = next((line.removeprefix(b"\xef\xbb\xbf").strip() for _, line in byte_lines(path) if line.strip()), b"")
    if not start.startswith(b"["):
        yield from read_jsonl(path, parse)
        return
    for number, values in enumerate(read_json(path, remedy=_FIELDS_REMEDY, strict=False), 1):
        try:
            if not isinstance(values, dict):
                raise ValueError(f"found {a_json(values)}")
            yield parse(values)
        except ValueError as error:
            raise DataError(f"{path}, item {number}: {error}; expected {EXPECTED}. {_FIELDS_REMEDY}") from None


def read_csv(path: Path, parse: ParseRow) -> Iterator[Record]:
    """Yield the rows of a CSV file in UTF-8, with commas, under a line of column names.

    Cells are texts as they stand: `001` and `1` are two ids, and `NA` and `null` are words. An empty cell is a missing value.

    Raises:
        DataError: the file is damaged or not CSV, or a line has another number of cells or lacks the fields of a row.
    """
    csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is less than a long document
    reader = csv.reader((line for _, line in numbered_lines(path, line_ends=True)), strict=True)
    try:
        names = next((cells for cells in reader if cells), [])
        _check_columns(path, names)
        for cells in reader:
            if not cells:
                yield BLANK_LINE
                continue
            if len(cells) != len(names):
                raise ValueError(f"found {len(cells)} cells; expected {len(names)}, {', '.join(names)}")
            yield parse({name: cell or None for name, cell in zip(names, cells, strict=True)})
    except (ValueError, csv.Error) as error:
        expected = (
            f"{EXPECTED.removeprefix('an object with ')}, in quotes if they contain a comma, a quote or a line break"
        )
        raise DataError(f"{path}, line {reader.line_num}: {error}; expected {expected}. {_FIELDS_REMEDY}") from None


def _check_columns(path: Path, names: list[str]) -> None:
    if not names:
        raise DataError(f"{path} is empty; expected CSV with a line of column names. {REMEDY}")
    if len(names) == 1 and (separator := next((one for one in ";\t|" if one in names[0]), "")):
        shown = "tabs" if separator == "\t" else f"{separator!r}"
        raise DataError(
            f"{path}, line 1: found one column, {names[0][:60]!r}; expected columns separated by commas. The file seems to be"
            f" separated by {shown}: save it with commas."
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}, line 1: found the column {twice[0]!r} twice; expected each once. Rename one.")


def read_squad(path: Path, *, document: Document, prefix: str = "") -> Iterator[Row | str]:
    """Yield each question of SQuAD's JSON with its paragraph, or with the sentence in which its first answer begins.

    Sentences are those of the paragraph's `sentence_breaks`, as in XQuAD-R. "sentence and paragraph" is LAReQA's
    second variant (arXiv 2004.05484): the sentence, a line break, and the whole paragraph. A document's id is its
    position (article.paragraph[.sentence]) after `prefix`, so that its translations share the id.

    Raises:
        DataError: the file is damaged or not in SQuAD's format, or lacks answers, or the `sentence_breaks` that sentences need.
    """
    for position, paragraph in read_paragraphs(path):
        for question in paragraph["qas"]:
            yield _question(question, paragraph, path=path, position=f"{prefix}{position}", document=document)


def read_lines(path: Path) -> Iterator[Row | str]:
    """Yield each line of a text as both query and document, with its number as id.

    Only cross-lingual groups are built from parallel text: a line with its translation.

    Raises:
        DataError: the file is damaged.
    """
    for number, line in numbered_lines(path):
        text = line.strip()
        yield Row(str(number), text, text) if text else BLANK_LINE


def _question(question: Question, paragraph: Paragraph, *, path: Path, position: str, document: Document) -> Row | str:
    if question.get("is_impossible") or question.get("answers") == []:
        return NO_ANSWER
    name, text, context = question.get("id"), question["question"], paragraph["context"]
    answer = first_answer(question, where=str(path))
    if document == "paragraph":
        return Row(name, text, context, position)
    if (breaks := paragraph.get("sentence_breaks")) is None:
        raise no_breaks(path, position)
    for number, (start, end) in enumerate(breaks):
        # An answer may extend past the end of its sentence; where it begins decides.
        if start <= answer < end:
            sentence = context[start:end]
            shown = sentence if document == "sentence" else f"{sentence}\n{context}"
            return Row(name, text, shown, f"{position}.{number}")
    return NO_SENTENCE
