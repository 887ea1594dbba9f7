"""Checkpoints: complete or absent, and nothing in one can run."""

import itertools
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hbdist.errors import ResumeError
from hbdist.runs.checkpoint import VERSION, Position, best, latest, load, point_at_best, save, steps


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
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


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


def test_latest_that_names_nothing_is_refused_with_a_remedy(saved: Path) -> None:
    (saved / "latest").write_text("000000099", encoding="utf-8")
    with pytest.raises(ResumeError, match=r"names 000000099, which does not exist\. Put an existing checkpoint's name"):
        latest(saved)


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


@pytest.mark.parametrize("values", [[], {"version": VERSION}, {"version": VERSION, "step": 8, "seed": 1}])
def test_an_incomplete_position_is_refused(values: Any, saved: Path) -> None:
    (saved / "000000008" / "state.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ResumeError, match=r"000000008/state\.json (is damaged|contains a list)"):
        load(saved / "000000008")


def test_a_checkpoint_of_another_version_is_refused(saved: Path) -> None:
    path = saved / "000000008" / "state.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"version": VERSION + 1, "something": "new"}
    path.write_text(json.dumps(values), encoding="utf-8")
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
