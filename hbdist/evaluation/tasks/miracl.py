"""MIRACL: questions of native speakers against the whole Wikipedia of their language (TACL 2023, arXiv 2210.09984).

Development topics and judgements of version 1.0 in 18 languages, 106 million passages: read from disk, never all in
memory. A candidate is title and text. Judgements of 0 do not count as relevant, as in trec_eval's binary measures.
nDCG@10 and recall@100 are its measures.

Monolingual as published. Cross-lingual, with questions in another language y about the passages of x, where such
questions lie beside the topics: topics.miracl-v1.0-x-dev.y.tsv, with the ids of x. MIRACL publishes none; whoever
translates them must say by what.

A corpus that is not whole is a subset, must say its name in subset.txt and must hold all passages that are relevant to
its questions. Its scores stand under that name and are never comparable with published ones.
"""

import re
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import Any

from hbdist.data.formats.json_files import json_object
from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.data.formats.qrels import read_qrels
from hbdist.data.formats.texts import TSV_LINE, read_texts, tsv_entry
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Corpus
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "miracl"
DEFAULT_FOLDER = Path("data/miracl")
SUBSET = "subset.txt"
METRICS = ("ndcg@10", "recall@100", "recall@10", "mrr")

PASSAGES = {
    "ar": 2_061_414,
    "bn": 297_265,
    "de": 15_866_222,
    "en": 32_893_221,
    "es": 10_373_953,
    "fa": 2_207_172,
    "fi": 1_883_509,
    "fr": 14_636_953,
    "hi": 506_264,
    "id": 1_446_315,
    "ja": 6_953_614,
    "ko": 1_486_752,
    "ru": 9_543_918,
    "sw": 131_924,
    "te": 518_079,
    "th": 542_166,
    "yo": 49_043,
    "zh": 4_934_368,
}
"""Passages a language of the whole corpus."""

NO_RELEVANT = "no passage judged relevant"
_SOURCE = "Get the files with `hbdist data fetch miracl --languages …`."


def load_miracl(folder: Path = DEFAULT_FOLDER, *, languages: Sequence[str] = ()) -> RetrievalTask:
    """MIRACL's development set in all languages whose corpus the folder holds, or in some of them.

    Args:
        folder: topics/topics.miracl-v1.0-sw-dev.tsv, qrels/qrels.miracl-v1.0-sw-dev.tsv and
            miracl-corpus-v1.0-sw/docs-0.jsonl.gz …, as published; topics and qrels also without their folders, or
            gzipped. Every line of the corpus is read once.
        languages: only these are read; unset: all.

    Raises:
        DataError: a file is missing or damaged, the corpus is neither whole nor a subset with a name, or lacks a
            relevant passage.
    """
    corpora = {language: files for language in PASSAGES if (files := _corpus(folder, language))}
    read = {language: files for language, files in corpora.items() if not languages or language in languages}
    if not read:
        wanted = f" in {', '.join(languages)}" if languages else ""
        raise DataError(
            f"{folder} holds no corpus of MIRACL{wanted}; expected folders such as miracl-corpus-v1.0-sw with"
            f" docs-0.jsonl.gz. It has {', '.join(corpora) or 'none'}. {_SOURCE}"
        )
    judged = {language: read_qrels(_file(folder, "qrels", language), "trec", remedy=_SOURCE) for language in read}
    relevant_ids = {language: {doc for docs in part.values() for doc in docs} for language, part in judged.items()}
    candidates = Corpus.read(
        read,
        parse=_passage,
        wanted=relevant_ids,
        expected='an object such as {"docid": "39#0", "title": "", "text": ""}',
    )
    subset = _subset(folder, candidates)
    relevance = {
        f"{language}:{question}": tuple(places[doc] for doc in docs)
        for language, part in judged.items()
        for places in [_places(candidates, language, relevant_ids[language])]
        for question, docs in part.items()
    }
    queries = [
        Query(f"{language}:{question}", spoken, text)
        for language in read
        for spoken, path in _topics(folder, language)
        if not languages or spoken in languages
        for question, text in read_texts(path, parse=_topic, expected=TSV_LINE, remedy=_SOURCE).items()
    ]
    answered = [query for query in queries if relevance.get(query.id)]
    _check(folder, relevance, answered)
    asked = {query.id for query in answered}
    spoken_languages = sorted({*read, *(query.language for query in answered)})
    return RetrievalTask(
        f"{NAME}-subset:{subset}" if subset else NAME,
        tuple(spoken_languages),
        tuple(sorted(answered, key=lambda query: query.language)),
        candidates,
        {question: places for question, places in relevance.items() if question in asked},
        metrics=METRICS,
        settings=("monolingual", "cross_lingual"),
        note=f"the subset {subset}: not comparable with published numbers" if subset else "",
        left_out={NO_RELEVANT: len(queries) - len(answered)} if len(answered) < len(queries) else {},
    )


def _passage(line: str) -> tuple[str, str]:
    values = json_object(line, ("docid", "title", "text"))
    return values["docid"], f"{values['title']} {values['text']}".strip()


def _topic(line: str) -> tuple[str, str]:
    identifier, text = tsv_entry(line)
    if not text.strip():
        raise ValueError(f"found no text in {line[:40]!r}")
    return identifier, text


def _corpus(folder: Path, language: str) -> list[Path]:
    """The files of a language's corpus in their order."""
    paths = (folder / f"miracl-corpus-v1.0-{language}").glob("docs-*.jsonl*")
    numbered = {
        int(found[1]): path for path in paths if (found := re.fullmatch(r"docs-(\d+)\.jsonl(\.gz)?", path.name))
    }
    return [numbered[number] for number in sorted(numbered)]


def _file(folder: Path, kind: str, language: str) -> Path:
    name = f"{kind}.miracl-v1.0-{language}-dev.tsv"
    if path := plain_or_gzipped(folder / kind / name, folder / name):
        return path
    raise DataError(f"{folder} holds a corpus in {language} but no {kind}/{name}. {_SOURCE}")


def _topics(folder: Path, language: str) -> list[tuple[str, Path]]:
    """The files of questions about the passages of a language, and the language that each is in."""
    own = _file(folder, "topics", language)
    stem = own.name.removesuffix(".gz").removesuffix(".tsv")
    found = (re.fullmatch(rf"{re.escape(stem)}\.([\w-]+)\.tsv(\.gz)?", path.name) for path in own.parent.iterdir())
    return [(language, own), *sorted((match[1], own.parent / match[0]) for match in found if match)]


def _places(candidates: Corpus, language: str, relevant: Set[str]) -> dict[str, int]:
    places = candidates.places(language)
    if missing := sorted(relevant - set(places)):
        raise DataError(
            f"the corpus of MIRACL in {language} lacks {len(missing):,} of {len(relevant):,} relevant passages, such as"
            f" {missing[0]}; all must be there, in a subset too. {_SOURCE}"
        )
    return places


def _subset(folder: Path, candidates: Corpus) -> str:
    """The name of the subset; empty if the corpora are whole.

    Raises:
        DataError: they are not, and have no name.
    """
    found = {language: part.stop - part.start for language, part in candidates.slices.items()}
    broken = {language: count for language, count in found.items() if count != PASSAGES[language]}
    path = folder / SUBSET
    if not broken:
        return ""
    name = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if not re.fullmatch(r"[\w.+-]+", name):
        listed = ", ".join(f"{language} {count:,} of {PASSAGES[language]:,}" for language, count in broken.items())
        raise DataError(
            f"{folder} does not hold the whole corpus of MIRACL ({listed} passages). {_SOURCE} If it is a subset on"
            f" purpose, write its name (one word) into {path}: scores will stand under that name."
        )
    return name


def _check(folder: Path, relevance: dict[str, Any], answered: Iterable[Query]) -> None:
    """That every question with a relevant passage is among the topics."""
    known = {query.id for query in answered}
    if missing := {question for question, places in relevance.items() if places and question not in known}:
        raise DataError(
            f"{folder} has judgements of {len(missing):,} questions that are not among its topics, such as {min(missing)}."
            f" {_SOURCE}"
        )
