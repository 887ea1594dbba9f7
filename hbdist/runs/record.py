"""Record of a run, read from its folder without torch: config, plan, environment, metrics, outcome, scores."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbdist.config.config import read_config
from hbdist.errors import DataError
from hbdist.evaluation.scores import read_scores
from hbdist.utils.json_toml import read_json_lines, read_json_object, read_text

Scores = dict[str, Any]
"""Content of a scores.json."""


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
            DataError: it is not a run folder, or a file in it is damaged.
        """
        if not (run / "config.toml").is_file():
            raise DataError(f"{run} has no config.toml, which every run folder has. Give the folder of a run.")
        checkpoints = sorted(run.glob("checkpoints/*/state.json"))
        return cls(
            folder=run,
            config=read_config(run / "config.toml"),
            config_text=read_text(run / "config.toml"),
            plan=read_text(run / "plan.txt", remedy="Delete it, or copy the run again.", default=""),
            environment=_read_json(run / "environment.json"),
            metrics=read_json_lines(run / "metrics.jsonl", remedy="Delete the broken line, or copy the run again."),
            outcome=_read_json(run / "outcome.json"),
            fingerprint=_read_json(checkpoints[-1]).get("fingerprint", "") if checkpoints else "",
            before=read_scores(run / "evaluation" / "before"),
            after=read_scores(run / "evaluation" / "after"),
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


def _read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; empty if there is no such file."""
    return read_json_object(path, remedy="Delete it, or copy the run again.", default={})
