"""Logs of a run: what is cut when it resumes, and what is said about damage."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from hbdist.runs import logs
from hbdist.runs.stored import ValidationLine, usable_lines


def line(step: int, **values: Any) -> bytes:
    return json.dumps({"step": step, **values}, ensure_ascii=False).encode() + b"\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(line(step, text="x" * (step % 50)) for step in range(1, 101)))
    return path


def steps(path: Path) -> list[int]:
    return [json.loads(one)["step"] for one in path.read_bytes().split(b"\n")[:-1]]


@pytest.mark.parametrize("block", [1, 7, 64, 2**16])
@pytest.mark.parametrize("step", [0, 1, 50, 99, 100, 1000])
def test_lines_after_the_checkpoint_are_cut(step: int, block: int, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BLOCK", block)
    assert logs.cut(log, step) == (min(step, 100), 0)
    assert steps(log) == list(range(1, min(step, 100) + 1))


def test_a_last_line_without_its_end_is_cut(log: Path) -> None:
    whole = log.read_bytes()
    for length in range(1, len(line(100, text=""))):
        log.write_bytes(whole + line(101)[: min(length, len(line(101)) - 1)])
        assert logs.cut(log, 100) == (100, 0)
        assert log.read_bytes() == whole


@pytest.mark.parametrize(
    "damage",
    [b"{half\n", b"\xff\xff\n", b"[1]\n", b"{}\n", b'{"step": true}\n', b'{"step": "8"}\n', b"\n", b"[" * 9999 + b"\n"],
)
def test_damaged_lines_at_the_end_are_cut_and_counted(damage: bytes, log: Path) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole + damage + line(101) + damage)
    assert logs.cut(log, 100) == (100, 2)
    assert log.read_bytes() == whole


def test_a_log_that_is_shorter_than_the_checkpoint_is_noticed(log: Path) -> None:
    assert logs.cut(log, 120) == (100, 0)
    log.write_bytes(b"")
    assert logs.cut(log, 120) == (0, 0)


def test_only_the_end_of_a_long_log_is_read(log: Path) -> None:
    # Damage before the lines that are cut would otherwise be found.
    log.write_bytes(b"{damaged\n" * 100_000 + log.read_bytes())
    assert logs.cut(log, 90) == (90, 0)


@pytest.mark.parametrize("text", ["a\u2028b", "a\u2029b", "a\x85b", "a\x0bb", "a\x0cb", "a\x1cb"])
def test_a_line_ends_at_a_line_feed_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "batches.jsonl"
    for step in (1, 2, 3):
        logs.append(path, {"step": step, "ids": [text]})
    objects, damaged = logs.read(path)
    assert [one["ids"] for one in objects] == [[text]] * 3
    assert not damaged
    assert logs.cut(path, 2) == (2, 0)
    assert len(logs.read(path)[0]) == 2


def test_a_damaged_line_in_the_middle_is_left_out_and_named(log: Path) -> None:
    content = log.read_bytes().split(b"\n")
    content[41] = content[41][:-3]
    log.write_bytes(b"\n".join(content))
    objects, damaged = logs.read(log)
    assert [one["step"] for one in objects] == [step for step in range(1, 101) if step != 42]
    assert damaged == [f"{log}, line 42 is damaged and left out; expected a JSON object with its step."]


def test_no_damage_of_a_log_raises_anything(log: Path) -> None:
    whole, draw = log.read_bytes(), random.Random(3)
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(content))
            content[at : at + draw.randint(1, 200)] = draw.randbytes(draw.randint(0, 20))
        log.write_bytes(content)
        logs.read(log)
        last, _ = logs.cut(log, 60)
        assert last <= 60


def test_lines_of_another_type_are_named_and_left_out() -> None:
    right = {"step": 2, "loss": {"held out": 1.5}, "skipped": 0, "later": "key"}
    lines = [{"step": 1, "loss": {}}, right, {"step": 3, "loss": 1.5}, {"step": 4, "loss": {"held out": "1.5"}}]
    usable, sentences = usable_lines(ValidationLine, lines, where="validation.jsonl")
    assert usable == [right]
    assert [sentence.partition(" is ")[0] for sentence in sentences] == [
        f"validation.jsonl, step {step}," for step in (1, 3, 4)
    ]
    assert all("left out and measured again" in sentence for sentence in sentences)


def test_a_line_without_its_end_is_damaged_if_a_checkpoint_came_after_it(tmp_path: Path) -> None:
    log = tmp_path / "validation.jsonl"
    for unfinished, damaged in (('{"step": 8, "lo', 0), ('{"step": 4, "lo', 1)):
        log.write_text('{"step": 2}\n' + unfinished, encoding="utf-8")
        assert logs.cut(log, 6) == (2, damaged)
        assert log.read_text(encoding="utf-8") == '{"step": 2}\n'
