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

from hbdist.errors import without_secrets
from hbdist.launch.command import Command
from hbdist.launch.resources import SBATCH, Resources, option_name
from hbdist.utils.files import write_atomically

PACKAGE = Path(__file__).parent.parent
SUBMISSION = "submission.json"


def copy_code(folder: Path) -> None:
    """Copy the package into a folder.

    submitit's RsyncSnapshot would not do: it needs rsync and a git checkout, and leaves out new files that are not in git yet.
    """
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.partial"))


def record(folder: Path, commands: Sequence[Command], resources: Resources, queue: dict[str, Any] | None) -> None:
    """Write submission.json: who submitted what, where, with which Python and code; and a local submission's queue."""
    values = {
        "by": without_secrets(shlex.join(sys.argv)),
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

    Defaults that these resources override are hidden too.
    """
    from submitit.helpers import clean_env

    further = (
        {f"SBATCH_{option_name(name).replace('-', '_').upper()}" for name in resources.extra} if resources else set()
    )
    overridden = further | {name for name, key in SBATCH["defaults"].items() if getattr(resources, key or "_", "")}
    kept = {"SLURM_CONF", *SBATCH["defaults"]} - overridden
    own = {name: value for name, value in os.environ.items() if name in kept}
    with clean_env():
        os.environ.update(own)
        yield


def _git(*arguments: str) -> str:
    """Return the output of git in the package's repository; empty if the package is not in one."""
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
