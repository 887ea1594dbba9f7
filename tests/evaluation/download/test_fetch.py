"""Fetching benchmark data from a server on this machine: files are whole or absent, and their bytes never change unnoticed."""

import gzip
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.download.fetch import CHECKSUMS, fetch
from hbdist.evaluation.download.sources import SOURCES, DataSource, RemoteFile, find_source
from hbdist.evaluation.tasks.miracl import PASSAGES


class Store:
    """Files of the server, and the requests for them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.truncate = False
        """Send half of each file."""


@pytest.fixture
def store() -> Iterator[Store]:
    server_store = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server_store.requests.append(self.path[1:])
            body = server_store.files.get(self.path[1:])
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if server_store.truncate else body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server_store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server_store
    server.shutdown()
    server.server_close()
    thread.join()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source(*files: RemoteFile) -> DataSource:
    return DataSource("made", "CC0", lambda _: list(files))


def test_files_get_the_paths_of_their_source(store, tmp_path):
    store.files = {"a.json": b"{}", "b": b"bytes"}
    files = RemoteFile("a.json", f"{store.url}/a.json", sha256(b"{}")), RemoteFile("deep/b.gz", f"{store.url}/b")
    seen: list[tuple[int, int]] = []
    report = fetch(source(*files), tmp_path / "new" / "made", progress=lambda *args: seen.append(args))
    assert (tmp_path / "new/made/a.json").read_bytes() == b"{}"
    assert (tmp_path / "new/made/deep/b.gz").read_bytes() == b"bytes"
    assert report.fetched == ["a.json", "deep/b.gz"]
    assert seen == [(1, 2), (2, 2)]


def test_every_file_of_xquad_r_and_every_topic_and_qrels_file_of_miracl_has_a_known_checksum():
    for name, languages in (("xquad-r", ["en"]), ("miracl", list(PASSAGES))):
        known = [remote for remote in find_source(name).files(languages) if not remote.path.startswith("miracl-corpus")]
        assert len(known) == {"xquad-r": 11, "miracl": 2 * 18}[name]
        assert all(len(remote.sha256) == 64 for remote in known)


def test_an_unknown_checksum_is_recorded_and_reported(store, tmp_path):
    store.files = {"a": b"one", "b": b"two"}
    files = RemoteFile("a", f"{store.url}/a", sha256(b"one")), RemoteFile("b", f"{store.url}/b")
    report = fetch(source(*files), tmp_path)
    assert report.first_seen == {"b": sha256(b"two")}
    assert sha256(b"two") in report.text()
    assert "no checksum was known of 1" in report.text()
    assert json.loads((tmp_path / CHECKSUMS).read_text())["sha256"]["b"] == sha256(b"two")


def test_unchanged_files_are_not_fetched_again(store, tmp_path):
    store.files = {"a": b"one", "b": b"two"}
    data_source = source(RemoteFile("a", f"{store.url}/a", sha256(b"one")), RemoteFile("b", f"{store.url}/b"))
    fetch(data_source, tmp_path)
    assert fetch(data_source, tmp_path).unchanged == ["a", "b"]
    (tmp_path / "b").write_bytes(b"tw")
    assert fetch(data_source, tmp_path).fetched == ["b"]
    assert store.requests == ["a", "b", "b"]
    assert (tmp_path / "b").read_bytes() == b"two"


def test_a_file_that_changed_at_its_source_is_refused_and_not_kept(store, tmp_path):
    store.files = {"b": b"two"}
    data_source = source(RemoteFile("b", f"{store.url}/b"))
    fetch(data_source, tmp_path)
    (tmp_path / "b").unlink()
    store.files["b"] = b"three"
    with pytest.raises(DataError, match=rf"has sha256 {sha256(b'three')}; expected {sha256(b'two')}.*{CHECKSUMS}"):
        fetch(data_source, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKSUMS]


def test_a_file_that_is_not_the_published_one_is_refused(store, tmp_path):
    store.files = {"a": b"other"}
    with pytest.raises(DataError, match="not the published file"):
        fetch(source(RemoteFile("a", f"{store.url}/a", sha256(b"one"))), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_not_kept(store, tmp_path):
    store.files, store.truncate = {"a": b"x" * 4_000_000}, True
    with pytest.raises(DataError, match=r"cannot be fetched.*put it at"):
        fetch(source(RemoteFile("a", f"{store.url}/a")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_fetch_resumes_with_the_missing_files(store, tmp_path):
    store.files = {"a": b"one"}
    data_source = source(RemoteFile("a", f"{store.url}/a"), RemoteFile("b", f"{store.url}/b"))
    with pytest.raises(DataError, match="/b cannot be fetched: status 404"):
        fetch(data_source, tmp_path)
    store.files["b"] = b"two"
    report = fetch(data_source, tmp_path)
    assert (report.unchanged, report.fetched) == (["a"], ["b"])


def archive(**members: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, text in members.items():
            file.writestr(name.replace("__", "/").replace("_", "."), text)
    return packed.getvalue()


def test_only_the_named_members_of_an_archive_are_kept(store, tmp_path):
    store.files = {"z": archive(top__dev__a_json="A", top__test__a_json="B", top__qrels__c_tsv="C")}
    members = ("dev/a.json", "a.json"), ("qrels/c.tsv", "qrels/c.tsv")
    data_source = source(RemoteFile("z.zip", f"{store.url}/z", members=members))
    fetch(data_source, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        *("a.json", "qrels/c.tsv", CHECKSUMS),
    }
    assert (tmp_path / "a.json").read_text() == "A"
    assert fetch(data_source, tmp_path).unchanged == ["z.zip"]
    (tmp_path / "a.json").write_text("damaged")
    assert fetch(data_source, tmp_path).fetched == ["z.zip"]
    assert (tmp_path / "a.json").read_text() == "A"


def test_files_put_there_by_hand_are_kept_and_recorded_unless_their_checksum_is_wrong(store, tmp_path):
    store.files = {"c": b"right"}
    (tmp_path / "z.zip").write_bytes(archive(top__dev__a_json="A"))
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "c").write_bytes(b"wrong")
    data_source = source(
        RemoteFile("z.zip", f"{store.url}/z", members=(("dev/a.json", "a.json"),)),
        RemoteFile("b", f"{store.url}/b"),
        RemoteFile("c", f"{store.url}/c", sha256(b"right")),
    )
    report = fetch(data_source, tmp_path)
    assert (report.unchanged, report.fetched) == (["z.zip", "b"], ["c"])
    assert set(report.first_seen) == {"z.zip", "b"}
    assert (tmp_path / "a.json").read_text() == "A"
    assert (tmp_path / "c").read_bytes() == b"right"
    assert fetch(data_source, tmp_path).unchanged == ["z.zip", "b", "c"]


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"no archive", "not a zip archive"), (archive(top__b="B"), r"has 0 files whose names end in dev/a\.json")],
)
def test_a_damaged_or_incomplete_archive_is_refused(store, tmp_path, body, message):
    store.files = {"z": body}
    with pytest.raises(DataError, match=message):
        fetch(source(RemoteFile("z.zip", f"{store.url}/z", members=(("dev/a.json", "a.json"),))), tmp_path)
    assert not (tmp_path / "z.zip").exists()


def test_the_error_of_an_unreachable_server_names_the_address(tmp_path):
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:1/a cannot be fetched: .*refused"):
        fetch(source(RemoteFile("a", "http://127.0.0.1:1/a")), tmp_path)


def test_the_error_of_damaged_checksums_names_the_file(tmp_path):
    (tmp_path / CHECKSUMS).write_text("{")
    with pytest.raises(DataError, match=f"{CHECKSUMS} is not JSON"):
        fetch(source(), tmp_path)


def test_miracl_is_fetched_by_language_with_all_files_of_its_corpus():
    miracl = find_source("miracl")
    paths = [file.path for file in miracl.files(["sw", "es"])]
    assert paths[:3] == [
        "topics/topics.miracl-v1.0-sw-dev.tsv",
        "qrels/qrels.miracl-v1.0-sw-dev.tsv",
        "miracl-corpus-v1.0-sw/docs-0.jsonl.gz",
    ]
    assert len(paths) == 2 + 1 + 2 + 21
    assert set(PASSAGES) == set(miracl.languages)


def test_the_files_that_ship_have_the_checksums_of_their_source():
    folder = Path(__file__).parents[3] / "shards" / "demo" / "xquad-r"
    for file in SOURCES["xquad-r"].files(()):
        assert sha256(gzip.decompress((folder / f"{file.path}.gz").read_bytes())) == file.sha256


def test_every_file_of_every_source_has_an_address_and_a_path_of_its_own():
    for name in (*SOURCES, "beir:scifact"):
        files = find_source(name).files(())
        assert len({file.path for file in files}) == len(files)
        assert all(file.url.startswith("https://") for file in files)
        paths = [file.path for file in files] + [path for file in files for _, path in file.members]
        assert not any(Path(path).is_absolute() or ".." in path for path in paths)


@pytest.mark.parametrize(
    ("name", "languages", "message"),
    [
        ("wikihop", (), r"qangaroo_v1\.1\.zip.*wikihop/dev\.json into here"),
        ("miracl", (), "miracl is large; name the languages"),
        ("miracl", ("sw", "xx"), "miracl has no xx"),
        ("xquad-r", ("sw",), "xquad-r is fetched whole"),
        ("other", (), "cannot be fetched. Give one of xquad-r, mlqa-r"),
        ("beir:../x", (), "cannot be fetched"),
    ],
)
def test_the_error_of_data_that_cannot_be_fetched_says_what_to_do(name, languages, message):
    with pytest.raises(ConfigError, match=message):
        fetch(find_source(name), Path("here"), languages=languages)
    assert not Path("here").exists()
