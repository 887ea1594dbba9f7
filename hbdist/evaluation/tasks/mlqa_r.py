"""MLQA-R: MLQA's development questions, answered by sentences that nobody translated (LAReQA, arXiv 2004.05484).

4,199 queries in 7 languages ask 1,148 different questions, each in English and one to three other languages. Its answer
in each of these languages is relevant: 2 to 4 sentences. From language x to language y, only the questions that both have
are asked: German and Arabic share 207; English shares 512 with German and 517 with Arabic.

LAReQA's own sentences were withdrawn. They are used if a folder has them (20,534); otherwise `sentence_breaks` makes the
sentences, and the scores are close to published ones but not comparable with them.
"""

from pathlib import Path

from hbdist.data.formats.squad import Paragraph, Span, read_paragraphs
from hbdist.errors import DataError
from hbdist.evaluation.tasks.files import TABLES, find_file
from hbdist.evaluation.tasks.sentences import sentence_breaks
from hbdist.evaluation.tasks.squad import published_breaks, read_sentences
from hbdist.evaluation.tasks.task import RetrievalTask

NAME = "mlqa-r"
DEFAULT_FOLDER = Path("data/mlqa-r")
QUESTIONS: dict[str, int] = TABLES["mlqa-r"]["questions"]
LAREQA_CANDIDATES: dict[str, int] = TABLES["mlqa-r"]["lareqa_candidates"]
CANDIDATES: dict[str, int] = TABLES["mlqa-r"]["candidates"]
OWN_NOTE = "sentences broken by hbdist, not by LAReQA: near the scores of papers, not comparable with them"
_REMEDY = "Get the files, one per language, with `hbdist data fetch mlqa-r`."


def load_mlqa_r(folder: Path = DEFAULT_FOLDER) -> RetrievalTask:
    """Return MLQA-R from MLQA's dev-context-ar-question-ar.json …, or ar.json …, plain or gzipped.

    Raises:
        DataError: a file is missing or damaged, or its questions are not those of MLQA's development set.
    """
    names = {language: f"dev-context-{language}-question-{language}.json" for language in QUESTIONS}
    paths = {one: find_file(folder, name, f"dev/{name}", f"{one}.json", remedy=_REMEDY) for one, name in names.items()}
    published = all(_published_count(path) == LAREQA_CANDIDATES[language] for language, path in paths.items())
    sentences = LAREQA_CANDIDATES if published else CANDIDATES
    queries, candidates, relevance = read_sentences(
        paths,
        breaks=published_breaks if published else _own_breaks,
        counts={language: (count, sentences[language]) for language, count in QUESTIONS.items()},
        remedy=_REMEDY,
    )
    alone = sum(len(indices) == 1 for indices in relevance.values())
    if len(relevance) != QUESTIONS["en"] or alone:
        raise DataError(
            f"{folder} has {len(relevance)} different questions, {alone} of them in one language only; MLQA's development"
            f" set has {QUESTIONS['en']}, each in two to four. {_REMEDY}"
        )
    name, note = (NAME, "") if published else (f"{NAME} (own sentences)", OWN_NOTE)
    return RetrievalTask(name, tuple(QUESTIONS), queries, candidates, relevance, note=note)


def _own_breaks(paragraph: Paragraph, language: str) -> list[Span]:
    return sentence_breaks(paragraph["context"], language)


def _published_count(path: Path) -> int:
    return sum(len(one.get("sentence_breaks", ())) for _, one in read_paragraphs(path, remedy=_REMEDY))
