"""TyDi QA's gold passages as monolingual retrieval: questions that native speakers asked, in nine languages.

A derived task: TyDi QA GoldP (arXiv 2003.05002) gives the passage of each question; here, all passages of the development
set in its language are its candidates. They are few (105 to 842 passages in six of the languages), so scores are high.
Questions are not translations of one another, so there is neither a cross-lingual nor a multilingual setting.
"""

from pathlib import Path

from hbdist.data.formats.squad import read_paragraphs
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.files import TABLES, find_file
from hbdist.evaluation.tasks.squad import question_id
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "tydiqa"
DEFAULT_FOLDER = Path("data/tydiqa")
FILE = "tydiqa-goldp-v1.1-dev.json"
QUESTIONS: dict[str, int] = TABLES["tydiqa"]["questions"]
"""Number of questions per language in the development set."""
_CODES: dict[str, str] = TABLES["tydiqa"]["codes"]
NOTE = "derived from TyDi QA GoldP: a pool of the gold passages alone; not comparable with Mr. TyDi or MIRACL"
_REMEDY = "Get it with `hbdist data fetch tydiqa`."


def load_tydiqa(folder: Path = DEFAULT_FOLDER) -> RetrievalTask:
    """Return TyDi QA GoldP from tydiqa-goldp-v1.1-dev.json, plain or gzipped: 5,077 queries, one relevant passage each.

    Equal passages of a language are one candidate. Ids are TyDi QA's, such as "swahili-…".

    Raises:
        DataError: the file is missing or damaged, or its questions are not those of TyDi QA's development set.
    """
    path = find_file(folder, FILE, remedy=_REMEDY)
    queries: list[Query] = []
    passages: dict[str, dict[str, None]] = {language: {} for language in QUESTIONS}
    contexts: dict[str, tuple[str, str]] = {}
    for position, paragraph in read_paragraphs(path, remedy=_REMEDY, strict=True):
        for entry in paragraph["qas"]:
            name = question_id(path, position, entry, _REMEDY)
            if (language := _CODES.get(name.partition("-")[0])) is None:
                raise DataError(f"{path}: the id {name!r} does not begin with a language of TyDi QA. {_REMEDY}")
            passages[language][paragraph["context"]] = None
            queries.append(Query(name, language, entry["question"]))
            contexts[name] = language, paragraph["context"]
    counts = {language: sum(query.language == language for query in queries) for language in QUESTIONS}
    if counts != QUESTIONS or len(contexts) != len(queries):
        raise DataError(
            f"{path} has {counts} questions, {len(contexts):,} different ones; TyDi QA's development set has {QUESTIONS}."
            f" {_REMEDY}"
        )
    candidates = [
        Candidate(language, number, 0, text) for language, part in passages.items() for number, text in enumerate(part)
    ]
    index = {(candidate.language, candidate.text): number for number, candidate in enumerate(candidates)}
    return RetrievalTask(
        f"{NAME}-goldp",
        tuple(QUESTIONS),
        tuple(sorted(queries, key=lambda query: query.language)),
        tuple(candidates),
        {question: (index[context],) for question, context in contexts.items()},
        settings=("monolingual",),
        note=NOTE,
    )
