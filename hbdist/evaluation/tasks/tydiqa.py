"""TyDi QA's gold passages as monolingual retrieval: questions that native speakers asked, in nine languages.

A derived task: TyDi QA GoldP (arXiv 2003.05002) gives each question its passage; here all passages of the development
set in the language are its candidates. The pools are small (105 to 842 passages of six of the languages), so scores are
high. Questions are not translations of one another, so there is neither a cross-lingual nor a multilingual setting.
"""

from pathlib import Path

from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.data.formats.squad import read_paragraphs, squad_errors
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "tydiqa"
DEFAULT_FOLDER = Path("data/tydiqa")
FILE = "tydiqa-goldp-v1.1-dev.json"

QUESTIONS = {"ar": 921, "bn": 113, "en": 440, "fi": 782, "id": 565, "ko": 276, "ru": 812, "sw": 499, "te": 669}
"""Questions a language of the development set."""
_CODES = {
    "arabic": "ar",
    "bengali": "bn",
    "english": "en",
    "finnish": "fi",
    "indonesian": "id",
    "korean": "ko",
    "russian": "ru",
    "swahili": "sw",
    "telugu": "te",
}
NOTE = "derived from TyDi QA GoldP: a pool of the gold passages alone; not comparable with Mr. TyDi or MIRACL"
_SOURCE = "Get it with `hbdist data fetch tydiqa`."


def load_tydiqa(folder: Path = DEFAULT_FOLDER) -> RetrievalTask:
    """TyDi QA GoldP from a folder with tydiqa-goldp-v1.1-dev.json, plain or gzipped: 5,077 queries, one relevant each.

    Equal passages of a language are one candidate. Ids are TyDi QA's, as "swahili-…".

    Raises:
        DataError: the file is missing or damaged, or its contents are not those of the development set.
    """
    path = plain_or_gzipped(folder / FILE)
    if path is None:
        raise DataError(f"{folder} holds no {FILE}. {_SOURCE}")
    queries: dict[str, list[Query]] = {language: [] for language in QUESTIONS}
    passages: dict[str, dict[str, int]] = {language: {} for language in QUESTIONS}
    answers: dict[str, tuple[str, int]] = {}
    with squad_errors(path, "TyDi QA's questions", remedy=_SOURCE):
        for _, paragraph in read_paragraphs(path, remedy=_SOURCE):
            for entry in paragraph["qas"]:
                language = _CODES[entry["id"].partition("-")[0]]
                number = passages[language].setdefault(paragraph["context"], len(passages[language]))
                queries[language].append(Query(entry["id"], language, entry["question"]))
                answers[entry["id"]] = language, number
    found = {language: len(part) for language, part in queries.items()}
    if found != QUESTIONS or len(answers) != sum(QUESTIONS.values()):
        raise DataError(
            f"{path} has {found} questions, {len(answers):,} different ones; TyDi QA's development set has {QUESTIONS}."
            f" {_SOURCE}"
        )
    candidates = [
        Candidate(language, number, 0, text) for language, part in passages.items() for text, number in part.items()
    ]
    starts, start = {}, 0
    for language, part in passages.items():
        starts[language] = start
        start += len(part)
    return RetrievalTask(
        f"{NAME}-goldp",
        tuple(QUESTIONS),
        tuple(query for part in queries.values() for query in part),
        tuple(candidates),
        {question: (starts[language] + number,) for question, (language, number) in answers.items()},
        settings=("monolingual",),
        note=NOTE,
    )
