"""Results of a study: its runs as their folders show them, and the scores of its untuned models. Reads run folders only.

K marks of a curve
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from hbdist.config.config import Config, difference
from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.scores import read_evaluation
from hbdist.launch.job_state import job_outcome
from hbdist.runs.outcome import Outcome, read_outcome
from hbdist.runs.record import Record, Scores
from hbdist.studies.schema import Measure
from hbdist.studies.study import Baseline, Measured, StudyRun, StudySpec

MOST_MARKS = 40
"""Most marks K of a curve of one run among many."""

CURVES = ("loss_above_chance", "accuracy")


@dataclass(frozen=True)
class TrainingSummary:
    """Sums of a run's metrics: the metrics themselves of a hundred long runs would not fit into memory."""

    steps: int
    pairs: int
    tokens: int
    seconds: float
    data_seconds: float
    peak_bytes: int
    processes: int
    """Number of processes of the newest start; a run may have been resumed with another number."""
    gpus: bool
    curve_K: dict[str, tuple[np.ndarray, np.ndarray]]
    """Name of a metric → steps [K] and its mean around each of them [K]."""

    @classmethod
    def of(cls, record: Record) -> "TrainingSummary | None":
        """Return the sums of a run; None before its first step."""
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
    def hours(self) -> float:
        """Hours of the training steps."""
        return self.seconds / 3600


def throughput(trainings: Sequence[TrainingSummary]) -> list[str]:
    """Return pairs per second, tokens per second, the share of time spent waiting for data, and the peak memory."""
    seconds = sum(training.seconds for training in trainings)
    return [
        f"{sum(training.pairs for training in trainings) / seconds:,.0f}",
        f"{sum(training.tokens for training in trainings) / seconds:,.0f}",
        f"{sum(training.data_seconds for training in trainings) / seconds:.1%}",
        f"{max(training.peak_bytes for training in trainings) / 2**30:,.1f} GiB",
    ]


def _curve(metrics: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and means over so many neighbouring steps that at most MOST_MARKS marks are left."""
    parts = -(-len(metrics) // -(-len(metrics) // MOST_MARKS))

    def means(name: str) -> np.ndarray:
        return np.array([np.mean(part) for part in np.array_split([step[name] for step in metrics], parts)])

    return means("step"), means(key)


@dataclass(frozen=True)
class RunResult:
    """One run of the grid, as its folder shows it."""

    run: StudyRun
    state: str
    """State in outcome.json; else "missing" (no step is done), "not ended", "changed" (the folder is another run's) or
    "invalid"."""
    reason: str
    """Sentences on why it is not done, or on what is missing of it; empty if it is complete."""
    training: TrainingSummary | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    """Fingerprint of the shards it was trained on."""
    scores: dict[str, Scores] = field(default_factory=dict)
    """Name of a measure → scores that can be compared with those of the other runs."""


class Untuned(NamedTuple):
    """Scores of one untuned model on one measure."""

    baseline: Baseline
    scores: Scores


@dataclass(frozen=True)
class Results:
    """Everything that is known of a study so far."""

    study: StudySpec
    runs: tuple[RunResult, ...]
    untuned: dict[str, tuple[Untuned, ...]]
    """Name of a measure → scores of the untuned models."""
    remarks: tuple[str, ...]
    """Sentences about files that are missing or left out."""

    @classmethod
    def read(cls, study: StudySpec) -> "Results":
        """Read all run folders. Damaged files are a reason in their run's result, not an error.

        Raises:
            DataError: no run of the study has begun.
        """
        runs = [_result(run, study.measures) for run in study.runs]
        if all(result.state == "missing" for result in runs):
            raise DataError(
                f"None of the {len(runs)} runs of the study {study.name} has done a step in {study.folder}."
                f" `hbdist study submit {study.argument}` starts them, `hbdist study status {study.argument}` shows their"
                " progress."
            )
        untuned, remarks = {}, []
        for measure in study.measures:
            scored = []
            for baseline in study.baselines if measure.baseline else ():
                missing = f"The untuned {baseline.model.name} is not scored on {measure.name}."
                scores = _read_scores(baseline, measure, missing)
                if isinstance(scores, str):
                    remarks.append(scores)
                else:
                    scored.append(Untuned(baseline, scores))
            untuned[measure.name] = tuple(scored)
            remarks += _leave_out_other_tasks(runs, untuned, measure)
        return cls(study, tuple(runs), untuned, tuple(remarks))

    @property
    def complete(self) -> list[RunResult]:
        """Runs that are trained and measured in full."""
        return [result for result in self.runs if not result.reason]


def _result(run: StudyRun, measures: Sequence[Measure]) -> RunResult:
    """Return a run as its folder shows it. Until its first step, the config in the folder is only a request."""
    begun = (run.folder / "metrics.jsonl").is_file() or (run.folder / "checkpoints").is_dir()
    try:
        ended = read_outcome(run.folder) or job_outcome(run.folder)
        if not begun and (ended is None or ended.state == "done"):
            return RunResult(run, "missing", "Not started, or stopped before its first step.")
        record = Record.read(run.folder)
        training = TrainingSummary.of(record)
        stored = Config.check(record.config, source=str(run.folder / "config.toml"))
    except (DataError, ConfigError) as error:
        return RunResult(run, "invalid", str(error))
    if changed := difference(run.config, stored):
        what = ", ".join(f"{key} = {value!r}" for key, value in list(changed.items())[:4])
        return RunResult(run, "changed", f"Its folder is that of another run than the study wants, with {what}.")
    known = (training, record.environment, record.fingerprint)
    if ended is None or ended.state != "done":  # if it has scores, they are of an earlier state
        return RunResult(run, ended.state if ended else "not ended", _why_not_done(ended, record), *known)
    scores, reasons = {}, []
    for measure in measures:
        read = _read_scores(run, measure, f"Not scored on {measure.name}{_why_not_scored(run, measure)}.")
        if isinstance(read, str):
            reasons.append(read)
        else:
            scores[measure.name] = read
    return RunResult(run, ended.state, " ".join(reasons), *known, scores)


def _why_not_done(ended: Outcome | None, record: Record) -> str:
    steps = f"{len(record.metrics):,} of {record.config.get('steps', 0):,} steps"
    if ended is None:
        return f"Not ended: {steps} are done, and there is no outcome.json. It is running, or was killed."
    return f"{ended.state.capitalize()} after {steps}: {ended.message}"


def _why_not_scored(run: StudyRun, measure: Measure) -> str:
    ended = job_outcome(run.evaluation(measure))
    return f": {ended.state}, {ended.message.rstrip('.')}" if ended else ""


def _read_scores(model: Measured, measure: Measure, missing: str) -> Scores | str:
    """Return the scores of a model; if there are none that can be used, a sentence: `missing` if there is no file."""
    try:
        return read_evaluation(model.evaluation(measure)) or missing
    except DataError as error:
        return str(error)


def _leave_out_other_tasks(
    runs: list[RunResult], untuned: dict[str, tuple[Untuned, ...]], measure: Measure
) -> list[str]:
    """Leave out scores of another cut or version of the task than most runs have; return a remark per untuned model."""
    known = [result.scores[measure.name]["task_fingerprint"] for result in runs if measure.name in result.scores]
    if not known:
        return []
    expected = Counter(known).most_common(1)[0][0]
    for index, result in enumerate(runs):
        if result.scores.get(measure.name, {}).get("task_fingerprint", expected) != expected:
            reason = f"{result.reason} Scored on another cut or version of {measure.name} than most runs.".strip()
            kept = {name: scores for name, scores in result.scores.items() if name != measure.name}
            runs[index] = replace(result, reason=reason, scores=kept)
    others = [one for one in untuned[measure.name] if one.scores["task_fingerprint"] != expected]
    untuned[measure.name] = tuple(one for one in untuned[measure.name] if one not in others)
    return [
        f"The untuned {one.baseline.model.name} was scored on another cut or version of {measure.name} than most runs."
        for one in others
    ]
