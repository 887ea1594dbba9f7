"""Ranks that stand still, and ranks that fail alone."""

import os
import shutil
import signal
import time

from material import STEPS, Way
from trial import Trial, scenario

TIMEOUT_S = 15
"""engine.timeout_s of these trials."""
LAUNCHER_S = 35
"""Seconds in which the launcher ends a process that does not react."""


@scenario("stopped rank", share=2)
def stopped_rank(trial: Trial) -> str:
    """Stop a rank before the first step or later: the others end and say which it was."""
    way, rank = Way(2), trial.rng.randrange(2)
    step = trial.rng.choice([-1, 0, 0, *range(1, STEPS)])
    delay = trial.rng.uniform(0, 2.5) if step < 0 else trial.rng.uniform(0, 0.1)
    trial.details |= {"way": way.name, "rank": rank, "after step": step, "delay": round(delay, 3)}
    start = trial.start(way, f"engine.timeout_s={TIMEOUT_S}")
    pid = start.pid_of(rank)
    if step >= 0:
        ready = (lambda: (trial.run / "running.json").exists()) if step == 0 else (lambda: trial.steps_done() >= step)
        if not trial.wait_for(ready, start):
            return "missed"
    time.sleep(delay)
    start.reap()
    if start.pid in start.statuses:
        return trial.check_done(way)
    os.kill(pid, signal.SIGSTOP)
    hurt = time.monotonic()
    status = trial.wait(start)
    trial.wait_until_gone(start, since=hurt, within=TIMEOUT_S + LAUNCHER_S + 10)
    if status == 0:
        return trial.check_done(way)
    trial.check_refused(start, status, named=f"rank {rank}")
    return trial.finish(way)


@scenario("rank that fails alone", share=2)
def rank_that_raises_in_the_loader(trial: Trial) -> str:
    """Lose the rows of a shard while two ranks train: the one that wants them says so, both end; repaired, it goes on."""
    way, shards = Way(2), trial.place / "shards"
    shutil.copytree(trial.material.shards, shards)
    workers = trial.rng.choice([0, 0, 1])
    tars = sorted(path for path in shards.rglob("*.tar") if "validation" not in path.parts)
    chosen = trial.rng.choice(tars)
    trial.details |= {"way": way.name, "shard": str(chosen.relative_to(shards)), "workers": workers}
    whole = chosen.read_bytes()
    overrides = [f"data.shards={shards}", f"data.workers={workers}"]
    start = trial.start(way, *overrides)
    if not trial.wait_for(lambda: (trial.run / "running.json").exists(), start):
        return "missed"
    chosen.write_bytes(bytes(len(whole)))
    hurt = time.monotonic()
    status = trial.wait(start)
    trial.wait_until_gone(start, since=hurt)
    if status == 0:
        chosen.write_bytes(whole)
        return trial.check_done(way)
    trial.check_refused(start, status, named=chosen.name)
    chosen.write_bytes(whole)
    return trial.finish(way, *overrides)
