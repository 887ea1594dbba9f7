"""Everything that reads files of others, or files of our own that something else may have changed, each with valid examples."""

import time

from fuzz.campaign import Tally, Target, limit_memory, run
from fuzz.data_targets import DATA
from fuzz.run_targets import RUNS

TARGETS: dict[str, Target] = {target.name: target for target in (*DATA, *RUNS)}


def run_named(name: str, inputs: int, seed: int) -> tuple[Tally, float]:
    """Run a target in this process, which is its own; return what became of the inputs, and the seconds."""
    limit_memory()
    start = time.monotonic()
    return run(TARGETS[name], inputs, seed=seed), time.monotonic() - start
