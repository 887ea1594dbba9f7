"""`python -m hbdist.evaluation` under launchers: the same scores as on one process, and the exit statuses of the contract."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, TIMEOUT, environment

from hbdist.cli import main

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
TWO = ["--config_file", str(ROOT / "launch/accelerate/two.yaml"), "--num_processes", "2"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a task of parallel sentences of many lengths, more than fit in one part."""
    folder = tmp_path_factory.mktemp("sentences")
    for language in ("de", "en"):
        lines = [f"{language} {'word ' * (n * 7 % 11)}number {n}" for n in range(700)]
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n")
    return folder


def launch(launcher: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*launcher, "-m", "hbdist.evaluation", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


@pytest.mark.slow
def test_two_ranks_give_the_scores_of_one_process(sentences: Path, tiny_model: Path, tmp_path: Path) -> None:
    scores = {}
    for name, launcher in (("one", [sys.executable]), ("two", [*ACCELERATE, *TWO])):
        arguments = ["--task", f"parallel:{sentences}", "--questions", "50", "--out", str(tmp_path / name)]
        done = launch(launcher, str(tiny_model), *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("the scores are in") == 1
        found = json.loads((tmp_path / name / "scores.json").read_text())
        scores[name] = {key: value for key, value in found.items() if key != "seconds"}
    assert scores["one"] == scores["two"]
    assert 0 < scores["one"]["cross_lingual"]["recall@1"] < 1


def test_an_error_is_printed_once_for_all_ranks(tiny_model: Path, tmp_path: Path) -> None:
    done = launch(TORCHRUN, str(tiny_model), "--task", f"beir:{tmp_path}", "--out", str(tmp_path / "out"))
    assert done.returncode == 1  # torchrun's own, for whatever its processes end with
    assert done.stderr.count("hbdist: ") == 1
    assert "has no corpus.jsonl" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_status_is_2_for_wrong_input_and_only_rank_0_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, messages in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main(["evaluate", "model", "--out", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("there is no rendezvous address") == messages
        assert main(["evaluate", "model"]) == 2
        assert ("--out" in capsys.readouterr().err) is bool(messages)
