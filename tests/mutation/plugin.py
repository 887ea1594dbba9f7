"""Plugin of pytest for `make mutants`: what each test calls and how long it takes, ranks and shared fixtures included.

mutmut runs only the tests that called a mutant's function, the shortest first. By itself it sees neither calls in the processes
of other ranks nor, for any test but the first, those of a fixture that several tests share; mutants that such tests kill would
seem to survive. Ranks are forked rather than spawned: torch is imported already, so that they start in milliseconds.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState
from mutmut.state import state

_called: dict[str, set[str]] = defaultdict(set)
"""Functions that each fixture called, by its name."""
_seconds: dict[str, float] = defaultdict(float)
"""Time that each fixture took, divided among the tests that use it."""


def pytest_configure() -> None:
    """Fork ranks, and learn what they called, before any test module imports `on_ranks`."""
    import ranks

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


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Remember what a fixture called, and its time."""
    before, start, name = set(state()._stats), time.perf_counter(), fixturedef.argname
    state()._stats.clear()
    try:
        return (yield)
    finally:
        users = sum(name in getattr(item, "fixturenames", ()) for item in request.session.items)
        _called[name] |= state()._stats
        _seconds[name] = max(_seconds[name], (time.perf_counter() - start) / users)
        state()._stats |= before


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: Any) -> None:
    """Count the calls and the time of a test's fixtures as its own."""
    for name in item.fixturenames:
        state()._stats |= _called[name]
        if item.nodeid in state().duration_by_test:
            state().duration_by_test[item.nodeid] += _seconds[name]
