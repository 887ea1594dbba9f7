"""Decontamination: training texts that occur in an evaluation set must not be trained on."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from hbdist.data.build.recipe import Decontaminate
from hbdist.data.build.text_keys import is_spaceless, split_words
from hbdist.data.formats.json_files import field_names, json_records
from hbdist.data.formats.squad import read_paragraphs
from hbdist.data.sources.rows import Row

CONTAMINATED_QUERY = "query in an evaluation set"
CONTAMINATED_DOCUMENT = "document in an evaluation set"
CONTAMINATED_NEGATIVE = "negative in an evaluation set"
CONTAMINATED_TRANSLATION = "translation in an evaluation set"
QUESTIONS = ("query", "question")
TEXTS = (*QUESTIONS, "document", "passage", "context", "text", "sentence")


class ContaminationFilter:
    """Index of the texts of evaluation sets, to look training texts up in.

    A text is contaminated if the whole text is a question or a short passage, or if it shares a run of N words with a
    passage (of N characters, if most of them are of a script without spaces). Case, punctuation and differences that
    NFKC removes are ignored. The runs of all passages are kept in memory: the index is meant for thousands of passages,
    not for a corpus.

    Raises:
        DataError: a file is damaged, or is neither SQuAD's JSON nor JSON lines with a question or a passage.
    """

    def __init__(self, settings: Decontaminate) -> None:
        self.settings = settings
        self.short_texts: set[str] = set()
        self.runs: set[str] = set()
        for file in settings.files:
            for text, is_question in _texts_of(file):
                words = split_words(text)
                runs = [] if is_question else list(self._runs(text, words))
                self.runs.update(runs)
                if not runs:
                    self.short_texts.add(" ".join(words))
        self.short_texts.discard("")

    def matches(self, text: str) -> bool:
        """Check whether the text is contaminated."""
        words = split_words(text)
        return " ".join(words) in self.short_texts or not self.runs.isdisjoint(self._runs(text, words))

    def reason(self, row: Row) -> str:
        """Return the reason why the row must not be trained on; empty if it may be."""
        if self.matches(row.query):
            return CONTAMINATED_QUERY
        return CONTAMINATED_DOCUMENT if self.matches(row.document) else ""

    def _runs(self, text: str, words: list[str]) -> Iterator[str]:
        if is_spaceless(text):
            letters, length = "".join(words), self.settings.characters
            return (letters[start : start + length] for start in range(len(letters) - length + 1))
        length = self.settings.words
        return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


@lru_cache(1)
def cached_filter(settings: Decontaminate, inputs: str) -> ContaminationFilter:
    """Return the filter that all tasks of a process share; `inputs` is a digest of the files' contents."""
    return ContaminationFilter(settings)


def _texts_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the texts of an evaluation set, each with whether it is a question."""
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        expected = f"an object with a question or a passage, as some of {', '.join(TEXTS)}"
        for _, texts in json_records(path, _texts_of_record, expected=expected):
            yield from texts or ()
        return
    remedy = "Correct [decontaminate] files: expected SQuAD's JSON, or JSON lines in a file called .jsonl or .jsonl.gz."
    for _, paragraph in read_paragraphs(path, remedy=remedy):
        yield paragraph["context"], False
        yield from ((question["question"], True) for question in paragraph["qas"])


def _texts_of_record(values: dict[str, Any]) -> list[tuple[str, bool]]:
    texts = [(values[name], name in QUESTIONS) for name in TEXTS if isinstance(values.get(name), str)]
    if not texts:
        raise ValueError(f"found no text among {field_names(values)}")
    return texts
