"""Measures of language bias: how much the language of an answer decides its position in one multilingual pool.

All of them improve when everything is random or nothing is found: read them together with mAP.

    Q queries · R relevant candidates of a query, padded · K candidates at the top · C candidates of the pool
    N positions that are compared with one another · G languages

    position_QR   int64 exact positions of the relevant candidates in the whole pool; NO_POSITION where there is none
    top_QK        int64 indices into the pool, best first
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch

from hbdist.evaluation.metrics.retrieval import NO_POSITION, mean_metrics

Number = TypeVar("Number", float, np.ndarray)

TOP = 10
"""Number of candidates at the top whose languages are compared with the query's."""


def rank_distance(position_QR: np.ndarray) -> np.ndarray:
    """Return the last minus the first position of a query's relevant candidates in the multilingual pool: float64 [Q].

    NaN for a query with fewer than two. After Huang et al. 2023 (arXiv 2305.09025), as in arXiv 2408.10536, footnote 6.
    A single language that is ranked badly decides it: see the median as well as the mean.
    """
    present_QR = position_QR != NO_POSITION
    last_Q = position_QR.max(axis=1)
    first_Q = np.where(present_QR, position_QR, np.iinfo(np.int64).max).min(axis=1)
    return np.where(present_QR.sum(axis=1) > 1, last_Q - first_Q.astype(np.float64), np.nan)


def random_rank_distance(relevant: Number, pool: int) -> Number:
    """Return the expected rank distance of a random order: (k − 1)/(k + 1)·(N + 1); 10,846 on XQuAD-R. The best is k − 1."""
    return (relevant - 1) / (relevant + 1) * (pool + 1)


def same_language_share(
    top_QK: np.ndarray, *, query_language_Q: np.ndarray, candidate_language_C: np.ndarray, k: int = TOP
) -> np.ndarray:
    """Return the share of the first k candidates that are in the query's language: float64 [Q].

    Compare it with the language's share of the pool, which is the result of a ranker that ignores language. If there are
    fewer than k, all count.
    """
    return (candidate_language_C[top_QK[:, :k]] == query_language_Q[:, None]).mean(axis=1)


def bias_by_language(
    position_QR: np.ndarray, top_QK: np.ndarray, *, query_language_Q: np.ndarray, candidate_language_C: np.ndarray
) -> dict[int, dict[str, float]]:
    """Return the bias measures over the queries of each language, by its number, with the rank distances of a perfect and
    of a random order. Languages none of whose queries has two relevant candidates are left out."""
    distance_Q, pool = rank_distance(position_QR), len(candidate_language_C)
    relevant_Q = np.where(np.isnan(distance_Q), np.nan, (position_QR != NO_POSITION).sum(axis=1))
    share_Q = same_language_share(top_QK, query_language_Q=query_language_Q, candidate_language_C=candidate_language_C)
    return {
        int(language): {
            "rank_distance": float(np.nanmean(distance_Q[own_Q])),
            "rank_distance_median": float(np.nanmedian(distance_Q[own_Q])),
            # Scale-free, so that pools of different sizes can be compared.
            "rank_distance_share": float(np.nanmean(distance_Q[own_Q]) / (pool - 1)),
            "rank_distance_perfect": float(np.nanmean(relevant_Q[own_Q] - 1)),
            "rank_distance_random": float(np.nanmean(random_rank_distance(relevant_Q[own_Q], pool))),
            f"same_language_share@{TOP}": float(share_Q[own_Q].mean()),
            "same_language_pool_share": float((candidate_language_C == language).mean()),
        }
        for language in np.unique(query_language_Q[~np.isnan(distance_Q)])
        for own_Q in [query_language_Q == language]
    }


def spread(value_by_language: Mapping[str, float]) -> dict[str, float]:
    """Return how much the languages differ in one metric: `range`, best minus worst, and `deviation`, the root mean square
    distance from their mean."""
    values = list(value_by_language.values())
    return {"range": max(values) - min(values), "deviation": float(np.std(values))}


def one_answer_map(
    position_QR: np.ndarray, *, relevant_language_QR: np.ndarray, query_language_Q: np.ndarray
) -> dict[tuple[int, int], float]:
    """Return mAP by (query language, answer language), where only the answers in that one language are in the pool.

    LAReQA's heat map of language bias (arXiv 2004.05484): the other languages' answers are removed from the pool, and all
    their other candidates stay as distractors. A bright diagonal over dark rows is a preference for the query's own
    language. Pairs without a query that has such an answer are left out.

    It is exact without ranking again: removing n candidates before another one moves that one up by n positions.
    """
    present_QR = position_QR != NO_POSITION
    table: dict[tuple[int, int], float] = {}
    for answer in np.unique(relevant_language_QR[present_QR]).tolist():
        answer_QR = present_QR & (relevant_language_QR == answer)
        removed_Q1R = (present_QR & ~answer_QR)[:, None, :]
        before_QR = (removed_Q1R & (position_QR[:, None, :] < position_QR[:, :, None])).sum(axis=2)
        alone_QR = np.where(answer_QR, position_QR - before_QR, NO_POSITION)
        for language in np.unique(query_language_Q).tolist():
            if mean := mean_metrics(alone_QR[query_language_Q == language], ["map"]):
                table[language, answer] = mean["map"]
    return table


def peer_irrelevant(top_QK: np.ndarray, position_QR: np.ndarray, *, candidate_language_C: np.ndarray) -> np.ndarray:
    """Return PEER of the irrelevant candidates among the first K: float64 [Q], 1 fair, 0 unfair.

    It is the p-value of a Kruskal-Wallis test of equal positions in all languages (Yang et al. 2024, arXiv 2405.00978, with
    all the weight on relevance level 0); 1 if fewer than two languages are at the top.

    Limits: p depends on K, so compare equal K only. It measures the order at the top, not which languages are missing
    there: a top in a single language counts as fair. For a fair ranker it is uniform, with a mean of 0.5 and not 1.
    """
    own_position_QK = np.broadcast_to(np.arange(1, top_QK.shape[1] + 1), top_QK.shape)
    member_QK = np.ones(top_QK.shape, dtype=bool)
    for position_Q in position_QR.T:
        member_QK &= own_position_QK != position_Q[:, None]
    return _kruskal_wallis(np.cumsum(member_QK, axis=1), member_QK, candidate_language_C[top_QK])


def peer_relevant(position_QR: np.ndarray, *, relevant_language_QR: np.ndarray, k: int) -> np.ndarray:
    """Return PEER of the relevant candidates, cut at k: float64 [Q]; NaN where no language has two of them.

    As `peer_irrelevant`, for relevance level 1. Candidates after position k are not retrieved: they tie behind the others.

    Limits: with one answer per language (XQuAD-R) the statistic is a constant and p means nothing, hence NaN. With few
    answers per language, the χ² distribution of the statistic is a rough approximation.
    """
    member_QR = position_QR != NO_POSITION
    cut_QR = np.where(member_QR, np.minimum(position_QR, k + 1), np.iinfo(np.int64).max)
    lower_QR = (cut_QR[:, None, :] < cut_QR[:, :, None]).sum(axis=2)
    tied_QR = (cut_QR[:, None, :] == cut_QR[:, :, None]).sum(axis=2)
    value_Q = _kruskal_wallis(lower_QR + (tied_QR + 1) / 2, member_QR, relevant_language_QR)
    same_QRR = relevant_language_QR[:, None, :] == relevant_language_QR[:, :, None]
    several_Q = ((same_QRR & member_QR[:, None, :]).sum(axis=2) * member_QR).max(axis=1) > 1
    return np.where(several_Q, value_Q, np.nan)


def _kruskal_wallis(rank_QN: np.ndarray, member_QN: np.ndarray, language_QN: np.ndarray) -> np.ndarray:
    """Return the p-value of equal mean ranks in all languages, one test per row; 1 where there is nothing to compare.

        H = (n − 1) Σ_g n_g (r̄_g − r̄)²  ÷  Σ (r − r̄)²,   χ² with G − 1 degrees of freedom

    Args:
        rank_QN: ranks of the test statistic among the row's members; ties share their mean rank.
        member_QN: entries that count.
        language_QN: language number of each entry.
    """
    count_Q = member_QN.sum(axis=1)
    mean_Q = (rank_QN * member_QN).sum(axis=1) / np.maximum(count_Q, 1)
    distance_QN = (rank_QN - mean_Q[:, None]) * member_QN
    between_Q, languages_Q = np.zeros(len(rank_QN)), np.zeros(len(rank_QN), dtype=np.int64)
    for language in np.unique(language_QN[member_QN]):
        own_QN = member_QN & (language_QN == language)
        own_Q = own_QN.sum(axis=1)
        between_Q += (distance_QN * own_QN).sum(axis=1) ** 2 / np.maximum(own_Q, 1)
        languages_Q += own_Q > 0
    total_Q = (distance_QN**2).sum(axis=1)
    tested_Q = (languages_Q > 1) & (total_Q > 0)
    statistic_Q = (count_Q - 1) * between_Q / np.where(tested_Q, total_Q, 1)
    # The upper tail of χ² with f degrees of freedom is the regularised incomplete gamma function Q(f/2, H/2).
    freedom_Q = np.maximum(languages_Q - 1, 1)
    tail_Q = torch.special.gammaincc(torch.from_numpy(freedom_Q / 2), torch.from_numpy(statistic_Q / 2)).numpy()
    return np.where(tested_Q, tail_Q, 1.0)
