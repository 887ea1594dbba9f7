"""`python -m hbdist.launch VERB …`: what jobs are started as. For people there are `hbdist.submit` and `hbdist study`."""

import os
import sys
from pathlib import Path

from hbdist.launch.command import Command
from hbdist.launch.job import after_failure
from hbdist.launch.local import work_off

if __name__ == "__main__":
    verb, first, *others = sys.argv[1:]
    if verb == "queue":
        sys.exit(work_off(first))
    if verb == "rank":
        sys.exit(Command(tuple(others)).run_for(Path(first), int(os.environ.get("RANK", "0"))))
    assert verb == "after-failure", verb
    sys.exit(after_failure(first, *others))
