"""WikiHop and parallel sentences, read from small generated files; and the registry of tasks."""

import gzip
import json
from pathlib import Path

import pytest

from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.tasks.parallel import load_parallel
from hbdist.evaluation.tasks.registry import NAMES, load_task
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


def write_files(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return folder


def jsonl(**texts: str) -> str:
    return "".join(json.dumps({"id": one, "text": text}) + "\n" for one, text in texts.items())


def test_lines_of_parallel_texts_correspond(tmp_path):
    task = load_parallel(
        write_files(tmp_path / "bible", de_txt="eins\nzwei\n", en_txt_gz="one\ntwo\n", sw_txt="moja\nmbili")
    )
    assert task.name == "parallel:bible"
    assert task.languages == ("de", "en", "sw")
    assert [query.text for query in task.queries] == ["eins", "zwei", "one", "two", "moja", "mbili"]
    assert [[task.candidates[index].text for index in indices] for indices in task.relevance.values()] == [
        ["eins", "one", "moja"],
        ["zwei", "two", "mbili"],
    ]
    assert task.settings == ("cross_lingual",)


def test_parallel_objects_correspond_by_id_and_untranslated_ones_are_not_queries(tmp_path):
    task = load_parallel(
        write_files(tmp_path / "flores", de_jsonl=jsonl(a="eins", c="drei"), en_jsonl=jsonl(b="two", a="one"))
    )
    assert [(query.id, query.text) for query in task.queries] == [("a", "eins"), ("a", "one")]
    assert [candidate.text for candidate in task.candidates] == ["eins", "drei", "two", "one"]
    assert task.relevance == {"a": (0, 3)}
    assert task.left_out == {"no translation (it stays a candidate)": 2}


def test_columns_of_a_table_correspond_and_may_be_empty(tmp_path):
    (tmp_path / "tatoeba.tsv").write_text("de\ten\tsw\neins\tone\t\nzwei\t\tmbili\n")
    task = load_parallel(tmp_path / "tatoeba.tsv")
    assert task.name == "parallel:tatoeba"
    assert [(query.language, query.text) for query in task.queries] == [
        *(("de", "eins"), ("de", "zwei"), ("en", "one"), ("sw", "mbili")),
    ]
    assert task.relevance == {"000000": (0, 2), "000001": (1, 3)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"de_txt": "eins\nzwei\n", "en_txt": "one\n"}, "different numbers of lines: {'de': 2, 'en': 1}"),
        ({"de_txt": "eins\n\nzwei\n", "en_txt": "one\n\ntwo\n"}, r"de\.txt, line 2: found a blank line"),
        ({"de_txt": "eins\n", "en_jsonl": jsonl(a="one")}, "both .txt and .jsonl"),
        ({"de_txt": "eins\n", "de_txt_gz": "eins\n"}, "two files of de"),
        ({"de_txt": "eins\n"}, "has sentences in de; expected two or more"),
        ({"README": "x"}, "has sentences in no language"),
        ({"de_jsonl": jsonl(a="x"), "en_jsonl": jsonl(b="y")}, "no sentence in two languages"),
        ({"de_jsonl": jsonl(a="x") * 2, "en_jsonl": jsonl(a="y")}, r"de\.jsonl, line 2: the id a occurs twice"),
        ({"de_jsonl": '{"id": 1}\n', "en_jsonl": jsonl(a="y")}, r"de\.jsonl, line 1: found no text under text"),
    ],
)
def test_parallel_files_that_do_not_correspond_are_refused(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        load_parallel(write_files(tmp_path / "texts", **files))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the languages"),
        ("de\tde\n", "expected the languages"),
        ("de\ten\nx\n", "line 2: found 1 columns"),
    ],
)
def test_a_table_without_languages_or_with_ragged_lines_is_refused(tmp_path, text, message):
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_parallel(tmp_path / "x.tsv")


def test_the_registry_loads_tasks_by_name(folder, tmp_path):
    write_files(tmp_path / "two", de_txt="eins\n", en_txt="one\n")
    assert load_task(f"parallel:{tmp_path / 'two'}").name == "parallel:two"
    assert load_task("wikihop", folder).name == "wikihop:answer (derived)"
    assert load_task("wikihop:any", folder).name == "wikihop:any (derived)"
    assert load_task("xquad-r:paragraph").name == "xquad-r:paragraph"
    for name in ("mlqa-r", "miracl", "tydiqa", "wikihop", f"beir:{tmp_path}", f"parallel:{tmp_path}"):
        with pytest.raises(DataError):
            load_task(name, None if ":" in name else tmp_path)


@pytest.mark.parametrize("name", ["xquad", "xquad-r:x", "miracl:sw", "wikihop:all", "beir:", "parallel", ""])
def test_the_error_of_an_unknown_task_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match=f"--task {name} is not known.*{NAMES[0]}"):
        load_task(name)


def test_two_folders_for_one_task_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Leave out --data"):
        load_task("beir:here", tmp_path)
