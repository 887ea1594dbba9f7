"""The command that compares evaluations: compare."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hbdist.cli.app import app, console
from hbdist.errors import ConfigError

BETWEEN = "--with"
"""Stands between the two lists. Not an option: one takes a fixed number of values, and a shell's * gives any number."""


@app.command(context_settings={"ignore_unknown_options": True})
def compare(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="BEFORE... --with AFTER", help="The --out folders of evaluations, one a seed."),
    ],
    out: Annotated[Path | None, typer.Option(help="Also write the differences to this JSON file.")] = None,
) -> None:
    """Say whether two models differ on a task, each evaluated once or with several training seeds."""
    from hbdist.evaluation.comparison import compare_folders
    from hbdist.evaluation.scores import comparison_table
    from hbdist.utils.files import write_atomically

    if out and out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Name the JSON file to write, as {out / 'difference.json'}.")
    found = compare_folders(*split_sides(folders))
    console.print(comparison_table(found))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        print(f"the differences are in {out}")


def split_sides(given: list[str]) -> tuple[list[Path], list[Path]]:
    """The folders before and after BETWEEN.

    Raises:
        ConfigError: it is missing or there twice, a side is empty, or an option is not known.
    """
    unknown = [one for one in given if one.startswith("-") and one != BETWEEN]
    if unknown:
        raise ConfigError(f"{unknown[0]} is not an option of compare. It has {BETWEEN} and --out.")
    place = given.index(BETWEEN) if given.count(BETWEEN) == 1 else 0
    if not 0 < place < len(given) - 1:
        raise ConfigError(
            f"found {' '.join(given)!r}; expected the folders of one model, {BETWEEN} once, and the folders of the other:"
            f" hbdist compare base-1/scores base-2/scores {BETWEEN} mixed-1/scores mixed-2/scores"
        )
    return [Path(one) for one in given[:place]], [Path(one) for one in given[place + 1 :]]
