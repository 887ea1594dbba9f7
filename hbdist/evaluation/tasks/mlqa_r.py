"""MLQA-R: MLQA's development questions, answered by sentences that nobody translated (LAReQA, arXiv 2004.05484).

4,199 questions in 7 languages, 1,148 different ones, each of them English and in one to three languages more. The answer
of a question in each language it exists in is relevant: 2 to 4 sentences. From language x to language y, only questions
that both have are asked: German and Arabic share 207, either and English 512 and 517.

LAReQA's own sentences were withdrawn. Where a folder holds them (20,534), they are taken; else the sentences are those
of `sentences.sentence_breaks`, and the scores near those of papers, not comparable with them.
"""

from functools import partial
from pathlib import Path
from typing import Any

from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.data.formats.squad import read_paragraphs
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.sentences import sentence_breaks
from hbdist.evaluation.tasks.squad import read_sentences
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "mlqa-r"
DEFAULT_FOLDER = Path("data/mlqa-r")

QUESTIONS = {"ar": 517, "de": 512, "en": 1148, "es": 500, "hi": 507, "vi": 511, "zh": 504}
"""Questions a language, of MLQA's development set."""

LAREQA_CANDIDATES = {"ar": 2545, "de": 2362, "en": 6264, "es": 1787, "hi": 2426, "vi": 2828, "zh": 2322}
"""Sentences a language as LAReQA broke them (arXiv 2408.10536, table 10)."""

CANDIDATES = {"ar": 2311, "de": 2351, "en": 6219, "es": 1768, "hi": 2380, "vi": 2751, "zh": 2490}
"""Sentences a language as hbdist breaks them: 20,270 in all, where LAReQA had 20,534."""

OWN_NOTE = "sentences broken by hbdist, not by LAReQA: near the scores of papers, not comparable with them"
_SOURCE = "Get the files with `hbdist data fetch mlqa-r`."


def load_mlqa_r(folder: Path = DEFAULT_FOLDER) -> RetrievalTask:
    """MLQA-R from MLQA's dev-context-ar-question-ar.json …, or ar.json …, plain or gzipped.

    Raises:
        DataError: a file is missing or damaged, or its questions are not those of MLQA's development set.
    """
    paths = {language: _find(folder, language) for language in QUESTIONS}
    published = all(_published_count(path) == LAREQA_CANDIDATES[language] for language, path in paths.items())
    queries: list[Query] = []
    candidates: list[Candidate] = []
    relevance: dict[str, tuple[int, ...]] = {}
    for language, path in paths.items():
        breaks = _published if published else partial(_own, language=language)
        questions, sentences, answers = read_sentences(
            path, language, breaks=breaks, needed="context, answers and ids", remedy=_SOURCE
        )
        different = len({question.id for question in questions})
        expected = (LAREQA_CANDIDATES if published else CANDIDATES)[language]
        if (len(questions), different, len(sentences)) != (QUESTIONS[language], QUESTIONS[language], expected):
            raise DataError(
                f"{path} has {len(questions)} questions, {different} different ones, and {len(sentences)} sentences;"
                f" MLQA's development set has {QUESTIONS[language]} and {expected} in {language}. {_SOURCE}"
            )
        for question, answer in zip(questions, answers, strict=True):
            relevance[question.id] = (*relevance.get(question.id, ()), len(candidates) + answer)
        queries += questions
        candidates += sentences
    alone = sum(len(places) == 1 for places in relevance.values())
    if len(relevance) != QUESTIONS["en"] or alone:
        raise DataError(
            f"{folder} has {len(relevance)} different questions, {alone} of them in one language only; MLQA's development"
            f" set has {QUESTIONS['en']}, each in two to four. {_SOURCE}"
        )
    name = NAME if published else f"{NAME} (own sentences)"
    note = "" if published else OWN_NOTE
    return RetrievalTask(name, tuple(QUESTIONS), tuple(queries), tuple(candidates), relevance, note=note)


def _published(paragraph: dict[str, Any]) -> list[list[int]]:
    return paragraph["sentence_breaks"]


def _own(paragraph: dict[str, Any], *, language: str) -> list[tuple[int, int]]:
    return sentence_breaks(paragraph["context"], language)


def _published_count(path: Path) -> int:
    """How many sentences the file itself has."""
    try:
        return sum(len(one.get("sentence_breaks", ())) for _, one in read_paragraphs(path, remedy=_SOURCE))
    except (KeyError, TypeError, AttributeError):
        return 0  # read_sentences says what is wrong with it


def _find(folder: Path, language: str) -> Path:
    name = f"dev-context-{language}-question-{language}.json"
    if path := plain_or_gzipped(folder / name, folder / "dev" / name, folder / f"{language}.json"):
        return path
    raise DataError(
        f"{folder} holds no {name}; MLQA-R is made of one such file a language: {', '.join(QUESTIONS)}. Give the folder"
        f" that has them. {_SOURCE}"
    )
