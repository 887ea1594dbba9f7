"""One command line of hbdist, run on every rank of a job."""

import runpy
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from hbdist.config.config import Config, split_arguments
from hbdist.runs.outcome import ENDED, Outcome, note_outcome, read_outcome


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
        """Run it in this process as this rank, and return the exit status. Commands that know no ranks run on rank 0."""
        if rank and self.words[0] not in ("train", "evaluate"):
            return 0
        # What runs and scores record as the command that made them.
        sys.argv = ["hbdist", *self.words]
        try:
            # By name, not by import: the command line is above this package.
            runpy.run_module("hbdist", run_name="__main__")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    def run_for(self, folder: Path, rank: int) -> int:
        """`run`, and let rank 0 note in the job's folder how it ended."""
        try:
            code = self.run(rank)
        except Exception:
            traceback.print_exc()
            code = 1
        if rank == 0 and read_outcome(folder, ENDED) is None:  # else someone has cancelled it
            note_outcome(
                folder, Outcome.of_status(code, f"hbdist {' '.join(self.words)} ended with status {code}"), ENDED
            )
        return code
