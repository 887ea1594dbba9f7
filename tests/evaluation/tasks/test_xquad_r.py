"""XQuAD-R as it ships in shards/demo: equal to the paper's, and every deviation is an error that names it."""

import gzip
import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.evaluation.tasks.xquad_r import CANDIDATES, load_xquad_r

FOLDER = Path(__file__).parents[3] / "shards" / "demo" / "xquad-r"


@pytest.fixture(scope="module")
def task() -> RetrievalTask:
    return load_xquad_r(FOLDER)


def test_counts_equal_those_of_the_paper(task):
    assert sum(CANDIDATES.values()) == len(task.candidates) == 13_014
    assert Counter(candidate.language for candidate in task.candidates) == CANDIDATES
    assert Counter(query.language for query in task.queries) == dict.fromkeys(CANDIDATES, 1190)


def test_each_question_has_one_relevant_candidate_per_language(task):
    assert len(task.relevance) == 1190
    for indices in task.relevance.values():
        assert tuple(task.candidates[index].language for index in indices) == task.languages
    assert task.relevant.shape == (13_090, 11)
    assert (task.relevant >= 0).all()


def test_an_english_answer_is_in_its_relevant_sentence(task):
    question = next(
        query for query in task.queries if query.id == "56beb4343aeaaa14008c925b" and query.language == "en"
    )
    index = task.relevance[question.id][task.languages.index("en")]
    assert question.text == "How many points did the Panthers defense surrender?"
    assert "gave up just 308 points" in task.candidates[index].text


def test_candidates_are_not_deduplicated_and_their_identities_are_unique(task):
    identities = {candidate[:3] for candidate in task.candidates}
    texts = {(candidate.language, candidate.text) for candidate in task.candidates}
    assert len(identities) == len(task.candidates) > len(texts)


def test_ids_ascend_with_the_index(task):
    assert task.candidate_ids == sorted(set(task.candidate_ids))
    assert task.candidate_ids[task.candidate_slices["en"].start] == "en-000000"
    assert len(set(task.query_ids)) == 13_090


def test_cutting_questions_keeps_the_same_questions_in_all_languages_and_all_candidates(task):
    cut = task.cut(questions=50)
    remaining = {language: [q.id for q in cut.queries if q.language == language] for language in cut.languages}
    assert cut.candidates == task.candidates
    assert set(map(tuple, remaining.values())) == {tuple(cut.relevance)}
    assert len(cut.relevance) == 50
    assert cut.cut_to.questions == 50
    assert cut.cut_to.languages is None


def test_cut_questions_are_spread_evenly_over_the_file(task):
    order = list(task.relevance)
    indices = [order.index(question) for question in task.cut(questions=50).relevance]
    gaps = {after - before for before, after in pairwise(indices)}
    assert gaps <= {23, 24}  # 1190 / 50 = 23.8
    assert indices[0] in (11, 12)


def test_cutting_languages_cuts_queries_and_candidates(task):
    cut = task.cut(languages=["en", "ar"])
    assert cut.languages == ("ar", "en")
    assert len(cut.queries) == 2 * 1190
    assert len(cut.candidates) == CANDIDATES["ar"] + CANDIDATES["en"]
    question = next(iter(task.relevance))
    candidates = [task.candidates[index] for index in task.relevance[question]]
    assert [cut.candidates[index] for index in cut.relevance[question]] == [
        candidate for candidate in candidates if candidate.language in cut.languages
    ]


def test_a_cut_that_cuts_nothing_is_the_task_itself(task):
    assert task.cut(languages=list(CANDIDATES), questions=1190) is task


def test_the_error_of_an_unknown_language_lists_the_known_ones(task):
    with pytest.raises(ConfigError, match=r"no language fr.*ar, de, el, en"):
        task.cut(languages=["en", "fr"])


@pytest.mark.parametrize("questions", [0, 1191])
def test_no_questions_or_more_than_the_task_has_are_refused(task, questions):
    with pytest.raises(ConfigError, match="from 1 to 1190"):
        task.cut(questions=questions)


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "xquad-r"))


def change(path: Path, edit: Any) -> None:
    document = json.loads(gzip.decompress(path.read_bytes()))
    edit(document["data"][0]["paragraphs"][0])
    path.write_bytes(gzip.compress(json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda paragraph: paragraph["sentence_breaks"].append([0, 0]), "1277 sentences; expected 1190 and 1276"),
        (lambda paragraph: paragraph["qas"].pop(), "1189 questions, 1189 different ones"),
        (lambda paragraph: paragraph["qas"].reverse(), "other question ids than ar.json, or another order"),
        (
            lambda paragraph: paragraph.pop("sentence_breaks"),
            "de.json.gz is not .* paragraph 0.0 has no sentence_breaks",
        ),
        (lambda paragraph: paragraph["qas"][0]["answers"][0].update(answer_start=10**6), "starts in 0 sentences"),
    ],
)
def test_a_file_that_is_not_of_xquad_r_is_refused(copy, edit, message):
    change(copy / "de.json.gz", edit)
    with pytest.raises(DataError, match=message):
        load_xquad_r(copy)


def test_the_error_of_a_missing_file_names_the_file(copy):
    (copy / "th.json.gz").unlink()
    with pytest.raises(DataError, match=r"has no th\.json, plain or gzipped"):
        load_xquad_r(copy)


def test_the_error_of_a_damaged_file_names_the_file(copy):
    data = bytearray((copy / "tr.json.gz").read_bytes())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    (copy / "tr.json.gz").write_bytes(data)
    with pytest.raises(DataError, match=r"tr\.json\.gz cannot be read"):
        load_xquad_r(copy)


def test_plain_json_is_read_too(copy, task):
    plain = gzip.decompress((copy / "zh.json.gz").read_bytes())
    (copy / "zh.json.gz").unlink()
    (copy / "zh.json").write_bytes(plain)
    assert load_xquad_r(copy) == task


def test_xquad_r_with_paragraphs_differs_in_the_texts_alone():
    alone, both = load_xquad_r(FOLDER), load_xquad_r(FOLDER, with_paragraph=True)
    assert (both.name, alone.name) == ("xquad-r:paragraph", "xquad-r")
    assert both.relevance == alone.relevance
    assert both.queries == alone.queries
    for sentence, candidate in zip(alone.candidates, both.candidates, strict=True):
        assert candidate[:3] == sentence[:3]
        first, _, paragraph = candidate.text.partition("\n")
        assert first == sentence.text.partition("\n")[0]
        assert sentence.text in paragraph
