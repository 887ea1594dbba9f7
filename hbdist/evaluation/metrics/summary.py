"""Scores of a task from its ranking, as in scores.json, and the clusters and parallel questions that the measures need.

Q queries · C candidates · R relevant candidates of a query, padded · N questions · L languages · D dimensions
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from hbdist.evaluation.metrics import language_bias
from hbdist.evaluation.metrics.alignment import NO_ITEM, alignment
from hbdist.evaluation.metrics.consistency import consistency
from hbdist.evaluation.metrics.language_removal import REMOVALS
from hbdist.evaluation.metrics.per_query import PerQuery
from hbdist.evaluation.metrics.retrieval import NO_POSITION, TOP, Ranking, macro_mean, mean_metrics
from hbdist.evaluation.scores import SETTINGS
from hbdist.evaluation.tasks.corpus import Corpus
from hbdist.evaluation.tasks.task import ABSENT, NO_CANDIDATE, RetrievalTask

RankEmbeddings = Callable[[np.ndarray, np.ndarray], Ranking]
"""Function (query_QD, candidate_CD) → their ranking for the task."""


def summarise(ranking: Ranking, task: RetrievalTask) -> dict[str, Any]:
    """Return the main numbers of scores.json, as arXiv 2408.10536 averages them: all are macro means over settings.

    monolingual: over languages (queries and candidates of one language). cross_lingual: over ordered pairs of two
    languages (candidates of one language). multilingual: over query languages (candidates of all languages).
    Settings that the task does not have are null; with one language only, so are cross_lingual and bias.
    """
    mean = partial(mean_metrics, names=task.metrics)
    relevant_language_QR = np.where(task.relevant == NO_CANDIDATE, -1, relevant_languages(task))
    by_pair: dict[tuple[str, str], dict[str, float]] = {}
    for x, rows in task.query_slices.items():
        for number, y in enumerate(task.languages):
            if ("monolingual" if x == y else "cross_lingual") in task.settings:
                position_QR = np.where(relevant_language_QR[rows] == number, ranking.language_QR[rows], NO_POSITION)
                # A pair without any question in common has no score.
                if values := mean(position_QR, grade_QR=task.relevant_grade[rows]):
                    by_pair[x, y] = values
    in_pool = {x: rows for x, rows in task.query_slices.items() if "multilingual" in task.settings}
    by_language = {x: mean(ranking.pool_QR[rows], grade_QR=task.relevant_grade[rows]) for x, rows in in_pool.items()}
    bias = _measure_bias(ranking, task) if in_pool and len(task.languages) > 1 else {}
    mean_of_bias: dict[str, Any] = macro_mean(bias.values())
    if bias:
        mean_of_bias |= measure_more_bias(ranking, task, {x: values["map"] for x, values in by_language.items()})
    return {
        "monolingual": macro_mean(values for (x, y), values in by_pair.items() if x == y) or None,
        "cross_lingual": macro_mean(values for (x, y), values in by_pair.items() if x != y) or None,
        "multilingual": macro_mean(by_language.values()) or None,
        "by_pair": {f"{x}-{y}": values for (x, y), values in by_pair.items()},
        "by_language": {x: values | bias.get(x, {}) for x, values in by_language.items()},
        "bias": mean_of_bias or None,
    }


def _measure_bias(ranking: Ranking, task: RetrievalTask) -> dict[str, dict[str, float]]:
    """Return the bias measures of each query language; empty if no query has two answers."""
    query_Q, candidate_C = language_numbers(task.query_slices), language_numbers(task.candidate_slices)
    by_number = language_bias.bias_by_language(
        ranking.pool_QR, ranking.top_NK, query_language_Q=query_Q, candidate_language_C=candidate_C
    )
    return {task.languages[number]: measures for number, measures in by_number.items()}


def measure_more_bias(ranking: Ranking, task: RetrievalTask, map_by_language: Mapping[str, float]) -> dict[str, Any]:
    """Return what `bias` in scores.json has besides rank distance and same-language share, in two languages or more.

    `map_by_language` has the mAP of each query language in the multilingual pool.
    """
    query_language_Q, relevant_language_QR = language_numbers(task.query_slices), relevant_languages(task)
    pool_QR, candidate_language_C = ranking.pool_QR, language_numbers(task.candidate_slices)
    one_answer = language_bias.one_answer_map(
        pool_QR, relevant_language_QR=relevant_language_QR, query_language_Q=query_language_Q
    )
    irrelevant_Q = language_bias.peer_irrelevant(ranking.top_NK, pool_QR, candidate_language_C=candidate_language_C)
    relevant_Q = language_bias.peer_relevant(pool_QR, relevant_language_QR=relevant_language_QR, k=TOP)
    apart = language_bias.spread(map_by_language)
    return {
        "map_range": apart["range"],
        "map_deviation": apart["deviation"],
        f"peer_irrelevant@{TOP}": float(irrelevant_Q.mean()),
        f"peer_relevant@{TOP}": None if np.isnan(relevant_Q).all() else float(np.nanmean(relevant_Q)),
        "one_answer_map": {f"{task.languages[x]}-{task.languages[y]}": value for (x, y), value in one_answer.items()},
    }


def collect_positions(ranking: Ranking, task: RetrievalTask) -> PerQuery:
    """Return what is kept of each query: the positions in the settings that the task has."""
    language_Q = language_numbers(task.query_slices)
    relevant_language_QR = relevant_languages(task)
    same_QR = language_Q[:, None] == relevant_language_QR
    has = {setting: setting in task.settings for setting in SETTINGS}
    # Grades are not kept, so nDCG with grades cannot be computed again later.
    graded = task.metrics[0].startswith("ndcg") and task.relevant_grade.max() > 1
    return PerQuery(
        language_Q,
        query_clusters(task),
        np.where(has["multilingual"], ranking.pool_QR, NO_POSITION),
        np.where(np.where(same_QR, has["monolingual"], has["cross_lingual"]), ranking.language_QR, NO_POSITION),
        relevant_language_QR,
        "map" if graded else task.metrics[0],
    )


def cluster_questions(task: RetrievalTask) -> dict[str, int]:
    """Return the cluster number of each question id. The translations of a question have the same id, so the same cluster.

    Where candidates are the sentences of paragraphs, questions with an answer in the same paragraph are one cluster, also
    through others: XQuAD-R's clusters are its 240 paragraphs. Elsewhere each question is a cluster. (Chained by shared
    answers, the judgements of TREC-COVID would be a single cluster, and those of Climate-FEVER one of 93 %.)
    """
    if isinstance(task.candidates, Corpus) or not any(candidate.sentence for candidate in task.candidates):
        return {question: number for number, question in enumerate(task.relevance)}
    first_question: dict[tuple[str, int], str] = {}
    parent = {question: question for question in task.relevance}

    def root(question: str) -> str:
        while parent[question] != question:
            parent[question] = question = parent[parent[question]]
        return question

    for question, indices in task.relevance.items():
        for index in indices:
            candidate = task.candidates[index]
            paragraph = candidate.language, candidate.paragraph
            parent[root(question)] = root(first_question.setdefault(paragraph, question))
    numbers: dict[str, int] = {}
    return {question: numbers.setdefault(root(question), len(numbers)) for question in task.relevance}


def query_clusters(task: RetrievalTask) -> np.ndarray:
    """Return the cluster number of each query: int64 [Q]."""
    cluster = cluster_questions(task)
    return np.array([cluster[query.id] for query in task.queries], dtype=np.int64)


def align_questions(query_QD: np.ndarray, ranking: Ranking, task: RetrievalTask) -> dict[str, Any] | None:
    """Return alignment and consistency of the questions; None if no two languages share two questions."""
    languages, row_NL = list(task.languages), find_question_rows(task)
    length_Q1 = np.linalg.norm(query_QD, axis=1, keepdims=True)
    query_QD = query_QD / np.where(length_Q1 > 0, length_Q1, 1)
    measures = alignment(query_QD, row_NL, languages)
    return measures and {**measures, "consistency": consistency(query_QD, ranking.top_NK, row_NL, languages)}


def find_question_rows(task: RetrievalTask) -> np.ndarray:
    """Return the row of each question in each language, NO_ITEM where there is none: int64 [N, L]."""
    number = {question: n for n, question in enumerate(task.relevance)}
    row_NL = np.full((len(number), len(task.languages)), NO_ITEM, dtype=np.int64)
    for row, (query, language) in enumerate(zip(task.queries, language_numbers(task.query_slices), strict=True)):
        row_NL[number[query.id], language] = row
    return row_NL


def rank_without_language(
    query_QD: np.ndarray, candidate_CD: np.ndarray, task: RetrievalTask, *, rank: RankEmbeddings
) -> dict[str, Ranking]:
    """Return the ranking after the language is removed from the embeddings, by each baseline without training.

    The baselines are fitted to the candidates without labels. For a language without candidates nothing can be fitted: its
    queries are left unchanged.
    """
    query_language_Q, language_C = language_numbers(task.query_slices), language_numbers(task.candidate_slices)
    fitted_Q = np.isin(query_language_Q, language_C)
    rankings = {}
    for name, fit in REMOVALS.items():
        remove = fit(candidate_CD, language_C)
        changed_QD = query_QD.copy()
        changed_QD[fitted_Q] = remove(query_QD[fitted_Q], query_language_Q[fitted_Q])
        rankings[name] = rank(changed_QD, remove(candidate_CD, language_C))
    return rankings


def summarise_removal(ranking: Ranking, task: RetrievalTask) -> dict[str, Any]:
    """Return what scores.json has of a ranking without language."""
    summary = summarise(ranking, task)
    return {part: summary[part] for part in (*SETTINGS, "bias")}


def language_numbers(slices: Mapping[str, slice]) -> np.ndarray:
    """Return the number of each row's language: int64 [rows]."""
    return np.repeat(np.arange(len(slices)), [part.stop - part.start for part in slices.values()])


def relevant_languages(task: RetrievalTask) -> np.ndarray:
    """Return the language number of each relevant candidate: int64 [Q, R]; any number where there is none.

    An absent one is of its question's language.
    """
    # Found by search, as an array of the languages of a hundred million candidates would be large.
    stops = np.array([part.stop for part in task.candidate_slices.values()])
    language_QR = np.searchsorted(stops, task.relevant, side="right")
    return np.where(task.relevant == ABSENT, language_numbers(task.query_slices)[:, None], language_QR)
