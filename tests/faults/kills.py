"""Killed processes: ranks, launchers, all; at exact changes of files and at random moments."""

import time

from injection import Act, at_change, die, die_with
from material import STEPS, Way
from processes import Prepare, Start, kill
from trial import Trial, scenario

TARGETS = ("rank 0", "another rank", "all ranks", "launcher", "launcher and ranks")


def kill_at(trial: Trial, number: int, act_of: str) -> Prepare:
    """Return what makes rank 0 die at a change of a file, alone or with all ranks."""
    starts = trial.folder / "starts"
    pids = starts / f"start-{len(list(starts.glob('start-*.log')))}.pids"
    act: Act = die_with(pids) if act_of == "all ranks" else die

    def prepare(rank: int) -> None:
        if rank == 0:
            at_change(trial.run, number, act, trial.folder / "struck")

    return prepare


def struck(trial: Trial) -> list[str]:
    """Return the changes at which faults struck so far."""
    path = trial.folder / "struck"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    trial.details["struck"] = lines
    return lines


def since_struck(trial: Trial) -> float | None:
    """Return the monotonic time at which a fault struck last, None if none did."""
    path = trial.folder / "struck"
    return time.monotonic() - (time.time() - path.stat().st_mtime) if struck(trial) else None


def at_a_change(trial: Trial, way: Way, number: int, target: str) -> str:
    """Kill at a change and then, in one trial of three, at a change of the restart; finish."""
    trial.details |= {"way": way.name, "change": number, "target": target}
    start = trial.start(way, prepare=kill_at(trial, number, target))
    trial.wait(start)
    trial.wait_until_gone(start, since=since_struck(trial))
    if trial.rng.random() < 0.33:
        again = trial.details["again at"] = trial.rng.randint(1, 60)
        start = trial.start(way, prepare=kill_at(trial, again, target))
        trial.wait(start)
        trial.wait_until_gone(start, since=since_struck(trial))
    return trial.finish(way) if struck(trial) else trial.check_done(way)


def _some_way(trial: Trial) -> Way:
    return trial.rng.choice([Way(), Way(2), Way(2), Way(2, 2)])


@scenario("kill at a change of a file", share=6)
def kill_at_any_change(trial: Trial) -> str:
    """Kill rank 0 or all ranks at any change of a file in the run's folder."""
    way = _some_way(trial)
    changes = trial.material.changes(trial.material.reference(way))
    target = trial.rng.choice(["rank 0", "all ranks"])
    return at_a_change(trial, way, trial.rng.randint(1, len(changes)), target)


@scenario("kill at a change of a file", share=3, short=True)
def kill_inside_a_checkpoint(trial: Trial) -> str:
    return _kill_inside(trial, "checkpoints/")


@scenario("kill at a change of a file", share=2)
def kill_inside_the_export(trial: Trial) -> str:
    return _kill_inside(trial, "model")


@scenario("kill at a change of a file", share=2)
def kill_inside_an_evaluation(trial: Trial) -> str:
    return _kill_inside(trial, "evaluation")


@scenario("kill at a change of a file", share=2)
def kill_at_the_end(trial: Trial) -> str:
    """Kill at one of the last changes: outcome.json, the lock."""
    way = _some_way(trial)
    changes = trial.material.changes(trial.material.reference(way))
    number = trial.rng.randint(len(changes) - 8, len(changes))
    return at_a_change(trial, way, number, trial.rng.choice(["rank 0", "all ranks"]))


def _kill_inside(trial: Trial, prefix: str) -> str:
    way = Way(2) if trial.name.startswith("short") else _some_way(trial)
    changes = trial.material.changes(trial.material.reference(way))
    inside = [n for n, line in enumerate(changes, 1) if line.split(" ", 1)[1].lstrip(".").startswith(prefix)]
    return at_a_change(trial, way, trial.rng.choice(inside), trial.rng.choice(["rank 0", "all ranks"]))


def pids_of(start: Start, target: str, rng_rank: int) -> list[int]:
    """Return the processes that a target names."""
    ranks = range(start.ranks)
    if target == "rank 0":
        return [start.pid_of(0)]
    if target == "another rank":
        return [start.pid_of(rng_rank)]
    if target == "launcher":
        return [start.pid]
    every = [start.pid_of(rank) for rank in ranks]
    return every if target == "all ranks" else [start.pid, *every]


def at_random(trial: Trial, way: Way, start: Start, target: str) -> float | None:
    """Kill the target early in the start or after some step; return when, None if the start had ended before."""
    step = trial.details["after step"] = trial.rng.choice([-1, 0, *range(1, STEPS + 1)])
    delay = trial.details["delay"] = round(trial.rng.uniform(0, 4.0 if step < 0 else 0.3), 3)
    began = time.monotonic()
    if step >= 0:
        ready = (lambda: (trial.run / "running.json").exists()) if step == 0 else (lambda: trial.steps_done() >= step)
        if not trial.wait_for(ready, start):
            return None
        began = time.monotonic()
    if not trial.wait_for(lambda: time.monotonic() - began >= delay, start):
        return None
    other = trial.rng.randrange(1, way.ranks) if way.ranks > 1 else 0
    try:
        pids = pids_of(start, target, other)
    except LookupError:
        return None
    kill(*pids)
    return time.monotonic()


def _random_kill(trial: Trial, way: Way, target: str, *, truly: bool = False, launch: str = "two") -> str:
    trial.details |= {"way": way.name, "target": target, "truly": truly}
    hurt = None
    for _ in range(trial.rng.choice([1, 1, 2])):
        start = trial.start(way, truly=truly, launch=launch)
        killed = at_random(trial, way, start, target)
        hurt = killed or hurt
        if killed is None:
            trial.wait(start)
        trial.wait_until_gone(start, since=killed)
    result = trial.finish(way)
    return result if hurt else "missed"


@scenario("kill at a random moment", share=6)
def kill_at_a_random_moment(trial: Trial) -> str:
    way = _some_way(trial)
    targets = TARGETS if way.ranks > 1 else ("rank 0",)
    return _random_kill(trial, way, trial.rng.choice(targets))


@scenario("kill at a random moment", share=3, short=True)
def kill_the_launcher(trial: Trial) -> str:
    return _random_kill(trial, trial.rng.choice([Way(2), Way(2), Way(2, 2)]), "launcher")


@scenario("kill at a random moment, true launcher", share=2)
def kill_under_accelerate(trial: Trial) -> str:
    way, launch = trial.rng.choice([(Way(2), "two"), (Way(2), "two"), (Way(2, 2), "zero2")])
    return _random_kill(trial, way, trial.rng.choice(TARGETS), truly=True, launch=launch)


@scenario("kill at a random moment", share=2)
def orphans_end(trial: Trial) -> str:
    """Kill the launcher, or a rank, of a run that would take hours: nothing of it lives on."""
    way = trial.rng.choice([Way(2), Way(2, 2)])
    target = trial.rng.choice(["launcher", "launcher", "another rank", "rank 0"])
    trial.details |= {"way": way.name, "target": target}
    start = trial.start(way, "steps=1000000", "validation.every=0", "evaluation.every=0", "validation.keep=last")
    hurt = at_random(trial, way, start, target)
    before = trial.steps_done()
    trial.wait_until_gone(start, since=hurt)
    trial.details["steps after"] = trial.steps_done() - before
    return "equal" if hurt else "missed"
