"""Commands that are killed: shard building, evaluation, reports."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from injection import ERRORS, at_change, die, fail_with
from kills import struck
from material import Way, evaluation_words
from processes import alive_descendants, kill
from trial import Trial, scenario
from verdict import Fault, contents, scores_of


def _kill_at_change_and_repeat(trial: Trial, words: list[str], changes: int, check: Callable[[], None]) -> str:
    """Kill a command at one of its changes of files, twice in one trial of three; then let it end."""
    hurt = 0
    for _ in range(trial.rng.choice([1, 1, 2])):
        number = trial.rng.randint(1, changes)
        start = trial.start_command(words, lambda _: at_change(trial.place, number, die, trial.folder / "struck"))  # noqa: B023
        status = trial.wait(start)
        hurt += status == -9
        trial.wait_until_gone(start)
    struck(trial)
    again = trial.start_command(words)
    if status := trial.wait(again):
        raise Fault(f"repeated, it ended with status {status}: {again.output.strip()[-400:]}")
    trial.wait_until_gone(again)
    check()
    trial.check_nothing_left()
    return "equal" if hurt else "missed"


@scenario("killed command", share=3)
def kill_a_build_at_a_change(trial: Trial) -> str:
    out = trial.place / "shards"
    words = ["build", str(trial.material.recipe), "--out", str(out), "--workers", "1"]
    return _kill_at_change_and_repeat(trial, words, 140, lambda: _check_equal(out, trial.material.shards))


@scenario("killed command", share=2)
def kill_a_build_with_workers(trial: Trial) -> str:
    """Kill a build's first process, or one of its workers, at a random moment."""
    out = trial.place / "shards"
    words = ["build", str(trial.material.recipe), "--out", str(out), "--workers", "2"]
    trial.details["target"] = target = trial.rng.choice(["builder", "worker"])
    start = trial.start_command(words)
    time.sleep(trial.rng.uniform(0, 1.0))
    workers = [process.pid for process in alive_descendants() if process.pid != start.pid]
    victims = workers[:1] if target == "worker" else [start.pid]
    kill(*victims)
    hurt = time.monotonic()
    status = trial.wait(start)
    trial.wait_until_gone(start, since=hurt)
    if target == "worker" and status:
        trial.check_refused(start, status)
    again = trial.start_command(words)
    if status := trial.wait(again):
        raise Fault(f"repeated, it ended with status {status}: {again.output.strip()[-400:]}")
    _check_equal(out, trial.material.shards)
    trial.check_nothing_left()
    return "equal" if victims else "missed"


@scenario("killed command", share=2)
def kill_an_evaluation_at_a_change(trial: Trial) -> str:
    out = trial.place / "scores"
    reference = trial.material.outputs()
    words = evaluation_words(trial.material, trial.material.reference(Way()) / "run/model", out)
    changes = sum("scores" in line for line in trial.material.changes(reference))

    def check() -> None:
        if scores_of(out) != scores_of(reference / "scores"):
            raise Fault("other scores than the undisturbed evaluation's")

    return _kill_at_change_and_repeat(trial, words, changes, check)


@scenario("killed command")
def kill_a_report_at_a_change(trial: Trial) -> str:
    shutil.copytree(trial.material.reference(Way()) / "run", trial.run)

    def check() -> None:
        if not (trial.run / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>"):
            raise Fault("report.html is not complete")
        trial.check_done(Way())

    return _kill_at_change_and_repeat(trial, ["report", str(trial.run)], 2, check)


@scenario("failing disk", share=2)
def command_whose_write_fails(trial: Trial) -> str:
    """Let a change of a file fail while shards are built, a model is evaluated or a report is written; then repeat it."""
    shutil.copytree(trial.material.reference(Way()) / "run", trial.run)
    shards, scores = trial.place / "shards", trial.place / "scores"
    words = {
        "build": ["build", str(trial.material.recipe), "--out", str(shards), "--workers", "1"],
        "evaluate": evaluation_words(trial.material, trial.run / "model", scores),
        "report": ["report", str(trial.run)],
    }
    changes = {"build": 140, "evaluate": 8, "report": 2}
    name, error = trial.rng.choice(list(words)), trial.rng.choice(ERRORS)
    number, for_ever = trial.rng.randint(1, changes[name]), trial.rng.random() < 0.5
    trial.details |= {"command": name, "change": number, "error": os.strerror(error), "for ever": for_ever}
    act, report = fail_with(error), trial.folder / "struck"
    start = trial.start_command(words[name], lambda _: at_change(trial.place, number, act, report, for_ever=for_ever))
    status = trial.wait(start)
    trial.wait_until_gone(start)
    if status:
        trial.check_refused(start, status)
    again = trial.start_command(words[name])
    if status := trial.wait(again):
        raise Fault(f"repeated, it ended with status {status}: {again.output.strip()[-400:]}")
    if name == "build":
        _check_equal(shards, trial.material.shards)
    if name == "evaluate" and scores_of(scores) != scores_of(trial.material.outputs() / "scores"):
        raise Fault("other scores than the undisturbed evaluation's")
    trial.check_nothing_left()
    return "equal" if struck(trial) else "missed"


def _check_equal(out: Path, reference: Path) -> None:
    mine, theirs = contents(out), contents(reference)
    if different := sorted(dict(mine.items() ^ theirs.items())):
        raise Fault(f"other files than the undisturbed build's: {', '.join(different[:3])}")
