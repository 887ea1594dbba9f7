"""MIRACL and BEIR, read from small folders in their published formats: labels and ids as published, damage refused."""

import gzip
import json
from pathlib import Path

import pytest

from hbdist.errors import DataError
from hbdist.evaluation.tasks.beir import load_beir
from hbdist.evaluation.tasks.miracl import load_miracl


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def passage(docid: str, text: str) -> dict[str, str]:
    return {"docid": docid, "title": f"title of {docid}", "text": text}


@pytest.fixture
def miracl(tmp_path) -> Path:
    """Folder with Swahili in two numbered files, and Yoruba gzipped and without subfolders; question 7 is in both."""
    folder = tmp_path / "miracl"
    write(folder / "subset.txt", "tiny-1\n")
    write(folder / "topics/topics.miracl-v1.0-sw-dev.tsv", "7\tnani?\n12#0\tlini?\n3\twapi?\n")
    write(
        folder / "qrels/qrels.miracl-v1.0-sw-dev.tsv",
        "7\tQ0\t39#0\t1\n7\tQ0\t39#1\t0\n12#0\tQ0\t4#10\t1\n12#0\tQ0\t39#0\t1\n3\tQ0\t39#1\t0\n",
    )
    corpus = folder / "miracl-corpus-v1.0-sw"
    write(corpus / "docs-10.jsonl.gz", lines(passage("4#10", "the last")))
    write(corpus / "docs-2.jsonl.gz", lines(passage("39#0", "mtu"), passage("39#1", "mji")))
    write(folder / "topics.miracl-v1.0-yo-dev.tsv.gz", "7\tta ni?\n")
    write(folder / "qrels.miracl-v1.0-yo-dev.tsv.gz", "7\tQ0\t39#0\t1\n")
    write(folder / "miracl-corpus-v1.0-yo/docs-0.jsonl", lines(passage("1#0", "a"), passage("39#0", "b")))
    return folder


def relevant_ids(task, query: str) -> list[str]:
    row = task.query_ids.index(query)
    return [task.candidate_ids[index] for index in task.relevance[task.queries[row].id]]


def test_miracl_reads_topics_judgements_and_corpora_with_their_published_ids(miracl):
    task = load_miracl(miracl)
    assert task.languages == ("sw", "yo")
    assert list(task.candidate_ids) == ["sw-39#0", "sw-39#1", "sw-4#10", "yo-1#0", "yo-39#0"]
    assert task.query_ids == ["sw-sw:7", "sw-sw:12#0", "yo-yo:7"]
    assert relevant_ids(task, "sw-sw:7") == ["sw-39#0"]
    assert sorted(relevant_ids(task, "sw-sw:12#0")) == ["sw-39#0", "sw-4#10"]
    assert relevant_ids(task, "yo-yo:7") == ["yo-39#0"]
    assert task.candidates[0].text == "title of 39#0 mtu"
    assert task.metrics[:2] == ("ndcg@10", "recall@100")


def test_a_miracl_question_without_a_relevant_passage_is_left_out_and_counted(miracl):
    assert load_miracl(miracl).left_out == {"no passage judged relevant": 1}


def test_a_miracl_subset_bears_its_name_and_says_that_it_cannot_be_compared(miracl):
    task = load_miracl(miracl)
    assert task.name == "miracl-subset:tiny-1"
    assert "not comparable" in task.note


def test_a_miracl_subset_may_lack_passages_that_are_judged_irrelevant(miracl):
    write(miracl / "miracl-corpus-v1.0-sw/docs-2.jsonl.gz", lines(passage("39#0", "mtu")))
    assert list(load_miracl(miracl).candidate_ids)[:2] == ["sw-39#0", "sw-4#10"]


def test_a_miracl_corpus_that_is_not_whole_needs_a_name(miracl):
    (miracl / "subset.txt").unlink()
    with pytest.raises(DataError, match=r"sw 3 of 131,924, yo 2 of 49,043 passages.*subset\.txt"):
        load_miracl(miracl)


def test_miracl_questions_translated_into_another_language_make_a_cross_lingual_pair(miracl):
    write(miracl / "topics/topics.miracl-v1.0-sw-dev.en.tsv", "7\twho?\n12#0\twhen?\n")
    task = load_miracl(miracl)
    assert task.languages == ("en", "sw", "yo")
    assert task.query_ids[:2] == ["en-sw:7", "en-sw:12#0"]
    assert relevant_ids(task, "en-sw:7") == ["sw-39#0"]
    assert task.candidate_slices["en"] == slice(0, 0)
    assert [query.language for query in task.cut(languages=["en", "yo"]).queries] == ["yo"]


def test_only_the_named_languages_of_miracl_are_read(miracl):
    write(miracl / "miracl-corpus-v1.0-sw/docs-2.jsonl.gz", "damage\n")
    task = load_miracl(miracl, languages=["yo"])
    assert task.languages == ("yo",)
    assert task.cut(languages=["yo"]) is task


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("miracl-corpus-v1.0-sw/docs-10.jsonl.gz", lines(passage("4#11", "x")), "lacks 1 of 2 relevant passages.*4#10"),
        ("miracl-corpus-v1.0-sw/docs-3.jsonl.gz", lines(passage("39#0", "x")), "have the id of another"),
        ("miracl-corpus-v1.0-sw/docs-2.jsonl.gz", '{"_id": "1"}\n', r"line 1: found no text under docid among _id"),
        ("topics/topics.miracl-v1.0-sw-dev.tsv", "7 nani?\n", r"line 1: found no tab in '7 nani\?'; expected id <tab>"),
        ("topics/topics.miracl-v1.0-sw-dev.tsv", "7\tnani?\n", "1 questions that are not among its topics.*sw:12#0"),
        ("topics/topics.miracl-v1.0-sw-dev.tsv", "7\ta\n7\tb\n", "the id 7 occurs twice"),
        ("qrels/qrels.miracl-v1.0-sw-dev.tsv", "7\t39#0\t1\n", "line 1: found 3 columns; expected 4"),
        ("qrels/qrels.miracl-v1.0-sw-dev.tsv", "7\tQ0\t39#0\tyes\n", "found the judgement 'yes'; expected a whole"),
    ],
)
def test_a_damaged_or_incomplete_miracl_file_is_refused(miracl, path, text, message):
    write(miracl / path, text)
    with pytest.raises(DataError, match=message):
        load_miracl(miracl)


def test_errors_name_what_a_miracl_folder_lacks(miracl, tmp_path):
    with pytest.raises(DataError, match=r"no corpus of MIRACL in th.*It has sw, yo"):
        load_miracl(miracl, languages=["th"])
    (miracl / "qrels/qrels.miracl-v1.0-sw-dev.tsv").unlink()
    with pytest.raises(DataError, match=r"no qrels/qrels\.miracl-v1\.0-sw-dev\.tsv"):
        load_miracl(miracl)
    with pytest.raises(DataError, match=r"It has none.*hbdist data fetch miracl"):
        load_miracl(tmp_path / "nowhere")


@pytest.fixture
def beir(tmp_path) -> Path:
    folder = tmp_path / "arguments"
    corpus = [{"_id": f"d{n}", "title": "T" if n else "", "text": f"text {n}", "metadata": {}} for n in range(4)]
    write(folder / "corpus.jsonl", lines(*corpus, {"_id": "q2", "text": "an argument"}))
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(4)]
    write(folder / "queries.jsonl.gz", lines(*queries))
    write(
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
            lines({"_id": "d0", "text": "x"}),
            "lacks 3 relevant documents that its judgements name, such as d2",
        ),
        ("corpus.jsonl", lines({"_id": "d 0", "text": "x"}), "TREC files cannot hold"),
        ("corpus.jsonl", lines(["d0", "x"]), "line 1: found a list; expected an object"),
        ("queries.jsonl.gz", lines({"_id": "q0", "text": "x"}), "lacks 2 queries that its judgements name, such as q1"),
        ("queries.jsonl.gz", lines({"_id": "q0"}), "line 1: found no text under text"),
        ("queries.jsonl.gz", lines(*[{"_id": "q0", "text": "x"}] * 2), "line 2: the id q0 occurs twice"),
        ("qrels/test.tsv", "q0\td0\t1.5\n", "line 1: found the judgement '1.5'; expected a whole number"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0\n", "no query with a relevant document"),
    ],
)
def test_a_damaged_or_incomplete_beir_file_is_refused(beir, path, text, message):
    write(beir / path, text)
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
