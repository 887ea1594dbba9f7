"""From a task to the measures: clusters, parallel questions, and the baselines without training."""

import numpy as np
import pytest

from hbdist.evaluation.evaluate import summarise
from hbdist.evaluation.metrics.alignment import NO_ITEM
from hbdist.evaluation.metrics.retrieval import Ranking
from hbdist.evaluation.metrics.summary import (
    clusters,
    more_bias,
    per_query,
    question_alignment,
    question_places,
    without_language,
)
from hbdist.evaluation.search.in_memory import rank_in_tiles
from hbdist.evaluation.tasks.task import Candidate, Query, RetrievalTask
from hbdist.evaluation.tasks.xquad_r import load_xquad_r

QUESTIONS, DIMENSIONS = 40, 16


@pytest.fixture(scope="module")
def task() -> RetrievalTask:
    """40 questions in de, en and th, two a paragraph, each with its own answer; in th the first two are missing."""
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
    """A question is near its answers, but nearer to what is in its language."""
    generator = np.random.default_rng(0)
    meaning_ND = generator.normal(size=(QUESTIONS, DIMENSIONS))
    accent = {x: 4 * generator.normal(size=DIMENSIONS) / 2 for x in task.languages}

    def vector(language: str, number: int) -> np.ndarray:
        one_D = meaning_ND[number] + accent[language] + 0.3 * generator.normal(size=DIMENSIONS)
        return (one_D / np.linalg.norm(one_D)).astype(np.float32)

    query_QD = np.stack([vector(query.language, int(query.id[1:])) for query in task.queries])
    return query_QD, np.stack([vector(one.language, 2 * one.paragraph + one.sentence) for one in task.candidates])


def rank(task: RetrievalTask, query_QD: np.ndarray, candidate_CD: np.ndarray) -> Ranking:
    return rank_in_tiles(query_QD, candidate_CD, task.relevant, slices=list(task.candidate_slices.values()))


def test_questions_of_a_paragraph_are_one_cluster_with_their_translations(task):
    assert list(clusters(task).values()) == [n // 2 for n in range(QUESTIONS)]


def test_the_clusters_of_xquad_r_are_its_240_paragraphs():
    task = load_xquad_r()
    found = clusters(task)
    assert len(set(found.values())) == 240
    paragraph = {question: task.candidates[places[0]].paragraph for question, places in task.relevance.items()}
    assert len(set(zip(found.values(), paragraph.values(), strict=True))) == 240


def test_clusters_join_through_questions_that_share_an_answer_with_both(task):
    linked = {**task.relevance, "q0": (0, 2)}
    found = clusters(RetrievalTask("made", task.languages, task.queries, task.candidates, linked))
    assert found["q0"] == found["q1"] == found["q2"] == found["q3"] != found["q4"]


def test_places_of_questions_say_where_a_language_has_none(task):
    place_NL = question_places(task)
    assert place_NL[:3].tolist() == [[0, 40, NO_ITEM], [1, 41, NO_ITEM], [2, 42, 80]]
    for n, rows in enumerate(place_NL):
        assert {task.queries[row].id for row in rows if row != NO_ITEM} == {f"q{n}"}


def test_what_is_kept_of_each_query_gives_the_scores_again(task, vectors):
    from hbdist.evaluation.metrics.per_query import values_of

    ranking = rank(task, *vectors)
    scores, kept = summarise(ranking, task), per_query(ranking, task)
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        values = values_of(kept, setting)
        parts = [values.value_V[values.part_V == part].mean() for part in np.unique(values.part_V)]
        assert np.mean(parts) == pytest.approx(scores[setting]["map"])


def test_bias_and_alignment_see_the_accents_and_the_baselines_take_them_out(task, vectors):
    ranking = rank(task, *vectors)
    before = summarise(ranking, task)
    maps = {x: values["map"] for x, values in before["by_language"].items()}
    bias = more_bias(ranking, task, maps)
    own = np.mean([bias["one_answer_map"][f"{x}-{x}"] for x in task.languages])
    other = np.mean([value for pair, value in bias["one_answer_map"].items() if pair[:2] != pair[3:]])
    assert own > 2 * other
    assert bias["peer_relevant@100"] is None
    assert bias["map_range"] == pytest.approx(max(maps.values()) - min(maps.values()))
    found = question_alignment(vectors[0], ranking, task)
    assert found is not None
    assert found["language_probe"] > 0.9
    assert found["consistency"]["lists@10"] < found["consistency"]["neighbours@10"]
    removed = without_language(*vectors, task, rank=lambda *changed: rank(task, *changed), summarise=summarise)
    for scores in removed.values():
        assert scores["multilingual"]["map"] > before["multilingual"]["map"] + 0.2
        assert scores["bias"]["rank_distance"] < 0.7 * before["bias"]["rank_distance"]
