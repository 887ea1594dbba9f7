"""What Submitit runs on every task of a Slurm job: one command line, put back into the queue where it was interrupted."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hbdist.distributed.watchdog import GONE
from hbdist.launch.command import Command
from hbdist.launch.handle import LOGS, find_handle
from hbdist.launch.snapshot import OF_A_RANK, outside_of_jobs
from hbdist.runs.outcome import ENDED, INTERRUPTED, read_outcome
from hbdist.utils.slurm import may_requeue, own_job

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

BEGAN = "began.txt"
"""In a job's folder: the newest checkpoint when it started."""


class Job:
    """A command, its job's folder and its run's, as Submitit pickles them.

    Submitit answers SIGUSR2, which comes before the time limit, by saving on rank 0 at once: in the middle of a step, where
    saving is a collective, all would hang. A run takes the signals over as long as it is underway (`stopping.StopFlag`), saves
    where all ranks agree, and ends with status 75. Only then rank 0 calls Submitit's answer, which has nothing left to do but
    to put the job back into the queue.
    """

    def __init__(self, command: Command, folder: Path, run: Path | None) -> None:
        self.command, self.folder, self.run = command, folder, run

    def __call__(self) -> None:
        """Run it; ends the process with the command's exit status, which Slurm then has too."""
        rank = become_a_rank()
        if rank == 0:
            (self.folder / BEGAN).write_text(newest_checkpoint(self.run))
        code = self.command.run_for(self.folder, rank)
        if code == INTERRUPTED and rank == 0:
            answer = signal.getsignal(signal.SIGUSR2)
            assert callable(answer), "Submitit's answer to SIGUSR2 is not there"
            put_back(self.folder, lambda: answer(signal.SIGUSR2, None))
            sys.exit(code)
        if code not in (0, INTERRUPTED):
            sys.exit(code)

    def checkpoint(self) -> "DelayedSubmission":
        """For Submitit: what to go on with is this job again; all that it needs is in the run's folder."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)


def newest_checkpoint(run: Path | None) -> str:
    """Its name; empty where there is none."""
    latest = run / "checkpoints" / "latest" if run else None
    return latest.read_text(encoding="utf-8").strip() if latest and latest.is_file() else ""


def after_failure(submission: str, *folders: str) -> int:
    """What the batch script calls when the ranks of a job, or of the array of these jobs, have failed.

    One that has lost a rank goes on in the queue if it has written a checkpoint since it started: most often a machine has
    failed, which Slurm itself sees minutes later, when the job has long ended. Without a checkpoint it would come no further.
    """
    os.environ["SUBMITIT_FOLDER"] = submission
    folder = Path(folders[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))])
    handle = find_handle(folder)
    outcome = handle.outcome if handle else None
    if handle is None or outcome is None or outcome.state != "failed" or GONE not in outcome.message:
        return 0
    newest = newest_checkpoint(handle.run)
    if newest == (folder / BEGAN).read_text():
        print(f"not put back into the queue: this start has added no checkpoint (newest: {newest or 'none'})")
        return 0
    put_back(folder, lambda: subprocess.run(["scontrol", "requeue", own_job()], check=True, timeout=60))
    return 0


def put_back(folder: Path, requeue: Callable[[], object]) -> None:
    """Let a job be queued again under its number, else as a new one; not one that was cancelled."""
    ended = read_outcome(folder, ENDED)
    if (ended and ended.state == "cancelled") or not may_requeue(own_job()):
        print("this job was cancelled, or Slurm ends it for another reason: it is not put back into the queue")
        return
    (folder / ENDED).unlink(missing_ok=True)
    try:
        requeue()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"this job cannot be put back into the queue ({error}): it is submitted anew")
        submit_anew(folder)


def submit_anew(folder: Path) -> None:
    """Where compute nodes have no scontrol: the same script as a new job, with a copy of what Submitit has pickled."""
    from submitit.core.job_environment import JobEnvironment

    paths, task = JobEnvironment().paths, os.environ.get("SLURM_ARRAY_TASK_ID", "")
    array = [f"--array={task}"] if task else []
    try:
        with outside_of_jobs():
            words = ["sbatch", "--parsable", *array, str(paths.submission_file)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"nor can it be submitted ({error}): its state is saved, and it goes on when it is submitted again")
        return
    number = done.stdout.strip().partition(";")[0]
    new = f"{number}_{task}" if task else number
    # Submitit waits a minute for what a job is to do.
    shutil.copyfile(paths.submitted_pickle, paths.folder / f"{new}_submitted.pkl")
    shutil.copyfile(paths.submission_file, paths.folder / f"{number}_submission.sh")
    if handle := find_handle(folder):
        replace(handle, id=new).write()
    link_logs(folder, paths.folder, new, int(os.environ["SLURM_NTASKS"]))


def link_logs(folder: Path, submission: Path, job: str, ranks: int) -> None:
    """Names in the job's folder for the files that its ranks will write, which lie with its array's."""
    (folder / LOGS).mkdir(exist_ok=True)
    for rank in range(ranks):
        link = folder / LOGS / f"{job}-rank{rank}.txt"
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(submission / f"{job}_{rank}_log.out", link.parent))


def become_a_rank(environment: MutableMapping[str, str] = os.environ) -> int:
    """Put into the environment what a launcher would: this task's rank, how many there are, where they meet.

    Returns the rank.
    """
    for name in OF_A_RANK:
        environment.pop(name, None)
    if "SLURM_CPUS_PER_TASK" in environment:  # before torch is imported, which looks at it once
        environment.setdefault("OMP_NUM_THREADS", environment["SLURM_CPUS_PER_TASK"])
    from hbdist.distributed.rendezvous import meeting_point, place

    rank, world = place(environment)
    if world == 1:
        return rank
    local_rank, local = int(environment["SLURM_LOCALID"]), world // int(environment["SLURM_STEP_NUM_NODES"])
    gpus = environment.get("CUDA_VISIBLE_DEVICES", "")
    if gpus and "," not in gpus:
        local_rank, local = 0, 1  # Slurm has given each task a GPU of its own, and none sees another's
    address, port = meeting_point(environment)
    environment["WORLD_SIZE"], environment["RANK"] = str(world), str(rank)
    environment["LOCAL_WORLD_SIZE"], environment["LOCAL_RANK"] = str(local), str(local_rank)
    environment["MASTER_ADDR"] = environment.get("HBDIST_MASTER_ADDR", address)
    environment["MASTER_PORT"] = str(port)
    return rank
