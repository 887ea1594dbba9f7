"""Comparison of two models on one task, each by one evaluation or by those of several training seeds."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hbdist.errors import DataError
from hbdist.evaluation.metrics.bootstrap import DRAWS, LEVEL, compare, count_clusters, without_interval
from hbdist.evaluation.metrics.per_query import check_same_clusters, read_per_query
from hbdist.evaluation.scores import describe_cut, read_evaluation

CONDITIONS = ("task", "note", "cut", "counts", "task_fingerprint")
"""Keys of scores.json that are the same in all evaluations compared."""

DEFAULT_SEARCH = {"exact": True, "vectors": "float32"}
"""Search of evaluations from before scores.json recorded it."""


def compare_folders(before: Sequence[Path], after: Sequence[Path]) -> dict[str, Any]:
    """Return the paired differences of two models, between the means over the seeds of each.

    Args:
        before, after: folders of `hbdist evaluate`, one per seed, on one task with the same cuts.

    Returns:
        `before` and `after` (folder, model and model_fingerprint of each seed), what all share (CONDITIONS), `level`,
        `draws`, `clusters` (number of groups of questions), `largest_cluster` (share of the queries in the largest),
        `no_interval` (setting → why it has none), and `changes`: {"multilingual": {"map": {the fields of
        bootstrap.Difference}}, …}.

    Raises:
        DataError: a folder is named twice, has no evaluation, or one of another task, cut or search; or two seeds of a
            side are the same model, which would hide how much seeds differ.
    """
    folders = [*before, *after]
    repeated = [str(folder) for folder, times in Counter(folder.resolve() for folder in folders).items() if times > 1]
    if repeated:
        raise DataError(f"{repeated[0]} is given twice. Name the folder of each evaluation once.")
    scores = [_read_evaluation(folder) for folder in folders]
    for folder, other in zip(folders, scores, strict=True):
        _check_comparable(folders[0], scores[0], folder, other)
    split = len(before)
    _check_models_differ(folders[:split], scores[:split])
    _check_models_differ(folders[split:], scores[split:])
    queries = [read_per_query(folder, scores[0]["task_fingerprint"]) for folder in folders]
    for folder, one in zip(folders, queries, strict=True):
        check_same_clusters(folders[0], queries[0], folder, one)
    clusters = count_clusters(queries[0].cluster_Q)
    models = [
        {"folder": str(folder), "model": one["model"], "model_fingerprint": one["model_fingerprint"]}
        for folder, one in zip(folders, scores, strict=True)
    ]
    return {
        "before": models[:split],
        "after": models[split:],
        **{key: scores[0].get(key) for key in CONDITIONS},
        "level": LEVEL,
        "draws": DRAWS,
        "clusters": clusters.count,
        "largest_cluster": clusters.largest,
        "no_interval": without_interval(queries[0]),
        "changes": compare(queries[:split], queries[split:]),
    }


def _read_evaluation(folder: Path) -> dict[str, Any]:
    scores = read_evaluation(folder)
    if scores is None:
        raise DataError(f"{folder} has no scores.json of an evaluation. Give the --out of `hbdist evaluate`.")
    return scores


def _check_comparable(first: Path, scores: dict[str, Any], folder: Path, other: dict[str, Any]) -> None:
    if other["task_fingerprint"] != scores["task_fingerprint"]:
        tasks = [
            f"{one['task']}, {describe_cut(one['cut'])} ({one['counts']['queries']:,} queries)"
            for one in (scores, other)
        ]
        raise DataError(
            f"{first} is of {tasks[0]}, and {folder} of {tasks[1]}; expected the same. Evaluate all models on one task, with"
            " the same data and cuts."
        )
    searches = [one.get("search", DEFAULT_SEARCH) for one in (scores, other)]
    if searches[0] != searches[1]:
        raise DataError(
            f"{first} was searched with {searches[0]}, and {folder} with {searches[1]}; a difference of the models could be"
            " one of the searches. Evaluate all models with the same search."
        )


def _check_models_differ(folders: Sequence[Path], scores: Sequence[dict[str, Any]]) -> None:
    seen: dict[str, Path] = {}
    for folder, one in zip(folders, scores, strict=True):
        earlier = seen.setdefault(one["model_fingerprint"] or str(folder), folder)
        if earlier != folder:
            raise DataError(
                f"{earlier} and {folder} are evaluations of the same model ({one['model']}), not of two seeds. Name one"
                " of them."
            )
