"""The entry of a training: mistakes are told before torch is imported, once, in a sentence, also by launchers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, TIMEOUT, environment, outcome, train
from whole_runs import main_here

WITHOUT_TORCH = """
import sys
from hbdist.launch.entry import main
status = main(sys.argv[1:])
print(status, "torch" in sys.modules)
"""


def test_training_without_a_config_is_not_started() -> None:
    done = main_here()
    assert done.returncode == 2
    assert "no config is given. The demo's is launch/train/demo.toml" in done.stderr
    assert "usage: accelerate launch" in done.stderr
    assert main_here("steps=2").returncode == 2, "nor with overrides alone"


@pytest.mark.parametrize(
    "mistake", ["batch.sise=8", "data.shards=nowhere", "engine.deepspeed=nowhere.json", "batch.cross_block=5"]
)
def test_a_mistake_is_told_before_torch_is_imported(mistake: str, tiny_shards: Path, tmp_path: Path) -> None:
    keys = ["launch/train/demo.toml", f"data.shards={tiny_shards}", "batch.size=16", f"run.folder={tmp_path / 'run'}"]
    words = [sys.executable, "-c", WITHOUT_TORCH, *keys, "data.languages=[]", "data.datasets=[]", mistake]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert done.stderr.startswith("hbdist: ")
    assert mistake.partition("=")[0] in done.stderr or mistake.partition("=")[2] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_in_the_data_is_recorded_in_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    keys = ["launch/train/demo.toml", f"data.shards={tmp_path}", f"run.folder={tmp_path / 'run'}"]
    assert main_here(*keys).returncode == 2
    assert outcome(tmp_path / "run")["state"] == "invalid"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"outcome.json"}


def test_a_rank_leaves_its_message_to_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert main_here("launch/train/demo.toml", "batch.sise=8").returncode == 2
    cause = json.loads((tmp_path / "error.json").read_text())["message"]
    assert "unknown key batch.sise" in cause["message"]
    assert cause["extraInfo"]["timestamp"] > 0


@pytest.mark.slow
def test_the_launcher_shows_the_message_and_no_traceback_of_a_rank(tmp_path: Path) -> None:
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    keys = ["launch/train/demo.toml", "data.shards=nowhere", f"run.folder={tmp_path / 'run'}"]
    words = [*launched, str(ROOT / "hbdist/train.py"), *keys]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | environment(), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-3:]
    assert any("traceback : hbdist: nowhere" in line for line in last), done.stderr
    assert "hbdist/launch/entry.py" not in done.stderr


def test_help_lists_the_keys() -> None:
    done = train(1, "--help")
    assert done.returncode == 0
    assert "engine.timeout_s (number, default 60.0)" in done.stdout
