"""Any BEIR folder (arXiv 2104.08663): corpus.jsonl, queries.jsonl and qrels/test.tsv.

As BEIR evaluates: a candidate is title and text, the grades of the judgements are the gains of nDCG, a document with the
id of the query is not ranked for it, and judgements of 0 and below count as irrelevant. nDCG@10 is the main measure.
The corpus is read from disk, never all in memory.
"""

from pathlib import Path

from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.data.formats.qrels import Qrels, read_qrels
from hbdist.data.formats.texts import BEIR_LINE, beir_entry, read_texts
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Corpus
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "beir"
METRICS = ("ndcg@10", "map", "recall@10", "recall@100", "mrr")
UNDETERMINED = "und"
"""The language of a folder that does not say its own, as ISO 639 has it."""

NO_RELEVANT = "no document judged relevant"
NO_JUDGEMENT = "no judgement in the split"
_SOURCE = "Give another folder, or get the data set again from github.com/beir-cellar/beir."


def load_beir(folder: Path, *, split: str = "test") -> RetrievalTask:
    """One BEIR folder, or a folder of BEIR folders that are named after their languages.

    Queries and documents keep their ids. Without judgements in the split, a query is left out and counted.

    Args:
        folder: with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, or with en/corpus.jsonl, de/corpus.jsonl, …
        split: whose judgements count.

    Raises:
        DataError: a file is missing or damaged, or a judged document or query is not there.
    """
    folders = _folders(folder)
    judged = {language: read_qrels(_qrels(one, split), "beir", remedy=_SOURCE) for language, one in folders.items()}
    wanted = {
        # A document with the id of a query is looked up too: it is not ranked for it.
        language: {*part, *(doc for docs in part.values() for doc in docs)}
        for language, part in judged.items()
    }
    corpora = {language: [_file(one, "corpus")] for language, one in folders.items()}
    candidates = Corpus.read(corpora, parse=_entry, wanted=wanted, expected=BEIR_LINE)
    queries: list[Query] = []
    relevance: dict[str, tuple[int, ...]] = {}
    grades: dict[str, tuple[int, ...]] = {}
    ignored: dict[str, tuple[int, ...]] = {}
    left_out = {NO_JUDGEMENT: 0, NO_RELEVANT: 0}
    for language, one in sorted(folders.items()):
        places = candidates.places(language)
        texts = read_texts(_file(one, "queries"), parse=_entry, expected=BEIR_LINE, remedy=_SOURCE)
        _check(one, judged[language], set(texts), set(places))
        for identifier, text in texts.items():
            documents = judged[language].get(identifier)
            kept = {doc: grade for doc, grade in (documents or {}).items() if doc != identifier}
            if not kept:
                left_out[NO_JUDGEMENT if documents is None else NO_RELEVANT] += 1
                continue
            question = identifier if len(folders) == 1 else f"{language}:{identifier}"
            queries.append(Query(question, language, text))
            relevance[question] = tuple(places[doc] for doc in kept)
            grades[question] = tuple(kept.values())
            if identifier in places:
                ignored[question] = (places[identifier],)
    if not queries:
        raise DataError(f"{folder} has no query with a relevant document in the split {split}. {_SOURCE}")
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


def _folders(folder: Path) -> dict[str, Path]:
    if plain_or_gzipped(folder / "corpus.jsonl"):
        return {UNDETERMINED: folder}
    inner = sorted(path.parent for path in folder.glob("*/corpus.jsonl*")) if folder.is_dir() else []
    if not inner:
        raise DataError(
            f"{folder} holds no corpus.jsonl, nor do the folders in it; a BEIR folder has corpus.jsonl, queries.jsonl and"
            f" qrels/test.tsv. {_SOURCE}"
        )
    return {path.name: path for path in inner}


def _file(folder: Path, name: str) -> Path:
    if path := plain_or_gzipped(folder / f"{name}.jsonl"):
        return path
    raise DataError(f"{folder} holds no {name}.jsonl. {_SOURCE}")


def _qrels(folder: Path, split: str) -> Path:
    if path := plain_or_gzipped(folder / "qrels" / f"{split}.tsv"):
        return path
    there = ", ".join(sorted(path.name for path in folder.glob("qrels/*"))) or "nothing"
    raise DataError(f"{folder} holds no qrels/{split}.tsv; in qrels there is {there}. {_SOURCE}")


def _entry(line: str) -> tuple[str, str]:
    identifier, text = beir_entry(line.removeprefix("\ufeff"))
    if len(identifier.split()) != 1:
        raise ValueError(f"found the id {identifier!r}, which TREC files cannot hold")
    return identifier, text


def _check(folder: Path, judged: Qrels, queries: set[str], documents: set[str]) -> None:
    relevant = {doc for docs in judged.values() for doc in docs}
    for what, missing in (("queries", set(judged) - queries), ("relevant documents", relevant - documents)):
        if missing:
            raise DataError(
                f"{folder} lacks {len(missing):,} {what} that its judgements name, such as {min(missing)}. {_SOURCE}"
            )
