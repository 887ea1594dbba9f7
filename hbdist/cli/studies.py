"""Commands about studies: plan, submit, status, cancel, retry, report."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text
from typer import Argument, Option

from hbdist.cli.app import Count, app, console, split
from hbdist.config.config import parse_override
from hbdist.errors import ConfigError

if TYPE_CHECKING:
    from hbdist.studies.api import Study

study_app = typer.Typer(help="Plan, run and report studies: grids of runs.", no_args_is_help=True)
app.add_typer(study_app, name="study")

StudyPath = Annotated[Path, Argument(metavar="STUDY", help="TOML file of a study, or its folder.")]
Overrides = Annotated[
    list[str] | None,
    Argument(metavar="KEY=VALUE", help="Resources that override those of the study: nodes=4 hours=12."),
]
Cluster = Annotated[
    str | None,
    Option(
        help="slurm, local or debug. Default: that of the study, else slurm within a Slurm job and local elsewhere."
    ),
]
AtOnce = Annotated[int | None, Count(help="Number of runs at the same time. Default: that of the study.")]


@study_app.command()
def plan(
    study: StudyPath,
    gpus: Annotated[str | None, Option(help="Numbers of GPUs: 8,64,1024. Default: those in the study.")] = None,
    tokens_per_second: Annotated[
        float | None, Option(min=1, help="Tokens that one GPU trains on per second. Default: as in the study.")
    ] = None,
) -> None:
    """Estimate time, memory and traffic of a study on clusters of several sizes, by formulas. Starts nothing."""
    from hbdist.studies.cost import plan_text

    counts = [part.strip() for part in split(gpus)]
    if wrong := [part for part in counts if not (part.isascii() and part.isdecimal())]:
        raise ConfigError(f"--gpus {gpus}: {wrong[0]!r} is not a whole number. Write --gpus 8,64,1024.")
    print(plan_text(_load(study), list(map(int, counts)), tokens_per_second), end="")


@study_app.command()
def submit(
    study: StudyPath,
    overrides: Overrides = None,
    cluster: Cluster = None,
    at_once: AtOnce = None,
    set_aside: Annotated[
        bool, Option("--set-aside", help="Move away run folders of an earlier form of the study, and train anew.")
    ] = False,
) -> None:
    """Start missing trainings, evaluations and the report; what is done, waiting or running is left alone."""
    print(_load(study).submit(set_aside=set_aside, **_resources(overrides, cluster, at_once)).text())


@study_app.command()
def retry(study: StudyPath, overrides: Overrides = None, cluster: Cluster = None, at_once: AtOnce = None) -> None:
    """Start what is missing, like submit, and also what has failed."""
    print(_load(study).retry(**_resources(overrides, cluster, at_once)).text())


@study_app.command()
def status(
    study: StudyPath,
    watch: Annotated[
        float | None, Option(min=0.1, help="Seconds between two updates, until all jobs have ended. Default: once.")
    ] = None,
) -> None:
    """Show the progress and scores of each run, why runs failed, and what to try."""
    from hbdist.launch.handle import LIVE
    from hbdist.studies.status import problems, table
    from hbdist.utils.slurm import batched_squeue

    loaded = _load(study)

    def look() -> tuple[Group, bool]:
        with batched_squeue():
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
    """Stop all waiting and running jobs; runs save their state first."""
    stopped = _load(study).cancel()
    print(f"stopped {len(stopped)} jobs; hbdist study submit resumes them" if stopped else "nothing runs")


@study_app.command()
def report(study: StudyPath) -> None:
    """Write report.html, results.csv, report.md and report.tex from the runs there are so far."""
    from hbdist.reports.report import study_report

    print(f"wrote {study_report(_load(study))}")


def _load(study: Path) -> "Study":
    from hbdist.studies.api import Study

    return Study.load(study)


def _resources(overrides: list[str] | None, cluster: str | None, at_once: int | None) -> dict[str, Any]:
    values = dict(map(parse_override, overrides or []))
    return values | ({"cluster": cluster} if cluster else {}) | ({"at_once": at_once} if at_once else {})
