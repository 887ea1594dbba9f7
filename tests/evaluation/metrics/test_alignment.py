"""Alignment and consistency: known values, invariances, and slow references."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from hbdist.evaluation.metrics.alignment import (
    NO_ITEM,
    alignment,
    bitext_accuracy,
    centroid_gap,
    cosines,
    language_probe,
    linear_cka,
    pair_alignment,
    uniformity,
)
from hbdist.evaluation.metrics.consistency import consistency, list_agreement, neighbour_agreement
from hbdist.utils.philox import permutation

LANGUAGES = ["de", "en", "th"]


def unit(vector_ND: np.ndarray) -> np.ndarray:
    return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


def noisy_translations(seed: int, items: int = 40, dimensions: int = 8, noise: float = 0.7) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    shared_ND = generator.normal(size=(items, dimensions))
    return [unit(shared_ND + noise * generator.normal(size=shared_ND.shape)) for _ in range(2)]


def stacked(by_language: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors one language after the other, and the rows of the items [N, L]."""
    items = len(by_language[0])
    return np.concatenate(by_language), np.arange(items)[:, None] + items * np.arange(len(by_language))


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(2, 40))
def test_cosines_equal_those_of_a_double_loop(seed, items):
    X_ND, Y_ND = noisy_translations(seed, items)
    parallel = [float(x @ y) for x, y in zip(X_ND.astype(float), Y_ND.astype(float), strict=True)]
    random = [float(X_ND[i].astype(float) @ Y_ND[j]) for i in range(items) for j in range(items) if i != j]
    found = cosines(X_ND, Y_ND)
    assert found["parallel_cosine"] == pytest.approx(np.mean(parallel), abs=1e-6)
    assert found["random_cosine"] == pytest.approx(np.mean(random), abs=1e-6)
    effect = (np.mean(parallel) - np.mean(random)) / np.sqrt((np.var(parallel) + np.var(random)) / 2)
    assert found["cosine_effect"] == pytest.approx(effect, rel=1e-4)


def slow_bitext(X_ND: np.ndarray, Y_ND: np.ndarray, *, margin: bool) -> float:
    cosine_NN = X_ND.astype(np.float64) @ Y_ND.T.astype(np.float64)
    if margin:
        k = min(4, len(X_ND))
        x_N = [np.mean(sorted(row)[-k:]) for row in cosine_NN]
        y_N = [np.mean(sorted(row)[-k:]) for row in cosine_NN.T]
        cosine_NN = cosine_NN / np.array([[max((x + y) / 2, 1e-6) for y in y_N] for x in x_N])
    right = [all(row[i] > other for j, other in enumerate(row) if j != i) for i, row in enumerate(cosine_NN)]
    right += [all(row[i] > other for j, other in enumerate(row) if j != i) for i, row in enumerate(cosine_NN.T)]
    return float(np.mean(right))


@given(seeds, st.integers(2, 40), st.integers(1, 50))
def test_bitext_accuracy_equals_a_plain_loop_in_tiles_of_any_size(seed, items, tile):
    X_ND, Y_ND = noisy_translations(seed, items)
    plain, margin = bitext_accuracy(X_ND, Y_ND, tile=tile)
    assert plain == pytest.approx(slow_bitext(X_ND, Y_ND, margin=False))
    assert margin == pytest.approx(slow_bitext(X_ND, Y_ND, margin=True))


def test_the_margin_finds_translations_that_a_hub_hides():
    # The hub is nearest to every x; measured against how near it is to all, it no longer is.
    generator = np.random.default_rng(0)
    X_ND = unit(generator.normal(size=(60, 16)) + 3 * np.eye(16)[0])
    Y_ND = unit(X_ND + 0.25 * generator.normal(size=X_ND.shape))
    Y_ND[0] = unit(X_ND.mean(axis=0, keepdims=True))[0]
    plain, margin = bitext_accuracy(X_ND, Y_ND)
    assert margin > plain


def test_a_collapsed_model_finds_no_translation():
    same_ND = unit(np.ones((10, 4)))
    values = pair_alignment(same_ND, same_ND)
    assert (values["bitext_accuracy"], values["bitext_accuracy_margin"], values["cka"]) == (0, 0, 0)
    assert (values["parallel_cosine"], values["random_cosine"]) == pytest.approx((1, 1))
    assert values["cosine_effect"] == 0


@given(seeds, st.integers(3, 40))
def test_cka_equals_its_definition_by_kernels(seed, items):
    X_ND, Y_ND = noisy_translations(seed, items)
    center_NN = np.eye(items) - 1 / items
    K_NN, L_NN = (center_NN @ (Z.astype(float) @ Z.T.astype(float)) @ center_NN for Z in (X_ND, Y_ND))
    expected = (K_NN * L_NN).sum() / np.sqrt((K_NN**2).sum() * (L_NN**2).sum())
    assert linear_cka(X_ND, Y_ND) == pytest.approx(expected, rel=1e-6)


def test_cka_is_one_under_rotation_shift_and_scale_and_low_at_random():
    X_ND, _ = noisy_translations(0, items=2000)
    turn_DD = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    assert linear_cka(X_ND, 3 * X_ND @ turn_DD + 0.5) == pytest.approx(1)
    # D/N in expectation for large N and vectors without any direction of their own.
    other_ND = unit(np.random.default_rng(2).normal(size=(2000, 8)))
    assert linear_cka(unit(np.random.default_rng(3).normal(size=(2000, 8))), other_ND) == pytest.approx(
        8 / 2000, abs=0.003
    )


@given(seeds, st.integers(2, 40), st.integers(1, 50))
def test_uniformity_equals_a_loop_over_pairs(seed, items, tile):
    X_ND, _ = noisy_translations(seed, items)
    pairs = [np.exp(-2 * ((x.astype(float) - y) ** 2).sum()) for x, y in combinations(X_ND, 2)]
    assert uniformity(X_ND, tile=tile) == pytest.approx(np.log(np.mean(pairs)), abs=1e-5)


def test_uniformity_is_zero_for_one_vector_and_minus_four_for_orthogonal_ones():
    assert uniformity(np.eye(6, dtype=np.float32)) == pytest.approx(-4)
    assert uniformity(unit(np.ones((6, 6)))) == pytest.approx(0, abs=1e-6)


def test_centroid_gap_by_hand():
    # Centroids (0, 0) and (3, 0); each vector is 1 from its own.
    one, other = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([[3.0, 1.0], [3.0, -1.0]])
    assert centroid_gap([one, other]) == pytest.approx(3)
    assert centroid_gap([one, one, other]) == pytest.approx(2)


def probe(by_language: list[np.ndarray]) -> float:
    vector_MD, row_NL = stacked(by_language)
    language_M = np.repeat(np.arange(len(by_language)), len(row_NL))
    return language_probe(vector_MD, language_M, np.tile(np.arange(len(row_NL)), len(by_language)))


def test_the_probe_equals_sklearns_logistic_regression():
    X_ND, Y_ND = noisy_translations(0, items=150)
    Y_ND = unit(Y_ND + 0.3 * np.eye(8)[0])
    vector_MD, language_M, item_M = np.concatenate([X_ND, Y_ND]), np.repeat([0, 1], 150), np.tile(np.arange(150), 2)
    second_M = np.isin(item_M, permutation("language probe", 150)[:75])
    right = 0
    for train_M in (second_M, ~second_M):
        mean_D = vector_MD[train_M].mean(axis=0)
        input_MD = (vector_MD - mean_D) / (vector_MD[train_M] - mean_D).std()
        # Its binary form has one weight vector for two classes: half the penalty is equivalent.
        model = LogisticRegression(C=2.0, tol=1e-8, max_iter=1000).fit(input_MD[train_M], language_M[train_M])
        right += (model.predict(input_MD[~train_M]) == language_M[~train_M]).sum()
    assert probe([X_ND, Y_ND]) == right / 300
    assert 0.55 < right / 300 < 0.95


def test_the_probe_is_near_chance_where_language_is_not_in_the_vectors():
    generator = np.random.default_rng(0)
    # 900 answers right with a chance of a third: a standard deviation of 0.016.
    assert probe([unit(generator.normal(size=(300, 8))) for _ in range(3)]) == pytest.approx(1 / 3, abs=0.06)


def test_the_probe_gains_nothing_from_translations_of_what_it_learnt():
    # The same vector in all languages: if an item were in both halves, its language could be learnt by heart.
    shared_ND = unit(np.random.default_rng(0).normal(size=(200, 8)))
    assert probe([shared_ND, shared_ND]) == pytest.approx(0.5)


def test_the_probe_tells_languages_that_are_far_apart():
    X_ND, Y_ND = noisy_translations(0, items=100)
    assert probe([unit(X_ND + 4 * np.eye(8)[0]), unit(Y_ND - 4 * np.eye(8)[0])]) == 1


def test_identical_embeddings_in_all_languages_are_perfectly_aligned():
    shared_ND, _ = noisy_translations(0)
    found = alignment(*stacked([shared_ND] * 3), LANGUAGES)
    assert found is not None
    assert (found["bitext_accuracy"], found["bitext_accuracy_margin"]) == (1, 1)
    assert found["cka"] == pytest.approx(1)
    assert found["parallel_cosine"] == pytest.approx(1)
    assert found["alignment"] == pytest.approx(0, abs=1e-12)
    assert found["centroid_gap"] == pytest.approx(0, abs=1e-12)
    assert found["language_probe"] == pytest.approx(found["language_probe_chance"])
    assert list(found["by_pair"]) == ["de-en", "de-th", "en-th"]


@settings(max_examples=10)
@given(seeds)
def test_alignment_does_not_depend_on_rotation_or_on_the_order_of_items(seed):
    by_language = [*noisy_translations(seed), noisy_translations(seed + 1)[0]]
    turn_DD = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))[0]
    vector_MD, row_NL = stacked(by_language)
    before = alignment(vector_MD, row_NL, LANGUAGES)
    order_N = np.random.default_rng(seed).permutation(len(row_NL))
    after = alignment((vector_MD @ turn_DD).astype(np.float32), row_NL[order_N], LANGUAGES)
    assert before is not None
    assert after is not None
    # Other items are on the two sides of the probe.
    for values in (before, after):
        values.pop("language_probe")
    assert after.pop("by_pair")["de-th"] == pytest.approx(before.pop("by_pair")["de-th"], abs=1e-4)
    assert after == pytest.approx(before, abs=1e-4)


def test_a_pair_uses_the_items_that_both_languages_have():
    X_ND, Y_ND = noisy_translations(0)
    vector_MD, row_NL = stacked([X_ND, Y_ND])
    row_NL[:10, 1] = NO_ITEM
    found = alignment(vector_MD, row_NL, ["de", "en"])
    assert found is not None
    assert found["by_pair"]["de-en"] == pair_alignment(X_ND[10:], Y_ND[10:])


def test_without_two_shared_items_there_is_no_alignment():
    vector_MD = unit(np.random.default_rng(0).normal(size=(4, 8)))
    row_NL = np.array([[0, 2], [1, NO_ITEM], [NO_ITEM, 3]])
    assert alignment(vector_MD, row_NL, ["de", "en"]) is None
    assert consistency(vector_MD, np.zeros((4, 1)), row_NL, ["de", "en"]) is None


@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_list_agreement_is_the_mean_overlap_of_prefixes(seed, length, k):
    generator = np.random.default_rng(seed)
    one_NK, other_NK = (np.stack([generator.permutation(15)[:length] for _ in range(4)]) for _ in range(2))
    for one, other, found in zip(one_NK, other_NK, list_agreement(one_NK, other_NK, k=k), strict=True):
        depths = range(1, min(k, length) + 1)
        assert found == pytest.approx(np.mean([len(set(one[:d]) & set(other[:d])) / d for d in depths]))


@given(seeds, st.integers(2, 40), st.integers(1, 15), st.integers(1, 50))
def test_neighbour_agreement_equals_that_of_full_sorts(seed, items, k, tile):
    X_ND, Y_ND = noisy_translations(seed, items)
    k_used = min(k, items - 1)

    def nearest(vector_ND: np.ndarray, i: int) -> set[int]:
        others = sorted((j for j in range(items) if j != i), key=lambda j: -float(vector_ND[i] @ vector_ND[j]))
        return set(others[:k_used])

    slow_N = [len(nearest(X_ND, i) & nearest(Y_ND, i)) / k_used for i in range(items)]
    np.testing.assert_allclose(neighbour_agreement(X_ND, Y_ND, k=k, tile=tile), slow_N)


def test_random_lists_and_neighbours_agree_as_by_chance():
    generator = np.random.default_rng(0)
    top_NK = [np.stack([generator.permutation(100)[:10] for _ in range(3000)]) for _ in range(2)]
    assert list_agreement(*top_NK).mean() == pytest.approx(11 / 200, abs=0.005)
    X_ND, Y_ND = (unit(generator.normal(size=(400, 32))) for _ in range(2))
    assert neighbour_agreement(X_ND, Y_ND).mean() == pytest.approx(10 / 399, abs=0.005)


def test_identical_embeddings_are_consistent():
    shared_ND, _ = noisy_translations(0)
    vector_MD, row_NL = stacked([shared_ND] * 3)
    top_NK = np.stack([np.random.default_rng(n).permutation(50)[:12] for n in range(len(shared_ND))])
    found = consistency(vector_MD, np.tile(top_NK, (3, 1)), row_NL, LANGUAGES)
    assert found is not None
    assert (found["lists@10"], found["neighbours@10"]) == (1, 1)
    assert list(found["by_language"]) == LANGUAGES


def test_consistency_of_a_language_is_its_mean_over_the_others():
    by_language = [*noisy_translations(0), noisy_translations(5)[0]]
    vector_MD, row_NL = stacked(by_language)
    top_MK = np.stack([np.random.default_rng(m).permutation(20)[:10] for m in range(len(vector_MD))])
    found = consistency(vector_MD, top_MK, row_NL, LANGUAGES)
    assert found is not None
    pairs = found["by_pair"]
    for name in ("lists@10", "neighbours@10"):
        assert found["by_language"]["en"][name] == pytest.approx((pairs["de-en"][name] + pairs["en-th"][name]) / 2)
        assert found[name] == pytest.approx(np.mean([value[name] for value in pairs.values()]))
    assert pairs["de-en"]["neighbours@10"] > pairs["en-th"]["neighbours@10"]
