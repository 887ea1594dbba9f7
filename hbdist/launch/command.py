"""Command line of hbdist that a job runs on each of its ranks."""

import runpy
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from hbdist.config.config import Config, split_arguments
from hbdist.launch.job_state import end_job
from hbdist.runs.outcome import Outcome


@dataclass(frozen=True)
class Command:
    """("train", CONFIG, key=value …), ("evaluate", MODEL, …), or any other command of `hbdist`, which runs on one rank."""

    words: tuple[str, ...]

    @property
    def run_folder(self) -> Path | None:
        """Folder of the run that it trains; None if it trains none.

        Raises:
            ConfigError: its config is wrong.
        """
        if self.words[0] != "train":
            return None
        return Path(Config.load(*split_arguments(self.words[1:])).run.folder)

    def run_for(self, folder: Path, rank: int) -> int:
        """Run it in this process as this rank, and return the exit status; rank 0 records in the job's folder how it ended.

        Commands without ranks run on rank 0.
        """
        if rank and self.words[0] not in ("train", "evaluate"):
            return 0
        code = 0
        sys.argv = ["hbdist", *self.words]  # recorded in runs and scores as the command that made them
        try:
            # By name, not by import, because the command line is a layer above this one.
            runpy.run_module("hbdist", run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
        if rank == 0:
            end_job(folder, Outcome.of_status(code, f"hbdist {' '.join(self.words)} ended with status {code}"))
        return code
