"""XQuAD-R in mteb: same queries, candidates and qrels, and the same nDCG@10, by pytrec_eval and by mteb itself."""

import sys
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from hbdist.errors import ConfigError
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.scores import SETTINGS
from hbdist.evaluation.tasks.mteb_tasks import LANGUAGES, SPLIT, datasets, describe, subsets, xquad_r_tasks
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.evaluation.tasks.xquad_r import CANDIDATES, load_xquad_r
from hbdist.models.encoder import Encoder, settings_of


@pytest.fixture(scope="module")
def full_task() -> RetrievalTask:
    return load_xquad_r()


@pytest.fixture(scope="module")
def task(full_task: RetrievalTask) -> RetrievalTask:
    return full_task.cut(languages=["en", "th"], questions=3)


def test_subsets_are_the_settings_of_the_paper(full_task: RetrievalTask) -> None:
    counts = {setting: len(subsets(full_task, setting)) for setting in SETTINGS}
    assert counts == {"monolingual": 11, "cross_lingual": 110, "multilingual": 11}
    assert set(LANGUAGES) == set(CANDIDATES)
    pooled = datasets(full_task, "multilingual")["th"][SPLIT]
    assert (len(pooled["queries"]), len(pooled["corpus"])) == (1190, 13_014)
    assert {len(relevant) for relevant in pooled["relevant_docs"].values()} == {11}
    pair = datasets(full_task, "cross_lingual")["th-de"][SPLIT]
    assert (len(pair["queries"]), len(pair["corpus"])) == (1190, CANDIDATES["de"])
    assert {len(relevant) for relevant in pair["relevant_docs"].values()} == {1}
    assert all(name.startswith("th-") for name in pair["relevant_docs"])


def test_a_cut_and_the_other_variant_are_other_mteb_tasks(full_task: RetrievalTask, task: RetrievalTask) -> None:
    names = {describe(one, "monolingual")["name"] for one in (full_task, task, load_xquad_r(with_paragraph=True))}
    assert len(names) == 3
    assert "XQuADRMonolingualRetrieval" in names


def test_pytrec_eval_computes_the_ndcg_of_hbdist_from_the_data_for_mteb(task: RetrievalTask) -> None:
    generator = np.random.default_rng(0)
    query_embeddings = generator.standard_normal((len(task.queries), 16)).astype(np.float32)
    candidate_embeddings = generator.standard_normal((len(task.candidates), 16)).astype(np.float32)
    embedding = {text.text: row for row, text in zip(query_embeddings, task.queries, strict=True)}
    embedding |= {text.text: row for row, text in zip(candidate_embeddings, task.candidates, strict=True)}

    class FixedEmbeddings:
        def encode(self, texts, kind, **_):
            return np.array([embedding[text] for text in texts]).reshape(-1, 16)

    scores = evaluate(FixedEmbeddings(), task, model="known").scores
    for setting in SETTINGS:
        for name, splits in datasets(task, setting).items():
            data = splits[SPLIT]
            queries, corpus = (
                np.array([embedding[text] for text in data[key]["text"]]) for key in ("queries", "corpus")
            )
            run = {
                query: dict(zip(data["corpus"]["id"], (corpus @ one).tolist(), strict=True))
                for query, one in zip(data["queries"]["id"], queries, strict=True)
            }
            values = pytrec_eval.RelevanceEvaluator(data["relevant_docs"], {"ndcg_cut.10"}).evaluate(run)
            mean = np.mean([value["ndcg_cut_10"] for value in values.values()])
            ours = scores["by_language"][name] if setting == "multilingual" else scores["by_pair"][_pair(name)]
            assert ours["ndcg@10"] == pytest.approx(mean, abs=1e-6)


def _pair(subset: str) -> str:
    return subset if "-" in subset else f"{subset}-{subset}"


def test_without_mteb_the_error_says_what_to_install(task: RetrievalTask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mteb", "mteb.abstasks", "mteb.abstasks.retrieval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="Install it: pip install mteb"):
        xquad_r_tasks(task)


def test_another_task_is_refused(task: RetrievalTask) -> None:
    with pytest.raises(ConfigError, match="cannot be given to mteb; expected xquad-r"):
        xquad_r_tasks(RetrievalTask("other", ("en",), task.queries[:3], task.candidates[:1180], task.relevance))


@pytest.mark.slow
def test_mteb_computes_the_scores_of_hbdist_for_an_exported_model(task: RetrievalTask, exported: Path) -> None:
    import mteb
    from sentence_transformers import SentenceTransformer

    encoder = Encoder.load_for_use(settings_of(str(exported)))
    scores = evaluate(encoder, task, model="exported").scores
    model = SentenceTransformer(str(exported), device="cpu", local_files_only=True)
    results = mteb.evaluate(model, xquad_r_tasks(task), cache=None, show_progress_bar=False).task_results
    assert [len(result.scores[SPLIT]) for result in results] == [2, 2, 2]
    for setting, result in zip(SETTINGS, results, strict=True):
        assert result.get_score() == pytest.approx(scores[setting]["ndcg@10"], abs=1e-5)
        for subset in result.scores[SPLIT]:
            name = subset["hf_subset"]
            ours = scores["by_language"][name] if setting == "multilingual" else scores["by_pair"][_pair(name)]
            for theirs, metric in (("ndcg_at_10", "ndcg@10"), ("recall_at_10", "recall@10")):
                assert subset[theirs] == pytest.approx(ours[metric], abs=1e-5)


@pytest.fixture(scope="module")
def exported(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model as training exports it."""
    from hbdist.config.config import Config
    from hbdist.training.export import export

    values = {"steps": 1, "data": {"shards": "x"}, "model": {"name": str(tiny_model)}, "batch": {"size": 2}}
    config = Config.check(values, source="test")
    folder = tmp_path_factory.mktemp("run") / "model"
    return export(Encoder.load(config.model).eval(), folder, config, fingerprint="0123abcd", steps=1)
