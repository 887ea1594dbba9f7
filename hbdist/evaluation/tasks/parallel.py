"""Any parallel sentences as a task: find the translation of a sentence among all sentences of another language.

Bitext retrieval, as with Tatoeba and FLORES. Each sentence is a query and a candidate in its language, and its
translations are relevant. Only cross-lingual settings are meaningful: in its own language, a sentence would search for
itself. recall@1 is the usual accuracy of one direction; equal sentences are different candidates.
"""

import os
import re
from pathlib import Path

from hbdist.data.formats.json_files import check_encodable, json_object, required_identifier
from hbdist.data.formats.languages import language_code
from hbdist.data.formats.lines import nonblank_lines
from hbdist.data.formats.texts import read_texts
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "parallel"
LANGUAGE = re.compile("[A-Za-z]{2,3}(_[A-Za-z0-9]+)*")
"""Name of a column: a language code, so that a first line of sentences is not taken for languages."""
METRICS = ("recall@1", "recall@10", "mrr")
_REMEDY = (
    "Give a folder of LANGUAGE.txt, one sentence per line, or of LANGUAGE.jsonl with id and text, or a .tsv whose first"
    " line names the languages of its columns; any of them may be gzipped."
)


def load_parallel(path: Path) -> RetrievalTask:
    """Return the task of parallel sentences in two or more languages.

    Args:
        path: folder of de.txt, en.txt …, whose lines correspond; or of de.jsonl, en.jsonl … with `id` and `text`, of
            which the ids count that two languages share; or a file of tab-separated columns below a line that names
            their languages, where cells may be empty. Any of them may be gzipped.

    Raises:
        DataError: there are no such files, one is damaged, or their lines do not correspond.
    """
    texts = _read_columns(path) if path.is_file() else _read_files(path)
    if len(texts) < 2:
        raise DataError(f"{path} has sentences in {', '.join(texts) or 'no language'}; expected two or more. {_REMEDY}")
    languages = tuple(sorted(texts))
    count = {question: sum(question in part for part in texts.values()) for part in texts.values() for question in part}
    queries: list[Query] = []
    candidates: list[Candidate] = []
    relevance: dict[str, tuple[int, ...]] = {}
    for language in languages:
        for number, (question, text) in enumerate(texts[language].items()):
            if count[question] > 1:
                queries.append(Query(question, language, text))
                relevance[question] = (*relevance.get(question, ()), len(candidates))
            candidates.append(Candidate(language, number, 0, text))
    if not queries:
        raise DataError(f"{path} has no sentence in two languages: their ids differ. {_REMEDY}")
    untranslated = sum(times == 1 for times in count.values())
    return RetrievalTask(
        f"{NAME}:{Path(os.path.abspath(path)).name.removesuffix('.gz').removesuffix('.tsv')}",
        languages,
        tuple(queries),
        tuple(candidates),
        relevance,
        metrics=METRICS,
        settings=("cross_lingual",),
        left_out={"no translation (it stays a candidate)": untranslated} if untranslated else {},
    )


def _read_files(folder: Path) -> dict[str, dict[str, str]]:
    """Return language → sentences by id."""
    texts: dict[str, dict[str, str]] = {}
    kinds: set[str] = set()
    for path in sorted(folder.glob("*")):
        name, _, kind = path.name.removesuffix(".gz").rpartition(".")
        language = language_code(name)
        if kind in ("txt", "jsonl") and language:
            if language in texts:
                raise DataError(f"{folder} has two files of {language}; expected one. {_REMEDY}")
            texts[language] = (
                _read_lines(path)
                if kind == "txt"
                else read_texts(path, parse=_parse, expected="an object with id and text", remedy=_REMEDY)
            )
            kinds.add(kind)
    if len(kinds) > 1:
        raise DataError(f"{folder} has both .txt and .jsonl files; expected one kind. {_REMEDY}")
    lengths = {language: len(part) for language, part in texts.items()}
    if kinds == {"txt"} and len(set(lengths.values())) > 1:
        raise DataError(
            f"The files in {folder} have different numbers of lines: {lengths}; their lines must correspond."
        )
    return texts


def _read_lines(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in nonblank_lines(path, remedy=_REMEDY):
        if number > len(texts) + 1:
            raise DataError(f"{path}, line {number - 1}: found a blank line; each must hold a sentence. {_REMEDY}")
        texts[f"{number - 1:06d}"] = line.strip()
    return texts


def _parse(line: str) -> tuple[str, str]:
    values = json_object(line, ("text",))
    identifier = required_identifier(values, "id")
    check_encodable(identifier, values["text"])
    if len(identifier.split()) != 1:
        raise ValueError(f"found the id {identifier!r}")
    return identifier, values["text"]


def _read_columns(path: Path) -> dict[str, dict[str, str]]:
    lines = nonblank_lines(path, remedy=_REMEDY)
    _, first = next(lines, (0, ""))
    languages = [language_code(name) for name in first.split("\t")]
    if len(set(languages)) != len(languages) or not all(map(LANGUAGE.fullmatch, languages)):
        raise DataError(f"{path} begins with {first[:60]!r}; expected the languages of its columns. {_REMEDY}")
    texts: dict[str, dict[str, str]] = {language: {} for language in languages}
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(languages):
            raise DataError(f"{path}, line {number}: found {len(cells)} columns; expected {len(languages)}. {_REMEDY}")
        for language, cell in zip(languages, cells, strict=True):
            if cell.strip():
                texts[language][f"{number - 2:06d}"] = cell.strip()
    return texts
