"""Alignment consistency: a question's results, and its neighbours, compared between languages.

The measure is defined here and nowhere else. For two languages, over the items that both have:

    list agreement        for one question asked in both languages: the mean, over depths 1 … k, of the share that the two
                          ranked lists from one pool have in common (average overlap: the first positions weigh most)
    neighbour agreement   for one text: the share of its k nearest texts that are the same texts in both languages

Both are 1 if the vectors are the same in both languages; at random they are (k + 1)/(2C) with C candidates and k/(N − 1)
with N items. A language's consistency is its mean over pairs with each other language.

    N items · L languages · D dimensions · K positions of a list · T items of a tile
"""

from typing import Any

import numpy as np

from hbdist.evaluation.metrics.alignment import TILE, shared_items
from hbdist.evaluation.metrics.retrieval import macro_mean

DEPTH = 10
"""Depth k of both measures."""


def list_agreement(one_NK: np.ndarray, other_NK: np.ndarray, *, k: int = DEPTH) -> np.ndarray:
    """Return the average overlap at k of two lists of candidates, best first, row by row: float64 [N] (Fagin et al. 2003)."""
    one_NK, other_NK = one_NK[:, :k], other_NK[:, :k]
    depth_K = np.arange(1, one_NK.shape[1] + 1)
    same_NKK = one_NK[:, :, None] == other_NK[:, None, :]
    # A candidate is common to both from the depth of its later position on.
    from_KK = np.maximum(depth_K[:, None], depth_K[None, :])
    common_NK = np.stack([(same_NKK & (from_KK <= depth)).sum(axis=(1, 2)) for depth in depth_K], axis=1)
    return (common_NK / depth_K).mean(axis=1)


def neighbour_agreement(X_ND: np.ndarray, Y_ND: np.ndarray, *, k: int = DEPTH, tile: int = TILE) -> np.ndarray:
    """Return the share of an item's k nearest items that are the same in two languages: float64 [N].

    Row n of both is the same item. With k items or fewer, all others are neighbours.
    """
    k = min(k, len(X_ND) - 1)
    parts = [
        (nearest_TK[:, :, None] == other_TK[:, None, :]).sum(axis=(1, 2)) / k
        for start in range(0, len(X_ND), tile)
        for nearest_TK, other_TK in [(_nearest(X_ND, start, tile, k), _nearest(Y_ND, start, tile, k))]
    ]
    return np.concatenate(parts)


def _nearest(vector_ND: np.ndarray, start: int, tile: int, k: int) -> np.ndarray:
    """Return the k nearest other items of each item of one tile, in any order: int64 [T, K]."""
    cosine_TN = vector_ND[start : start + tile] @ vector_ND.T
    row_T = np.arange(len(cosine_TN))
    cosine_TN[row_T, start + row_T] = -np.inf
    return np.argpartition(cosine_TN, len(vector_ND) - k, axis=1)[:, len(vector_ND) - k :]


def consistency(
    query_MD: np.ndarray, top_MK: np.ndarray, row_NL: np.ndarray, languages: list[str]
) -> dict[str, Any] | None:
    """Return list and neighbour agreement of questions, as in scores.json; None if no two languages share two questions.

    The result has the mean over unordered pairs of languages, `by_language`, and `by_pair`. Queries are unit vectors;
    `top_MK` has each one's first candidates in the multilingual pool, best first; `row_NL` is as in `alignment.alignment`.
    """
    by_pair = {
        (x, y): {
            f"lists@{DEPTH}": float(list_agreement(top_MK[row_x_N], top_MK[row_y_N]).mean()),
            f"neighbours@{DEPTH}": float(neighbour_agreement(query_MD[row_x_N], query_MD[row_y_N]).mean()),
        }
        for x, y, row_x_N, row_y_N in shared_items(row_NL, languages)
    }
    if not by_pair:
        return None
    return {
        **macro_mean(by_pair.values()),
        "by_language": {
            language: mean
            for language in languages
            if (mean := macro_mean(value for pair, value in by_pair.items() if language in pair))
        },
        "by_pair": {f"{x}-{y}": value for (x, y), value in by_pair.items()},
    }
