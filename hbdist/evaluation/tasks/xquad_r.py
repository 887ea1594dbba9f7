"""XQuAD-R: 1,190 questions in 11 languages, each answered by one sentence of each language (LAReQA, arXiv 2004.05484).

Sentence variant: a candidate is the text of a sentence alone, without the paragraph around it. LAReQA's own models also
see the paragraph, and arXiv 2408.10536 does not say which it used.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbdist.errors import DataError
from hbdist.evaluation.tasks.task import Candidate, Query, RetrievalTask

NAME = "xquad-r"
DEFAULT_FOLDER = Path("shards/demo/xquad-r")

QUESTIONS = 1190
"""Questions a language; the same ids in the same order in all of them."""

CANDIDATES = {
    "ar": 1222,
    "de": 1276,
    "el": 1234,
    "en": 1180,
    "es": 1215,
    "hi": 1244,
    "ru": 1219,
    "th": 852,
    "tr": 1167,
    "vi": 1209,
    "zh": 1196,
}
"""Sentences a language: 13,014 in all (arXiv 2408.10536, table 10, and LAReQA's README). None is dropped as a
duplicate: equal sentences of different paragraphs are different candidates."""

_SOURCE = "Get the files again from github.com/google-research-datasets/lareqa (folder xquad-r)."


def load_xquad_r(folder: Path = DEFAULT_FOLDER) -> RetrievalTask:
    """XQuAD-R from a folder of ar.json … zh.json, or .json.gz: 13,090 queries, 13,014 candidates, 11 relevant each.

    Raises:
        DataError: a file is missing or damaged, or its contents are not those of XQuAD-R.
    """
    queries: list[Query] = []
    candidates: list[Candidate] = []
    relevance: dict[str, tuple[int, ...]] = {}
    for language in CANDIDATES:
        path = _find(folder, language)
        try:
            questions, sentences, answers = _read_language(path, language)
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path} is not SQuAD JSON with sentence_breaks: {error!r}. {_SOURCE}") from None
        _check(path, language, questions, sentences)
        if relevance and list(relevance) != [question.id for question in questions]:
            raise DataError(f"{path} has other question ids than {min(CANDIDATES)}, or another order. {_SOURCE}")
        for question, answer in zip(questions, answers, strict=True):
            relevance[question.id] = (*relevance.get(question.id, ()), len(candidates) + answer)
        queries += questions
        candidates += sentences
    return RetrievalTask(NAME, tuple(CANDIDATES), tuple(queries), tuple(candidates), relevance)


def _read_language(path: Path, language: str) -> tuple[list[Query], list[Candidate], list[int]]:
    """The questions, the sentences, and for each question the place of its answer among the sentences."""
    questions: list[Query] = []
    sentences: list[Candidate] = []
    answers: list[int] = []
    for number, paragraph in enumerate(_paragraphs(_read_json(path))):
        base, context, breaks = len(sentences), paragraph["context"], paragraph["sentence_breaks"]
        # The slice of the context, not the `sentences` field: in Turkish the two differ in two places.
        sentences += [Candidate(language, number, i, context[start:end]) for i, (start, end) in enumerate(breaks)]
        for entry in paragraph["qas"]:
            answer = entry["answers"][0]["answer_start"]
            # Where an answer ends says nothing: up to twenty a language run past the end of their sentence.
            holders = [i for i, (start, end) in enumerate(breaks) if start <= answer < end]
            if len(holders) != 1:
                raise DataError(
                    f"{path}: the answer of question {entry['id']} starts in {len(holders)} sentences; one is expected."
                    f" {_SOURCE}"
                )
            questions.append(Query(entry["id"], language, entry["question"]))
            answers.append(base + holders[0])
    return questions, sentences, answers


def _check(path: Path, language: str, questions: list[Query], sentences: list[Candidate]) -> None:
    found = (len({question.id for question in questions}), len(sentences))
    if found != (QUESTIONS, CANDIDATES[language]) or len(questions) != QUESTIONS:
        raise DataError(
            f"{path} has {found[0]} different questions and {found[1]} sentences; XQuAD-R has {QUESTIONS} and"
            f" {CANDIDATES[language]} in {language}. {_SOURCE}"
        )


def _find(folder: Path, language: str) -> Path:
    for path in (folder / f"{language}.json", folder / f"{language}.json.gz"):
        if path.is_file():
            return path
    raise DataError(
        f"{folder} holds neither {language}.json nor {language}.json.gz; XQuAD-R is one file a language:"
        f" {', '.join(CANDIDATES)}. Give the folder that has them, or get them from"
        " github.com/google-research-datasets/lareqa (folder xquad-r)."
    )


def _paragraphs(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (paragraph for article in document["data"] for paragraph in article["paragraphs"])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. {_SOURCE}") from None
