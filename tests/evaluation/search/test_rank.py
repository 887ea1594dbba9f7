"""Search in parts: equal to a float64 argsort, to search in memory, and the same on any number of real processes."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import on_ranks
from stand_ins import BatchEncoder, HashEncoder, made_task
from trec import evaluate_trec

from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import DataError
from hbdist.evaluation import evaluate as evaluation
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.output import write_scores
from hbdist.evaluation.search import embeddings
from hbdist.evaluation.search.partitioned import (
    PositionCounter,
    ScoreTiles,
    Segment,
    count_positions,
    cut_by_language,
    score_relevant,
)
from hbdist.evaluation.search.rank import merge_tops
from hbdist.evaluation.search.settings import SearchSettings
from hbdist.evaluation.tasks.beir import load_beir

SLOW_TOP = 7


@dataclasses.dataclass
class Pool:
    """Pool of whole-number vectors, sorted by language and cut into parts; some candidates are not ranked."""

    query_QD: np.ndarray
    candidate_CD: np.ndarray
    stops: list[int]
    relevant_QR: np.ndarray
    unranked_QI: np.ndarray
    queries_of: dict[int, np.ndarray]
    part: int
    tile: tuple[int, int]

    def segments(self, share: tuple[int, int] = (0, 1)) -> list[Segment]:
        starts = range(0, len(self.candidate_CD), self.part)[share[0] :: share[1]]
        return [
            segment
            for start in starts
            for segment in cut_by_language(start, self.candidate_CD[start : start + self.part], self.stops)
        ]

    @property
    def language_C(self) -> np.ndarray:  # noqa: N802
        return np.searchsorted(self.stops, np.arange(len(self.candidate_CD)), side="right")


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, candidates = draw(st.integers(1, 9)), draw(st.integers(2, 60))
    stops = [*sorted(generator.integers(0, candidates, 2).tolist()), candidates]
    order = [generator.permutation(candidates) for _ in range(queries)]
    relevant_QR = np.full((queries, 3), -1)
    unranked_QI = np.full((queries, 4), -1)
    for row, index_C in enumerate(order):
        relevant = int(generator.integers(1, min(3, candidates - 1) + 1))
        unranked = int(generator.integers(0, min(4, candidates - relevant) + 1))
        relevant_QR[row, :relevant] = index_C[:relevant]
        unranked_QI[row, :unranked] = index_C[relevant : relevant + unranked]
    everyone = np.arange(queries)
    queries_of = {number: everyone[generator.random(queries) < 0.8] for number in range(3)}
    high = draw(st.integers(1, 4))
    return Pool(
        generator.integers(-high, high + 1, (queries, 3)).astype(np.float32),
        generator.integers(-high, high + 1, (candidates, 3)).astype(draw(st.sampled_from(["float32", "float16"]))),
        stops,
        relevant_QR,
        unranked_QI,
        queries_of,
        draw(st.integers(1, 70)),
        (draw(st.integers(1, 5)), draw(st.integers(1, 20))),
    )


def count_in_shares(pool: Pool, shares: int) -> PositionCounter:
    """Return the merged counts of this number of ranks, counted one after the other."""
    tiles = [
        ScoreTiles(
            pool.query_QD,
            lambda share=share: pool.segments((share, shares)),
            queries_of=pool.queries_of,
            unranked_QI=pool.unranked_QI,
        )
        for share in range(shares)
    ]
    for one in tiles:
        one.tile, one.width = pool.tile
    score_QR = np.max([score_relevant(one, pool.relevant_QR) for one in tiles], axis=0)
    # Relevant candidates in languages that are not in a query's pool have no position, and must not be counted either.
    language_QR = pool.language_C[pool.relevant_QR]
    counters = [PositionCounter(pool.relevant_QR, score_QR, language_QR, top=SLOW_TOP) for _ in tiles]
    for one, counter in zip(tiles, counters, strict=True):
        count_positions(one, counter)
    first = counters[0]
    first.pool_QR = sum(counter.pool_QR for counter in counters)
    first.own_QR = sum(counter.own_QR for counter in counters)
    first.top_NK, first.top_score_NK = merge_tops([(counter.top_NK, counter.top_score_NK) for counter in counters])
    return first


@given(pools(), st.integers(1, 4))
def test_positions_and_top_of_any_parts_and_shares_equal_a_float64_argsort(pool: Pool, shares: int) -> None:
    found = count_in_shares(pool, shares)
    score_QC = pool.query_QD.astype(np.float64) @ pool.candidate_CD.T.astype(np.float64)
    for query, score_C in enumerate(score_QC):
        languages = [number for number, rows in pool.queries_of.items() if query in rows]
        ranked = np.flatnonzero(np.isin(pool.language_C, languages))
        ranked = np.setdiff1d(ranked, pool.unranked_QI[query])
        order = ranked[np.lexsort((-ranked, -score_C[ranked]))]
        top = np.full(SLOW_TOP, -1)
        top[: len(order[:SLOW_TOP])] = order[:SLOW_TOP]
        np.testing.assert_array_equal(found.top_NK[query], top)
        for column, index in enumerate(pool.relevant_QR[query]):
            if index >= 0 and pool.language_C[index] in languages:
                own = order[pool.language_C[order] == pool.language_C[index]]
                assert found.pool_QR[query, column] == order.tolist().index(index)
                assert found.own_QR[query, column] == own.tolist().index(index)


def test_a_candidate_is_compared_with_the_very_number_it_scores() -> None:
    """Use real numbers with twins: if scores were computed in different tiles, twins would sometimes change order."""
    generator = np.random.default_rng(3)
    query_QD = generator.standard_normal((300, 48), dtype=np.float32)
    candidate_CD = np.repeat(generator.standard_normal((3_000, 48), dtype=np.float32), 2, axis=0)
    relevant_QR = generator.integers(0, 6_000, (300, 2))
    segments = list(cut_by_language(0, candidate_CD, [6_000]))
    tiles = ScoreTiles(query_QD, lambda: segments, queries_of={0: np.arange(300)})
    counter = PositionCounter(relevant_QR, score_relevant(tiles, relevant_QR), np.zeros_like(relevant_QR), top=10)
    count_positions(tiles, counter)
    score_QC = query_QD.astype(np.float64) @ candidate_CD.T.astype(np.float64)
    own_QR = np.take_along_axis(score_QC, relevant_QR, axis=1)
    # The first of two twins has the second before it.
    expected_QR = (score_QC[:, None, :] > own_QR[:, :, None] + 1e-9).sum(axis=2) + (relevant_QR % 2 == 0)
    assert (counter.pool_QR == expected_QR).mean() > 0.999


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Treat every pool as a large one, in parts of 40, and return the folder for them."""
    monkeypatch.setattr(evaluation, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(embeddings, "LEAST_ROWS", 40)
    monkeypatch.setattr(embeddings, "MOST_ROWS", 40)
    return tmp_path / "vectors"


def without_seconds(scores: dict, *but: str) -> dict:
    return {key: value for key, value in scores.items() if key not in ("seconds", *but)}


SETTINGS = [(), ("monolingual",), ("cross_lingual",), ("monolingual", "cross_lingual")]


@pytest.mark.parametrize("settings", SETTINGS)
def test_search_in_parts_gives_the_scores_of_search_in_memory(in_parts: Path, monkeypatch, settings) -> None:
    task = made_task(settings=settings)
    parts = evaluate(HashEncoder(), task, model="m", search=SearchSettings(in_parts))
    monkeypatch.setattr(evaluation, "IN_MEMORY_BYTES", 1 << 30)
    whole = evaluate(HashEncoder(), task, model="m")
    assert without_seconds(parts.scores, "removal", "not_measured") == without_seconds(
        whole.scores, "removal", "not_measured"
    )
    assert parts.scores["removal"] is None
    if not settings:
        assert "in memory at once" in parts.scores["not_measured"]["removal"]
    np.testing.assert_array_equal(parts.ranking.top_NK, whole.ranking.top_NK)


def test_without_a_multilingual_setting_a_pool_consists_of_the_languages_with_answers(in_parts: Path) -> None:
    task = made_task(settings=("monolingual", "cross_lingual"))
    found = evaluate(HashEncoder(), task, model="m", search=SearchSettings(in_parts))
    whole = evaluate(HashEncoder(), made_task(), model="m", search=SearchSettings(in_parts))
    assert found.scores["by_pair"] == whole.scores["by_pair"]
    topics = [(q, language) for q, row in enumerate(task.relevant) for language in sorted(set(row[row >= 0] // 150))]
    assert list(zip(*map(list, task.topics), strict=True)) == topics
    for top, (_, language) in zip(found.ranking.top_NK, topics, strict=True):
        assert set(top[top >= 0] // 150) == {language}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", ["in memory", "in parts"])
def test_trec_eval_gives_the_scores_from_the_files_of_any_task_and_pool(
    in_parts, tmp_path, monkeypatch, settings, size
):
    """The run of a monolingual task once had the candidates of all languages: nDCG@10 was .054 instead of .129."""
    if size == "in memory":
        monkeypatch.setattr(evaluation, "IN_MEMORY_BYTES", 1 << 30)
    task = made_task(settings=settings, candidates=90)
    found = evaluate(HashEncoder(), task, model="m", search=SearchSettings(in_parts))
    write_scores(tmp_path / "out", found, task)
    by_topic = evaluate_trec(tmp_path / "out", ["ndcg_cut.10", "recall.10", "recip_rank"])
    assert len(by_topic) == len(task.topics.query_N)
    parts: dict[tuple[str, str], list[dict[str, float]]] = {}
    for (query, language), values in zip(zip(*task.topics, strict=True), by_topic.values(), strict=True):
        asked = task.queries[query].language
        answered = asked if language < 0 else task.languages[language]
        parts.setdefault((asked, answered), []).append(values)
    for setting in settings or ("multilingual",):
        own = [
            values
            for (x, y), values in parts.items()
            if setting == "multilingual" or (x == y) == (setting == "monolingual")
        ]
        for name, trec in (("ndcg@10", "ndcg_cut_10"), ("recall@10", "recall_10"), ("mrr", "recip_rank")):
            macro = np.mean([np.mean([one[trec] for one in values]) for values in own])
            # The files have a hundred candidates, which is all of a language's pool and a part of the whole one.
            if name != "mrr" or setting != "multilingual":
                assert found.scores[setting][name] == pytest.approx(macro, abs=1e-6)


def evaluate_in_both_ways(folder: str) -> list[dict]:
    """Return the scores of search in memory and of search in parts, computed by all ranks."""
    torch.set_num_threads(1)
    embeddings.LEAST_ROWS = embeddings.MOST_ROWS = 40
    ranks, task, found = ProcessGroup.of_training(), made_task(questions=200), []
    for bytes_in_memory in (1 << 30, 0):
        evaluation.IN_MEMORY_BYTES = bytes_in_memory
        found.append(evaluate(BatchEncoder(), task, model="m", ranks=ranks, search=SearchSettings(Path(folder))).scores)
    if ranks.world > 1:
        with pytest.raises(DataError, match=r"^Ranks see different files of made\."):
            evaluate(BatchEncoder(), made_task(seed=ranks.rank), model="m", ranks=ranks)
    return found


def test_one_two_and_four_processes_give_identical_scores_and_refuse_different_files(
    tmp_path: Path, in_parts: Path
) -> None:
    before = torch.get_num_threads()
    alone = evaluate_in_both_ways(str(tmp_path / "1"))
    torch.set_num_threads(before)
    assert alone[0]["multilingual"]["map"] > 0
    for world in (2, 4):
        for scores in on_ranks(world, evaluate_in_both_ways, str(tmp_path / str(world))):
            for found, expected in zip(scores, alone, strict=True):
                assert without_seconds(found) == without_seconds(expected)
    assert not list(tmp_path.glob("*/once-*")), "embeddings that are not to be kept were not removed"


MEASURED = """
import hashlib, resource, sys
from pathlib import Path
import numpy as np
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.tasks.beir import load_beir
from hbdist.evaluation.search.settings import SearchSettings

class Encoder:
    def encode(self, texts, kind, *, languages=None, progress=None):
        digests = b"".join(hashlib.sha256(text.encode()).digest() * 24 for text in texts)
        vector_ND = np.frombuffer(digests, dtype=np.int8).reshape(len(texts), 768)
        return vector_ND.astype(np.float32) / np.float32(2000)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

small, large, kept = map(Path, sys.argv[1:])
evaluate(Encoder(), load_beir(small), model="m", fingerprint="f", search=SearchSettings(kept))
before = peak()
evaluate(Encoder(), load_beir(large), model="m", fingerprint="f", search=SearchSettings(kept))
print(peak() - before)
"""


def make_beir(folder: Path, passages: int) -> Path:
    (folder / "qrels").mkdir(parents=True)
    text = "x" * 1_500
    with (folder / "corpus.jsonl").open("w") as file:
        file.writelines(f'{{"_id": "d{n}", "text": "{n} {text}"}}\n' for n in range(passages))
    (folder / "queries.jsonl").write_text("".join(f'{{"_id": "q{n}", "text": "{n}"}}\n' for n in range(20)))
    rows = "".join(f"q{n}\td{n * 7}\t1\n" for n in range(20))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def test_memory_does_not_grow_with_a_corpus_on_disk(tmp_path: Path) -> None:
    small, large = make_beir(tmp_path / "small", 20_000), make_beir(tmp_path / "large", 100_000)
    assert len(load_beir(small).candidates) * 768 * 4 < evaluation.IN_MEMORY_BYTES < 100_000 * 768 * 4
    command = [sys.executable, "-c", MEASURED, str(small), str(large), str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    # Texts and vectors take 460 MB; the small pool, all in memory, took 90 MB before.
    assert float(done.stdout) < 100
    assert max(size for _, _, size in embeddings.list_stored(tmp_path / "kept")) > 300e6
