"""`python -m hbdist.launch VERB …`, by which jobs and slurm/*.sh start. People use `hbdist.submit` and `hbdist study`."""

import os
import sys
from pathlib import Path

from hbdist.distributed.orphans import end_with_launcher
from hbdist.errors import HbdistError
from hbdist.launch.command import Command
from hbdist.launch.job import after_failure
from hbdist.launch.local import run_queue
from hbdist.launch.rank import accelerate_options, become_a_rank


def main(verb: str, *arguments: str) -> int:
    """Run one verb and return the exit status."""
    match verb:
        case "queue":  # SUBMISSION: run the jobs of a local submission
            run_queue(*arguments)
        case "rank":  # FOLDER WORD …: run the command of a job as one of its local ranks
            end_with_launcher()
            folder, *words = arguments
            return Command(tuple(words)).run_for(Path(folder), int(os.environ.get("RANK", "0")))
        case "after-failure":  # SUBMISSION FOLDER …: maybe put a Slurm job whose ranks failed back into the queue
            after_failure(*arguments)
        case "slurm-rank":  # SCRIPT|-m MODULE [ARGUMENT …]: start Python as the rank of this task of a Slurm step
            become_a_rank()
            os.execv(sys.executable, [sys.executable, *arguments])
        case "accelerate-options":  # print the options by which accelerate starts the ranks of this task's node
            print(accelerate_options())
        case "run-folder":  # [CONFIG] [KEY=VALUE …]: print the folder of a run
            print(Command(("train", *arguments)).run_folder)
        case _:
            raise AssertionError(f"no such verb: {verb}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except HbdistError as error:
        sys.exit(f"hbdist: {error}")
