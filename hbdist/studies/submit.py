"""Submission of a study: starts the trainings, evaluations and report that are missing, and leaves all others alone."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from hbdist.config.config import refuse_secrets
from hbdist.errors import ConfigError
from hbdist.launch import Command, Handle, JobError, Resources, find_handle, submit_all
from hbdist.launch.handle import LIVE
from hbdist.studies.schema import Measure
from hbdist.studies.status import REPORT, RunStatus, handles_of, measured_state, problems, statuses_of
from hbdist.studies.study import BASE, STUDY, Measured, StudyRun, StudySpec
from hbdist.utils.files import write_atomically
from hbdist.utils.slurm import batched_squeue

STARTABLE = ("missing", "interrupted", "cancelled", "unknown")
"""States that every submission starts or resumes. If such a run is alive after all, it refuses a second start."""
FAILED = ("failed", "invalid")
"""States that only a retry starts again."""
EARLIER = "earlier"
"""Folder, in a study's folder, of the run folders that were set aside."""


@dataclass(frozen=True)
class Submission:
    """Jobs that a submission has started, and runs that it has left alone."""

    trainings: list[Handle] = field(default_factory=list)
    evaluations: list[Handle] = field(default_factory=list)
    report: Handle | None = None
    set_aside: list[Path] = field(default_factory=list)
    """New paths of the folders that were set aside."""
    left: list[str] = field(default_factory=list)
    """Lines on the runs that are not done but were left alone, with the reason."""

    def text(self) -> str:
        """Return the submission as text."""
        lines = [f"moved away: {path}" for path in self.set_aside]
        lines += [f"left alone: {line}" for line in self.left]
        if not (self.trainings or self.evaluations or self.report):
            return "\n".join([*lines, "nothing to start"])
        started = f"started {len(self.trainings)} trainings, {len(self.evaluations)} evaluations"
        lines.append(started + (", and the report" if self.report else ""))
        # Jobs in this process have ended by now.
        here = [handle for handle in [*self.trainings, *self.evaluations] if handle.cluster == "debug"]
        return "\n".join(lines + [f"{handle.state}: {handle.folder}" for handle in here if handle.state in FAILED])


def submit(
    study: StudySpec, resources: Mapping[str, Any] | None = None, *, set_aside: bool = False, again: bool = False
) -> Submission:
    """Start what is missing: trainings, the evaluations of each when it is done, the report when everything has ended.

    Args:
        resources: values that override those in [resources], including at_once. If neither names a cluster, it is "slurm"
            within a Slurm job, else "local".
        set_aside: move folders that belong to another form of a run to `earlier/`, and train the run anew.
        again: also start what has failed.

    Raises:
        ConfigError: a resource is wrong, or a folder belongs to another form of a run and must not be set aside.
    """
    values, at_once = _resources(study, resources or {})
    shared, groups = _read(study, values), _groups(study, values)
    statuses = statuses_of(study)
    moved = _set_aside(study, [status for status in statuses if status.state == "changed"], allowed=set_aside)
    startable = (*STARTABLE, *(FAILED if again else ()))
    to_train = [status.run for status in statuses if status.state in (*startable, "changed")]
    bad = [status for status in statuses if set(FAILED) & {status.state, *status.measured.values()}]
    left = [] if again else problems(study, bad)
    write_copies(study)

    trainings = _train(study, to_train, shared, at_once)
    training = {run.name: handle for run, handle in zip(to_train, trainings, strict=True)}
    for status in statuses:
        if status.state in LIVE and (handle := find_handle(status.run.folder)):
            training[status.run.name] = handle
    trained = [status.run for status in statuses if status.state == "done"]
    evaluations: list[Handle] = []
    try:
        for group_resources, measures in groups:
            for pairs in _in_order(study, measures, trained, training):
                evaluations += _evaluate(study, pairs, group_resources, at_once, startable)
        report = _report(study, shared) if trainings or evaluations or not _has_report(study) else None
    except ConfigError as error:
        if not (trainings or evaluations):
            raise
        raise ConfigError(
            f"{error} {len(trainings)} trainings and {len(evaluations)} evaluations were submitted before, and stay; the same"
            " command submits the rest."
        ) from None
    return Submission(trainings, evaluations, report, moved, left)


def cancel(study: StudySpec) -> list[Handle]:
    """Stop all waiting and running jobs of a study, and return them."""
    stopped = []
    with batched_squeue():
        # Jobs that wait for others go first: they would begin when the others end.
        for handle in reversed(handles_of(study)):
            if handle.state in LIVE:
                handle.cancel()
                stopped.append(handle)
    return stopped


def _train(study: StudySpec, runs: Sequence[StudyRun], resources: Resources, at_once: int | None) -> list[Handle]:
    for run in runs:
        refuse_secrets(run.config)
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.folder / "config.toml", run.config.to_toml())
    commands = [Command(("train", str(run.folder / "config.toml"))) for run in runs]
    names = [run.folder.name for run in runs]
    return submit_all(commands, resources, names=names, folder=study.folder, at_once=at_once) if runs else []


Pair = tuple[Measured, Measure, Handle | None]
"""Model, a measure of it, and the training that the evaluation waits for; None if the model exists already."""


def _in_order(
    study: StudySpec, measures: Sequence[Measure], trained: Sequence[StudyRun], training: Mapping[str, Handle]
) -> Iterator[list[Pair]]:
    """Yield what can be measured now, then what waits for a training."""
    now = [(one, [*(study.baselines if one.baseline else ()), *trained]) for one in measures]
    yield [(model, measure, None) for measure, models in now for model in models]
    # Trainings in this process have ended by now, perhaps badly.
    later = [run for run in study.runs if run.name in training and training[run.name].state in (*LIVE, "done")]
    yield [(run, measure, training[run.name]) for measure in measures for run in later]


def _evaluate(
    study: StudySpec, pairs: Sequence[Pair], resources: Resources, at_once: int | None, startable: Sequence[str]
) -> list[Handle]:
    """Start the evaluations that are in a startable state."""
    commands, names, before = [], [], []
    for model, measure, after in pairs:
        if measured_state(model, measure) not in startable:
            continue
        folder = model.evaluation(measure)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scores.json").unlink(missing_ok=True)  # damaged, or of another task or cut
        commands.append(Command(model.evaluate_words(measure)))
        names.append(str(folder.relative_to(study.folder)))
        before += [after] if after else []
    if not commands:
        return []
    return submit_all(commands, resources, names=names, folder=study.folder, after=before or None, at_once=at_once)


def _has_report(study: StudySpec) -> bool:
    """Return whether there is a report, or a job that will write it."""
    job = find_handle(study.folder / REPORT)
    return (study.folder / "report.html").is_file() or (job is not None and job.state in LIVE)


def _report(study: StudySpec, resources: Resources) -> Handle:
    """Start the job that writes the report when all waiting and running jobs have ended; it replaces an earlier such job."""
    earlier = find_handle(study.folder / REPORT)
    if earlier and earlier.state in LIVE:
        earlier.cancel()
        with suppress(JobError, TimeoutError):
            earlier.result(timeout=10)
    one = resources.model_copy(update={"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1})
    command = Command(("study", "report", str(study.folder)))
    live = [handle for handle in handles_of(study) if handle.state in LIVE]
    return submit_all([command], one, names=[REPORT], folder=study.folder, after=live or None, after_any=True)[0]


def _resources(study: StudySpec, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Return the values of [resources] with overrides, and the number of runs that may go on at the same time."""
    here = "slurm" if "SLURM_JOB_ID" in os.environ else "local"
    values = {"cluster": here, **study.file.resources, **overrides}
    most = values.pop("at_once", None)
    if most is not None and (not isinstance(most, int) or most < 1):
        raise ConfigError(f"at_once = {most!r}; expected the number of runs at the same time, 1 or more.")
    return values, most


def _read(study: StudySpec, values: Mapping[str, Any], measure: Measure | None = None) -> Resources:
    """Return these resources, overridden by those of a measure."""
    own = measure.resources if measure else {}
    table = f"[[measure]] {measure.name}, resources" if measure and own else "[resources]"
    return Resources.read({**values, **own}, source=f"{study.path}, {table}")


def _groups(study: StudySpec, values: Mapping[str, Any]) -> list[tuple[Resources, list[Measure]]]:
    """Return the measures whose evaluations are submitted together, with their resources.

    On Slurm an array of evaluations waits for the array of trainings, job by job, so each measure is an array of its own. On
    a workstation all evaluations with equal resources wait in one queue.
    """
    groups: dict[str, tuple[Resources, list[Measure]]] = {}
    for measure in study.measures:
        resources = _read(study, values, measure)
        key = measure.name if resources.cluster == "slurm" else resources.model_dump_json()
        groups.setdefault(key, (resources, []))[1].append(measure)
    return list(groups.values())


def _set_aside(study: StudySpec, changed: Sequence[RunStatus], *, allowed: bool) -> list[Path]:
    """Move the folders of changed runs away, and return their new paths."""
    if changed and not allowed:
        lines = "; ".join(status.problem for status in changed[:3]) + ("; …" if len(changed) > 3 else "")
        raise ConfigError(
            f"{study.folder} has {len(changed)} runs of an earlier form of this study: {lines}. Undo the change, give the study"
            f" another name, or submit with --set-aside: it moves such folders to {study.folder / EARLIER} and trains anew."
        )
    moved = []
    for status in changed:
        handle = find_handle(status.run.folder)
        if handle and handle.state in LIVE:
            raise ConfigError(
                f"{status.problem}; and it is still {handle.state}. Cancel it first: hbdist study cancel."
            )
        name, earlier = status.run.folder.name, study.folder / EARLIER
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        target = next(earlier / one for one in names if not (earlier / one).exists())
        earlier.mkdir(exist_ok=True)
        status.run.folder.rename(target)
        moved.append(target)
    return moved


def write_copies(study: StudySpec) -> None:
    """Copy the study's file and its base config into its folder.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
        for source, name in ((study.path, STUDY), (study.base, BASE)):
            target = study.folder / name
            if source.resolve() != target.resolve():
                write_atomically(target, source.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{study.folder} cannot be written: {error.strerror}. Give the study another folder (folder = …), or get the right"
            " to write there."
        ) from None
