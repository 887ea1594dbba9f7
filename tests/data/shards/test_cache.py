"""The cache of remote shards: bounded, complete, and shared by processes, whichever of them is killed."""

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import ROOT
from reads_remotely import all_of, digest
from stores import Store, serving

from hbdist.data.shards.cache import STALE, Cache, open_file
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import ShardReader
from hbdist.data.shards.remote import Remote
from hbdist.errors import DataError

READER = ROOT / "tests/support/reads_remotely.py"
KB = 1000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Files a, b, c … of a KB each."""
    (tmp_path / "store").mkdir()
    for name in "abcdef":
        (tmp_path / "store" / name).write_bytes(name.encode() * KB)
    with serving(tmp_path / "store") as store:
        yield store


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", limit=3 * KB)


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode() * KB).hexdigest()


def open_cached(cache: Cache, store: Store, name: str) -> int:
    return cache.open(Remote(store.url) / name, sha256(name), size=KB)


def content(file: int) -> bytes:
    with open(file, "rb") as stream:
        return stream.read()


def cached_names(cache: Cache) -> str:
    """Return the names of the files in the cache."""
    return "".join(name for name in "abcdef" if (cache.folder / sha256(name)).exists())


def test_the_least_recently_used_are_evicted_first(cache: Cache, store: Store) -> None:
    for name in "abcabd":
        assert content(open_cached(cache, store, name)) == name.encode() * KB
    assert cached_names(cache) == "abd"
    assert sum(store.requests.values()) == 4


def test_an_evicted_file_stays_readable_while_it_is_open(cache: Cache, store: Store) -> None:
    first = open_cached(cache, store, "a")
    for name in "bcd":
        os.close(open_cached(cache, store, name))
    assert cached_names(cache) == "bcd"
    assert content(first) == b"a" * KB


def test_other_folders_in_the_cache_of_the_machine_are_left_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HBDIST_CACHE", str(tmp_path))
    other = tmp_path / "embeddings" / "part"
    other.parent.mkdir()
    other.write_bytes(b"embeddings" * KB)
    os.utime(other.parent, (0, 0))
    cache = Cache.of_machine(3 * KB / 1e9)
    for name in "abcd":
        os.close(open_cached(cache, store, name))
    assert cached_names(cache) == "bcd"
    assert other.is_file()


def test_a_file_larger_than_the_cache_is_still_served(tmp_path: Path, store: Store) -> None:
    cache = Cache(tmp_path / "cache", limit=KB - 1)
    assert content(open_cached(cache, store, "a")) == b"a" * KB
    assert cached_names(cache) == ""


def test_content_with_another_digest_is_not_cached(cache: Cache, store: Store) -> None:
    with pytest.raises(DataError, match="has changed"):
        cache.open(Remote(store.url) / "b", sha256("a"), size=KB)
    assert [path.name for path in cache.folder.iterdir() if not path.name.startswith("lock-")] == []


def test_a_truncated_copy_is_downloaded_again(cache: Cache, store: Store) -> None:
    os.close(open_cached(cache, store, "a"))
    os.truncate(cache.folder / sha256("a"), 7)
    assert content(open_cached(cache, store, "a")) == b"a" * KB
    assert store.requests["a"] == 2


@pytest.mark.parametrize("name", ["../store/a", "/etc/passwd", "A" * 64, ""])
def test_an_invalid_digest_opens_nothing(cache: Cache, store: Store, name: str) -> None:
    with pytest.raises(DataError, match="expected 64 digits"):
        cache.open(Remote(store.url) / "a", name)
    assert not store.requests


def test_leftovers_are_removed_and_files_being_written_are_not(cache: Cache, store: Store) -> None:
    cache.folder.mkdir()
    old, young = (cache.folder / f"{sha256('f')}.{which}.partial" for which in ("old", "young"))
    for path in (old, young):
        path.write_bytes(bytes(3 * KB))
    os.utime(old, times=(0, time.time() - 2 * STALE))
    for name in "abc":
        os.close(open_cached(cache, store, name))
    assert not old.exists()
    assert young.exists()
    assert cached_names(cache) == "abc"


def test_local_files_are_opened_in_place(cache: Cache, store: Store) -> None:
    assert content(open_file(store.folder, "a", "not compared", cache=cache)) == b"a" * KB
    assert not cache.folder.exists()


@pytest.fixture(scope="module")
def shard_store(shipped: Manifest) -> Iterator[Store]:
    with serving(shipped.root) as store:
        yield store


@pytest.fixture
def expected(shipped: Manifest) -> str:
    return digest(ShardReader(shipped).read(*all_of(shipped)))


def start_reader(store: Store, folder: Path, *, seed: int, limit: float, times: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "HBDIST_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(READER), store.url, str(seed), str(limit / 1e9), str(times)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_processes_share_a_cache_smaller_than_the_shards(
    shard_store: Store, tmp_path: Path, expected: str, shipped: Manifest
) -> None:
    shard_store.requests.clear()
    sizes = [path.stat().st_size for path in shipped.root.rglob("*.tar")]
    limit = sum(sizes) // 5
    processes = [start_reader(shard_store, tmp_path, seed=seed, limit=limit) for seed in range(3)]
    assert [process.communicate(timeout=120)[0].split()[1:] for process in processes] == [[expected]] * 3
    files = [path for path in (tmp_path / "shards").iterdir() if not path.name.startswith("lock-")]
    assert sum(path.stat().st_size for path in files) <= limit
    assert max(shard_store.requests[path] for path in shard_store.requests if path.endswith(".tar")) > 3, (
        "nothing was evicted"
    )


def test_of_several_processes_one_downloads_and_the_others_wait(
    shard_store: Store, tmp_path: Path, expected: str
) -> None:
    shard_store.requests.clear()
    processes = [start_reader(shard_store, tmp_path, seed=seed, limit=1e9) for seed in range(2)]
    assert [process.communicate(timeout=120)[0].split()[1:] for process in processes] == [[expected]] * 2
    del shard_store.requests["manifest.json"]
    assert set(shard_store.requests.values()) == {1}


def test_a_reader_killed_at_any_moment_leaves_a_cache_that_the_next_can_use(
    shard_store: Store, tmp_path: Path, expected: str, shipped: Manifest
) -> None:
    moments = random.Random(0)
    limit = 100 * KB  # for 27 shards of 20 KB: a reader is always downloading
    for seed in range(2):
        process = start_reader(shard_store, tmp_path, seed=seed, limit=limit, times=1000)
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=60)
    for path in (tmp_path / "shards").iterdir():
        if not path.name.startswith("lock-") and not path.name.endswith(".partial"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert start_reader(shard_store, tmp_path, seed=9, limit=limit).communicate(timeout=120)[0].split()[1:] == [
        expected
    ]
