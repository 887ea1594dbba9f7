"""Retrieval task over several languages: queries, candidates and relevance judgements (qrels).

A *question* may be asked in several languages; each of these is a *query*. A *candidate* is a text that queries are
scored against, and is referred to by its index among all candidates of the task. The *corpus* is the candidates on disk.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hbdist.data.formats.languages import language_code
from hbdist.errors import ConfigError
from hbdist.evaluation.scores import METRICS, SETTINGS, Setting
from hbdist.evaluation.tasks.corpus import Candidate, Corpus, consecutive_slices

NO_CANDIDATE = -1
"""Padding of arrays of candidate indices."""
ABSENT = -2
"""Index of a document that is judged relevant, but is not among the candidates."""
Values = Mapping[str, tuple[int, ...]]
"""Question id → values, one per candidate."""


WHOLE_POOL = -1
"""Language of a topic that ranks the candidates of all languages."""

MOST_TOPICS = 200_000
"""Number of topics above which the best candidates are not kept: their files would have tens of millions of lines."""


class Topics(NamedTuple):
    """Rankings whose best candidates are kept: a query, and the language of the candidates that are ranked for it.

    Ordered by query, then by language. N of them.
    """

    query_N: np.ndarray
    """Index of the query: int64."""
    language_N: np.ndarray
    """Number of the language, or WHOLE_POOL: int64."""


class Query(NamedTuple):
    """One question in one language."""

    id: str
    """Id of the question, shared by its translations."""
    language: str
    text: str


@dataclass(frozen=True)
class Cut:
    """Limits to which a task was cut; None for no limit."""

    languages: tuple[str, ...] | None = None
    """Remaining languages of queries and candidates."""
    questions: int | None = None
    """Maximum number of remaining questions per language; all candidates remain."""


@dataclass(frozen=True)
class RetrievalTask:
    """Queries and candidates, each grouped by language in the order of `languages`, which ascends.

    So the candidates of one language are a slice of all, and ids ascend with the index (on which trec_eval's order of
    equal scores rests), unless they are published ids. Every query has a relevant candidate.
    """

    # All of it is part of the fingerprint, by which kept scores are found again: names of fields and wording of notes too.
    name: str
    languages: tuple[str, ...]
    queries: tuple[Query, ...]
    candidates: tuple[Candidate, ...] | Corpus
    """Candidates in memory, or a corpus on disk that is read in parts, as `candidate_texts` does."""
    relevance: Values
    """Qrels: question id → indices of its relevant candidates, over all languages."""
    cut_to: Cut = Cut()
    _: KW_ONLY
    metrics: tuple[str, ...] = METRICS
    """Metrics to report: map, mrr, ndcg@k, recall@k, precision@k. The first is the main one."""
    settings: tuple[Setting, ...] = SETTINGS
    """Meaningful settings: only "monolingual" if the questions are not translated."""
    grades: Values = field(default_factory=dict)
    """Question id → gain of each of its relevant candidates, for nDCG; all gains are 1 if empty."""
    absent: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Question id → published id of each document that is judged relevant but is not among the candidates → its gain. It
    counts as relevant and is never found, as in trec_eval; it is of the question's language."""
    ignored: Values = field(default_factory=dict)
    """Question id → indices of candidates that are not ranked for it, because nobody judged them."""
    note: str = ""
    """Caveat for readers of the scores, such as which scores they cannot be compared with."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason → number of queries that are in the files but not in the task."""

    def __post_init__(self) -> None:
        assert list(self.languages) == sorted(set(self.languages))
        in_memory = () if isinstance(self.candidates, Corpus) else (self.candidates,)
        for texts in (self.queries, *in_memory):
            order = [self.languages.index(text.language) for text in texts]
            assert all(before <= after for before, after in pairwise(order)), "texts are not grouped by language"
        assert all(map(self._has_answer, self.queries)), "a query has no relevant candidate"
        # What is never found has no distance and no language of its own, on which measures of a pool of languages rest.
        assert not self.absent or "multilingual" not in self.settings

    def _has_answer(self, query: Query) -> bool:
        return bool(self.relevance[query.id] or self.absent.get(query.id))

    @cached_property
    def query_slices(self) -> dict[str, slice]:
        """Language → indices of its queries; empty for a language that only has candidates."""
        return self._slices([query.language for query in self.queries])

    @cached_property
    def candidate_slices(self) -> dict[str, slice]:
        """Language → indices of its candidates; empty for a language that only has queries."""
        if isinstance(self.candidates, Corpus):
            return consecutive_slices({one: self.candidates.counts.get(one, 0) for one in self.languages})
        return self._slices([candidate.language for candidate in self.candidates])

    def _slices(self, language_of_text: Sequence[str]) -> dict[str, slice]:
        return consecutive_slices({language: language_of_text.count(language) for language in self.languages})

    @cached_property
    def relevant(self) -> np.ndarray:
        """Indices of the relevant candidates of every query, ABSENT for absent ones: int64 [Q, R], padded with NO_CANDIDATE."""
        rows = ((self.relevance[query.id], self.absent.get(query.id, ())) for query in self.queries)
        return _padded([(*indices, *[ABSENT] * len(missing)) for indices, missing in rows], NO_CANDIDATE)

    @cached_property
    def relevant_grade(self) -> np.ndarray:
        """Gains of `relevant`: int64 [Q, R], padded with 0."""
        if not self.grades:
            return (self.relevant != NO_CANDIDATE).astype(np.int64)
        return _padded([(*self.grades[one.id], *self.absent.get(one.id, {}).values()) for one in self.queries], 0)

    @cached_property
    def unranked(self) -> np.ndarray:
        """Indices of the candidates that are not ranked for each query: int64 [Q, I], padded with NO_CANDIDATE."""
        return _padded([self.ignored.get(query.id, ()) for query in self.queries], NO_CANDIDATE)

    @cached_property
    def topics(self) -> Topics:
        """Rankings by which the scores can be checked, as TREC files.

        With a multilingual setting, each query once, against the whole pool. Else each query with each language in which
        it has an answer, in the settings of the task. None at all if there would be more than MOST_TOPICS.
        """
        everyone = np.arange(len(self.queries))
        if "multilingual" in self.settings:
            return Topics(everyone, np.full(len(everyone), WHOLE_POOL))
        stops = np.array([part.stop for part in self.candidate_slices.values()])
        languages = len(self.languages)
        row, column = np.nonzero(self.relevant != NO_CANDIDATE)
        query_language_Q = np.repeat(np.arange(languages), [p.stop - p.start for p in self.query_slices.values()])
        index = self.relevant[row, column]
        # An absent answer is of its question's language.
        answer_language = np.where(index == ABSENT, query_language_Q[row], np.searchsorted(stops, index, side="right"))
        setting = np.where(query_language_Q[row] == answer_language, "monolingual", "cross_lingual")
        key_N = np.unique((row * languages + answer_language)[np.isin(setting, self.settings)])
        return Topics(*np.divmod(key_N if len(key_N) <= MOST_TOPICS else key_N[:0], languages))

    @cached_property
    def query_ids(self) -> list[str]:
        """Ids for TREC files, such as "en-56beb434"."""
        return [f"{query.language}-{query.id}" for query in self.queries]

    @cached_property
    def candidate_ids(self) -> Sequence[str]:
        """Ids for TREC files: language and published id, such as "sw-39#0".

        If no id is published, the index among the candidates of the language takes its place: "en-000123".
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
        """SHA-256, in hex, of the task as it is after cuts: ids, texts, relevance, metrics."""
        candidates = self.candidates.digest if isinstance(self.candidates, Corpus) else self.candidates
        values = asdict(replace(self, candidates=())) | {"candidates": candidates}
        if not self.absent:  # fingerprints of tasks without it are those of earlier versions
            del values["absent"]
        return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()

    def candidate_texts(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[list[str]]:
        """Yield the texts of candidates `start` to `stop` in order, `size` at a time."""
        end = len(self.candidates) if stop is None else stop
        for first in range(start, end, size):
            yield [candidate.text for candidate in self.candidates[first : min(first + size, end)]]

    def cut(self, *, languages: Sequence[str] = (), questions: int | None = None) -> "RetrievalTask":
        """Return the same task in fewer languages, or with fewer questions; its `cut_to` records the limits.

        Args:
            languages: languages that queries and candidates keep; empty for all.
            questions: number of questions to keep per language, or all of a language that has fewer. They are spread
                evenly over the file, since neighbouring questions are about one paragraph. If all languages have the
                same questions, the same are kept in each. All candidates remain.

        Raises:
            ConfigError: a language is not in the task, or no language has that many questions.
        """
        task = self._in_languages(tuple(languages)) if languages else self
        return task if questions is None else task._with_questions(questions)

    def _in_languages(self, languages: tuple[str, ...]) -> "RetrievalTask":
        languages = tuple(sorted(set(map(language_code, languages))))
        unknown = [language for language in languages if language not in self.languages]
        if unknown:
            raise ConfigError(
                f"{self.name} has no language {', '.join(unknown)}. It has {', '.join(self.languages)}: name some of these."
            )
        if languages == self.languages:
            return self
        new_index = _renumbering(self.candidate_slices, languages)

        def renumber(indices: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(new for index in indices if (new := new_index(index)) != NO_CANDIDATE)

        relevance = {question: renumber(indices) for question, indices in self.relevance.items()}

        def remaining(values: tuple[int, ...], indices: tuple[int, ...]) -> tuple[int, ...]:
            pairs = zip(values, indices, strict=True)
            return tuple(value for value, index in pairs if new_index(index) != NO_CANDIDATE)

        grades = {question: remaining(values, self.relevance[question]) for question, values in self.grades.items()}
        ignored = {question: renumber(indices) for question, indices in self.ignored.items()}
        absent = {query.id: self.absent.get(query.id, {}) for query in self.queries if query.language in languages}
        queries = tuple(q for q in self.queries if q.language in languages and (relevance[q.id] or absent[q.id]))
        if isinstance(self.candidates, Corpus):
            candidates: tuple[Candidate, ...] | Corpus = self.candidates.select(languages)
        else:
            candidates = tuple(candidate for candidate in self.candidates if candidate.language in languages)
        cut_to = replace(self.cut_to, languages=languages)
        task = self._with_queries(queries, relevance, grades, ignored)
        return replace(task, languages=languages, candidates=candidates, cut_to=cut_to)

    def _with_questions(self, questions: int) -> "RetrievalTask":
        ids = {language: [query.id for query in self.queries[part]] for language, part in self.query_slices.items()}
        most = max(map(len, ids.values()))
        if not 1 <= questions <= most:
            raise ConfigError(
                f"questions = {questions} cannot be kept: {self.name} has at most {most} per language."
                f" Give a number from 1 to {most}."
            )
        if questions == most:
            return self
        selected = {language: set(_evenly_spaced(part, questions)) for language, part in ids.items()}
        queries = tuple(query for query in self.queries if query.id in selected[query.language])
        task = self._with_queries(queries, self.relevance, self.grades, self.ignored)
        return replace(task, cut_to=replace(self.cut_to, questions=questions))

    def _with_queries(self, queries: tuple[Query, ...], *values: Values) -> "RetrievalTask":
        """Return the task with these queries, and with the relevance, grades and ignored candidates of their questions."""
        questions = {query.id for query in queries}
        relevance, grades, ignored = ({one: part[one] for one in part if one in questions} for part in values)
        absent = {one: documents for one, documents in self.absent.items() if one in questions}
        return replace(self, queries=queries, relevance=relevance, grades=grades, ignored=ignored, absent=absent)


def _evenly_spaced(ids: Sequence[str], count: int) -> Sequence[str]:
    """Return the middle of each of `count` equal parts, or all ids if there are no more than that."""
    if len(ids) <= count:
        return ids
    return [ids[(2 * part + 1) * len(ids) // (2 * count)] for part in range(count)]


def _padded(rows: Sequence[Sequence[int]], padding: int) -> np.ndarray:
    """Return the rows as one array: int64 [rows, longest]."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), padding, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def _renumbering(slices: Mapping[str, slice], languages: Sequence[str]) -> Callable[[int], int]:
    """Return the function from a candidate's index to its index in these languages alone, or NO_CANDIDATE."""
    lengths = {name: part.stop - part.start if name in languages else 0 for name, part in slices.items()}
    starts = [part.start for part in slices.values()]
    shifts = {name: new.start - slices[name].start for name, new in consecutive_slices(lengths).items()}
    names = list(slices)

    def new_index(index: int) -> int:
        name = names[bisect_right(starts, index) - 1]
        return index + shifts[name] if name in languages else NO_CANDIDATE

    return new_index
