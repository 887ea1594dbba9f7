"""Language removal: equality with plain references, and properties of the result."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbdist.evaluation.metrics.language_removal import REMOVALS, demean, lir


def two_languages(seed: int, items: int = 60, dimensions: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    shared_ND = generator.normal(size=(items, dimensions))
    vector_ND = np.concatenate([shared_ND + 2 * generator.normal(size=dimensions) for _ in range(2)])
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return vector_ND.astype(np.float32), np.repeat([3, 5], items)


def unit(vector_ND: np.ndarray) -> np.ndarray:
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


@given(st.integers(0, 2**32 - 1))
def test_demean_subtracts_the_mean_of_the_fitted_texts_of_the_language(seed):
    vector_ND, language_N = two_languages(seed)
    other_ND, other_language_N = two_languages(seed + 1, items=7)
    found_ND = demean(vector_ND, language_N)(other_ND, other_language_N)
    for language in (3, 5):
        mean_D = vector_ND[language_N == language].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(
            found_ND[other_language_N == language], unit(other_ND[other_language_N == language] - mean_D), atol=1e-5
        )


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_lir_projects_out_the_first_right_singular_vectors_of_vectors_not_centred(seed, directions):
    vector_ND, language_N = two_languages(seed)
    found_ND = lir(vector_ND, language_N, directions=directions)(vector_ND, language_N)
    for language in (3, 5):
        own_ND = vector_ND[language_N == language].astype(np.float64)
        first_RD = np.linalg.svd(own_ND)[2][:directions]
        expected_ND = own_ND.copy()
        for direction_D in first_RD:
            expected_ND -= np.outer(own_ND @ direction_D, direction_D)
        np.testing.assert_allclose(found_ND[language_N == language], unit(expected_ND), atol=1e-4)


@pytest.mark.parametrize("name", list(REMOVALS))
def test_translations_that_differ_by_a_constant_of_their_language_become_similar(name):
    vector_ND, language_N = two_languages(0, items=500, dimensions=32)
    found_ND = REMOVALS[name](vector_ND, language_N)(vector_ND, language_N)
    before = (vector_ND[:500] * vector_ND[500:]).sum(axis=1).mean()
    after = (found_ND[:500] * found_ND[500:]).sum(axis=1).mean()
    assert after > 0.95 > before
    np.testing.assert_allclose(np.linalg.norm(found_ND, axis=1), 1, atol=1e-6)
    assert found_ND.dtype == np.float32


@pytest.mark.parametrize("name", list(REMOVALS))
def test_a_rotation_of_the_space_rotates_the_result(name):
    vector_ND, language_N = two_languages(0)
    turn_DD = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    turned_ND = (vector_ND @ turn_DD).astype(np.float32)
    plain_ND = REMOVALS[name](vector_ND, language_N)(vector_ND, language_N)
    found_ND = REMOVALS[name](turned_ND, language_N)(turned_ND, language_N)
    np.testing.assert_allclose(found_ND, plain_ND @ turn_DD, atol=1e-4)


def test_a_vector_that_becomes_zero_stays_zero():
    one_ND = np.array([[1.0, 0.0]], dtype=np.float32)
    assert demean(one_ND, np.array([0]))(one_ND, np.array([0])).tolist() == [[0, 0]]
