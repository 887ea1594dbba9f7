"""MIRACL: questions of native speakers against the whole Wikipedia of their language (TACL 2023, arXiv 2210.09984).

Development topics and qrels of version 1.0 in 18 languages. The 106 million passages stay on disk. A candidate is title
and text. Grades of 0 do not count as relevant, as in trec_eval's binary metrics. nDCG@10 and recall@100 are its metrics.

Monolingual as published. Cross-lingual, with questions in language y about the passages of language x, if the folder has
such questions beside the topics: topics.miracl-v1.0-x-dev.y.tsv, with the ids of x. MIRACL publishes none; whoever
translates them must report the translator.

An incomplete corpus is a subset: it must have its name in subset.txt and contain every passage that is relevant to its
questions. Its scores bear that name and are never comparable with published ones.
"""

import re
from collections.abc import Sequence, Set
from pathlib import Path

from hbdist.data.formats.json_files import check_encodable, json_object
from hbdist.data.formats.languages import language_code
from hbdist.data.formats.qrels import read_qrels
from hbdist.data.formats.texts import TSV_LINE, read_texts, tsv_entry
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Corpus
from hbdist.evaluation.tasks.files import TABLES, find_file
from hbdist.evaluation.tasks.task import Query, RetrievalTask
from hbdist.utils.json_toml import read_text

NAME = "miracl"
DEFAULT_FOLDER = Path("data/miracl")
SUBSET = "subset.txt"
METRICS = ("ndcg@10", "recall@100", "recall@10", "mrr")
PASSAGES: dict[str, int] = TABLES["miracl"]["passages"]
"""Number of passages per language in the whole corpus."""
NO_RELEVANT = "no passage judged relevant"
_REMEDY = "Get the files with `hbdist data fetch miracl --languages …`."


def load_miracl(folder: Path = DEFAULT_FOLDER, *, languages: Sequence[str] = ()) -> RetrievalTask:
    """Return MIRACL's development set in all languages whose corpus the folder has, or in some of them.

    Args:
        folder: folder with topics/topics.miracl-v1.0-sw-dev.tsv, qrels/qrels.miracl-v1.0-sw-dev.tsv and
            miracl-corpus-v1.0-sw/docs-0.jsonl.gz …, as published. Topics and qrels may also be in the folder itself, or
            gzipped. Every line of the corpus is read once.
        languages: the only languages to read; empty for all.

    Raises:
        DataError: a file is missing or damaged, or the corpus is neither whole nor a named subset, or lacks a relevant
            passage.
    """
    corpora = {language: files for language in PASSAGES if (files := _corpus_files(folder, language))}
    wanted_languages = set(map(language_code, languages))
    read = {one: files for one, files in corpora.items() if not wanted_languages or one in wanted_languages}
    if not read:
        wanted = f" in {', '.join(languages)}" if languages else ""
        raise DataError(
            f"{folder} has no corpus of MIRACL{wanted}; expected folders such as miracl-corpus-v1.0-sw with"
            f" docs-0.jsonl.gz. It has {', '.join(corpora) or 'none'}. {_REMEDY}"
        )
    qrels = {language: read_qrels(_find(folder, "qrels", language), "trec", remedy=_REMEDY) for language in read}
    relevant_ids = {language: {doc for docs in part.values() for doc in docs} for language, part in qrels.items()}
    expected = 'an object such as {"docid": "39#0", "title": "", "text": ""}'
    candidates = Corpus.read(read, parse=_parse_passage, lookup=relevant_ids, expected=expected)
    subset = _subset_name(folder, candidates)
    relevance: dict[str, tuple[int, ...]] = {}
    for language, part in qrels.items():
        indices = _relevant_indices(candidates, language, relevant_ids[language])
        relevance |= {f"{language}:{question}": tuple(indices[doc] for doc in docs) for question, docs in part.items()}
    queries = [query for language in read for query in _read_queries(folder, language, languages)]
    answered = sorted((query for query in queries if relevance.get(query.id)), key=lambda query: query.language)
    answered_ids = {query.id for query in answered}
    if missing := {question for question, indices in relevance.items() if indices and question not in answered_ids}:
        raise DataError(
            f"{folder} has judgements of {len(missing):,} questions that are not among its topics, such as {min(missing)}."
            f" {_REMEDY}"
        )
    return RetrievalTask(
        f"{NAME}-subset:{subset}" if subset else NAME,
        tuple(sorted({*read, *(query.language for query in answered)})),
        tuple(answered),
        candidates,
        {question: indices for question, indices in relevance.items() if question in answered_ids},
        metrics=METRICS,
        settings=("monolingual", "cross_lingual"),
        note=f"the subset {subset}: not comparable with published numbers" if subset else "",
        left_out={NO_RELEVANT: len(queries) - len(answered)} if len(answered) < len(queries) else {},
    )


def _parse_passage(line: str) -> tuple[str, str]:
    values = json_object(line.removeprefix("\ufeff"), ("docid", "title", "text"))
    check_encodable(values["docid"], values["title"], values["text"])
    if len(values["docid"].split()) != 1:
        raise ValueError(f"found the docid {values['docid']!r}, which TREC files cannot hold")
    return values["docid"], f"{values['title']} {values['text']}".strip()


def _parse_topic(line: str) -> tuple[str, str]:
    identifier, text = tsv_entry(line)
    if not text.strip():
        raise ValueError(f"found no text in {line[:40]!r}")
    return identifier, text


def _corpus_files(folder: Path, language: str) -> list[Path]:
    """Return the files of a language's corpus in the order of their numbers."""
    paths = (folder / f"miracl-corpus-v1.0-{language}").glob("docs-*.jsonl*")
    matches = ((re.fullmatch(r"docs-(\d+)\.jsonl(\.gz)?", path.name), path) for path in paths)
    numbered = {int(match[1]): path for match, path in matches if match}
    return [numbered[number] for number in sorted(numbered)]


def _find(folder: Path, kind: str, language: str) -> Path:
    name = f"{kind}.miracl-v1.0-{language}-dev.tsv"
    return find_file(folder, f"{kind}/{name}", name, remedy=_REMEDY)


def _read_queries(folder: Path, language: str, spoken_languages: Sequence[str]) -> list[Query]:
    """Return the questions about the passages of a language, in that language and in others that the folder has."""
    own = _find(folder, "topics", language)
    stem = own.name.removesuffix(".gz").removesuffix(".tsv")
    matches = (re.fullmatch(rf"{re.escape(stem)}\.([\w-]+)\.tsv(\.gz)?", path.name) for path in own.parent.iterdir())
    paths = [(language, own), *sorted((language_code(match[1]), own.parent / match[0]) for match in matches if match)]
    wanted = set(map(language_code, spoken_languages))
    return [
        Query(f"{language}:{question}", spoken, text)
        for spoken, path in paths
        if not wanted or spoken in wanted
        for question, text in read_texts(path, parse=_parse_topic, expected=TSV_LINE, remedy=_REMEDY).items()
    ]


def _relevant_indices(candidates: Corpus, language: str, relevant: Set[str]) -> dict[str, int]:
    indices = candidates.indices(language)
    if missing := sorted(relevant - set(indices)):
        raise DataError(
            f"The corpus of MIRACL in {language} lacks {len(missing):,} of {len(relevant):,} relevant passages, such as"
            f" {missing[0]}; even a subset must have all of them. {_REMEDY}"
        )
    return indices


def _subset_name(folder: Path, candidates: Corpus) -> str:
    """Return the name of the subset, or "" if the corpora are whole.

    Raises:
        DataError: they are not whole and have no name.
    """
    incomplete = {language: count for language, count in candidates.counts.items() if count != PASSAGES[language]}
    if not incomplete:
        return ""
    path = folder / SUBSET
    name = read_text(path, default="", remedy=f"Write the subset's name (one word) into it. {_REMEDY}").strip()
    if not re.fullmatch(r"[\w.+-]+", name):
        listed = ", ".join(f"{language} {count:,} of {PASSAGES[language]:,}" for language, count in incomplete.items())
        raise DataError(
            f"{folder} does not have the whole corpus of MIRACL ({listed} passages). {_REMEDY} If it is a subset on"
            f" purpose, write its name (one word) into {path}: its scores will bear that name."
        )
    return name
