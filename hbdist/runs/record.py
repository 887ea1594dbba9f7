"""Record of a run, read from its folder without torch: config, plan, environment, metrics, outcome, scores."""

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hbdist.config.config import Config, read_config
from hbdist.errors import DataError
from hbdist.evaluation.scores import read_evaluation
from hbdist.runs.outcome import read_outcome
from hbdist.runs.stored import REMEDY, read_environment, read_steps
from hbdist.utils.json_toml import read_text
from hbdist.utils.stored import read_stored

Scores = dict[str, Any]
"""Content of a scores.json."""


@dataclass(frozen=True)
class Checkpointed:
    """Part of a checkpoint's state.json that a report shows."""

    fingerprint: str = ""


@dataclass(frozen=True)
class Record:
    """Content of a run folder; empty or None where a file does not exist (yet)."""

    folder: Path
    config: dict[str, Any]
    config_text: str
    plan: str
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    outcome: dict[str, Any]
    fingerprint: str
    """Fingerprint of the manifest in the newest checkpoint."""
    before: Scores | None
    after: Scores | None

    @classmethod
    def read(cls, run: Path) -> "Record":
        """Read a run folder.

        Raises:
            ConfigError: its config is damaged.
            DataError: it is not a run folder, or another file in it is damaged.
        """
        path = run / "config.toml"
        if not path.is_file():
            raise DataError(f"{run} has no config.toml, which every run folder has. Give the folder of a run.")
        checkpoints, outcome = sorted(run.glob("checkpoints/*/state.json")), read_outcome(run)
        return cls(
            folder=run,
            config=Config.check(read_config(path), source=str(path)).model_dump(),
            config_text=read_text(path),
            plan=read_text(run / "plan.txt", remedy=REMEDY, default=""),
            environment=read_environment(run / "environment.json"),
            metrics=read_steps(run / "metrics.jsonl"),
            outcome=asdict(outcome) if outcome else {},
            fingerprint=read_stored(Checkpointed, checkpoints[-1], remedy=REMEDY).fingerprint if checkpoints else "",
            before=read_evaluation(run / "evaluation" / "before"),
            after=read_evaluation(run / "evaluation" / "after"),
        )

    @property
    def sides(self) -> dict[str, Scores]:
        """Existing scores, by "before" and "after" training."""
        return {side: scores for side, scores in (("before", self.before), ("after", self.after)) if scores}

    @property
    def comparable(self) -> bool:
        """Existence of both scores, on the same task after the same cut."""
        return len(self.sides) == 2 and len({scores["task_fingerprint"] for scores in self.sides.values()}) == 1

    @property
    def train_command(self) -> str:
        """Command that trains or resumes this run."""
        return shlex.join(["accelerate", "launch", "hbdist/train.py", f"{self.folder}/config.toml"])

    @property
    def again_command(self) -> str:
        """Command that repeats this run in a folder of its own, with the same number of processes."""
        processes = ["--num_processes", str(self.environment.get("world", 1))]
        config = [f"{self.folder}/config.toml", f"run.folder={self.folder}-again"]
        return shlex.join(["accelerate", "launch", *processes, "hbdist/train.py", *config])

    @property
    def report_command(self) -> str:
        """Command that writes this run's report again."""
        return shlex.join(["hbdist", "report", str(self.folder)])

    def evaluate_command(self, side: str, *, like: str = "") -> str:
        """Return the command that computes the scores of a side, "before" or "after" training.

        Task and cut are those of that side's scores, else of the other side's; or of the side named by `like`.
        """
        available = {"before": self.before or self.after, "after": self.after or self.before}
        scores = available[like or side] or {}
        model = str(self.config.get("model", {}).get("name", "MODEL")) if side == "before" else f"{self.folder}/model"
        words = ["hbdist", "evaluate", model, "--task", scores.get("task", "xquad-r")]
        cut = scores.get("cut") or {}
        words += ["--languages", ",".join(cut["languages"])] if cut.get("languages") else []
        words += ["--questions", str(cut["questions"])] if cut.get("questions") else []
        return shlex.join([*words, "--out", f"{self.folder}/evaluation/{side}"])
