"""Run and its folder: config, environment, plan, metrics, checkpoints, outcome.

Rank 0 writes; another rank only records its own failure, if no failure is recorded yet.

config.toml  manifest.json  environment.json  plan.txt  metrics.jsonl  batches.jsonl?  validation.jsonl?
evaluation.jsonl?  evaluation/step-000500/TASK/?  checkpoints/  model/  outcome.json
"""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hbdist.config.config import Config, refuse_another_run
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.engine import Engine
from hbdist.errors import HbdistError, RankLostError
from hbdist.runs import checkpoint, logs, resuming
from hbdist.runs.checkpoint import Position
from hbdist.runs.environment import environment
from hbdist.runs.lock import LockOwner, RunLock, owner_of
from hbdist.runs.outcome import FILE as OUTCOME
from hbdist.runs.outcome import Outcome, outcome_state, write_outcome
from hbdist.runs.plan import Plan
from hbdist.runs.progress import is_worth_a_line, progress_line
from hbdist.runs.signals import StopFlag
from hbdist.utils.files import naming_disk_errors, sync_tree, write_atomically

REPORT_GRACE_S = 1.0
"""Seconds that rank 0 has to report an error that all ranks see; launchers end all ranks as soon as one has ended."""
RECENT_STEPS = 20
"""Number of recent steps in the displayed rate."""


class Run:
    """One run, new or existing, and its folder, open on every rank.

    Raises:
        ResumeError: the folder contains another run.
    """

    def __init__(self, config: Config, *, is_main: bool) -> None:
        self.config = config
        self._extends = 0 < refuse_another_run(config) < config.steps
        self.folder = Path(config.run.folder)
        self.is_main = is_main
        self.stop = StopFlag()
        """Flag that a stop signal to this rank raises; the other ranks learn of it at their next collective check."""
        self._lock: RunLock | None = None
        self._owner: LockOwner | None = None
        """Rank 0, once it owns the folder."""
        self._saved = -1
        self._seconds: deque[float] = deque(maxlen=RECENT_STEPS)

    @contextmanager
    def underway(self, engine: Engine) -> Iterator[None]:
        """Own the folder while inside: signals raise `stop`, and an error is recorded in outcome.json and sent to the other
        ranks before it propagates.

        Raises:
            ConfigError: the folder is not writable.
            ResumeError: another process is working on the same run.
            RankLostError: another rank was lost; the message names it.
            WriteError: the disk is full, read-only or fails.
        """
        self._claim(engine)
        engine.watchdog.on_rank_lost = self._record_lost_rank
        self.stop.listen()
        try:
            with naming_disk_errors(self.folder):
                yield
        except HbdistError as error:
            engine.watchdog.leave(str(error))
            self._record_failure(Outcome.invalid(error))
            error.reported = True  # by the first rank that met it
            raise
        except Exception as error:
            # The error of a broken collective does not say which rank was lost.
            if isinstance(error, RuntimeError) and (lost := engine.watchdog.wait_for_lost_rank(REPORT_GRACE_S)):
                engine.watchdog.leave()
                self._record_failure(Outcome("failed", 1, lost))
                raise RankLostError(lost) from None
            outcome = Outcome.failed(error)
            engine.watchdog.leave(outcome.message)
            self._record_failure(outcome)
            raise
        finally:
            self.stop.forget()
            if self._lock:
                self._lock.release()

    def _claim(self, engine: Engine) -> None:
        error = None
        try:
            if self.is_main:
                self._lock = RunLock.claim(self.folder)
                if not self.finished():  # how the last start ended is not how this one will
                    with naming_disk_errors(self.folder):
                        (self.folder / OUTCOME).unlink(missing_ok=True)
        except (HbdistError, OSError) as refusal:
            error = refusal
        error, self._owner = engine.broadcast_object((error, self._lock and self._lock.owner))
        if error:
            if self._lock:
                self._lock.release()
            if isinstance(error, HbdistError):
                error.reported = True
            raise error

    def _record_lost_rank(self, lost: str) -> None:
        # The main thread is stuck in a collective and never gets here.
        if outcome_state(self.folder) is None:
            self._write_outcome(Outcome("failed", 1, lost))
        if self._lock:
            self._lock.release()

    def _record_failure(self, outcome: Outcome) -> None:
        # An error on one rank ends in broken connections on the others: the first record of a start is the cause.
        if not self.is_main:
            time.sleep(REPORT_GRACE_S)
        recorded = outcome_state(self.folder)
        if recorded is None or (self.is_main and outcome.state == "invalid" and recorded != "done"):
            self._write_outcome(outcome)
            if not self.is_main:
                print(f"hbdist, rank {os.environ.get('RANK')}: {outcome.message}", file=sys.stderr, flush=True)

    def _write_outcome(self, outcome: Outcome) -> None:
        """Write outcome.json, unless another start has taken the folder over; on a full disk, the first error counts."""
        owner = owner_of(self.folder)
        if owner is None or owner == self._owner:
            with suppress(OSError):
                write_outcome(self.folder, outcome)

    def say(self, sentence: str) -> None:
        """Print a line on rank 0."""
        if self.is_main:
            print(sentence, flush=True)

    def announce(self, plan: Plan, manifest: Manifest, where: str) -> None:
        """Print the plan before anything is loaded; save it with config, manifest and environment."""
        if not self.is_main:
            return
        self._refuse_if_lost()
        print(f"{plan.text()}{'training on':<15}{where}\n", flush=True)
        write_atomically(self.folder / "config.toml", self.config.to_toml())
        write_atomically(self.folder / "plan.txt", plan.text())
        manifest.save(self.folder)
        write_atomically(self.folder / "environment.json", json.dumps(environment(), indent=1))

    def find_checkpoints(self, engine: Engine, manifest: Manifest) -> list[Path]:
        """Return the checkpoints to resume from, the newest first, none in a new run. A collective.

        Raises:
            ResumeError: they were trained on other data, or ranks see different data or checkpoints.
        """
        return resuming.find_checkpoints(self.folder, engine, manifest, say=self.say)

    def resume(self, engine: Engine, found: Sequence[Path]) -> tuple[int, dict[str, Any] | None]:
        """Load the newest of these checkpoints that is not damaged: the number of updates done, and the state of model and
        optimizer; 0 and None in a new run. A collective.

        Raises:
            ResumeError: all of them are damaged.
        """
        step, state = resuming.load_newest(found, engine, say=self.say)
        if state is not None:
            self._saved = step
        if self.is_main:
            resuming.cut_logs(self.folder, step, say=self.say)
        return step, state

    def record(self, metrics: dict[str, Any], ids: list[str] | None) -> None:
        """Append a step to metrics.jsonl (and batches.jsonl), and print it."""
        if not self.is_main:
            return
        self._refuse_if_lost()
        logs.append(self.folder / logs.METRICS, metrics)
        if ids is not None:
            logs.append(self.folder / logs.BATCHES, {"step": metrics["step"], "ids": ids})
        self._seconds.append(metrics["seconds"])
        rate = len(self._seconds) / sum(self._seconds)
        line = progress_line(metrics, steps=self.config.steps, rate=rate)
        if is_worth_a_line(metrics["step"], self.config.steps) or "notes" in metrics:
            print(f"\r{line}" if sys.stdout.isatty() else line, flush=True)
        elif sys.stdout.isatty():
            print(f"\r{line}", end="", flush=True)

    def log(self, name: str, line: dict[str, Any], sentence: str) -> None:
        """Append a line to one of the logs, and print it as a sentence."""
        if self.is_main:
            self._refuse_if_lost()
            logs.append(self.folder / name, line)
        self.say(sentence)

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Read the lines of one of the logs, and name those that are damaged; on other ranks than 0, none."""
        objects, damaged = logs.read(self.folder / name) if self.is_main else ([], [])
        for sentence in damaged:
            self.say(sentence)
        return objects

    def save(self, engine: Engine, manifest: Manifest, step: int) -> None:
        """Write the checkpoint of update `step`, unless it exists; return on all ranks once it is complete."""
        if step != self._saved:
            state, keep = engine.state(), self.config.checkpoint.keep
            if self.is_main:
                self._refuse_if_lost(look=True)
                (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
                logs.sync_logs(self.folder)
                position = Position(step, self.config.seed, manifest.fingerprint)
                checkpoint.save(self.folder / "checkpoints", position, state, keep=keep)
            self._saved = step
        engine.wait_for_everyone()

    def _refuse_if_lost(self, *, look: bool = False) -> None:
        if self._lock:
            self._lock.refuse_if_lost(look=look)

    def finished(self) -> bool:
        """Check that the run has ended well before, with as many steps as now, and its model exists."""
        return (
            not self._extends
            and outcome_state(self.folder) == "done"
            and (self.folder / "model" / "config.json").is_file()
        )

    def end(self, outcome: Outcome, engine: Engine) -> Outcome:
        """Record and print how the run ended, then leave the process group: launchers end all ranks once one has ended."""
        if self.is_main:
            self._refuse_if_lost(look=True)
            sync_tree(self.folder)  # what the outcome promises is on the disk before it is
            write_outcome(self.folder, outcome)
            print(outcome.message, flush=True)
        engine.stop()
        return outcome
