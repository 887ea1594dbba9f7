"""One trial of the campaign: a scenario with its own folder and its own random numbers, and what it may do."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from material import PATIENCE_S, Material, Way, variables
from processes import Prepare, Start, alive_descendants, kill, start_command, start_run, start_truly
from verdict import Fault, check_refusal, check_the_same, left_behind

GONE_WITHIN_S = 60.0
"""Seconds after a fault within which all processes of a start must be gone."""


@dataclass
class Trial:
    """One trial, run in a process of its own, which every process that it starts belongs to."""

    name: str
    folder: Path
    material: Material
    rng: random.Random
    details: dict[str, Any] = field(default_factory=dict)
    gone_s: float = 0.0
    """Most seconds from a fault until all processes were gone."""
    pids: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        self.variables = variables(self.folder)

    @property
    def place(self) -> Path:
        """Folder of the run and of everything else that commands write."""
        return self.folder / "place"

    @property
    def run(self) -> Path:
        return self.place / "run"

    def start(
        self,
        way: Way,
        *overrides: str,
        prepare: Prepare | None = None,
        truly: bool = False,
        launch: str = "two",
        port: int = 0,
    ) -> Start:
        """Start the run, by the campaign's own launcher or truly by `accelerate launch`."""
        of_way = [] if truly and launch != "two" else way.overrides
        arguments = [str(self.material.config), *of_way, *overrides, f"run.folder={self.run}"]
        if truly:
            start = start_truly(
                self.folder / "starts", arguments, ranks=way.ranks, variables=self.variables, launch=launch
            )
        else:
            start = start_run(
                self.folder / "starts",
                arguments,
                ranks=way.ranks,
                variables=self.variables,
                prepare=prepare,
                port=port,
            )
        start.run_folder = self.run
        return start

    def start_command(self, words: Sequence[str], prepare: Prepare | None = None) -> Start:
        """Start another command of hbdist."""
        return start_command(self.folder / "starts", words, variables=self.variables, prepare=prepare)

    def wait(self, start: Start) -> int:
        """Wait until a start's launcher has ended, and return its exit status."""
        status = start.wait(PATIENCE_S)
        if status is None:
            raise Fault(
                f"hangs: {_names(alive_descendants())} after {PATIENCE_S:.0f} s: {start.output.strip()[-300:]!r}"
            )
        return status

    def wait_until_gone(self, start: Start, *, since: float | None = None, within: float = GONE_WITHIN_S) -> float:
        """Wait until no process of the start is left, and return the seconds since the fault (by default: now)."""
        hurt = time.monotonic() if since is None else since
        if start.wait_until_gone(within + hurt - time.monotonic()) is None:
            left = alive_descendants()
            names = _names(left)
            kill(*(process.pid for process in left))
            raise Fault(f"{names} still there {within:.0f} s after the fault: {start.output.strip()[-300:]!r}")
        self.gone_s = max(self.gone_s, time.monotonic() - hurt)
        return time.monotonic() - hurt

    def finish(self, way: Way, *overrides: str, of: Sequence[str] = (), exact: bool = True) -> str:
        """Start the run again, undisturbed, and check that it ends as the reference did; return "equal" or "close".

        Args:
            overrides: of this start.
            of: overrides of the reference.
            exact: expect the same bits as the reference of this way; else the numbers of one process.
        """
        start = self.start(way, *of, *overrides)
        if status := self.wait(start):
            raise Fault(f"the restart ended with status {status}: {_last_words(start)}")
        self.wait_until_gone(start)
        return self.check_done(way, of=of, exact=exact)

    def check_done(self, way: Way, *, of: Sequence[str] = (), exact: bool = True) -> str:
        """Check that the run is done as the reference was, and that it has left nothing; return "equal" or "close"."""
        reference = self.material.reference(way if exact else Way(), *of)
        differs = check_the_same(self.run, reference / "run", exact=exact)
        self.check_nothing_left()
        if not exact:
            self.details["differs"] = float(f"{differs:.2g}")
        return "equal" if exact else "close"

    def check_nothing_left(self) -> None:
        """Check that no temporary file, lock or process is left."""
        if processes := alive_descendants():
            raise Fault(f"left running: {_names(processes)}")
        if left := left_behind(self.place, self.pids):
            self.details["left"] = [str(path).removeprefix(f"{self.folder}/") for path in left]
            raise Fault(f"left behind: {', '.join(self.details['left'][:4])}")

    def check_refused(self, start: Start, status: int, *, named: str = "") -> str:
        """Check that a start was refused with a sentence, and note it; return "refused"."""
        self.details["sentence"] = check_refusal(status, start.output, named=named)[:400]
        return "refused"

    def wait_for(self, condition: Callable[[], object], start: Start) -> bool:
        """Wait until a condition holds; False if the start ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            start.reap()
            if start.pid in start.statuses:
                return False
            if time.monotonic() > deadline:
                raise Fault(f"hangs before it was hurt: {start.output.strip()[-300:]!r}")
            time.sleep(0.001)
        return True

    def steps_done(self) -> int:
        """Return the number of lines in metrics.jsonl."""
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0


def _names(processes: Sequence[Any]) -> str:
    names = []
    for process in processes:
        try:
            names.append(f"{process.pid} ({process.status()})")
        except Exception:  # it has just ended
            continue
    return f"{len(names)} processes {', '.join(names)}"


def _last_words(start: Start) -> str:
    lines = [line for line in start.output.strip().split("\n") if line.strip()]
    sentences = [line for line in lines if line.startswith("hbdist")]
    return " / ".join(sentences[:2] or lines[-2:])[:500]


@dataclass(frozen=True)
class Scenario:
    """One kind of fault: what is done, how often in a round of trials, whether it is in the short form."""

    name: str
    family: str
    act: Callable[[Trial], str]
    """Function that hurts and checks, and returns "equal", "close", "refused" or "missed"; it raises Fault."""
    share: int = 1
    short: bool = False


SCENARIOS: dict[str, Scenario] = {}
"""All scenarios, by name."""


def scenario(family: str, *, share: int = 1, short: bool = False) -> Callable[[Callable[[Trial], str]], Any]:
    """Register a function as a scenario under its name; `share` says how many trials of a round are of it."""

    def register(act: Callable[[Trial], str]) -> Callable[[Trial], str]:
        name = act.__name__.replace("_", " ")
        SCENARIOS[name] = Scenario(name, family, act, share, short)
        return act

    return register


class Skipped(Exception):  # noqa: N818 — not an error
    """What this machine cannot do, such as mounting a file system."""
