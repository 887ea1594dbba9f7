"""Fetching benchmark data from a real server on this machine: whole or absent, and always the same bytes."""

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
from hbdist.evaluation.download.fetch import NOTES, fetch
from hbdist.evaluation.download.sources import HOMES, Home, RemoteFile, home_of
from hbdist.evaluation.tasks.miracl import PASSAGES


class Store:
    """What the server has, and what was asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut = False
        """Whether only half of each file comes."""


@pytest.fixture
def store() -> Iterator[Store]:
    kept = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kept.asked.append(self.path[1:])
            body = kept.files.get(self.path[1:])
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if kept.cut else body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def home(*files: RemoteFile) -> Home:
    return Home("made", "CC0", lambda _: list(files))


def test_files_come_to_lie_where_the_home_says(store, tmp_path):
    store.files = {"a.json": b"{}", "b": b"bytes"}
    files = RemoteFile("a.json", f"{store.url}/a.json", sha256(b"{}")), RemoteFile("deep/b.gz", f"{store.url}/b")
    seen: list[tuple[int, int]] = []
    done = fetch(home(*files), tmp_path / "new" / "made", progress=lambda *args: seen.append(args))
    assert (tmp_path / "new/made/a.json").read_bytes() == b"{}"
    assert (tmp_path / "new/made/deep/b.gz").read_bytes() == b"bytes"
    assert done.fetched == ["a.json", "deep/b.gz"]
    assert seen == [(1, 2), (2, 2)]


def test_a_checksum_that_was_not_known_is_noted_and_said(store, tmp_path):
    store.files = {"a": b"one", "b": b"two"}
    files = RemoteFile("a", f"{store.url}/a", sha256(b"one")), RemoteFile("b", f"{store.url}/b")
    done = fetch(home(*files), tmp_path)
    assert done.first_seen == {"b": sha256(b"two")}
    assert sha256(b"two") in done.text()
    assert "no checksum was known of 1" in done.text()
    assert json.loads((tmp_path / NOTES).read_text())["sha256"]["b"] == sha256(b"two")


def test_what_is_there_and_right_is_not_fetched_again(store, tmp_path):
    store.files = {"a": b"one", "b": b"two"}
    made = home(RemoteFile("a", f"{store.url}/a", sha256(b"one")), RemoteFile("b", f"{store.url}/b"))
    fetch(made, tmp_path)
    assert fetch(made, tmp_path).kept == ["a", "b"]
    (tmp_path / "b").write_bytes(b"tw")
    assert fetch(made, tmp_path).fetched == ["b"]
    assert store.asked == ["a", "b", "b"]
    assert (tmp_path / "b").read_bytes() == b"two"


def test_a_file_that_changed_at_its_home_is_refused_and_the_earlier_one_stays_away(store, tmp_path):
    store.files = {"b": b"two"}
    made = home(RemoteFile("b", f"{store.url}/b"))
    fetch(made, tmp_path)
    (tmp_path / "b").unlink()
    store.files["b"] = b"three"
    with pytest.raises(DataError, match=rf"has sha256 {sha256(b'three')}; expected {sha256(b'two')}.*{NOTES}"):
        fetch(made, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NOTES]


def test_a_file_that_is_not_the_published_one_is_refused(store, tmp_path):
    store.files = {"a": b"other"}
    with pytest.raises(DataError, match="not the published file"):
        fetch(home(RemoteFile("a", f"{store.url}/a", sha256(b"one"))), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_comes_in_part_is_not_kept(store, tmp_path):
    store.files, store.cut = {"a": b"x" * 4_000_000}, True
    with pytest.raises(DataError, match=r"cannot be fetched.*put it to"):
        fetch(home(RemoteFile("a", f"{store.url}/a")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_fetch_that_failed_in_the_middle_goes_on_where_it_was(store, tmp_path):
    store.files = {"a": b"one"}
    made = home(RemoteFile("a", f"{store.url}/a"), RemoteFile("b", f"{store.url}/b"))
    with pytest.raises(DataError, match="/b cannot be fetched: status 404"):
        fetch(made, tmp_path)
    store.files["b"] = b"two"
    done = fetch(made, tmp_path)
    assert (done.kept, done.fetched) == (["a"], ["b"])


def archive(**members: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, text in members.items():
            file.writestr(name.replace("__", "/").replace("_", "."), text)
    return packed.getvalue()


def test_of_an_archive_the_named_members_are_kept_alone(store, tmp_path):
    store.files = {"z": archive(top__dev__a_json="A", top__test__a_json="B", top__qrels__c_tsv="C")}
    members = ("dev/a.json", "a.json"), ("qrels/c.tsv", "qrels/c.tsv")
    made = home(RemoteFile("z.zip", f"{store.url}/z", members=members))
    fetch(made, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        *("a.json", "qrels/c.tsv", NOTES),
    }
    assert (tmp_path / "a.json").read_text() == "A"
    assert fetch(made, tmp_path).kept == ["z.zip"]
    (tmp_path / "a.json").write_text("damaged")
    assert fetch(made, tmp_path).fetched == ["z.zip"]
    assert (tmp_path / "a.json").read_text() == "A"


def test_what_was_put_there_by_hand_is_taken_and_noted_unless_it_is_wrong(store, tmp_path):
    store.files = {"c": b"right"}
    (tmp_path / "z.zip").write_bytes(archive(top__dev__a_json="A"))
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "c").write_bytes(b"wrong")
    made = home(
        RemoteFile("z.zip", f"{store.url}/z", members=(("dev/a.json", "a.json"),)),
        RemoteFile("b", f"{store.url}/b"),
        RemoteFile("c", f"{store.url}/c", sha256(b"right")),
    )
    done = fetch(made, tmp_path)
    assert (done.kept, done.fetched) == (["z.zip", "b"], ["c"])
    assert set(done.first_seen) == {"z.zip", "b"}
    assert (tmp_path / "a.json").read_text() == "A"
    assert (tmp_path / "c").read_bytes() == b"right"
    assert fetch(made, tmp_path).kept == ["z.zip", "b", "c"]


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"no archive", "not a zip archive"), (archive(top__b="B"), r"holds 0 files that end in dev/a\.json")],
)
def test_an_archive_that_is_not_what_it_claims_is_refused(store, tmp_path, body, message):
    store.files = {"z": body}
    with pytest.raises(DataError, match=message):
        fetch(home(RemoteFile("z.zip", f"{store.url}/z", members=(("dev/a.json", "a.json"),))), tmp_path)
    assert not (tmp_path / "z.zip").exists()


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:1/a cannot be fetched: .*refused"):
        fetch(home(RemoteFile("a", "http://127.0.0.1:1/a")), tmp_path)


def test_damaged_notes_are_named(tmp_path):
    (tmp_path / NOTES).write_text("{")
    with pytest.raises(DataError, match=f"{NOTES} is damaged"):
        fetch(home(), tmp_path)


def test_miracl_is_fetched_by_language_with_all_files_of_its_corpus():
    miracl = home_of("miracl")
    paths = [file.path for file in miracl.files(["sw", "es"])]
    assert paths[:3] == [
        "topics/topics.miracl-v1.0-sw-dev.tsv",
        "qrels/qrels.miracl-v1.0-sw-dev.tsv",
        "miracl-corpus-v1.0-sw/docs-0.jsonl.gz",
    ]
    assert len(paths) == 2 + 1 + 2 + 21
    assert set(PASSAGES) == set(miracl.languages)


def test_checksums_of_what_ships_are_those_of_its_home():
    folder = Path(__file__).parents[3] / "shards" / "demo" / "xquad-r"
    for file in HOMES["xquad-r"].files(()):
        assert sha256(gzip.decompress((folder / f"{file.path}.gz").read_bytes())) == file.sha256


def test_every_file_of_every_home_has_an_address_and_a_place_of_its_own():
    for name in (*HOMES, "beir:scifact"):
        files = home_of(name).files(())
        assert len({file.path for file in files}) == len(files)
        assert all(file.url.startswith("https://") for file in files)
        places = [file.path for file in files] + [path for file in files for _, path in file.members]
        assert not any(Path(place).is_absolute() or ".." in place for place in places)


@pytest.mark.parametrize(
    ("name", "languages", "message"),
    [
        ("wikihop", (), r"qangaroo_v1\.1\.zip.*wikihop/dev\.json into here"),
        ("miracl", (), "miracl is large; name the languages"),
        ("miracl", ("sw", "xx"), "miracl has no xx"),
        ("xquad-r", ("sw",), "xquad-r is fetched whole"),
        ("other", (), "no data set that can be fetched. Give one of xquad-r, mlqa-r"),
        ("beir:../x", (), "no data set that can be fetched"),
    ],
)
def test_what_cannot_be_fetched_is_said_with_what_to_do(name, languages, message):
    with pytest.raises(ConfigError, match=message):
        fetch(home_of(name), Path("here"), languages=languages)
    assert not Path("here").exists()
