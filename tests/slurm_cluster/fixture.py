"""Pytest fixture `slurm`: one emulated cluster per pytest session, for one test at a time. See README.md."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurm_cluster.cluster import Cluster, home
from slurm_cluster.daemons import FOREIGN, MissingError, require_packages


@pytest.fixture(scope="session")
def slurm_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    """Provide the cluster, and the folder of the locks by which the workers of a session share it."""
    try:
        require_packages()
    except MissingError as error:
        if os.environ.get("CI") or os.environ.get("HBDIST_REQUIRE_SLURM"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    shared = tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()
    pytest_itself = os.getppid() if parallel else os.getpid()
    users = shared / "slurm.users"
    with locked(shared / "slurm.users.lock"):
        folder, count = home(str(pytest_itself)), int(users.read_text()) if users.exists() else 0
        cluster = Cluster.of(folder) if count else Cluster.up(folder, owner=pytest_itself)
        users.write_text(str(count + 1))
    yield cluster, shared
    with locked(shared / "slurm.users.lock"):
        count = int(users.read_text()) - 1
        users.write_text(str(count))
        if not count:
            cluster.down()


@pytest.fixture
def slurm(slurm_session: tuple[Cluster, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Provide the cluster to this test alone, empty and with all nodes up; the environment points to it."""
    cluster, shared = slurm_session
    with locked(shared / "slurm.turn.lock"):
        for name in [name for name in os.environ if name.startswith(FOREIGN)]:
            monkeypatch.delenv(name)
        for name, value in cluster.environment().items():
            monkeypatch.setenv(name, value)
        yield cluster
        cluster.clear()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
