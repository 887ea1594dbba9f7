"""Between a task and the measures: which rows are the same question, which queries stand or fall together, and the
parts of scores.json beside retrieval itself.

    Q queries · C candidates · R relevant candidates of a query, padded · N questions · L languages · D dimensions
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from hbdist.evaluation.metrics.alignment import NO_ITEM, alignment
from hbdist.evaluation.metrics.consistency import consistency
from hbdist.evaluation.metrics.language_bias import one_answer_map, peer_irrelevant, peer_relevant, spread
from hbdist.evaluation.metrics.language_removal import REMOVALS
from hbdist.evaluation.metrics.per_query import PerQuery
from hbdist.evaluation.metrics.retrieval import NO_RANK, TOP, Ranking
from hbdist.evaluation.scores import SETTINGS
from hbdist.evaluation.tasks.corpus import Corpus
from hbdist.evaluation.tasks.task import RetrievalTask

RankVectors = Callable[[np.ndarray, np.ndarray], Ranking]
"""(query_QD, candidate_CD) → their ranking for the task."""


def per_query(ranking: Ranking, task: RetrievalTask) -> PerQuery:
    """What is kept of each query: ranks in the settings that the task has."""
    cluster, language_Q, relevant_language_QR = (
        clusters(task),
        language_numbers(task.query_slices),
        relevant_languages(task),
    )
    same_QR = language_Q[:, None] == relevant_language_QR
    has = {setting: setting in task.settings for setting in SETTINGS}
    return PerQuery(
        language_Q,
        np.array([cluster[query.id] for query in task.queries], dtype=np.int64),
        np.where(has["multilingual"], ranking.pool_QR, NO_RANK),
        np.where(np.where(same_QR, has["monolingual"], has["cross_lingual"]), ranking.language_QR, NO_RANK),
        relevant_language_QR,
        _metric_of_ranks(task),
    )


def _metric_of_ranks(task: RetrievalTask) -> str:
    """The task's main metric; mAP in place of an nDCG that rests on grades, which are not kept."""
    main = task.metrics[0]
    return "map" if main.startswith("ndcg") and task.relevant_grade.max() > 1 else main


def clusters(task: RetrievalTask) -> dict[str, int]:
    """Question id → number of its cluster: questions with an answer in the same paragraph, through others too.

    A question's translations have one id and are one cluster with it. On XQuAD-R these are its 240 paragraphs.
    """
    found: dict[Hashable, str] = {}
    parent = {question: question for question in task.relevance}

    def root(question: str) -> str:
        while parent[question] != question:
            parent[question] = question = parent[parent[question]]
        return question

    for question, places in task.relevance.items():
        for place in places:
            # What lies on disk are whole passages.
            paragraph = place if isinstance(task.candidates, Corpus) else task.candidates[place][:2]
            parent[root(question)] = root(found.setdefault(paragraph, question))
    numbers: dict[str, int] = {}
    return {question: numbers.setdefault(root(question), len(numbers)) for question in task.relevance}


def more_bias(ranking: Ranking, task: RetrievalTask, map_by_language: Mapping[str, float]) -> dict[str, Any]:
    """What `bias` in scores.json has beside rank distance and same-language share.

    Args:
        ranking: of the whole task.
        task: in two languages or more.
        map_by_language: mAP in the multilingual pool of each query language.
    """
    query_language_Q, relevant_language_QR = language_numbers(task.query_slices), relevant_languages(task)
    one_answer = one_answer_map(
        ranking.pool_QR, relevant_language_QR=relevant_language_QR, query_language_Q=query_language_Q
    )
    irrelevant_Q = peer_irrelevant(
        ranking.top_QK, ranking.pool_QR, candidate_language_C=language_numbers(task.candidate_slices)
    )
    relevant_Q = peer_relevant(ranking.pool_QR, relevant_language_QR=relevant_language_QR, k=TOP)
    apart = spread(map_by_language)
    return {
        "map_range": apart["range"],
        "map_deviation": apart["deviation"],
        f"peer_irrelevant@{TOP}": float(irrelevant_Q.mean()),
        f"peer_relevant@{TOP}": None if np.isnan(relevant_Q).all() else float(np.nanmean(relevant_Q)),
        "one_answer_map": {f"{task.languages[x]}-{task.languages[y]}": value for (x, y), value in one_answer.items()},
    }


def question_alignment(query_QD: np.ndarray, ranking: Ranking, task: RetrievalTask) -> dict[str, Any] | None:
    """Alignment and consistency of the questions; None where no two languages share two questions."""
    languages, place_NL = list(task.languages), question_places(task)
    length_Q1 = np.linalg.norm(query_QD, axis=1, keepdims=True)
    query_QD = query_QD / np.where(length_Q1 > 0, length_Q1, 1)
    found = alignment(query_QD, place_NL, languages)
    return found and {**found, "consistency": consistency(query_QD, ranking.top_QK, place_NL, languages)}


def question_places(task: RetrievalTask) -> np.ndarray:
    """The row of each question in each language, NO_ITEM where it has none: int64 [N, L]."""
    number = {question: n for n, question in enumerate(task.relevance)}
    place_NL = np.full((len(number), len(task.languages)), NO_ITEM, dtype=np.int64)
    for row, (query, language) in enumerate(zip(task.queries, language_numbers(task.query_slices), strict=True)):
        place_NL[number[query.id], language] = row
    return place_NL


def without_language(
    query_QD: np.ndarray,
    candidate_CD: np.ndarray,
    task: RetrievalTask,
    *,
    rank: RankVectors,
    summarise: Callable[[Ranking, RetrievalTask], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """The main scores with the language taken out of the vectors, by each of the baselines that need no training.

    Fitted on the candidates without labels. A language without candidates has nothing to be taken out by: its queries
    stay as they are.
    """
    query_language_Q, language_C = language_numbers(task.query_slices), language_numbers(task.candidate_slices)
    known_Q = np.isin(query_language_Q, language_C)
    scores = {}
    for name, fit in REMOVALS.items():
        remove = fit(candidate_CD, language_C)
        changed_QD = query_QD.copy()
        changed_QD[known_Q] = remove(query_QD[known_Q], query_language_Q[known_Q])
        whole = summarise(rank(changed_QD, remove(candidate_CD, language_C)), task)
        scores[name] = {part: whole[part] for part in ("monolingual", "cross_lingual", "multilingual", "bias")}
    return scores


def language_numbers(slices: Mapping[str, slice]) -> np.ndarray:
    """The number of each row's language: int64 [rows]."""
    return np.repeat(np.arange(len(slices)), [part.stop - part.start for part in slices.values()])


def relevant_languages(task: RetrievalTask) -> np.ndarray:
    """The language number of each relevant candidate: int64 [Q, R]; where there is none, any."""
    # Of a hundred million candidates, there need not be a list of languages.
    stops = np.array([part.stop for part in task.candidate_slices.values()])
    return np.searchsorted(stops, task.relevant, side="right")
