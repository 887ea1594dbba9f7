"""Evaluate an encoder on a retrieval task: encode, rank exactly, average as the paper does, write scores.json.

Q queries · C candidates of the pool · R relevant candidates of a query · D dimensions
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol

import numpy as np

from hbdist.atomic import write_atomically
from hbdist.errors import DataError
from hbdist.evaluation.bias import bias_by_language, mean_bias, random_rank_distance
from hbdist.evaluation.confidence import confidence
from hbdist.evaluation.measures import language_numbers, more_bias, per_query, question_alignment, without_language
from hbdist.evaluation.per_query import write_per_query
from hbdist.evaluation.ranking import NO_RANK, Ranking, macro_mean, mean_metrics, rank_in_tiles
from hbdist.evaluation.scores import read_scores
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.sections import ModelSection

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("queries", "documents", "scores"), how many are done, and of how many."""

LARGEST_PLAIN_FILE = 100_000
"""Lines; a longer TREC file is compressed."""


class TextEncoder(Protocol):
    """What is asked of a model: unit vectors of texts, in the order given."""

    def encode(
        self,
        texts: Sequence[str],
        kind: Literal["query", "document"],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """float32 [N, D], L2-normalised."""


@dataclass(frozen=True)
class Evaluation:
    """The scores, and the ranking they come from."""

    scores: dict[str, Any]
    ranking: Ranking


def evaluate(
    encoder: TextEncoder, task: RetrievalTask, *, model: str, fingerprint: str = "", progress: Progress | None = None
) -> Evaluation:
    """Rank every query's relevant candidates, monolingually, in each language pair, and in the multilingual pool.

    Args:
        encoder: the model.
        task: questions and candidates, perhaps cut.
        model: its name, for the record.
        fingerprint: of its contents, for the record; see `model_fingerprint`.
        progress: told how far it is.

    Raises:
        DataError: the encoder gives vectors that are not finite.
    """
    started = perf_counter()
    query_QD = _encode(encoder, [query.text for query in task.queries], "query", progress)
    texts = [text for part in task.candidate_texts(1024) for text in part]
    candidate_CD = _encode(encoder, texts, "document", progress)
    encoded = perf_counter()
    rank = partial(
        rank_in_tiles,
        relevant_QR=task.relevant,
        slices=list(task.candidate_slices.values()),
        unranked_QI=task.unranked,
    )
    ranking = rank(query_QD, candidate_CD, progress=_part(progress, "scores"))
    several = len(task.languages) > 1 and "multilingual" in task.settings
    scores = {
        "task": task.name,
        "model": model,
        "model_fingerprint": fingerprint,
        "task_fingerprint": task.fingerprint,
        "note": task.note,
        "left_out": dict(task.left_out),
        "counts": {"queries": len(task.queries), "candidates": len(task.candidates)},
        "cut": _cut(task),
        **summarise(ranking, task),
        "confidence": confidence(per_query(ranking, task)),
        "alignment": question_alignment(query_QD, ranking, task) if several else None,
        "removal": without_language(query_QD, candidate_CD, task, rank=rank, summarise=summarise) if several else None,
        "seconds": {"encode": encoded - started, "score": perf_counter() - encoded},
    }
    return Evaluation(scores, ranking)


def summarise(ranking: Ranking, task: RetrievalTask) -> dict[str, Any]:
    """The numbers of scores.json, as arXiv 2408.10536 averages them: all are macro means over settings.

    monolingual: over languages (queries and candidates of one language). cross_lingual: over ordered pairs of two
    languages (candidates of one language). multilingual: over query languages (candidates of all languages).
    What the task has no setting for is null, and so, with one language only, are cross_lingual and bias.
    """
    mean = partial(mean_metrics, names=task.metrics)
    rank_of_pair = {
        (x, y): mean(
            np.where(_relevant_in(task, y)[rows], ranking.language_QR[rows], NO_RANK),
            grade_QR=task.relevant_grade[rows],
        )
        for x, rows in task.query_slices.items()
        for y in task.languages
        if ("monolingual" if x == y else "cross_lingual") in task.settings
    }
    # A pair without any question in common has no score.
    by_pair = {pair: values for pair, values in rank_of_pair.items() if values}
    in_pool = {x: rows for x, rows in task.query_slices.items() if "multilingual" in task.settings}
    by_language = {x: mean(ranking.pool_QR[rows], grade_QR=task.relevant_grade[rows]) for x, rows in in_pool.items()}
    bias = _bias(ranking, task) if in_pool and len(task.languages) > 1 else {}
    if bias:
        bias[""] |= more_bias(ranking, task, {x: values["map"] for x, values in by_language.items()})
    return {
        "monolingual": macro_mean(values for (x, y), values in by_pair.items() if x == y) or None,
        "cross_lingual": macro_mean(values for (x, y), values in by_pair.items() if x != y) or None,
        "multilingual": macro_mean(by_language.values()) or None,
        "by_pair": {f"{x}-{y}": values for (x, y), values in by_pair.items()},
        "by_language": {x: values | bias.get(x, {}) for x, values in by_language.items()},
        "bias": bias.get("", None),
    }


def evaluate_to(
    out: Path,
    task: RetrievalTask,
    settings: ModelSection,
    *,
    load: Callable[[ModelSection], TextEncoder],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The scores of a model in `out`/scores.json: read if they are there and still hold, else computed and written.

    They hold if model (contents and settings), task (texts and cut) and relevance are the same.

    Args:
        out: folder for scores.json and the TREC files.
        task: the task, perhaps cut.
        settings: the model and how it is used.
        load: makes the encoder; not called if the scores hold.
        progress: told how far it is.

    Raises:
        DataError: the model cannot be loaded, or gives vectors that are not finite.
    """
    fingerprint = model_fingerprint(settings)
    known = read_scores(out)
    if known and (known.get("model_fingerprint"), known.get("task_fingerprint")) == (
        fingerprint,
        task.fingerprint,
    ):
        return known
    evaluation = evaluate(load(settings), task, model=settings.name, fingerprint=fingerprint, progress=progress)
    write_scores(out, evaluation, task)
    return evaluation.scores


def model_fingerprint(settings: ModelSection) -> str:
    """sha256 of all that decides a model's vectors: the settings, and names and bytes of the files in its folder.

    Of a model that is not a folder, the name stands for the files. Markdown and hidden files do not count.
    """
    folder = Path(settings.name)
    used = settings.model_dump(mode="json", exclude={"dropout", "name"} if folder.is_dir() else {"dropout"})
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []:
        if path.suffix != ".md" and not path.name.startswith("."):
            digest.update(f"\0{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


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


def _cut(task: RetrievalTask) -> dict[str, Any] | None:
    values = asdict(task.cut_to).items()
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values if v is not None} or None


def _relevant_in(task: RetrievalTask, language: str) -> np.ndarray:
    """Which of the relevant candidates are of this language: bool [Q, R]."""
    part = task.candidate_slices[language]
    return (task.relevant >= part.start) & (task.relevant < part.stop)


def _bias(ranking: Ranking, task: RetrievalTask) -> dict[str, dict[str, Any]]:
    """The bias measures of each query language, and under "" their macro means."""
    by_number = bias_by_language(
        ranking.pool_QR,
        ranking.top_QK,
        query_language_Q=language_numbers(task.query_slices),
        candidate_language_C=language_numbers(task.candidate_slices),
    )
    # A query with a single relevant candidate has no rank distance.
    relevant = [len(places) for places in task.relevance.values() if len(places) > 1]
    bounds = {
        "rank_distance_perfect": float(np.mean(relevant)) - 1,
        "rank_distance_random": float(np.mean([random_rank_distance(k, len(task.candidates)) for k in relevant])),
    }
    return {"": mean_bias(by_number) | bounds} | {task.languages[number]: part for number, part in by_number.items()}


def _part(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return partial(progress, what) if progress else None


def _encode(
    encoder: TextEncoder, texts: Sequence[str], kind: Literal["query", "document"], progress: Progress | None
) -> np.ndarray:
    what = "queries" if kind == "query" else "documents"
    vector_ND = encoder.encode(texts, kind, progress=_part(progress, what))
    vector_ND = np.ascontiguousarray(vector_ND, dtype=np.float32)
    assert vector_ND.shape[0] == len(texts), f"{vector_ND.shape[0]} vectors for {len(texts)} texts"
    broken_N = ~np.isfinite(vector_ND).all(axis=1)
    # Nothing compares with NaN, so it would come first everywhere and score perfectly.
    if broken_N.any():
        raise DataError(
            f"The model gives vectors that are not finite for {broken_N.sum():,} of {len(texts):,} {what}, the first of"
            f" them for {texts[int(broken_N.argmax())][:60]!r}; all must be finite. Its weights are damaged or its"
            " training diverged: use an earlier checkpoint."
        )
    return vector_ND
