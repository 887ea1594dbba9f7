"""Run and its folder: config, environment, plan, metrics, checkpoints, outcome.

Rank 0 writes; another rank only records its own failure, if no failure is recorded yet.

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

from hbdist.config.config import Config, refuse_another_run
from hbdist.data.shards.manifest import Manifest, differences
from hbdist.distributed.engine import Engine
from hbdist.errors import DataError, HbdistError, ResumeError
from hbdist.runs import checkpoint
from hbdist.runs.checkpoint import Position
from hbdist.runs.lock import RunLock
from hbdist.runs.outcome import Outcome, outcome_state, write_outcome
from hbdist.runs.plan import Plan
from hbdist.runs.progress import is_worth_a_line, progress_line
from hbdist.runs.signals import StopFlag
from hbdist.utils.files import write_atomically

REPORT_GRACE_S = 1.0
"""Seconds that rank 0 has to report an error that all ranks see; launchers end all ranks as soon as one has ended."""
RECENT_STEPS = 20
"""Number of recent steps in the displayed rate."""
LOGS = ("metrics.jsonl", "batches.jsonl", "validation.jsonl", "evaluation.jsonl")
"""Logs with one object per line, each with its step."""


class Run:
    """One run, new or existing, and its folder, open on every rank.

    Raises:
        ResumeError: the folder contains another run.
    """

    def __init__(self, config: Config, *, is_main: bool) -> None:
        refuse_another_run(config)
        self.config = config
        self.folder = Path(config.run.folder)
        self.is_main = is_main
        self.stop = StopFlag()
        """Flag that a stop signal to this rank raises; the other ranks learn of it at their next collective check."""
        self._saved = -1
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)

    @contextmanager
    def underway(self, engine: Engine) -> Iterator[None]:
        """Own the folder while inside: signals raise `stop`, and an error is recorded in outcome.json and sent to the other
        ranks before it propagates.

        Raises:
            ConfigError: the folder is not writable.
            ResumeError: another process is working on the same run.
            RuntimeError: another rank was lost; the message names it.
        """
        lock = self._claim(engine)
        engine.watchdog.on_rank_lost = lambda lost: self._record_lost_rank(lost, lock)
        self.stop.listen()
        try:
            yield
        except HbdistError as error:
            engine.watchdog.leave(str(error))
            self._record_failure(Outcome.invalid(error))
            raise
        except Exception as error:
            # The error of a broken collective does not say which rank was lost.
            if isinstance(error, RuntimeError) and (lost := engine.watchdog.wait_for_lost_rank(REPORT_GRACE_S)):
                engine.watchdog.leave()
                self._record_failure(Outcome("failed", 1, lost))
                raise RuntimeError(lost) from None
            engine.watchdog.leave(f"{type(error).__name__}: {error}")
            self._record_failure(Outcome.failed(error))
            raise
        finally:
            self.stop.forget()
            if lock:
                lock.release()

    def _claim(self, engine: Engine) -> RunLock | None:
        lock = error = None
        try:
            lock = RunLock.claim(self.folder) if self.is_main else None
        except HbdistError as refusal:
            error = refusal
        if error := engine.broadcast_object(error):
            raise error
        return lock

    def _record_lost_rank(self, lost: str, lock: RunLock | None) -> None:
        # The main thread is stuck in a collective and never gets here.
        if outcome_state(self.folder) is None:
            write_outcome(self.folder, Outcome("failed", 1, lost))
        if lock:
            lock.release()

    def _record_failure(self, outcome: Outcome) -> None:
        # An error on one rank ends in broken connections on the others: the first record of a start is the cause.
        if not self.is_main:
            time.sleep(REPORT_GRACE_S)
        recorded = outcome_state(self.folder)
        if recorded is None or (self.is_main and outcome.state == "invalid" and recorded != "done"):
            write_outcome(self.folder, outcome)
            if not self.is_main:
                print(f"hbdist, rank {os.environ.get('RANK')}: {outcome.message}", file=sys.stderr, flush=True)

    def say(self, sentence: str) -> None:
        """Print a line on rank 0."""
        if self.is_main:
            print(sentence, flush=True)

    def announce(self, plan: Plan, manifest: Manifest, where: str) -> None:
        """Print the plan before anything is loaded; save it with config, manifest and environment."""
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
        """Return the newest checkpoint, None in a new run; check that all ranks see the same one and that its data are these.

        Raises:
            ResumeError: it was trained on other data, or ranks see different data or checkpoints.
        """
        newest = checkpoint.latest(self.folder / "checkpoints")
        this_sees = (manifest.fingerprint, newest.name if newest else None)
        main_sees = engine.broadcast_object(this_sees)
        if engine.any_rank(this_sees != main_sees):
            raise ResumeError(
                f"Ranks see different shards or checkpoints: rank 0 {main_sees}, this one {this_sees}. Put {manifest.root} and"
                f" {self.folder} where all nodes see the same files."
            )
        trained_on = checkpoint.read_position(newest).fingerprint if newest else manifest.fingerprint
        if trained_on != manifest.fingerprint:
            raise ResumeError(
                f"{newest} was trained on shards with fingerprint {trained_on[:12]}, and {manifest.root} has"
                f" {manifest.fingerprint[:12]}: {self._what_changed(manifest)} The batches would differ. Build the same"
                " shards again, or start a new run with run.folder=… ."
            )
        return newest

    def _what_changed(self, manifest: Manifest) -> str:
        try:
            changes = differences(Manifest.load(self.folder), manifest)
        except DataError:
            return "what changed is not known."
        return " ".join(changes[:3]) + (f" And {len(changes) - 3} more groups." if len(changes) > 3 else "")

    def resume(self, newest: Path | None) -> tuple[int, dict[str, Any] | None]:
        """Load a checkpoint: the number of updates done, and the state of model and optimizer; 0 and None in a new run.

        Raises:
            ResumeError: the checkpoint is damaged.
        """
        if newest is None:
            self._cut_logs(0)
            return 0, None
        position, state = checkpoint.load(newest)
        self._cut_logs(position.step)
        self._saved = position.step
        self.say(f"resuming after step {position.step} from {newest}")
        return position.step, state

    def record(self, metrics: dict[str, Any], ids: list[str] | None) -> None:
        """Append a step to metrics.jsonl (and batches.jsonl), and print it."""
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

    def log(self, name: str, line: dict[str, Any], sentence: str) -> None:
        """Append a line to one of LOGS, and print it as a sentence."""
        if self.is_main:
            _append(self.folder / name, line)
        self.say(sentence)

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Read the lines of one of LOGS; on other ranks than 0, none."""
        path = self.folder / name
        if not (self.is_main and path.is_file()):
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def save(self, engine: Engine, manifest: Manifest, step: int) -> None:
        """Write the checkpoint of update `step`, unless it exists; return on all ranks once it is complete."""
        if step != self._saved:
            state, keep = engine.state(), self.config.checkpoint.keep
            if self.is_main:
                position = Position(step, self.config.seed, manifest.fingerprint)
                checkpoint.save(self.folder / "checkpoints", position, state, keep=keep)
            self._saved = step
        engine.wait_for_everyone()

    def finished(self) -> bool:
        """Check that the run has ended well before and its model exists."""
        return outcome_state(self.folder) == "done" and (self.folder / "model" / "config.json").is_file()

    def end(self, outcome: Outcome, engine: Engine) -> Outcome:
        """Record and print how the run ended, then leave the process group: launchers end all ranks once one has ended."""
        if self.is_main:
            write_outcome(self.folder, outcome)
            print(outcome.message, flush=True)
        engine.stop()
        return outcome

    def _cut_logs(self, step: int) -> None:
        """Drop what was logged after the checkpoint: those steps will be repeated."""
        for name in LOGS:
            path = self.folder / name
            if self.is_main and path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                lines = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
                write_atomically(path, "".join(lines))
        for scores in self.folder.glob("evaluation/step-*[0-9]") if self.is_main else ():
            if int(scores.name.rpartition("-")[2]) > step:
                shutil.rmtree(scores)


def environment() -> dict[str, Any]:
    """Return versions, machine and command of this process, for environment.json."""
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
