"""Checkpoints: complete or absent, and nothing in one can run."""

import hashlib
import itertools
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hbdist.errors import NotFiniteError, ResumeError
from hbdist.runs.checkpoint import (
    CHECKSUMS,
    VERSION,
    Position,
    best,
    latest,
    load,
    point_at_best,
    save,
    steps,
    to_resume_from,
)


def position(step: int) -> Position:
    return Position(step, seed=7, fingerprint="abc")


def state(value: float) -> dict[str, Any]:
    """Make a model's parameters and AdamW's moments."""
    model = torch.nn.Linear(3, 2)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, value)
    optimizer = torch.optim.AdamW(model.parameters(), lr=value)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    moments = {
        name: {key: optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")}
        for name, parameter in model.named_parameters()
    }
    return {"model": model.state_dict(), "moments": moments, "updates": 1}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Make a folder with the checkpoints of steps 4 and 8."""
    folder = tmp_path / "checkpoints"
    for step in (4, 8):
        save(folder, position(step), state(step), keep=2)
    return folder


def test_a_saved_checkpoint_is_loaded_unchanged(tmp_path: Path) -> None:
    saved_state = state(0.5)
    target = save(tmp_path / "checkpoints", position(12), saved_state, keep=1)
    assert target == latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "000000012"
    loaded_position, loaded = load(target)
    assert loaded_position == position(12)
    torch.testing.assert_close(loaded, saved_state, rtol=0, atol=0)


def test_a_new_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "not there") is None


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 1000):
        save(tmp_path, position(step), state(step), keep=2)
    assert names(tmp_path) == ["000000006", "000001000", "latest"]


def test_a_folder_whose_name_is_no_step_is_no_checkpoint(saved: Path) -> None:
    """Python takes "²" for a digit, and cannot make a number of it."""
    before = steps(saved)
    shutil.copytree(saved / f"{before[-1]:09d}", saved / "²")
    shutil.copytree(saved / f"{before[-1]:09d}", saved / "0000000٣٣")
    assert steps(saved) == before


def test_a_checkpoint_whose_save_was_killed_does_not_count(saved: Path) -> None:
    partial = saved / ".000000012.partial"
    partial.mkdir()
    (partial / "state.pt").write_bytes(b"half")
    newest = latest(saved)
    assert newest == saved / "000000008"
    assert load(newest)[0] == position(8)
    save(saved, position(12), state(12), keep=2)
    assert names(saved) == ["000000008", "000000012", "latest"]
    assert load(saved / "000000012")[0] == position(12)


FILE_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def is_killed_before(operation: int, action: Callable[[], object]) -> bool:
    """Run `action` in a copy of this process that is killed before its file operation of this number; return False if it has
    fewer."""
    child = os.fork()
    if child == 0:
        count = itertools.count()
        sys.addaudithook(
            lambda event, _: os._exit(9) if event in FILE_OPERATIONS and next(count) == operation else None
        )
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_whenever_a_save_is_killed_latest_names_a_whole_checkpoint_and_the_next_save_works(
    saved: Path, tmp_path: Path
) -> None:
    newest = []
    for operation in itertools.count():
        folder = tmp_path / str(operation)
        shutil.copytree(saved, folder)
        killed = is_killed_before(operation, lambda folder=folder: save(folder, position(12), state(12), keep=2))
        pointed_at = latest(folder)
        assert pointed_at is not None
        newest.append(int(pointed_at.name))
        found, loaded = load(pointed_at)
        assert found == position(newest[-1])
        torch.testing.assert_close(loaded, state(newest[-1]))
        save(folder, position(16), state(16), keep=2)
        assert names(folder) in (["000000008", "000000016", "latest"], ["000000012", "000000016", "latest"])
        if not killed:
            break
    assert newest == sorted(newest)
    assert newest.count(8) > 5
    assert newest.count(12) > 2, "nothing was killed after `latest` was written"


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    assert best(tmp_path) is None
    for step in (2, 4, 6, 8):
        save(tmp_path, position(step), state(step), keep=2)
        if step == 2:
            point_at_best(tmp_path, 2)
    assert steps(tmp_path) == [2, 6, 8]
    assert best(tmp_path) == tmp_path / "000000002"
    point_at_best(tmp_path, 8)
    assert best(tmp_path) == tmp_path / "000000008"
    assert (tmp_path / "best").read_text(encoding="utf-8") == "000000008"


@pytest.mark.parametrize("step", [None, 5])
def test_a_step_without_a_checkpoint_is_not_the_best(step: int | None, saved: Path) -> None:
    for _ in range(2):  # with a best checkpoint, and without one
        point_at_best(saved, step)
        assert best(saved) is None
        assert not (saved / "best").exists()
        point_at_best(saved, 4)
        assert best(saved) == saved / "000000004"
    (saved / "000000004" / "state.json").unlink()
    assert best(saved) is None


def test_steps_are_those_of_complete_checkpoints(saved: Path) -> None:
    for name in ("000000012", "notes", ".000000016.partial"):
        (saved / name).mkdir()
    (saved / "notes" / "state.json").touch()
    assert steps(saved) == [4, 8]


def test_a_checkpoint_that_latest_does_not_name_yet_is_written_again(saved: Path) -> None:
    # Killed between the last two writes: the run resumes from step 4 and reaches step 8 again.
    (saved / "latest").write_text("000000004", encoding="utf-8")
    assert latest(saved) == saved / "000000004"
    assert save(saved, position(8), state(8), keep=2) == latest(saved) == saved / "000000008"
    torch.testing.assert_close(load(saved / "000000008")[1], state(8))


def test_without_latest_the_run_starts_again(saved: Path) -> None:
    (saved / "latest").unlink()
    assert latest(saved) is None


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_started_again_keeps_what_it_saves(keep: int, saved: Path) -> None:
    (saved / "latest").unlink()
    for step in (2, 4, 6):
        assert save(saved, position(step), state(100 + step), keep=keep) == latest(saved)
        torch.testing.assert_close(load(saved / f"{step:09d}")[1], state(100 + step))


def test_the_remedy_for_a_damaged_checkpoint_works(saved: Path) -> None:
    (saved / "000000008" / "state.pt").write_bytes(b"")
    (saved / "latest").write_text("000000004\n", encoding="utf-8")
    assert load(saved / "000000004")[0] == position(4)
    assert latest(saved) == saved / "000000004"
    save(saved, position(8), state(8), keep=1)
    assert load(saved / "000000008")[0] == position(8)


def test_latest_that_names_nothing_gives_the_newest_before_or_is_refused(saved: Path) -> None:
    (saved / "latest").write_text("000000099", encoding="utf-8")
    found, problem = to_resume_from(saved)
    assert [path.name for path in found] == ["000000008", "000000004"]
    assert problem.endswith("names 000000099, which does not exist: 000000008 is the newest before.")
    for path in found:
        shutil.rmtree(path)
    with pytest.raises(ResumeError, match=r"names 000000099, which does not exist\. Put an existing checkpoint's name"):
        latest(saved)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"eight", "000000008\u2028".encode(), b"9" * 5000])
def test_latest_that_is_damaged_gives_the_newest_checkpoint_and_says_so(content: bytes, saved: Path) -> None:
    (saved / "latest").write_bytes(content)
    found, problem = to_resume_from(saved)
    assert [path.name for path in found] == ["000000008", "000000004"]
    assert ("names no checkpoint" in problem) is (content.strip() != b"000000008\xe2\x80\xa8")


@pytest.mark.parametrize("content", ["", "000000099", "nothing"])
def test_best_that_names_nothing_is_no_checkpoint(content: str, saved: Path) -> None:
    (saved / "best").write_text(content, encoding="utf-8")
    assert best(saved) is None
    save(saved, position(12), state(12), keep=1)
    assert names(saved) == ["000000012", "best", "latest"]


@pytest.mark.parametrize("name", ["state.pt", "state.json"])
@pytest.mark.parametrize("damage", ["cut short", "empty", "noise", "gone"])
def test_a_damaged_checkpoint_is_refused_with_a_remedy(name: str, damage: str, saved: Path) -> None:
    path = saved / "000000008" / name
    whole = path.read_bytes()
    path.write_bytes({"cut short": whole[: len(whole) // 2], "noise": bytes(range(256))}.get(damage, b""))
    if damage == "gone":
        path.unlink()
    with pytest.raises(ResumeError, match=r"000000008.*\. Put an older checkpoint's name into .*latest"):
        load(saved / "000000008")


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"version": VERSION},
        {"version": VERSION, "step": 8, "seed": 1},
        {"version": VERSION, "step": "8", "seed": 1, "fingerprint": "abc"},
        {"version": VERSION, "step": 9, "seed": 1, "fingerprint": "abc"},
        {"version": VERSION, "step": 8, "seed": None, "fingerprint": "abc"},
    ],
)
def test_an_incomplete_position_is_refused(values: Any, saved: Path) -> None:
    (saved / "000000008" / CHECKSUMS).unlink()  # as if an earlier version had written it
    (saved / "000000008" / "state.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ResumeError, match=r"000000008/state\.json (is damaged|contains a list)"):
        load(saved / "000000008")


def test_a_checkpoint_of_another_version_is_refused(saved: Path) -> None:
    path = saved / "000000008" / "state.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"version": VERSION + 1, "something": "new"}
    path.write_text(json.dumps(values), encoding="utf-8")
    (path.parent / CHECKSUMS).unlink()
    with pytest.raises(ResumeError, match=f"has version {VERSION + 1}, and this hbdist reads version {VERSION}"):
        load(saved / "000000008")


class Malice:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_nothing_in_a_checkpoint_runs(writer: str, saved: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    with (saved / "000000008" / "state.pt").open("wb") as file:
        if writer == "pickle":
            pickle.dump({"model": Malice(trace)}, file, protocol=2)
        else:
            torch.save({"model": Malice(trace)}, file)
    with pytest.raises(ResumeError, match="000000008 cannot be read"):
        load(saved / "000000008")
    assert not trace.exists()


def mutations(content: bytes, number: int) -> list[bytes]:
    """Return this many altered contents: a bit flipped, a byte replaced, a piece doubled, cut out or zeroed."""
    draw, altered = random.Random(7), []
    for _ in range(number):
        at, length = draw.randrange(len(content)), draw.randint(1, 64)
        piece = content[at : at + length]
        other = {
            "bit": bytes([content[at] ^ (1 << draw.randrange(8))]) + piece[1:],
            "byte": bytes([(content[at] + draw.randint(1, 255)) % 256]) + piece[1:],
            "twice": piece + piece,
            "gone": b"",
            "noise": bytes(byte ^ 0xA5 for byte in piece),
        }[draw.choice(["bit", "byte", "twice", "gone", "noise"])]
        altered.append(content[:at] + other + content[at + length :])
    return altered


@pytest.mark.parametrize("name", ["state.pt", "state.json", CHECKSUMS])
def test_no_altered_byte_of_a_checkpoint_is_loaded(name: str, saved: Path) -> None:
    path = saved / "000000008" / name
    whole = path.read_bytes()
    for altered in mutations(whole, 300):
        path.write_bytes(altered)
        with pytest.raises(ResumeError, match="000000008 cannot be read"):
            load(saved / "000000008")
    path.write_bytes(whole)
    assert load(saved / "000000008")[0] == position(8)


def test_checksums_are_in_the_form_of_sha256sum(saved: Path) -> None:
    folder = saved / "000000008"
    lines = (folder / CHECKSUMS).read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" for name in ("state.pt", "state.json")
    ]


def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_is_loaded(saved: Path) -> None:
    (saved / "000000008" / CHECKSUMS).unlink()
    assert load(saved / "000000008")[0] == position(8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["weight", "moment"])
def test_a_number_that_is_not_finite_is_found_before_a_checkpoint_is_written(
    place: str, bad: float, saved: Path
) -> None:
    whole = state(12)
    tensor = whole["model"]["weight"] if place == "weight" else whole["moments"]["weight"]["exp_avg_sq"]
    tensor[1, 2] = bad
    name = "model weight" if place == "weight" else "moments weight exp_avg_sq"
    with pytest.raises(
        NotFiniteError, match=rf"step 12: {name} has 1 numbers that are not finite, the first at \[1, 2\] of \[2, 3\]"
    ):
        save(saved, position(12), whole, keep=2)
    assert names(saved) == ["000000004", "000000008", "latest"]


def test_a_number_that_is_not_finite_in_an_older_checkpoint_is_found_when_it_is_loaded(saved: Path) -> None:
    folder = saved / "000000008"
    whole = torch.load(folder / "state.pt", weights_only=True)
    whole["model"]["bias"][0] = float("nan")
    torch.save(whole, folder / "state.pt")
    (folder / CHECKSUMS).unlink()
    with pytest.raises(ResumeError, match="000000008 cannot be read: step 8: model bias has 1 numbers"):
        load(folder)
