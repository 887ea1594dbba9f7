"""The command `hbdist`: a module for each kind of command, each of which imports only what it needs.

Exit status 0 done, 2 the user's input is wrong (one message, no traceback), 1 anything else.
"""

import sys
from collections.abc import Sequence

import typer

from hbdist.cli import compare, data, evaluation, runs, studies  # noqa: F401  each adds its commands to the app
from hbdist.cli.app import app
from hbdist.errors import HbdistError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        return app(list(arguments) if arguments is not None else None, standalone_mode=False) or 0
    except HbdistError as error:
        print(f"hbdist: {error}", file=sys.stderr)
        return 2
    except typer.Abort:
        return 130
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error, of whichever click typer brings
        if show is None:
            raise
        show()
        return 2
