"""Evaluation of an encoder on a retrieval task: encode, rank, average as in the paper, write scores.json.

The numbers are the same on one process and on many. If the embeddings of a pool are small, every rank keeps all of them in
memory; otherwise they are stored in parts on disk, and each rank encodes and searches its own parts.

Q queries · C candidates of the pool · D dimensions
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hbdist.config.sections import ModelSection
from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import DataError
from hbdist.evaluation.metrics.bootstrap import confidence
from hbdist.evaluation.metrics.retrieval import Ranking
from hbdist.evaluation.metrics.summary import (
    align_questions,
    collect_positions,
    rank_without_language,
    summarise,
    summarise_removal,
)
from hbdist.evaluation.output import Evaluation, make_folder, renew_intervals, write_scores
from hbdist.evaluation.scores import read_scores
from hbdist.evaluation.search.embeddings import IN_MEMORY_BYTES
from hbdist.evaluation.search.encoding import TextEncoder, Texts, encode_all, encode_parts, open_parts, read_candidates
from hbdist.evaluation.search.in_memory import rank_in_memory
from hbdist.evaluation.search.rank import PartRanker
from hbdist.evaluation.search.settings import SearchSettings
from hbdist.evaluation.tasks.task import MOST_TOPICS, RetrievalTask
from hbdist.models.pretrained import chosen_on
from hbdist.utils.files import sha256
from hbdist.utils.progress import Progress

StageProgress = Callable[[str, int, int], None]
"""Callback with the stage ("queries", "documents", "scores"), the number of this rank's items done, and their number."""

NO_TOPICS = f"more than {MOST_TOPICS:,} pairs of a query and a language"
NO_REMOVAL = "the baselines without training need all vectors in memory at once, and these are stored on disk"


@dataclass(frozen=True)
class Search:
    """Result of encoding and ranking, before any scores."""

    query_QD: np.ndarray
    candidate_CD: np.ndarray | None
    """Embeddings of the candidates, if every rank has all of them in memory."""
    ranking: Ranking
    encoded_at: float
    """Value of `perf_counter` in seconds when everything was encoded."""


def evaluate(
    encoder: TextEncoder,
    task: RetrievalTask,
    *,
    model: str,
    fingerprint: str = "",
    max_tokens: Mapping[str, int] | None = None,
    ranks: ProcessGroup | None = None,
    search: SearchSettings | None = None,
    progress: StageProgress | None = None,
) -> Evaluation:
    """Rank every query's relevant candidates: monolingually, in each language pair, and in the multilingual pool.

    A collective of all ranks; all get the same evaluation, whatever their number.

    Args:
        encoder: the model, one on every rank.
        model: name of the model, for the record.
        fingerprint: fingerprint of its contents (see `model_fingerprint`), for the record and for keeping embeddings, which
            are deleted without one.
        max_tokens: number of tokens after which a "query" and a "document" are cut, for the record.
        ranks: the ranks that share the work; None: this process alone.
        search: storage of the embeddings, and the index; by default search is exact.

    Raises:
        DataError: the encoder returns vectors that are not finite, the corpus is damaged or differs between ranks, or the
            disk is full.
    """
    started = perf_counter()
    ranks, search = ranks or ProcessGroup(), search or SearchSettings()
    if len(set(ranks.all_gather_object(task.fingerprint))) > 1:
        raise DataError(f"Ranks see different files of {task.name}. Put the same ones where each of them looks.")
    result = _encode_and_rank(encoder, task, ranks, search, progress, model, fingerprint if search.keep else "")
    removal = _rank_removal(result, task, ranks)
    scores = None
    if ranks.is_main:  # rank 0 alone computes the rest, and the others wait for it
        scores = {
            "task": task.name,
            "model": model,
            "model_fingerprint": fingerprint,
            "task_fingerprint": task.fingerprint,
            "max_tokens": dict(max_tokens) if max_tokens else None,
            "search": search.record(),
            **_describe(task),
            **summarise(result.ranking, task),
            "confidence": confidence(collect_positions(result.ranking, task)),
            "alignment": align_questions(result.query_QD, result.ranking, task) if _is_pooled(task) else None,
            "removal": {name: summarise_removal(ranking, task) for name, ranking in removal.items()} or None,
            "not_measured": ({"removal": NO_REMOVAL} if _is_pooled(task) and not removal else {})
            | ({} if len(task.topics.query_N) else {"TREC files": NO_TOPICS}),
            "seconds": {"encode": result.encoded_at - started, "score": perf_counter() - result.encoded_at},
        }
    return Evaluation(ranks.broadcast_object(scores), result.ranking, removal)


def _encode_and_rank(
    encoder: TextEncoder,
    task: RetrievalTask,
    ranks: ProcessGroup,
    search: SearchSettings,
    progress: StageProgress | None,
    model: str,
    fingerprint: str,
) -> Search:
    def stage(name: str) -> Progress | None:
        return partial(progress, name) if progress else None

    queries = Texts([query.text for query in task.queries], [query.language for query in task.queries])
    query_QD = encode_all(encoder, queries, "query", ranks=ranks, progress=stage("queries"))
    dimensions = query_QD.shape[1]
    in_memory = search.index is None and len(task.candidates) * dimensions * 4 <= IN_MEMORY_BYTES
    known_as = {"model": model, "fingerprint": fingerprint}
    with open_parts(task, dimensions, search, in_memory=in_memory, ranks=ranks, **known_as) as parts:
        if in_memory:
            with ranks.raise_together():
                texts = read_candidates(task, range(len(task.candidates)))
            candidate_CD = encode_all(encoder, texts, "document", ranks=ranks, parts=parts, progress=stage("documents"))
            encoded_at = perf_counter()
            ranking = rank_in_memory(query_QD, candidate_CD, task, ranks=ranks, progress=stage("scores"))
            return Search(query_QD, candidate_CD, ranking, encoded_at)

        def read_part(number: int) -> Texts:
            return read_candidates(task, parts.span(number))

        encode_parts(encoder, read_part, "document", ranks=ranks, parts=parts, progress=stage("documents"))
        encoded_at = perf_counter()
        ranker = PartRanker(query_QD, parts, task, ranks, stage("scores"))
        ranking = ranker.rank_by_index(search.index) if search.index else ranker.rank_exactly()
        return Search(query_QD, None, ranking, encoded_at)


def _is_pooled(task: RetrievalTask) -> bool:
    return len(task.languages) > 1 and "multilingual" in task.settings


def _rank_removal(result: Search, task: RetrievalTask, ranks: ProcessGroup) -> dict[str, Ranking]:
    """Return the rankings of the baselines without training; empty if there can be none. A collective."""
    if not _is_pooled(task) or result.candidate_CD is None:
        return {}
    rank = partial(rank_in_memory, task=task, ranks=ranks)
    return rank_without_language(result.query_QD, result.candidate_CD, task, rank=rank)


def _describe(task: RetrievalTask) -> dict[str, Any]:
    cut = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(task.cut_to).items() if v is not None}
    return {
        "note": task.note,
        "left_out": dict(task.left_out),
        "counts": {"queries": len(task.queries), "candidates": len(task.candidates)},
        "cut": cut or None,
    }


def evaluate_to(
    out: Path,
    task: RetrievalTask,
    settings: ModelSection,
    *,
    load: Callable[[ModelSection], TextEncoder],
    ranks: ProcessGroup | None = None,
    search: SearchSettings | None = None,
    progress: StageProgress | None = None,
) -> dict[str, Any]:
    """Return the scores of a model: those in `out`/scores.json if they are still valid, else new ones, written there.

    They are valid if the model (contents and settings), the task (texts, cut and relevance) and the search are the same.
    A collective; rank 0 alone reads and writes.

    Args:
        settings: the model and how it is used.
        load: returns the encoder; not called if the scores are still valid.

    Raises:
        ConfigError: `out` cannot be written.
        DataError: as in `evaluate`, or the model cannot be loaded.
    """
    ranks, search = ranks or ProcessGroup(), search or SearchSettings()
    scores, fingerprint = None, ""
    with ranks.raise_together():
        if ranks.is_main:
            fingerprint, earlier = model_fingerprint(settings), read_scores(out)
            expected = {
                "model_fingerprint": fingerprint,
                "task_fingerprint": task.fingerprint,
                "search": search.record(),
            }
            scores = earlier if earlier and all(earlier.get(key) == value for key, value in expected.items()) else None
            if scores and "largest_cluster" not in (scores.get("confidence") or {}):
                scores = renew_intervals(out, scores, task)
    scores, fingerprint = ranks.broadcast_object((scores, fingerprint))
    if scores:
        return scores
    with ranks.raise_together():
        encoder = load(settings)
        if ranks.is_main:
            make_folder(out)
    evaluation = evaluate(
        encoder,
        task,
        model=settings.name,
        fingerprint=fingerprint,
        max_tokens={"query": settings.max_query_tokens, "document": settings.max_document_tokens},
        ranks=ranks,
        search=search,
        progress=progress,
    )
    evaluation = replace(evaluation, scores=evaluation.scores | {"chosen_on": chosen_on(settings.name)})
    if ranks.is_main:
        write_scores(out, evaluation, task)
    return evaluation.scores


def model_fingerprint(settings: ModelSection) -> str:
    """Return the sha256 of everything that decides a model's vectors: its settings, and the names and bytes of its files.

    If the model is not a folder, its name is used instead of the files. Markdown and hidden files do not count.
    """
    folder, without_effect = Path(settings.name), {"dropout", "trust_remote_code"}
    used = settings.model_dump(mode="json", exclude=without_effect | ({"name"} if folder.is_dir() else set()))
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []:
        if path.suffix != ".md" and not path.name.startswith("."):
            digest.update(f"\0{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(bytes.fromhex(sha256(path)))
    return digest.hexdigest()
