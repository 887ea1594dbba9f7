"""Tasks by the names that `hbdist evaluate --task` takes."""

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
    """A task by its name, read from a folder.

    Args:
        name: one of NAMES.
        folder: of the task's files; unset: data/NAME, where `hbdist data fetch` puts them, or those that ship.
        languages: what a cut will leave, so that nothing else need be read. Cut the task nevertheless.

    Raises:
        ConfigError: there is no task of that name.
        DataError: the folder does not hold the task.
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
        case ["beir" | "parallel" as kind, where] if where:
            if folder:
                raise ConfigError(f"--task {name} names a folder, and --data another, {folder}. Leave out --data.")
            return (load_beir if kind == "beir" else load_parallel)(Path(where))
    raise ConfigError(f"--task {name} is not known. Give one of {', '.join(NAMES)}.")
