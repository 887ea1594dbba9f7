"""Evaluate an encoder on a retrieval task: encode, rank exactly, average as the paper does, write scores.json.

On one process or many, with the same numbers. A pool whose vectors are small is held whole by every rank; a larger one lies in
parts on disk, of which each rank encodes and searches its own.

Q queries · C candidates of the pool · R relevant candidates of a query · D dimensions
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hbdist.config.sections import ModelSection
from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import DataError
from hbdist.evaluation.metrics.bootstrap import confidence
from hbdist.evaluation.metrics.language_bias import bias_by_language, mean_bias
from hbdist.evaluation.metrics.retrieval import NO_RANK, Ranking, macro_mean, mean_metrics
from hbdist.evaluation.metrics.summary import (
    language_numbers,
    more_bias,
    per_query,
    question_alignment,
    without_language,
)
from hbdist.evaluation.output import Evaluation, make_folder, write_scores
from hbdist.evaluation.scores import read_scores
from hbdist.evaluation.search.embeddings import IN_MEMORY_BYTES, Keeping
from hbdist.evaluation.search.encoding import (
    TextEncoder,
    Texts,
    candidates_of,
    encode_parts,
    encode_whole,
    queries_of,
    sorted_parts,
    vectors_of,
)
from hbdist.evaluation.search.faiss_index import Approximate
from hbdist.evaluation.search.rank import rank_in_parts, rank_whole
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.models.pretrained import chosen_on

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("queries", "documents", "scores"), how many of this rank's are done, and of how many."""

NO_REMOVAL = "the baselines without training need all vectors in memory at once, and these lie on disk"


def evaluate(
    encoder: TextEncoder,
    task: RetrievalTask,
    *,
    model: str,
    fingerprint: str = "",
    ranks: ProcessGroup | None = None,
    vectors: Keeping | None = None,
    index: Approximate | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Rank every query's relevant candidates, monolingually, in each language pair, and in the multilingual pool.

    A collective of all ranks; all get the same evaluation, whatever their number.

    Args:
        encoder: the model, one on every rank.
        task: questions and candidates, perhaps cut.
        model: its name, for the record.
        fingerprint: of its contents, for the record and for keeping vectors, which without it are not kept; see
            `model_fingerprint`.
        ranks: unset: this process alone.
        vectors: where those of a large pool lie, and whether they stay.
        index: search approximately, by this; unset: exactly.
        progress: told how far it is.

    Raises:
        DataError: the encoder gives vectors that are not finite, the corpus is damaged or another one on another rank, or
            there is no room for vectors.
    """
    started = perf_counter()
    ranks, vectors = ranks or ProcessGroup(), vectors or Keeping()
    if len(set(ranks.all_gather_object(task.fingerprint))) > 1:
        raise DataError(f"Ranks see different files of {task.name}. Put the same ones where each of them looks.")
    known_by = fingerprint if vectors.keep else ""
    query_QD, candidate_CD, ranking, encoded = _encode_and_rank(
        encoder, task, ranks, vectors, index, progress, model=model, fingerprint=known_by
    )
    several = len(task.languages) > 1 and "multilingual" in task.settings
    removal = None
    if several and candidate_CD is not None:
        rank = partial(rank_whole, task=task, ranks=ranks)
        removal = without_language(query_QD, candidate_CD, task, rank=rank, summarise=summarise)
    scores = None
    if ranks.is_main:  # the rest is of one process, and the others wait for it
        scores = {
            "task": task.name,
            "model": model,
            "model_fingerprint": fingerprint,
            "task_fingerprint": task.fingerprint,
            "search": search_record(vectors, index),
            "note": task.note,
            "left_out": dict(task.left_out),
            "counts": {"queries": len(task.queries), "candidates": len(task.candidates)},
            "cut": _cut(task),
            **summarise(ranking, task),
            "confidence": confidence(per_query(ranking, task)),
            "alignment": question_alignment(query_QD, ranking, task) if several else None,
            "removal": removal,
            "not_measured": {"removal": NO_REMOVAL} if several and candidate_CD is None else {},
            "seconds": {"encode": encoded - started, "score": perf_counter() - encoded},
        }
    return Evaluation(ranks.broadcast_object(scores), ranking)


def _encode_and_rank(
    encoder: TextEncoder,
    task: RetrievalTask,
    ranks: ProcessGroup,
    vectors: Keeping,
    index: Approximate | None,
    progress: Progress | None,
    *,
    model: str,
    fingerprint: str,
) -> tuple[np.ndarray, np.ndarray | None, Ranking, float]:
    """The queries' vectors, the candidates' where all ranks hold them whole, the ranking, and when all were encoded."""
    queries, told = queries_of(task), partial(_part, progress)
    in_memory = sorted_parts(len(queries.texts))
    query_QD = encode_whole(encoder, queries, "query", ranks=ranks, parts=in_memory, progress=told("queries"))
    dimensions = query_QD.shape[1]
    whole = index is None and len(task.candidates) * dimensions * 4 <= IN_MEMORY_BYTES
    known_by = {"model": model, "fingerprint": fingerprint}
    with vectors_of(task, dimensions, vectors, whole=whole, ranks=ranks, **known_by) as parts:
        if whole:
            with ranks.raise_together():
                texts = candidates_of(task, range(len(task.candidates)))
            found = encode_whole(encoder, texts, "document", ranks=ranks, parts=parts, progress=told("documents"))
            encoded = perf_counter()
            ranking = rank_whole(query_QD, found, task, ranks=ranks, progress=told("scores"))
            return query_QD, found, ranking, encoded

        def stretch(number: int) -> Texts:
            return candidates_of(task, parts.span(number))

        encode_parts(encoder, stretch, "document", ranks=ranks, parts=parts, progress=told("documents"))
        encoded = perf_counter()
        ranking = rank_in_parts(query_QD, parts, task, ranks=ranks, index=index, progress=told("scores"))
        return query_QD, None, ranking, encoded


def search_record(vectors: Keeping, index: Approximate | None) -> dict[str, Any]:
    """How candidates were searched, as in scores.json: {"exact": true, "vectors": "float32"}, or by which index."""
    return (index.record() if index else {"exact": True}) | {"vectors": vectors.precision}


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
    ranks: ProcessGroup | None = None,
    vectors: Keeping | None = None,
    index: Approximate | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The scores of a model in `out`/scores.json: read if they are there and still hold, else computed and written.

    They hold if model (contents and settings), task (texts and cut), relevance and the way of searching are the same.
    A collective; rank 0 alone reads and writes.

    Args:
        out: folder for scores.json and the TREC files.
        task: the task, perhaps cut.
        settings: the model and how it is used.
        load: makes the encoder; not called if the scores hold.
        ranks, vectors, index, progress: as of `evaluate`.

    Raises:
        ConfigError: nothing can be written to `out`.
        DataError: as of `evaluate`, or the model cannot be loaded.
    """
    ranks, vectors = ranks or ProcessGroup(), vectors or Keeping()
    known, fingerprint = None, ""
    with ranks.raise_together():
        if ranks.is_main:
            fingerprint = model_fingerprint(settings)
            now = {
                "model_fingerprint": fingerprint,
                "task_fingerprint": task.fingerprint,
                "search": search_record(vectors, index),
            }
            found = read_scores(out)
            known = found if found and all(found.get(key) == value for key, value in now.items()) else None
    known, fingerprint = ranks.broadcast_object((known, fingerprint))
    if known:
        return known
    with ranks.raise_together():
        encoder = load(settings)
        if ranks.is_main:
            make_folder(out)
    evaluation = evaluate(
        encoder,
        task,
        model=settings.name,
        fingerprint=fingerprint,
        ranks=ranks,
        vectors=vectors,
        index=index,
        progress=progress,
    )
    evaluation = replace(evaluation, scores=evaluation.scores | {"chosen_on": chosen_on(settings.name)})
    if ranks.is_main:
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


def _cut(task: RetrievalTask) -> dict[str, Any] | None:
    values = asdict(task.cut_to).items()
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values if v is not None} or None


def _relevant_in(task: RetrievalTask, language: str) -> np.ndarray:
    """Which of the relevant candidates are of this language: bool [Q, R]."""
    part = task.candidate_slices[language]
    return (task.relevant >= part.start) & (task.relevant < part.stop)


def _bias(ranking: Ranking, task: RetrievalTask) -> dict[str, dict[str, Any]]:
    """The bias measures of each query language, and under "" their macro means; empty where no query has two answers."""
    by_number = bias_by_language(
        ranking.pool_QR,
        ranking.top_QK,
        query_language_Q=language_numbers(task.query_slices),
        candidate_language_C=language_numbers(task.candidate_slices),
    )
    if not by_number:
        return {}
    return {"": mean_bias(by_number)} | {task.languages[number]: part for number, part in by_number.items()}


def _part(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return partial(progress, what) if progress else None
