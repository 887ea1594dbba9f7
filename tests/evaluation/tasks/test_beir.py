"""BEIR, read from a small folder in its published format: labels and ids as published, damage refused."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from task_files import json_lines, write_text
from trec import evaluate_trec

from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import DataError
from hbdist.evaluation.metrics.per_query import read_per_query, values_of
from hbdist.evaluation.metrics.retrieval import Ranking
from hbdist.evaluation.metrics.summary import summarise
from hbdist.evaluation.output import Evaluation, write_scores
from hbdist.evaluation.search.embeddings import Parts
from hbdist.evaluation.search.in_memory import rank_in_memory
from hbdist.evaluation.search.rank import PartRanker
from hbdist.evaluation.tasks.beir import METRICS, load_beir


@pytest.fixture
def beir(tmp_path) -> Path:
    folder = tmp_path / "arguments"
    corpus = [{"_id": f"d{n}", "title": "T" if n else "", "text": f"text {n}", "metadata": {}} for n in range(4)]
    write_text(folder / "corpus.jsonl", json_lines(*corpus, {"_id": "q2", "text": "query 2"}))
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
    assert task.note.startswith("for 1 queries, the document with the query's id is not ranked, as in BEIR")


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


def folder_of(root: Path, corpus: dict, queries: dict, qrels: list) -> Path:
    write_text(root / "corpus.jsonl", json_lines(*({"_id": one, "text": text} for one, text in corpus.items())))
    write_text(root / "queries.jsonl", json_lines(*({"_id": one, "text": text} for one, text in queries.items())))
    lines = "".join("\t".join(map(str, row)) + "\n" for row in qrels)
    write_text(root / "qrels/test.tsv", f"query-id\tcorpus-id\tscore\n{lines}")
    return root


def score(task, *, in_parts: bool) -> tuple[dict, Ranking]:
    """Return the monolingual scores and the ranking of random embeddings, in memory or from parts on disk."""
    generator = np.random.default_rng(3)
    query_QD, candidate_CD = (
        generator.normal(size=(count, 8)).astype(np.float32) for count in (len(task.queries), len(task.candidates))
    )
    if not in_parts:
        ranking = rank_in_memory(query_QD, candidate_CD, task)
    else:
        parts = Parts(len(candidate_CD), 7, "float32")
        for number in parts.numbers:
            parts.write(number, candidate_CD[parts.span(number).start : parts.span(number).stop])
        ranking = PartRanker(query_QD, parts, task, ProcessGroup()).rank_exactly()
    return summarise(ranking, task)["monolingual"], ranking


@pytest.mark.parametrize("in_parts", [False, True])
def test_documents_that_the_corpus_lacks_count_as_in_trec_eval(tmp_path, in_parts):
    corpus = {f"d{n:02}": f"text {n}" for n in range(30)}
    qrels = [
        ("q0", "d01", 2),
        ("q0", "gone", 3),
        ("q1", "gone", 1),
        ("q2", "d05", 1),
        ("q2", "d07", 1),
        ("lost", "d01", 1),
    ]
    task = load_beir(folder_of(tmp_path, corpus, {f"q{n}": f"query {n}" for n in range(3)}, qrels))
    assert [query.id for query in task.queries] == ["q0", "q1", "q2"]
    assert task.absent == {"q0": {"gone": 3}, "q1": {"gone": 1}}
    assert task.left_out == {"judged, but not in queries.jsonl": 1}
    assert task.note == (
        "2 relevant documents of 2 queries are not in the corpus: they count as never found, as in trec_eval"
    )
    scores, ranking = score(task, in_parts=in_parts)
    write_scores(tmp_path / "out", Evaluation({"task_fingerprint": task.fingerprint}, ranking), task)
    per_query = evaluate_trec(tmp_path / "out", ("ndcg_cut.10", "map", "recall.10", "recall.100", "recip_rank"))
    for ours, theirs in zip(METRICS, ("ndcg_cut_10", "map", "recall_10", "recall_100", "recip_rank"), strict=True):
        assert scores[ours] == pytest.approx(np.mean([values[theirs] for values in per_query.values()]), abs=1e-12)
    assert scores["recall@100"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    kept = values_of(read_per_query(tmp_path / "out", task.fingerprint), "monolingual", "map")
    assert kept.value_V.mean() == pytest.approx(scores["map"])


def test_a_cut_keeps_questions_whose_answers_are_absent(tmp_path):
    for language in ("en", "pt-BR"):
        queries = {f"q{n}": "?" for n in range(3)}
        folder_of(tmp_path / language, {"d": "x"}, queries, [(query, "gone", 1) for query in queries])
    task = load_beir(tmp_path).cut(languages=["pt-BR"], questions=2)
    assert task.languages == ("pt_BR",)
    assert task.query_ids == ["pt_BR-pt_BR:q0", "pt_BR-pt_BR:q2"]
    assert task.absent == {query.id: {"gone": 1} for query in task.queries}


def test_the_fingerprint_of_a_whole_folder_is_that_of_earlier_versions(beir):
    assert load_beir(beir).fingerprint != replace(load_beir(beir), absent={"q0": {"x": 1}}).fingerprint
    values = asdict(replace(load_beir(beir), candidates=()))
    del values["absent"]
    values["candidates"] = load_beir(beir).candidates.digest
    text = json.dumps(values, ensure_ascii=False)
    assert load_beir(beir).fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_ids_and_scores_may_be_numbers(tmp_path):
    write_text(tmp_path / "corpus.jsonl", json_lines({"_id": 7, "text": "x"}, {"_id": "8", "text": "y"}))
    write_text(tmp_path / "queries.jsonl", json_lines({"_id": 1, "text": "q"}))
    write_text(tmp_path / "qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\t7\t1.0\n1\t8\t2.0\n")
    task = load_beir(tmp_path)
    assert [task.candidates[index].id for index in task.relevance["1"]] == ["7", "8"]
    assert task.grades == {"1": (1, 2)}


def test_queries_and_documents_that_are_numbered_alike_lose_no_answer(tmp_path):
    numbers = range(10)
    qrels = [(n, n, 1) for n in numbers] + [(n, (n + 1) % 10, 1) for n in numbers]
    task = load_beir(
        folder_of(tmp_path, {str(n): f"answer {n}" for n in numbers}, {str(n): f"question {n}" for n in numbers}, qrels)
    )
    assert {len(indices) for indices in task.relevance.values()} == {2}
    assert not task.ignored
    assert task.note.startswith(
        "10 queries have the id of a relevant document with another text: ids of queries and of"
    )
    scores, _ = score(task, in_parts=False)
    assert scores["recall@10"] == 1


def test_queries_that_are_only_judged_relevant_to_themselves_are_left_out_with_that_reason(tmp_path):
    texts = {str(n): f"text {n}" for n in range(3)}
    task = load_beir(folder_of(tmp_path, texts, texts, [("0", "0", 1), ("1", "1", 1), ("1", "2", 1)]))
    assert task.relevance == {"1": (2,)}
    assert task.left_out == {"only the query itself is judged relevant": 1, "no judgement in the split": 1}
    assert "the document with the query's id is not ranked" in task.note


def test_of_two_judgements_of_a_document_the_later_one_counts(tmp_path):
    qrels = [("q", "a", 1), ("q", "b", 1), ("q", "a", 0), ("q", "b", 2)]
    task = load_beir(folder_of(tmp_path, {"a": "x", "b": "y"}, {"q": "?"}, qrels))
    assert (task.relevance["q"], task.grades["q"]) == ((1,), (2,))


def test_two_spellings_of_a_language_are_refused(tmp_path):
    for language in ("pt-BR", "pt_BR"):
        folder_of(tmp_path / language, {"d": "x"}, {"q": "?"}, [("q", "d", 1)])
    with pytest.raises(DataError, match=r"two folders of one language among pt-BR, pt_BR"):
        load_beir(tmp_path)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("corpus.jsonl", json_lines({"_id": "d 0", "text": "x"}), "TREC files cannot hold"),
        ("corpus.jsonl", json_lines(["d0", "x"]), "line 1: found a list; expected an object"),
        ("queries.jsonl.gz", json_lines({"_id": "q0"}), "line 1: found no text under text"),
        ("queries.jsonl.gz", json_lines(*[{"_id": "q0", "text": "x"}] * 2), "line 2: the id q0 occurs twice"),
        ("qrels/test.tsv", "q0\td0\t1.5\n", r"line 1: found the judgement 1\.5; expected a whole number"),
        ("qrels/test.tsv", "q0\td0\t1e300\n", r"line 1: found the judgement 1e\+300; expected a whole number"),
        ("qrels/test.tsv", "q0\td0\tnan\n", "line 1: found the judgement 'nan'; expected a number"),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\td1\t0\nx\td1\t1\n",
            r"no query with a relevant document in the split test \(queries left out: 1, judged, but not in queries\.jsonl;"
            r" 3, no judgement in the split; 1, no document judged relevant\)",
        ),
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
