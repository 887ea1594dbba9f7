"""Registry of tasks by the names that `hbdist evaluate --task` takes."""

from collections.abc import Sequence
from pathlib import Path

from hbdist.errors import ConfigError
from hbdist.evaluation.tasks import miracl, mlqa_r, tydiqa, wikihop, xquad_r
from hbdist.evaluation.tasks.beir import load_beir
from hbdist.evaluation.tasks.parallel import load_parallel
from hbdist.evaluation.tasks.task import RetrievalTask

NAMES = (
    *("xquad-r", "xquad-r:paragraph", "mlqa-r", "miracl", "tydiqa", "wikihop", "wikihop:any"),
    *("beir:FOLDER", "parallel:FOLDER"),
)


def load_task(name: str, folder: Path | None = None, *, languages: Sequence[str] = ()) -> RetrievalTask:
    """Return the task of a name, read from a folder.

    Args:
        name: one of NAMES.
        folder: folder of the task's files; unset: data/NAME, where `hbdist data fetch` puts them, or the files that ship.
        languages: languages that a later cut will keep, so that no others need be read. The task must be cut nevertheless.

    Raises:
        ConfigError: no task has that name.
        DataError: the folder does not have the task's files, or one is damaged.
    """
    match name.split(":", maxsplit=1):
        case ["xquad-r", *variant] if variant in ([], ["paragraph"]):
            return xquad_r.load_xquad_r(folder or xquad_r.DEFAULT_FOLDER, with_paragraph=bool(variant))
        case ["mlqa-r"]:
            return mlqa_r.load_mlqa_r(folder or mlqa_r.DEFAULT_FOLDER)
        case ["miracl"]:
            return miracl.load_miracl(folder or miracl.DEFAULT_FOLDER, languages=languages)
        case ["tydiqa"]:
            return tydiqa.load_tydiqa(folder or tydiqa.DEFAULT_FOLDER)
        case ["wikihop", *variant] if variant in ([], ["any"]):
            return wikihop.load_wikihop(folder or wikihop.DEFAULT_FOLDER, labels="any" if variant else "answer")
        case ["beir" | "parallel" as kind, path] if path:
            if folder:
                raise ConfigError(f"--task {name} names a folder, and --data another, {folder}. Leave out --data.")
            return (load_beir if kind == "beir" else load_parallel)(Path(path))
    raise ConfigError(f"--task {name} is not known. Give one of {', '.join(NAMES)}.")
