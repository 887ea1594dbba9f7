"""The code and the surroundings of a submission, kept beside it: a job that waits for days runs what was submitted."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from hbdist.launch.command import Command
from hbdist.launch.resources import Resources
from hbdist.utils.files import write_atomically

PACKAGE = Path(__file__).parent.parent
OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
WISHES = {
    "SBATCH_PARTITION": "partition",
    "SBATCH_ACCOUNT": "account",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_RESERVATION": "",
    "SBATCH_CLUSTERS": "",
}
"""What a user may have set for all jobs, and the resource that goes before it: sbatch itself would put the variable first."""


def copy_code(folder: Path) -> None:
    """Copy the package into a folder."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.partial"))


def paths_to(code: Path) -> dict[str, str]:
    """Environment variables that make Python take this code, and not what lies in the folder that a job starts in."""
    rest = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(code), *([rest] if rest else [])]), "PYTHONSAFEPATH": "1"}


def record(folder: Path, commands: Sequence[Command], resources: Resources) -> None:
    """Write submission.json: who submitted what, where, with which Python and code."""
    values = {
        "by": shlex.join(sys.argv),
        "in": os.getcwd(),
        "python": sys.executable,
        "version": platform.python_version(),
        "commit": _git("rev-parse", "HEAD"),
        "changed": _git("status", "--porcelain", "--untracked-files=no").splitlines(),
        "resources": asdict(resources),
        "commands": [shlex.join(("hbdist", *command.words)) for command in commands],
    }
    write_atomically(folder / "submission.json", json.dumps(values, indent=1, default=dict))


@contextmanager
def outside_of_jobs(resources: Resources | None = None) -> Iterator[None]:
    """While inside, nothing in the environment is of the job that this process may be part of.

    Args:
        resources: what goes before the user's own wishes.
    """
    before = dict(os.environ)
    for name in before:
        if name in WISHES and not getattr(resources, WISHES[name] or "_", ""):
            continue
        if name in OF_A_RANK or (name.startswith(OF_A_JOB) and name != "SLURM_CONF"):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def _git(*arguments: str) -> str:
    """What git says of the package's repository; empty where it is not in one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
