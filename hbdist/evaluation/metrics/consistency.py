"""Alignment consistency: whether a question finds the same, and has the same neighbours, in whatever language it comes.

What it is, is defined here alone. For two languages, over the items that both have:

    list agreement        of one question asked in both languages: the mean, over depths 1 … k, of the share that the
                          two ranked lists of one pool have in common (average overlap: the first places weigh most)
    neighbour agreement   of one text: the share of its k nearest texts that are the same texts in both languages

Both are 1 where the languages' vectors are the same; at random they are (k + 1)/(2C) of C candidates and k/(N − 1) of N
items. A language's consistency is its mean over pairs with each other language.

    N items · L languages · D dimensions · K places of a list · T items of a tile
"""

from typing import Any

import numpy as np

from hbdist.evaluation.metrics.alignment import TILE, shared_items
from hbdist.evaluation.metrics.retrieval import macro_mean

DEPTH = 10
"""k of both measures."""


def list_agreement(one_NK: np.ndarray, other_NK: np.ndarray, *, k: int = DEPTH) -> np.ndarray:
    """Average overlap of two ranked lists, row by row: float64 [N] (Fagin et al. 2003).

    Args:
        one_NK, other_NK: candidates, best first, none twice in a row; the first k count.
    """
    one_NK, other_NK = one_NK[:, :k], other_NK[:, :k]
    depth_K = np.arange(1, one_NK.shape[1] + 1)
    same_NKK = one_NK[:, :, None] == other_NK[:, None, :]
    # A candidate is common to both from the depth of its later place on.
    from_KK = np.maximum(depth_K[:, None], depth_K[None, :])
    common_NK = np.stack([(same_NKK & (from_KK <= depth)).sum(axis=(1, 2)) for depth in depth_K], axis=1)
    return (common_NK / depth_K).mean(axis=1)


def neighbour_agreement(X_ND: np.ndarray, Y_ND: np.ndarray, *, k: int = DEPTH, tile: int = TILE) -> np.ndarray:
    """Share of the k nearest items that an item has in common in two languages: float64 [N].

    Args:
        X_ND, Y_ND: unit vectors of the same N items; with k items or fewer, all others are neighbours.
        tile: items whose cosines are held at once.
    """
    k = min(k, len(X_ND) - 1)
    parts = [
        (nearest_TK[:, :, None] == other_TK[:, None, :]).sum(axis=(1, 2)) / k
        for start in range(0, len(X_ND), tile)
        for nearest_TK, other_TK in [(_nearest(X_ND, start, tile, k), _nearest(Y_ND, start, tile, k))]
    ]
    return np.concatenate(parts)


def _nearest(vector_ND: np.ndarray, start: int, tile: int, k: int) -> np.ndarray:
    """The k nearest other items of the items of one tile, in any order: int64 [T, K]."""
    cosine_TN = vector_ND[start : start + tile] @ vector_ND.T
    row_T = np.arange(len(cosine_TN))
    cosine_TN[row_T, start + row_T] = -np.inf
    return np.argpartition(cosine_TN, len(vector_ND) - k, axis=1)[:, len(vector_ND) - k :]


def consistency(
    query_MD: np.ndarray, top_MK: np.ndarray, place_NL: np.ndarray, languages: list[str]
) -> dict[str, Any] | None:
    """List and neighbour agreement of questions, as in scores.json; None if no two languages share two questions.

    The mean over unordered pairs of languages, and `by_language` and `by_pair`.

    Args:
        query_MD: float32 unit vectors of the questions in all languages.
        top_MK: the first candidates of each of them in the multilingual pool, best first.
        place_NL: int64 row of each question in each language; alignment.NO_ITEM where it has none.
        languages: their names.
    """
    by_pair = {
        (x, y): {
            f"lists@{DEPTH}": float(list_agreement(top_MK[row_x_N], top_MK[row_y_N]).mean()),
            f"neighbours@{DEPTH}": float(neighbour_agreement(query_MD[row_x_N], query_MD[row_y_N]).mean()),
        }
        for x, y, row_x_N, row_y_N in shared_items(place_NL, languages)
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
