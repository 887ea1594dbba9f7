"""Any BEIR folder (arXiv 2104.08663): corpus.jsonl, queries.jsonl and qrels/test.tsv.

Evaluated as BEIR does: a candidate is title and text, the grades of the qrels are the gains of nDCG, a document with the
id of the query is not ranked for it, and grades of 0 and below count as irrelevant. nDCG@10 is the main metric.
The corpus stays on disk.
"""

from pathlib import Path

from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.data.formats.qrels import Qrels, read_qrels
from hbdist.data.formats.texts import BEIR_LINE, beir_entry, read_texts
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Corpus
from hbdist.evaluation.tasks.files import find_file
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "beir"
METRICS = ("ndcg@10", "map", "recall@10", "recall@100", "mrr")
UNDETERMINED = "und"
"""ISO 639 code of an undetermined language, for a folder that is not named after one."""
NO_RELEVANT = "no document judged relevant"
NO_JUDGEMENT = "no judgement in the split"
_REMEDY = (
    "A BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv. Give another folder, or get the data set again from"
    " github.com/beir-cellar/beir."
)


def load_beir(folder: Path, *, split: str = "test") -> RetrievalTask:
    """Return the task of a BEIR folder, or of a folder of BEIR folders that are named after their languages.

    Queries and documents keep their ids. A query without judgements in the split is left out and counted. The folder has
    corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, or en/corpus.jsonl, de/corpus.jsonl, …

    Raises:
        DataError: a file is missing or damaged, or a judged document or query is missing.
    """
    folders = _language_folders(folder)
    qrels = {
        language: read_qrels(find_file(one, f"qrels/{split}.tsv", remedy=_REMEDY), "beir", remedy=_REMEDY)
        for language, one in folders.items()
    }
    # Ids of queries are looked up too: a document with the id of a query is not ranked for it.
    lookup = {language: {*part, *(doc for docs in part.values() for doc in docs)} for language, part in qrels.items()}
    files = {language: [find_file(one, "corpus.jsonl", remedy=_REMEDY)] for language, one in folders.items()}
    candidates = Corpus.read(files, parse=_parse, lookup=lookup, expected=BEIR_LINE)
    queries: list[Query] = []
    relevance: dict[str, tuple[int, ...]] = {}
    grades: dict[str, tuple[int, ...]] = {}
    ignored: dict[str, tuple[int, ...]] = {}
    left_out = {NO_JUDGEMENT: 0, NO_RELEVANT: 0}
    for language, one in sorted(folders.items()):
        indices = candidates.indices(language)
        for identifier, text in _read_queries(one, qrels[language], set(indices)).items():
            documents = qrels[language].get(identifier)
            relevant = {doc: grade for doc, grade in (documents or {}).items() if doc != identifier}
            if not relevant:
                left_out[NO_JUDGEMENT if documents is None else NO_RELEVANT] += 1
                continue
            question = identifier if len(folders) == 1 else f"{language}:{identifier}"
            queries.append(Query(question, language, text))
            relevance[question] = tuple(indices[doc] for doc in relevant)
            grades[question] = tuple(relevant.values())
            if identifier in indices:
                ignored[question] = (indices[identifier],)
    if not queries:
        raise DataError(f"{folder} has no query with a relevant document in the split {split}. {_REMEDY}")
    return RetrievalTask(
        f"{NAME}:{folder.name}",
        tuple(sorted(folders)),
        tuple(queries),
        candidates,
        relevance,
        metrics=METRICS,
        settings=("monolingual",),
        grades=grades,
        ignored=ignored,
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _language_folders(folder: Path) -> dict[str, Path]:
    if plain_or_gzipped(folder / "corpus.jsonl"):
        return {UNDETERMINED: folder}
    folders = {path.parent.name: path.parent for path in sorted(folder.glob("*/corpus.jsonl*"))}
    if not folders:
        raise DataError(f"{folder} has no corpus.jsonl, nor have the folders in it. {_REMEDY}")
    return folders


def _parse(line: str) -> tuple[str, str]:
    identifier, text = beir_entry(line.removeprefix("\ufeff"))
    if len(identifier.split()) != 1:
        raise ValueError(f"found the id {identifier!r}, which TREC files cannot hold")
    return identifier, text


def _read_queries(folder: Path, qrels: Qrels, documents: set[str]) -> dict[str, str]:
    """Return the queries by id.

    Raises:
        DataError: the file is missing or damaged, or a query or document of the qrels is missing.
    """
    path = find_file(folder, "queries.jsonl", remedy=_REMEDY)
    queries = read_texts(path, parse=_parse, expected=BEIR_LINE, remedy=_REMEDY)
    relevant = {doc for docs in qrels.values() for doc in docs}
    for what, missing in (("queries", set(qrels) - set(queries)), ("relevant documents", relevant - documents)):
        if missing:
            raise DataError(
                f"{folder} lacks {len(missing):,} {what} that its judgements name, such as {min(missing)}. {_REMEDY}"
            )
    return queries
