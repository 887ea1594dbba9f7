"""Scores of a task: clusters, parallel questions, and the baselines without training."""

import numpy as np
import pytest

from hbdist.evaluation.metrics.alignment import NO_ITEM
from hbdist.evaluation.metrics.per_query import values_of
from hbdist.evaluation.metrics.summary import (
    align_questions,
    cluster_questions,
    collect_positions,
    find_question_rows,
    measure_more_bias,
    rank_without_language,
    summarise,
    summarise_removal,
)
from hbdist.evaluation.search.in_memory import rank_in_memory
from hbdist.evaluation.tasks.task import Candidate, Query, RetrievalTask
from hbdist.evaluation.tasks.xquad_r import load_xquad_r

QUESTIONS, DIMENSIONS = 40, 16


@pytest.fixture(scope="module")
def task() -> RetrievalTask:
    """Return 40 questions in de, en and th, two per paragraph, each with its own answer; in th the first two are missing."""
    languages = ("de", "en", "th")
    return RetrievalTask(
        "made",
        languages,
        tuple(Query(f"q{n}", x, f"{x}{n}?") for x in languages for n in range(QUESTIONS) if x != "th" or n > 1),
        tuple(Candidate(x, n // 2, n % 2, f"{x}{n}") for x in languages for n in range(QUESTIONS)),
        {f"q{n}": tuple(QUESTIONS * x + n for x in range(3)) for n in range(QUESTIONS)},
    )


@pytest.fixture(scope="module")
def vectors(task: RetrievalTask) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors where a question is near its answers, but nearer to texts in its own language."""
    generator = np.random.default_rng(0)
    meaning_ND = generator.normal(size=(QUESTIONS, DIMENSIONS))
    accent = {x: 4 * generator.normal(size=DIMENSIONS) / 2 for x in task.languages}

    def vector(language: str, number: int) -> np.ndarray:
        one_D = meaning_ND[number] + accent[language] + 0.3 * generator.normal(size=DIMENSIONS)
        return (one_D / np.linalg.norm(one_D)).astype(np.float32)

    query_QD = np.stack([vector(query.language, int(query.id[1:])) for query in task.queries])
    return query_QD, np.stack([vector(one.language, 2 * one.paragraph + one.sentence) for one in task.candidates])


def test_questions_of_a_paragraph_are_one_cluster_with_their_translations(task):
    assert list(cluster_questions(task).values()) == [n // 2 for n in range(QUESTIONS)]


def test_the_clusters_of_xquad_r_are_its_240_paragraphs():
    task = load_xquad_r()
    found = cluster_questions(task)
    assert len(set(found.values())) == 240
    paragraph = {question: task.candidates[answers[0]].paragraph for question, answers in task.relevance.items()}
    assert len(set(zip(found.values(), paragraph.values(), strict=True))) == 240


def test_without_paragraphs_each_question_is_a_cluster_whatever_answers_they_share(task):
    """Chained by the passages that they share, TREC-COVID's questions were one cluster and every difference was real."""
    passages = tuple(one._replace(paragraph=n, sentence=0) for n, one in enumerate(task.candidates))
    shared = {question: (*indices, 0) for question, indices in task.relevance.items()}
    found = cluster_questions(RetrievalTask("made", task.languages, task.queries, passages, shared))
    assert len(set(found.values())) == QUESTIONS


def test_clusters_join_through_questions_that_share_an_answer_with_both(task):
    linked = {**task.relevance, "q0": (0, 2)}
    found = cluster_questions(RetrievalTask("made", task.languages, task.queries, task.candidates, linked))
    assert found["q0"] == found["q1"] == found["q2"] == found["q3"] != found["q4"]


def test_rows_of_questions_mark_those_that_a_language_lacks(task):
    row_NL = find_question_rows(task)
    assert row_NL[:3].tolist() == [[0, 40, NO_ITEM], [1, 41, NO_ITEM], [2, 42, 80]]
    for n, rows in enumerate(row_NL):
        assert {task.queries[row].id for row in rows if row != NO_ITEM} == {f"q{n}"}


def test_the_scores_can_be_computed_again_from_the_positions_that_are_kept(task, vectors):
    ranking = rank_in_memory(*vectors, task)
    scores, queries = summarise(ranking, task), collect_positions(ranking, task)
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        values = values_of(queries, setting)
        parts = [values.value_V[values.part_V == part].mean() for part in np.unique(values.part_V)]
        assert np.mean(parts) == pytest.approx(scores[setting]["map"])


def test_bias_and_alignment_show_the_accents_and_the_baselines_remove_them(task, vectors):
    ranking = rank_in_memory(*vectors, task)
    before = summarise(ranking, task)
    maps = {x: values["map"] for x, values in before["by_language"].items()}
    bias = measure_more_bias(ranking, task, maps)
    own = np.mean([bias["one_answer_map"][f"{x}-{x}"] for x in task.languages])
    other = np.mean([value for pair, value in bias["one_answer_map"].items() if pair[:2] != pair[3:]])
    assert own > 2 * other
    assert bias["peer_relevant@100"] is None
    assert bias["map_range"] == pytest.approx(max(maps.values()) - min(maps.values()))
    found = align_questions(vectors[0], ranking, task)
    assert found is not None
    assert found["language_probe"] > 0.9
    assert found["consistency"]["lists@10"] < found["consistency"]["neighbours@10"]
    rankings = rank_without_language(*vectors, task, rank=lambda *changed: rank_in_memory(*changed, task))
    removed = {name: summarise_removal(ranking, task) for name, ranking in rankings.items()}
    for scores in removed.values():
        assert scores["multilingual"]["map"] > before["multilingual"]["map"] + 0.2
        assert scores["bias"]["rank_distance"] < 0.7 * before["bias"]["rank_distance"]
