"""What the README tells a new user to type, typed: in a copy of the repository, with its own runs and shards."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, environment, outcome

RUN_BY_OTHERS = ("make test", "sbatch ")  # it runs this; tests on a real Slurm
QUICK = ["DEMO_TRAIN=steps=2 batch.size=16", "DEMO_EVALUATE=--questions 2 --languages en,th"]
"""The demo with less of everything; what it does is the same."""


def commands() -> list[str]:
    """Every line of the README's shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.split("#")[0].strip()]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git tracks, beside the virtual environment that runs this test."""
    folder = tmp_path_factory.mktemp("readme") / "hbdist"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)  # with its time: make must not find it newer than the installation
    (folder / ".venv").symlink_to(Path(sys.prefix), target_is_directory=True)
    return folder


def run(command: str, folder: Path) -> str:
    """Run one line of the README as a shell would; returns what it printed."""
    quick = " ".join(f"'{setting}'" for setting in QUICK) if command == "make demo" else ""
    done = subprocess.run(
        f"{command} {quick}",
        shell=True,
        cwd=folder,
        env=environment() | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    not (Path(sys.prefix) / ".installed").is_file(), reason="make demo would install into this environment"
)
def test_every_command_of_the_readme_works_in_its_order(copy: Path) -> None:
    printed = {command: run(command, copy) for command in commands() if not command.startswith(RUN_BY_OTHERS)}
    demo = copy / "runs/demo"
    assert "before → after" in printed["make demo"]
    assert "questions cut to 2 a language" in " ".join(printed["make demo"].split())
    assert "<svg" in (demo / "report.html").read_text(encoding="utf-8")
    assert outcome(demo)["state"] == "done"

    again = run("make demo", copy)
    assert "is done already" in again
    assert "reused" in again
