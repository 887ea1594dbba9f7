"""Two models compared on one task, each by one evaluation or by those of several training seeds."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hbdist.errors import DataError
from hbdist.evaluation.metrics.bootstrap import DRAWS, LEVEL, compare
from hbdist.evaluation.metrics.per_query import read_per_query
from hbdist.evaluation.scores import describe_cut, read_scores

CONDITIONS = ("task", "note", "cut", "counts", "task_fingerprint")
"""What all evaluations share, as in scores.json."""

EXACTLY = {"exact": True, "vectors": "float32"}
"""How evaluations searched before scores.json said how."""


def compare_folders(before: Sequence[Path], after: Sequence[Path]) -> dict[str, Any]:
    """The paired differences of two models, in the means over the seeds of each.

    Args:
        before, after: folders of `hbdist evaluate`, one a seed, on one task with the same cuts.

    Returns:
        `before` and `after` (folder, model and model_fingerprint of each seed), what all share (CONDITIONS), `level`,
        `draws`, `clusters`, and `changes`: {"multilingual": {"map": {the fields of confidence.Difference}}, …}.

    Raises:
        DataError: a folder is there twice, holds no evaluation, or one of another task, cut or way of searching; or two
            seeds of a side are one model, which would hide how much seeds differ.
    """
    folders = [*before, *after]
    twice = [str(folder) for folder, times in Counter(folder.resolve() for folder in folders).items() if times > 1]
    if twice:
        raise DataError(f"{twice[0]} is given twice. Name the folder of each evaluation once.")
    scores = [_scores(folder) for folder in folders]
    for folder, other in zip(folders, scores, strict=True):
        if other["task_fingerprint"] != scores[0]["task_fingerprint"]:
            raise DataError(
                f"{folders[0]} is of {_described(scores[0])}, and {folder} of {_described(other)}; expected the same."
                " Evaluate all models on one task, with the same data and cuts."
            )
        searches = [one.get("search", EXACTLY) for one in (scores[0], other)]
        if searches[0] != searches[1]:
            raise DataError(
                f"{folders[0]} was searched by {searches[0]}, and {folder} by {searches[1]}; a difference of the models"
                " could be one of the searches. Evaluate all models in the same way."
            )
    split = len(before)
    _refuse_one_model(folders[:split], scores[:split])
    _refuse_one_model(folders[split:], scores[split:])
    ranks = [read_per_query(folder, scores[0]["task_fingerprint"]) for folder in folders]
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
        "clusters": len(np.unique(ranks[0].cluster_Q)),
        "changes": compare(ranks[:split], ranks[split:]),
    }


def _scores(folder: Path) -> dict[str, Any]:
    found = read_scores(folder)
    if found is None or "task_fingerprint" not in found:
        raise DataError(f"{folder} holds no scores.json of an evaluation. Give the --out of `hbdist evaluate`.")
    return found


def _described(scores: dict[str, Any]) -> str:
    return f"{scores['task']}, {describe_cut(scores['cut'])} ({scores['counts']['queries']:,} queries)"


def _refuse_one_model(folders: Sequence[Path], scores: Sequence[dict[str, Any]]) -> None:
    seen: dict[str, Path] = {}
    for folder, one in zip(folders, scores, strict=True):
        earlier = seen.setdefault(one["model_fingerprint"] or str(folder), folder)
        if earlier != folder:
            raise DataError(
                f"{earlier} and {folder} are evaluations of the same model ({one['model']}), not of two seeds. Name one"
                " of them."
            )
