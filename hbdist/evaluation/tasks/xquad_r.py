"""XQuAD-R: 1,190 questions in 11 languages, each answered by one sentence of each language (LAReQA, arXiv 2004.05484).

Two variants, as arXiv 2408.10536 does not say which it used. Sentence: a candidate is the text of a sentence alone.
Sentence and paragraph, as LAReQA's own models see it: the sentence, a line break, and the paragraph around it.
"""

from pathlib import Path
from typing import Any

from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.squad import read_sentences
from hbdist.evaluation.tasks.task import Query, RetrievalTask

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


def load_xquad_r(folder: Path = DEFAULT_FOLDER, *, with_paragraph: bool = False) -> RetrievalTask:
    """XQuAD-R from a folder of ar.json … zh.json, or .json.gz: 13,090 queries, 13,014 candidates, 11 relevant each.

    Args:
        folder: where the files are.
        with_paragraph: the variant in which a candidate is its sentence and the paragraph around it.

    Raises:
        DataError: a file is missing or damaged, or its contents are not those of XQuAD-R.
    """
    queries: list[Query] = []
    candidates: list[Candidate] = []
    relevance: dict[str, tuple[int, ...]] = {}
    for language in CANDIDATES:
        path = _find(folder, language)
        questions, sentences, answers = read_sentences(
            path, language, breaks=_published, needed="sentence_breaks", with_paragraph=with_paragraph, remedy=_SOURCE
        )
        _check(path, language, questions, sentences)
        if relevance and list(relevance) != [question.id for question in questions]:
            raise DataError(f"{path} has other question ids than {min(CANDIDATES)}, or another order. {_SOURCE}")
        for question, answer in zip(questions, answers, strict=True):
            relevance[question.id] = (*relevance.get(question.id, ()), len(candidates) + answer)
        queries += questions
        candidates += sentences
    name = f"{NAME}:paragraph" if with_paragraph else NAME
    return RetrievalTask(name, tuple(CANDIDATES), tuple(queries), tuple(candidates), relevance)


def _published(paragraph: dict[str, Any]) -> list[list[int]]:
    # Not the `sentences` field: in Turkish the two differ in two places.
    return paragraph["sentence_breaks"]


def _check(path: Path, language: str, questions: list[Query], sentences: list[Candidate]) -> None:
    found = (len({question.id for question in questions}), len(sentences))
    if found != (QUESTIONS, CANDIDATES[language]) or len(questions) != QUESTIONS:
        raise DataError(
            f"{path} has {found[0]} different questions and {found[1]} sentences; XQuAD-R has {QUESTIONS} and"
            f" {CANDIDATES[language]} in {language}. {_SOURCE}"
        )


def _find(folder: Path, language: str) -> Path:
    if path := plain_or_gzipped(folder / f"{language}.json"):
        return path
    raise DataError(
        f"{folder} holds neither {language}.json nor {language}.json.gz; XQuAD-R is one file a language:"
        f" {', '.join(CANDIDATES)}. Give the folder that has them, or get them from"
        " github.com/google-research-datasets/lareqa (folder xquad-r)."
    )
