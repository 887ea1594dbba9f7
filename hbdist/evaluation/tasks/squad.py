"""SQuAD's JSON as a source of questions, and of sentences or paragraphs that answer them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hbdist.data.formats.squad import read_paragraphs, squad_errors
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query

Break = Callable[[dict[str, Any]], Sequence[Sequence[int]]]
"""A paragraph → start and end of each of its sentences, in characters of its context."""


def read_sentences(
    path: Path, language: str, *, breaks: Break, needed: str, with_paragraph: bool = False, remedy: str
) -> tuple[list[Query], list[Candidate], list[int]]:
    """The questions, the sentences, and for each question the place of its answer among the sentences.

    Args:
        path: JSON, plain or gzipped.
        language: of all of it.
        breaks: where the sentences are.
        needed: what a paragraph must have, for errors.
        with_paragraph: a candidate is its sentence, a line break, and the whole paragraph.
        remedy: how to get the file again, for errors.

    Raises:
        DataError: the file is damaged or not SQuAD's JSON, or no single sentence holds the beginning of an answer.
    """
    questions: list[Query] = []
    sentences: list[Candidate] = []
    answers: list[int] = []
    with squad_errors(path, needed, remedy=remedy):
        for number, (_, paragraph) in enumerate(read_paragraphs(path, remedy=remedy)):
            base, context, edges = len(sentences), paragraph["context"], breaks(paragraph)
            for i, (start, end) in enumerate(edges):
                text = f"{context[start:end]}\n{context}" if with_paragraph else context[start:end]
                sentences.append(Candidate(language, number, i, text))
            for entry in paragraph["qas"]:
                answer = entry["answers"][0]["answer_start"]
                # Where an answer ends says nothing: in XQuAD-R up to twenty a language run past their sentence.
                holders = [i for i, (start, end) in enumerate(edges) if start <= answer < end]
                if len(holders) != 1:
                    raise DataError(
                        f"{path}: the answer of question {entry['id']} starts in {len(holders)} sentences; one is"
                        f" expected. {remedy}"
                    )
                questions.append(Query(entry["id"], language, entry["question"]))
                answers.append(base + holders[0])
    return questions, sentences, answers
