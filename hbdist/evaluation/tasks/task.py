"""A retrieval task over several languages: questions, candidates, and which candidates answer which question."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hbdist.errors import ConfigError
from hbdist.evaluation.scores import METRICS, SETTINGS, Setting
from hbdist.evaluation.tasks.corpus import Candidate, Corpus

NO_CANDIDATE = -1
"""Fills the places of `relevant` that a question does not need."""


class Query(NamedTuple):
    """One question in one language."""

    id: str
    """The question's id, shared by its translations."""
    language: str
    text: str


@dataclass(frozen=True)
class Cut:
    """What was cut from a task; None where nothing was."""

    languages: tuple[str, ...] | None = None
    """The languages that are left, in queries and candidates."""
    questions: int | None = None
    """The questions a language that are left, at most; all candidates are."""


@dataclass(frozen=True)
class RetrievalTask:
    """Queries and candidates stand language by language, in the order of `languages`, which ascends.

    So the candidates of one language are a slice of the pool, and ids ascend with the place in it (the order on which
    trec_eval's rule for ties rests), unless they are published ones. Every query has a relevant candidate.
    """

    name: str
    languages: tuple[str, ...]
    queries: tuple[Query, ...]
    candidates: tuple[Candidate, ...] | Corpus
    """In memory, or on disk: read those in parts, as `candidate_texts` does."""
    relevance: Mapping[str, tuple[int, ...]]
    """Question id → places of its relevant candidates in the pool, over all languages."""
    cut_to: Cut = Cut()
    _: KW_ONLY
    metrics: tuple[str, ...] = METRICS
    """What its scores are: map, mrr, ndcg@k, recall@k, precision@k. The first is the main one."""
    settings: tuple[Setting, ...] = SETTINGS
    """Which settings say something. Where questions are not translated, only monolingual does."""
    grades: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Question id → the gain of each of its relevant candidates, for nDCG; where there is none, all are 1."""
    ignored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Question id → places of candidates that are not ranked for it, as nobody judged them."""
    note: str = ""
    """What a reader of the scores must know, such as with what they cannot be compared."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason → queries that the files have and the task has not."""

    def __post_init__(self) -> None:
        assert list(self.languages) == sorted(set(self.languages))
        in_memory = () if isinstance(self.candidates, Corpus) else (self.candidates,)
        for texts in (self.queries, *in_memory):
            order = [self.languages.index(text.language) for text in texts]
            assert all(before <= after for before, after in pairwise(order)), "languages do not stand together"
        assert all(self.relevance.get(query.id) for query in self.queries), "a query has no relevant candidate"

    @cached_property
    def query_slices(self) -> dict[str, slice]:
        """Where the queries of each language stand; empty for a language of candidates alone."""
        return _slices(self.languages, [query.language for query in self.queries])

    @cached_property
    def candidate_slices(self) -> dict[str, slice]:
        """Where the candidates of each language stand in the pool; empty for a language of queries alone."""
        if isinstance(self.candidates, Corpus):
            lengths = {language: part.stop - part.start for language, part in self.candidates.slices.items()}
            return _stretches({language: lengths.get(language, 0) for language in self.languages})
        return _slices(self.languages, [candidate.language for candidate in self.candidates])

    @cached_property
    def relevant(self) -> np.ndarray:
        """Places of the relevant candidates of every query: int64 [Q, R], filled up with NO_CANDIDATE."""
        return _filled([self.relevance[query.id] for query in self.queries], NO_CANDIDATE)

    @cached_property
    def relevant_grade(self) -> np.ndarray:
        """The gain of each of `relevant`: int64 [Q, R]; 0 where there is none."""
        if not self.grades:
            return (self.relevant != NO_CANDIDATE).astype(np.int64)
        return _filled([self.grades[query.id] for query in self.queries], 0)

    @cached_property
    def unranked(self) -> np.ndarray:
        """Places of the candidates that are not ranked for a query: int64 [Q, I], filled up with NO_CANDIDATE."""
        return _filled([self.ignored.get(query.id, ()) for query in self.queries], NO_CANDIDATE)

    @cached_property
    def query_ids(self) -> list[str]:
        """Ids for TREC files, as "en-56beb434"."""
        return [f"{query.language}-{query.id}" for query in self.queries]

    @cached_property
    def candidate_ids(self) -> Sequence[str]:
        """Ids for TREC files: language and published id, as "sw-39#0".

        Where none is published, the place among the candidates of that language, as "en-000123".
        """
        if isinstance(self.candidates, Corpus):
            return self.candidates.ids
        return [
            f"{language}-{candidate.id or f'{number:06d}'}"
            for language, part in self.candidate_slices.items()
            for number, candidate in enumerate(self.candidates[part])
        ]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the task as it is after cuts: ids, texts, relevance, metrics."""
        on_disk = isinstance(self.candidates, Corpus)
        values = asdict(replace(self, candidates=()) if on_disk else self)
        if isinstance(self.candidates, Corpus):
            values["candidates"] = self.candidates.digest
        return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()

    def candidate_texts(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[list[str]]:
        """The texts of candidates `start` to `stop` of the pool, in their order, `size` at a time."""
        end = len(self.candidates) if stop is None else stop
        for first in range(start, end, size):
            yield [candidate.text for candidate in self.candidates[first : min(first + size, end)]]

    def cut(self, *, languages: Sequence[str] = (), questions: int | None = None) -> "RetrievalTask":
        """The same task in fewer languages, or with fewer questions; `cut_to` says what is left.

        Languages are cut out of queries and candidates. Of the questions, N a language are kept, all of a language that
        has fewer: spread evenly over its file, since neighbours ask about one paragraph. Where all languages have the
        same questions, the same are kept. All candidates stay.

        Raises:
            ConfigError: a language is not in the task, or no language has as many questions as are to be kept.
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
        kept = self._candidates_in(languages)
        moved = _moves(self.candidate_slices, languages)
        cut = {
            question: tuple(moved(place) for place in places if moved(place) != NO_CANDIDATE)
            for question, places in self.relevance.items()
        }
        queries = tuple(query for query in self.queries if query.language in languages and cut[query.id])
        asked = {query.id for query in queries}
        return replace(
            self,
            languages=languages,
            queries=queries,
            candidates=kept,
            relevance={question: places for question, places in cut.items() if question in asked},
            grades={
                question: tuple(
                    grade
                    for grade, place in zip(grades, self.relevance[question], strict=True)
                    if moved(place) != NO_CANDIDATE
                )
                for question, grades in self.grades.items()
                if question in asked
            },
            ignored={
                question: tuple(moved(place) for place in places if moved(place) != NO_CANDIDATE)
                for question, places in self.ignored.items()
                if question in asked
            },
            cut_to=replace(self.cut_to, languages=languages),
        )

    def _candidates_in(self, languages: Sequence[str]) -> "tuple[Candidate, ...] | Corpus":
        if isinstance(self.candidates, Corpus):
            return self.candidates.only(languages)
        return tuple(candidate for candidate in self.candidates if candidate.language in languages)

    def _with_questions(self, questions: int) -> "RetrievalTask":
        of_language = {
            language: [query.id for query in self.queries[part]] for language, part in self.query_slices.items()
        }
        most = max(map(len, of_language.values()))
        if not 1 <= questions <= most:
            raise ConfigError(
                f"questions = {questions} cannot be kept: {self.name} has {most} a language at most."
                f" Give a number from 1 to {most}."
            )
        if questions == most:
            return self
        kept = {language: set(_spread(ids, questions)) for language, ids in of_language.items()}
        asked = set().union(*kept.values())
        return replace(
            self,
            queries=tuple(query for query in self.queries if query.id in kept[query.language]),
            relevance=_of(self.relevance, asked),
            grades=_of(self.grades, asked),
            ignored=_of(self.ignored, asked),
            cut_to=replace(self.cut_to, questions=questions),
        )


def _spread(ids: Sequence[str], count: int) -> Sequence[str]:
    """The middle of each of `count` equal stretches; all if there are no more."""
    if len(ids) <= count:
        return ids
    return [ids[(2 * part + 1) * len(ids) // (2 * count)] for part in range(count)]


def _of(values: Mapping[str, tuple[int, ...]], questions: set[str]) -> dict[str, tuple[int, ...]]:
    return {question: value for question, value in values.items() if question in questions}


def _filled(rows: Sequence[Sequence[int]], empty: int) -> np.ndarray:
    """The rows as one array: int64 [rows, longest]."""
    filled = np.full((len(rows), max(map(len, rows), default=0)), empty, dtype=np.int64)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return filled


def _moves(slices: Mapping[str, slice], languages: Sequence[str]) -> Callable[[int], int]:
    """Place in the pool → place in the pool of these languages alone; NO_CANDIDATE for those of others."""
    kept = {name: part.stop - part.start if name in languages else 0 for name, part in slices.items()}
    starts = [part.start for part in slices.values()]
    shifts = [new.start - slices[name].start if name in languages else None for name, new in _stretches(kept).items()]

    def moved(place: int) -> int:
        shift = shifts[bisect_right(starts, place) - 1]
        return NO_CANDIDATE if shift is None else place + shift

    return moved


def _slices(languages: Sequence[str], of: Sequence[str]) -> dict[str, slice]:
    """The stretch of each language in a list where languages stand together."""
    return _stretches({language: of.count(language) for language in languages})


def _stretches(lengths: Mapping[str, int]) -> dict[str, slice]:
    """Stretches of these lengths, one behind the other."""
    ends = np.cumsum([0, *lengths.values()]).tolist()
    return {language: slice(start, stop) for language, (start, stop) in zip(lengths, pairwise(ends), strict=True)}
