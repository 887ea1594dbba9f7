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
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.utils.files import write_atomically
from hbdist.utils.leftovers import remove_leftovers

LARGEST_PLAIN_FILE = 100_000
"""Number of lines above which a TREC file is compressed."""


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
    """Write multilingual.run.trec, qrels.trec (".gz" if long), ranks.npz, the same after each language removal
    (ranks-demean.npz, ranks-lir.npz) and, last, scores.json; each one atomically.

    The run file has the first hundred candidates of the multilingual pool. Its scores have all digits of a float32, so that
    trec_eval orders them in the same way.
    """
    out.mkdir(parents=True, exist_ok=True)
    ranking, ids = evaluation.ranking, task.candidate_ids
    run = (
        f"{query_id} Q0 {ids[index]} {position} {score:.9g} hbdist\n"
        for query_id, index_K, score_K in zip(task.query_ids, ranking.top_QK, ranking.top_score_QK, strict=True)
        for position, (index, score) in enumerate(zip(index_K.tolist(), score_K.tolist(), strict=True), start=1)
        if score > -np.inf  # otherwise the candidate is not ranked for this query
    )
    qrels = [
        f"{query_id} 0 {document_id} {grade}\n"
        for number, query_id in enumerate(task.query_ids)
        for document_id, grade in _judgements(task, number)
    ]
    _write_lines(out / "multilingual.run.trec", run, ranking.top_QK.size)
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


def _write_json(out: Path, scores: dict[str, Any]) -> None:
    text = json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(out / "scores.json", text + "\n")


def _judgements(task: RetrievalTask, number: int) -> Iterator[tuple[str, int]]:
    """Yield the id and the gain of each relevant document of a query, those that are not among the candidates included."""
    for index, grade in zip(task.relevant[number].tolist(), task.relevant_grade[number].tolist(), strict=True):
        if index >= 0:
            yield task.candidate_ids[index], grade
    query = task.queries[number]
    for document, grade in task.absent.get(query.id, {}).items():
        yield f"{query.language}-{document}", grade


def _write_lines(path: Path, lines: Iterable[str], count: int) -> None:
    data, compressed = "".join(lines).encode(), path.with_name(path.name + ".gz")
    is_long = count > LARGEST_PLAIN_FILE
    # mtime 0: the same ranking gives the same bytes.
    write_atomically(*((compressed, gzip.compress(data, 1, mtime=0)) if is_long else (path, data)))
    (path if is_long else compressed).unlink(missing_ok=True)  # left by an earlier evaluation with another cut
