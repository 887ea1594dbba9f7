"""Progress of a study, read from its run folders and from the jobs that work on them. Loads no torch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from hbdist.config.config import Config, describe_difference, read_config
from hbdist.errors import DataError, HbdistError
from hbdist.evaluation.scores import read_scores
from hbdist.launch import Handle, find_handle
from hbdist.launch.handle import LIVE
from hbdist.launch.job_state import FILE as JOB
from hbdist.runs.lock import FILE as LOCK
from hbdist.runs.lock import owner_of
from hbdist.runs.outcome import read_outcome
from hbdist.runs.stored import LINE_REMEDY, ProgressLine, ValidationLine, check_lines
from hbdist.studies.schema import Measure
from hbdist.studies.study import Measured, StudyRun, StudySpec
from hbdist.utils.json_toml import parse_json_lines, shown
from hbdist.utils.slurm import batched_squeue

State = Literal[
    "missing", "pending", "running", "done", "failed", "invalid", "interrupted", "cancelled", "unknown", "changed"
]
REPORT = "report"
"""Folder, in a study's folder, of the job that writes its report."""
COLOURS = {
    **dict.fromkeys(("failed", "invalid", "changed"), "red"),
    **dict.fromkeys(("pending", "interrupted", "cancelled", "unknown"), "yellow"),
    "missing": "dim",
    "running": "cyan",
    "done": "green",
}
COLUMNS = ("run", "state", "step", "steps/s", "left", "loss", "best", "measured")
RECENT_STEPS = 20
"""Number of newest steps from which the rate is computed."""
TAIL = 1 << 18
"""Bytes at the end of metrics.jsonl that are read: more than RECENT_STEPS lines."""
REMEDIES = read_config(Path(__file__).parent / "remedies.toml")["remedy"]
"""Advice by words in the message of a failed run."""


@dataclass(frozen=True)
class RunStatus:
    """Progress of one run at this moment."""

    run: StudyRun
    state: State
    step: int = 0
    """Optimizer steps done."""
    rate: float | None = None
    """Steps per second over the newest steps, if it is running."""
    loss: float | None = None
    """Loss of the newest step."""
    best: str = ""
    """Number of the primary column; until there is one, the lowest validation loss."""
    problem: str = ""
    """Reason why it failed, cannot be used, or waits."""
    measured: dict[str, State] = field(default_factory=dict)
    """Name of a measure → state of its evaluation."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last step at the current rate."""
        return (self.run.config.steps - self.step) / self.rate if self.rate else None

    @property
    def complete(self) -> bool:
        """True if it is trained and measured in full."""
        return self.state == "done" and all(state == "done" for state in self.measured.values())

    @property
    def advice(self) -> str:
        """Advice on what to try; empty if nothing is wrong, or if the problem says it."""
        if self.state == "changed":
            return "`hbdist study submit --set-aside` moves it away and trains anew"
        if self.state in ("interrupted", "unknown"):
            return "`hbdist study submit` resumes it"
        if self.state != "failed":
            return ""
        remedies = (one["advice"] for one in REMEDIES if any(word in self.problem.lower() for word in one["words"]))
        return next(remedies, f"its log is in {self.run.folder / 'logs'}; then `hbdist study retry`")


def statuses_of(study: StudySpec) -> list[RunStatus]:
    """Return the progress of each run of a study."""
    with batched_squeue():
        return [status_of(study, run) for run in study.runs]


def status_of(study: StudySpec, run: StudyRun) -> RunStatus:
    """Return the progress of a run, from its folder or else from the job that is to train it."""
    try:
        newest = _newest_lines(ProgressLine, run.folder / "metrics.jsonl")[-RECENT_STEPS:]
        state, problem = _training_state(run)
        best = _best(study, run)
    except DataError as error:
        newest, state, problem, best = [], "invalid", str(error), ""
    seconds = sum(line["seconds"] for line in newest)
    return RunStatus(
        run,
        state,
        step=newest[-1]["step"] if newest else 0,
        rate=len(newest) / seconds if state == "running" and seconds else None,
        loss=newest[-1]["loss"] if newest else None,
        best=best,
        problem=problem,
        measured={measure.name: measured_state(run, measure) for measure in study.measures},
    )


def measured_state(model: Measured, measure: Measure) -> State:
    """Return the state of this measure of a run or of an untuned model."""
    try:
        if scores_of(model, measure) is not None:
            return "done"
    except DataError:
        return "invalid"
    handle = find_handle(model.evaluation(measure))
    # A job that is done but has left no scores of this measure was for another form of it.
    return handle.state if handle and handle.state != "done" else "missing"


def scores_of(model: Measured, measure: Measure) -> dict[str, Any] | None:
    """Return the scores.json of this measure; None if there is none, or if it is of another task or cut.

    Raises:
        DataError: it is damaged.
    """
    scores = read_scores(model.evaluation(measure))
    if scores is None:
        return None
    cut = scores.get("cut") or {}
    same_cut = (set(cut.get("languages") or ()), cut.get("questions")) == (set(measure.languages), measure.questions)
    # The name in the scores may be longer than the one on the command line: tydiqa-goldp, wikihop:answer (derived).
    same_task = str(scores.get("task")).startswith(measure.task.partition(":")[0])
    # Two tasks may have the same name in the scores, as parallel:a/news and parallel:b/news: their commands differ.
    handle = find_handle(model.evaluation(measure))
    submitted = dict(pairwise(handle.command.words)).get("--task", measure.task) if handle else measure.task
    return scores if same_cut and same_task and submitted == measure.task else None


def handles_of(study: StudySpec) -> list[Handle]:
    """Return all jobs in a study's folder: trainings, evaluations, the report; also of runs that are no longer part of it."""
    trainings = [path.parent for path in sorted(study.folder.glob(f"*/{JOB}")) if path.parent.name != REPORT]
    evaluations = [path.parent for path in sorted(study.folder.glob(f"*/evaluation/*/{JOB}"))]
    folders = [*trainings, *evaluations, study.folder / REPORT]
    return [handle for folder in folders if (handle := find_handle(folder))]


def _training_state(run: StudyRun) -> tuple[State, str]:
    """Return the state of a run's training, and what is wrong with it."""
    config, handle = run.folder / "config.toml", find_handle(run.folder)
    started = (run.folder / "metrics.jsonl").is_file() or (run.folder / "checkpoints").is_dir()
    if config.is_file():
        try:
            stored = Config.check(read_config(config), source=str(config))
        except HbdistError as error:
            return "invalid", str(error)
        changed = describe_difference(stored, run.config, now="now")
        if changed and not started and not (handle and handle.state in LIVE):
            return "missing", ""  # another form of the run was submitted, and did nothing
        if changed:
            return "changed", f"{run.folder} is the folder of another run: {changed}"
    outcome = read_outcome(run.folder)
    state: State = handle.state if handle else outcome.state if outcome else "interrupted" if started else "missing"
    owner = owner_of(run.folder) if state not in (*LIVE, "done") else None
    if owner and owner.alive(run.folder / LOCK):
        state = "running"  # started without the study
    if state == "pending" and handle:
        return state, handle.reason
    return state, outcome.message if outcome and state in ("failed", "invalid") else ""


def _best(study: StudySpec, run: StudyRun) -> str:
    measure = study.measures[0]
    try:
        scores = scores_of(run, measure)
    except DataError:
        scores = None
    number = measure.number(scores, measure.primary) if scores else None
    if number is not None:
        return f"{measure.primary} {number:.3f}"
    lines = _newest_lines(ValidationLine, run.folder / "validation.jsonl")
    losses = [next(iter(line["loss"].values())) for line in lines]
    return f"validation loss {min(losses):.3f}" if losses else ""


def table(study: StudySpec, statuses: Sequence[RunStatus]) -> Table:
    """Return a table of all untuned models and runs for the terminal."""
    done = sum(status.complete for status in statuses)
    shown = Table(title=f"{study.name}: {done} of {len(statuses)} runs trained and measured", title_justify="left")
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in ("run", "state", "best") else "right", overflow="fold")
    for model in study.baselines:
        states = [measured_state(model, measure) for measure in study.measures if measure.baseline]
        if states:
            shown.add_row(model.name, "untuned", "", "", "", "", "", _count(states))
    for status in statuses:
        reason = f" ({escape(status.problem)})" if status.state == "pending" and status.problem else ""
        shown.add_row(
            status.run.name,
            f"[{COLOURS[status.state]}]{status.state}[/]{reason}",
            f"{status.step:,}/{status.run.config.steps:,}",
            f"{status.rate:.2f}" if status.rate else "",
            _time(status.seconds_left),
            f"{status.loss:.3f}" if status.loss is not None else "",
            escape(status.best),
            _count(list(status.measured.values())),
        )
    return shown


def problems(study: StudySpec, statuses: Sequence[RunStatus]) -> list[str]:
    """Return a line for each run and each evaluation that needs attention: what happened, and what to try."""
    lines = [
        f"{status.run.name}: {': '.join(part for part in (status.state, status.problem) if part)}"
        + (f" ({status.advice})" if status.advice else "")
        for status in statuses
        if status.state in ("failed", "invalid", "interrupted", "unknown", "changed")
    ]
    states: list[tuple[Measured, Measure, State]] = [
        (model, measure, measured_state(model, measure)) for model in study.baselines for measure in study.measures
    ]
    states += [(one.run, measure, one.measured[measure.name]) for one in statuses for measure in study.measures]
    return lines + [
        f"{model.name}: measuring {measure.name}: {state} (its log is in {model.evaluation(measure) / 'logs'}; then"
        " `hbdist study retry`)"
        for model, measure, state in states
        if state in ("failed", "invalid")
    ]


def _count(states: Sequence[State]) -> str:
    done = sum(state == "done" for state in states)
    others = sorted(set(states) - {"done", "missing"})
    return f"{done}/{len(states)}" + (f" {', '.join(others)}" if others else "")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}m{int(seconds) % 60:02d}"


def _newest_lines(kind: Any, path: Path) -> list[dict[str, Any]]:
    """Return the newest lines of a log; a last line without its end is still being written.

    Raises:
        DataError: one is not of this kind.
    """
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        tail = file.read()
    where = shown(path) if size <= TAIL else f"{shown(path)}, of its last {TAIL:,} bytes"
    lines = parse_json_lines(tail if size <= TAIL else tail.partition(b"\n")[2], where=where, remedy=LINE_REMEDY)
    return check_lines(kind, lines, where=where)
