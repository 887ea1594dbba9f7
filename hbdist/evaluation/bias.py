"""Language bias: how far apart a query's translated answers stand in one multilingual pool, and who leads it.

Both measures improve when everything is random or nothing is found: read them beside mAP.

    Q queries · R relevant candidates of a query, padded · K candidates at the top · C candidates of the pool
"""

import numpy as np

from hbdist.evaluation.ranking import NO_RANK, macro_mean

TOP = 10
"""Candidates at the top over which the share of the query's own language is taken."""


def rank_distance(rank_QR: np.ndarray) -> np.ndarray:
    """Highest minus lowest rank among a query's relevant candidates, in places of the multilingual pool: float64 [Q].

    NaN for a query with fewer than two. After Huang et al. 2023 (arXiv 2305.09025), as in arXiv 2408.10536, footnote 6.
    One language that is ranked badly decides it: see the median as well as the mean.

    Args:
        rank_QR: exact ranks in the whole pool; NO_RANK where there is none.
    """
    present_QR = rank_QR != NO_RANK
    highest_Q = rank_QR.max(axis=1)
    lowest_Q = np.where(present_QR, rank_QR, np.iinfo(np.int64).max).min(axis=1)
    return np.where(present_QR.sum(axis=1) > 1, highest_Q - lowest_Q.astype(np.float64), np.nan)


def random_rank_distance(relevant: int, pool: int) -> float:
    """Rank distance to expect of a random order: (k − 1)/(k + 1)·(N + 1); 10,846 on XQuAD-R. At best it is k − 1."""
    return (relevant - 1) / (relevant + 1) * (pool + 1)


def same_language_share(
    top_QK: np.ndarray, *, query_language_Q: np.ndarray, candidate_language_C: np.ndarray
) -> np.ndarray:
    """Share of the first ten candidates that are in the query's language: float64 [Q].

    Args:
        top_QK: int64 places in the pool, best first; only the first ten count.
        query_language_Q: a number for the language of each query.
        candidate_language_C: the same for candidates.
    """
    return (candidate_language_C[top_QK[:, :TOP]] == query_language_Q[:, None]).mean(axis=1)


def bias_by_language(
    rank_QR: np.ndarray, top_QK: np.ndarray, *, query_language_Q: np.ndarray, candidate_language_C: np.ndarray
) -> dict[int, dict[str, float]]:
    """The bias measures over the queries of each language, keyed by its number.

    Args:
        rank_QR: exact ranks in the whole pool; at least one query of each language has two relevant candidates.
        top_QK, query_language_Q, candidate_language_C: as in `same_language_share`.
    """
    distance_Q = rank_distance(rank_QR)
    share_Q = same_language_share(top_QK, query_language_Q=query_language_Q, candidate_language_C=candidate_language_C)
    return {
        int(language): {
            "rank_distance": float(np.nanmean(distance_Q[query_language_Q == language])),
            "rank_distance_median": float(np.nanmedian(distance_Q[query_language_Q == language])),
            # Scale-free, so that pools of different sizes can be held side by side.
            "rank_distance_share": float(
                np.nanmean(distance_Q[query_language_Q == language]) / (len(candidate_language_C) - 1)
            ),
            f"same_language_share@{TOP}": float(share_Q[query_language_Q == language].mean()),
            "same_language_pool_share": float((candidate_language_C == language).mean()),
        }
        for language in np.unique(query_language_Q)
    }


def mean_bias(by_language: dict[int, dict[str, float]]) -> dict[str, float]:
    """The macro mean over query languages, as the paper's last rows have it."""
    return macro_mean(by_language.values())
