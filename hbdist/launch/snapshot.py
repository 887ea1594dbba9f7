"""Snapshot of the code and record of the environment of a submission: a job that waits for days runs what was submitted."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hbdist.launch.command import Command
from hbdist.launch.resources import Resources
from hbdist.utils.files import write_atomically

PACKAGE = Path(__file__).parent.parent
SUBMISSION = "submission.json"
DEFAULTS = {
    "SBATCH_PARTITION": "partition",
    "SBATCH_ACCOUNT": "account",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_RESERVATION": "",
    "SBATCH_CLUSTERS": "",
}
"""A user's defaults for all jobs, and the resource that overrides each. sbatch itself would prefer the variable to it."""


def copy_code(folder: Path) -> None:
    """Copy the package into a folder.

    submitit's RsyncSnapshot would not do: it needs rsync and a git checkout, and leaves out new files that are not in git yet.
    """
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.partial"))


def paths_to(code: Path) -> dict[str, str]:
    """Return environment variables that make Python import this code, and nothing from the folder that a job starts in."""
    rest = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(code), *([rest] if rest else [])]), "PYTHONSAFEPATH": "1"}


def record(folder: Path, commands: Sequence[Command], resources: Resources, queue: dict[str, Any] | None) -> None:
    """Write submission.json: who submitted what, where, with which Python and code; and a local submission's queue."""
    values = {
        "by": shlex.join(sys.argv),
        "in": os.getcwd(),
        "python": sys.executable,
        "version": platform.python_version(),
        "commit": _git("rev-parse", "HEAD"),
        "changed": _git("status", "--porcelain", "--untracked-files=no").splitlines(),
        "resources": resources.model_dump(),
        "commands": [shlex.join(("hbdist", *command.words)) for command in commands],
    }
    write_atomically(folder / SUBMISSION, json.dumps(values | ({"queue": queue} if queue else {}), indent=1))


@contextmanager
def outside_of_jobs(resources: Resources | None = None) -> Iterator[None]:
    """Hide the variables of the job that this process may be part of, except the user's own settings for Slurm.

    Args:
        resources: those that override the user's defaults.
    """
    from submitit.helpers import clean_env

    overridden = {name for name, key in DEFAULTS.items() if getattr(resources, key or "_", "")}
    kept = {name for name in ("SLURM_CONF", *DEFAULTS) if name in os.environ and name not in overridden}
    own = {name: os.environ[name] for name in kept}
    with clean_env():
        os.environ.update(own)
        yield


def _git(*arguments: str) -> str:
    """Return the output of git in the package's repository; empty if the package is not in one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
