"""The short form of the fault campaign, and what the campaign itself rests on."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.timeout(600)
def test_runs_that_are_hurt_end_as_undisturbed_ones(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "campaign.py"), "--short", "--seed", "4", "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().split("\n")[:-1]]
    ends = {line["scenario"]: line["result"] for line in results}
    assert ends["kill inside a checkpoint"] == ends["kill the launcher"] == "equal", ends
    assert ends["another number of ranks or strategy"] == "close", ends
    assert ends["altered checkpoint"] in ("equal", "refused"), ends
    assert ends["full disk"] in ("equal", "skipped"), ends


INJECTION = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from injection import at_change, die, fail_with
folder = Path(sys.argv[2])
act = die if sys.argv[3] == "die" else fail_with(int(sys.argv[3]))
at_change(folder, 2, act, folder.parent / "struck")
Path("/dev/null").write_text("no change below the folder")
(folder / "first").write_text("1")
(folder / "first").read_text()
(folder / "first").rename(folder / "second")
(folder / "third").write_text("3")
"""


@pytest.mark.parametrize("act", ["die", str(errno.ENOSPC)])
def test_a_fault_strikes_at_exactly_one_change_of_a_file(act: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", INJECTION, str(HERE), str(folder), act], capture_output=True, text=True, check=False
    )
    assert done.returncode == (-9 if act == "die" else 1)
    assert act == "die" or os.strerror(errno.ENOSPC) in done.stderr
    assert [path.name for path in folder.iterdir()] == ["first"]
    assert (tmp_path / "struck").read_text() == "os.rename first\n"
