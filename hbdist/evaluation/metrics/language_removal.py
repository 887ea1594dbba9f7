"""Language removal: two baselines without training, which a trained model must surpass.

Both are fitted to the task's own candidates, whose languages are known, without labels, and applied to queries and
candidates alike; the vectors are then scaled to unit length again.

    N texts · D dimensions · L languages · R directions
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Remove = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function (vector_ND, language_N) → float32 unit vectors [N, D], for the languages that it was fitted to."""

DIRECTIONS = 1
"""Number R of directions in the retrieval experiments of the LIR paper."""


def demean(vector_ND: np.ndarray, language_N: np.ndarray) -> Remove:
    """Return a function that subtracts the mean vector of the text's language (Libovický et al. 2020, arXiv 2004.05160)."""
    mean_LD = {
        language: vector_ND[language_N == language].mean(axis=0, dtype=np.float64)
        for language in np.unique(language_N).tolist()
    }
    return partial(_by_language, change=lambda own_ND, language: own_ND - mean_LD[language])


def lir(vector_ND: np.ndarray, language_N: np.ndarray, *, directions: int = DIRECTIONS) -> Remove:
    """Return a function for language information removal, LIR (Yang et al. 2021, arXiv 2109.04727).

        M = U Σ Vᵀ,   e ← e − V_R V_Rᵀ e        M the vectors of one language, not centred; V_R the first R columns of V

    The first direction of vectors that are not centred is close to their mean, but it is removed by projection: each text
    loses its own share of it.
    """
    direction_LRD = {
        language: _first_directions(vector_ND[language_N == language], directions)
        for language in np.unique(language_N).tolist()
    }

    def project(own_ND: np.ndarray, language: int) -> np.ndarray:
        direction_RD = direction_LRD[language]
        return own_ND - own_ND @ direction_RD.T @ direction_RD

    return partial(_by_language, change=project)


REMOVALS: dict[str, Callable[[np.ndarray, np.ndarray], Remove]] = {"demean": demean, "lir": lir}
"""Baselines by their names in scores.json."""


def _first_directions(vector_ND: np.ndarray, directions: int) -> np.ndarray:
    """Return the first right singular vectors, computed as eigenvectors of MᵀM so that N may be large: float64 [R, D]."""
    vector_ND = vector_ND.astype(np.float64)
    _, column_DD = np.linalg.eigh(vector_ND.T @ vector_ND)
    return column_DD[:, ::-1][:, :directions].T


def _by_language(
    vector_ND: np.ndarray, language_N: np.ndarray, change: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """Return the changed vectors of each language, scaled to unit length; those that become zero stay zero."""
    changed_ND = np.empty_like(vector_ND, dtype=np.float32)
    for language in np.unique(language_N).tolist():
        own_ND = change(vector_ND[language_N == language].astype(np.float64), language)
        length_N1 = np.linalg.norm(own_ND, axis=1, keepdims=True)
        changed_ND[language_N == language] = own_ND / np.where(length_N1 > 1e-12, length_N1, np.inf)
    return changed_ND
