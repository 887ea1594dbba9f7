"""Evaluation: scores equal to those of pytrec_eval at full depth, their bounds, cuts and reuse. Encoders are small fakes."""

import gzip
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from rich.console import Console
from stand_ins import HashEncoder, made_task
from trec import trec_means

from hbdist.cli.score_tables import table
from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.evaluate import evaluate, evaluate_to, model_fingerprint
from hbdist.evaluation.metrics.bootstrap import compare
from hbdist.evaluation.metrics.per_query import read_per_query, values_of, write_per_query
from hbdist.evaluation.output import write_scores
from hbdist.evaluation.scores import METRICS, SETTINGS
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.evaluation.tasks.xquad_r import load_xquad_r

FOLDER = Path(__file__).parents[2] / "shards" / "demo" / "xquad-r"


class RandomEncoder:
    """Encoder that gives each text a random direction."""

    def encode(self, texts, kind, *, languages=None, progress=None):
        vector_ND = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            seed = int.from_bytes(hashlib.sha256(f"{kind} {text}".encode()).digest()[:8], "little")
            vector_ND[row] = np.random.default_rng(seed).standard_normal(64, dtype=np.float32)
        return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


class Oracle:
    """Encoder that knows the answers, with one dimension per question. Texts are ids and indices, as equal texts may be
    answers to different questions."""

    def __init__(self, task: RetrievalTask) -> None:
        questions = list(task.relevance)
        self.dimensions = len(questions)
        self.number = {name: [number] for number, name in enumerate(questions)}
        for number, answers in enumerate(task.relevance.values()):
            for index in answers:
                self.number.setdefault(f"candidate {index}", []).append(number)

    def encode(self, texts, kind, *, languages=None, progress=None):
        vector_ND = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            vector_ND[row, self.number.get(text, [])] = 1
        return vector_ND


def numbered(task: RetrievalTask) -> RetrievalTask:
    """Return the same task with texts for an oracle."""
    return replace(
        task,
        queries=tuple(query._replace(text=query.id) for query in task.queries),
        candidates=tuple(one._replace(text=f"candidate {index}") for index, one in enumerate(task.candidates)),
    )


@pytest.fixture(scope="module")
def whole() -> RetrievalTask:
    return load_xquad_r(FOLDER)


@pytest.fixture(scope="module")
def task(whole) -> RetrievalTask:
    return whole.cut(questions=5)


@pytest.fixture(scope="module")
def small(whole) -> RetrievalTask:
    return whole.cut(languages=["en", "th"], questions=3)


def expected_means(task: RetrievalTask, queries: str, candidates: slice) -> dict[str, float]:
    """Return pytrec_eval's means over the queries of one language, at full depth."""
    encoder, rows = HashEncoder(), task.query_slices[queries]
    query_QD = encoder.encode([query.text for query in task.queries[rows]], "query")
    score_QC = query_QD @ encoder.encode([c.text for c in task.candidates[candidates]], "document").T
    relevant_QR = task.relevant[rows]
    inside_QR = (relevant_QR >= candidates.start) & (relevant_QR < candidates.stop)
    return trec_means(score_QC, np.where(inside_QR, relevant_QR - candidates.start, -1))


@pytest.fixture(scope="module")
def scores(task):
    return evaluate(HashEncoder(), task, model="hash").scores


def test_multilingual_scores_equal_pytrec_eval_at_full_depth(task, scores):
    expected = {x: expected_means(task, x, slice(0, len(task.candidates))) for x in task.languages}
    for language in task.languages:
        found = {name: scores["by_language"][language][name] for name in METRICS}
        assert found == pytest.approx(expected[language], abs=1e-6)
    for name in METRICS:
        mean = np.mean([values[name] for values in expected.values()])
        assert scores["multilingual"][name] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(("x", "y"), [("en", "en"), ("en", "de"), ("de", "en"), ("th", "zh"), ("zh", "zh")])
def test_pairs_equal_pytrec_eval_over_the_candidates_of_one_language(task, scores, x, y):
    assert scores["by_pair"][f"{x}-{y}"] == pytest.approx(expected_means(task, x, task.candidate_slices[y]), abs=1e-6)


def test_averages_are_macro_over_11_languages_and_110_ordered_pairs(scores):
    pairs = {tuple(name.split("-")): values["map"] for name, values in scores["by_pair"].items()}
    mono, cross = ([v for (x, y), v in pairs.items() if (x == y) is same] for same in (True, False))
    assert (len(mono), len(cross)) == (11, 110)
    assert scores["monolingual"]["map"] == pytest.approx(np.mean(mono))
    assert scores["cross_lingual"]["map"] == pytest.approx(np.mean(cross))


def test_a_perfect_ranker_scores_1_and_has_rank_distance_10(task):
    scores = evaluate(Oracle(task), numbered(task), model="oracle").scores
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        assert scores[setting]["map"] == pytest.approx(1.0)
    assert scores["bias"]["rank_distance"] == scores["bias"]["rank_distance_median"] == 10.0
    assert scores["bias"]["rank_distance_perfect"] == 10.0
    assert scores["multilingual"]["recall@1"] == pytest.approx(1 / 11)
    assert scores["multilingual"]["recall@10"] == pytest.approx(10 / 11)


def test_random_embeddings_have_rank_distance_10846_and_no_language_preference(whole):
    bias = evaluate(RandomEncoder(), whole.cut(questions=40), model="random").scores["bias"]
    assert bias["rank_distance_random"] == pytest.approx(10_846, abs=1)
    # Each of 440 queries deviates by about 1,345 positions: four standard errors of their mean are 260.
    assert bias["rank_distance"] == pytest.approx(10_846, abs=260)
    assert bias["same_language_pool_share"] == pytest.approx(1 / 11)
    # The shares of 440 queries deviate by about 0.091 each: four standard errors are 0.017.
    assert bias["same_language_share@10"] == pytest.approx(1 / 11, abs=0.018)


def test_the_scores_say_what_was_cut_and_what_is_left(whole, small):
    assert evaluate(HashEncoder(), small, model="hash").scores["cut"] == {"languages": ["en", "th"], "questions": 3}
    cut = whole.cut(questions=3)
    scores = evaluate(HashEncoder(), cut, model="hash").scores
    assert scores["cut"] == {"questions": 3}
    assert scores["counts"] == {"queries": 33, "candidates": 13_014}


def test_one_language_has_neither_cross_lingual_scores_nor_bias(whole):
    scores = evaluate(HashEncoder(), whole.cut(languages=["en"], questions=3), model="hash").scores
    assert scores["cross_lingual"] is None
    assert scores["bias"] is None
    assert list(scores["by_pair"]) == ["en-en"]


@pytest.mark.parametrize("settings", [("monolingual",), ("cross_lingual",), ("monolingual", "cross_lingual"), SETTINGS])
def test_only_the_settings_of_the_task_have_intervals_and_can_be_compared(tmp_path, settings):
    task = made_task(settings=settings)
    found = evaluate(HashEncoder(), task, model="m")
    assert {setting for setting in SETTINGS if found.scores[setting]} == set(settings)
    assert {setting for setting in SETTINGS if setting in found.scores["confidence"]} == set(settings)
    write_scores(tmp_path, found, task)
    queries = read_per_query(tmp_path, task.fingerprint)
    assert set(compare([queries], [queries])) == set(settings)
    for setting in settings:
        values = values_of(queries, setting)
        means = [values.value_V[values.part_V == part].mean() for part in np.unique(values.part_V)]
        assert np.mean(means) == pytest.approx(found.scores[setting]["map"])


def test_where_no_question_has_two_answers_there_is_no_bias_and_the_scores_can_be_written(tmp_path):
    task = made_task()
    first = {name: answers[:1] for name, answers in task.relevance.items()}
    queries = tuple(query for query in task.queries if task.candidates[first[query.id][0]].language == query.language)
    alone = replace(task, queries=queries, relevance={query.id: first[query.id] for query in queries})
    found = evaluate(HashEncoder(), alone, model="m")
    assert found.scores["bias"] is None
    assert 0 < found.scores["multilingual"]["map"] < 1
    write_scores(tmp_path, found, alone)
    assert "multilingual" in shown(found.scores)


def test_the_main_metric_of_the_task_is_compared_and_shown():
    task = replace(made_task(settings=("monolingual",)), metrics=("ndcg@10", "recall@100"))
    found = evaluate(HashEncoder(), task, model="m").scores
    ((metric, (low, high)),) = found["confidence"]["monolingual"].items()
    assert metric == "ndcg@10"
    assert low < found["monolingual"]["ndcg@10"] < high
    text = shown(found)
    assert f"nDCG@10 {found['monolingual']['ndcg@10']:.3f} – – 95 % {low:.3f} to {high:.3f}" in re.sub(
        "[│ ]+", " ", text
    )
    assert "recall@100" in text
    assert "mAP" not in text
    assert "rank distance" not in text
    # Grades are not kept.
    graded = replace(task, grades={name: (2,) * len(answers) for name, answers in task.relevance.items()})
    assert set(evaluate(HashEncoder(), graded, model="m").scores["confidence"]["monolingual"]) == {"map"}


def test_vectors_that_are_not_finite_are_refused(small):
    class Broken(HashEncoder):
        def encode(self, texts, kind, *, languages=None, progress=None):
            vector_ND = super().encode(texts, kind)
            vector_ND[1, 0] = np.nan
            return vector_ND

    with pytest.raises(DataError, match=r"not finite for 1 of 6 queries"):
        evaluate(Broken(), small, model="broken")


def test_trec_eval_reads_the_files_and_agrees(tmp_path, task, scores):
    evaluation = evaluate(HashEncoder(), task, model="hash")
    write_scores(tmp_path, evaluation, task)
    with (tmp_path / "multilingual.run.trec").open() as file:
        run = pytrec_eval.parse_run(file)
    with (tmp_path / "qrels.trec").open() as file:
        qrels = pytrec_eval.parse_qrel(file)
    assert len(run) == len(qrels) == 55
    assert {len(ranked) for ranked in run.values()} == {100}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10"}).evaluate(run).values()
    for name, trec in (("ndcg@10", "ndcg_cut_10"), ("recall@10", "recall_10")):
        assert np.mean([query[trec] for query in found]) == pytest.approx(scores["multilingual"][name], abs=1e-6)


def test_long_trec_files_are_compressed_and_leave_no_old_ones_beside(tmp_path, task, monkeypatch):
    evaluation = evaluate(HashEncoder(), task, model="hash")
    write_scores(tmp_path, evaluation, task)
    plain = (tmp_path / "qrels.trec").read_bytes()
    monkeypatch.setattr("hbdist.evaluation.output.LARGEST_PLAIN_FILE", 500)
    write_scores(tmp_path, evaluation, task)
    assert gzip.decompress((tmp_path / "qrels.trec.gz").read_bytes()) == plain
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "multilingual.run.trec.gz",
        "qrels.trec.gz",
        "ranks-demean.npz",
        "ranks-lir.npz",
        "ranks.npz",
        "scores.json",
    ]


def test_positions_after_language_removal_give_the_scores_after_it(tmp_path, task):
    evaluation = evaluate(HashEncoder(), task, model="hash")
    write_scores(tmp_path, evaluation, task)
    for removal in ("demean", "lir"):
        values = values_of(read_per_query(tmp_path, task.fingerprint, removal), "multilingual")
        means = [values.value_V[values.part_V == part].mean() for part in np.unique(values.part_V)]
        assert np.mean(means) == pytest.approx(evaluation.scores["removal"][removal]["multilingual"]["map"])


def test_scores_of_an_earlier_version_get_intervals_over_todays_groups_without_encoding(tmp_path, task):
    settings = ModelSection(name="hash")
    new = evaluate_to(tmp_path, task, settings, load=lambda _: HashEncoder())
    kept = read_per_query(tmp_path, task.fingerprint)
    write_per_query(tmp_path, replace(kept, cluster_Q=np.zeros_like(kept.cluster_Q)), task.fingerprint)
    old = new | {"confidence": {"level": 0.95, "draws": 10_000, "clusters": 1, "multilingual": {"map": [0.1, 0.1]}}}
    (tmp_path / "scores.json").write_text(json.dumps(old))

    def load(_):
        raise AssertionError("encoded again")

    assert evaluate_to(tmp_path, task, settings, load=load) == new
    assert json.loads((tmp_path / "scores.json").read_text()) == new
    np.testing.assert_array_equal(read_per_query(tmp_path, task.fingerprint).cluster_Q, kept.cluster_Q)


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (folder / name).write_text(name)
    return folder


class Loader:
    """Loader that counts how often a model is loaded."""

    def __init__(self) -> None:
        self.loads = 0

    def __call__(self, settings: ModelSection) -> HashEncoder:
        self.loads += 1
        return HashEncoder(settings)


def test_scores_are_reused_when_nothing_changed(tmp_path, small, model):
    load, settings = Loader(), ModelSection(name=str(model))
    first = evaluate_to(tmp_path / "out", small, settings, load=load)
    (model / "README.md").write_text("another model card")
    again = evaluate_to(tmp_path / "out", small, settings, load=load)
    assert load.loads == 1
    assert json.loads(json.dumps(first)) == again


@pytest.mark.parametrize("change", ["weights", "tokenizer", "renamed", "prefix", "cut"])
def test_scores_are_not_reused_when_the_model_or_the_task_changed(tmp_path, small, model, change):
    load, settings = Loader(), ModelSection(name=str(model))
    evaluate_to(tmp_path / "out", small, settings, load=load)
    task = small.cut(questions=2) if change == "cut" else small
    if change == "prefix":
        settings = settings.model_copy(update={"query_prefix": "Query: "})
    elif change == "renamed":
        (model / "tokenizer.json").rename(model / "tokenizer_config.json")
    elif change in ("weights", "tokenizer"):
        (model / {"weights": "model.safetensors", "tokenizer": "tokenizer.json"}[change]).write_text("other")
    evaluate_to(tmp_path / "out", task, settings, load=load)
    assert load.loads == 2


def test_a_fingerprint_does_not_depend_on_the_folder_of_the_model(tmp_path, model):
    before = model_fingerprint(ModelSection(name=str(model)))
    moved = model.rename(tmp_path / "moved")
    assert model_fingerprint(ModelSection(name=str(moved), dropout=0.1)) == before
    assert model_fingerprint(ModelSection(name="a/name")) != model_fingerprint(ModelSection(name="b/name"))


def test_damaged_scores_are_named(tmp_path, small, model):
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(DataError, match=r"scores\.json is not JSON"):
        evaluate_to(tmp_path, small, ModelSection(name=str(model)), load=Loader())


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_encoded(tmp_path, small, model):
    taken = tmp_path / "file"
    taken.write_text("no folder", encoding="utf-8")
    encoder = HashEncoder()
    with pytest.raises(ConfigError, match=r"file: the scores cannot be written there \(.*--out"):
        evaluate_to(taken, small, ModelSection(name=str(model)), load=lambda _: encoder)
    assert encoder.encoded == []


def test_progress_reports_queries_documents_and_scores(small):
    calls: list[tuple[str, int, int]] = []
    evaluate(HashEncoder(), small, model="hash", progress=lambda *arguments: calls.append(arguments))
    assert [what for what, done, total in calls if done == total] == ["queries", "documents", "scores"]


def shown(*sides) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table(*sides))
    return " ".join(console.file.getvalue().split())


def test_the_table_shows_before_and_after_and_what_was_cut(task, scores):
    perfect = evaluate(Oracle(task), numbered(task), model="oracle").scores
    text = shown(perfect, scores)
    assert f"{scores['monolingual']['map']:.3f} → 1.000" in text
    assert "→ 10.0" in text
    assert "55 queries, 13,014 candidates; questions cut to 5 a language" in text


def test_the_table_says_when_two_evaluations_are_not_comparable(small, scores):
    other = evaluate(HashEncoder(), small, model="hash").scores
    assert "Not comparable: before was xquad-r, languages cut to en, th and questions cut to 3" in shown(scores, other)
