"""A run's folder: its config, environment, plan, metrics, checkpoints and how it ended.

Rank 0 writes; another rank only notes its own failure, where nobody else has noted one.

config.toml  manifest.json  environment.json  plan.txt  metrics.jsonl  batches.jsonl?
validation.jsonl?  checkpoints/  model/  outcome.json
"""

import json
import os
import platform
import shlex
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hbdist import checkpoint
from hbdist.atomic import write_atomically
from hbdist.checkpoint import Position
from hbdist.config import Config, difference, read_toml
from hbdist.engine import Engine
from hbdist.errors import DataError, HbdistError, ResumeError
from hbdist.meters import is_worth_a_line, progress_line
from hbdist.outcome import Outcome, note_outcome, outcome_of
from hbdist.plan import Plan
from hbdist.shards.manifest import Manifest, differences
from hbdist.stopping import StopFlag

FIRST_WORD = 1.0
"""Seconds that rank 0 has to say what it and other ranks see alike; launchers end all ranks as soon as one is gone."""
RECENT_STEPS = 20
"""Steps that the shown rate looks back on."""


class Run:
    """One run and its folder, opened on every rank."""

    def __init__(self, config: Config, *, is_main: bool) -> None:
        self.config = config
        self.folder = Path(config.run.folder)
        self.is_main = is_main
        self.stop = StopFlag()
        """Up when a signal has come to this rank; others learn of it when they next agree."""
        self._saved = -1
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)

    @classmethod
    def open(cls, config: Config, *, is_main: bool) -> "Run":
        """The run of this config in its folder: a new one, or the one that is there.

        Raises:
            ResumeError: the folder holds another run.
        """
        run = cls(config, is_main=is_main)
        stored = run.folder / "config.toml"
        if stored.is_file():
            _refuse_another_run(Config.check(read_toml(stored), source=str(stored)), config)
        return run

    @contextmanager
    def underway(self) -> Iterator[None]:
        """While inside, signals raise `stop`, and an error is noted in outcome.json before it goes on its way."""
        self.stop.listen()
        try:
            yield
        except HbdistError as error:
            self._note_failure(Outcome.invalid(error))
            raise
        except Exception as error:
            self._note_failure(Outcome.failed(error))
            raise
        finally:
            self.stop.forget()

    def _note_failure(self, outcome: Outcome) -> None:
        # What one rank meets ends in a broken connection on the others: the first note of an attempt is its cause.
        if not self.is_main:
            time.sleep(FIRST_WORD)
        known = outcome_of(self.folder)
        if known is None or (self.is_main and outcome.state == "invalid" and known != "done"):
            note_outcome(self.folder, outcome)
            if not self.is_main:
                print(f"hbdist, rank {os.environ.get('RANK')}: {outcome.message}", file=sys.stderr, flush=True)

    def say(self, sentence: str) -> None:
        """Print a line, from rank 0."""
        if self.is_main:
            print(sentence, flush=True)

    def announce(self, plan: Plan, manifest: Manifest, where: str) -> None:
        """Show the arithmetic of the run before anything is loaded; keep it, config, manifest and environment."""
        if not self.is_main:
            return
        print(f"{plan.text()}{'training on':<15}{where}\n", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.toml", self.config.to_toml())
        write_atomically(self.folder / "plan.txt", plan.text())
        manifest.save(self.folder)
        write_atomically(self.folder / "environment.json", json.dumps(environment(), indent=1))
        (self.folder / "outcome.json").unlink(missing_ok=True)

    def find_checkpoint(self, engine: Engine, manifest: Manifest) -> Path | None:
        """The newest checkpoint, made sure that it is of these data and that all ranks see the same; None in a new run.

        Raises:
            ResumeError: its data were others, or ranks see different data or checkpoints.
        """
        found = checkpoint.latest(self.folder / "checkpoints")
        seen = (manifest.fingerprint, found.name if found else None)
        theirs = engine.from_main(seen)
        if engine.agree(seen != theirs):
            raise ResumeError(
                f"Ranks see different shards or checkpoints: rank 0 {theirs}, this one {seen}. Put {manifest.root} and"
                f" {self.folder} where all nodes see the same files."
            )
        trained_on = checkpoint.read_position(found).fingerprint if found else manifest.fingerprint
        if trained_on != manifest.fingerprint:
            raise ResumeError(
                f"{found} was trained on shards with fingerprint {trained_on[:12]}, and {manifest.root} has"
                f" {manifest.fingerprint[:12]}: {self._what_changed(manifest)} The batches would be others. Build the same"
                " shards again, or start a new run with run.folder=… ."
            )
        return found

    def _what_changed(self, manifest: Manifest) -> str:
        try:
            changes = differences(Manifest.load(self.folder), manifest)
        except DataError:
            return "what changed is not known."
        return " ".join(changes[:3]) + (f" And {len(changes) - 3} more groups." if len(changes) > 3 else "")

    def resume(self, found: Path | None) -> tuple[int, dict[str, Any] | None]:
        """The updates done at a checkpoint, and the state of model and optimizer there; 0 and None in a new run.

        Raises:
            ResumeError: the checkpoint is damaged.
        """
        if found is None:
            self._cut_logs(0)
            return 0, None
        position, state = checkpoint.load(found)
        self._cut_logs(position.step)
        if self.is_main:
            self._point_at_best()
        self.say(f"resuming after step {position.step} from {found}")
        return position.step, state

    def record(self, metrics: dict[str, Any], ids: list[str] | None) -> None:
        """Append a step to metrics.jsonl (and batches.jsonl), and show it."""
        if not self.is_main:
            return
        _append(self.folder / "metrics.jsonl", metrics)
        if ids is not None:
            _append(self.folder / "batches.jsonl", {"step": metrics["step"], "ids": ids})
        self._seconds.append(metrics["seconds"])
        rate = len(self._seconds) / sum(self._seconds)
        line = progress_line(metrics, steps=self.config.steps, rate=rate)
        if is_worth_a_line(metrics["step"], self.config.steps):
            print(f"\r{line}" if sys.stdout.isatty() else line, flush=True)
        elif sys.stdout.isatty():
            print(f"\r{line}", end="", flush=True)

    def record_validation(self, found: dict[str, Any], engine: Engine) -> None:
        """Append what a validation found to validation.jsonl, and show it."""
        if self.is_main:
            _append(self.folder / "validation.jsonl", found)
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in found["loss"].items())
        skipped = f"; {found['skipped']} pairs could not be read" if found["skipped"] else ""
        self.say(f"validation after step {found['step']}: {losses}{skipped}")
        engine.track({f"validation/{name}": loss for name, loss in found["loss"].items()}, found["step"])

    def validations(self) -> list[dict[str, Any]]:
        """The lines of validation.jsonl; on rank 0 alone."""
        path = self.folder / "validation.jsonl"
        here = self.is_main and path.is_file()
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if here else []

    def _point_at_best(self) -> None:
        # A run that went back to an older checkpoint has forgotten what it validated after it.
        best = min(self.validations(), key=lambda line: next(iter(line["loss"].values())), default=None)
        checkpoint.point_at_best(self.folder / "checkpoints", best["step"] if best else None)

    def save(self, engine: Engine, manifest: Manifest, step: int, *, best: bool = False) -> None:
        """Write a checkpoint after update `step`, unless it is there; returns on all ranks once it is complete.

        Args:
            best: it has the lowest validation loss yet.
        """
        if step != self._saved:
            state, keep = engine.state(), self.config.checkpoint.keep
            if self.is_main:
                position = Position(step, self.config.seed, manifest.fingerprint)
                checkpoint.save(self.folder / "checkpoints", position, state, keep=keep)
            self._saved = step
        if best and self.is_main:
            checkpoint.point_at_best(self.folder / "checkpoints", step)
        engine.wait_for_everyone()

    def weights_to_keep(self, last: Mapping[str, Tensor], step: int) -> tuple[int, Mapping[str, Tensor]]:
        """The step and weights to export: the last, or those of the best checkpoint where `validation.keep` says so."""
        best = checkpoint.best(self.folder / "checkpoints") if self.config.validation.keep == "best" else None
        if best is None:
            return step, last
        position, state = checkpoint.load(best)
        self.say(f"exporting the model of step {position.step}, which has the lowest validation loss")
        return position.step, state["model"]

    def finished(self) -> bool:
        """The run was done before: its model is there."""
        return outcome_of(self.folder) == "done" and (self.folder / "model" / "config.json").is_file()

    def end(self, outcome: Outcome, engine: Engine) -> Outcome:
        """Note how the run ended, say it, and leave the other ranks: a launcher ends all as soon as one is gone."""
        if self.is_main:
            note_outcome(self.folder, outcome)
            print(outcome.message, flush=True)
        engine.stop()
        return outcome

    def _cut_logs(self, step: int) -> None:
        """Drop what was logged after the checkpoint: those steps will be done again."""
        for name in ("metrics.jsonl", "batches.jsonl", "validation.jsonl"):
            path = self.folder / name
            if self.is_main and path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
                write_atomically(path, "".join(kept))


def environment() -> dict[str, Any]:
    """What a run was made with: versions, machine, command."""
    packages = ("hbdist", "torch", "accelerate", "deepspeed", "transformers", "tokenizers", "numpy", "webdataset")
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "world": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _refuse_another_run(stored: Config, config: Config) -> None:
    changed = difference(stored, config)
    if changed:
        before = difference(config, stored)
        what = ", ".join(f"{key} = {before[key]!r} there, {value!r} here" for key, value in changed.items())
        raise ResumeError(
            f"{config.run.folder} holds another run: {what}. Give this one a folder of its own (run.folder=…), or delete"
            " that folder."
        )
