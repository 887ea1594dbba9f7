"""Parallel sentences as lines, as JSON objects with ids and as columns of a table."""

from pathlib import Path

import numpy as np
import pytest
from task_files import json_lines, write_text

from hbdist.errors import DataError
from hbdist.evaluation.metrics.summary import summarise
from hbdist.evaluation.search.in_memory import rank_in_memory
from hbdist.evaluation.tasks.parallel import load_parallel


def write_files(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        write_text(folder / name.replace("_", "."), text)
    return folder


def jsonl(**texts: str) -> str:
    return json_lines(*({"id": one, "text": text} for one, text in texts.items()))


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


def test_languages_are_written_as_in_shards(tmp_path):
    task = load_parallel(
        write_files(tmp_path / "files", **{"pt-BR_txt": "um\n", "zh-Hans_txt": "一\n", "en_txt": "one\n"})
    )
    assert task.languages == ("en", "pt_BR", "zh_Hans")
    assert task.cut(languages=["zh-Hans", "pt_BR"]).languages == ("pt_BR", "zh_Hans")
    (tmp_path / "table.tsv").write_text("pt-BR\tzh-Hans\num\t一\n")
    assert load_parallel(tmp_path / "table.tsv").languages == ("pt_BR", "zh_Hans")


def test_pairs_of_such_languages_are_named_by_two_codes(tmp_path):
    task = load_parallel(write_files(tmp_path / "files", **{"pt-BR_txt": "um\n", "zh-Hans_txt": "一\n"}))
    ranking = rank_in_memory(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), task)
    assert sorted(summarise(ranking, task)["by_pair"]) == ["pt_BR-zh_Hans", "zh_Hans-pt_BR"]


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
        ({"de_jsonl": '{"id": null, "text": "x"}\n', "en_jsonl": jsonl(a="y")}, "line 1: found no text under id among"),
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
        ("pt-BR\tpt_BR\n", "expected the languages"),
        ("hello\thallo\nhouse\tHaus\n", "begins with .*; expected the languages"),
        ("de\ten\nx\n", "line 2: found 1 columns"),
    ],
)
def test_a_table_without_languages_or_with_ragged_lines_is_refused(tmp_path, text, message):
    (tmp_path / "x.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_parallel(tmp_path / "x.tsv")


def test_two_spellings_of_a_language_are_refused(tmp_path):
    for name in ("pt-BR", "pt_BR"):
        write_text(tmp_path / f"{name}.txt", "um\n")
    with pytest.raises(DataError, match="two files of pt_BR; expected one"):
        load_parallel(tmp_path)
