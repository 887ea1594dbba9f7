"""`python -m hbdist.evaluation`: the same as `hbdist evaluate`, for a launcher to start on many ranks.

    accelerate launch -m hbdist.evaluation MODEL --out OUT        torchrun --nproc-per-node 8 -m hbdist.evaluation …

Exit status as of `hbdist`. Rank 0 alone writes and says what there is to say.
"""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout

from hbdist.cli import main as command

FIRST_WORD = 1.0
"""Seconds that rank 0 has to say what all ranks meet; launchers end all as soon as one is gone."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as one rank of those in the environment; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    others = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"
    with ExitStack() as stack:
        if others:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        status = command(["evaluate", *arguments])
        if others and status:
            time.sleep(FIRST_WORD)
    return status


if __name__ == "__main__":
    sys.exit(main())
