"""A task whose languages differ in their questions: cuts keep the relevance judgements, in memory and on disk."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbdist.errors import ConfigError
from hbdist.evaluation.tasks.corpus import Candidate, Corpus
from hbdist.evaluation.tasks.task import NO_CANDIDATE, Query, RetrievalTask

LANGUAGES = ("ar", "de", "en")


def make_task(seed: int = 0, *, folder: Path | None = None) -> RetrievalTask:
    """Return a task in which English has all questions and the others some; a candidate's text names its language."""
    generator = np.random.default_rng(seed)
    candidates = tuple(
        Candidate(language, number, 0, f"{language}/{number}", f"p{number}")
        for language in LANGUAGES
        for number in range(generator.integers(3, 9))
    )
    indices = {x: [index for index, one in enumerate(candidates) if one.language == x] for x in LANGUAGES}
    asked = {"en": range(12), "ar": range(0, 12, 3), "de": range(0, 12, 2)}
    relevance = {
        f"q{q}": tuple(int(generator.choice(indices[x])) for x in LANGUAGES if q in asked[x]) for q in range(12)
    }
    return RetrievalTask(
        "made",
        LANGUAGES,
        tuple(Query(f"q{q}", x, f"question {q} in {x}") for x in LANGUAGES for q in asked[x]),
        write_corpus(candidates, folder) if folder else candidates,
        relevance,
        grades={question: tuple(range(1, len(relevant) + 1)) for question, relevant in relevance.items()},
        ignored={"q0": (indices["ar"][0], indices["en"][0]), "q1": (indices["de"][1],)},
    )


def write_corpus(candidates: tuple[Candidate, ...], folder: Path) -> Corpus:
    for language in LANGUAGES:
        rows = [json.dumps([one.id, one.text]) for one in candidates if one.language == language]
        (folder / f"{language}.jsonl").write_text("\n".join(rows) + "\n")
    files = {language: [folder / f"{language}.jsonl"] for language in LANGUAGES}
    lookup = {language: set[str]() for language in LANGUAGES}
    return Corpus.read(files, parse=lambda line: tuple(json.loads(line)), lookup=lookup, expected="")


def graded_texts(task: RetrievalTask, question: str) -> set[tuple[str, int]]:
    indices = task.relevance[question]
    return {(task.candidates[index].text, grade) for index, grade in zip(indices, task.grades[question], strict=True)}


@given(seed=st.integers(0, 999), languages=st.sets(st.sampled_from(LANGUAGES), min_size=1))
def test_cutting_languages_keeps_exactly_the_relevant_and_ignored_candidates_of_the_others(seed, languages):
    task = make_task(seed)
    cut = task.cut(languages=sorted(languages))
    assert {query.id for query in cut.queries} == set(cut.relevance) == set(cut.grades)
    for question in cut.relevance:
        left = {(text, grade) for text, grade in graded_texts(task, question) if text[:2] in languages}
        assert graded_texts(cut, question) == left
        ignored = {task.candidates[index].text for index in task.ignored.get(question, ())}
        kept = {cut.candidates[index].text for index in cut.ignored.get(question, ())}
        assert kept == {text for text in ignored if text[:2] in languages}
    asked = [query for query in task.queries if query.language in languages]
    assert list(cut.queries) == asked  # each has an answer in its own language


def test_cutting_questions_keeps_that_many_per_language_or_all_that_it_has():
    cut = make_task().cut(questions=5)
    counts = {language: part.stop - part.start for language, part in cut.query_slices.items()}
    assert counts == {"ar": 4, "de": 5, "en": 5}
    assert set(cut.relevance) == {query.id for query in cut.queries}
    assert len(cut.candidates) == len(make_task().candidates)


def test_more_questions_than_any_language_has_are_refused():
    with pytest.raises(ConfigError, match="from 1 to 12"):
        make_task().cut(questions=13)
    assert make_task().cut(questions=12).cut_to.questions is None


def test_candidates_on_disk_make_the_same_task_as_in_memory(tmp_path):
    memory, disk = make_task(5), make_task(5, folder=tmp_path)
    for one in (lambda task: task, lambda task: task.cut(languages=["ar", "en"], questions=3)):
        here, there = one(memory), one(disk)
        assert tuple(there.candidates) == tuple(here.candidates)
        assert list(there.candidate_ids) == here.candidate_ids
        assert there.candidate_slices == here.candidate_slices
        assert (there.relevance, there.ignored, there.queries) == (here.relevance, here.ignored, here.queries)


@given(size=st.integers(1, 40), start=st.integers(0, 30), length=st.integers(0, 30))
def test_texts_in_parts_are_the_texts(size, start, length):
    task = make_task(3)
    stop = min(start + length, len(task.candidates))
    parts = list(task.candidate_texts(size, start, stop))
    assert all(len(part) == size for part in parts[:-1])
    assert [text for part in parts for text in part] == [one.text for one in task.candidates[start:stop]]


def test_arrays_of_grades_and_unranked_candidates_match_the_relevant_ones():
    task = make_task()
    assert task.relevant.shape == task.relevant_grade.shape
    assert ((task.relevant == NO_CANDIDATE) == (task.relevant_grade == 0)).all()
    row = [query.id for query in task.queries].index("q0")
    assert task.unranked[row].tolist() == list(task.ignored["q0"])
    assert (task.unranked[[query.id == "q2" for query in task.queries]] == NO_CANDIDATE).all()
    plain = replace(task, grades={})
    assert (plain.relevant_grade == (plain.relevant != NO_CANDIDATE)).all()


def test_a_language_that_only_has_queries_has_an_empty_slice_of_candidates():
    task = make_task()
    task = replace(
        task,
        languages=("ar", "de", "dv", "en"),
        queries=(*task.queries[:10], Query("q0", "dv", "?"), *task.queries[10:]),
    )
    assert task.candidate_slices["dv"] == slice(task.candidate_slices["en"].start, task.candidate_slices["en"].start)
    cut = task.cut(languages=["dv", "en"])
    assert {cut.candidates[index].language for indices in cut.relevance.values() for index in indices} == {"en"}


def test_the_fingerprint_changes_with_texts_cuts_labels_and_metrics_and_nothing_else(tmp_path):
    task = make_task(1)
    others = [
        make_task(2),
        task.cut(questions=3),
        replace(task, metrics=("map",)),
        replace(task, grades={}),
        replace(task, ignored={}),
        make_task(1, folder=tmp_path),
    ]
    assert make_task(1).fingerprint == task.fingerprint
    assert len({task.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    assert make_task(1, folder=tmp_path).fingerprint == others[-1].fingerprint
