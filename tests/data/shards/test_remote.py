"""Remote shards: the same rows as local ones despite transient faults, and a clear error for permanent ones."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reads_remotely import all_of
from stores import Store, serving

from hbdist.data.shards import remote
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.data.shards.remote import Remote, StoreError, locate
from hbdist.data.shards.verify import check
from hbdist.errors import ConfigError, DataError

FIRST = "p/ar-ar/000000.tar"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make errors come after fractions of a second."""
    for name, value in {"ATTEMPTS": 3, "FIRST_WAIT": 0.01, "TIMEOUT": 10.0}.items():
        monkeypatch.setattr(remote, name, value)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HBDIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def server(shipped: Manifest) -> Iterator[Store]:
    with serving(shipped.root) as store:
        yield store


@pytest.fixture
def store(server: Store, shipped: Manifest) -> Store:
    server.folder = shipped.root
    server.faults.clear()
    server.requests.clear()
    return server


def first_row(store: Store) -> Pair:
    return ShardReader(store.manifest()).read(np.array([0]), np.array([0]))[0]


@given(data=st.data())
@settings(max_examples=12)
def test_rows_read_remotely_are_the_rows_read_locally_in_any_order(
    data: st.DataObject, server: Store, shipped: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    groups, rows = all_of(shipped)
    wanted = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=40)), np.int64)
    open_shards, new = data.draw(st.integers(1, 4)), data.draw(st.booleans())
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fresh") if new else tmp_path_factory.getbasetemp() / "kept"
        patch.setenv("HBDIST_CACHE", str(folder))
        remote_reader = ShardReader(server.manifest(), open_shards=open_shards)
        local_reader = ShardReader(shipped)
        assert remote_reader.read(groups[wanted], rows[wanted]) == local_reader.read(groups[wanted], rows[wanted])
        for group in set(groups[wanted].tolist()):
            of_group = rows[wanted][groups[wanted] == group]
            assert np.array_equal(remote_reader.lengths(group, of_group), local_reader.lengths(group, of_group))


def test_a_remote_manifest_is_the_local_one(store: Store, shipped: Manifest) -> None:
    manifest = store.manifest()
    assert (manifest.fingerprint, manifest.groups) == (shipped.fingerprint, shipped.groups)
    assert str(manifest.root) == store.url


def test_a_shard_is_fetched_once_for_all_readers(store: Store) -> None:
    expected = first_row(store)
    assert store.requests[FIRST] == 1
    assert first_row(store) == expected
    assert store.requests[FIRST] == 1


def test_lengths_download_only_indexes(store: Store) -> None:
    ShardReader(store.manifest()).lengths(0, np.arange(25))
    assert {path for path in store.requests if path.endswith(".tar")} == set()
    assert store.requests["p/ar-ar/000002.index.npy"] == 1


def test_a_remote_reader_that_has_read_can_be_pickled(store: Store) -> None:
    reader = ShardReader(store.manifest())
    expected = reader.read(*all_of(reader.manifest))
    assert pickle.loads(pickle.dumps(reader)).read(*all_of(reader.manifest)) == expected


@pytest.mark.parametrize("faults", [[500, 503], [429], ["cut", "cut"], ["reset"], ["slow"], [408, "cut"]])
def test_transient_faults_are_retried(store: Store, faults: list[str | int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TIMEOUT", 0.5)
    expected, number = first_row(store).id, len(faults)
    shutil.rmtree(ShardReader(store.manifest())._cache.folder)
    store.requests.clear()
    store.faults[FIRST] = list(faults)
    assert first_row(store).id == expected
    assert store.requests[FIRST] == number + 1


@pytest.mark.parametrize(
    ("fault", "cause"),
    [(503, "status 503 Service Unavailable"), ("cut", "ClientPayloadError"), ("slow", "no answer within 0 s")],
)
def test_lasting_faults_are_reported_with_the_shards_address_and_the_cause(
    store: Store, fault: str | int, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TIMEOUT", 0.3)
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    manifest = store.manifest()
    store.faults[FIRST] = [fault, "…"]
    with pytest.raises(StoreError) as error:
        ShardReader(manifest).read(np.array([0]), np.array([0]))
    assert f"{store.url}/{FIRST} could not be fetched in 2 attempts ({cause}" in str(error.value)
    assert store.requests[FIRST] == 2


def test_waits_between_attempts_grow_and_vary(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    monkeypatch.setattr(remote, "ATTEMPTS", 5)
    store.faults[FIRST] = [500, "…"]
    for _ in range(2):
        with pytest.raises(StoreError):
            (locate(store.url) / FIRST).read_bytes()
    for wait, middle in zip(waits, [0.01, 0.02, 0.04, 0.08] * 2, strict=True):
        assert 0.5 * middle <= wait <= 1.5 * middle
    assert waits[:4] != waits[4:]


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "was not found (status 404)"), (403, "may not be read (status 403"), (400, "is refused")],
)
def test_permanent_errors_are_not_retried(store: Store, status: int, message: str) -> None:
    manifest = store.manifest()
    store.faults[FIRST] = [status, "…"]
    with pytest.raises(DataError, match="Correct the") as error:
        ShardReader(manifest).read(np.array([0]), np.array([3]))
    assert f"{store.url}/{FIRST} {message}" in str(error.value)
    assert store.requests[FIRST] == 1


def test_a_missing_remote_shard_is_named_with_its_row(store: Store) -> None:
    manifest = store.manifest()
    store.faults[FIRST] = [404]
    with pytest.raises(DataError, match=r"000000.tar \(wanted: row 3 of p/ar-ar\): "):
        ShardReader(manifest).read(np.array([0]), np.array([3]))


def test_an_altered_remote_shard_is_never_read(store: Store, shipped: Manifest, tmp_path: Path) -> None:
    manifest = store.manifest()
    store.folder = shutil.copytree(shipped.root, tmp_path / "altered")
    path = store.folder / FIRST
    path.write_bytes(path.read_bytes().replace(b"q3 ar", b"q4 ar"))
    with pytest.raises(DataError, match=f"{FIRST} has changed: its SHA-256 is") as error:
        ShardReader(manifest).read(np.array([0]), np.array([3]))
    assert not isinstance(error.value, StoreError), "this error is about the data"
    assert not list(tmp_path.glob("cache/shards/[0-9a-f]*.partial"))


def test_a_shard_that_is_shorter_on_the_store_is_reported_with_both_sizes(
    store: Store, shipped: Manifest, tmp_path: Path
) -> None:
    manifest = store.manifest()
    store.folder = shutil.copytree(shipped.root, tmp_path / "short")
    (store.folder / FIRST).write_bytes((shipped.root / FIRST).read_bytes()[:512])
    with pytest.raises(DataError, match=r"has 512 bytes, the manifest says 20480 \(in 3 attempts\)"):
        ShardReader(manifest).read(np.array([0]), np.array([3]))


def test_replaced_shards_at_the_same_address_are_not_served_from_the_cache(
    store: Store, shipped: Manifest, built: Callable[..., Manifest]
) -> None:
    before = first_row(store)
    store.folder = built().root
    after = first_row(store)
    assert before.query_lang == "ar"
    assert after.query_lang == "de"


def test_a_manifest_with_a_path_as_digest_opens_nothing(store: Store) -> None:
    manifest = store.manifest()
    shards = manifest.groups[0].shards
    object.__setattr__(shards, "sha256", ("../../etc/passwd",) * len(shards.sha256))
    with pytest.raises(DataError, match="expected 64 digits"):
        ShardReader(manifest).read(np.array([0]), np.array([3]))


def test_a_store_that_does_not_answer_stops_even_a_reader_that_skips_damaged_rows(store: Store) -> None:
    manifest = store.manifest()
    store.faults[FIRST] = [500, "…"]
    with pytest.raises(StoreError):
        ShardReader(manifest).read_each(np.array([0]), np.array([3]))


def test_remote_rows_that_cannot_be_read_are_errors_among_the_pairs(store: Store, shipped: Manifest) -> None:
    manifest = store.manifest()
    store.faults[FIRST] = [404]
    groups, rows = np.zeros(4, np.int64), np.array([12, 3, 20, 9])
    results = ShardReader(manifest).read_each(groups, rows)
    expected = ShardReader(shipped).read(groups, rows)
    assert results[::2] == expected[::2]
    assert [f"wanted: row {row} " in str(results[index]) for index, row in ((1, 3), (3, 9))] == [True, True]


def test_a_cache_that_cannot_be_written_is_an_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HBDIST_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="Give HBDIST_CACHE a folder"):
        first_row(store)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("ftp://host/shards", "ftp://; expected a folder or one of http://, https://, s3://, gs://"),
        ("https://", "is not a folder's address"),
        ("https://host/shards?signed", "is not a folder's address"),
    ],
)
def test_an_impossible_address_is_refused(where: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        locate(where)
    assert message in str(error.value)


def test_the_error_for_a_missing_package_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remote.PACKAGES, "gs", "no_such_package")
    with pytest.raises(ConfigError, match="pip install no_such_package"):
        locate("gs://bucket/shards")


def test_folders_of_this_machine_stay_paths() -> None:
    assert locate("a/b") == locate(Path("a/b")) == Path("a/b")
    assert locate("https://host/a/") == Remote("https://host/a")
    assert locate(Remote("s3://bucket/a")) == Remote("s3://bucket/a")


def test_shards_are_read_from_s3(
    store: Store, shipped: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "anyone",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "buckets").mkdir()
    store.folder = tmp_path / "buckets"
    shutil.copytree(shipped.root, store.folder / "bucket" / "shards")
    store.faults[f"bucket/shards/{FIRST}"] = [500, "cut"]
    root = locate("s3://bucket/shards")
    manifest = Manifest.parse((root / "manifest.json").read_bytes(), root)  # type: ignore[arg-type]
    assert ShardReader(manifest).read(*all_of(shipped)) == ShardReader(shipped).read(*all_of(shipped))
    with pytest.raises(DataError, match="s3://bucket/shards/none was not found"):
        (root / "none").read_bytes()


def test_a_remote_folder_can_be_loaded_and_checked(store: Store, shipped: Manifest) -> None:
    assert Manifest.load(store.url).fingerprint == shipped.fingerprint
    report = check(store.url, workers=1)
    assert (report.manifest.rows, report.manifest.fingerprint) == (shipped.rows, shipped.fingerprint)
    assert report.text().startswith(f"{store.url}: 225 pairs")


def test_a_remote_folder_with_damage_is_refused_by_check(store: Store, shipped: Manifest, tmp_path: Path) -> None:
    store.folder = shutil.copytree(shipped.root, tmp_path / "altered")
    path = store.folder / FIRST
    path.write_bytes(path.read_bytes().replace(b"q3 ar", b"q4 ar"))
    (store.folder / "p/ar-de/000001.tar").unlink()
    with pytest.raises(DataError) as error:
        check(store.url, workers=1)
    assert f"{FIRST}: cannot be read: {store.url}/{FIRST} has changed" in str(error.value)
    assert "p/ar-de/000001.tar: cannot be read: " in str(error.value)


def test_check_does_not_blame_the_data_if_the_store_is_down(store: Store) -> None:
    store.faults[FIRST] = [500, "…"]
    with pytest.raises(StoreError):
        check(store.url, workers=2)
