"""Folders of studies, written without training as trainings and evaluations would leave them; and a parser of pages."""

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from hbdist.evaluation.metrics.language_bias import random_rank_distance, rank_distance
from hbdist.evaluation.metrics.per_query import PerQuery, write_per_query
from hbdist.evaluation.metrics.retrieval import NO_POSITION, macro_mean, mean_metrics
from hbdist.studies.api import Study
from hbdist.studies.study import StudyRun

POOL = 400
"""Number of candidates per language."""

BASE = """
steps = 20
[data]
shards = "shards/built/demo"
[model]
name = "models/me5-small-demo"
[batch]
size = 64
"""

STUDY = """
name = "made"
title = "Batches & <sizes>"
question = "What do hybrid batch sizes do to the mono/cross trade-off, at 100 %?"
note = "Made-up_numbers stand in for <real> ones."
base = "base.toml"
lr_rule = "sqrt"
lr_reference_batch = 64
equal = "pairs"
pairs_seen = 2560
seeds = [0, 1]
x = "batch.size"
lines = "strategy"
[grid]
"batch.size" = [64, 128]
[[zip]]
name = "strategy"
[zip.values."X-X & <mono>"]
"batch.mono_share" = 1.0
[zip.values.hybrid_50]
"batch.mono_share" = 0.5
[[measure]]
task = "xquad-r"
questions = 24
primary = "mAP_cross"
[measure.columns]
"mAP <mono>" = "monolingual.map"
"mAP_cross" = "cross_lingual.map"
"recall" = "multilingual.recall@10"
"rank distance" = "bias.rank_distance"
"cosine" = "alignment.cosine_effect"
"""


class Page(HTMLParser):
    """Parsed page: its tags, ids and text, and the tags that were not closed in order."""

    VOID = frozenset({"meta", "br", "path", "use", "image"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    @property
    def words(self) -> str:
        """Text of the page, with single spaces."""
        return " ".join(self.text.split())


def write_study(folder: Path, text: str = STUDY, base: str = BASE) -> Study:
    """Write a study's file and its base into a folder, without runs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(text, encoding="utf-8")
    (folder / "base.toml").write_text(base, encoding="utf-8")
    return Study.load(folder)


def write_run(run: StudyRun, *, state: str = "done", message: str = "trained", steps: int | None = None) -> None:
    """Write a run folder without scores."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.toml").write_text(run.config.to_toml(), encoding="utf-8")
    steps, size = run.config.steps if steps is None else steps, run.config.batch.size
    lines = (
        json.dumps(
            {
                "step": step,
                "loss": 2.0,
                "loss_above_chance": -1.5 - step / 100 - run.seed / 50,
                "accuracy": 0.5 + step / 1000,
                "pairs": size,
                "tokens": 40 * size,
                "padding": 0.05,
                "masked": 0.001,
                "mono_share": float(step % 2),
                "seconds": 3.6,
                "data_seconds": 0.36,
                "peak_bytes": 2**30,
            }
        )
        for step in range(1, steps + 1)
    )
    (run.folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    environment = {"command": "<x>", "gpus": ["NVIDIA & Co"] * 2, "world": 2, "packages": {"torch": "2.13"}}
    (run.folder / "environment.json").write_text(json.dumps(environment))
    if state:
        (run.folder / "outcome.json").write_text(json.dumps({"state": state, "code": 0, "message": message}))


def made_per_query(level: float, seed: int, *, languages: int, questions: int) -> PerQuery:
    """Return positions of each question's answer in each language, better at a higher level and in the question's language.

    A question is equally hard for all models, so that a few questions are enough to tell models apart.
    """
    hardness_N = np.random.default_rng(7).exponential(1.0, questions)
    luck = np.random.default_rng(seed)
    language_Q = np.repeat(np.arange(languages), questions)
    relevant_QR = np.tile(np.arange(languages), (len(language_Q), 1))
    away_QR = 1 + 2.0 * (language_Q[:, None] != relevant_QR)
    scale_QR = (1 - level) * 8 * away_QR * np.tile(hardness_N, languages)[:, None]
    own_QR = np.minimum(1 + np.floor(scale_QR * luck.uniform(0.9, 1.1, scale_QR.shape)), POOL).astype(np.int64)
    pool_QR = np.minimum(own_QR * languages * away_QR, POOL * languages).astype(np.int64)
    # The first two questions are on one paragraph.
    cluster_N = np.maximum(np.arange(questions) - 1, 0)
    return PerQuery(language_Q, np.tile(cluster_N, languages), pool_QR, own_QR, relevant_QR)


def made_scores(per_query: PerQuery, languages: Sequence[str], **changed: Any) -> dict[str, Any]:
    """Return the scores.json of these positions."""
    rows = [per_query.language_Q == number for number in range(len(languages))]
    pair = {
        (x, y): mean_metrics(np.where(per_query.relevant_language_QR == y, per_query.own_QR, NO_POSITION)[rows[x]])
        for x in range(len(languages))
        for y in range(len(languages))
    }
    by_language = {name: mean_metrics(per_query.pool_QR[rows[x]]) for x, name in enumerate(languages)}
    distance_Q = rank_distance(per_query.pool_QR)
    bias = {
        "rank_distance": float(np.mean([distance_Q[own].mean() for own in rows])),
        "same_language_share@10": 0.6,
        "same_language_pool_share": 1 / len(languages),
        "rank_distance_perfect": len(languages) - 1.0,
        "rank_distance_random": random_rank_distance(len(languages), POOL * len(languages)),
    }
    several = len(languages) > 1
    scores = {
        "task": "xquad-r",
        "model": "some/<model>",
        "model_fingerprint": "",
        "task_fingerprint": "same",
        "counts": {"queries": len(per_query.language_Q), "candidates": POOL * len(languages)},
        "cut": {"questions": int(rows[0].sum())},
        "monolingual": macro_mean(values for (x, y), values in pair.items() if x == y),
        "cross_lingual": macro_mean(values for (x, y), values in pair.items() if x != y) or None,
        "multilingual": macro_mean(by_language.values()) if several else None,
        "by_pair": {f"{languages[x]}-{languages[y]}": values for (x, y), values in pair.items()},
        "by_language": by_language if several else {},
        "bias": bias if several else None,
        "alignment": {"cosine_effect": 2 + per_query.own_QR.mean() / 100} if several else None,
        "removal": None,
        "seconds": {"encode": 1.0, "score": 0.1},
    }
    return scores | changed


def score(
    folder: Path,
    level: float,
    seed: int = 0,
    *,
    languages: Sequence[str] = ("ar", "de", "en"),
    questions: int = 24,
    **changed: Any,
) -> dict[str, Any]:
    """Write scores.json and the per-query scores into an evaluation's folder, and return the scores."""
    per_query = made_per_query(level, seed, languages=len(languages), questions=questions)
    scores = made_scores(per_query, languages, **changed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores))
    write_per_query(folder, per_query, scores["task_fingerprint"])
    return scores


def score_without_language(folder: Path, level: float) -> None:
    """Add scores after each language removal to those of a folder."""
    scores = json.loads((folder / "scores.json").read_text())
    per_query = made_per_query(level, 3, languages=3, questions=24)
    whole = made_scores(per_query, ("ar", "de", "en"))
    part = {name: whole[name] for name in ("monolingual", "cross_lingual", "multilingual", "bias")}
    for removal in ("demean", "lir"):
        write_per_query(folder, per_query, scores["task_fingerprint"], removal)
    (folder / "scores.json").write_text(json.dumps(scores | {"removal": {"demean": part, "lir": part}}))


def level_of(run: StudyRun) -> float:
    """Return the level of a run: larger batches are better, and hybrid ones are best."""
    return 0.5 + 0.1 * (run.values["batch.size"] == 128) + 0.2 * (run.config.batch.mono_share == 0.5)


def write_whole_study(folder: Path) -> Study:
    """Write a study with all its runs, their scores, and those of the untuned model."""
    study = write_study(folder)
    (measure,) = study.measures
    for run in study.runs:
        write_run(run)
        score(run.evaluation(measure), level_of(run), seed=run.seed + 10)
    for untuned in study.baselines:
        score(untuned.evaluation(measure), 0.3)
        score_without_language(untuned.evaluation(measure), 0.9)
    return study
