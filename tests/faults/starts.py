"""Starts that meet others: orphans of an earlier start, other starts of the same run, ranks that were started differently."""

import re
import shutil
import sys
import time

from kills import at_random
from material import Way
from processes import Start, free_port, kill
from trial import Trial, scenario
from verdict import Fault, check_refusal

BUSY = "being worked on|taken over|is gone|other start|another start"
"""What a start may say that meets the remains of another."""


@scenario("starts that meet others", share=2)
def start_again_at_once(trial: Trial) -> str:
    """Kill the launcher, and start again at once until it works: ranks that live on must not join or write."""
    return _start_again(trial, port=0)


@scenario("starts that meet others", share=3)
def start_again_at_the_same_port(trial: Trial) -> str:
    return _start_again(trial, port=free_port())


def _start_again(trial: Trial, port: int) -> str:
    way = Way(2)
    trial.details["way"] = way.name
    start = trial.start(way, port=port)
    if trial.rng.random() < 0.6:
        trial.details["delay"] = delay = round(trial.rng.uniform(0, 2.5), 3)
        began = time.monotonic()
        trial.wait_for(lambda: time.monotonic() - began > delay, start)
        hurt = None if start.pid in start.statuses else time.monotonic()
        kill(start.pid)
    else:
        hurt = at_random(trial, way, start, "launcher")
    refusals, deadline = 0, time.monotonic() + 90
    while time.monotonic() < deadline:
        again = trial.start(way, port=port)
        status = trial.wait(again)
        if status == 0:
            break
        if not re.search("Address already in use|EADDRINUSE", again.output):  # said by torch, of the port
            check_refusal(status, again.output, named=BUSY)
        refusals += 1
        time.sleep(0.5)
    trial.details["refusals"] = refusals
    trial.wait_until_gone(again, since=hurt)
    trial.check_done(way)
    return "equal" if hurt else "missed"


@scenario("starts that meet others", share=2)
def three_starts_at_once(trial: Trial) -> str:
    """Start a run whose owner was killed three times at once: one trains, the others are refused."""
    shutil.copytree(trial.material.midway(), trial.run)
    starts = [_start_after(trial, trial.rng.uniform(0, 0.3)) for _ in range(3)]
    statuses = [_wait(trial, start, starts) for start in starts]
    trial.details["statuses"] = statuses
    for start, status in zip(starts, statuses, strict=True):
        if status:
            check_refusal(status, start.output, named=BUSY)
    trained = [start for start in starts if "resuming after step" in start.output]
    if len(trained) != 1:
        raise Fault(f"{len(trained)} of three starts trained, expected one")
    trial.wait_until_gone(starts[0])
    return trial.check_done(Way())


def _start_after(trial: Trial, seconds: float) -> Start:
    return trial.start(Way(), prepare=lambda _: time.sleep(seconds))


def _wait(trial: Trial, start: Start, starts: list[Start]) -> int:
    """Wait for one of several starts; whichever of them collects a status, all know it."""
    for other in starts:
        start.statuses.update(other.statuses)
    status = trial.wait(start)
    for other in starts:
        other.statuses.update(start.statuses)
    return status


@scenario("starts that meet others", share=2)
def ranks_that_differ(trial: Trial) -> str:
    """Start one rank with another value of a key, as a node with another copy of a file would: refused, with the key."""
    key, value = trial.rng.choice([("optimizer.lr", "2e-3"), ("seed", "4"), ("batch.size", "18"), ("steps", "13")])
    way = trial.rng.choice([Way(2), Way(2, 2)])
    trial.details |= {"way": way.name, "key": key}

    def prepare(rank: int) -> None:
        if rank == 1:
            sys.argv.append(f"{key}={value}")

    start = trial.start(way, prepare=prepare)
    status = trial.wait(start)
    trial.wait_until_gone(start)
    if status == 0:
        raise Fault(f"ranks with different {key} trained to the end")
    trial.check_refused(start, status, named=re.escape(key))
    return trial.finish(way)
