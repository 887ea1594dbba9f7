"""States of Slurm jobs, from squeue, scontrol or sacct, in this order; none of them has to be installed."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

State = Literal["pending", "running", "done", "failed", "interrupted", "cancelled", "gone"]
"""State of a job. interrupted: Slurm ended it (time limit, dead node) and did not put it back into the queue; gone: Slurm
answered, and does not know the job (any more)."""

TIMEOUT = 15.0
"""Seconds that each command may take; while the controller is down, they would wait for minutes."""

WORDS: dict[State, tuple[str, ...]] = {
    "pending": ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
    "done": ("COMPLETED",),
    "failed": ("FAILED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "LAUNCH_FAILED", "RECONFIG_FAIL"),
    "interrupted": ("TIMEOUT", "NODE_FAIL", "PREEMPTED"),
    "cancelled": ("CANCELLED", "REVOKED"),
}
"""Slurm's words for each state; a job with any other word runs, or is about to."""

_TOGETHER: ContextVar[list[dict[str, tuple[str, str]]] | None] = ContextVar("_TOGETHER", default=None)
"""Answer of squeue that `batched_squeue` shares, at most one: job → (Slurm's word for its state, the reason)."""


def own_job(environment: Mapping[str, str] = os.environ) -> str:
    """Return the job that this process runs in ("17", or "17_3" in an array); empty outside of Slurm."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID", "")


@contextmanager
def batched_squeue() -> Iterator[None]:
    """Ask squeue once for all of the user's jobs while inside; `state_of` then asks only for jobs that it did not list.

    Otherwise the status of a study with hundreds of jobs would burden the cluster's controller.
    """
    outer = _TOGETHER.get()
    token = _TOGETHER.set([] if outer is None else outer)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def state_of(job: str) -> State | None:
    """Return the state of a job; None if no command of Slurm answers."""
    word = _listed().get(job, ("", ""))[0] or _word(job)
    if not word:
        return None if word is None else "gone"
    return next((state for state, words in WORDS.items() if word in words), "running")


def reason_of(job: str) -> str:
    """Return why a job waits, in Slurm's own word (Priority, Resources, Dependency …).

    Empty if it does not wait, or if squeue gives no reason. Known only within `batched_squeue`.
    """
    word, reason = _listed().get(job, ("", ""))
    return reason if word in WORDS["pending"] and reason != "None" else ""


def may_requeue(job: str) -> bool:
    """Check that a job still runs, as far as can be known. A requeue would bring a cancelled job, which is ending, back."""
    return _word(job) in (None, "RUNNING")


def _listed() -> dict[str, tuple[str, str]]:
    """Return job → (Slurm's word for its state, the reason) within `batched_squeue`; else nothing."""
    shared = _TOGETHER.get()
    if shared is None:
        return {}
    if not shared:
        command = ("squeue", "--noheader", "--array", "--states=all", "--format=%i %T %r", f"--user={os.getuid()}")
        lines = re.findall(r"^(\S+) (\w+) (.*)$", _ask(*command) or "", re.MULTILINE)
        shared.append({job: (word, reason) for job, word, reason in lines})
    return shared[0]


def _word(job: str) -> str | None:
    """Return Slurm's own word for the state; empty if it does not know the job, None if no command answers."""
    commands = {
        ("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"): r"^(\w+)",
        ("scontrol", "--oneliner", "show", "job", job): r" JobState=(\w+)",
        ("sacct", "--noheader", "--parsable2", "-X", "--format=State", f"--jobs={job}"): r"^(\w+)",
    }
    answers = []
    for command, pattern in commands.items():
        answers.append(_ask(*command))
        if match := re.search(pattern, answers[-1] or ""):
            return match[1]
    return None if all(answer is None for answer in answers) else ""


def _ask(*command: str) -> str | None:
    """Return what a command prints; empty if it knows no such job, None if it cannot be asked."""
    own_settings = ("SQUEUE_", "SACCT_", "SCONTROL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own_settings)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return "" if "Invalid job id" in done.stderr else None
    return done.stdout.strip()
