"""Submission of one run, or of many commands as an array of jobs that may wait for one another."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, SubprocessError
from typing import Any
from uuid import uuid4

from hbdist.config.config import Config, refuse_another_run, refuse_secrets
from hbdist.errors import ConfigError, ResumeError
from hbdist.launch.command import Command
from hbdist.launch.handle import LIVE, Handle, find_handle
from hbdist.launch.job import Job, link_logs
from hbdist.launch.job_state import reset_job
from hbdist.launch.resources import Resources
from hbdist.launch.snapshot import copy_code, outside_of_jobs, record
from hbdist.runs.lock import refuse_while_locked
from hbdist.runs.outcome import FILE, outcome_state
from hbdist.utils.files import write_atomically
from hbdist.utils.processes import process_start

SUBMISSIONS = "submissions"
"""Folder of the submissions, each with its code, config, submission.json, Submitit's files and the logs of arrays."""
CODE = "code"
"""Folder of the copied code in a submission's."""


def submit(config: Config | str | Path | None = None, *overrides: str, **resources: Any) -> Handle:
    """Train as a job: on a Slurm cluster, on this workstation, or in this process.

    Args:
        config: a config, or the path of one; by default the demo's.
        overrides: `key=value`, as on the command line.
        resources: fields of `Resources`: cluster="slurm", nodes=4, gpus_per_node=8, hours=12, partition="gpu" …

    Raises:
        ConfigError: config or resources are wrong, or the scheduler refuses the job.
        ResumeError: the folder contains another run, or a job of the run is waiting or running already.
    """
    parsed = Resources.read(resources, source="submit")
    if not isinstance(config, Config):
        config = Config.load(config, overrides)
    elif overrides or not config.run.folder:
        raise ConfigError("A Config is submitted as it is: it needs run.folder, and takes no overrides.")
    folder = Path(config.run.folder).absolute()
    refuse_secrets(config)
    refuse_another_run(config)
    submission = _submission_in(folder.parent)
    snapshot = submission / f"{folder.name}.toml"
    handle = Handle(folder, parsed.cluster, "", Command(("train", str(snapshot))), folder, time.time())
    return _start(_Order([handle], parsed, submission, files={snapshot: config.to_toml()}))[0]


def submit_all(
    commands: Sequence[Command],
    resources: Resources,
    *,
    names: Sequence[str],
    folder: str | Path,
    after: Sequence[Handle] | None = None,
    after_any: bool = False,
    at_once: int | None = None,
) -> list[Handle]:
    """Submit commands as one array of jobs. FOLDER/NAME is the folder of a job, with its handle, its logs and its outcome.

    Args:
        names: one name per command. The folder of a training job is that of its run.
        after: jobs that must have ended before. If there are as many as commands, each command waits for its own.
        after_any: wait only for their end; else they must have ended well.
        at_once: how many of these jobs may run at the same time; by default all, and on this workstation one.

    Raises:
        ConfigError: the arguments contradict one another, or the scheduler refuses the jobs.
        ResumeError: one of the jobs is waiting or running already.
    """
    folder = Path(folder).absolute()
    if not commands or len(names) != len(commands) or len(set(names)) != len(names):
        raise ConfigError(
            f"{len(commands)} commands and {len(set(names))} different names: each command needs its own."
        )
    if at_once is not None and at_once < 1:
        raise ConfigError(f"at_once = {at_once}; expected a number of jobs, 1 or more.")
    handles = []
    for command, name in zip(commands, names, strict=True):
        run = command.run_folder
        handles.append(Handle(folder / name, resources.cluster, "", command, run and run.absolute(), time.time()))
    return _start(_Order(handles, resources, _submission_in(folder), tuple(after or ()), after_any, at_once))


@dataclass(frozen=True)
class _Order:
    """Jobs to start."""

    handles: list[Handle]
    """Handles without ids."""
    resources: Resources
    submission: Path
    after: Sequence[Handle] = ()
    after_any: bool = False
    at_once: int | None = None
    files: Mapping[Path, str] = field(default_factory=dict)
    """Further files of the submission: path → content."""

    @property
    def one_for_one(self) -> bool:
        """Each job waits for the one at its index, not for all."""
        return len(self.after) == len(self.handles) and not self.after_any

    def paths(self) -> dict[str, str]:
        """Return environment variables by which a job uses the copied code, if there is a copy."""
        if not self.resources.snapshot:
            return {}
        # Python then imports nothing from the folder that a job starts in.
        paths = filter(None, [str(self.submission / CODE), os.environ.get("PYTHONPATH")])
        return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def _start(order: _Order) -> list[Handle]:
    """Start jobs, unless one of them is waiting or running already."""
    resources = order.resources
    if resources.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise ConfigError(
            'sbatch and srun are not on PATH: this machine belongs to no Slurm cluster. cluster = "local" runs it here.'
        )
    for handle in order.handles:
        earlier = find_handle(handle.folder)
        if earlier and (state := earlier.state) in LIVE:
            raise ResumeError(f"{earlier} is {state} already. Wait for it (result), or cancel it first (cancel).")
        if handle.run:
            refuse_while_locked(handle.run)
    _make(order.submission)
    for path, content in order.files.items():
        write_atomically(path, content)
    if resources.snapshot and resources.cluster != "debug":
        copy_code(order.submission / CODE)
    queue = _queue(order) if resources.cluster == "local" else None
    record(order.submission, [handle.command for handle in order.handles], resources, queue)
    for handle in order.handles:
        _make(handle.folder)
        reset_job(handle.folder)
        if handle.run and outcome_state(handle.run) != "done":
            (handle.run / FILE).unlink(missing_ok=True)
    return {"slurm": _slurm, "local": _local, "debug": _debug}[resources.cluster](order)


def _slurm(order: _Order) -> list[Handle]:
    import submitit

    waits = [handle for handle in order.after if _must_be_waited_for(handle, order.after_any)]
    paired = bool(waits) and order.one_for_one and len(order.handles) > 1
    array = waits[0].id.partition("_")[0] if waits else ""
    if paired and [handle.id for handle in order.after] != [f"{array}_{index}" for index in range(len(order.handles))]:
        # An array can wait job by job only for a whole array.
        pairs = zip(order.handles, order.after, strict=True)
        return [_slurm(replace(order, handles=[one], after=[other]))[0] for one, other in pairs]
    options = order.resources.sbatch()
    if waits:
        kind = "afterany" if order.after_any else "aftercorr" if paired else "afterok"
        options["dependency"] = ":".join([kind, *([array] if paired else [handle.id for handle in waits])])
    exports = [f"export {name}={shlex.quote(value)}" for name, value in order.paths().items()]
    folders = [str(handle.folder) for handle in order.handles]
    after_failure = [sys.executable, "-m", "hbdist.launch", "after-failure", str(order.submission), *folders]
    options["setup"] = [*order.resources.setup, *exports]
    options["teardown"] = ["status=$?", f"[ $status = 0 ] || {shlex.join(after_failure)}", "exit $status"]
    options["job_name"] = (order.handles[0].folder if len(folders) == 1 else order.submission.parent.parent).name
    executor = submitit.SlurmExecutor(order.submission, max_num_timeout=order.resources.max_timeouts)
    try:
        executor.update_parameters(**options, array_parallelism=order.at_once or len(folders))
        with outside_of_jobs(order.resources):
            jobs = executor.submit_array([Job(one.command, one.folder, one.run) for one in order.handles])
    except (OSError, SubprocessError, submitit.core.utils.FailedJobError) as error:
        reason = str(error).strip().replace("sbatch: error: ", "").replace("\n", " ")
        raise ConfigError(f"sbatch refuses the job: {reason} Check partition, account and resources.") from None
    started = [replace(one, id=job.job_id).write() for one, job in zip(order.handles, jobs, strict=True)]
    for handle in started:
        link_logs(handle.folder, order.submission, handle.id, order.resources.nodes * order.resources.tasks)
    return started


def _must_be_waited_for(handle: Handle, after_any: bool) -> bool:
    state = handle.state
    if state not in LIVE and (after_any or state == "done"):
        return False
    if state not in LIVE or handle.cluster != "slurm":
        raise ConfigError(
            f"{handle} must finish successfully first, but is {state} on {handle.cluster}. Submit it again first."
        )
    return True


def _queue(order: _Order) -> dict[str, Any]:
    """Return the queue of a local submission, for submission.json."""
    before = [str(handle.folder) for handle in order.after]
    afters = [[folder] for folder in before] if order.one_for_one else [before] * len(order.handles)
    jobs = [
        {"folder": str(one.folder), "words": list(one.command.words), "after": after, "after_any": order.after_any}
        for one, after in zip(order.handles, afters, strict=True)
    ]
    resources = order.resources
    shape = {"ranks": resources.tasks, "gpus": resources.gpus_per_node, "cpus": resources.cpus_per_task}
    return {"jobs": jobs, "at_once": order.at_once or 1, **shape}


def _local(order: _Order) -> list[Handle]:
    command = [sys.executable, "-m", "hbdist.launch", "queue", str(order.submission)]
    if order.resources.setup:
        command = ["bash", "-c", "\n".join([*order.resources.setup, f"exec {shlex.join(command)}"])]
    with (order.submission / "queue.log").open("ab") as log, outside_of_jobs():
        environment = dict(os.environ) | order.paths()
        process = Popen(command, env=environment, stdin=DEVNULL, stdout=log, stderr=STDOUT, start_new_session=True)
    return [replace(handle, id=str(process.pid), born=process_start(process.pid)).write() for handle in order.handles]


def _debug(order: _Order) -> list[Handle]:
    for handle in order.after:
        if not order.after_any and handle.state != "done":
            raise ConfigError(f"{handle} must finish successfully first, but is {handle.state}.")
    if (ranks := order.resources.nodes * order.resources.tasks) > 1:
        print(f'cluster = "debug": one process here instead of {ranks} ranks', flush=True)
    arguments = sys.argv
    started = []
    for handle in order.handles:
        started.append(replace(handle, id=str(os.getpid()), born=process_start(os.getpid())).write())
        try:
            handle.command.run_for(handle.folder, 0)
        finally:
            sys.argv = arguments
    return started


def _submission_in(folder: Path) -> Path:
    return folder.absolute() / SUBMISSIONS / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:4]}"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be created: {error.strerror}. Choose a folder that this machine can write to."
        ) from None
