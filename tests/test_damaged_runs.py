"""Run folders with altered, lost or half-made files: a restart ends as the undisturbed run does, or says what is wrong."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launching import ROOT, environment, lines, outcome, train
from whole_runs import main_here

from hbdist.runs import checkpoint

TINY = ["optimizer.lr=1e-3", "batch.size=8", "steps=6", "checkpoint.every=2", "run.log_batches=true"]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    return ["launch/train/demo.toml", "model.dropout=0", *sources, *TINY]


@pytest.fixture(scope="module")
def undisturbed(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = main_here(*tiny, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def killed(undisturbed: Path, tmp_path: Path) -> Path:
    """Make the folder of a run that was killed after its last checkpoint, that of step 6; that of step 4 exists too."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "model")
    (folder / "outcome.json").unlink()
    return folder


def numbers(folder: Path) -> list[tuple[int, float, float]]:
    return [(step["step"], step["loss"], step["grad_norm"]) for step in lines(folder / "metrics.jsonl")]


def assert_the_same_end(folder: Path, other: Path) -> None:
    assert outcome(folder)["state"] == "done"
    assert numbers(folder) == numbers(other)
    assert lines(folder / "batches.jsonl") == lines(other / "batches.jsonl")
    name = "model/model.safetensors"
    assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert not list(folder.rglob(".*"))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_an_altered_checkpoint_gives_way_to_the_one_before_it(tiny: list[str], undisturbed: Path, killed: Path) -> None:
    flip_a_bit(killed / "checkpoints" / "000000006" / "state.pt")
    done = main_here(*tiny, f"run.folder={killed}")
    assert done.returncode == 0, done.stderr
    assert "000000006 cannot be read: state.pt has SHA-256" in done.stdout
    assert "resuming after step 4" in done.stdout
    assert_the_same_end(killed, undisturbed)


@pytest.mark.slow
def test_two_ranks_fall_back_to_the_same_checkpoint(tiny: list[str], undisturbed: Path, killed: Path) -> None:
    flip_a_bit(killed / "checkpoints" / "000000006" / "state.pt")
    done = train(2, *tiny, f"run.folder={killed}")
    assert done.returncode == 0, done.stderr
    assert "resuming after step 4" in done.stdout
    assert [step[0] for step in numbers(killed)] == [1, 2, 3, 4, 5, 6]
    for mine, theirs in zip(numbers(killed), numbers(undisturbed), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)


def test_a_run_without_any_readable_checkpoint_is_refused_and_says_how_to_start_again(
    tiny: list[str], undisturbed: Path, killed: Path
) -> None:
    for name in ("000000004", "000000006"):
        flip_a_bit(killed / "checkpoints" / name / "state.pt")
    done = main_here(*tiny, f"run.folder={killed}")
    assert done.returncode == 2
    assert "None of 2 checkpoints can be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert outcome(killed)["state"] == "invalid"
    (killed / "checkpoints" / "latest").unlink()
    assert main_here(*tiny, f"run.folder={killed}").returncode == 0
    assert_the_same_end(killed, undisturbed)


def test_a_checkpoint_without_checksums_is_resumed_and_that_is_said_once(tiny: list[str], killed: Path) -> None:
    for path in killed.glob(f"checkpoints/*/{checkpoint.CHECKSUMS}"):
        path.unlink()
    done = main_here(*tiny, f"run.folder={killed}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("without checksums") == 1


@pytest.mark.parametrize("what", ["shape", "dtype", "name", "moment"])
def test_a_state_of_another_form_is_refused_before_it_is_loaded(what: str, tiny: list[str], killed: Path) -> None:
    folder = killed / "checkpoints" / "000000006"
    state = torch.load(folder / "state.pt", weights_only=True)
    name = next(name for name, value in state["model"].items() if value.ndim == 2)
    if what == "shape":
        state["moments"][name]["exp_avg"] = torch.zeros(2, 2)
    elif what == "dtype":
        state["moments"][name]["exp_avg_sq"] = state["moments"][name]["exp_avg_sq"].double()
    elif what == "name":
        state["model"]["encoder.other"] = state["model"].pop(name)
    else:
        del state["moments"][name]["exp_avg_sq"]
    torch.save(state, folder / "state.pt")
    (folder / checkpoint.CHECKSUMS).unlink()
    done = main_here(*tiny, f"run.folder={killed}")
    assert done.returncode == 2, done.stderr
    assert "start a new run with run.folder" in done.stderr
    assert outcome(killed)["state"] == "invalid"


def cut_the_last_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def add_rubbish(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\xff{{{\n")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_the_last_line, "metrics.jsonl ends at step 5, and the checkpoint is of step 6"),
        (add_rubbish, "metrics.jsonl: 1 damaged lines at its end are removed"),
        (Path.unlink, "metrics.jsonl ends at step 0, and the checkpoint is of step 6"),
        (lambda path: path.write_bytes(b""), "metrics.jsonl ends at step 0, and the checkpoint is of step 6"),
    ],
)
def test_a_damaged_log_is_named_and_the_run_ends(
    damage: Callable[[Path], object], sentence: str, tiny: list[str], killed: Path
) -> None:
    damage(killed / "metrics.jsonl")
    done = main_here(*tiny, f"run.folder={killed}")
    assert done.returncode == 0, done.stderr
    assert sentence in done.stdout
    assert outcome(killed)["state"] == "done"


def test_a_start_that_fails_early_does_not_leave_the_last_starts_outcome(tiny: list[str], killed: Path) -> None:
    earlier = {"state": "interrupted", "code": 75, "message": "interrupted after step 6"}
    (killed / "outcome.json").write_text(json.dumps(earlier))
    flip_a_bit(killed / "checkpoints" / "000000006" / "state.json")
    flip_a_bit(killed / "checkpoints" / "000000004" / "state.json")
    assert main_here(*tiny, "data.shards=nowhere", f"run.folder={killed}").returncode == 2
    assert outcome(killed)["state"] == "invalid"
    assert "nowhere" in outcome(killed)["message"]


def test_files_that_a_kill_left_are_removed(tiny: list[str], undisturbed: Path, killed: Path) -> None:
    # The names of what a process writes say which process that is; this one has ended.
    ask = "import sys; from pathlib import Path; from hbdist.utils.leftovers import temporary_path\n"
    ask += "for name in sys.argv[1:]: print(temporary_path(Path(name)))"
    names = [killed / "config.toml", killed / "checkpoints" / "latest", killed / "checkpoints" / "000000008"]
    said = subprocess.run([sys.executable, "-c", ask, *names], check=True, capture_output=True, text=True).stdout
    config, latest, checkpoint = said.splitlines()
    Path(config).write_text("half")
    Path(latest).write_text("half")
    shutil.copytree(killed / "checkpoints" / "000000004", checkpoint)
    (killed / "running.json").write_text("{half")
    assert main_here(*tiny, f"run.folder={killed}").returncode == 0
    assert_the_same_end(killed, undisturbed)
    assert not (killed / "running.json").exists()


def test_an_exported_model_has_the_rights_of_any_new_file(tiny: list[str], killed: Path) -> None:
    before = os.umask(0o027)
    try:
        assert main_here(*tiny, f"run.folder={killed}").returncode == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (killed / "model").rglob("*") if path.is_file()} == {0o640}


def test_a_run_with_a_constant_learning_rate_is_extended(tiny: list[str], tmp_path: Path) -> None:
    constant = [*tiny, "optimizer.schedule=constant"]
    assert main_here(*constant, f"run.folder={tmp_path / 'long'}").returncode == 0
    first = main_here(*constant, "steps=3", f"run.folder={tmp_path / 'run'}")
    assert first.returncode == 0, first.stderr
    again = main_here(*constant, "steps=3", f"run.folder={tmp_path / 'run'}")
    assert "is done already. To train it further, start it again with more steps" in again.stdout
    extended = main_here(*constant, f"run.folder={tmp_path / 'run'}")
    assert extended.returncode == 0, extended.stderr
    assert "resuming after step 3" in extended.stdout
    assert_the_same_end(tmp_path / "run", tmp_path / "long")


def test_a_run_with_another_schedule_is_continued_in_a_new_one_from_its_model(
    tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    done = main_here(*tiny, "steps=12", f"run.folder={undisturbed}")
    assert done.returncode == 2
    assert f"model.name={undisturbed}/model run.folder=…" in done.stderr
    new = main_here(*tiny, f"model.name={undisturbed}/model", f"run.folder={tmp_path / 'new'}")
    assert new.returncode == 0, new.stderr


class PowerCuts:
    """Disk that loses what was not synced: names survive (as on a journalling file system), content only if synced.

    After each sync the folder as a power cut would leave it can be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.synced: dict[int, bytes] = {}
        self.after_each_sync: Callable[[], None] = lambda: None
        self._sync = os.fsync

    def fsync(self, number: int) -> None:
        self._sync(number)
        state = os.fstat(number)
        if stat.S_ISREG(state.st_mode):
            self.synced[state.st_ino] = Path(f"/proc/self/fd/{number}").read_bytes()
        self.after_each_sync()

    def left(self, path: Path) -> bytes:
        """Return the content of a file after a power cut now."""
        return self.synced.get(path.stat().st_ino, b"")

    def copy_to(self, target: Path) -> None:
        for path in self.folder.rglob("*"):
            copy = target / path.relative_to(self.folder)
            if path.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            elif path.name != "running.json":  # this process lives on
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(self.left(path))


def test_what_latest_and_the_outcome_promise_survives_a_power_cut(
    tiny: list[str], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    disk, kept, seen = PowerCuts(folder), list[Path](), list[str]()

    def check() -> None:
        latest, ended = folder / "checkpoints" / "latest", folder / "outcome.json"
        if latest.is_file():
            name = disk.left(latest).decode()
            assert name, "latest is empty"
            seen.append(name)
            for file in ("state.pt", "state.json", checkpoint.CHECKSUMS):
                path = folder / "checkpoints" / name / file
                assert disk.left(path) == path.read_bytes()
            logged = disk.left(folder / "metrics.jsonl").count(b"\n")
            assert logged >= int(name)
            if len(kept) < 3 and seen.count(name) == 1:
                kept.append(tmp_path / f"after-{len(kept)}")
                disk.copy_to(kept[-1])
        if ended.is_file():
            seen.append(json.loads(disk.left(ended))["state"])
            for path in (folder / "model").rglob("*"):
                assert path.is_dir() or disk.left(path) == path.read_bytes()

    disk.after_each_sync = check
    monkeypatch.setattr(os, "fsync", disk.fsync)
    assert main_here(*tiny, f"run.folder={folder}").returncode == 0
    monkeypatch.undo()
    assert set(seen) == {"000000002", "000000004", "000000006", "done"}
    for left in kept:
        done = main_here(*tiny, f"run.folder={left}")
        assert done.returncode == 0, done.stderr
        assert "resuming after step" in done.stdout
        assert_the_same_end(left, undisturbed)


def test_a_disk_without_room_is_a_sentence_and_leaves_no_half_checkpoint(
    tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    # A limit on the size of files stands in for a full disk: torch's writer says the same of both.
    folder = tmp_path / "run"
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000,) * 2)\n"
    code += "from hbdist.launch.entry import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, *tiny, f"run.folder={folder}"]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    sentence = rf"{folder}/checkpoints/000000002 cannot be written: .*MB are free in {folder}/checkpoints"
    assert re.search(sentence, done.stderr)
    assert re.search(sentence, outcome(folder)["message"])
    assert not list((folder / "checkpoints").iterdir())
    assert main_here(*tiny, f"run.folder={folder}").returncode == 0
    assert_the_same_end(folder, undisturbed)
