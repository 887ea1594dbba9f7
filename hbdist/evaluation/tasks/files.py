"""Lookup of the files of a task, plain or gzipped."""

from pathlib import Path

from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.errors import DataError


def find_file(folder: Path, *names: str, remedy: str) -> Path:
    """Return the first of these files that the folder has, plain or gzipped.

    Args:
        folder: folder of the task.
        names: paths within the folder, the usual one first.
        remedy: how to get the file, for error messages.

    Raises:
        DataError: the folder has none of them.
    """
    if path := plain_or_gzipped(*(folder / name for name in names)):
        return path
    others = sorted(path.name for path in (folder / names[0]).parent.glob("*"))
    listing = ", ".join(others[:5]) + (" …" if len(others) > 5 else "")
    raise DataError(f"{folder} has no {names[0]}, plain or gzipped; beside it are {listing or 'no files'}. {remedy}")
