"""XQuAD-R: 1,190 questions in 11 languages, each answered by one sentence per language (LAReQA, arXiv 2004.05484).

Two variants, since arXiv 2408.10536 does not say which one it used. Sentence: a candidate is the text of a sentence alone.
Sentence and paragraph, as LAReQA's own models see it: the sentence, a line break, and the paragraph around it.
"""

from pathlib import Path

from hbdist.errors import DataError
from hbdist.evaluation.tasks.files import TABLES, find_file
from hbdist.evaluation.tasks.squad import published_breaks, read_sentences
from hbdist.evaluation.tasks.task import RetrievalTask

NAME = "xquad-r"
DEFAULT_FOLDER = Path("shards/demo/xquad-r")
QUESTIONS = 1190
"""Number of questions per language; all languages have the same ids in the same order."""
CANDIDATES: dict[str, int] = TABLES["xquad-r"]["candidates"]
"""Number of sentences per language, 13,014 in all; equal sentences of different paragraphs are different candidates."""
_REMEDY = (
    f"XQuAD-R is one file per language: {', '.join(CANDIDATES)}. Give the folder that has them, or get them from"
    " github.com/google-research-datasets/lareqa (folder xquad-r)."
)


def load_xquad_r(folder: Path = DEFAULT_FOLDER, *, with_paragraph: bool = False) -> RetrievalTask:
    """Return XQuAD-R: 13,090 queries, 13,014 candidates, 11 of them relevant to each query.

    Args:
        folder: folder with ar.json … zh.json, or ar.json.gz … zh.json.gz.
        with_paragraph: the variant in which a candidate is its sentence and the paragraph around it.

    Raises:
        DataError: a file is missing or damaged, or its contents are not those of XQuAD-R.
    """
    paths = {language: find_file(folder, f"{language}.json", remedy=_REMEDY) for language in CANDIDATES}
    counts = {language: (QUESTIONS, sentences) for language, sentences in CANDIDATES.items()}
    queries, candidates, relevance = read_sentences(
        paths, breaks=published_breaks, counts=counts, with_paragraph=with_paragraph, remedy=_REMEDY
    )
    for number, language in enumerate(CANDIDATES):
        if [query.id for query in queries[number * QUESTIONS :][:QUESTIONS]] != list(relevance):
            raise DataError(f"{paths[language]} has other question ids than ar.json, or another order. {_REMEDY}")
    name = f"{NAME}:paragraph" if with_paragraph else NAME
    return RetrievalTask(name, tuple(CANDIDATES), queries, candidates, relevance)
