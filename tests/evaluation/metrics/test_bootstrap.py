"""Clustered bootstrap: plain references, what it must tell apart, and how often its interval contains the truth."""

import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from hbdist.cli.score_tables import table
from hbdist.errors import DataError
from hbdist.evaluation.metrics import bootstrap
from hbdist.evaluation.metrics.bootstrap import (
    SeedSpread,
    compare,
    confidence,
    difference,
    draw_clusters,
    interval,
    seed_spread,
)
from hbdist.evaluation.metrics.language_bias import rank_distance
from hbdist.evaluation.metrics.per_query import PerQuery, Values, read_per_query, values_of, write_per_query
from hbdist.evaluation.metrics.retrieval import NO_POSITION, metrics

seeds = st.integers(0, 2**32 - 1)


def made_values(seed: int, *, clusters: int = 24, parts: int = 3, spread: float = 0.3, shift: float = 0.0) -> Values:
    """Return values of one to four questions per cluster, in all parts; clusters differ more than questions do."""
    generator = np.random.default_rng(seed)
    cluster_I = np.repeat(np.arange(clusters), generator.integers(1, 5, clusters))
    base_I = generator.normal(0, spread, clusters)[cluster_I] + generator.normal(0, 0.1, len(cluster_I)) + shift
    value_V = np.tile(base_I, parts) + np.repeat(generator.normal(0, 0.1, parts), len(cluster_I))
    return Values(value_V, np.repeat(np.arange(parts), len(cluster_I)), np.tile(cluster_I, parts))


def changed(values: Values, by: np.ndarray | float) -> Values:
    return Values(values.value_V + by, values.part_V, values.cluster_V)


def slow_macro_mean(values: Values, drawn_G: np.ndarray) -> float:
    """Return the macro mean of the drawn clusters' values, each repeated as often as it was drawn."""
    means = []
    for part in np.unique(values.part_V):
        own = [
            value
            for count, cluster in zip(drawn_G, np.unique(values.cluster_V), strict=True)
            for value in values.value_V[(values.part_V == part) & (values.cluster_V == cluster)].tolist() * int(count)
        ]
        if own:
            means.append(np.mean(own))
    return float(np.mean(means))


def draw_all(clusters: int, draws: int) -> np.ndarray:
    return np.concatenate(list(draw_clusters(clusters, draws)))


def test_draws_are_of_whole_clusters_with_replacement():
    draw_BG = draw_all(30, 4000)
    assert (draw_BG.sum(axis=1) == 30).all()
    # Counts are binomial(30, 1/30): mean 1, variance 29/30; the mean of 4,000 has a standard deviation of 0.016.
    np.testing.assert_allclose(draw_BG.mean(axis=0), 1, atol=0.06)
    assert draw_BG.var() == pytest.approx(29 / 30, abs=0.02)
    np.testing.assert_array_equal(draw_BG, draw_all(30, 4000))


def test_draws_in_parts_are_as_good_and_take_no_more_memory(monkeypatch):
    monkeypatch.setattr(bootstrap, "WORDS", 30 * 700)
    parts = list(draw_clusters(30, 4000))
    assert [len(part) for part in parts] == [700] * 5 + [500]
    draw_BG = np.concatenate(parts)
    assert (draw_BG.sum(axis=1) == 30).all()
    np.testing.assert_allclose(draw_BG.mean(axis=0), 1, atol=0.06)
    assert len(np.unique(draw_BG, axis=0)) == 4000, "two parts have the same draws"
    monkeypatch.undo()
    # All draws of 4,000 clusters at once would be 320 MB of numbers alone.
    values = Values(np.linspace(0, 1, 4000), np.zeros(4000, dtype=np.int64), np.arange(4000))
    tracemalloc.start()
    interval([values])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200e6


@settings(max_examples=10)
@given(seeds)
def test_the_interval_equals_a_plain_bootstrap_over_lists_of_queries(seed):
    values = made_values(seed, clusters=48)
    # A part that few clusters have, so that some draws have none of it.
    selected = (values.part_V != 2) | (values.cluster_V < 2)
    values = Values(values.value_V[selected], values.part_V[selected], values.cluster_V[selected])
    found = interval([values], draws=200)
    slow = [slow_macro_mean(values, drawn_G) for drawn_G in draw_all(48, 200)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert found.mean == pytest.approx(slow_macro_mean(values, np.ones(48)))
    assert (found.runs, found.clusters.count) == (1, 48)


def test_the_interval_agrees_with_the_formula_for_a_mean_of_clusters():
    generator = np.random.default_rng(0)
    value_V = generator.normal(size=400)
    found = interval([Values(value_V, np.zeros(400), np.arange(400))])
    error = value_V.std() / np.sqrt(400)
    assert found.low == pytest.approx(value_V.mean() - 1.96 * error, abs=0.06 * error)
    assert found.high == pytest.approx(value_V.mean() + 1.96 * error, abs=0.06 * error)


def test_copies_of_a_question_in_its_cluster_do_not_narrow_the_interval():
    one = made_values(0)
    ten = Values(*(np.tile(array, 10) for array in (one.value_V, one.part_V, one.cluster_V)))
    assert interval([ten]).low == pytest.approx(interval([one]).low)
    alone = Values(ten.value_V, ten.part_V, np.arange(len(ten.value_V)))
    assert interval([alone]).high - interval([alone]).low < 0.5 * (interval([one]).high - interval([one]).low)


def test_a_paired_difference_sees_what_two_intervals_hide():
    before = made_values(0, clusters=60)
    noise_V = np.random.default_rng(1).normal(0, 0.02, len(before.value_V))
    after = changed(before, 0.02 + noise_V)
    found = difference([before], [after])
    assert found.real
    assert found.p < 0.01
    assert 0.01 < found.low < 0.02 < found.high < 0.03
    assert interval([after]).low < interval([before]).mean


def test_equal_models_have_no_difference():
    values = made_values(0)
    found = difference([values], [values])
    assert (found.mean, found.low, found.high, found.p, found.real) == (0, 0, 0, 1, False)


def test_before_and_after_change_places_with_the_sign():
    before = made_values(0)
    after = changed(before, np.random.default_rng(3).normal(0, 0.1, len(before.value_V)))
    there, back = difference([before], [after]), difference([after], [before])
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert there.p == back.p


def test_seeds_that_differ_widen_the_interval_and_those_that_do_not_leave_it():
    values = made_values(0, clusters=100, spread=0.05)
    alike, apart = [values] * 3, [changed(values, by) for by in (-0.1, 0.0, 0.1)]
    one, same, wide = interval([values]), interval(alike), interval(apart)
    assert (same.mean, same.low, same.high) == pytest.approx((one.mean, one.low, one.high))
    assert wide.runs == 3
    assert wide.high - wide.low > 3 * (one.high - one.low)


@pytest.mark.parametrize("scores", [(0.4, 0.7), (-0.1, 0.02, 0.08), (0.1, 0.15, 0.3, 0.31, 0.6)])
def test_without_noise_of_questions_the_interval_is_students(scores):
    values = Values(np.zeros(20), np.zeros(20), np.arange(20))
    found = interval([changed(values, by) for by in scores], draws=100_000)
    error = np.std(scores, ddof=1) / np.sqrt(len(scores))
    expected = stats.t.interval(0.95, len(scores) - 1, np.mean(scores), error)
    assert (found.low, found.high) == pytest.approx(expected, rel=0.05, abs=0.05 * error)
    assert found.mean == pytest.approx(np.mean(scores))


def test_a_spread_between_seeds_that_is_known_from_more_runs_takes_the_place_of_their_own():
    values = Values(np.zeros(20), np.zeros(20), np.arange(20))
    runs = [changed(values, by) for by in (0.4, 0.7)]
    found = interval(runs, spread=SeedSpread(0.01, 40), draws=100_000)
    expected = stats.t.interval(0.95, 40, 0.55, 0.1 / np.sqrt(2))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.005)


def test_the_spread_between_seeds_is_pooled_over_models():
    sides = [np.array([0.1, 0.3]), np.array([1.0, 1.1, 1.5]), np.array([7.0])]
    found = seed_spread(sides)
    assert found == SeedSpread(pytest.approx((0.02 + 0.14) / 3), 3)
    assert seed_spread([np.array([0.1]), np.array([0.2])]) is None


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([1] * 19, "19 groups of questions are too few"), ([1] * 50 + [50], "51 groups of questions has 50%")],
)
def test_few_clusters_or_a_large_one_give_no_interval_and_no_verdict(sizes, expected):
    """TREC-COVID's questions were one cluster, and those of NFCorpus six: an interval without width called all "real"."""
    cluster_V = np.repeat(np.arange(len(sizes)), sizes)
    values = Values(np.linspace(0, 1, len(cluster_V)), np.zeros(len(cluster_V), dtype=np.int64), cluster_V)
    found = interval([values])
    assert (found.low, found.high) == (None, None)
    assert expected in found.clusters.problem
    change = difference([values], [changed(values, 0.5)])
    assert (change.mean, change.low, change.high, change.p, change.real) == (pytest.approx(0.5), None, None, None, None)


def test_one_cluster_gives_no_interval():
    values = Values(np.array([0.1, 0.5]), np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64))
    assert "1 groups" in interval([values]).clusters.problem
    assert difference([values], [changed(values, 1.0)]).real is None


@settings(max_examples=20)
@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_no_interval_leaves_the_range_of_the_scores(seed, runs_before, runs_after):
    """Use scores near the best possible one, where the spread of the seeds could lead beyond it."""
    generator = np.random.default_rng(seed)
    cluster_V, part_V = np.arange(80) % 23, np.arange(80) // 27

    def seed_runs(count: int) -> list[Values]:
        levels = generator.choice([0.5, 0.9, 1.0], count)
        return [
            Values(np.clip(generator.normal(level, 0.01, 80), 0, 1), part_V, cluster_V, bounds=(0, 1))
            for level in levels
        ]

    before, after = seed_runs(runs_before), seed_runs(runs_after)
    for runs in (before, after):
        found = interval(runs, draws=300)
        assert -1e-12 <= found.low <= found.high <= 1 + 1e-12
    change = difference(before, after, draws=300)
    assert -1 - 1e-12 <= change.low <= change.high <= 1 + 1e-12


def test_one_seed_beside_several_is_drawn_as_one():
    values, far = made_values(0), changed(made_values(0), 0.5)
    assert difference([values], [far, far]).mean == pytest.approx(0.5)
    assert not difference([values], [values, far]).real


def test_runs_of_other_queries_are_refused():
    one, other = made_values(0), made_values(1)
    with pytest.raises(DataError, match="have the positions of different queries"):
        difference([one], [other])


def made_positions(seed: int) -> PerQuery:
    """Return positions of 30 questions in three languages, with 30 candidates and one answer per language; the last question
    has no answer in language 2. The first four questions are on two paragraphs."""
    generator = np.random.default_rng(seed)
    relevant_language_QR = np.tile(np.arange(3), (90, 1))
    pool_QR = np.stack([generator.choice(90, 3, replace=False) + 1 for _ in range(90)])
    own_QR = generator.integers(1, 31, (90, 3))
    for array in (pool_QR, own_QR):
        array[29::30, 2] = NO_POSITION
    cluster_N = [0, 0, 1, 1, *range(2, 28)]
    return PerQuery(np.repeat(np.arange(3), 30), np.tile(cluster_N, 3), pool_QR, own_QR, relevant_language_QR)


def test_values_are_those_of_each_setting():
    queries = made_positions(0)
    found = {setting: values_of(queries, setting) for setting in ("monolingual", "cross_lingual", "multilingual")}
    pairs = [(q, y) for y in range(3) for q in range(90) if queries.own_QR[q, y] != NO_POSITION]
    for setting, same in (("monolingual", True), ("cross_lingual", False)):
        own = [(q, y) for q, y in pairs if (queries.language_Q[q] == y) == same]
        np.testing.assert_allclose(found[setting].value_V, [1 / queries.own_QR[q, y] for q, y in own])
        np.testing.assert_array_equal(found[setting].cluster_V, [queries.cluster_Q[q] for q, _ in own])
        assert len(np.unique(found[setting].part_V)) == (3 if same else 6)
    np.testing.assert_allclose(found["multilingual"].value_V, metrics(queries.pool_QR)["map"])
    distance = values_of(queries, "multilingual", "rank_distance")
    np.testing.assert_allclose(distance.value_V, rank_distance(queries.pool_QR))


def test_confidence_and_comparison_cover_each_setting_that_the_task_has():
    queries = made_positions(0)
    found = confidence(queries)
    assert found["clusters"] == 28
    assert found["largest_cluster"] == pytest.approx(6 / 90)
    assert not found["no_interval"]
    low, high = found["multilingual"]["map"]
    assert low < values_of(queries, "multilingual").value_V.mean() < high
    assert set(compare([queries], [made_positions(1)])) == {"monolingual", "cross_lingual", "multilingual"}
    arrays = [array for array in vars(queries).values() if isinstance(array, np.ndarray)]
    one_language = PerQuery(*(array[:30] if array.ndim == 1 else array[:30, :1] for array in arrays))
    assert "cross_lingual" not in confidence(one_language)
    few = PerQuery(*(array[:12] if array.ndim == 1 else array[:12, :1] for array in arrays))
    assert not {"monolingual", "multilingual"} & confidence(few).keys()
    assert "10 groups" in confidence(few)["no_interval"]["monolingual"]
    assert compare([few], [few])["monolingual"]["map"]["real"] is None


def test_positions_are_read_back_and_equal_positions_are_equal_bytes(tmp_path):
    queries = made_positions(0)
    path = write_per_query(tmp_path, queries, "abc")
    content = path.read_bytes()
    again = read_per_query(tmp_path, "abc")
    for name, array in vars(queries).items():
        np.testing.assert_array_equal(getattr(again, name), array)
    assert write_per_query(tmp_path, again, "abc").read_bytes() == content


def test_positions_that_are_missing_damaged_or_of_another_task_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no ranks\.npz"):
        read_per_query(tmp_path, "abc")
    path = write_per_query(tmp_path, made_positions(0), "abc")
    with pytest.raises(DataError, match="another task"):
        read_per_query(tmp_path, "abd")
    for content in (path.read_bytes()[:200], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_per_query(tmp_path, "abc")


def shown(**arguments) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(**arguments))
    return console.export_text()


@pytest.fixture
def scores() -> dict:
    setting = {"map": 0.5, "recall@1": 0.4, "recall@10": 0.6}
    bias = {
        "rank_distance": 12.0,
        "same_language_share@10": 0.5,
        "rank_distance_perfect": 2,
        "rank_distance_random": 45,
    }
    part = {"monolingual": setting, "cross_lingual": setting, "multilingual": setting}
    part["bias"] = {**bias, "same_language_pool_share": 1 / 3}
    known = {"task": "made", "model": "none", "task_fingerprint": "abc", "cut": None}
    counts = {"queries": 18, "candidates": 90}
    removal = {"demean": part, "lir": part}
    return {**known, "counts": counts, **part, "confidence": confidence(made_positions(0)), "removal": removal}


def test_the_table_has_the_baselines_and_the_intervals(scores):
    text = shown(scores=scores)
    for expected in ("with language means removed", "with LIR", "95 %", "10,000 draws of 28 groups of questions"):
        assert expected in text


def test_the_table_says_where_a_difference_is_none(scores):
    queries = made_positions(0)
    text = shown(scores=scores, before=scores, change=compare([queries], [queries]))
    assert "no difference (+0.000 to +0.000)" in text
    assert "No difference: the interval contains zero" in text
    better = replace(queries, pool_QR=(queries.pool_QR + 9) // 10, own_QR=(queries.own_QR + 9) // 10)
    text = shown(scores=scores, before=scores, change=compare([queries], [better]))
    assert "no difference" not in text


def test_the_table_says_why_there_is_no_interval(scores):
    arrays = [array for array in vars(made_positions(0)).values() if isinstance(array, np.ndarray)]
    few = PerQuery(*(np.concatenate([array[:9], array[30:39], array[60:69]]) for array in arrays))
    scores["confidence"] = confidence(few)
    text = shown(scores=scores, before=scores, change=compare([few], [few]))
    assert "No interval: 7 groups of questions are too few to draw from; 20 are needed." in text
    assert "+0.000 (not tested)" in text
    assert "No difference" not in text
    assert "10,000 draws" not in text


def test_the_table_shows_scores_of_an_older_version(scores):
    for key in ("confidence", "removal"):
        del scores[key]
    assert "0.500 → 0.500" in shown(scores=scores, before=scores)
    assert "95 %" not in shown(scores=scores)
