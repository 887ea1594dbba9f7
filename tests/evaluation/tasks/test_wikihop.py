"""WikiHop, read from a generated file with the published number of samples."""

import gzip
import json
from pathlib import Path

import pytest

from hbdist.errors import DataError
from hbdist.evaluation.tasks.wikihop import GENERAL, SAMPLES, TEMPLATES, load_wikihop, question

BORN = "Ada Byron was born in London, in a house."


def sample(number: int, query: str, answer: str, supports: list[str]) -> dict[str, object]:
    return {"id": f"WH_dev_{number}", "query": query, "answer": answer, "candidates": [], "supports": supports}


SPECIAL = [
    sample(0, "place_of_birth ada byron", "london", [BORN, "London is old.", "Byron was a poet.", BORN]),
    # A part of a word is not an answer. A passage of sample 0 has both subject and answer of sample 2.
    sample(1, "located_in_time_zone ada", "London", ["Londoners are many."]),
    sample(2, "occupation ada byron", "house", ["A house, in German: Haus."]),
    sample(3, "country braces {relation}", "A.B.", ["Here is a b c.", "Nothing."]),
]


FILLERS = [sample(n, f"country place {n}", f"land {n}", [f"Place {n} is in land {n}."]) for n in range(4, SAMPLES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wikihop")
    (folder / "dev.json.gz").write_bytes(gzip.compress(json.dumps(SPECIAL + FILLERS).encode(), 1))
    return folder


@pytest.fixture(scope="module")
def answer(folder):
    return load_wikihop(folder)


def relevant_texts(task, number: int) -> list[str]:
    return [task.candidates[index].text for index in task.relevance[f"WH_dev_{number}"]]


def test_wikihop_answers_are_the_samples_own_passages_that_contain_the_answer(answer):
    assert relevant_texts(answer, 0) == [BORN, "London is old."]
    assert relevant_texts(answer, 2) == ["A house, in German: Haus."]
    assert relevant_texts(answer, 3) == ["Here is a b c."]


def test_wikihop_has_two_nested_label_sets_over_the_same_questions_and_passages(folder, answer):
    topic = load_wikihop(folder, labels="any")
    assert relevant_texts(topic, 0) == [BORN, "London is old.", "Byron was a poet."]
    assert (topic.queries, topic.candidates) == (answer.queries, answer.candidates)
    assert all(set(answer.relevance[one]) <= set(topic.relevance[one]) for one in answer.relevance)
    assert (answer.name, topic.name) == ("wikihop:answer (derived)", "wikihop:any (derived)")
    assert answer.fingerprint != topic.fingerprint


def test_a_wikihop_sample_whose_passages_lack_the_answer_is_left_out_and_counted(answer):
    assert answer.left_out == {"no passage of the sample contains the answer": 1}
    assert "WH_dev_1" not in answer.relevance


def test_passages_of_other_wikihop_samples_with_subject_and_answer_are_not_ranked(answer):
    assert [answer.candidates[index].text for index in answer.ignored["WH_dev_2"]] == [BORN]
    assert "WH_dev_0" not in answer.ignored
    assert "derived from WikiHop" in answer.note


def test_wikihop_passages_are_distinct(answer):
    texts = [candidate.text for candidate in answer.candidates]
    assert len(texts) == len(set(texts)) == 7 + len(FILLERS)


def test_wikihop_questions_are_sentences():
    assert question("place_of_birth", "ada byron") == "Where was ada byron born?"
    assert question("located_in_time_zone", "{relation}") == "What is the located in time zone of {relation}?"
    assert all(text.count("{subject}") == 1 and text.endswith("?") for text in (*TEMPLATES.values(), GENERAL))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (SPECIAL, r"has 4 samples, 4 different ones; WikiHop's development set has 5,129"),
        ([{"id": "1"}], "not WikiHop's JSON"),
        ({"data": 1}, "not WikiHop's JSON"),
        ([sample(1, "country", "x", [])], "has no subject"),
        ([sample(n, "country x", f"___MASK{n}___", ["x"]) for n in range(SAMPLES)], "masked variant"),
    ],
)
def test_a_file_that_is_not_of_wikihop_is_refused(tmp_path, entries, message):
    (tmp_path / "dev.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match=message):
        load_wikihop(tmp_path)


def test_the_error_of_a_missing_wikihop_file_says_what_to_fetch_and_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match=r"has no dev\.json, .* Fetch qangaroo_v1\.1\.zip.*into the folder"):
        load_wikihop(tmp_path)
