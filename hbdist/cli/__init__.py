"""Command `hbdist`: a module per group of commands, each of which imports only what it needs.

Exit status: 0 done, 2 the user's input is wrong (one message, no traceback), 1 anything else; of `train` also 75, interrupted.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import typer

from hbdist.cli import data, evaluation, runs, studies  # noqa: F401  each adds its commands to the app
from hbdist.cli.app import app
from hbdist.distributed.orphans import end_with_launcher
from hbdist.errors import HbdistError, RunError
from hbdist.utils.files import naming_disk_errors
from hbdist.utils.paths import check_words

REPORT_GRACE_S = 1.0
"""Seconds that rank 0 has to report an error that all ranks meet: launchers stop all ranks when the first one ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    `evaluate` runs on all ranks of a launcher, and only rank 0 prints.
    """
    end_with_launcher()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    if arguments[:1] != ["evaluate"] or rank == "0":
        return _run(arguments)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        status = _run(arguments)
    if status:
        time.sleep(REPORT_GRACE_S)
    return status


def _run(arguments: list[str]) -> int:
    try:
        check_words(arguments)
        with naming_disk_errors(Path.cwd()):
            return app(arguments, standalone_mode=False) or 0
    except HbdistError as error:
        print(f"hbdist: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"hbdist: {error}", file=sys.stderr)
        return 1
    except typer.Abort:
        return 130
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error, of the click that typer brings with it
        if show is None:
            raise
        show()
        return 2
