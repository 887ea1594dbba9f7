"""`python -m hbdist.evaluation MODEL …`: the command `hbdist evaluate`, for launchers that start modules.

accelerate launch -m hbdist.evaluation MODEL --out OUT        torchrun --nproc-per-node 8 -m hbdist.evaluation …
"""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    # By name, not by import: the command line is above this package.
    runpy.run_module("hbdist", run_name="__main__")
