"""Entry point of `python -m hbdist.evaluation MODEL …`: the command `hbdist evaluate`, for launchers that start modules.

accelerate launch -m hbdist.evaluation MODEL --out OUT        torchrun --nproc-per-node 8 -m hbdist.evaluation …
"""

import runpy
import sys

from hbdist.distributed.orphans import end_with_launcher

if __name__ == "__main__":
    end_with_launcher()
    sys.argv.insert(1, "evaluate")
    # By name and not by import, as the command line is a higher layer.
    runpy.run_module("hbdist", run_name="__main__")
