"""Typer application, and the progress bar of its commands."""

from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hbdist import __version__

app = typer.Typer(
    help="Train multilingual dense retrievers with hybrid batches. On several GPUs: accelerate launch hbdist/train.py CONFIG.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Download benchmark data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()
Count = partial(typer.Option, min=1)
"""Option that is a whole number of at least 1."""


def split(text: str | None) -> list[str]:
    """Return the parts of a comma-separated option; [] if it was not given."""
    return text.split(",") if text else []


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"hbdist {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options that are given before the command."""


class Bar:
    """Progress bar on a terminal, or a line for each quarter in a log; called with (done, total)."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> "Bar":
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.progress.start()
        self.task = self.progress.add_task(self.title, total=None)
        self.shown = (self.title, 0)
        return self

    def __call__(self, done: int, total: int, label: str = "") -> None:
        title = f"{self.title} {label}".strip()
        self.progress.update(self.task, completed=done, total=total, description=title)
        # The part of a label after a comma, such as a rate, changes all the time: no reason for a new line.
        shown = (title.partition(",")[0], 4 * done // total if total else 0)
        if not console.is_terminal and shown != self.shown:
            self.shown = shown
            print(f"{title}: {done:,} of {total:,}", flush=True)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
