"""Errors of the disk and killed workers are sentences: what, where, what to do."""

import errno
import os
import signal
from pathlib import Path

import pytest

from hbdist.errors import DataError, RunError, WriteError
from hbdist.utils import workers
from hbdist.utils.files import DISK_ERRORS, naming_disk_errors
from hbdist.utils.workers import map_in_pool


@pytest.mark.parametrize("code", DISK_ERRORS)
def test_an_error_of_the_disk_names_the_file_and_what_to_do(code: int, tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    with (
        pytest.raises(WriteError, match=f"{path} cannot be .*{os.strerror(code)}") as caught,
        naming_disk_errors(tmp_path),
    ):
        raise OSError(code, os.strerror(code), str(path))
    assert str(tmp_path) in str(caught.value).partition(os.strerror(code))[2], "no remedy that names the folder"
    with pytest.raises(WriteError, match=f"{tmp_path} cannot be"), naming_disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "gone"), DataError("No space left on device"), RuntimeError("x")):
        with pytest.raises(type(error)) as caught, naming_disk_errors(tmp_path):
            raise error
        assert caught.value is error


def die_at_two(task: int) -> int:
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def die_with_the_lock(task: int) -> int:
    if task == 2:
        cells = [cell.cell_contents for cell in workers._report.__closure__ or ()]
        next(content for content in cells if hasattr(content, "get_lock")).get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    return sum(1 for _ in workers.counted(range(task)))


@pytest.mark.timeout(60)
def test_a_worker_that_is_killed_while_it_counts_does_not_stop_the_others_for_ever() -> None:
    with pytest.raises(RunError, match="was killed"):
        map_in_pool(die_with_the_lock, [0, 1, 2, 3], workers=2)


def test_a_killed_worker_is_a_sentence() -> None:
    with pytest.raises(RunError, match=r"One of 2 worker processes was killed.*fewer workers"):
        map_in_pool(die_at_two, [0, 1, 2, 3], workers=2)
