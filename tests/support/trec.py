"""Metrics computed by pytrec_eval, for comparison with those of hbdist."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytrec_eval

from hbdist.evaluation.scores import METRICS

TREC_NAMES = dict(
    zip(METRICS, ("map", "ndcg_cut_10", "recall_1", "recall_10", "P_1", "P_10", "recip_rank"), strict=True)
)


def trec_means(
    score_QC: np.ndarray,
    relevant_QR: np.ndarray,
    names: Mapping[str, str] = TREC_NAMES,
    *,
    grade_QR: np.ndarray | None = None,
) -> dict[str, float]:
    """Return pytrec_eval's means over the queries, by our names of its measures."""
    grade_QR = np.ones_like(relevant_QR) if grade_QR is None else grade_QR
    qrels = {
        str(q): {f"{c:06d}": g for c, g in zip(row, grades, strict=True) if c >= 0}
        for q, (row, grades) in enumerate(zip(relevant_QR.tolist(), grade_QR.tolist(), strict=True))
    }
    run = {str(q): {f"{c:06d}": s for c, s in enumerate(row)} for q, row in enumerate(score_QC.tolist())}
    # "map_cut_3" is asked for as "map_cut.3".
    measures = {re.sub(r"_(\d+)$", r".\1", name) for name in names.values()}
    per_query = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    return {name: float(np.mean([q[trec] for q in per_query.values()])) for name, trec in names.items()}


def evaluate_trec(folder: Path, measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return pytrec_eval's values of each query from the TREC files that an evaluation wrote."""
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels.trec").read_text().splitlines():
        query, _, document, grade = line.split()
        qrels.setdefault(query, {})[document] = int(grade)
    (path,) = folder.glob("*.run.trec")
    for line in path.read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        run.setdefault(query, {})[document] = float(score)
    return pytrec_eval.RelevanceEvaluator(qrels, set(measures)).evaluate(run)
