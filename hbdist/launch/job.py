"""Job that Submitit runs on every task of a Slurm job: one command line, put back into the queue when it is interrupted."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hbdist.distributed.watchdog import is_of_a_lost_rank
from hbdist.launch.command import Command
from hbdist.launch.handle import LOGS, find_handle
from hbdist.launch.job_state import job_outcome, read_job, update_job
from hbdist.launch.rank import become_a_rank
from hbdist.launch.snapshot import outside_of_jobs
from hbdist.runs.outcome import INTERRUPTED
from hbdist.utils.json_toml import read_text
from hbdist.utils.slurm import may_requeue, own_job

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission


class Job:
    """A command, the folder of its job and that of its run, as Submitit pickles them.

    Submitit's handler of SIGUSR2, which comes before the time limit, saves on rank 0 at once: in the middle of a step, where
    saving is a collective, all ranks would hang. While a run is underway its own handlers replace it (`runs.signals.StopFlag`):
    the run saves when all ranks agree, and ends with status 75. Only then does rank 0 call Submitit's handler, whose only
    remaining task is to put the job back into the queue.
    """

    def __init__(self, command: Command, folder: Path, run: Path | None) -> None:
        self.command, self.folder, self.run = command, folder, run

    def __call__(self) -> None:
        """Run it; end the process with the command's exit status, which Slurm then has too."""
        limit_threads()
        rank = become_a_rank()
        if rank == 0:
            update_job(self.folder, checkpoint=newest_checkpoint(self.run))
        code = self.command.run_for(self.folder, rank)
        if code == INTERRUPTED and rank == 0:
            handler = signal.getsignal(signal.SIGUSR2)
            assert callable(handler), "Submitit's handler of SIGUSR2 is not installed"
            put_back(self.folder, lambda: handler(signal.SIGUSR2, None))
            sys.exit(code)
        if code not in (0, INTERRUPTED):
            sys.exit(code)

    def checkpoint(self) -> "DelayedSubmission":
        """Tell Submitit to resume with this job again; all that it needs is in the run's folder."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the number of threads to the task's CPUs, unless the user has set it."""
    if "SLURM_CPUS_PER_TASK" in environment:
        environment.setdefault("OMP_NUM_THREADS", environment["SLURM_CPUS_PER_TASK"])


def newest_checkpoint(run: Path | None) -> str:
    """Return the name of the newest checkpoint; empty if there is none."""
    latest = run / "checkpoints" / "latest" if run else None
    return read_text(latest, default="").strip() if latest else ""


def after_failure(submission: str, *folders: str) -> None:
    """Handle the failure of a job's ranks, or of those of a job in the array of these jobs; called by the batch script.

    A job that has lost a rank returns to the queue if it has written a checkpoint since it started: most often a machine has
    failed, which Slurm notices only minutes after the job has ended. Without a new checkpoint it would get no further.
    """
    os.environ["SUBMITIT_FOLDER"] = submission
    folder = Path(folders[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))])
    handle = find_handle(folder)
    outcome = handle.outcome if handle else None
    if handle is None or outcome is None or outcome.state != "failed" or not is_of_a_lost_rank(outcome.message):
        return
    newest = newest_checkpoint(handle.run)
    if newest == read_job(folder)["checkpoint"]:
        print(f"not put back into the queue: this start has added no checkpoint (newest: {newest or 'none'})")
        return
    put_back(folder, lambda: subprocess.run(["scontrol", "requeue", own_job()], check=True, timeout=60))


def put_back(folder: Path, requeue: Callable[[], object]) -> None:
    """Put a job back into the queue under its number, else as a new job; not one that was cancelled."""
    outcome = job_outcome(folder)
    if (outcome and outcome.state == "cancelled") or not may_requeue(own_job()):
        print("this job was cancelled, or Slurm ends it for another reason: it is not put back into the queue")
        return
    update_job(folder, outcome=None)
    try:
        requeue()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"this job cannot be put back into the queue ({error}): it is submitted anew")
        submit_anew(folder)


def submit_anew(folder: Path) -> None:
    """Submit the same script as a new job, with a copy of what Submitit has pickled: compute nodes may have no scontrol."""
    from submitit.core.job_environment import JobEnvironment

    paths, task = JobEnvironment().paths, os.environ.get("SLURM_ARRAY_TASK_ID", "")
    array = [f"--array={task}"] if task else []
    try:
        with outside_of_jobs():
            words = ["sbatch", "--parsable", *array, str(paths.submission_file)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"nor can it be submitted ({error}): its state is saved, and it resumes when it is submitted again")
        return
    number = done.stdout.strip().partition(";")[0]
    new = f"{number}_{task}" if task else number
    # Submitit waits up to a minute for the pickled job.
    shutil.copyfile(paths.submitted_pickle, paths.folder / f"{new}_submitted.pkl")
    shutil.copyfile(paths.submission_file, paths.folder / f"{number}_submission.sh")
    if handle := find_handle(folder):
        replace(handle, id=new).write()
    link_logs(folder, paths.folder, new, int(os.environ["SLURM_NTASKS"]))


def link_logs(folder: Path, submission: Path, job: str, ranks: int) -> None:
    """Make links in the job's folder to the logs of its ranks, which Submitit writes into the submission's folder."""
    (folder / LOGS).mkdir(exist_ok=True)
    for rank in range(ranks):
        link = folder / LOGS / f"{job}-rank{rank}.txt"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(submission / f"{job}_{rank}_log.out", link.parent))
