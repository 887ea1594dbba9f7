"""Mutation testing of the core: `make mutants`, or `python tests/mutation/run.py [--sample N] [--again] [PATTERN …]`.

mutmut makes the mutants and keeps the results (`mutmut results`, `mutmut show NAME`); `[tool.mutmut]` in pyproject.toml says of
which modules, and which tests are tried. Its own runner starts pytest anew for each mutant, runs tests with several ranks in
processes that import torch anew, and does not see what these ranks call. So the tests are run here: they are collected once,
and each mutant is a fork of that process, which runs the tests that call the mutant's function, the narrowest and shortest
first, until one fails. A mutant costs a tenth of a second.
"""

import argparse
import hashlib
import math
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants, setup_source_paths
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import walk_mutatable_files

KILLED, SURVIVED, NO_TESTS, TIMEOUT = 1, 0, 33, 36
"""Results, as mutmut writes them."""
CPU_S, WALL_S = 20, 120
"""Seconds a mutant may take beyond five times what its tests take."""
SLOW_FIXTURE_S = 0.3
"""Time of a fixture from which its tests come last, module by module."""
MOST_S = 8
"""Seconds of tests, as measured without a mutant, after which a mutant counts as survived until `--again` tries all."""

Item = pytest.Function


class Mutants:
    """Plugin of pytest that tests mutants instead of running the collected tests."""

    def __init__(self, root: Path, chosen: Callable[[str, int | None], bool], sample: int, most_s: float) -> None:
        self.root, self.chosen, self.sample, self.most_s = root, chosen, sample, most_s
        self.called: dict[str, set[str]] = defaultdict(set)
        """Functions that each test called, by its node."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.fixture_called: dict[str, set[str]] = defaultdict(set)
        self.fixture_seconds: dict[str, float] = defaultdict(float)
        self.failed: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure the tests of new and changed files, then test each mutant."""
        start, items = time.perf_counter(), session.items
        measured = self.root / "mutants" / "measured.pickle"
        known: dict[str, Any] = pickle.loads(measured.read_bytes()) if measured.is_file() else {}
        digests = {
            file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in {file_of(item) for item in items}
        }
        new = [item for item in items if known.get(file_of(item), {}).get("digest") != digests[file_of(item)]]
        if new:
            called, seconds, fixtures, failed = in_fork(lambda: self._measure(new))
            for name in failed:  # it would fail with any mutant
                print(f"left out, because it fails without a mutant: {name}", flush=True)
                called[name] = set()
            for file in {file_of(item) for item in new}:
                own = [item.nodeid for item in new if file_of(item) == file]
                known[file] = {
                    "digest": digests[file],
                    "called": {name: called[name] for name in own},
                    "seconds": {name: seconds[name] for name in own},
                    "fixtures": fixtures,
                }
            measured.write_bytes(pickle.dumps(known))
        for file in digests:
            self.called |= known[file]["called"]
            self.seconds |= known[file]["seconds"]
            self.fixture_seconds = defaultdict(float, known[file]["fixtures"] | self.fixture_seconds)
        print(f"{len(new)} of {len(items)} tests measured in {time.perf_counter() - start:.0f} s", flush=True)
        for path in sorted(walk_mutatable_files_of(self.root)):
            self._test_module(path, items)
        return True

    def _measure(self, items: list[Item]) -> tuple[Any, ...]:
        set_mutant_under_test("stats")
        for item, following in pairwise([*items, None]):
            start = time.perf_counter()
            self.failed += [item.nodeid] * (not passes(item, following))
            self.seconds[item.nodeid] = time.perf_counter() - start
            self.called[item.nodeid] |= state()._stats.union(*(self.fixture_called[name] for name in item.fixturenames))
            state()._stats.clear()
        return self.called, self.seconds, self.fixture_seconds, self.failed

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Remember what a fixture called and how long it took: it is made for one test and used by many."""
        before, start, name = set(state()._stats), time.perf_counter(), fixturedef.argname
        state()._stats.clear()
        try:
            return (yield)
        finally:
            self.fixture_called[name] |= state()._stats
            self.fixture_seconds[name] = max(self.fixture_seconds[name], time.perf_counter() - start)
            state()._stats |= before

    def _test_module(self, path: Path, items: list[Item]) -> None:
        os.chdir(self.root)
        data = SourceFileMutationData(path=path.relative_to(self.root))
        data.load()
        names = [name for name, result in data.exit_code_by_key.items() if self.chosen(name, result)]
        if self.sample:
            known = random.Random(str(data.path)).sample(sorted(data.exit_code_by_key), len(data.exit_code_by_key))
            names = [name for name in known[: self.sample] if name in names]
        for number, name in enumerate(names):
            data.exit_code_by_key[name] = self._test(name, items)
            if number % 20 == 0 or number + 1 == len(names):
                with_cwd(self.root, data.save)
        found = Counter(data.exit_code_by_key.values())
        killed, survived = found[KILLED] + found[TIMEOUT], found[SURVIVED] + found[NO_TESTS]
        print(
            f"{data.path}: {len(data.exit_code_by_key)} mutants, {killed + survived} tested,"
            f" {killed} killed ({killed / max(1, killed + survived):.1%})",
            flush=True,
        )

    def _test(self, name: str, items: list[Item]) -> int:
        """Return the result of a mutant."""
        function = name.rpartition("__mutmut_")[0]
        tests = [item for item in items if function in self.called[item.nodeid]]
        if not tests:
            return NO_TESTS
        os.chdir(self.root / "mutants")
        slow = {item: max((self.fixture_seconds[one] for one in item.fixturenames), default=0.0) for item in tests}
        module = name.split(".")[-2]

        def rank(item: Item) -> tuple[bool, bool, str, float]:
            """Tests of the module's own files first, and of these those without a slow fixture; slow fixtures file by file."""
            waits = slow[item] > SLOW_FIXTURE_S
            return module not in file_of(item), waits, file_of(item) if waits else "", self.seconds[item.nodeid]

        narrow: list[Item] = []
        for item in sorted(tests, key=rank):
            if sum(self.seconds[one.nodeid] for one in narrow) < self.most_s or module in file_of(item):
                narrow.append(item)
        seconds = sum(self.seconds[item.nodeid] for item in narrow)
        return run_mutant(name, narrow, cpu_s=round(CPU_S + 5 * seconds), wall_s=round(WALL_S + 5 * seconds))


def file_of(item: Item) -> str:
    """Return the file of a test."""
    return item.nodeid.partition("::")[0]


def walk_mutatable_files_of(root: Path) -> list[Path]:
    """Return the modules whose mutants are tested."""
    os.chdir(root)
    return [root / path for path in walk_mutatable_files()]


def with_cwd(folder: Path, action: Callable[[], object]) -> None:
    """Call `action` in a folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        action()
    finally:
        os.chdir(before)


def passes(item: Item, following: Item | None) -> bool:
    """Run one test, and tear down what the following one does not use."""
    from _pytest.runner import runtestprotocol

    return not any(report.failed for report in runtestprotocol(item, nextitem=following, log=False))


def in_fork(action: Callable[[], Any]) -> Any:
    """Return what `action` returns in a fork of this process."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer")
        if (child := os.fork()) == 0:
            try:
                answer.write_bytes(pickle.dumps(action()))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0, "the tests could not be run"
        return pickle.loads(answer.read_bytes())


def run_mutant(name: str, tests: list[Item], *, cpu_s: int, wall_s: int) -> int:
    """Return whether one of these tests fails with this mutant, or all of them take too long."""
    if (child := os.fork()) == 0:
        os.setsid()  # ranks of a test that is over end with it
        signal.alarm(wall_s)
        resource.setrlimit(resource.RLIMIT_CPU, (round(time.process_time()) + cpu_s, resource.RLIM_INFINITY))
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        set_mutant_under_test(name)
        try:
            killed = any(not passes(item, following) for item, following in pairwise([*tests, None]))
        except BaseException:
            killed = True
        os._exit(KILLED if killed else SURVIVED)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return TIMEOUT if status in (-signal.SIGALRM, -signal.SIGXCPU) else KILLED if status else SURVIVED


def fork_ranks() -> None:
    """Make tests with several ranks fork them, and learn what these called."""
    import ranks
    from accelerate.state import AcceleratorState, GradientState

    plain_ranks, plain_rank = ranks.on_ranks, ranks._run_rank
    called = Path(tempfile.mkdtemp(), "called")

    def run_rank(rank: int, *rest: Any) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # of the process it was forked from
        GradientState._reset_state()
        plain_rank(rank, *rest)
        with called.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in state()._stats)

    def on_ranks(*arguments: Any) -> list[Any]:
        found = plain_ranks(*arguments)
        if called.exists():
            state()._stats.update(called.read_text(encoding="utf-8").split())
        called.unlink(missing_ok=True)
        return found

    ranks.START_METHOD, ranks.on_ranks, ranks._run_rank = "fork", on_ranks, run_rank


def main() -> int:
    """Make the mutants, test them, and print the numbers of each module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="*", default=["*"], help="names of mutants, such as 'hbdist.loss.*'")
    parser.add_argument(
        "--sample", type=int, default=0, metavar="N", help="only N of each module, always the same ones"
    )
    parser.add_argument("--again", action="store_true", help="also those that survived before, on all tests")
    arguments = parser.parse_args()

    def chosen(name: str, result: int | None) -> bool:
        again = result is None or (arguments.again and result not in (KILLED, TIMEOUT))
        return again and any(fnmatch(name, pattern) for pattern in arguments.pattern)

    root = Path.cwd()
    set_mutant_under_test("mutant_generation")
    shutil.rmtree("mutants/tests", ignore_errors=True)
    Path("mutants").mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    create_mutants(1)
    set_mutant_under_test("")
    os.chdir("mutants")
    sys.path[:0] = ["tests", "tests/support"]
    sys.path[:2] = [str(Path(path).absolute()) for path in sys.path[:2]]
    fork_ranks()
    mutants = Mutants(root, chosen, arguments.sample, math.inf if arguments.again else MOST_S)
    options = ["--rootdir=.", "--quiet", *config().pytest_add_cli_args, *config().pytest_add_cli_args_test_selection]
    return int(pytest.main(options, plugins=[mutants]))


if __name__ == "__main__":
    sys.exit(main())
