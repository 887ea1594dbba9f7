"""MIRACL, read from a small folder in its published format: labels and ids as published, damage refused."""

from pathlib import Path

import pytest
from task_files import json_lines, write_text

from hbdist.errors import DataError
from hbdist.evaluation.tasks.miracl import load_miracl


def passage(docid: str, text: str) -> dict[str, str]:
    return {"docid": docid, "title": f"title of {docid}", "text": text}


@pytest.fixture
def miracl(tmp_path) -> Path:
    """Folder with Swahili in two numbered files, and Yoruba gzipped and without subfolders; question 7 is in both."""
    folder = tmp_path / "miracl"
    write_text(folder / "subset.txt", "tiny-1\n")
    write_text(folder / "topics/topics.miracl-v1.0-sw-dev.tsv", "7\tnani?\n12#0\tlini?\n3\twapi?\n")
    write_text(
        folder / "qrels/qrels.miracl-v1.0-sw-dev.tsv",
        "7\tQ0\t39#0\t1\n7\tQ0\t39#1\t0\n12#0\tQ0\t4#10\t1\n12#0\tQ0\t39#0\t1\n3\tQ0\t39#1\t0\n",
    )
    corpus = folder / "miracl-corpus-v1.0-sw"
    write_text(corpus / "docs-10.jsonl.gz", json_lines(passage("4#10", "the last")))
    write_text(corpus / "docs-2.jsonl.gz", json_lines(passage("39#0", "mtu"), passage("39#1", "mji")))
    write_text(folder / "topics.miracl-v1.0-yo-dev.tsv.gz", "7\tta ni?\n")
    write_text(folder / "qrels.miracl-v1.0-yo-dev.tsv.gz", "7\tQ0\t39#0\t1\n")
    write_text(folder / "miracl-corpus-v1.0-yo/docs-0.jsonl", json_lines(passage("1#0", "a"), passage("39#0", "b")))
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


def test_translated_topics_are_in_languages_written_as_in_shards(miracl):
    write_text(miracl / "topics/topics.miracl-v1.0-sw-dev.pt-BR.tsv", "7\tquem?\n")
    assert load_miracl(miracl).languages == ("pt_BR", "sw", "yo")
    assert load_miracl(miracl, languages=["sw", "pt-BR"]).query_ids == ["pt_BR-sw:7", "sw-sw:7", "sw-sw:12#0"]


def test_a_miracl_question_without_a_relevant_passage_is_left_out_and_counted(miracl):
    assert load_miracl(miracl).left_out == {"no passage judged relevant": 1}


def test_a_miracl_subset_bears_its_name_and_says_that_it_cannot_be_compared(miracl):
    task = load_miracl(miracl)
    assert task.name == "miracl-subset:tiny-1"
    assert "not comparable" in task.note


def test_a_miracl_subset_may_lack_passages_that_are_judged_irrelevant(miracl):
    write_text(miracl / "miracl-corpus-v1.0-sw/docs-2.jsonl.gz", json_lines(passage("39#0", "mtu")))
    assert list(load_miracl(miracl).candidate_ids)[:2] == ["sw-39#0", "sw-4#10"]


def test_a_miracl_corpus_that_is_not_whole_needs_a_name(miracl):
    (miracl / "subset.txt").unlink()
    with pytest.raises(DataError, match=r"sw 3 of 131,924, yo 2 of 49,043 passages.*subset\.txt"):
        load_miracl(miracl)


def test_miracl_questions_translated_into_another_language_make_a_cross_lingual_pair(miracl):
    write_text(miracl / "topics/topics.miracl-v1.0-sw-dev.en.tsv", "7\twho?\n12#0\twhen?\n")
    task = load_miracl(miracl)
    assert task.languages == ("en", "sw", "yo")
    assert task.query_ids[:2] == ["en-sw:7", "en-sw:12#0"]
    assert relevant_ids(task, "en-sw:7") == ["sw-39#0"]
    assert task.candidate_slices["en"] == slice(0, 0)
    assert [query.language for query in task.cut(languages=["en", "yo"]).queries] == ["yo"]


def test_only_the_named_languages_of_miracl_are_read(miracl):
    write_text(miracl / "miracl-corpus-v1.0-sw/docs-2.jsonl.gz", "damage\n")
    task = load_miracl(miracl, languages=["yo"])
    assert task.languages == ("yo",)
    assert task.cut(languages=["yo"]) is task


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        (
            "miracl-corpus-v1.0-sw/docs-10.jsonl.gz",
            json_lines(passage("4#11", "x")),
            "lacks 1 of 2 relevant passages.*4#10",
        ),
        ("miracl-corpus-v1.0-sw/docs-3.jsonl.gz", json_lines(passage("39#0", "x")), "have the id of another"),
        ("miracl-corpus-v1.0-sw/docs-2.jsonl.gz", '{"_id": "1"}\n', r"line 1: found no text under docid among _id"),
        ("topics/topics.miracl-v1.0-sw-dev.tsv", "7 nani?\n", r"line 1: found no tab in '7 nani\?'; expected id <tab>"),
        ("topics/topics.miracl-v1.0-sw-dev.tsv", "7\tnani?\n", "1 questions that are not among its topics.*sw:12#0"),
        ("topics/topics.miracl-v1.0-sw-dev.tsv", "7\ta\n7\tb\n", "the id 7 occurs twice"),
        ("qrels/qrels.miracl-v1.0-sw-dev.tsv", "7\t39#0\t1\n", "line 1: found 3 columns; expected 4"),
        ("qrels/qrels.miracl-v1.0-sw-dev.tsv", "7\tQ0\t39#0\tyes\n", "found the judgement 'yes'; expected a number"),
    ],
)
def test_a_damaged_or_incomplete_miracl_file_is_refused(miracl, path, text, message):
    write_text(miracl / path, text)
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
