"""Lookup of the files of a task, plain or gzipped; the tables that ship with hbdist."""

from pathlib import Path
from typing import Any

from hbdist.data.formats.lines import plain_or_gzipped
from hbdist.errors import DataError
from hbdist.utils.json_toml import read_toml

TABLES: dict[str, Any] = read_toml(Path(__file__).with_name("tables.toml"))
"""Counts, language codes and templates of the tasks; the file has their legends."""


def find_file(folder: Path, *names: str, remedy: str) -> Path:
    """Return the first of these files that the folder has, plain or gzipped; the usual path comes first.

    Raises:
        DataError: the folder has none of them.
    """
    if path := plain_or_gzipped(*(folder / name for name in names)):
        return path
    others = sorted(path.name for path in (folder / names[0]).parent.glob("*"))
    listing = ", ".join(others[:5]) + (" …" if len(others) > 5 else "")
    raise DataError(f"{folder} has no {names[0]}, plain or gzipped; beside it are {listing or 'no files'}. {remedy}")
