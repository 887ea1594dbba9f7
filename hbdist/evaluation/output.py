"""What an evaluation found, as files: scores.json, TREC files, and the ranks of every query."""

import gzip
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hbdist.errors import ConfigError
from hbdist.evaluation.metrics.per_query import write_per_query
from hbdist.evaluation.metrics.retrieval import Ranking
from hbdist.evaluation.metrics.summary import per_query
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.utils.files import write_atomically

LARGEST_PLAIN_FILE = 100_000
"""Lines; a longer TREC file is compressed."""


@dataclass(frozen=True)
class Evaluation:
    """The scores, and the ranking they come from."""

    scores: dict[str, Any]
    ranking: Ranking


def make_folder(out: Path) -> None:
    """Make the folder, and see that files can be written there, before hours go into what they would hold.

    Raises:
        ConfigError: they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(
            f"{out}: the scores cannot be written there ({error.strerror}). Give another folder with --out."
        ) from None


def write_scores(out: Path, evaluation: Evaluation, task: RetrievalTask) -> Path:
    """Write multilingual.run.trec, qrels.trec (".gz" if long), ranks.npz and, last and whole or not at all, scores.json.

    The run file holds the first hundred candidates of the multilingual pool, scores with all digits of a float32, so
    that trec_eval orders them as they were ordered here.
    """
    out.mkdir(parents=True, exist_ok=True)
    ranking, ids = evaluation.ranking, task.candidate_ids
    run = (
        f"{query} Q0 {ids[place]} {rank} {score:.9g} hbdist\n"
        for query, places, values in zip(task.query_ids, ranking.top_QK, ranking.top_score_QK, strict=True)
        for rank, (place, score) in enumerate(zip(places.tolist(), values.tolist(), strict=True), start=1)
        if score > -np.inf  # else not ranked for this query
    )
    qrels = (
        f"{query_id} 0 {ids[place]} {grade}\n"
        for query_id, places, grades in zip(task.query_ids, task.relevant, task.relevant_grade, strict=True)
        for place, grade in zip(places.tolist(), grades.tolist(), strict=True)
        if grade
    )
    _write_lines(out / "multilingual.run.trec", run, ranking.top_QK.size)
    _write_lines(out / "qrels.trec", qrels, sum(len(task.relevance[query.id]) for query in task.queries))
    write_per_query(out, per_query(ranking, task), evaluation.scores["task_fingerprint"])
    path = out / "scores.json"
    text = json.dumps(evaluation.scores, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text)
    return path


def _write_lines(path: Path, lines: Iterable[str], count: int) -> None:
    data, compressed = "".join(lines).encode(), path.with_name(path.name + ".gz")
    long = count > LARGEST_PLAIN_FILE
    # mtime 0: the same ranking gives the same bytes.
    write_atomically(*((compressed, gzip.compress(data, 1, mtime=0)) if long else (path, data)))
    (path if long else compressed).unlink(missing_ok=True)  # of an earlier evaluation with another cut
