"""Any parallel sentences as a task: find the translation of a sentence among all sentences of another language.

Bitext retrieval, as with Tatoeba and FLORES. Each sentence is a query in its language and a candidate in it, and its
translation in each language is relevant. Only cross-lingual settings say something: in its own language, a sentence
would look for itself. recall@1 is the usual accuracy, of one direction; equal sentences are different candidates.
"""

from pathlib import Path

from hbdist.data.formats.json_files import json_object
from hbdist.data.formats.lines import nonblank_lines
from hbdist.data.formats.texts import read_texts
from hbdist.errors import DataError
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query, RetrievalTask

NAME = "parallel"
METRICS = ("recall@1", "recall@10", "mrr")
_SOURCE = (
    "Give a folder of LANGUAGE.txt, one sentence a line, or of LANGUAGE.jsonl with id and text, or a .tsv whose first line"
    " names the languages of its columns; any of them may be gzipped."
)


def load_parallel(path: Path) -> RetrievalTask:
    """Parallel sentences of two languages or more.

    Args:
        path: a folder of de.txt, en.txt …, whose lines correspond; or of de.jsonl, en.jsonl … with `id` and `text`, of
            which those ids count that two languages have; or a file of tab-separated columns under a line that names
            their languages, where a cell may be empty. Any of them gzipped, too.

    Raises:
        DataError: there are no such files, one is damaged, or their lines do not correspond.
    """
    texts = _columns(path) if path.is_file() else _files(path)
    if len(texts) < 2:
        raise DataError(f"{path} has sentences in {', '.join(texts) or 'no language'}; expected two or more. {_SOURCE}")
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
        raise DataError(f"{path} has no sentence in two languages: no id of one is in another. {_SOURCE}")
    alone = sum(times == 1 for times in count.values())
    return RetrievalTask(
        f"{NAME}:{path.name.removesuffix('.gz').removesuffix('.tsv')}",
        languages,
        tuple(queries),
        tuple(candidates),
        relevance,
        metrics=METRICS,
        settings=("cross_lingual",),
        left_out={"no translation (it stays a candidate)": alone} if alone else {},
    )


def _files(folder: Path) -> dict[str, dict[str, str]]:
    """Language → sentences by id."""
    texts: dict[str, dict[str, str]] = {}
    kinds: set[str] = set()
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        language, _, kind = path.name.removesuffix(".gz").rpartition(".")
        if kind in ("txt", "jsonl") and language:
            if language in texts:
                raise DataError(f"{folder} has two files of {language}; expected one. {_SOURCE}")
            texts[language] = (
                _lines(path)
                if kind == "txt"
                else read_texts(path, parse=_object, expected="an object with id and text", remedy=_SOURCE)
            )
            kinds.add(kind)
    if len(kinds) > 1:
        raise DataError(f"{folder} has both .txt and .jsonl files; expected one kind. {_SOURCE}")
    lengths = {language: len(part) for language, part in texts.items()}
    if kinds == {"txt"} and len(set(lengths.values())) > 1:
        raise DataError(f"the files in {folder} have different numbers of lines: {lengths}; their lines correspond.")
    return texts


def _lines(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in nonblank_lines(path, remedy=_SOURCE):
        if number > len(texts) + 1:
            raise DataError(f"{path}, line {number - 1}: found a blank line; each must hold a sentence. {_SOURCE}")
        texts[f"{number - 1:06d}"] = line.strip()
    return texts


def _object(line: str) -> tuple[str, str]:
    values = json_object(line, ("text",))
    identifier = str(values.get("id", ""))
    if len(identifier.split()) != 1:
        raise ValueError(f"found the id {identifier!r}")
    return identifier, values["text"]


def _columns(path: Path) -> dict[str, dict[str, str]]:
    lines = nonblank_lines(path, remedy=_SOURCE)
    _, first = next(lines, (0, ""))
    languages = first.split("\t")
    if len(set(languages)) != len(languages) or not all(len(language.split()) == 1 for language in languages):
        raise DataError(f"{path} begins with {first[:60]!r}; expected the languages of its columns. {_SOURCE}")
    texts: dict[str, dict[str, str]] = {language: {} for language in languages}
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(languages):
            raise DataError(f"{path}, line {number}: found {len(cells)} columns; expected {len(languages)}. {_SOURCE}")
        for language, cell in zip(languages, cells, strict=True):
            if cell.strip():
                texts[language][f"{number - 2:06d}"] = cell.strip()
    return texts
