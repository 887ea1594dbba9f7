"""One command line of hbdist, run on every rank of a job."""

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from hbdist.config.config import Config, split_arguments
from hbdist.runs.outcome import Outcome, note_outcome, read_outcome

ENDED = "ended.json"
"""How a job ended, in its folder: what outcome.json is for a run, also of jobs that are no runs, or never got that far."""


@dataclass(frozen=True)
class Command:
    """("train", CONFIG, key=value …), ("evaluate", MODEL, …), or whatever else `hbdist` takes, which runs on one rank."""

    words: tuple[str, ...]

    @property
    def run_folder(self) -> Path | None:
        """The folder of the run that it trains; None where it trains none.

        Raises:
            ConfigError: its config is wrong.
        """
        if self.words[0] != "train":
            return None
        return Path(Config.load(*split_arguments(self.words[1:])).run.folder)

    def run(self, rank: int) -> int:
        """Run it in this process, as this rank; returns the exit status."""
        name, *arguments = self.words
        if name == "train":
            from hbdist.train import main

            return main(arguments)
        if name == "evaluate":
            from hbdist.evaluation.__main__ import main as evaluate

            return evaluate(arguments)
        if rank:
            return 0
        from hbdist.cli import main as run_command

        return run_command(self.words)

    def run_for(self, folder: Path, rank: int) -> int:
        """`run`, and let rank 0 note in the job's folder how it ended."""
        # What runs and scores record as the command that made them.
        sys.argv = ["hbdist", *self.words]
        try:
            code = self.run(rank)
        except Exception:
            traceback.print_exc()
            code = 1
        if rank == 0 and read_outcome(folder, ENDED) is None:  # else someone has cancelled it
            note_outcome(folder, Outcome.of_status(code, f"{' '.join(sys.argv)} ended with status {code}"), ENDED)
        return code
