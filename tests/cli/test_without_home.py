"""A user id without a home folder, as containers give: what needs no cache works, what needs one says how to give it one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, outcome

WITHOUT_NAME = ("unshare", "--user", "--map-user=54321")
"""Start of a command that runs as a user whose id is not in the passwd database; files stay accessible."""


def run_without_home(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a command of hbdist as a user without name and home."""
    homes = ("HOME", "HBDIST_CACHE", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    environment = {name: value for name, value in os.environ.items() if name not in homes} | {"HF_HUB_OFFLINE": "1"}
    if subprocess.run([*WITHOUT_NAME, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no user namespaces")
    command = [*WITHOUT_NAME, sys.executable, "-m", "hbdist", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_evaluation_and_training_need_no_home(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    small = ("--languages", "en,th", "--questions", "2")
    done = run_without_home("evaluate", tiny_model, "--out", tmp_path / "scores", *small)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores" / "report.html").is_file()
    data = (f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "batch.size=8", "steps=1")
    done = run_without_home("train", "launch/train/demo.toml", *data, f"run.folder={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "run")["state"] == "done"


def test_what_needs_a_cache_names_the_variable(tmp_path: Path) -> None:
    done = run_without_home("evaluate", "models/me5-small-demo", "--out", tmp_path, "--languages", "en,th")
    assert done.returncode == 2
    assert "hbdist: A cache is needed, but the user with the id 54321 has no home folder" in done.stderr
    assert "Set the environment variable HBDIST_CACHE" in done.stderr
    assert "Traceback" not in done.stderr
