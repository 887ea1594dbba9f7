"""Approximate search: only on request, recorded in the scores, and equal to exact search if it searches all clusters."""

import builtins

import numpy as np
import pytest
from stand_ins import BatchEncoder, made_task

from hbdist.errors import ConfigError
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.search import faiss_index as module
from hbdist.evaluation.search.faiss_index import Approximate
from hbdist.evaluation.search.settings import SearchSettings


@pytest.mark.parametrize(
    "text", ["flat", "ivf:lists", "ivf:lists=0", "hnsw:probes=3", "hnsw:links=many", "ivf:lists=-4", ""]
)
def test_an_unknown_index_is_refused_and_the_known_ones_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"ivf|hnsw"):
        Approximate.parse(text)


def test_without_faiss_the_error_says_that_exact_search_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def without(name: str, *arguments: object) -> object:
        if name == "faiss":
            raise ImportError(name)
        return known(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="pip install faiss-cpu"):
        Approximate.parse("hnsw")


def test_an_index_that_searches_all_clusters_gives_the_exact_scores(tmp_path) -> None:
    task = made_task()
    exact = evaluate(BatchEncoder(), task, model="m")
    everywhere = Approximate.parse("ivf:lists=3,probes=3")
    found = evaluate(BatchEncoder(), task, model="m", search=SearchSettings(tmp_path, index=everywhere))
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        # Scores of twins differ in the last digit between two products.
        assert found.scores[setting] == pytest.approx(exact.scores[setting], abs=2e-3)
    assert found.scores["search"] == {
        "exact": False,
        "index": "ivf",
        "lists": 3,
        "probes": 3,
        "depth": module.DEPTH,
        "vectors": "float32",
    }
    assert exact.scores["search"] == {"exact": True, "vectors": "float32"}
    assert not list(tmp_path.iterdir())


def test_hnsw_finds_nearly_all_of_the_first_hundred(tmp_path) -> None:
    task = made_task(candidates=2_000)
    exact = evaluate(BatchEncoder(), task, model="m").ranking.top_NK
    near = Approximate.parse("hnsw:links=16")
    found = evaluate(BatchEncoder(), task, model="m", search=SearchSettings(tmp_path, index=near)).ranking.top_NK
    shares = [len(set(one) & set(other)) / 100 for one, other in zip(exact, found, strict=True)]
    assert np.mean(shares) > 0.95


def test_relevant_candidates_that_an_index_does_not_find_come_last(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEPTH", 5)
    task = made_task()
    exact = evaluate(BatchEncoder(), task, model="m").ranking
    near = Approximate.parse("ivf:lists=3,probes=3")
    found = evaluate(BatchEncoder(), task, model="m", search=SearchSettings(tmp_path, index=near)).ranking
    there_QR, first_QR = task.relevant >= 0, exact.language_QR <= 5
    missing_QR = there_QR & ~first_QR
    assert missing_QR.any()
    assert (first_QR & there_QR).any()
    assert (found.pool_QR[missing_QR] >= 450).mean() > 0.99
    assert (found.language_QR[missing_QR] >= 150).mean() > 0.99
    assert (found.language_QR[there_QR & first_QR] <= 5).mean() > 0.97
