"""How far a study is, from its run folders and from who was asked to work on them. Reads files, no torch."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from hbdist.config.config import Config, difference, read_toml
from hbdist.errors import DataError, HbdistError
from hbdist.evaluation.scores import read_scores
from hbdist.launch import Handle, find_handle
from hbdist.launch.handle import JOB
from hbdist.runs.lock import FILE as HELD
from hbdist.runs.lock import owner_of
from hbdist.runs.outcome import read_outcome
from hbdist.studies.schema import Measure
from hbdist.studies.study import Measured, StudyRun, StudySpec
from hbdist.utils.slurm import asked_together

State = Literal[
    "missing", "pending", "running", "done", "failed", "invalid", "interrupted", "cancelled", "unknown", "changed"
]
LIVE = ("pending", "running")
REPORT = "report"
"""Folder, in a study's, of the log of the job that writes its report."""
COLOURS = dict.fromkeys(("failed", "invalid", "changed"), "red") | {
    "missing": "dim",
    "pending": "yellow",
    "running": "cyan",
    "done": "green",
    "interrupted": "yellow",
    "cancelled": "yellow",
    "unknown": "yellow",
}
RECENT_STEPS = 20
"""Steps that the rate looks back on."""
TAIL = 1 << 18
"""Bytes at the end of metrics.jsonl that hold so many steps, and more."""
REMEDIES = {
    ("out of memory", "outofmemory", "cannot allocate"): (
        "loss.gradient_cache=always or a smaller loss.chunk_tokens needs less memory; so do more GPUs"
    ),
    ("norm is", "not finite"): "a lower optimizer.lr, more warm-up or a higher loss.temperature usually helps",
    ("no space left", "disk quota"): "make room: checkpoint.keep=1 and a larger checkpoint.every write less",
    ("is gone",): (
        "a machine failed, or the system killed the process (for its memory?): the end of its log says more;"
        " `hbdist study retry`"
    ),
    ("timed out", "timeout", "connection", "nccl"): "a machine or its network failed: `hbdist study retry`",
}
"""What is in the message of a run that failed → what to try."""


@dataclass(frozen=True)
class RunStatus:
    """One run, as it is now."""

    run: StudyRun
    state: State
    step: int = 0
    """Updates done."""
    rate: float | None = None
    """Steps a second, lately, of a run that is running."""
    loss: float | None = None
    """Of the newest step."""
    best: str = ""
    """The deciding number, or the lowest validation loss before there is one."""
    problem: str = ""
    """Why it failed, cannot be used, or waits."""
    measured: dict[str, State] = field(default_factory=dict)
    """Measure → how far it is."""

    @property
    def seconds_left(self) -> float | None:
        return (self.run.config.steps - self.step) / self.rate if self.rate else None

    @property
    def complete(self) -> bool:
        """Trained and measured."""
        return self.state == "done" and all(state == "done" for state in self.measured.values())

    @property
    def advice(self) -> str:
        """What to try; empty where nothing is wrong, or the problem says it."""
        if self.state == "changed":
            return "`hbdist study submit --set-aside` moves it away and trains anew"
        if self.state in ("interrupted", "unknown"):
            return "`hbdist study submit` goes on with it"
        if self.state != "failed":
            return ""
        found = [text for words, text in REMEDIES.items() if any(word in self.problem.lower() for word in words)]
        return found[0] if found else f"its log is in {self.run.folder / 'logs'}; then `hbdist study retry`"


def statuses_of(study: StudySpec) -> list[RunStatus]:
    """Return how far each run of a study is."""
    with asked_together():
        return [status_of(study, run) for run in study.runs]


def status_of(study: StudySpec, run: StudyRun) -> RunStatus:
    """How far a run is: by its folder, else by whoever was asked to train it."""
    last = _last_steps(run.folder / "metrics.jsonl")
    state, problem = _training(run)
    seconds = [line["seconds"] for line in last]
    return RunStatus(
        run,
        state,
        step=last[-1]["step"] if last else 0,
        rate=len(seconds) / sum(seconds) if state == "running" and sum(seconds) else None,
        loss=last[-1]["loss"] if last else None,
        best=_best(study, run),
        problem=problem,
        measured=_measures_of(study, run),
    )


def _measures_of(study: StudySpec, model: Measured) -> dict[str, State]:
    return {measure.name: measured_state(model, measure) for measure in study.measures}


def measured_state(model: Measured, measure: Measure) -> State:
    """How far this measure of a run, or of an untuned model, is."""
    try:
        if scores_of(model, measure) is not None:
            return "done"
    except DataError:
        return "invalid"
    handle = find_handle(model.evaluation(measure))
    state: State = handle.state if handle else "missing"
    # What says that it is done, and has left no scores of this measure, was for another form of it.
    return "missing" if state == "done" else state


def scores_of(model: Measured, measure: Measure) -> dict[str, Any] | None:
    """What scores.json of this measure holds; None where there is none, or one of another task or cut.

    Raises:
        DataError: it is damaged.
    """
    scores = read_scores(model.evaluation(measure))
    if scores is None:
        return None
    cut = scores.get("cut") or {}
    same_cut = (set(cut.get("languages") or ()), cut.get("questions")) == (set(measure.languages), measure.questions)
    # A task's own name may say more than the one it is asked for by: tydiqa-goldp, wikihop:answer (derived).
    same_task = str(scores.get("task")).startswith(measure.task.partition(":")[0])
    # And two may be called alike there, as parallel:a/news and parallel:b/news: what was submitted tells them apart.
    handle = find_handle(model.evaluation(measure))
    asked = dict(pairwise(handle.command.words)).get("--task", measure.task) if handle else measure.task
    return scores if same_cut and same_task and asked == measure.task else None


def handles_of(study: StudySpec) -> list[Handle]:
    """Of all that was submitted for a study, also for what it does not ask for any more: trainings, evaluations, the report."""
    trainings = [path.parent for path in sorted(study.folder.glob(f"*/{JOB}")) if path.parent.name != REPORT]
    evaluations = [path.parent for path in sorted(study.folder.glob(f"*/evaluation/*/{JOB}"))]
    places = [*trainings, *evaluations, study.folder / REPORT]
    return [handle for folder in places if (handle := find_handle(folder))]


def _training(run: StudyRun) -> tuple[State, str]:
    """The state of a run's training, and what is wrong with it."""
    stored, handle = run.folder / "config.toml", find_handle(run.folder)
    started = (run.folder / "metrics.jsonl").is_file() or (run.folder / "checkpoints").is_dir()
    if stored.is_file():
        try:
            there = Config.check(read_toml(stored), source=str(stored))
        except HbdistError as error:
            return "invalid", str(error)
        changed = difference(there, run.config)
        if changed and not started and not (handle and handle.state in LIVE):
            return "missing", ""  # another form of it was submitted, and did nothing
        if changed:
            before = difference(run.config, there)
            what = ", ".join(f"{key} = {before[key]!r} there, {value!r} now" for key, value in changed.items())
            return "changed", f"{run.folder} holds another run: {what}"
    outcome = read_outcome(run.folder)
    state: State = handle.state if handle else outcome.state if outcome else "interrupted" if started else "missing"
    holder = owner_of(run.folder) if state not in (*LIVE, "done") else None
    if holder and holder.alive(run.folder / HELD):
        state = "running"  # somebody has started it without a study
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
    losses = [next(iter(line["loss"].values())) for line in _lines(run.folder / "validation.jsonl")]
    return f"validation loss {min(losses):.3f}" if losses else ""


def table(study: StudySpec, statuses: Sequence[RunStatus]) -> Table:
    """All runs and untuned models, for the terminal."""
    done = sum(status.complete for status in statuses)
    shown = Table(title=f"{study.name}: {done} of {len(statuses)} runs trained and measured", title_justify="left")
    for name in ("run", "state", "step", "steps/s", "left", "loss", "best", "measured"):
        shown.add_column(name, justify="left" if name in ("run", "state", "best") else "right", overflow="fold")
    for untuned in study.baselines:
        states = {one.name: measured_state(untuned, one) for one in study.measures if one.baseline}
        if states:
            shown.add_row(untuned.name, "untuned", "", "", "", "", "", _measured(states))
    for status in statuses:
        steps = status.run.config.steps
        shown.add_row(
            status.run.name,
            f"[{COLOURS[status.state]}]{status.state}[/]{_why_it_waits(status)}",
            f"{status.step:,}/{steps:,}",
            f"{status.rate:.2f}" if status.rate else "",
            _time(status.seconds_left),
            f"{status.loss:.3f}" if status.loss is not None else "",
            escape(status.best),
            _measured(status.measured),
        )
    return shown


def problems(study: StudySpec, statuses: Sequence[RunStatus]) -> list[str]:
    """A line for each run, and each measure, that needs somebody: what happened, and what to try."""
    lines = [
        f"{status.run.name}: {': '.join(part for part in (status.state, status.problem) if part)}"
        + (f" ({status.advice})" if status.advice else "")
        for status in statuses
        if status.state in ("failed", "invalid", "interrupted", "unknown", "changed")
    ]
    models: list[tuple[Measured, dict[str, State]]] = [(one, _measures_of(study, one)) for one in study.baselines]
    models += [(status.run, status.measured) for status in statuses]
    for model, states in models:
        for measure in (measure for measure in study.measures if states[measure.name] in ("failed", "invalid")):
            state, log = states[measure.name], model.evaluation(measure) / "logs"
            lines.append(
                f"{model.name}: measuring {measure.name}: {state} (its log is in {log}; then `hbdist study retry`)"
            )
    return lines


def _why_it_waits(status: RunStatus) -> str:
    return f" ({escape(status.problem)})" if status.state == "pending" and status.problem else ""


def _measured(states: dict[str, State]) -> str:
    done = sum(state == "done" for state in states.values())
    others = sorted(set(states.values()) - {"done", "missing"})
    return f"{done}/{len(states)}" + (f" {', '.join(others)}" if others else "")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}m{int(seconds) % 60:02d}"


def _last_steps(path: Path) -> list[dict[str, Any]]:
    """The newest lines of metrics.jsonl, oldest first; one without its end is still being written."""
    return _lines(path)[-RECENT_STEPS:]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        lines = file.read().splitlines(keepends=True)
    whole = lines if size <= TAIL else lines[1:]
    return [json.loads(line) for line in whole if line.endswith(b"\n")]
