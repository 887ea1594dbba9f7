"""Commands about runs: train, plan, report, doctor."""

import os
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from hbdist.cli.app import Bar, app, console
from hbdist.config.config import Config, split_arguments
from hbdist.errors import ConfigError

ConfigArguments = Annotated[
    list[str] | None,
    Argument(
        metavar="[CONFIG.toml] [key=value]...",
        help="Config file, then values that override it. Default: the demo's config.",
    ),
]

TrainArguments = Annotated[
    list[str] | None,
    Argument(metavar="CONFIG.toml [key=value]...", help="Config file, then values that override it."),
]


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
def train(arguments: TrainArguments = None) -> int:
    """Train one model in this process, or resume it. On several GPUs: accelerate launch hbdist/train.py CONFIG."""
    from hbdist.launch.entry import main

    return main(arguments or [])


@app.command()
def plan(
    arguments: ConfigArguments = None,
    ranks: Annotated[int, Option(min=1, help="Number of ranks (processes) to plan for.")] = 1,
    step: Annotated[
        int | None, Option(min=0, help="Also show the composition of this step's batch, counted from 0.")
    ] = None,
    statistics: Annotated[
        bool, Option("--statistics", help="Also show how much of each language and group the whole run will see.")
    ] = False,
    fit: Annotated[
        bool, Option("--fit", help="Also measure a few training steps, and estimate which sizes fit into memory.")
    ] = False,
    memory: Annotated[
        str | None, Option(help="With --fit: memory per rank, such as 80GB. Default: the memory that is free here.")
    ] = None,
) -> None:
    """Print the arithmetic of a run, and check that it can be made. Without --fit it loads neither model nor torch."""
    from collections import Counter

    from hbdist.data.batching.schedule import Schedule
    from hbdist.data.shards.manifest import Manifest
    from hbdist.distributed.launcher import find_zero
    from hbdist.runs.plan import Plan

    if memory is not None and not fit:
        raise ConfigError(f"--memory {memory} is the memory per rank for --fit, which is missing. Add --fit.")
    if fit:
        from hbdist.memory.estimate import MemoryEstimate, parse_memory

        limit = parse_memory(memory) if memory is not None else None
    config = Config.load(*split_arguments(arguments or []))
    manifest = Manifest.load(config.data.shards)
    zero = find_zero(config.engine, os.environ)
    print(Plan.of(config, manifest, ranks=ranks, zero=zero).text(), end="")
    if statistics:
        from hbdist.data.batching.exposure import run_statistics

        print("\n" + run_statistics(config, manifest).text(), end="")
    if step is not None:
        batch = Schedule.of(config, manifest).batch(step)
        counts = Counter(manifest.groups[group].name for group in batch.group)
        print(f"step {step}: {batch.mono.mean():.0%} monolingual")
        for name, count in counts.most_common():
            print(f"  {count:>6}  {name}")
    if fit:
        print("\nmeasuring a few real steps …", flush=True)
        print(MemoryEstimate.measure(config, manifest, ranks=ranks, memory=limit, zero=zero).text(), end="")


@app.command()
def replay(
    run: Annotated[Path, Argument(help="Folder of a run.")],
    step: Annotated[int, Option(min=1, help="Step to make again, counted from 1 as in the log.")],
) -> None:
    """Make one step of a run again, and show its loss, its gradient by part, and texts whose vectors are not finite."""
    from hbdist.training.replay import replay as make_again

    with Bar("replaying") as bar:
        print(make_again(run, step, progress=bar).text(), end="")


@app.command()
def report(
    path: Annotated[Path, Argument(help="Folder of a run, an evaluation or a study; or a study's TOML file.")],
) -> None:
    """Write report.html, one file with tables and charts; of a study also results.csv, report.md and report.tex."""
    from hbdist.reports.report import report_on

    print(f"wrote {report_on(path)}")


@app.command()
def doctor() -> None:
    """Check what this machine has for training, and say what is missing."""
    from hbdist.cli.doctor import examine

    findings = examine()
    for finding in findings:
        mark, colour = ("ok", "green") if finding.ok else ("--", "yellow") if finding.optional else ("no", "red")
        console.print(f"[{colour}]{mark:>4}[/]  {finding.text}")
    raise typer.Exit(0 if all(finding.ok or finding.optional for finding in findings) else 1)
