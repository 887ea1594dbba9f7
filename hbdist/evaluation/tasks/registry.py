"""Registry of tasks by the names that `hbdist evaluate --task` takes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hbdist.errors import ConfigError
from hbdist.evaluation.tasks.beir import load_beir
from hbdist.evaluation.tasks.miracl import load_miracl
from hbdist.evaluation.tasks.mlqa_r import load_mlqa_r
from hbdist.evaluation.tasks.parallel import load_parallel
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.evaluation.tasks.tydiqa import load_tydiqa
from hbdist.evaluation.tasks.wikihop import load_wikihop
from hbdist.evaluation.tasks.xquad_r import load_xquad_r
from hbdist.utils.files import check_path

_LOADERS: dict[str, Callable[..., RetrievalTask]] = {
    "xquad-r": load_xquad_r,
    "xquad-r:paragraph": partial(load_xquad_r, with_paragraph=True),
    "mlqa-r": load_mlqa_r,
    "miracl": load_miracl,
    "tydiqa": load_tydiqa,
    "wikihop": load_wikihop,
    "wikihop:any": partial(load_wikihop, labels="any"),
}
_FOLDER_LOADERS: dict[str, Callable[[Path], RetrievalTask]] = {"beir": load_beir, "parallel": load_parallel}
NAMES = (*_LOADERS, *(f"{kind}:FOLDER" for kind in _FOLDER_LOADERS))


def load_task(name: str, folder: Path | None = None, *, languages: Sequence[str] = ()) -> RetrievalTask:
    """Return the task of a name, read from a folder.

    Args:
        folder: folder of the task's files; unset: data/NAME, where `hbdist data fetch` puts them, or the files that ship.
        languages: languages that a later cut will keep, so that no others need be read. The task must be cut nevertheless.

    Raises:
        ConfigError: no task has that name.
        DataError: the folder does not have the task's files, or one is damaged.
    """
    kind, _, path = name.partition(":")
    try:
        check_path(folder or Path(path))
    except ValueError as error:
        raise ConfigError(f"--task {name[:60]} cannot be read: {error}. Give the folder of a task.") from None
    if kind in _FOLDER_LOADERS and path:
        if folder:
            raise ConfigError(f"--task {name} names a folder, and --data another, {folder}. Leave out --data.")
        return _FOLDER_LOADERS[kind](Path(path))
    if name not in _LOADERS:
        raise ConfigError(f"--task {name} is not known. Give one of {', '.join(NAMES)}.")
    options: dict[str, Any] = {"folder": folder} if folder else {}
    if name == "miracl":
        options["languages"] = languages
    return _LOADERS[name](**options)
