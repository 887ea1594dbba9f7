"""Commands about studies: plan, submit, status, cancel, retry, report."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from hbdist.cli.app import app, console
from hbdist.config.config import parse_override
from hbdist.errors import ConfigError

study_app = typer.Typer(help="Grids of runs, and the report on them.", no_args_is_help=True)
app.add_typer(study_app, name="study")

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="A study's TOML file, or its folder.")]
More = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Of the resources: nodes=4 hours=12.")]
Cluster = Annotated[str | None, typer.Option(help="slurm, local or debug, instead of what the study says.")]
AtOnce = Annotated[int | None, typer.Option(min=1, help="How many runs may go on at the same time.")]


@study_app.command()
def plan(
    study: StudyPath,
    gpus: Annotated[str | None, typer.Option(help="Numbers of GPUs to plan for: 8,64,1024.")] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(min=1, help="That one GPU trains on, instead of what the study assumes.")
    ] = None,
) -> None:
    """Print what a study would take on clusters of several sizes: a model, from formulas. Starts nothing."""
    from hbdist.studies.api import Study
    from hbdist.studies.cost import plan_text

    parts = [part.strip() for part in gpus.split(",")] if gpus else []
    if wrong := [part for part in parts if not (part.isascii() and part.isdecimal())]:
        raise ConfigError(f"--gpus {gpus}: {wrong[0]!r} is not a whole number. Write --gpus 8,64,1024.")
    print(plan_text(Study.load(study), [int(part) for part in parts], tokens_per_second), end="")


@study_app.command()
def submit(
    study: StudyPath,
    more: More = None,
    cluster: Cluster = None,
    at_once: AtOnce = None,
    set_aside: Annotated[
        bool, typer.Option("--set-aside", help="Move run folders of an earlier form of the study away.")
    ] = False,
) -> None:
    """Start what is missing: trainings, evaluations, the report. What is done or on its way stays as it is."""
    from hbdist.studies.api import Study

    started = Study.load(study).submit(set_aside=set_aside, **_resources(more, cluster, at_once))
    print(started.text())


@study_app.command()
def retry(study: StudyPath, more: More = None, cluster: Cluster = None, at_once: AtOnce = None) -> None:
    """As submit, with the runs that failed."""
    from hbdist.studies.api import Study

    print(Study.load(study).retry(**_resources(more, cluster, at_once)).text())


@study_app.command()
def status(
    study: StudyPath,
    watch: Annotated[
        float | None, typer.Option(min=0.1, help="Show it anew every so many seconds, until all ended.")
    ] = None,
) -> None:
    """Show how far each run is, what it measures, why it failed, and what to try."""
    from hbdist.launch.handle import LIVE
    from hbdist.studies.api import Study
    from hbdist.studies.status import problems, table
    from hbdist.utils.slurm import asked_together

    loaded = Study.load(study)

    def look() -> tuple[Group, bool]:
        with asked_together():
            statuses = loaded.status()
            live = any(one in LIVE for status in statuses for one in (status.state, *status.measured.values()))
            return Group(table(loaded, statuses), *map(Text, problems(loaded, statuses))), live

    shown, live = look()
    if watch is None:
        console.print(shown)
        return
    with Live(shown, console=console, auto_refresh=False) as view:
        while live:
            time.sleep(watch)
            shown, live = look()
            view.update(shown, refresh=True)


@study_app.command()
def cancel(study: StudyPath) -> None:
    """Stop all that waits or runs; what was trained until then is kept."""
    from hbdist.studies.api import Study

    stopped = Study.load(study).cancel()
    print(f"stopped {len(stopped)} jobs; hbdist study submit goes on where they were" if stopped else "nothing runs")


@study_app.command()
def report(study: StudyPath) -> None:
    """Write report.html, and the tables, from what is there."""
    from hbdist.reports.report import study_report
    from hbdist.studies.api import Study

    print(f"wrote {study_report(Study.load(study))}")


def _resources(more: list[str] | None, cluster: str | None, at_once: int | None) -> dict[str, Any]:
    given = {"cluster": cluster, "at_once": at_once}
    return dict(parse_override(text) for text in more or []) | {
        key: one for key, one in given.items() if one is not None
    }
