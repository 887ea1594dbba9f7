"""A retrieval task over several languages: questions, candidates, and which candidates answer which question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hbdist.errors import ConfigError

NO_CANDIDATE = -1
"""Fills the places of `relevant` that a question does not need."""


class Query(NamedTuple):
    """One question in one language."""

    id: str
    """The question's id, shared by its translations."""
    language: str
    text: str


class Candidate(NamedTuple):
    """One sentence that can be retrieved. Its identity is (language, paragraph, sentence); texts need not be unique."""

    language: str
    paragraph: int
    sentence: int
    text: str


@dataclass(frozen=True)
class Cut:
    """What was cut from a task; None where nothing was."""

    languages: tuple[str, ...] | None = None
    """The languages that are left, in queries and candidates."""
    questions: int | None = None
    """The questions a language that are left; all candidates are."""


@dataclass(frozen=True)
class RetrievalTask:
    """Queries and candidates stand language by language, in the order of `languages`, which ascends.

    So the candidates of one language are a slice of the pool, and ids ascend with the place in it (the order on which
    trec_eval's rule for ties rests).
    """

    name: str
    languages: tuple[str, ...]
    queries: tuple[Query, ...]
    candidates: tuple[Candidate, ...]
    relevance: Mapping[str, tuple[int, ...]]
    """Question id → places of its relevant candidates in the pool, over all languages."""
    cut_to: Cut = Cut()

    def __post_init__(self) -> None:
        assert list(self.languages) == sorted(set(self.languages))
        for texts in (self.queries, self.candidates):
            order = [self.languages.index(text.language) for text in texts]
            assert all(before <= after for before, after in pairwise(order)), "languages do not stand together"

    @cached_property
    def query_slices(self) -> dict[str, slice]:
        """Where the queries of each language stand."""
        return _slices(self.languages, [query.language for query in self.queries])

    @cached_property
    def candidate_slices(self) -> dict[str, slice]:
        """Where the candidates of each language stand in the pool."""
        return _slices(self.languages, [candidate.language for candidate in self.candidates])

    @cached_property
    def relevant(self) -> np.ndarray:
        """Places of the relevant candidates of every query: int64 [Q, R], filled up with NO_CANDIDATE."""
        width = max(len(self.relevance[query.id]) for query in self.queries)
        relevant_QR = np.full((len(self.queries), width), NO_CANDIDATE, dtype=np.int64)
        for row, query in enumerate(self.queries):
            places = self.relevance[query.id]
            relevant_QR[row, : len(places)] = places
        return relevant_QR

    @cached_property
    def query_ids(self) -> list[str]:
        """Ids for TREC files, as "en-56beb434"."""
        return [f"{query.language}-{query.id}" for query in self.queries]

    @cached_property
    def candidate_ids(self) -> list[str]:
        """Ids for TREC files, as "en-000123": the place among the candidates of that language."""
        return [
            f"{language}-{place - part.start:06d}"
            for language, part in self.candidate_slices.items()
            for place in range(part.start, part.stop)
        ]

    def cut(self, *, languages: Sequence[str] = (), questions: int | None = None) -> "RetrievalTask":
        """The same task in fewer languages, or with fewer questions; `cut_to` says what is left.

        Languages are cut out of queries and candidates. Of the questions, N a language are kept: the same in all
        languages, spread evenly over the file, since neighbours ask about one paragraph. All candidates stay.

        Raises:
            ConfigError: a language is not in the task, or it has fewer questions than are to be kept.
        """
        task = self._in_languages(tuple(sorted(set(languages)))) if languages else self
        return task if questions is None else task._with_questions(questions)

    def _in_languages(self, languages: tuple[str, ...]) -> "RetrievalTask":
        unknown = [language for language in languages if language not in self.languages]
        if unknown:
            raise ConfigError(
                f"{self.name} has no language {', '.join(unknown)}. It has {', '.join(self.languages)}:"
                " name some of these."
            )
        if languages == self.languages:
            return self
        kept = [place for place, candidate in enumerate(self.candidates) if candidate.language in languages]
        new_place = {place: new for new, place in enumerate(kept)}
        return replace(
            self,
            languages=languages,
            queries=tuple(query for query in self.queries if query.language in languages),
            candidates=tuple(self.candidates[place] for place in kept),
            relevance={
                question: tuple(new_place[place] for place in places if place in new_place)
                for question, places in self.relevance.items()
            },
            cut_to=replace(self.cut_to, languages=languages),
        )

    def _with_questions(self, questions: int) -> "RetrievalTask":
        ids = list(self.relevance)
        if not 1 <= questions <= len(ids):
            raise ConfigError(
                f"questions = {questions} cannot be kept: {self.name} has {len(ids)} a language."
                f" Give a number from 1 to {len(ids)}."
            )
        if questions == len(ids):
            return self
        # The middle of each of N equal stretches of the file.
        kept = {ids[(2 * part + 1) * len(ids) // (2 * questions)] for part in range(questions)}
        return replace(
            self,
            queries=tuple(query for query in self.queries if query.id in kept),
            relevance={question: places for question, places in self.relevance.items() if question in kept},
            cut_to=replace(self.cut_to, questions=questions),
        )


def _slices(languages: Sequence[str], of: Sequence[str]) -> dict[str, slice]:
    """The stretch of each language in a list where languages stand together."""
    starts = {language: of.index(language) for language in languages}
    return {language: slice(start, start + of.count(language)) for language, start in starts.items()}
