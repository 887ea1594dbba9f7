"""What is there of a study: each run as its folder shows it, and each untuned model that was scored. Reads run folders alone.

K marks of a curve
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from hbdist.config.config import Config, difference
from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.scores import read_scores
from hbdist.runs.outcome import ENDED, Outcome, read_outcome
from hbdist.runs.record import Record, Scores
from hbdist.studies.schema import Measure
from hbdist.studies.study import Baseline, StudyRun, StudySpec

MOST_MARKS = 40
"""K, at most: of a curve of one run among many."""

CURVES = ("loss_above_chance", "accuracy")


@dataclass(frozen=True)
class Training:
    """A run's metrics in sum, so that a hundred long runs fit into memory."""

    steps: int
    pairs: int
    tokens: int
    seconds: float
    data_seconds: float
    peak_bytes: int
    processes: int
    """Of the newest start; a run may have gone on with another number."""
    gpus: bool
    curve_K: dict[str, tuple[np.ndarray, np.ndarray]]
    """Name of a metric → steps [K] and its mean around each [K]."""

    @classmethod
    def of(cls, record: Record) -> "Training | None":
        """The sums of a run; None before its first step."""
        metrics = record.metrics
        if not metrics:
            return None
        total = {key: sum(step[key] for step in metrics) for key in ("pairs", "tokens", "seconds", "data_seconds")}
        return cls(
            steps=len(metrics),
            **total,
            peak_bytes=max(step["peak_bytes"] for step in metrics),
            processes=int(record.environment.get("world", 1)),
            gpus=bool(record.environment.get("gpus")),
            curve_K={key: _curve(metrics, key) for key in CURVES},
        )

    @property
    def process_hours(self) -> float:
        """GPU-hours where a process has a GPU."""
        return self.seconds * self.processes / 3600


def _curve(metrics: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Means over as many neighbouring steps as leave at most MOST_MARKS marks."""
    parts = -(-len(metrics) // -(-len(metrics) // MOST_MARKS))

    def means(name: str) -> np.ndarray:
        return np.array([np.mean(part) for part in np.array_split([step[name] for step in metrics], parts)])

    return means("step"), means(key)


@dataclass(frozen=True)
class Found:
    """One run of the grid, as its folder shows it."""

    run: StudyRun
    state: str
    """As in outcome.json; else "missing" (no step is done), "not ended", "changed" (another run is there) or "invalid"."""
    reason: str
    """Why it is not done, or what of it is missing; empty where all is there."""
    training: Training | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    """Of the shards it was trained on."""
    scores: dict[str, Scores] = field(default_factory=dict)
    """By the measure's name: those that can be compared with the other runs'."""


class Untuned(NamedTuple):
    """One untuned model's scores on one measure."""

    baseline: Baseline
    scores: Scores


@dataclass(frozen=True)
class Results:
    """All that is there of a study."""

    study: StudySpec
    runs: tuple[Found, ...]
    untuned: dict[str, tuple[Untuned, ...]]
    """By the measure's name, one a model at most."""
    remarks: tuple[str, ...]
    """What was found and is not shown, in sentences."""

    @classmethod
    def read(cls, study: StudySpec) -> "Results":
        """Read all run folders; what is damaged is a reason in its run, not an error.

        Raises:
            DataError: no run of the study has begun.
        """
        runs = [_find(run, study.measures) for run in study.runs]
        if all(found.state == "missing" for found in runs):
            raise DataError(
                f"None of the {len(runs)} runs of the study {study.name} has done a step in {study.folder}."
                f" `hbdist study submit {study.argument}` starts them, `hbdist study status {study.argument}` says how far they"
                " are."
            )
        untuned, remarks = {}, []
        for measure in study.measures:
            found, more = _find_untuned(study.baselines if measure.baseline else (), measure)
            remarks += more
            remarks += _leave_out_other_tasks(runs, found, measure)
            untuned[measure.name] = tuple(found)
        return cls(study, tuple(runs), untuned, tuple(remarks))

    @property
    def complete(self) -> list[Found]:
        return [found for found in self.runs if not found.reason]


def _find(run: StudyRun, measures: Sequence[Measure]) -> Found:
    """A run as its folder shows it. Until it has done something, its config is only what was asked for."""
    begun = (run.folder / "metrics.jsonl").is_file() or (run.folder / "checkpoints").is_dir()
    try:
        ended = read_outcome(run.folder) or read_outcome(run.folder, ENDED)
        if not begun and (ended is None or ended.state == "done"):
            return Found(run, "missing", "Not started, or not come to its first step.")
        record = Record.read(run.folder)
        training = Training.of(record)
        stored = Config.check(record.config, source=str(run.folder / "config.toml"))
    except (DataError, ConfigError) as error:
        return Found(run, "invalid", str(error))
    except (KeyError, TypeError, ValueError) as error:
        return Found(run, "invalid", f"A file in {run.folder} does not hold what it should: {error!r}.")
    if changed := difference(run.config, stored):
        what = ", ".join(f"{key} = {value!r}" for key, value in list(changed.items())[:4])
        return Found(run, "changed", f"Its folder holds another run than the study asks for, with {what}.")
    known = (training, record.environment, record.fingerprint)
    if ended is None or ended.state != "done":  # what it scored is that of another state, if there is anything
        return Found(run, ended.state if ended else "not ended", _why_not_done(ended, record), *known)
    scores, reasons = {}, []
    for measure in measures:
        try:
            found = read_scores(run.evaluation(measure))
        except DataError as error:
            reasons.append(str(error))
            continue
        if found is None:
            reasons.append(f"Not scored on {measure.name}{_why_not_scored(run, measure)}.")
        elif _holds_scores(found):
            scores[measure.name] = found
        else:
            reasons.append(f"{run.evaluation(measure)}/scores.json does not hold scores. Delete it.")
    return Found(run, ended.state, " ".join(reasons), *known, scores)


def _why_not_done(ended: Outcome | None, record: Record) -> str:
    steps = f"{len(record.metrics):,} of {record.config.get('steps', 0):,} steps"
    if ended is None:
        return f"Not ended: {steps} are done, and there is no outcome.json. It is running, or was killed."
    return f"{ended.state.capitalize()} after {steps}: {ended.message}"


def _why_not_scored(run: StudyRun, measure: Measure) -> str:
    ended = read_outcome(run.evaluation(measure), ENDED)
    return f": {ended.state}, {ended.message.rstrip('.')}" if ended else ""


def _find_untuned(baselines: Sequence[Baseline], measure: Measure) -> tuple[list[Untuned], list[str]]:
    """The untuned models' scores on a measure, and what is missing of them, in sentences."""
    found, remarks = [], []
    for baseline in baselines:
        try:
            scores = read_scores(baseline.evaluation(measure))
        except DataError as error:
            remarks.append(str(error))
            continue
        if scores is None:
            remarks.append(f"The untuned {baseline.model.name} is not scored on {measure.name}.")
        elif _holds_scores(scores):
            found.append(Untuned(baseline, scores))
        else:
            remarks.append(f"{baseline.evaluation(measure)}/scores.json does not hold scores. Delete it.")
    return found, remarks


def _holds_scores(scores: Any) -> bool:
    return isinstance(scores, dict) and {"task", "task_fingerprint", "counts", "cut", "by_pair"} <= scores.keys()


def _leave_out_other_tasks(runs: list[Found], untuned: list[Untuned], measure: Measure) -> list[str]:
    """Leave out scores of another cut or version of the task than most runs have; returns what of `untuned` was."""
    known = [found.scores[measure.name]["task_fingerprint"] for found in runs if measure.name in found.scores]
    if not known:
        return []
    expected = Counter(known).most_common(1)[0][0]
    for place, found in enumerate(runs):
        if found.scores.get(measure.name, {}).get("task_fingerprint", expected) != expected:
            reason = f"{found.reason} Scored on another cut or version of {measure.name} than most runs.".strip()
            kept = {name: scores for name, scores in found.scores.items() if name != measure.name}
            runs[place] = replace(found, reason=reason, scores=kept)
    others = [one for one in untuned if one.scores["task_fingerprint"] != expected]
    untuned[:] = [one for one in untuned if one not in others]
    return [
        f"The untuned {one.baseline.model.name} was scored on another cut or version of {measure.name} than most runs."
        for one in others
    ]
