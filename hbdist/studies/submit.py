"""Start what a study lacks: trainings, then the evaluations of each, then the report. What is there or on its way stays."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hbdist.errors import ConfigError
from hbdist.launch import Command, Handle, JobError, Resources, find_handle, submit_all
from hbdist.studies.commands import evaluate_words, train_words
from hbdist.studies.schema import Measure
from hbdist.studies.status import LIVE, REPORT, RunStatus, handles_of, measured_state, problems, statuses_of
from hbdist.studies.study import BASE, STUDY, Measured, StudyRun, StudySpec
from hbdist.utils.files import write_atomically
from hbdist.utils.slurm import asked_together

STARTABLE = ("missing", "interrupted", "cancelled", "unknown")
"""States of what a submission starts, anew or where it stopped. A run that lives after all refuses a second start."""
FAILED = ("failed", "invalid")
"""And of what only a retry does."""
EARLIER = "earlier"
"""Folder, in a study's, of the run folders that were set aside."""


@dataclass(frozen=True)
class Submission:
    """What was started, and what was not."""

    trainings: list[Handle] = field(default_factory=list)
    evaluations: list[Handle] = field(default_factory=list)
    report: Handle | None = None
    set_aside: list[Path] = field(default_factory=list)
    """Where folders of other runs are now."""
    left: list[str] = field(default_factory=list)
    """A line for each run that was left alone although it is not done, and why."""

    def text(self) -> str:
        """For people."""
        lines = [f"moved away: {path}" for path in self.set_aside]
        lines += [f"left alone: {line}" for line in self.left]
        if not (self.trainings or self.evaluations or self.report):
            return "\n".join([*lines, "nothing to start"])
        started = f"started {len(self.trainings)} trainings, {len(self.evaluations)} evaluations"
        lines.append(started + (", and the report" if self.report else ""))
        # In this process all have ended by now.
        here = [handle for handle in [*self.trainings, *self.evaluations] if handle.cluster == "debug"]
        return "\n".join(lines + [f"{handle.state}: {handle.folder}" for handle in here if handle.state in FAILED])


def submit(
    study: StudySpec, resources: Mapping[str, Any] | None = None, *, set_aside: bool = False, again: bool = False
) -> Submission:
    """Start what is missing, in this order: trainings, their evaluations as each is done, the report when all have ended.

    Args:
        resources: instead of those in [resources], at_once among them. Where neither names a cluster, it is "slurm" in a
            job of Slurm, else "local".
        set_aside: move folders that hold another run than the study wants now to `earlier/`, and train anew.
        again: also what failed.

    Raises:
        ConfigError: a resource is wrong, or a folder holds another run and is not to be set aside.
    """
    values, at_once = _resources(study, resources or {})
    given, shapes = _read(study, values), _shapes(study, values)
    statuses = statuses_of(study)
    moved = _set_aside(study, [status for status in statuses if status.state == "changed"], allowed=set_aside)
    waits = (*STARTABLE, "changed", *(FAILED if again else ()))
    to_train = [status.run for status in statuses if status.state in waits]
    bad = [status for status in statuses if set(FAILED) & {status.state, *status.measured.values()}]
    left = [] if again else problems(study, bad)
    write_copies(study)

    trainings = _train(study, to_train, given, at_once)
    training = {run.name: handle for run, handle in zip(to_train, trainings, strict=True)}
    for status in statuses:
        if status.state in LIVE and (handle := find_handle(status.run.folder)):
            training[status.run.name] = handle
    trained = [status.run for status in statuses if status.state == "done"]
    evaluations: list[Handle] = []
    try:
        for shape, measures in shapes:
            for asked, after in _in_order(study, measures, trained, training):
                evaluations += _evaluate(study, asked, after, shape, at_once, again=again)
        report = _report(study, given) if trainings or evaluations or not _is_reported(study) else None
    except ConfigError as error:
        if not (trainings or evaluations):
            raise
        raise ConfigError(
            f"{error} {len(trainings)} trainings and {len(evaluations)} evaluations were submitted before, and stay; the same"
            " command submits the rest."
        ) from None
    return Submission(trainings, evaluations, report, moved, left)


def cancel(study: StudySpec) -> list[Handle]:
    """Stop all jobs of a study that wait or run; returns them."""
    stopped = []
    with asked_together():
        # What waits for others goes first: it would begin when they end.
        for handle in reversed(handles_of(study)):
            if handle.state in LIVE:
                handle.cancel()
                stopped.append(handle)
    return stopped


def _train(study: StudySpec, runs: Sequence[StudyRun], resources: Resources, at_once: int | None) -> list[Handle]:
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run.folder / "config.toml", run.config.to_toml())
    commands = [Command(train_words(run)) for run in runs]
    names = [run.folder.name for run in runs]
    return submit_all(commands, resources, names=names, folder=study.folder, at_once=at_once) if runs else []


def _in_order(
    study: StudySpec, measures: Sequence[Measure], trained: Sequence[StudyRun], training: Mapping[str, Handle]
) -> Iterator[tuple[list[tuple[Measured, Measure]], list[Handle] | None]]:
    """What can be measured now, and then what waits for a training each: the jobs at the same places."""
    yield [(model, one) for one in measures for model in [*(study.baselines if one.baseline else ()), *trained]], None
    # In this process trainings have ended by now, and perhaps badly.
    later = [run for run in study.runs if run.name in training and training[run.name].state in (*LIVE, "done")]
    yield [(run, one) for one in measures for run in later], [training[run.name] for _ in measures for run in later]


def _evaluate(
    study: StudySpec,
    asked: Sequence[tuple[Measured, Measure]],
    after: Sequence[Handle] | None,
    resources: Resources,
    at_once: int | None,
    *,
    again: bool,
) -> list[Handle]:
    """Measure what is not measured yet, each after the job at its place."""
    waits = (*STARTABLE, *(FAILED if again else ()))
    states = [measured_state(model, measure) for model, measure in asked]
    chosen = [place for place, state in enumerate(states) if state in waits]
    if not chosen:
        return []
    commands, names = [], []
    for place in chosen:
        model, measure = asked[place]
        folder = model.evaluation(measure)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scores.json").unlink(missing_ok=True)  # damaged, or of another task or cut
        commands.append(Command(evaluate_words(model, measure)))
        names.append(str(folder.relative_to(study.folder)))
    before = [after[place] for place in chosen] if after else None
    return submit_all(commands, resources, names=names, folder=study.folder, after=before, at_once=at_once)


def _is_reported(study: StudySpec) -> bool:
    """There is a report, or there will be one."""
    asked = find_handle(study.folder / REPORT)
    return (study.folder / "report.html").is_file() or (asked is not None and asked.state in LIVE)


def _report(study: StudySpec, resources: Resources) -> Handle:
    """Write the report when all has ended that waits or runs now; an earlier wish for it is withdrawn."""
    earlier = find_handle(study.folder / REPORT)
    if earlier and earlier.state in LIVE:
        earlier.cancel()
        with suppress(JobError, TimeoutError):
            earlier.result(timeout=10)
    one = replace(resources, nodes=1, gpus_per_node=0, tasks_per_node=1)
    command = Command(("study", "report", str(study.folder)))
    live = [handle for handle in handles_of(study) if handle.state in LIVE]
    return submit_all([command], one, names=[REPORT], folder=study.folder, after=live or None, after_any=True)[0]


def _resources(study: StudySpec, more: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """What [resources] and the caller give, and how many may run at the same time."""
    here = "slurm" if "SLURM_JOB_ID" in os.environ else "local"
    values = {"cluster": here, **study.file.resources, **more}
    most = values.pop("at_once", None)
    if most is not None and (not isinstance(most, int) or most < 1):
        raise ConfigError(f"at_once = {most!r}: expected how many runs may go on at the same time, 1 or more.")
    return values, most


def _read(study: StudySpec, values: Mapping[str, Any], measure: Measure | None = None) -> Resources:
    """These resources, with those that a measure has of its own."""
    own = measure.resources if measure else {}
    where = f"[[measure]] {measure.name}, resources" if measure and own else "[resources]"
    return Resources.read({**values, **own}, source=f"{study.path}, {where}")


def _shapes(study: StudySpec, values: Mapping[str, Any]) -> list[tuple[Resources, list[Measure]]]:
    """The measures whose evaluations are submitted together, and what each of these is given.

    An array on Slurm waits for an array, job by job: one a measure. On a workstation all that are alike wait in one queue.
    """
    shapes: list[tuple[Resources, list[Measure]]] = []
    for measure in study.measures:
        given = _read(study, values, measure)
        alike = [measures for known, measures in shapes if known == given and given.cluster != "slurm"]
        if alike:
            alike[0].append(measure)
        else:
            shapes.append((given, [measure]))
    return shapes


def _set_aside(study: StudySpec, changed: Sequence[RunStatus], *, allowed: bool) -> list[Path]:
    """Move the folders of other runs away."""
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
        place = study.folder / EARLIER / status.run.folder.name
        number = 1
        while place.exists():
            number += 1
            place = place.with_name(f"{status.run.folder.name}-{number}")
        place.parent.mkdir(exist_ok=True)
        status.run.folder.rename(place)
        moved.append(place)
    return moved


def write_copies(study: StudySpec) -> None:
    """Put the study's file and its base config into its folder.

    Raises:
        ConfigError: nothing can be written there.
    """
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
        for source, name in ((study.path, STUDY), (study.base, BASE)):
            target = study.folder / name
            if source.resolve() != target.resolve():
                write_atomically(target, source.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{study.folder} cannot be written: {error.strerror}. Give the study another folder (folder = …), or the right to"
            " write there."
        ) from None
