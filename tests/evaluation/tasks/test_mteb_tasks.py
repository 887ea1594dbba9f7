"""XQuAD-R given to mteb: the same questions, pools and answers, and the same nDCG@10, by pytrec_eval and by mteb itself."""

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
def whole() -> RetrievalTask:
    return load_xquad_r()


@pytest.fixture(scope="module")
def task(whole: RetrievalTask) -> RetrievalTask:
    return whole.cut(languages=["en", "th"], questions=3)


def test_subsets_are_the_settings_of_the_paper(whole: RetrievalTask) -> None:
    counts = {setting: len(subsets(whole, setting)) for setting in SETTINGS}
    assert counts == {"monolingual": 11, "cross_lingual": 110, "multilingual": 11}
    assert set(LANGUAGES) == set(CANDIDATES)
    pooled = datasets(whole, "multilingual")["th"][SPLIT]
    assert (len(pooled["queries"]), len(pooled["corpus"])) == (1190, 13_014)
    assert {len(found) for found in pooled["relevant_docs"].values()} == {11}
    pair = datasets(whole, "cross_lingual")["th-de"][SPLIT]
    assert (len(pair["queries"]), len(pair["corpus"])) == (1190, CANDIDATES["de"])
    assert {len(found) for found in pair["relevant_docs"].values()} == {1}
    assert all(name.startswith("th-") for name in pair["relevant_docs"])


def test_a_cut_or_the_other_variant_is_another_task_of_mteb(whole: RetrievalTask, task: RetrievalTask) -> None:
    names = {describe(one, "monolingual")["name"] for one in (whole, task, load_xquad_r(with_paragraph=True))}
    assert len(names) == 3
    assert "XQuADRMonolingualRetrieval" in names


def test_pytrec_eval_gives_hbdists_ndcg_on_what_mteb_is_given(task: RetrievalTask) -> None:
    generator = np.random.default_rng(0)
    of_query = generator.standard_normal((len(task.queries), 16)).astype(np.float32)
    of_candidate = generator.standard_normal((len(task.candidates), 16)).astype(np.float32)
    vector = {text.text: row for row, text in zip(of_query, task.queries, strict=True)}
    vector |= {text.text: row for row, text in zip(of_candidate, task.candidates, strict=True)}

    class Known:
        def encode(self, texts, kind, **_):
            return np.array([vector[text] for text in texts]).reshape(-1, 16)

    scores = evaluate(Known(), task, model="known").scores
    for setting in SETTINGS:
        for name, given in datasets(task, setting).items():
            found = given[SPLIT]
            queries, corpus = (np.array([vector[text] for text in found[key]["text"]]) for key in ("queries", "corpus"))
            run = {
                query: dict(zip(found["corpus"]["id"], (corpus @ one).tolist(), strict=True))
                for query, one in zip(found["queries"]["id"], queries, strict=True)
            }
            values = pytrec_eval.RelevanceEvaluator(found["relevant_docs"], {"ndcg_cut.10"}).evaluate(run)
            mean = np.mean([value["ndcg_cut_10"] for value in values.values()])
            ours = scores["by_language"][name] if setting == "multilingual" else scores["by_pair"][_pair(name)]
            assert ours["ndcg@10"] == pytest.approx(mean, abs=1e-6)


def _pair(subset: str) -> str:
    return subset if "-" in subset else f"{subset}-{subset}"


def test_without_mteb_a_sentence_says_what_to_install(task: RetrievalTask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mteb", "mteb.abstasks", "mteb.abstasks.retrieval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="Install it: pip install mteb"):
        xquad_r_tasks(task)


def test_another_task_is_refused(task: RetrievalTask) -> None:
    with pytest.raises(ConfigError, match="cannot be given to mteb; expected xquad-r"):
        xquad_r_tasks(RetrievalTask("other", ("en",), task.queries[:3], task.candidates[:1180], task.relevance))


@pytest.mark.slow
def test_mteb_gives_hbdists_scores_of_an_exported_model(task: RetrievalTask, exported: Path) -> None:
    import mteb
    from sentence_transformers import SentenceTransformer

    encoder = Encoder.load_for_use(settings_of(str(exported)))
    scores = evaluate(encoder, task, model="exported").scores
    model = SentenceTransformer(str(exported), device="cpu", local_files_only=True)
    results = mteb.evaluate(model, xquad_r_tasks(task), cache=None, show_progress_bar=False).task_results
    assert [len(result.scores[SPLIT]) for result in results] == [2, 2, 2]
    for setting, result in zip(SETTINGS, results, strict=True):
        assert result.get_score() == pytest.approx(scores[setting]["ndcg@10"], abs=1e-5)
        for found in result.scores[SPLIT]:
            name = found["hf_subset"]
            ours = scores["by_language"][name] if setting == "multilingual" else scores["by_pair"][_pair(name)]
            for theirs, metric in (("ndcg_at_10", "ndcg@10"), ("recall_at_10", "recall@10")):
                assert found[theirs] == pytest.approx(ours[metric], abs=1e-5)


@pytest.fixture(scope="module")
def exported(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as training leaves it."""
    from hbdist.config.config import Config
    from hbdist.training.export import export

    values = {"steps": 1, "data": {"shards": "x"}, "model": {"name": str(tiny_model)}, "batch": {"size": 2}}
    config = Config.check(values, source="test")
    folder = tmp_path_factory.mktemp("run") / "model"
    return export(Encoder.load(config.model).eval(), folder, config, fingerprint="0123abcd", steps=1)
