"""Submit: one run, or many commands as an array, in an order."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from hbdist.config.config import Config, read_toml, refuse_another_run
from hbdist.errors import ConfigError, ResumeError
from hbdist.launch.command import Command
from hbdist.launch.handle import CANCEL, LIVE, STARTED, Handle, find_handle
from hbdist.launch.job import Job, link_logs
from hbdist.launch.local import QUEUE
from hbdist.launch.resources import Resources
from hbdist.launch.snapshot import copy_code, outside_of_jobs, paths_to, record
from hbdist.runs.lock import refuse_while_locked
from hbdist.runs.outcome import ENDED, FILE, outcome_of
from hbdist.utils.files import write_atomically
from hbdist.utils.processes import born

SUBMITTED = "submitted.toml"
"""In a run's folder: the config as it was submitted, which the job trains by."""
SUBMISSIONS = "submissions"
"""Folder of what belongs to submissions: code, Submitit's files, the logs of arrays."""


def submit(config: Config | str | Path | None = None, *overrides: str, **resources: Any) -> Handle:
    """Train as a job: on a Slurm cluster, on this workstation, or here and now.

    Args:
        config: a config, or the file of one; by default the demo's.
        overrides: `key=value`, as on the command line.
        resources: of `Resources`: cluster="slurm", nodes=4, gpus_per_node=8, hours=12, partition="gpu" …

    Raises:
        ConfigError: config or resources are wrong, or the scheduler does not take the job.
        ResumeError: the run's folder is another run's, or the run is at work or waits already.
    """
    given = Resources.read(resources, source="submit")
    if isinstance(config, Config):
        if overrides or not config.run.folder:
            raise ConfigError("A Config is submitted as it is: it needs run.folder, and takes no overrides.")
    else:
        config = Config.load(config, overrides)
    folder = Path(config.run.folder)
    stored = folder / "config.toml"
    if stored.is_file():
        refuse_another_run(Config.check(read_toml(stored), source=str(stored)), config)
    command = Command(("train", str(folder / SUBMITTED)))
    _refuse_while_live(Handle(folder, given.cluster, "", command, folder, 0))
    _make(folder)
    write_atomically(folder / SUBMITTED, config.to_toml())
    return submit_all([command], given, names=[folder.name], folder=folder.parent)[0]


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
    """Submit commands as one array of jobs. A job's folder is FOLDER/NAME: its handle, its logs and how it ended are there.

    Args:
        names: one for each command. A training's job has its run's folder for its own.
        after: jobs that must have ended before. As many as there are commands: each waits for the one at its place.
        after_any: however they ended; else well.
        at_once: how many of these may run at the same time; by default all, and on this workstation one.

    Raises:
        ConfigError: something does not fit together, or the scheduler does not take it.
        ResumeError: one of them waits or runs already.
    """
    folder = Path(folder).absolute()
    if not commands or len(names) != len(commands) or len(set(names)) != len(names):
        raise ConfigError(
            f"{len(commands)} commands and {len(set(names))} different names: each command needs its own."
        )
    if at_once is not None and at_once < 1:
        raise ConfigError(f"at_once = {at_once}, and it is a number of jobs from 1.")
    if resources.cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise ConfigError(
            'sbatch and srun are not on PATH: this machine belongs to no Slurm cluster. cluster = "local" runs it here.'
        )
    handles = []
    for command, name in zip(commands, names, strict=True):
        run = command.run_folder
        handle = Handle(folder / name, resources.cluster, "", command, run and run.absolute(), time.time())
        _refuse_while_live(handle)
        handles.append(handle)
    submission = folder / SUBMISSIONS / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:4]}"
    _make(submission)
    order = _Order(handles, resources, submission, list(after or ()), after_any, at_once)
    if resources.snapshot and resources.cluster != "debug":
        copy_code(order.code)
    record(submission, commands, resources)
    for handle in handles:
        _forget_earlier_end(handle)
    return {"slurm": _slurm, "local": _local, "debug": _debug}[resources.cluster](order)


@dataclass(frozen=True)
class _Order:
    """What is to be started."""

    handles: list[Handle]
    """Without ids yet."""
    resources: Resources
    submission: Path
    after: list[Handle]
    after_any: bool
    at_once: int | None

    @property
    def code(self) -> Path:
        return self.submission / "code"

    @property
    def one_for_one(self) -> bool:
        """Each job waits for the one at its place, not for all."""
        return len(self.after) == len(self.handles) and not self.after_any

    def paths(self) -> dict[str, str]:
        """Environment variables by which a job takes the copied code, where there is a copy."""
        return paths_to(self.code) if self.resources.snapshot else {}


def _slurm(order: _Order) -> list[Handle]:
    import submitit

    waits = [handle for handle in order.after if _must_be_waited_for(handle, order.after_any)]
    paired = bool(waits) and order.one_for_one and len(order.handles) > 1
    array = waits[0].id.partition("_")[0] if waits else ""
    if paired and [handle.id for handle in order.after] != [f"{array}_{place}" for place in range(len(order.handles))]:
        # Each has its own to wait for, which an array cannot say.
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
    except (OSError, subprocess.SubprocessError, submitit.core.utils.FailedJobError) as error:
        said = str(error).strip().replace("sbatch: error: ", "").replace("\n", " ")
        raise ConfigError(f"sbatch does not take the job: {said} Look at partition, account and resources.") from None
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
            f"{handle} is to end well before, and it is {state} on {handle.cluster}. Submit it again first."
        )
    return True


def _local(order: _Order) -> list[Handle]:
    before = [str(handle.folder) for handle in order.after]
    tasks = [
        {
            "folder": str(handle.folder),
            "words": list(handle.command.words),
            "after": [before[place]] if order.one_for_one else before,
            "after_any": order.after_any,
        }
        for place, handle in enumerate(order.handles)
    ]
    resources = order.resources
    shape = {"ranks": resources.tasks, "gpus": resources.gpus_per_node, "cpus": resources.cpus_per_task}
    queue = {"tasks": tasks, "at_once": order.at_once or 1, **shape}
    write_atomically(order.submission / QUEUE, json.dumps(queue, indent=1))
    command = [sys.executable, "-m", "hbdist.launch", "queue", str(order.submission)]
    if resources.setup:
        command = ["bash", "-c", "\n".join([*resources.setup, f"exec {shlex.join(command)}"])]
    with (order.submission / "queue.log").open("ab") as log, outside_of_jobs():
        process = subprocess.Popen(
            command,
            env=dict(os.environ) | order.paths(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return [replace(handle, id=str(process.pid), born=born(process.pid)).write() for handle in order.handles]


def _debug(order: _Order) -> list[Handle]:
    for handle in order.after:
        if not order.after_any and handle.state != "done":
            raise ConfigError(f"{handle} is to end well before, and it is {handle.state}.")
    if (ranks := order.resources.nodes * order.resources.tasks) > 1:
        print(f'cluster = "debug": one process here instead of {ranks} ranks', flush=True)
    known = sys.argv
    started = []
    for handle in order.handles:
        started.append(replace(handle, id=str(os.getpid()), born=born(os.getpid())).write())
        try:
            handle.command.run_for(handle.folder, 0)
        finally:
            sys.argv = known
    return started


def _refuse_while_live(handle: Handle) -> None:
    known = find_handle(handle.folder)
    if known and (state := known.state) in LIVE:
        raise ResumeError(f"{known} is {state} already. Wait for it (result), or cancel it first (cancel).")
    if handle.run:
        refuse_while_locked(handle.run)


def _forget_earlier_end(handle: Handle) -> None:
    _make(handle.folder)
    for name in (ENDED, STARTED, CANCEL):
        (handle.folder / name).unlink(missing_ok=True)
    if handle.run and outcome_of(handle.run) != "done":
        (handle.run / FILE).unlink(missing_ok=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}. Give a folder that can be written.") from None
