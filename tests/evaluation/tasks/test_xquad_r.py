"""XQuAD-R as it ships in shards/demo: exactly the paper's, or an error that names what is not."""

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


def test_counts_are_exactly_the_papers(task):
    assert sum(CANDIDATES.values()) == len(task.candidates) == 13_014
    assert Counter(candidate.language for candidate in task.candidates) == CANDIDATES
    assert Counter(query.language for query in task.queries) == dict.fromkeys(CANDIDATES, 1190)


def test_each_question_has_exactly_11_relevant_one_a_language(task):
    assert len(task.relevance) == 1190
    for places in task.relevance.values():
        assert tuple(task.candidates[place].language for place in places) == task.languages
    assert task.relevant.shape == (13_090, 11)
    assert (task.relevant >= 0).all()


def test_an_english_answer_stands_in_its_relevant_sentence(task):
    question = next(
        query for query in task.queries if query.id == "56beb4343aeaaa14008c925b" and query.language == "en"
    )
    place = task.relevance[question.id][task.languages.index("en")]
    assert question.text == "How many points did the Panthers defense surrender?"
    assert "gave up just 308 points" in task.candidates[place].text


def test_candidates_are_not_deduplicated_and_their_identities_are_unique(task):
    identities = {candidate[:3] for candidate in task.candidates}
    texts = {(candidate.language, candidate.text) for candidate in task.candidates}
    assert len(identities) == len(task.candidates) > len(texts)


def test_ids_ascend_with_the_place_in_the_pool(task):
    assert task.candidate_ids == sorted(set(task.candidate_ids))
    assert task.candidate_ids[task.candidate_slices["en"].start] == "en-000000"
    assert len(set(task.query_ids)) == 13_090


def test_cutting_questions_keeps_the_same_in_all_languages_and_all_candidates(task):
    cut = task.cut(questions=50)
    kept = {language: [q.id for q in cut.queries if q.language == language] for language in cut.languages}
    assert cut.candidates == task.candidates
    assert set(map(tuple, kept.values())) == {tuple(cut.relevance)}
    assert len(cut.relevance) == 50
    assert cut.cut_to.questions == 50
    assert cut.cut_to.languages is None


def test_cut_questions_are_spread_evenly_over_the_file(task):
    order = list(task.relevance)
    places = [order.index(question) for question in task.cut(questions=50).relevance]
    gaps = {after - before for before, after in pairwise(places)}
    assert gaps <= {23, 24}  # 1190 / 50 = 23.8
    assert places[0] in (11, 12)


def test_cutting_languages_cuts_queries_and_candidates(task):
    cut = task.cut(languages=["en", "ar"])
    assert cut.languages == ("ar", "en")
    assert len(cut.queries) == 2 * 1190
    assert len(cut.candidates) == CANDIDATES["ar"] + CANDIDATES["en"]
    question = next(iter(task.relevance))
    whole = [task.candidates[place] for place in task.relevance[question]]
    assert [cut.candidates[place] for place in cut.relevance[question]] == [
        candidate for candidate in whole if candidate.language in cut.languages
    ]


def test_a_cut_that_cuts_nothing_is_the_task_itself(task):
    assert task.cut(languages=list(CANDIDATES), questions=1190) is task


def test_an_unknown_language_is_named_with_those_that_exist(task):
    with pytest.raises(ConfigError, match=r"no language fr.*ar, de, el, en"):
        task.cut(languages=["en", "fr"])


@pytest.mark.parametrize("questions", [0, 1191])
def test_more_questions_than_there_are_or_none_are_refused(task, questions):
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
        (lambda paragraph: paragraph["sentence_breaks"].append([0, 0]), "1277 sentences; XQuAD-R has 1190 and 1276"),
        (lambda paragraph: paragraph["qas"].pop(), "1189 different questions"),
        (lambda paragraph: paragraph["qas"].reverse(), "other question ids than ar, or another order"),
        (lambda paragraph: paragraph.pop("sentence_breaks"), "not SQuAD JSON with sentence_breaks"),
        (lambda paragraph: paragraph["qas"][0]["answers"][0].update(answer_start=10**6), "starts in 0 sentences"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_refused(copy, edit, message):
    change(copy / "de.json.gz", edit)
    with pytest.raises(DataError, match=message):
        load_xquad_r(copy)


def test_a_missing_file_is_named(copy):
    (copy / "th.json.gz").unlink()
    with pytest.raises(DataError, match=r"neither th\.json nor th\.json\.gz"):
        load_xquad_r(copy)


def test_a_damaged_file_is_named(copy):
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
