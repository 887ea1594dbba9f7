"""What Slurm says of a job, asked of squeue, scontrol and sacct in this order; none of them has to be there."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

State = Literal["pending", "running", "done", "failed", "interrupted", "cancelled", "gone"]
"""Of a job. interrupted: Slurm ended it (time limit, a dead node) and did not put it back into the queue; gone: Slurm was
asked and does not know it (any more)."""

TIMEOUT = 15.0
"""Seconds for each question: where the controller is down, its clients wait for minutes."""

WORDS: dict[State, tuple[str, ...]] = {
    "pending": ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
    "done": ("COMPLETED",),
    "failed": ("FAILED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "LAUNCH_FAILED", "RECONFIG_FAIL"),
    "interrupted": ("TIMEOUT", "NODE_FAIL", "PREEMPTED"),
    "cancelled": ("CANCELLED", "REVOKED"),
}
"""Slurm's words for states; all others are of jobs that run, or are about to."""

_TOGETHER: ContextVar[list[dict[str, tuple[str, str]]] | None] = ContextVar("_TOGETHER", default=None)
"""Within `asked_together`: nothing yet, or the word for each job that squeue listed, and the reason beside it."""


def own_job(environment: Mapping[str, str] = os.environ) -> str:
    """The job that this process runs in ("17", or "17_3" of an array); empty outside of Slurm."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID", "")


@contextmanager
def asked_together() -> Iterator[None]:
    """Within it squeue is asked once for all of the user's jobs; `state_of` asks singly only for those that it did not list.

    A look at a study of hundreds of jobs would burden a cluster's controller otherwise.
    """
    outer = _TOGETHER.get()
    token = _TOGETHER.set([] if outer is None else outer)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def state_of(job: str) -> State | None:
    """The state of a job; None where nobody can be asked."""
    word = _listed().get(job, ("", ""))[0] or _word(job)
    if not word:
        return None if word is None else "gone"
    return next((state for state, words in WORDS.items() if word in words), "running")


def reason_of(job: str) -> str:
    """Why a job waits, in Slurm's own word (Priority, Resources, Dependency …).

    Empty where it does not wait, or where squeue does not say. Known only within `asked_together`.
    """
    word, reason = _listed().get(job, ("", ""))
    return reason if word in WORDS["pending"] and reason != "None" else ""


def may_requeue(job: str) -> bool:
    """It runs on, as far as can be known. One that was cancelled is ending by now, and a requeue would bring it back."""
    return _word(job) in (None, "RUNNING")


def _listed() -> dict[str, tuple[str, str]]:
    """Job → Slurm's words for its state and the reason of it, where many are asked for together."""
    together = _TOGETHER.get()
    if together is None:
        return {}
    if not together:
        question = ("squeue", "--noheader", "--array", "--states=all", "--format=%i %T %r", f"--user={os.getuid()}")
        lines = re.findall(r"^(\S+) (\w+) (.*)$", _ask(*question) or "", re.MULTILINE)
        together.append({job: (word, reason) for job, word, reason in lines})
    return together[0]


def _word(job: str) -> str | None:
    """Slurm's own word for the state; empty where it does not know the job, None where nobody can be asked."""
    questions = {
        ("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"): r"^(\w+)",
        ("scontrol", "--oneliner", "show", "job", job): r" JobState=(\w+)",
        ("sacct", "--noheader", "--parsable2", "-X", "--format=State", f"--jobs={job}"): r"^(\w+)",
    }
    answers = []
    for question, pattern in questions.items():
        answers.append(_ask(*question))
        if found := re.search(pattern, answers[-1] or ""):
            return found[1]
    return None if all(answer is None for answer in answers) else ""


def _ask(*command: str) -> str | None:
    """What a command prints; empty where it knows of no such job, None where it cannot be asked."""
    own_settings = ("SQUEUE_", "SACCT_", "SCONTROL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own_settings)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return "" if "Invalid job id" in done.stderr else None
    return done.stdout.strip()
