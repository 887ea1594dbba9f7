"""Small real shard folders, as fixtures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from shard_sources import Rows, parallel, row
from two_layouts import build_parallel, with_holes

from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A shard folder that no test changes: en, de and ar, 25 parallel rows each, in shards of 10."""
    folder = tmp_path_factory.mktemp("shipped")
    rows = {language: [row(n, language) for n in range(25)] for language in ("en", "de", "ar")}
    return build(parallel(folder, rows, shard_rows=10), folder / "built", workers=1)


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., Manifest]:
    """Return a function that builds a parallel dataset from rows; a test may change the folder."""

    def make(rows: Mapping[str, Rows] | None = None, **keys: Any) -> Manifest:
        rows = rows or {language: [row(n, language) for n in range(12)] for language in ("en", "de")}
        return build(parallel(tmp_path / "source", rows, **keys), tmp_path / "built", workers=1)

    return make


@pytest.fixture(scope="session")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A shard folder in the parallel layout that no test changes: three languages with missing rows, in shards of 8."""
    return build_parallel(tmp_path_factory.mktemp("viewed"), with_holes(), shard_rows=8, pairs_per_group=15)
