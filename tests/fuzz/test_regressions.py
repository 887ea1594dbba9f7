"""Inputs that once brought out an exception of Python or of a library: each is a sentence of ours now."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuzz.campaign import Target, outcome
from fuzz.targets import TARGETS

Content = bytes | Callable[[bytes], bytes]
DEEP, OBJECTS, DIGITS, HALF = b"[" * 1000, b'{"a":' * 1000, b"9" * 5000, b"\\ud800"
LONG = b"x" * 300


def with_value(**changed: Any) -> Callable[[bytes], bytes]:
    """Change values of a JSON object."""
    return lambda content: json.dumps(json.loads(content) | changed).encode()


def first_line(**changed: Any) -> Callable[[bytes], bytes]:
    """Change values of the first of some JSON lines."""

    def change(content: bytes) -> bytes:
        line, _, rest = content.partition(b"\n")
        return json.dumps(json.loads(line) | changed).encode() + b"\n" + rest

    return change


def without(key: str) -> Callable[[bytes], bytes]:
    """Remove a key of a JSON object."""
    return lambda content: json.dumps({k: v for k, v in json.loads(content).items() if k != key}).encode()


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Replace bytes that are there."""

    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new)

    return change


def other_compression(content: bytes) -> bytes:
    """Name a compression that Python's zipfile lacks."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w") as new:
        for name in archive.namelist():
            new.writestr(name, archive.read(name))
    data = bytearray(packed.getvalue())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.find(signature)
        while start >= 0:
            data[start + offset] = 8 + 91
            start = data.find(signature, start + 1)
    return bytes(data)


def recounted(content: bytes) -> bytes:
    """Give the first group of a manifest more rows than 64 bits can count."""
    values = json.loads(content)
    shards = next(group["shards"] for group in values["groups"] if group.get("shards"))
    shards["rows"][0] = 2**64
    return json.dumps(values).encode()


RUN, SCORES = "run", "first/scores.json"
REFUSED: list[tuple[str, str, Content]] = [
    *(("jsonl", "rows.jsonl", one) for one in (DEEP, OBJECTS, b'{"id": %s, "query": "", "document": ""}' % DIGITS)),
    *(("config", "config.toml", one) for one in (b"n = " + DEEP, b"seed = " + DIGITS, b'a = "\xff"')),
    ("config", "config.toml", replaced(b"language_exponent = 0.5", b"language_exponent = 1e18")),
    ("config", "config.toml", replaced(b"language_exponent = 0.5", b"language_exponent = 1" + b"0" * 30)),
    ("config", "config.toml", replaced(b"dataset_exponent = 1.0", b"dataset_exponent = 1e308")),
    ("config", "config.toml", replaced(b'name = "none"', b'name = "%s"' % LONG)),
    ("config", "config.toml", replaced(b'folder = "runs/x"', b'folder = "%s"' % LONG)),
    ("config", "config.toml", replaced(b'shards = ["', b'shards = ["a\\u0000')),
    ("config", "config.toml", replaced(b"steps = 30", b"steps = 9223372036854775807")),
    ("config", "config.toml", replaced(b"size = 12", b"size = 9223372036854775808")),
    *(
        ("override", "words.txt", one)
        for one in (b"model.name =\xc9[]", b"engine.precision=" + DIGITS, b"model.dropout=" + DEEP, b"seed=" + LONG)
    ),
    ("override", "words.txt", b"batch.dataset_exponent=1e+308"),
    ("override", "words.txt", b"batch.language_exponent=1000000000000000000000000000000"),
    ("override", "words.txt", b"model.query_prefix=" + LONG + b"\nrun.folder="),
    *(
        ("study", name, one)
        for name in ("study.toml", "base.toml")
        for one in (b"x = " + DEEP, b"x = " + DIGITS, b"\xff")
    ),
    ("study", "study.toml", replaced(b"[zip.values.first]\n", b'[zip.values]\nx = "mll"\n[zip.values.first]\n')),
    ("study", "study.toml", lambda content: content.partition(b"[zip.values")[0] + b'values = "x"\n'),
    ("study", "study.toml", replaced(b'columns = { recall = "cross_lingual.recall@1" }', b"columns = 3")),
    ("study", "study.toml", replaced(b'columns = { recall = "cross_lingual.recall@1" }', b'columns = "x"')),
    ("study", "study.toml", replaced(b'strategy = ["first", "second"]', b"strategy = { a = 1 }")),
    ("study", "study.toml", replaced(b'strategy = ["first", "second"]', b"strategy = [[{ a = 1 }]]")),
    ("study", "study.toml", replaced(b"seed = 1\n", b"seed = { a = 1 }\n")),
    ("study", "study.toml", replaced(b'"batch.mono_share" = [0.0, 0.5]', b'"batch.mono_share" = [{ a = 1 }]')),
    ("study", "study.toml", replaced(b'name = "made"', b'name = "%s"' % LONG)),
    ("study", "study.toml", replaced(b'folder = "none"', b'folder = "%s"' % LONG)),
    ("study", "study.toml", replaced(b'base = "base.toml"', b'base = "%s"' % LONG)),
    ("study", "study.toml", replaced(b"[zip.values.second]", b"[zip.values.%s]" % LONG)),
    *(
        ("runfiles", f"{RUN}/{name}", one)
        for name in ("outcome.json", "job.json", "model/chosen.json", "checkpoints/000000004/state.json")
        for one in (b"", b"0", b"[]", b"{}"[: 0 if name == "job.json" else 2], b"\xff", DEEP, b'{"step": %s}' % DIGITS)
    ),
    ("runfiles", f"{RUN}/outcome.json", with_value(state="over")),
    ("runfiles", f"{RUN}/job.json", with_value(command="train")),
    ("runfiles", f"{RUN}/job.json", with_value(outcome={"state": 1})),
    *(
        (target, f"{RUN}/{name}", one)
        for target in ("report",)
        for name in ("outcome.json", "environment.json", "evaluation/before/scores.json")
        for one in (b"1", b"[]", b"\xff", DEEP, b'{"message": "%s"}' % HALF)
    ),
    ("report", f"{RUN}/plan.txt", b"\xe4"),
    ("report", f"{RUN}/config.toml", b"steps = 3"),
    ("report", f"{RUN}/environment.json", with_value(packages=" ")),
    ("report", f"{RUN}/environment.json", with_value(world="2")),
    ("report", f"{RUN}/environment.json", with_value(gpus={"a": 1})),
    ("report", f"{RUN}/metrics.jsonl", b"\xa2\n"),
    ("report", f"{RUN}/metrics.jsonl", first_line(masked="x")),
    ("report", f"{RUN}/metrics.jsonl", first_line(mono_share=None)),
    ("report", f"{RUN}/metrics.jsonl", b'{"step": 1, "loss": 2.0}\n'),
    *(("scores", SCORES, without(key)) for key in ("task", "counts", "cut", "by_pair", "by_language", "monolingual")),
    ("scores", SCORES, with_value(bias=5)),
    ("scores", SCORES, with_value(bias={"rank_distance": "x"})),
    ("scores", SCORES, with_value(by_pair=63)),
    ("scores", SCORES, with_value(by_pair={"en-de": {"map": "x"}})),
    ("scores", SCORES, with_value(cross_lingual="x")),
    ("scores", SCORES, with_value(confidence={"level": 5, "draws": 24, "monolingual": {"map": []}})),
    ("scores", SCORES, with_value(counts=5)),
    ("scores", SCORES, with_value(cut={"languages": 3})),
    ("scores", SCORES, with_value(removal={"other": {}})),
    ("scores", SCORES, with_value(task={})),
    ("per_query", "first/ranks.npz", other_compression),
    ("per_query", "first/ranks.npz", lambda content: content[:-30]),
    ("manifest", "shards/manifest.json", DEEP),
    ("manifest-signed", "shards/manifest.json", recounted),
]
ACCEPTED: list[tuple[str, str, Content]] = [
    ("scores", SCORES, with_value(bias=None, monolingual=None, cross_lingual=None, multilingual=None, by_language={})),
    ("scores", SCORES, without("confidence")),
    ("report", f"{RUN}/metrics.jsonl", first_line(loss=float("nan"), later="key")),
    ("report", f"{RUN}/metrics.jsonl", first_line(seconds=0, tokens=0)),
    ("report", f"{RUN}/environment.json", b"{}"),
    # What is no name names no checkpoint: another stands in, and the run says so.
    *(
        ("runfiles", f"{RUN}/checkpoints/{name}", one)
        for name in ("latest", "best")
        for one in (b"\xb0", DIGITS, b"../..", b"000000004\x00", LONG)
    ),
    ("runfiles", f"{RUN}/running.json", b"\xff"),  # a lock that nobody can read is nobody's
    ("runfiles", f"{RUN}/job.json", with_value(later={"key": 1})),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Target, Path]]:
    """Return a target and a fresh copy of its valid files."""
    valid: dict[str, dict[str, bytes]] = {}

    def copy(name: str) -> tuple[Target, Path]:
        target = TARGETS[name]
        if name not in valid:
            folder = tmp_path_factory.mktemp(name)
            target.make(folder)
            paths = [path for path in folder.rglob("*") if path.is_file()]
            valid[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        folder = tmp_path_factory.mktemp(name)
        for file, content in valid[name].items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        return target, folder

    return copy


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_are_accepted(name: str, made: Callable[[str], tuple[Target, Path]]) -> None:
    assert outcome(*made(name)) == "accepted"


def _outcome(name: str, file: str, content: Content, made: Callable[[str], tuple[Target, Path]]) -> str:
    target, folder = made(name)
    path = folder / file
    path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    return outcome(target, folder)


@pytest.mark.parametrize(("name", "file", "content"), REFUSED, ids=lambda one: one if isinstance(one, str) else "")
def test_what_cannot_be_read_is_refused_with_a_sentence(
    name: str, file: str, content: Content, made: Callable[[str], tuple[Target, Path]]
) -> None:
    assert _outcome(name, file, content, made) == "refused"


@pytest.mark.parametrize(("name", "file", "content"), ACCEPTED, ids=lambda one: one if isinstance(one, str) else "")
def test_what_can_be_read_all_the_same_is_read(
    name: str, file: str, content: Content, made: Callable[[str], tuple[Target, Path]]
) -> None:
    assert _outcome(name, file, content, made) == "accepted"
