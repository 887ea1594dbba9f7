"""Files of an evaluation: scores.json, TREC files, and the positions of every query's answers."""

import gzip
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.metrics.bootstrap import confidence
from hbdist.evaluation.metrics.per_query import read_per_query, write_per_query
from hbdist.evaluation.metrics.retrieval import Ranking
from hbdist.evaluation.metrics.summary import collect_positions, query_clusters
from hbdist.evaluation.tasks.task import WHOLE_POOL, RetrievalTask
from hbdist.utils.files import write_atomically
from hbdist.utils.leftovers import remove_leftovers

LARGEST_PLAIN_FILE = 100_000
"""Number of lines above which a TREC file is compressed."""


BY_PAIR = "by_pair.run.trec"
RUN_NAMES = ("multilingual.run.trec", "monolingual.run.trec", BY_PAIR)
"""Names of TREC runs, by the pool: all candidates, those of the query's language, those of each language by itself."""


@dataclass(frozen=True)
class Evaluation:
    """Scores, and the ranking from which they were computed."""

    scores: dict[str, Any]
    ranking: Ranking
    removal: Mapping[str, Ranking] = field(default_factory=dict)
    """Name of a language removal → ranking after it."""


def make_folder(out: Path) -> None:
    """Make the folder, and check that files can be written there before hours are spent on their content.

    Raises:
        ConfigError: they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(
            f"{out}: the scores cannot be written there ({error.strerror}). Give another folder with --out."
        ) from None


def write_scores(out: Path, evaluation: Evaluation, task: RetrievalTask) -> None:
    """Write a TREC run and qrels.trec (".gz" if long), ranks.npz, the same after each language removal (ranks-demean.npz,
    ranks-lir.npz) and, last, scores.json; each one atomically.

    The run has the first hundred candidates of each topic: of the whole pool (multilingual.run.trec); in a task without a
    multilingual setting, of the query's language (monolingual.run.trec), or of each language in which the query has an
    answer (by_pair.run.trec, where topics are called "en-17:de"). Its scores have all digits of a float32, so that trec_eval
    orders them in the same way.
    """
    out.mkdir(parents=True, exist_ok=True)
    ranking, ids, name = evaluation.ranking, task.candidate_ids, run_name(task)
    topic_ids = _topic_ids(task, name)
    run = (
        f"{topic_id} Q0 {ids[index]} {position} {score:.9g} hbdist\n"
        for topic_id, index_K, score_K in zip(topic_ids, ranking.top_NK, ranking.top_score_NK, strict=True)
        for position, (index, score) in enumerate(zip(index_K.tolist(), score_K.tolist(), strict=True), start=1)
        if score > -np.inf  # otherwise the candidate is not ranked for this query
    )
    qrels = [
        f"{topic_id} 0 {document_id} {grade}\n"
        for topic_id, query, language in zip(topic_ids, *map(np.ndarray.tolist, task.topics), strict=True)
        for document_id, grade in _judgements(task, query, language)
    ]
    for other in RUN_NAMES:  # left by an earlier version
        if other != name:
            (out / other).unlink(missing_ok=True)
            (out / f"{other}.gz").unlink(missing_ok=True)
    _write_lines(out / name, run, ranking.top_NK.size)
    _write_lines(out / "qrels.trec", qrels, len(qrels))
    for removal, ranked in {"": ranking, **evaluation.removal}.items():
        write_per_query(out, collect_positions(ranked, task), task.fingerprint, removal)
    _write_json(out, evaluation.scores)


def renew_intervals(out: Path, scores: dict[str, Any], task: RetrievalTask) -> dict[str, Any] | None:
    """Return scores of an earlier version with today's groups of questions and intervals, and write them to `out`.

    Earlier versions grouped all questions that share a relevant passage, which made their intervals wrong on many tasks.
    Nothing is encoded or ranked again. None if the positions are missing or damaged: the task has to be evaluated anew.
    """
    try:
        queries = replace(read_per_query(out, task.fingerprint), cluster_Q=query_clusters(task))
    except DataError:
        return None
    write_per_query(out, queries, task.fingerprint)
    scores = scores | {"confidence": confidence(queries)}
    _write_json(out, scores)
    return scores


def run_name(task: RetrievalTask) -> str:
    """Return the name of the TREC run of a task: by the pool against which its queries are ranked."""
    multilingual, monolingual, by_pair = RUN_NAMES
    if "multilingual" in task.settings:
        return multilingual
    return by_pair if "cross_lingual" in task.settings else monolingual


def _topic_ids(task: RetrievalTask, name: str) -> list[str]:
    query_ids = task.query_ids
    if name != BY_PAIR:
        return [query_ids[query] for query in task.topics.query_N.tolist()]
    pairs = zip(*map(np.ndarray.tolist, task.topics), strict=True)
    return [f"{query_ids[query]}:{task.languages[language]}" for query, language in pairs]


def _write_json(out: Path, scores: dict[str, Any]) -> None:
    text = json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(out / "scores.json", text + "\n")


def _judgements(task: RetrievalTask, number: int, language: int) -> Iterator[tuple[str, int]]:
    """Yield the id and the gain of each relevant document of a topic, those that are not among the candidates included."""
    part = slice(None) if language == WHOLE_POOL else list(task.candidate_slices.values())[language]
    start, stop, _ = part.indices(len(task.candidates))
    for index, grade in zip(task.relevant[number].tolist(), task.relevant_grade[number].tolist(), strict=True):
        if index >= 0 and start <= index < stop:
            yield task.candidate_ids[index], grade
    query = task.queries[number]
    if language in (WHOLE_POOL, task.languages.index(query.language)):
        for document, grade in task.absent.get(query.id, {}).items():
            yield f"{query.language}-{document}", grade


def _write_lines(path: Path, lines: Iterable[str], count: int) -> None:
    data, compressed = "".join(lines).encode(), path.with_name(path.name + ".gz")
    is_long = count > LARGEST_PLAIN_FILE
    # mtime 0: the same ranking gives the same bytes.
    write_atomically(*((compressed, gzip.compress(data, 1, mtime=0)) if is_long else (path, data)))
    (path if is_long else compressed).unlink(missing_ok=True)  # left by an earlier evaluation with another cut
