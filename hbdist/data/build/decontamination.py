"""What of the training data is in an evaluation set, and so must not be trained on."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from hbdist.data.build.recipe import Decontaminate
from hbdist.data.build.text_keys import is_spaceless, words_of
from hbdist.data.formats.json_files import json_records
from hbdist.data.formats.squad import read_paragraphs, squad_errors
from hbdist.data.sources.rows import Row
from hbdist.errors import DataError

CONTAMINATED_QUERY = "query in an evaluation set"
CONTAMINATED_DOCUMENT = "document in an evaluation set"
CONTAMINATED_NEGATIVE = "negative in an evaluation set"
CONTAMINATED_TRANSLATION = "translation in an evaluation set"
QUESTIONS = ("query", "question")
PASSAGES = ("document", "passage", "context", "text", "sentence")


class Contamination:
    """The texts of evaluation sets, to look training texts up in.

    A text is contaminated if it is, as a whole, a question or a short passage, or shares a run of N words with a passage
    (N characters, where most are of a script without spaces). Case, punctuation and forms that NFKC unites do not count.
    The runs of all passages are held in memory: this is for sets of thousands of passages, not for collections.

    Raises:
        DataError: a file is damaged, or holds neither SQuAD's JSON nor JSON lines with a question or a passage.
    """

    def __init__(self, settings: Decontaminate) -> None:
        self.settings = settings
        self.wholes: set[str] = set()
        self.runs: set[str] = set()
        for file in settings.files:
            for text, is_question in _texts_of(file):
                words = words_of(text)
                runs = [] if is_question else list(self._runs(text, words))
                self.runs.update(runs)
                if not runs:
                    self.wholes.add(" ".join(words))
        self.wholes.discard("")

    def holds(self, text: str) -> bool:
        """Whether the text is contaminated."""
        words = words_of(text)
        return " ".join(words) in self.wholes or not self.runs.isdisjoint(self._runs(text, words))

    def fault(self, row: Row) -> str:
        """Why the row must not be trained on; empty if it may be."""
        if self.holds(row.query):
            return CONTAMINATED_QUERY
        return CONTAMINATED_DOCUMENT if self.holds(row.document) else ""

    def _runs(self, text: str, words: list[str]) -> Iterator[str]:
        if is_spaceless(text):
            letters, length = "".join(words), self.settings.characters
            return (letters[start : start + length] for start in range(len(letters) - length + 1))
        length = self.settings.words
        return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


@lru_cache(1)
def contamination_of(settings: Decontaminate, inputs: str) -> Contamination:
    """The same for all tasks of a process; `inputs` is a digest of the files' contents."""
    return Contamination(settings)


def _texts_of(path: Path) -> Iterator[tuple[str, bool]]:
    """The texts of an evaluation set, each with whether it is a question."""
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        yield from _texts_of_lines(path)
        return
    remedy = "Correct [decontaminate] files: expected SQuAD's JSON, or JSON lines in a file called .jsonl or .jsonl.gz."
    with squad_errors(path, "data → paragraphs → context and qas", remedy=remedy):
        for _, paragraph in read_paragraphs(path, remedy=remedy):
            yield paragraph["context"], False
            yield from ((question["question"], True) for question in paragraph["qas"])


def _texts_of_lines(path: Path) -> Iterator[tuple[str, bool]]:
    for number, values in json_records(path, expected="an object with a question or a passage"):
        known = {name: values[name] for name in (*QUESTIONS, *PASSAGES) if name in values} if values else {}
        texts: dict[str, Any] = {name: text for name, text in known.items() if isinstance(text, str)}
        if values is not None and not texts:
            raise DataError(
                f"{path}, line {number}: found no text among {', '.join(values) or 'no fields'}; expected some of "
                f"{', '.join((*QUESTIONS, *PASSAGES))}. Rename the fields."
            )
        yield from ((text, name in QUESTIONS) for name, text in texts.items())
