"""A run's folder: its config, environment, plan, metrics, checkpoints and how it ended.

Rank 0 writes; another rank only notes its own failure, where nobody else has noted one.

config.toml  manifest.json  environment.json  plan.txt  metrics.jsonl  batches.jsonl?  validation.jsonl?
evaluation.jsonl?  evaluation/step-000500/TASK/?  checkpoints/  model/  outcome.json
"""

import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hbdist.config.config import Config, read_toml, refuse_another_run
from hbdist.data.shards.manifest import Manifest, differences
from hbdist.distributed.engine import Engine
from hbdist.errors import DataError, HbdistError, ResumeError
from hbdist.runs import checkpoint
from hbdist.runs.checkpoint import Position
from hbdist.runs.lock import RunLock
from hbdist.runs.outcome import Outcome, note_outcome, outcome_of
from hbdist.runs.plan import Plan
from hbdist.runs.progress import is_worth_a_line, progress_line
from hbdist.runs.signals import StopFlag
from hbdist.utils.files import write_atomically

FIRST_WORD = 1.0
"""Seconds that rank 0 has to say what it and other ranks see alike; launchers end all ranks as soon as one is gone."""
RECENT_STEPS = 20
"""Steps that the shown rate looks back on."""
LOGS = ("metrics.jsonl", "batches.jsonl", "validation.jsonl", "evaluation.jsonl")
"""One object a line, each with its step."""


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
            refuse_another_run(Config.check(read_toml(stored), source=str(stored)), config)
        return run

    @contextmanager
    def underway(self, engine: Engine) -> Iterator[None]:
        """While inside, the folder is this run's alone, signals raise `stop`, and an error is noted in outcome.json and
        told to the other ranks before it goes on its way.

        Raises:
            ConfigError: nothing can be written into the folder.
            ResumeError: the same run is at work elsewhere.
            RuntimeError: another rank was lost; the message names it.
        """
        hold = self._claim(engine)
        engine.watchdog.on_loss = lambda lost: self._note_loss(lost, hold)
        self.stop.listen()
        try:
            yield
        except HbdistError as error:
            engine.watchdog.leave(str(error))
            self._note_failure(Outcome.invalid(error))
            raise
        except Exception as error:
            # A collective that breaks does not say whose connection it was.
            if isinstance(error, RuntimeError) and (lost := engine.watchdog.wait_for_loss(FIRST_WORD)):
                engine.watchdog.leave()
                self._note_failure(Outcome("failed", 1, lost))
                raise RuntimeError(lost) from None
            engine.watchdog.leave(f"{type(error).__name__}: {error}")
            self._note_failure(Outcome.failed(error))
            raise
        finally:
            self.stop.forget()
            if hold:
                hold.release()

    def _claim(self, engine: Engine) -> RunLock | None:
        hold = refused = None
        try:
            hold = RunLock.claim(self.folder) if self.is_main else None
        except HbdistError as error:
            refused = error
        if refused := engine.broadcast_object(refused):
            raise refused
        return hold

    def _note_loss(self, lost: str, hold: RunLock | None) -> None:
        # The main thread is stuck, and will not come back to it.
        if outcome_of(self.folder) is None:
            note_outcome(self.folder, Outcome("failed", 1, lost))
        if hold:
            hold.release()

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
        theirs = engine.broadcast_object(seen)
        if engine.any_rank(seen != theirs):
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
        self._saved = position.step
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

    def log(self, name: str, line: dict[str, Any], words: str) -> None:
        """Append a line to one of LOGS, and show it in words."""
        if self.is_main:
            _append(self.folder / name, line)
        self.say(words)

    def logged(self, name: str) -> list[dict[str, Any]]:
        """The lines of one of LOGS; on rank 0 alone."""
        path = self.folder / name
        here = self.is_main and path.is_file()
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if here else []

    def save(self, engine: Engine, manifest: Manifest, step: int) -> None:
        """Write a checkpoint after update `step`, unless it is there; returns on all ranks once it is complete."""
        if step != self._saved:
            state, keep = engine.state(), self.config.checkpoint.keep
            if self.is_main:
                position = Position(step, self.config.seed, manifest.fingerprint)
                checkpoint.save(self.folder / "checkpoints", position, state, keep=keep)
            self._saved = step
        engine.wait_for_everyone()

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
        for name in LOGS:
            path = self.folder / name
            if self.is_main and path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
                write_atomically(path, "".join(kept))
        for scores in self.folder.glob("evaluation/step-*[0-9]") if self.is_main else ():
            if int(scores.name.rpartition("-")[2]) > step:
                shutil.rmtree(scores)


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
