"""job.json: concurrent updates lose nothing, and the files of earlier versions are read."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hbdist.launch import Command, Handle, find_handle
from hbdist.launch.job_state import FILE, NEW, cancel_job, end_job, job_outcome, read_job, reset_job, update_job
from hbdist.runs.outcome import Outcome
from hbdist.utils.processes import process_start

UPDATES = """
import sys
from pathlib import Path
from hbdist.launch.job_state import update_job
for number in range(50):
    update_job(Path(sys.argv[1]), **{f"{sys.argv[2]}-{number}": number})
"""


def handle_of(folder: Path) -> Handle:
    """Write the handle of a local job that this process runs."""
    pid = os.getpid()
    return Handle(folder, "local", str(pid), Command(("plan", "a.toml")), None, time.time(), process_start(pid)).write()


def test_updates_by_several_processes_at_once_are_all_kept(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", UPDATES, str(tmp_path), name]) for name in "abc"]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    values = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert values == NEW | {f"{name}-{number}": number for name in "abc" for number in range(50)}
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_the_first_outcome_stays_unless_the_job_is_cancelled(tmp_path: Path) -> None:
    end_job(tmp_path, Outcome.of_status(75, "interrupted"))
    end_job(tmp_path, Outcome.done("done"))
    assert job_outcome(tmp_path) == Outcome("interrupted", 75, "interrupted")
    cancel_job(tmp_path)
    assert job_outcome(tmp_path) == Outcome("cancelled", 1, "cancelled")


def test_a_job_without_a_folder_records_nothing(tmp_path: Path) -> None:
    end_job(tmp_path / "gone", Outcome.done("done"))
    assert not (tmp_path / "gone").exists()


def test_what_a_job_records_before_its_handle_is_written_is_kept(tmp_path: Path) -> None:
    update_job(tmp_path, checkpoint="000000012")
    assert find_handle(tmp_path) is None
    assert handle_of(tmp_path) == find_handle(tmp_path)
    assert read_job(tmp_path)["checkpoint"] == "000000012"


@pytest.mark.parametrize("state", ["done", "failed", "invalid", "interrupted", "cancelled"])
def test_a_job_that_ended_under_an_earlier_version_keeps_its_state(state: str, tmp_path: Path) -> None:
    handle = handle_of(tmp_path)
    values = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    (tmp_path / FILE).write_text(json.dumps({key: values[key] for key in values if key not in NEW}), encoding="utf-8")
    assert handle.state == "pending"
    (tmp_path / "started.json").write_text('{"ranks": [1]}', encoding="utf-8")
    assert handle.state == "running"
    (tmp_path / "started.json").unlink()
    (tmp_path / "ended.json").write_text(json.dumps({"state": state, "code": 1, "message": "m"}), encoding="utf-8")
    assert (find_handle(tmp_path) or handle).state == state
    assert job_outcome(tmp_path) == Outcome(state, 1, "m")  # type: ignore[arg-type]
    reset_job(tmp_path)
    assert handle.state == "pending"
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
