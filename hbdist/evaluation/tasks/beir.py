"""Any BEIR folder (arXiv 2104.08663): corpus.jsonl, queries.jsonl and qrels/test.tsv.

Evaluated as BEIR does, by trec_eval: a candidate is title and text, the grades of the qrels are the gains of nDCG, and grades
of 0 and below count as irrelevant. nDCG@10 is the main metric. The corpus stays on disk.

Published folders are not always whole. A relevant document that the corpus lacks (as in ArguAna) is never found, but counts
among the relevant ones; a judged query that queries.jsonl lacks (as in NFCorpus) is left out.

A document with the id of the query is the query itself, and not ranked for it, as in BEIR. But if the qrels judge such
documents relevant, and they have other texts than their queries, then the ids of queries and of documents are unrelated:
equal ids mean nothing, and all documents are ranked.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from hbdist.data.formats.json_files import check_encodable
from hbdist.data.formats.languages import language_code
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
NO_QUERY = "judged, but not in queries.jsonl"
ONLY_ITSELF = "only the query itself is judged relevant"
LOOKED_AT = 20
"""Number of documents judged relevant to the query of their own id whose texts are compared with it."""
_REMEDY = (
    "A BEIR folder has corpus.jsonl, queries.jsonl and qrels/test.tsv. Give another folder, or get the data set again from"
    " github.com/beir-cellar/beir."
)


@dataclass(frozen=True)
class _Part:
    """The queries and judgements of one language."""

    language: str
    queries: Mapping[str, str]
    qrels: Qrels
    indices: Mapping[str, int]
    """Id of a judged document, or of a query, → index of the candidate with this id."""

    def judged_themselves(self) -> dict[str, int]:
        """Return the queries that are judged relevant to themselves, with the candidate of their id."""
        own = (query for query in self.queries if query in self.qrels.get(query, {}))
        return {query: self.indices[query] for query in own if query in self.indices}


@dataclass
class _Questions:
    """Queries with relevant documents, by question as in `RetrievalTask`, and the number of the others by reason."""

    are_queries: bool
    """True if a document with the id of a query is the query itself."""
    queries: list[Query] = field(default_factory=list)
    relevance: dict[str, tuple[int, ...]] = field(default_factory=dict)
    grades: dict[str, tuple[int, ...]] = field(default_factory=dict)
    absent: dict[str, dict[str, int]] = field(default_factory=dict)
    ignored: dict[str, tuple[int, ...]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, part: _Part, identifier: str, query: Query) -> None:
        """Add a query of this id in its files, or count why it is left out."""
        judged, itself = part.qrels.get(identifier), part.indices.get(identifier) if self.are_queries else None
        relevant = {doc: grade for doc, grade in (judged or {}).items() if itself is None or doc != identifier}
        if not relevant:
            self.left_out[NO_JUDGEMENT if judged is None else ONLY_ITSELF if judged else NO_RELEVANT] += 1
            return
        self.queries.append(query)
        present = {part.indices[doc]: grade for doc, grade in relevant.items() if doc in part.indices}
        self.relevance[query.id], self.grades[query.id] = tuple(present), tuple(present.values())
        if missing := {doc: grade for doc, grade in relevant.items() if doc not in part.indices}:
            self.absent[query.id] = missing
        if itself is not None:
            self.ignored[query.id] = (itself,)

    def note(self, coincidences: int) -> str:
        """Return what is unusual about the questions; `coincidences` have the id of a document that is another text."""
        notes = []
        if count := sum(map(len, self.absent.values())):
            notes.append(
                f"{count:,} relevant documents of {len(self.absent):,} queries are not in the corpus: they count as never"
                " found, as in trec_eval"
            )
        if self.ignored:
            notes.append(
                f"for {len(self.ignored):,} queries, the document with the query's id is not ranked, as in BEIR; if it is"
                " another text, give the queries other ids"
            )
        if coincidences:
            notes.append(
                f"{coincidences:,} queries have the id of a relevant document with another text: ids of queries and of"
                " documents are taken to be unrelated, and all documents are ranked; BEIR would not rank these"
            )
        return "; ".join(notes)


def load_beir(folder: Path, *, split: str = "test") -> RetrievalTask:
    """Return the task of a BEIR folder, or of a folder of BEIR folders that are named after their languages.

    Queries and documents keep their ids. The folder has corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, or
    en/corpus.jsonl, de/corpus.jsonl, … What is missing is counted in the task's `left_out` and `note`.

    Raises:
        DataError: a file is missing or damaged, or no query has a relevant document.
    """
    folders = _language_folders(folder)
    candidates, parts = _read(folders, split)
    found = _Questions(are_queries=_are_queries(candidates, parts))
    for part in parts:
        found.left_out[NO_QUERY] += len(part.qrels.keys() - part.queries.keys())
        for identifier, text in part.queries.items():
            found.add(part, identifier, Query(_name(identifier, part, parts), part.language, text))
    if not found.queries:
        reasons = "; ".join(f"{count:,}, {reason}" for reason, count in (+found.left_out).items())
        raise DataError(
            f"{folder} has no query with a relevant document in the split {split} (queries left out: {reasons or 'none'})."
            f" {_REMEDY}"
        )
    return RetrievalTask(
        f"{NAME}:{Path(os.path.abspath(folder)).name}",
        tuple(part.language for part in parts),
        tuple(found.queries),
        candidates,
        found.relevance,
        metrics=METRICS,
        settings=("monolingual",),
        grades=found.grades,
        absent=found.absent,
        ignored=found.ignored,
        note=found.note(0 if found.are_queries else sum(len(part.judged_themselves()) for part in parts)),
        left_out=dict(+found.left_out),
    )


def _name(identifier: str, part: _Part, parts: list[_Part]) -> str:
    return identifier if len(parts) == 1 else f"{part.language}:{identifier}"


def _language_folders(folder: Path) -> dict[str, Path]:
    if plain_or_gzipped(folder / "corpus.jsonl"):
        return {UNDETERMINED: folder}
    found = sorted({path.parent for path in folder.glob("*/corpus.jsonl*")})
    if not found:
        raise DataError(f"{folder} has no corpus.jsonl, nor have the folders in it. {_REMEDY}")
    folders = {language_code(one.name): one for one in found}
    if len(folders) < len(found):
        names = ", ".join(one.name for one in found)
        raise DataError(f"{folder} has two folders of one language among {names}; expected one each. Rename one.")
    return folders


def _read(folders: Mapping[str, Path], split: str) -> tuple[Corpus, list[_Part]]:
    """Return the candidates, and the queries and judgements of each language, ascending."""
    qrels = {
        language: read_qrels(find_file(one, f"qrels/{split}.tsv", remedy=_REMEDY), "beir", remedy=_REMEDY)
        for language, one in folders.items()
    }
    queries = {
        language: read_texts(
            find_file(one, "queries.jsonl", remedy=_REMEDY), parse=_parse, expected=BEIR_LINE, remedy=_REMEDY
        )
        for language, one in folders.items()
    }
    lookup = {language: {*part, *(doc for docs in part.values() for doc in docs)} for language, part in qrels.items()}
    files = {language: [find_file(one, "corpus.jsonl", remedy=_REMEDY)] for language, one in folders.items()}
    candidates = Corpus.read(files, parse=_parse, lookup=lookup, expected=BEIR_LINE)
    return candidates, [_Part(one, queries[one], qrels[one], candidates.indices(one)) for one in sorted(folders)]


def _are_queries(candidates: Corpus, parts: list[_Part]) -> bool:
    """Return whether a document with the id of a query is that query, and not another text that has the id by coincidence.

    No published set judges a query relevant to itself. Where that happens, the texts of the first few decide.
    """
    for part in parts:
        own = sorted(part.judged_themselves().items(), key=lambda item: item[1])
        for query, index in islice(own, LOOKED_AT):
            document, text = candidates[index].text.strip(), part.queries[query].strip()
            if document != text and not document.endswith(f" {text}"):  # a document's title comes before its text
                return False
    return True


def _parse(line: str) -> tuple[str, str]:
    identifier, text = beir_entry(line.removeprefix("\ufeff"))
    check_encodable(identifier, text)
    if len(identifier.split()) != 1:
        raise ValueError(f"found the id {identifier!r}, which TREC files cannot hold")
    return identifier, text
