"""Measures of alignment: how near the vectors of parallel texts are, and how much a vector tells of its language.

All measures use unit vectors of parallel items, and are means over the unordered pairs of languages; a pair uses the items
that both languages have. At most one tile of the N × N cosines is in memory.

    M vectors · N items · L languages · D dimensions · T items of a tile · K neighbours
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import torch

from hbdist.evaluation.metrics.retrieval import macro_mean
from hbdist.utils.philox import permutation

TILE = 1024
"""Number T of items whose cosines are in memory at once."""

MARGIN_NEIGHBOURS = 4
"""Number K of neighbours of the ratio margin, as in Artetxe & Schwenk 2019."""

SMALL = 1e-6
"""Smallest divisor of the ratio margin."""

NO_ITEM = -1
"""Marker for items that a language does not have."""


def shared_items(row_NL: np.ndarray, languages: list[str]) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield each unordered pair of languages that share two items: both names, and the rows of the shared items in both."""
    for a, b in combinations(range(len(languages)), 2):
        both_N = (row_NL[:, [a, b]] != NO_ITEM).all(axis=1)
        if both_N.sum() > 1:
            yield languages[a], languages[b], row_NL[both_N, a], row_NL[both_N, b]


def alignment(vector_MD: np.ndarray, row_NL: np.ndarray, languages: list[str]) -> dict[str, Any] | None:
    """Return all measures of alignment, as in scores.json; None if no two languages share two items.

    `row_NL` has the int64 row of each item in each language, NO_ITEM where there is none.
    """
    by_pair = {
        f"{x}-{y}": pair_alignment(vector_MD[row_x_N], vector_MD[row_y_N])
        for x, y, row_x_N, row_y_N in shared_items(row_NL, languages)
    }
    if not by_pair:
        return None
    by_language = [vector_MD[rows[rows != NO_ITEM]] for rows in row_NL.T]
    measured = [vector_ND for vector_ND in by_language if len(vector_ND) > 1]
    item_M, language_M = np.nonzero(row_NL != NO_ITEM)
    return {
        "items": len(row_NL),
        **macro_mean(by_pair.values()),
        "uniformity": float(np.mean([uniformity(vector_ND) for vector_ND in measured])),
        "centroid_gap": centroid_gap(measured),
        "language_probe": language_probe(vector_MD[row_NL[item_M, language_M]], language_M, item_M),
        "language_probe_chance": float(np.bincount(language_M).max() / len(language_M)),
        "by_pair": by_pair,
    }


def pair_alignment(X_ND: np.ndarray, Y_ND: np.ndarray) -> dict[str, float]:
    """Return the measures of two languages; row n of both is the same item. At least two items are needed."""
    plain, margin = bitext_accuracy(X_ND, Y_ND)
    return {
        **cosines(X_ND, Y_ND),
        "bitext_accuracy": plain,
        "bitext_accuracy_margin": margin,
        "cka": linear_cka(X_ND, Y_ND),
        "alignment": float(((X_ND.astype(np.float64) - Y_ND) ** 2).sum(axis=1).mean()),
    }


def cosines(X_ND: np.ndarray, Y_ND: np.ndarray) -> dict[str, float]:
    """Return the cosines of translations and of texts drawn at random from the two languages, over all n ≠ m.

    `parallel_cosine` and `random_cosine` are means; `cosine_effect` is their difference in standard deviations (Cohen's
    d), which can be compared between models whose cosines are in different ranges; 0 if no cosine varies.

    The sums over all pairs are exact: Σ xᵢ·yⱼ = (Σx)·(Σy), and Σ (xᵢ·yⱼ)² = ⟨XᵀX, YᵀY⟩.
    """
    X_ND, Y_ND = X_ND.astype(np.float64), Y_ND.astype(np.float64)
    others = len(X_ND) * (len(X_ND) - 1)
    parallel_N = (X_ND * Y_ND).sum(axis=1)
    random = (X_ND.sum(axis=0) @ Y_ND.sum(axis=0) - parallel_N.sum()) / others
    square = (((X_ND.T @ X_ND) * (Y_ND.T @ Y_ND)).sum() - (parallel_N**2).sum()) / others
    deviation = np.sqrt((max(square - random**2, 0.0) + parallel_N.var()) / 2)
    parallel = parallel_N.mean()
    effect = (parallel - random) / deviation if deviation > 1e-6 else 0.0
    return {"parallel_cosine": float(parallel), "random_cosine": float(random), "cosine_effect": float(effect)}


def bitext_accuracy(X_ND: np.ndarray, Y_ND: np.ndarray, *, tile: int = TILE) -> tuple[float, float]:
    """Return the share of texts whose translation scores strictly above all others in its language, by cosine and margin.

    It is the mean of both directions, as in Tatoeba. A tie is a miss, so that identical vectors score zero. The margin is
    the ratio of Artetxe & Schwenk 2019 (arXiv 1811.01136):

        cos(x, y)  ÷  (mean cosine of x to its K nearest y + that of y to its K nearest x) / 2

    If even the nearest are orthogonal or further away, a ratio means nothing; the divisor is then SMALL.
    """
    near_x_N, near_y_N = _nearest_mean(X_ND, Y_ND, tile), _nearest_mean(Y_ND, X_ND, tile)
    right = np.zeros(2)
    for A_ND, B_ND, near_a_N, near_b_N in ((X_ND, Y_ND, near_x_N, near_y_N), (Y_ND, X_ND, near_y_N, near_x_N)):
        for start in range(0, len(A_ND), tile):
            rows = slice(start, start + tile)
            cosine_TN = A_ND[rows] @ B_ND.T
            margin_TN = cosine_TN / np.maximum((near_a_N[rows, None] + near_b_N) / 2, SMALL)
            right += [_count_first(cosine_TN, start), _count_first(margin_TN, start)]
    plain, margin = right / (2 * len(X_ND))
    return float(plain), float(margin)


def _count_first(score_TN: np.ndarray, start: int) -> int:
    """Return the number of rows that score their own column, which starts at `start`, strictly above all others."""
    own_T1 = np.diagonal(score_TN, offset=start)[:, None]
    return int(((score_TN >= own_T1).sum(axis=1) == 1).sum())


def _nearest_mean(A_ND: np.ndarray, B_ND: np.ndarray, tile: int) -> np.ndarray:
    """Return the mean cosine of each row of A and its K nearest rows of B: float32 [N]."""
    k = min(MARGIN_NEIGHBOURS, len(B_ND))
    tiles = (A_ND[start : start + tile] @ B_ND.T for start in range(0, len(A_ND), tile))
    return np.concatenate([np.partition(tile_TN, -k, axis=1)[:, -k:].mean(axis=1) for tile_TN in tiles])


def linear_cka(X_ND: np.ndarray, Y_ND: np.ndarray) -> float:
    """Return the linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414), 0 to 1.

        ‖YᵀX‖²  ÷  (‖XᵀX‖ ‖YᵀY‖)      Frobenius norms, columns centred

    It compares the shapes of two spaces, whatever their origin, rotation and scale. 0 if all vectors of one are equal.
    With fewer items than dimensions it is high for random vectors too: use many items.
    """
    X_ND, Y_ND = X_ND.astype(np.float64), Y_ND.astype(np.float64)
    X_ND, Y_ND = X_ND - X_ND.mean(axis=0), Y_ND - Y_ND.mean(axis=0)
    size = np.linalg.norm(X_ND.T @ X_ND) * np.linalg.norm(Y_ND.T @ Y_ND)
    return float(np.linalg.norm(Y_ND.T @ X_ND) ** 2 / size) if size > 1e-12 else 0.0


def uniformity(vector_ND: np.ndarray, *, tile: int = TILE) -> float:
    """Return ln of the mean of exp(−2 ‖x − y‖²) over all pairs of one language (Wang & Isola 2020, arXiv 2005.10242, t = 2).

    Lower is more uniform; 0 if all vectors are equal; −4 if all are orthogonal. Its companion, `alignment`, is the mean of
    ‖x − y‖² over translations (their α = 2): 0 at best, 2 for orthogonal vectors.
    """
    total = 0.0
    for start in range(0, len(vector_ND), tile):
        cosine_TN = vector_ND[start : start + tile] @ vector_ND.T
        value_TN = np.exp(4 * cosine_TN.astype(np.float64) - 4)
        total += value_TN.sum() - np.diagonal(value_TN, offset=start).sum()
    return float(np.log(total / (len(vector_ND) * (len(vector_ND) - 1))))


def centroid_gap(by_language: list[np.ndarray]) -> float:
    """Return the mean distance between the centroids of two languages, over the mean distance of a vector to its own centroid.

    0 if all languages have the same centroid and, by convention, if all vectors within each language are equal.
    """
    centroid_LD = [vector_ND.mean(axis=0, dtype=np.float64) for vector_ND in by_language]
    between = np.mean([np.linalg.norm(a - b) for a, b in combinations(centroid_LD, 2)])
    pairs = zip(by_language, centroid_LD, strict=True)
    within = np.mean([np.linalg.norm(vector_ND - centroid_D, axis=1).mean() for vector_ND, centroid_D in pairs])
    return float(between / within) if within > 1e-12 else 0.0


def language_probe(vector_MD: np.ndarray, language_M: np.ndarray, item_M: np.ndarray) -> float:
    """Return the accuracy of a linear classifier of the vectors' languages; that of chance if vectors do not tell them.

    It is a logistic regression (L2 penalty ‖W‖²/2 on a sum of losses, vectors centred and scaled by one number), trained on
    one half of the items and tested on the other, both ways: translations of an item are in the same half.
    """
    item_M = np.unique(item_M, return_inverse=True)[1]
    order_N = permutation("language probe", int(item_M.max()) + 1)
    second_M = np.isin(item_M, order_N[: len(order_N) // 2])
    correct = sum(_count_correct(vector_MD, language_M, train_M) for train_M in (second_M, ~second_M))
    return correct / len(vector_MD)


def _count_correct(vector_MD: np.ndarray, language_M: np.ndarray, train_M: np.ndarray) -> int:
    """Train on some rows, and return the number of other rows whose language is predicted correctly."""
    mean_D = vector_MD[train_M].mean(axis=0)
    scale = np.sqrt(((vector_MD[train_M] - mean_D) ** 2).mean())
    # One scale for all dimensions, so that a rotation of the space changes nothing.
    input_MD = torch.from_numpy((vector_MD - mean_D) / (scale if scale > 1e-12 else 1)).double()
    target_M, train = torch.from_numpy(language_M), torch.from_numpy(train_M)
    weight_LD = torch.zeros(int(language_M.max()) + 1, input_MD.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_LD], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logit_ML = input_MD[train] @ weight_LD[:, :-1].T + weight_LD[:, -1]
        value = torch.nn.functional.cross_entropy(logit_ML, target_M[train], reduction="sum")
        value = (value + (weight_LD[:, :-1] ** 2).sum() / 2) / len(logit_ML)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        logit_ML = input_MD[~train] @ weight_LD[:, :-1].T + weight_LD[:, -1]
        return int((logit_ML.argmax(dim=1) == target_M[~train]).sum())
