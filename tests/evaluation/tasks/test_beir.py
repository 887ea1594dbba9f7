"""BEIR, read from a small folder in its published format: labels and ids as published, damage refused."""

from pathlib import Path

import pytest
from task_files import json_lines, write_text

from hbdist.errors import DataError
from hbdist.evaluation.tasks.beir import load_beir


@pytest.fixture
def beir(tmp_path) -> Path:
    folder = tmp_path / "arguments"
    corpus = [{"_id": f"d{n}", "title": "T" if n else "", "text": f"text {n}", "metadata": {}} for n in range(4)]
    write_text(folder / "corpus.jsonl", json_lines(*corpus, {"_id": "q2", "text": "an argument"}))
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(4)]
    write_text(folder / "queries.jsonl.gz", json_lines(*queries))
    write_text(
        folder / "qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t2\nq0\td3\t1\nq1\td1\t0\nq2\td2\t1\nq2\tq2\t1\n"
    )
    return folder


def test_beir_grades_ids_and_titles_are_as_published(beir):
    task = load_beir(beir)
    assert task.name == "beir:arguments"
    assert [query.id for query in task.queries] == ["q0", "q2"]
    assert [task.candidates[index].id for index in task.relevance["q0"]] == ["d0", "d3"]
    assert task.grades == {"q0": (2, 1), "q2": (1,)}
    assert task.relevant_grade.tolist() == [[2, 1], [1, 0]]
    assert [candidate.text for candidate in task.candidates[:2]] == ["text 0", "T text 1"]
    assert task.candidate_ids[4] == "und-q2"
    assert task.metrics[0] == "ndcg@10"


def test_a_beir_document_with_the_id_of_a_query_is_neither_ranked_nor_relevant_for_it(beir):
    task = load_beir(beir)
    assert task.ignored == {"q2": (4,)}
    assert task.relevance["q2"] == (2,)


def test_beir_queries_without_judgements_or_relevant_documents_are_left_out_and_counted(beir):
    assert load_beir(beir).left_out == {"no judgement in the split": 1, "no document judged relevant": 1}


def test_beir_folders_named_by_language_are_one_task(beir):
    many = beir.parent / "many"
    many.mkdir()
    for language in ("sv", "en"):
        (many / language).symlink_to(beir)
    task = load_beir(many)
    assert task.languages == ("en", "sv")
    assert task.query_ids == ["en-en:q0", "en-en:q2", "sv-sv:q0", "sv-sv:q2"]
    assert task.candidate_ids[5] == "sv-d0"
    assert task.relevance["sv:q2"] == (7,)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (
            "corpus.jsonl",
            json_lines({"_id": "d0", "text": "x"}),
            "lacks 3 relevant documents that its judgements name, such as d2",
        ),
        ("corpus.jsonl", json_lines({"_id": "d 0", "text": "x"}), "TREC files cannot hold"),
        ("corpus.jsonl", json_lines(["d0", "x"]), "line 1: found a list; expected an object"),
        (
            "queries.jsonl.gz",
            json_lines({"_id": "q0", "text": "x"}),
            "lacks 2 queries that its judgements name, such as q1",
        ),
        ("queries.jsonl.gz", json_lines({"_id": "q0"}), "line 1: found no text under text"),
        ("queries.jsonl.gz", json_lines(*[{"_id": "q0", "text": "x"}] * 2), "line 2: the id q0 occurs twice"),
        ("qrels/test.tsv", "q0\td0\t1.5\n", "line 1: found the judgement '1.5'; expected a whole number"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0\n", "no query with a relevant document"),
    ],
)
def test_a_damaged_or_incomplete_beir_file_is_refused(beir, path, text, message):
    write_text(beir / path, text)
    with pytest.raises(DataError, match=message):
        load_beir(beir)


def test_errors_name_what_a_beir_folder_lacks(beir, tmp_path):
    with pytest.raises(DataError, match=r"has no qrels/dev\.tsv, plain or gzipped; beside it are test\.tsv"):
        load_beir(beir, split="dev")
    (beir / "queries.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"has no queries\.jsonl"):
        load_beir(beir)
    with pytest.raises(DataError, match=r"has no corpus\.jsonl"):
        load_beir(tmp_path / "nowhere")
