"""Folders of an older version, made by make.py at the commit that names the archive, are resumed and read by this one."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import environment

from hbdist.cli import main
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.sample import INDEX_WITHOUT_CHECKSUMS
from hbdist.launch import find_handle
from hbdist.studies.api import Study

ARCHIVE = next(Path(__file__).parent.glob("*.tar.xz"))


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the older version worked, as the current folder: its paths are relative."""
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(tmp_path / "older", filter="data")
    monkeypatch.chdir(tmp_path / "older")
    return tmp_path / "older"


def train(older: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "hbdist", "train", *arguments]
    done = subprocess.run(command, cwd=older, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_killed_run_resumes_with_the_same_batches_and_losses(older: Path) -> None:
    said = train(older, "base.toml", "run.folder=killed")
    assert said.count("built before samples had checksums") == 1
    undisturbed, resumed = older / "finished", older / "killed"
    assert logged(resumed / "batches.jsonl") == logged(undisturbed / "batches.jsonl")
    expected, found = logged(undisturbed / "metrics.jsonl"), logged(resumed / "metrics.jsonl")
    assert [line["step"] for line in found] == list(range(1, 9))
    for key in ("loss", "grad_norm", "accuracy", "lr", "tokens", "masked"):
        assert [line[key] for line in found] == pytest.approx([line[key] for line in expected], rel=1e-5), key
    assert json.loads((resumed / "outcome.json").read_text(encoding="utf-8"))["state"] == "done"


def test_a_finished_run_is_not_trained_again(older: Path) -> None:
    before = (older / "finished/metrics.jsonl").read_bytes()
    assert "is done already" in train(older, "base.toml", "run.folder=finished")
    assert (older / "finished/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("folder", "recipe"), [("shards", "recipe.toml"), ("parallel", "parallel.toml")])
def test_shards_are_sound_and_are_built_again_with_checksums(
    older: Path, folder: str, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", folder]) == 0
    assert "shards were built before samples had checksums" in capsys.readouterr().out
    assert main(["build", recipe, "--out", "again"]) == 0
    assert Manifest.load("again").fingerprint == Manifest.load(folder).fingerprint
    files = sorted(path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    assert files == sorted(path.relative_to("again") for path in Path("again").rglob("*") if path.is_file())
    changed = {path for path in files if Path(folder, path).read_bytes() != Path("again", path).read_bytes()}
    indexes = {path for path in files if path.name.endswith(".index.npy")}
    assert changed - indexes <= {path for path in files if path.suffix == ".json"}  # which counts more than it did
    assert indexes <= changed
    columns = list(INDEX_WITHOUT_CHECKSUMS.names or ())
    assert all((np.load(Path(folder, one)) == np.load(Path("again", one))[columns]).all() for one in indexes)


def test_jobs_keep_the_state_in_which_they_ended(older: Path) -> None:
    states = {folder.name: find_handle(folder) for folder in (older / "jobs").iterdir() if folder.name != "submissions"}
    found = {name: handle.state if handle else None for name, handle in states.items()}
    assert found == {"cancelled": "cancelled", "done": "done", "invalid": "invalid", "trained": "done"}


def test_a_study_is_complete_and_nothing_of_it_is_started_again(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("study-file.toml", "study"):
        study = Study.load(path)
        assert [status.state for status in study.status()] == ["done", "done"]
        assert not study.missing()
    (older / "study/report.html").touch()  # the archive is kept small and has none
    assert main(["study", "submit", "study", "--cluster", "debug"]) == 0
    assert "nothing to start" in capsys.readouterr().out
    assert main(["study", "report", "study"]) == 0
    page = (older / "study/report.html").read_text(encoding="utf-8")
    assert "batch.mono_share" in page


def test_scores_and_kept_positions_of_an_evaluation_are_compared_with(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--task", "parallel:sentences", "--out", "now", "--before", "finished/scores"]
    assert main(["evaluate", "finished/model", *arguments]) == 0
    assert "Not comparable" not in capsys.readouterr().out
    scores = {}
    for folder in ("finished/scores", "now"):
        values = json.loads((older / folder / "scores.json").read_text(encoding="utf-8"))
        # Where texts are cut, and what says so, is new: models are evaluated as they were exported. So is the count of groups.
        new = ("max_tokens", "model_fingerprint", "confidence", "not_measured")
        scores[folder] = {key: value for key, value in values.items() if key not in ("seconds", "model", *new)}
    assert scores["now"] == scores["finished/scores"]
    assert main(["compare", "finished/scores", "--with", "now"]) == 0


def test_a_report_is_written_of_an_older_run(older: Path) -> None:
    assert main(["report", "finished"]) == 0
    assert "<svg" in (older / "finished/report.html").read_text(encoding="utf-8")
