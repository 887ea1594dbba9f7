"""Temporary files of killed writers are removed; those of living ones stay."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hbdist.utils.files import write_atomically
from hbdist.utils.leftovers import ABANDONED_AFTER, remove_leftovers, temporary_path

WRITER = """
import sys, time
from pathlib import Path
from hbdist.utils.files import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    print("writing", flush=True)
    time.sleep(600)
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    started = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "writing\n"
    return started


def test_the_file_of_a_killed_writer_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    killed, living = start_writer(tmp_path / "killed"), start_writer(tmp_path / "living")
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2
        remove_leftovers(tmp_path)
        assert [path.name.split(".")[1] for path in tmp_path.iterdir()] == ["living"]
    finally:
        living.kill()
        living.wait()


def test_files_of_other_machines_and_earlier_versions_are_removed_once_they_are_old(tmp_path: Path) -> None:
    for name in (
        ".a.json.0123abcd.partial",
        ".b.json.0123abcd-1-99-0123abcd.partial",
        ".keep.partial",
        ".000000006.partial",
    ):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    long_ago = time.time() - 2 * ABANDONED_AFTER
    for path in tmp_path.iterdir():
        os.utime(path, (long_ago, long_ago))
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".000000006.partial", ".keep.partial"]


def test_folders_and_folders_below_are_searched_if_asked(tmp_path: Path) -> None:
    mine = temporary_path(tmp_path / "below" / "folder")
    mine.mkdir(parents=True)
    other = mine.rename(mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-999999999-")))
    (other / "file").write_text("")
    remove_leftovers(tmp_path)
    assert other.is_dir()
    remove_leftovers(tmp_path, below=True)
    assert not other.exists()
    write_atomically(tmp_path / "whole", "text")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["whole"]
